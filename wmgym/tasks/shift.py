"""A robot that is not the simulator: what of it is changed, as values. Importing this loads no MuJoCo."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import gymnasium as gym

from wmgym.io.arguments import keywords, number, short, whole_number
from wmgym.tasks.real_env import explaining, make_or_explain

SHIFTED = "wmgym/Shifted-v0"
"""Id of the changed robot; its keyword ``env_id`` names the robot that was changed."""

_LEAST, _MOST = 1e-6, 1e6
"""Factors and amounts beyond which MuJoCo's arithmetic gives out, far from any robot."""
_FAR, _LATE = 1e3, 10_000  # metres of a payload, env steps of a delay


@dataclass(frozen=True)
class Shift:
    """How a robot differs from its nominal model; the defaults change nothing.

    Attributes:
        friction: factor on the friction of every geom.
        mass: factor on mass and inertia of every body.
        payload: kilograms added to the first moving body, as a point.
        payload_at: where, metres in that body's frame; at its origin, a payload on an arm's first link lies
            in the joint and changes little.
        gear: factor on the strength of every actuator; a servo still goes where it is told, with less force.
        damping: factor on the damping of every joint.
        slope: degrees by which the ground rises along x; gravity turns, the ground stays.
        delay: env steps by which a command reaches the actuators late; they hold zero until the first does.
        backlash: play between command and actuator: an actuator follows only where the command is further
            away than this share of half its range, and then at that distance.
        sensor_noise: standard deviation of Gaussian noise on the observation, in its own units. States of
            the v5 tasks are then read from it, as on a real robot; those of other robots stay MuJoCo's.
    """

    friction: float = 1.0
    mass: float = 1.0
    payload: float = 0.0
    payload_at: tuple[float, ...] = (0.0, 0.0, 0.0)
    gear: float = 1.0
    damping: float = 1.0
    slope: float = 0.0
    delay: int = 0
    backlash: float = 0.0
    sensor_noise: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what no robot can be."""
        for each in fields(self):
            object.__setattr__(self, each.name, _plain(each.name, getattr(self, each.name)))
        for name in ("friction", "mass", "gear", "damping"):
            if not _LEAST <= getattr(self, name) <= _MOST:
                raise ValueError(f"{name} is a factor from 1e-6 to 1e6, got {getattr(self, name)}")
        for name in ("payload", "backlash", "sensor_noise"):
            if not 0 <= getattr(self, name) <= _MOST:
                raise ValueError(f"{name} must be from 0 to 1e6, got {getattr(self, name)}")
        if self.delay > _LATE:
            raise ValueError(f"delay takes at most {_LATE:,} env steps, got {short(self.delay)}")
        if not abs(self.slope) < 90:
            raise ValueError(f"slope takes less than 90 degrees, got {self.slope}")

    @property
    def symmetric(self) -> bool:
        """Whether a robot that is its own mirror image still is."""
        return self.slope == 0 and (self.payload == 0 or not any(self.payload_at))

    def changes(self) -> dict[str, Any]:
        """What differs from the defaults, by name: JSON values."""
        same = asdict(Shift())
        found = {name: value for name, value in asdict(self).items() if value != same[name]}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def _plain(name: str, value: Any) -> Any:
    """A change as a plain value, which goes into JSON, of NumPy's and torch's numbers too."""
    if name == "delay":
        return whole_number(name, value, least=0)
    if name == "payload_at":
        return _metres(value)
    found = number(name, value)
    return value if type(value) is int else found  # as it was written


def _metres(value: Any) -> tuple[float, ...]:
    try:
        found = tuple(number("payload_at", x) for x in value) if isinstance(value, Iterable) else ()
    except ValueError:
        found = ()
    if len(found) != 3 or not all(abs(x) <= _FAR for x in found):
        raise ValueError(f"payload_at takes three metres, each from -1000 to 1000, got {short(value)}")
    return found


def shift_of(changes: Mapping[str, Any]) -> Shift:
    """A ``Shift`` of keywords that a caller gave.

    Raises:
        TypeError: a change of another name.
    """
    names = [each.name for each in fields(Shift)]
    if unknown := [name for name in changes if name not in names]:
        raise TypeError(
            f"a robot has no change called {', '.join(unknown)}; there are {', '.join(names)}, and "
            "env_kwargs for keywords of the env itself"
        )
    return Shift(**changes)


def nominal_limit(env_id: str, kwargs: Mapping[str, Any]) -> int | None:
    """The time limit of the robot that was changed, where ``env_id`` is the changed robot's."""
    if env_id != SHIFTED:
        return None
    return gym.spec(str(kwargs["env_id"]).rpartition(":")[2]).max_episode_steps


_SETS: dict[str, dict[str, dict[str, Any]]] = {
    "mild": {
        "mass +10 %": {"mass": 1.1},
        "friction x0.8": {"friction": 0.8},
        "gear x0.9": {"gear": 0.9},
    },
    "strong": {
        "mass +50 %": {"mass": 1.5},
        "friction x0.3": {"friction": 0.3},
        "gear x0.7": {"gear": 0.7},
        "damping x3": {"damping": 3.0},
        "slope 5 degrees": {"slope": 5.0},
    },
    "unmodelled": {
        "delay 2 steps": {"delay": 2},
        "backlash 0.2": {"backlash": 0.2},
        "payload off centre": {"payload": 1.0, "payload_at": [0.15, 0.0, 0.2]},
    },
}


def shifts(name: str) -> dict[str, dict[str, Any]]:
    """Keywords of ``shift`` by what they do: a set called "mild", "strong" or "unmodelled".

    Those of "unmodelled" lie outside what scaling the nominal model's masses, frictions, gears and dampings
    can express.

    Raises:
        ValueError: there is no such set.
    """
    if name not in _SETS:
        raise ValueError(f"no set of shifts is called {name!r}; there are {', '.join(_SETS)}")
    return {what: dict(changes) for what, changes in _SETS[name].items()}


def shift(env_id: str, *, env_kwargs: Mapping[str, Any] | None = None, **changes: Any) -> gym.Env[Any, Any]:
    """A Gymnasium env of a changed robot: another ``mjModel``, and another way from command to actuator.

    It has the spaces, the reward, the termination and the time limit of the nominal env, and goes wherever an
    env goes: its spec names the changes, so transitions, worlds and reports that come from it do too. From
    the command line it is ``wmgym/Shifted-v0`` with ``--env-kwargs '{"env_id": "Hopper-v5", ...}'``.

    Args:
        env_id: of a MuJoCo env of Gymnasium's kind.
        env_kwargs: further keywords of that env.
        changes: fields of ``Shift``: friction, mass, payload, payload_at, gear, damping, slope, delay,
            backlash, sensor_noise. ``wmgym.shifts`` names sets of them.

    Raises:
        ValueError: no MuJoCo env of Gymnasium's kind, changes that no robot can have, or ``env_kwargs`` with
            which the env cannot be made.
        TypeError: a change of another name.
    """
    if not isinstance(env_id, str):
        raise ValueError(
            f"shift takes the id of an env, got {type(env_id).__name__}; register a class of your own "
            "(gymnasium.register) and pass that id"
        )
    given = shift_of(changes).changes()
    if env_kwargs is not None and (own := keywords("env_kwargs", env_kwargs)):
        given["env_kwargs"] = own
    module, _, name = env_id.rpartition(":")
    with explaining(env_id):
        if module:
            importlib.import_module(module)
        limit = gym.spec(name).max_episode_steps
    return make_or_explain(SHIFTED, {"max_episode_steps": limit, "env_id": env_id, **given})
