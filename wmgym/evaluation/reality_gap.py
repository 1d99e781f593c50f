"""Measure the gap between a robot and a simulator of it, whichever of the two is learned."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wmgym.calibration.open_loop import OpenLoopStep, open_loop_steps, spread, stacked
from wmgym.data.collect import collect_each
from wmgym.data.describe import by_model
from wmgym.data.joining import concat
from wmgym.data.layouts import laid_out
from wmgym.data.policy import PolicyFn
from wmgym.data.pool import as_policies
from wmgym.data.transitions import Transitions
from wmgym.data.units import Executor
from wmgym.evaluation.agreement import LEAST, agreement, count_lineages
from wmgym.evaluation.imagined import imagine, over_policies
from wmgym.evaluation.intervals import mean_interval
from wmgym.evaluation.parting import Contacts, diagnosis
from wmgym.evaluation.reality import ContactGap, Diagnosis, DimensionGap, RealityGap, ReturnGap, StepGap
from wmgym.evaluation.sides import Sides, sides
from wmgym.io.arguments import count_or_none, seed_number, whole_number
from wmgym.models.state_unit import state_unit
from wmgym.models.world import WorldModel
from wmgym.tasks.task import Task

_WINDOWS = 256


def gap(
    reality: Any,
    simulator: Any,
    policies: Any = None,
    *,
    episodes: int = 8,
    horizon: int = 32,
    max_episode_steps: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    executor: Executor | str | None = None,
) -> RealityGap:
    """How a simulator differs from a robot: in states step by step, in returns, and where first.

    The commands recorded on the robot are replayed in the simulator, open loop, from many of its states; then
    the policies run in both from the same start states.

    Args:
        reality: an env, such as ``wmgym.shift`` makes, its id, a task or a function that makes one; or
            transitions of a robot, a log, or the directory of one.
        simulator: a world, a hybrid one included, or the directory of one; or an env, an id or a task, whose
            MuJoCo model, with a changed robot's drive, is then the simulator.
        policies: as ``score`` takes them. Of an env they make the data; None drives it by random actions. Of
            a log they are compared where its episodes name them, and None compares no returns.
        episodes: of each policy on the robot, and as many in the simulator.
        horizon: steps of a window; shorter where episodes are.
        max_episode_steps: end episodes earlier than the env does.
        seed: decides everything random.
        workers: processes; None uses every core where that pays.
        executor: where the policies run: ``"serial"``, ``"processes"``, ``"ray"`` or what
            ``wmgym.make_executor`` made; None leaves it to ``workers``.

    Raises:
        ValueError: robot and simulator have other spaces, or a number that is not whole or too small.
    """
    seed, horizon = seed_number(seed), whole_number("horizon", horizon)
    episodes, workers = whole_number("episodes", episodes), count_or_none("workers", workers)
    max_episode_steps = count_or_none("max_episode_steps", max_episode_steps)
    named = as_policies(policies, split=None)
    if isinstance(reality, os.PathLike) or (isinstance(reality, str) and os.path.isdir(reality)):
        reality = Transitions.load(reality)
    elif isinstance(reality, str) and os.path.isfile(reality):
        raise ValueError(f"{reality} is a file; read it first: wmgym.from_log({reality!r}, ..., task=...)")
    if not isinstance(reality, Transitions) and episodes < 2:
        raise ValueError(f"an interval needs at least 2 episodes of each policy, got {episodes}")
    both = sides(reality, simulator)
    if isinstance(reality, Transitions):
        data, real_steps = laid_out(reality, both.nominal or both.world().task), 0
        parts = _by_policy(data, named) if policies is not None else {}
    else:
        limits = (max_episode_steps, both.robot.max_episode_steps)
        parts = collect_each(
            by_model(both.robot),
            named,
            episodes=episodes,
            seed=seed,
            max_episode_steps=min((x for x in limits if x is not None), default=None),
            workers=workers,
            executor=executor,
        )
        longest = max(parts.values(), key=len)
        parts = {name: laid_out(each, longest.task) for name, each in parts.items()}
        data = concat(list(parts.values()))
        real_steps = len(data)
        both = both.settled(longest.task)
    world = both.world()
    while horizon > 1 and not len(data.window_starts(horizon)):
        horizon //= 2
    starts = spread(data.window_starts(horizon), _WINDOWS)
    bounded = world.calibration is not None
    every = stacked(open_loop_steps(world, data, starts, horizon, "member", seed, trust=bounded))
    unit = state_unit(data.core, data.task.core.geometry)
    touching = Contacts(both.robot if both.robot.has_env else world.task)
    at_start = touching.names(data.core[starts])
    error = np.minimum(np.nan_to_num(every.error / unit, nan=1e6), 1e6)  # (horizon, windows, core_dim)
    where = {"workers": workers, "executor": executor}
    returns = _returns(both, world, parts, named, max_episode_steps, seed, where)
    means = np.array([(row.real_mean, row.simulated_mean) for row in returns])
    agreed = None
    if len(returns) >= LEAST:
        scored = {row.policy: named[row.policy] for row in returns}
        lineages = count_lineages(scored, {name: parts[name].action for name in scored})
        agreed = agreement(*means.T, lineages=lineages, seed=seed)
    return RealityGap(
        reality=_named(both.robot),
        simulator=repr(simulator) if both.given is not None else f"MuJoCo {_named(world.task)}",
        transitions=len(data),
        windows=len(starts),
        horizon=horizon,
        seed=seed,
        by_steps=tuple(_by_steps(world, data, starts, every, error, unit)),
        dimensions=_by_dimension(world, error),
        contacts=_by_contact(at_start, error),
        returns=returns,
        agreement=agreed,
        diagnosis=diagnosis(world, data, starts, error, touching),
        real_steps=real_steps,
    )


def diagnose(reality: Any, simulator: Any, policies: Any = None, **how: Any) -> Diagnosis:
    """Where and when a simulator and a robot part; arguments as for ``gap``, whose ``diagnosis`` it is."""
    return gap(reality, simulator, policies, **how).diagnosis


def _by_policy(data: Transitions, named: Mapping[str, PolicyFn | None]) -> dict[str, Transitions]:
    """The episodes of each policy that has two of them, which its interval takes."""
    names = np.array(data.episode_policy)
    few = [name for name in named if (names == name).sum() < 2]
    if few:
        warnings.warn(
            f"the log has fewer than two episodes of {', '.join(few)}, so their returns are not compared; it "
            f"has episodes of {', '.join(sorted({*data.episode_policy}))}",
            stacklevel=3,
        )
    return {name: data.select(np.flatnonzero(names == name)) for name in named if name not in few}


def _returns(
    sides: Sides,
    world: WorldModel,
    parts: Mapping[str, Transitions],
    named: Mapping[str, PolicyFn | None],
    max_episode_steps: int | None,
    seed: int,
    where: Mapping[str, Any],
) -> tuple[ReturnGap, ...]:
    """Every policy in both, best real mean first; MuJoCo itself starts from the robot's own resets."""
    if not parts or any(data.reward is None for data in parts.values()):
        return ()
    limit = max_episode_steps or world.task.max_episode_steps
    if sides.nominal is not None and (sides.driven or not sides.plays):
        count = {"episodes": next(iter(parts.values())).num_episodes, "max_episode_steps": max_episode_steps}
        reset = collect_each(sides.nominal, named, seed=seed, **count, **where)  # type: ignore[arg-type]
        simulated = {name: data.returns for name, data in reset.items()}
    else:

        def run(given: tuple[PolicyFn | None, np.ndarray, int]) -> np.ndarray:
            policy, starts, limit = given
            none = np.zeros((0, world.task.core.state_dim), np.float32)
            return imagine(
                world, policy, starts, none, seed, draws=1, limit=limit, propagation="member"
            ).returns

        given = {
            name: (named[name], data.state[data.first], limit or int(data.lengths.max()))
            for name, data in parts.items()
        }
        steps = sum(len(starts) * limit for _, starts, limit in given.values())
        simulated = over_policies(run, given, world, steps, **where)
    found = {name: (data.returns, simulated[name]) for name, data in parts.items()}
    means = [float(real.mean()) for real, _ in found.values()]
    scale = max(means) - min(means) if len(means) > 1 else 0.0
    scale = scale if scale > 0 else max([abs(mean) for mean in means], default=1.0) or 1.0
    rows = [
        ReturnGap(
            policy=name,
            real_mean=float(real.mean()),
            real_interval=mean_interval(real, seed),
            simulated_mean=float(said.mean()),
            simulated_interval=mean_interval(said, seed),
            gap=float(said.mean() - real.mean()) / scale,
        )
        for name, (real, said) in found.items()
    ]
    return tuple(sorted(rows, key=lambda row: -row.real_mean))


def _by_steps(
    world: WorldModel,
    data: Transitions,
    starts: np.ndarray,
    every: OpenLoopStep,
    error: np.ndarray,
    unit: np.ndarray,
) -> list[StepGap]:
    found, table, horizon = [], world.calibration, len(error)
    for h in sorted({2**k for k in range(horizon.bit_length())} | {horizon}):
        sizes = error[h - 1].mean(1)
        held = np.abs(data.core[starts] - data.next_core[starts + h - 1]) / unit
        coverage = None
        if table is not None:
            elapsed = np.full(len(starts), h)
            bound = table.error_bound(elapsed, "member", every.core[h - 1], every.disagreement[h - 1])
            coverage = float((every.error[h - 1] <= bound).mean())
        found.append(
            StepGap(
                steps=h,
                error=float(np.median(sizes)),
                error_90=float(np.quantile(sizes, 0.9)),
                constant_state=float(np.median(held.mean(1))),
                coverage=coverage,
            )
        )
    return found


def _by_dimension(world: WorldModel, error: np.ndarray) -> tuple[DimensionGap, ...]:
    ends = np.median(error[[0, -1]], 1)  # (2, core_dim)
    rows = [
        DimensionGap(name, *map(float, pair)) for name, pair in zip(world.core_names, ends.T, strict=True)
    ]
    return tuple(sorted(rows, key=lambda row: -row.open_loop))


def _by_contact(at_start: Sequence[str], error: np.ndarray) -> tuple[ContactGap, ...]:
    names = np.array(at_start)
    rows = []
    for name, count in Counter(at_start).most_common(6):
        ends = np.median(error[[0, -1]][:, names == name].mean(2), 1)
        rows.append(ContactGap(name, count, *map(float, ends)))
    return tuple(rows)


def _named(task: Task) -> str:
    """The env and what is changed about it."""
    from wmgym.tasks.shift import SHIFTED

    kwargs = dict(task.env_kwargs)
    unnamed = "an env without an id" if task.has_env else "recorded data"
    name = str(kwargs.pop("env_id", SHIFTED)) if task.env_id == SHIFTED else task.env_id or unnamed
    said = ", ".join(f"{key}={value}" for key, value in kwargs.items())
    return f"{name} ({said})" if said else name
