"""Transitions from files that robots and other programs have written."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from wmgym.data.checks import check, refuse_torn
from wmgym.data.functions import try_functions
from wmgym.data.importers import clock
from wmgym.data.importers.actions import note, numbers_kinds
from wmgym.data.importers.arguments import check_arguments
from wmgym.data.importers.columns import (
    Names,
    Roles,
    check_scale,
    column_names,
    find_roles,
    time_unit,
    unused_clock,
)
from wmgym.data.importers.jitter import jitter_is_real
from wmgym.data.importers.labels import labelled
from wmgym.data.importers.read import MAX_GIGABYTES, MAX_SECONDS, read_tables
from wmgym.data.importers.rows import Rows, usable_rows, wrapped
from wmgym.data.importers.runs import Run, after_gaps, cut
from wmgym.data.importers.summary import Summary
from wmgym.data.importers.table import Table
from wmgym.data.importers.task import log_task, said_action_space
from wmgym.data.logs import assembled
from wmgym.data.odd_values import LOOKS
from wmgym.data.transitions import Transitions
from wmgym.io.arguments import function
from wmgym.io.files import StrPath
from wmgym.tasks.actions import ActionSpace, whole
from wmgym.tasks.spec import UserRewardFn
from wmgym.tasks.task import Task


def from_log(
    paths: StrPath | Sequence[StrPath],
    *,
    obs: Names | None = None,
    action: Names | None = None,
    next_obs: Names | None = None,
    reward: Names | None = None,
    terminated: Names | None = None,
    truncated: Names | None = None,
    time: Names | None = None,
    episode: Names | None = None,
    unobserved: Names | None = None,
    dt: float | None = None,
    max_gap: float | None = None,
    scale: Mapping[str, float | tuple[float, float]] | None = None,
    task: Task | None = None,
    observation_space: spaces.Box | None = None,
    action_space: ActionSpace | None = None,
    reward_fn: UserRewardFn | None = None,
    terminated_fn: UserRewardFn | None = None,
    max_episode_steps: int | None = None,
    max_seconds: float = MAX_SECONDS,
    max_gigabytes: float = MAX_GIGABYTES,
    quiet: bool = False,
) -> Transitions:
    """Transitions from recorded files; no env is made, and nothing in a file is executed.

    Formats: CSV, NumPy archives (``.npz``), HDF5 in D4RL's layout, Minari data sets (HDF5), LeRobot data sets
    (v3, without video) and MCAP (JSON and ROS 2 messages). A row holds an observation, the action taken then
    and what that step paid. Where no ``next_obs`` is recorded, the next row's observation is where the step
    led, and the last row of an episode is only that.

    Each role takes the name of a column, several, or patterns such as ``"q*"``; None finds columns by their
    usual names, and ``[]`` says that there is none. The printed summary says what was found.

    With a time column, rows that are missing, late or stamped twice are noticed, gaps and a clock that is set
    back begin a new episode, and irregular rows are interpolated to steps of ``dt``. Every warning names what
    is wrong with the data; see ``wmgym.data.checks.check``.

    Args:
        paths: files, data sets, folders of files of one format, or patterns such as ``"logs/*.csv"``.
        obs: observation columns, in this order.
        action: action columns; a single one may hold labels, which become a Discrete.
        next_obs: columns with the observation after the step.
        reward: column with what the step paid; looked for by its name where there is no ``reward_fn``.
        terminated: column that is not zero where the step ended the episode for good; ``[]`` where nothing
            ends one but its time limit.
        truncated: column that is not zero where the episode ended for another reason, such as a time limit.
        time: column with seconds; ``_ms``, ``_us`` or ``_ns`` at the end of its name are understood.
        episode: column with a number or label that differs from episode to episode. Files are always apart.
        unobserved: columns of reward inputs that the observation lacks, where ``task`` has some.
        dt: seconds a step; None takes the usual time between rows. Without a time column what it is, 1 s
            unless the file says.
        max_gap: longest time between two rows of one episode, seconds; None is 1.5 times the usual one.
        scale: by column, the factor to its unit of choice, or the factor and what is then added.
        task: describes spaces, reward and termination, as ``make_task`` does where there is an env.
        observation_space: Box; None is what the metadata say, else unbounded.
        action_space: None is what the data set's metadata say, else Discrete for a single column of labels or
            of a few whole numbers from 0 or 1 on, in any format, else the range of the data.
        reward_fn: batched ``(obs, action, next_obs) -> (batch,)`` on torch tensors; None learns the reward.
        terminated_fn: likewise, returning bool.
        max_episode_steps: time limit of imagined episodes; None is the longest episode's length.
        max_seconds: time that parsing may take.
        max_gigabytes: memory that it may take.
        quiet: print no summary.

    Raises:
        ValueError: files that cannot be parsed, columns that are missing or do not fit, data that contradict
            themselves, or a task with other sizes.
    """
    named = {
        "obs": obs, "action": action, "next_obs": next_obs, "reward": reward, "terminated": terminated,
        "truncated": truncated, "time": time, "episode": episode, "unobserved": unobserved,
    }  # fmt: skip
    settings = {"dt": dt, "max_gap": max_gap, "max_episode_steps": max_episode_steps, "scale": scale}
    check_arguments(paths, named, settings, task, observation_space, action_space)
    function("reward_fn", reward_fn)
    function("terminated_fn", terminated_fn)
    if reward is None and reward_fn is not None:
        named["reward"] = []
    tables = read_tables(paths, max_seconds, max_gigabytes)
    roles = find_roles(tables, named)
    tables, labels = labelled(tables, roles)
    check_scale(scale or {}, tables)
    rows = [usable_rows(table, roles, scale or {}) for table in tables]
    facts = tables[0].facts
    said = said_action_space(facts) if action_space is None else action_space
    acted = said if task is None else task.action_space
    discrete = bool(labels) or numbers_kinds(rows) if acted is None else whole(acted)
    runs, step, told = _runs(tables, rows, roles, dt, max_gap, scale or {}, discrete=discrete)
    declared = None if acted is None else "as given"
    if task is None and action_space is None and said is not None:
        declared = "as the file says"
    if task is None:
        task = log_task(
            runs,
            facts=facts,
            names=column_names(tables[0], roles.obs),
            dt=step,
            discrete=discrete,
            observation_space=observation_space,
            action_space=said,
            reward_fn=reward_fn,
            terminated_fn=terminated_fn,
            max_episode_steps=max_episode_steps,
        )
    elif any(x is not None for x in (observation_space, action_space, reward_fn, terminated_fn)):
        raise ValueError("task= has spaces, reward and termination already; pass either it or these")
    elif task.dt != 1.0 and (roles.time or dt) and not math.isclose(step, task.dt, rel_tol=clock.REGULAR):
        raise ValueError(
            f"the log's steps take {step:.6g} s and those of task= {task.dt:.6g} s; pass dt={task.dt:.6g}, "
            f"which makes such steps of a log with a time column, or a task whose steps take {step:.6g} s"
        )
    data = _joined(task, runs)
    if not quiet:
        acts = note(data.task.action_space, rows, declared, labels)
        print(told.text(tables, roles, data, acts, labels))
    clock_name = unused_clock(tables, roles) if time is None and dt is None and roles.time is None else None
    if clock_name is not None and "dt" not in tables[0].facts:
        warnings.warn(
            f"{clock_name!r} rises from row to row as a clock does and is not used, so a step counts as "
            f"{step:g} s; name it with time={clock_name!r}, or pass dt=, the seconds from row to row",
            stacklevel=2,
        )
    seen, moved = (column_names(tables[0], each) for each in (roles.obs, roles.action))
    recorded = told.series(seen, () if discrete else moved)
    odd = filter(None, (look(recorded) for look in LOOKS.values()))
    for line in [*told.odd_clock(), *told.odd_units(seen), *odd]:
        warnings.warn(line, stacklevel=2)
    ends_unsaid = terminated is None or len(terminated) > 0
    for finding in check(data):
        if finding.about not in LOOKS and (finding.about != "terminations" or ends_unsaid):
            warnings.warn(finding.text, stacklevel=2)
    return data


def _runs(
    tables: Sequence[Table],
    rows: Sequence[Rows],
    roles: Roles,
    dt: float | None,
    max_gap: float | None,
    scale: Mapping[str, Any],
    discrete: bool,
) -> tuple[list[Run], float, Summary]:
    """All runs, on one grid of time where there is a clock; seconds a step; what was done to them."""
    turns = wrapped(rows)
    if roles.time is None:
        if max_gap is not None:
            raise ValueError("max_gap needs a time column; name it with time=")
        step = dt or float(tables[0].facts.get("dt", 1.0))
        runs = [run for each in rows for run in cut(each, None, turns)]
        return runs, step, Summary(rows, turns)
    parts = [part for each in rows for part in _stamps(each.time, each.begins)]
    step = clock.period(parts)
    own = clock.periods(rows, step)
    gaps = clock.longest(rows, own, step, dt or step, max_gap)
    rows = [after_gaps(*each) for each in zip(rows, gaps, strict=True)]
    runs = [run for each in zip(rows, own, strict=True) for run in cut(*each, turns)]
    runs, step = clock.settled(runs, step)
    target, own = dt or step, [run.period for run in runs]
    off, drift = clock.irregularity(runs)
    regular = drift < clock.REGULAR or not jitter_is_real(runs)
    if not regular or any(abs(target - each) > clock.REGULAR * each for each in own):
        if regular:
            runs = [clock.straightened(run) for run in runs]
        resampled = [clock.resample(run, target, held=discrete) for run in runs]
        runs = [run for run in resampled if run is not None]
    counts = "" if roles.time in scale else time_unit(tables[0], roles.time)[1]
    return runs, target, Summary(rows, turns, step, off, regular, target, counts)


def _stamps(time: np.ndarray | None, begins: np.ndarray) -> list[np.ndarray]:
    assert time is not None
    return np.split(time, np.flatnonzero(begins)[1:])


def _joined(task: Task, runs: Sequence[Run]) -> Transitions:
    if not runs:
        raise ValueError("no two consecutive rows are left; is the time column right, or max_gap too short?")
    lengths = [len(run.action) for run in runs]
    terminated = np.zeros(sum(lengths), bool)
    terminated[np.cumsum(lengths) - 1] = [run.terminated for run in runs]
    columns: dict[str, Any] = {
        "obs": np.concatenate([run.obs[:-1] for run in runs]),
        "action": np.concatenate([run.action for run in runs]),
        "next_obs": np.concatenate([run.obs[1:] for run in runs]),
        "episode": np.repeat(np.arange(len(runs)), lengths),
        "terminated": terminated,
    }
    wanted = {"reward": True, "unobserved": task.core.unobserved_dim > 0}
    for name in (name for name in wanted if wanted[name] and getattr(runs[0], name) is not None):
        columns[name] = np.concatenate([getattr(run, name) for run in runs])
    data = assembled(task, **columns)
    refuse_torn(data)
    try_functions(data)
    return data
