"""What a run can know before its first real step: whether it may go on here, and whether it can end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wmgym.app.recipes import RunConfig
from wmgym.io.artifacts import StoreError
from wmgym.tasks.task import Task

LEAST_STEPS = 10
"""Transitions that ``fit`` asks for."""

_EVERYWHERE = ("env_id", "env_kwargs", "max_episode_steps", "seed")
_Stage = tuple[str, tuple[str, ...]]
"""A path that is there once a stage has left something that counts, and the settings that it has read."""


def changed_settings(out: Path, before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Dotted names of the settings that are not those with which a stage of the run in ``out`` was made.

    Settings of stages that are still to come may change.
    """
    found = _different(before, now)
    done = [reads for record, reads in _stages(before) if (out / record).exists()]
    return [name for name in found if any(_within(name, read) for reads in done for read in reads)]


def settings_read(config: dict[str, Any], record: str) -> dict[str, Any]:
    """The settings that the stage with this record reads, by dotted name."""
    reads = (names for path, names in _stages(config) if record == path or record.startswith(f"{path}/"))
    return {name: _value(config, name) for name in next(reads)}


def begun(out: Path, config: dict[str, Any]) -> list[Path]:
    """What stages of such a run have left in ``out`` that counts."""
    return [out / path for path, _ in _stages(config) if (out / path).exists()]


def _value(config: Any, name: str) -> Any:
    for key in name.split("."):
        config = config[int(key)] if isinstance(config, (list, tuple)) else config[key]
    return config


def _stages(config: dict[str, Any]) -> Iterator[_Stage]:
    """The stages of a run by its ``config.json``; what those before it have read counts for it as well."""
    yield "online", (*_EVERYWHERE, "train")  # counts from its beginning, for its agent is saved on the way
    for index in range(len(config.get("rounds") or ())):
        folder, budget = f"round-{index:02d}", f"rounds.{index}"
        yield (
            f"{folder}/collect.json",
            (*_EVERYWHERE, "collect.max_episode_steps", f"{budget}.real_steps", "train.algorithm"),
        )
        yield f"{folder}/fit.json", ("fit", f"{budget}.fit_updates")
        yield f"{folder}/train.json", ("train", "branch", f"{budget}.imagined_steps")
    yield "calibrate.json", ("collect", "rounds")
    yield "score.json", ("evaluate",)


def _within(name: str, read: str) -> bool:
    """Whether one dotted name is the other or part of it."""
    one, other = name.split("."), read.split(".")
    return all(a == b for a, b in zip(one, other, strict=False))


def _different(first: Any, second: Any, name: str = "") -> list[str]:
    """Dotted names of the settings in which two JSON values differ."""
    if isinstance(first, list) and isinstance(second, list):
        first, second = (dict(enumerate(each)) for each in (first, second))
    if isinstance(first, dict) and isinstance(second, dict):
        keys = sorted(first.keys() | second.keys())
        return [d for key in keys for d in _different(first.get(key), second.get(key), f"{name}.{key}")]
    return [] if first == second else [name.removeprefix(".")]


def check_run(config: RunConfig, task: Task, out: Path) -> None:
    """Refuse what would fail after hours, or leave no room for what comes of them.

    Raises:
        ValueError: a setting that a later stage refuses.
        StoreError: too little space on disk.
    """
    if task.max_episode_steps is None:
        raise ValueError(f"{config.env_id} has no time limit; set max_episode_steps")
    if config.train.trust is not None:
        raise ValueError("train.trust needs a calibrated world, and a run calibrates last; leave it out")
    if config.rounds and config.rounds[0].real_steps < LEAST_STEPS:
        raise ValueError(
            f"rounds.0.real_steps={config.rounds[0].real_steps} are too few to fit a world to; take at least "
            f"{LEAST_STEPS}"
        )
    place = next(each for each in (out, *out.absolute().parents) if os.path.isdir(each))
    need, free = _bytes(config, task), shutil.disk_usage(place).free
    if need > free:
        raise StoreError(
            f"{out}: the run will take up to {need / 1e6:,.0f} MB and {free / 1e6:,.0f} MB are free; make "
            "room, or choose another --out"
        )


def _bytes(config: RunConfig, task: Task) -> int:
    """What a run writes: data, a world and an agent for each round or, online, the agent with its buffer."""
    row = 8 * (3 * task.obs_dim + 3 * task.core.dim + task.action_dim + task.core.unobserved_dim + 8)
    weights = config.fit.width * (config.fit.depth * config.fit.width + 4 * (task.obs_dim + task.action_dim))
    world = 4 * config.fit.members * weights + 5_000_000  # with bounds and a sample of the data
    return config.real_steps * row * 2 + world * (len(config.rounds) + 2) + 20_000_000
