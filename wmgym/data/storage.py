"""Transitions as artifact directories."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from wmgym.data.columns import PER_STEP
from wmgym.io import artifacts
from wmgym.io.schema import Record
from wmgym.tasks.schema import TaskRecord, rebuild_task, record_task
from wmgym.tasks.task import Task


class _TransitionsRecord(Record):
    task: TaskRecord
    episode_policy: list[str]
    source: Literal["real", "imagined"]
    versions: dict[str, str]


def write_transitions(
    path: str | os.PathLike[str],
    task: Task,
    arrays: Mapping[str, np.ndarray],
    episode_seed: tuple[int, ...],
    episode_policy: tuple[str, ...],
    source: Literal["real", "imagined"],
    versions: dict[str, str],
) -> None:
    """Write transitions to a directory; see ``Transitions``."""
    record = _TransitionsRecord(
        task=record_task(task), episode_policy=list(episode_policy), source=source, versions=versions
    )
    stored = {**arrays, "episode_seed": np.array(episode_seed, dtype=np.int64)}
    artifacts.write_directory(
        path, kind="transitions", arrays=stored, document=record.model_dump(mode="json")
    )


def read_transitions(path: str | os.PathLike[str], task: Task | None) -> dict[str, Any]:
    """The fields of the ``Transitions`` in a directory; ``task`` in place of one that no file can hold.

    Raises:
        StoreError: no transitions are there, or a byte of them has changed.
    """
    arrays, document = artifacts.read_directory(path, kind="transitions")
    try:
        record = _TransitionsRecord.model_validate(document)
        seeds = arrays["episode_seed"].tolist()
        columns = {name: arrays[name] for name in PER_STEP if name != "reward"}
    except (ValidationError, KeyError) as error:
        raise artifacts.StoreError(
            f"{path}: not a transitions document of this version of wmgym; collect again"
        ) from error
    return {
        **columns,
        "task": rebuild_task(record.task, task),
        "reward": arrays.get("reward"),
        "episode_seed": tuple(seeds),
        "episode_policy": tuple(record.episode_policy),
        "source": record.source,
        "versions": record.versions,
    }
