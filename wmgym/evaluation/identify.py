"""What parameters of a nominal model explain a robot's log, and what they leave unexplained."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from wmgym.data.layouts import READ_AS, refuse_unlike, settled_as
from wmgym.data.robot_log import refuse_no_log
from wmgym.data.transitions import Transitions
from wmgym.io.arguments import whole_number
from wmgym.io.schema import STRICT
from wmgym.models.drive import PASSES, WORTH, Drive, DriveSearch, half_ranges
from wmgym.models.state_unit import state_unit
from wmgym.tasks.actions import encoded, first
from wmgym.tasks.shift import shift
from wmgym.tasks.task import EnvFactory, Task, alike, make_task

if TYPE_CHECKING:
    from wmgym.tasks.sysid import Estimate, Stepper  # imports MuJoCo

DRIVE = "drive"
"""What to look for beside fields of ``Shift``: a delay and play."""

_WINDOWS, _STEPS = 150, 4
_FEWEST = 20  # windows, where they are dear
_WORK = 30_000  # at most, in windows times the square of the joints, which is what a step costs
_TURNS = 5  # of a drive given parameters, and parameters given it
_EXACT = 0.01  # of the nominal model's error, with which nothing is left to explain
_AT_END = 1e-3  # of its range
_SHARE = 0.2  # of a parameter's value, beyond which a half-width says that it is not identified


@dataclass(frozen=True)
class Parameter:
    """One identified parameter, a field of ``Shift``.

    Attributes:
        name: the field.
        value: its estimate.
        half_width: of its 95 % interval; None where the data say nothing of it.
        identified: whether that is small against the value, or for a slope, against a degree, and the value
            not at an end of the range in which it is looked for.
    """

    __pydantic_config__ = STRICT

    name: str
    value: float
    half_width: float | None
    identified: bool


@dataclass(frozen=True)
class Identification:
    """A nominal model's parameters as a robot's log has them.

    The intervals follow from the curvature at the optimum, as if what is left were noise. Where it is
    something else, a delay for instance, they are too narrow. What the log cannot tell apart (twice the mass,
    gear and damping move alike) is not identified, and as little of it is changed as the log allows.

    Attributes:
        env_id: the nominal robot; empty where a function makes it.
        env_kwargs: its keywords.
        parameters: one for each that was looked for.
        error_before: root mean squared error of windows of the log in the nominal model, in std.
        error: with the identified parameters and drive: what none of them explains.
        delay: env steps by which commands act late.
        backlash: play, as ``Shift`` has it.
    """

    env_id: str
    env_kwargs: dict[str, Any]
    parameters: tuple[Parameter, ...]
    error_before: float
    error: float
    delay: int = 0
    backlash: float = 0.0

    @property
    def changes(self) -> dict[str, float]:
        """Keywords of ``shift`` that make the identified robot."""
        found = {each.name: each.value for each in self.parameters}
        drive = {"delay": self.delay, "backlash": self.backlash}
        return found | {name: value for name, value in drive.items() if value}

    def simulator(self) -> gym.Env[Any, Any]:
        """The identified robot as an env.

        Raises:
            ValueError: a function makes the nominal robot.
        """
        if not self.env_id:
            raise ValueError(
                "a function makes the nominal env, and only an env with an id can be changed; register it "
                "(gymnasium.register) and identify by that id"
            )
        return shift(self.env_id, env_kwargs=self.env_kwargs, **self.changes)

    def __str__(self) -> str:
        """A line for each parameter, and what is left."""
        lines = []
        for each in self.parameters:
            width = "unknown" if each.half_width is None else f"{each.half_width:.2g}"
            lines.append(
                f"{each.name} {each.value:.3f} +- {width}" + ("" if each.identified else ", not identifiable")
            )
        if sum(not each.identified for each in self.parameters) > 1:
            lines.append("of what is not identifiable, as little as possible was changed; look for fewer")
        if self.delay or self.backlash:
            lines.append(f"delay {self.delay} steps, backlash {self.backlash:.3f}")
        lines.append(f"error {self.error_before:.4f} -> {self.error:.4f} std")
        return "\n".join(lines)


def identify(
    log: Transitions,
    nominal: str | gym.Env[Any, Any] | EnvFactory | Task,
    parameters: Sequence[str] = ("friction", "mass", "gear", "damping", "slope", DRIVE),
    *,
    seed: int = 0,
) -> Identification:
    """Identify parameters of a nominal MuJoCo model from a robot's log, with ``mujoco.sysid``.

    With "drive" among them, a delay and play between commands and actuators are looked for as well: the drive
    given the parameters and the parameters given the drive, in turn, since weaker motors and more friction
    explain some of a delay. It is taken only where, with parameters of its own, it halves the error.

    Args:
        log: transitions of the robot.
        nominal: the robot as it should be: an id, an env, a function that makes one, or a task.
        parameters: fields of ``Shift`` to look for, and "drive"; the others stay as they are.
        seed: decides which windows of the log are used.

    Raises:
        ValueError: another robot, an unknown parameter, or a seed that is no whole number.
        ImportError: what ``mujoco.sysid`` imports is missing: ``pip install 'wmgym[sysid]'``.
    """
    from wmgym.tasks.sysid import BOUNDS, estimate

    refuse_no_log(log, "identify")
    seed = whole_number("seed", seed, least=0)
    parameters = (parameters,) if isinstance(parameters, str) else parameters
    task = nominal if isinstance(nominal, Task) else make_task(nominal)
    refuse_unlike(log.task, task)
    task = settled_as(task, log.task)
    if task.core.to_mujoco is None or not alike(task, log.task):
        raise ValueError(
            f"the log is not of {task.env_id!r}, or that does not say how its state lies in MuJoCo; {READ_AS}"
        )
    if unknown := sorted(set(parameters) - {*BOUNDS, DRIVE}):
        raise ValueError(f"cannot identify {', '.join(unknown)}; {', '.join([*BOUNDS, DRIVE])} can be")
    names = [name for name in dict.fromkeys(parameters) if name != DRIVE]
    starts = log.window_starts(_STEPS)
    if not parameters or not len(starts):
        what = f"no episode of the log has {_STEPS} steps" if parameters else "no parameter was named"
        raise ValueError(f"nothing to identify: {what}")
    rng = np.random.default_rng(seed)
    most = min(_WINDOWS, max(_FEWEST, _WORK // max(1, log.core.shape[1] // 2) ** 2))
    starts = np.sort(rng.choice(starts, min(most, len(starts)), replace=False))
    rows = starts[:, None] + np.arange(_STEPS)
    unit = state_unit(log.core, log.task.core.geometry)
    if task.core.layout is not None:  # behind the physical state, nothing is MuJoCo's
        physical = sum(values.shape[-1] for values in task.core.layout.parts(log.core[:1]).values())
        unit[physical:] = np.inf
    action = encoded(task.action_space, log.action + first(task.action_space))

    def fitted(acted: np.ndarray, begin: Mapping[str, float] | None = None) -> Estimate:
        return estimate(task, log.core[starts], acted[rows], log.next_core[rows], unit, names, begin)

    alone = fitted(action)
    drive, driven = PASSES, alone
    before, space = alone.error[0], log.task.action_space
    if DRIVE in parameters and not isinstance(space, spaces.Box):
        warnings.warn(
            "a drive is looked for only where actions are a Box; elsewhere a delay passes for weak motors",
            stacklevel=2,
        )
    if DRIVE in parameters and isinstance(space, spaces.Box) and alone.error[1] > _EXACT * before:
        search = DriveSearch(log, seed)
        drive, driven = _with_drive(task, search, fitted, alone, "gear" in names)
    found = fitted(action, alone.values)
    if drive != PASSES:
        driven = fitted(search.replayed(drive).numpy(), driven.values)
        drive, found = (drive, driven) if driven.error[1] < WORTH * found.error[1] else (PASSES, found)
    made = []
    for name, value in found.values.items():
        width = found.half_widths[name]
        limit, (low, high) = 1.0 if name == "slope" else _SHARE * value, BOUNDS[name]
        inside = min(value - low, high - value) > _AT_END * (high - low)
        known = bool(width < limit and inside)
        made.append(Parameter(name, value, width if np.isfinite(width) else None, known))
    play = drive.share(half_ranges(log.task))
    env_id = task.env_id if task.factory is None else ""  # of another env than the function's
    return Identification(
        env_id, dict(task.env_kwargs), tuple(made), before, found.error[1], drive.delay, play
    )


def _with_drive(
    task: Task,
    search: DriveSearch,
    fitted: Callable[[np.ndarray], Estimate],
    alone: Estimate,
    finds_gear: bool,
) -> tuple[Drive, Estimate]:
    """A drive, and the parameters under it; none, and those alone, where that is not clearly better.

    Play explains some of a weak motor, which then seems strong: a search begins with a delay alone, too, and
    where no gear is looked for, play has to explain what no strength does.
    """
    from wmgym.tasks.sysid import stepper

    log, best, begun = search.data, (PASSES, alone), set[Drive]()
    unit = np.maximum((log.next_core - log.core).std(0), 1e-6)
    for plays in (True, False):
        values: dict[str, float] = {}
        for turn in range(_TURNS):
            step = stepper(task, values)

            def wrong(rows: np.ndarray, acted: Tensor, step: Stepper = step) -> Tensor:
                return torch.from_numpy((step(log.core[rows], acted.numpy()) - log.next_core[rows]) / unit)

            if finds_gear:
                drive, _ = search.best(wrong, plays=plays or turn > 0)
            else:
                drive = search.clear(wrong)
            if drive in begun:
                break
            begun.add(drive)
            made = fitted(search.replayed(drive).numpy())
            if made.error[1] < best[1].error[1]:
                best = drive, made
            if made.error[1] < _EXACT * alone.error[0]:
                return best
            values = made.values
    return best if best[1].error[1] < WORTH * alone.error[1] else (PASSES, alone)
