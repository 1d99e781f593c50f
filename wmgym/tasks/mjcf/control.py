"""What a step of an env does to its compiled model: how actions reach the actuators, and for how long.

Nothing says so but the env's own code. It is tried with random actions, and taken where the actuators get a
fixed multiple of the actions plus a constant.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from wmgym.tasks import actions
from wmgym.tasks.actions import ActionSpace
from wmgym.tasks.mjcf.simulation import physical_state, simulation

_TRIED, _EPISODE = 64, 16  # steps
_EXACT = 1e-6  # of the largest control
_DIGITS = 9
_MOVING = re.compile(r"(body|jnt|dof|geom|actuator|tendon|eq|pair|hfield|flex|wrap|qpos)(_|0)")
_DERIVED = re.compile(
    r"_(rgba|matid|user|group|plugin|sameframe|simple|subtreemass|rbound|aabb|bvh\w*|size_\w*|\w*num|\w*adr"
    r"|\w*id|invweight0|M0|acc0|length0|cranklength|texcoord\w*)$"
)  # what is only seen, or follows from the rest
_OPTIONS = ("gravity", "wind", "magnetic", "density", "viscosity", "disableflags", "enableflags")
_SHOWN = 4  # names in a message


@dataclass(frozen=True)
class Control:
    """How actions become controls.

    Attributes:
        skip: MuJoCo steps of an env step.
        factor: ``(width of an action, nu)``; None hands actions on as they are.
        offset: ``(nu,)``.
    """

    skip: int
    factor: np.ndarray | None = None
    offset: np.ndarray | None = None

    def of(self, action: np.ndarray) -> np.ndarray:
        """Controls ``(..., nu)`` float64 of actions ``(..., width)`` as networks see them."""
        given = np.asarray(action, np.float64)
        return given if self.factor is None else given @ self.factor + self.offset


@dataclass(frozen=True)
class Tried:
    """Steps of a live env under random actions, all of the model that it has now.

    Attributes:
        control: how its actions become controls.
        states: ``(n, k)`` physical states before each.
        after: ``(n, k)`` and after.
        actions: ``(n, width)`` as networks see them.
        besides: what else decides the env's steps, by its names in MuJoCo.
    """

    control: Control
    states: np.ndarray
    after: np.ndarray
    actions: np.ndarray
    besides: tuple[str, ...]


def try_control(env: gym.Env[Any, Any], space: ActionSpace) -> Tried:
    """Step a live MuJoCo env at random, and see what its actuators get.

    Raises:
        ValueError: something else than a multiple of the action and a constant, or for a varying time.
    """
    found = simulation(env)
    assert found is not None  # the caller has seen its model
    model = found[0]
    rng = np.random.default_rng(0)
    given = actions.uniform(space, rng, _TRIED)
    seen = actions.encoded(space, given)
    rows: list[tuple[np.ndarray, np.ndarray, np.ndarray, float]] = []
    over, traits, differs, began_at, besides = True, None, set[str](), 0, set[str]()
    for k, each in enumerate(given):
        if over or k % _EPISODE == 0:
            env.reset(seed=int(rng.integers(2**31)))
            found = simulation(env)
            assert found is not None
            now, began_at = _traits(found[0]), k
            traits = traits or now
            differs |= {name for name, value in now.items() if not np.array_equal(value, traits[name])}
        data = found[1]  # an env may make a new one at every reset
        before, began = physical_state(data), float(data.time)
        _, _, terminated, truncated, _ = env.step(each)
        over = terminated or truncated
        besides |= _besides(*found)
        ctrl = np.array(data.ctrl, np.float64)
        rows.append((before, physical_state(data), ctrl, float(data.time) - began))
    if differs:
        listed = sorted(differs)
        more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
        warnings.warn(
            f"the model of {type(env.unwrapped).__name__} changes from episode to episode "
            f"({', '.join(listed[:_SHOWN])}{more}); it is stepped as one reset left it",
            stacklevel=2,
        )
    states, after, controls, times = (np.array(column) for column in zip(*rows, strict=True))
    who = type(env.unwrapped).__name__
    skips = times / model.opt.timestep
    skip = round(float(np.median(skips)))
    if skip < 1 or np.abs(skips - skip).max() > 1e-3:
        raise ValueError(
            f"steps of {who} are not all as long, which a step of its model leaves out; {_INSTEAD}"
        )
    design = np.concatenate([seen, np.ones((len(seen), 1))], 1)
    solved = np.linalg.lstsq(design, controls, rcond=None)[0].round(_DIGITS)
    off = np.abs(design @ solved - controls).max(0, initial=0.0)
    wrong = off > _EXACT * max(1.0, float(np.abs(controls).max(initial=0.0)))
    if wrong.any():
        name = model.actuator(int(np.flatnonzero(wrong)[0])).name or "an actuator"
        raise ValueError(
            f"{who} does not hand its actions on to {name} as they are, or scaled, so that its model alone "
            f"cannot stand for it; {_INSTEAD}"
        )
    last = slice(began_at if differs else 0, None)  # of the model as it is now
    tried = states[last], after[last], seen[last], tuple(sorted(besides))
    plain = solved.shape[0] - 1 == solved.shape[1] and np.array_equal(solved[:-1], np.eye(solved.shape[1]))
    if plain and not solved[-1].any():
        return Tried(Control(skip), *tried)
    return Tried(Control(skip, solved[:-1], solved[-1]), *tried)


def _traits(model: Any) -> dict[str, np.ndarray]:
    """What of a model decides its motion, copied."""
    solid = (model.geom_contype | model.geom_conaffinity) != 0
    found = {f"opt.{name}": np.array(getattr(model.opt, name)) for name in _OPTIONS}
    for name in dir(model):
        if _MOVING.match(name) and not _DERIVED.search(name):
            value = getattr(model, name)
            if isinstance(value, np.ndarray):
                found[name] = (
                    value[solid] if name.startswith("geom_") and len(value) == len(solid) else value.copy()
                )
    return found


def _besides(model: Any, data: Any) -> set[str]:
    """What beside state and controls decides a step, by its names in MuJoCo."""
    found = {f"mjData.{name}" for name in ("qfrc_applied", "xfrc_applied") if np.any(getattr(data, name))}
    if np.any(data.eq_active != model.eq_active0):
        found.add("mjData.eq_active")
    if getattr(model, "nhistory", 0):
        found.add("mjData.history")
    return found


_INSTEAD = "take a learned world of it (wmgym.fit) as the simulator"
