"""Calibrate a world on real episodes that it never saw."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np

from wmgym.calibration import online
from wmgym.calibration.conformal import error_bounds, groups, marginal_calibration
from wmgym.calibration.noise_scale import noise_scale
from wmgym.calibration.open_loop import open_loop_steps, spread_starts, stacked, steps_left, survived
from wmgym.data.columns import refuse_overflow
from wmgym.data.executors import chosen
from wmgym.data.layouts import difference, laid_out
from wmgym.data.transitions import Transitions
from wmgym.data.units import Executor, Unit, in_order
from wmgym.io.arguments import flag, number, seed_number, whole_number
from wmgym.io.progress import Advance, track
from wmgym.models.dynamics import PROPAGATIONS, Propagation
from wmgym.models.world import WorldModel
from wmgym.tasks.task import Task, alike

_MAX_WINDOWS = 1_024  # starts replayed, spread evenly over the held-out data


def calibrate(
    world: WorldModel,
    calib: Transitions,
    *,
    level: float = 0.9,
    horizon: int | None = None,
    update: bool = False,
    seed: int = 0,
    executor: Executor | str | None = None,
    progress: bool = False,
) -> WorldModel:
    """Give a world error bounds from held-out episodes, or adapt those that it has.

    First the one-step noise is scaled, per target dimension, so that one sigma covers 68.27 % of the held-out
    changes. Then real actions are run open loop from many held-out states, with every propagation, and the
    errors after each number of steps give conformal half-widths: quantiles of the error itself, and of the
    error divided by a power of the episode's disagreement, the distance between two members' own paths.
    Errors of one episode depend on each other, so each episode enters as one distribution and the quantile is
    that of their equal mixture ("pooling CDFs", Dunn, Wasserman & Ramdas 2022, arXiv:1809.07441).

    Where several policies made the episodes, each policy enters as one distribution instead, and the bounds
    are meant for one more policy like them. A few policies say little about the next, so the quantile's level
    is raised until bounds made from all but one policy hold for that one as often as promised. Where episodes
    terminate, the bounds hold over all windows, of which those that are over keep their last error, and over
    the windows that last: they narrow neither because the calm ones remain, nor because most are over.

    Args:
        world: the world to calibrate.
        calib: real episodes that ``fit`` did not see; of policies that it did not see either, if the bounds
            are to hold for such.
        level: probability with which each half-width is to hold, per dimension and step.
        horizon: steps to state bounds for; None takes the longest held-out episode.
        update: keep the bounds there are, their level and horizon, and adapt them to new episodes in
            the order they are in; for a policy that has moved on, or a robot that has changed. See
            ``wmgym.calibration.online.update``.
        seed: decides all random draws.
        executor: where the three propagations are replayed side by side, which pays for long horizons:
            ``"serial"``, ``"processes"``, ``"ray"`` or what ``wmgym.make_executor`` made. None replays one
            after the other in this process, with all of torch's threads.
        progress: show a bar on a terminal.

    Returns:
        The same model with ``world.calibration``, whose dimensions ``world.core_names`` names.

    Raises:
        TypeError: a path, or the two the wrong way round.
        ValueError: episodes that ``fit`` saw, another task, imagined data, or a level outside (0, 1).
    """
    if not (isinstance(world, WorldModel) and isinstance(calib, Transitions)):
        raise TypeError(
            f"calibrate takes a WorldModel and Transitions, got {type(world).__name__} and "
            f"{type(calib).__name__}; read them with wmgym.load and wmgym.Transitions.load"
        )
    seed, level, update = seed_number(seed), number("level", level), flag("update", update)
    horizon = None if horizon is None else whole_number("horizon", horizon)
    calib = laid_out(calib, world.task)
    _refuse(world, calib, level, horizon, update)
    if update:
        return online.update(world, calib, seed)
    longest = int(calib.lengths.max())
    horizon = min(horizon or longest, longest)
    starts = spread_starts(calib, _MAX_WINDOWS)
    blank = marginal_calibration(calib, noise_scale(world, calib, starts, seed), level, world.support)

    def replay(unit: Unit[Propagation], tell: Advance) -> dict[str, np.ndarray]:
        steps, scaled = [], world.with_calibration(blank)
        for step in open_loop_steps(scaled, calib, starts, horizon, unit.item, seed, trust=True):
            steps.append(step)
            tell(1)
        replays = stacked(steps)
        lasting = replays if calib.terminated.any() else None
        return error_bounds(blank, survived(replays, calib, starts), *groups(calib, starts), lasting)

    units = [Unit(f"propagation {propagation}", propagation) for propagation in PROPAGATIONS]
    with track("calibrate", len(PROPAGATIONS) * horizon, show=progress) as advance:
        if executor is None:
            found = [replay(unit, advance) for unit in units]
        else:
            found = in_order(chosen(executor, None, len(units), pays=True).map(replay, units, advance))
    bounds: dict[str, dict[Propagation, np.ndarray]] = {}
    for propagation, widths in zip(PROPAGATIONS, found, strict=True):
        for name, values in widths.items():
            bounds.setdefault(name, {})[propagation] = values.astype(np.float32)
    windows = (steps_left(calib)[starts] > np.arange(horizon)[:, None]).sum(1)
    return world.with_calibration(replace(blank, windows=windows, **bounds))  # type: ignore[arg-type]


def _refuse(world: WorldModel, calib: Transitions, level: float, horizon: int | None, update: bool) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level}")
    if calib.source != "real":
        raise ValueError("calibration needs real episodes; these are imagined")
    refuse_overflow(calib.arrays())
    imagined, real = _env_and_keywords(world.task), _env_and_keywords(calib.task)
    if not alike(world.task, calib.task) or (imagined != real and not update):
        if imagined == real:
            raise ValueError(f"the world and the data differ in {difference(world.task, calib.task)}")
        advice = "" if update else "; for a robot that has changed, pass update=True or wmgym.adapt the world"
        raise ValueError(f"the world imagines {imagined}, the data is of {real}{advice}")
    new, table = set(calib.fingerprints()), world.calibration
    seen = new.intersection(world.provenance.fingerprints)
    if seen and not (calib.countable and seen < new):
        raise ValueError(
            f"{len(seen)} of these episodes were used by fit; calibrate on episodes it never saw"
        )
    if update and (horizon is not None or table is None):
        raise ValueError("update adapts bounds that a world has, horizon included; calibrate it first")
    again = set() if table is None else new.intersection(table.fingerprints)
    if update and again and not (calib.countable and again < new):
        raise ValueError("some of these episodes made the bounds already; update with new ones")


def _env_and_keywords(task: Task) -> str:
    return f"{task.env_id!r} {keywords(task)}"


def keywords(task: Task) -> str:
    """The keywords of a task's env; a tuple and the list that a file makes of it are the same."""
    return json.dumps(dict(task.env_kwargs), sort_keys=True, default=repr)
