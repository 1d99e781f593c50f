"""Save and load worlds: safetensors and strict JSON behind a checksum; loading runs no code from the file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import JsonValue, ValidationError

from wmgym import store
from wmgym.dynamics import EnsembleConfig, EnsembleMLP
from wmgym.records import Record, TaskRecord, rebuild_task, record_task
from wmgym.task import Task
from wmgym.world import MODES, Calibration, Provenance, WorldModel


class _EnsembleRecord(Record):
    core_dim: int
    action_dim: int
    target_dim: int
    angles: list[int]
    learns_termination: bool
    members: int
    width: int
    depth: int


class _ProvenanceRecord(Record):
    fingerprints: list[str]
    steps: int
    source: Literal["real", "imagined"]
    versions: dict[str, str]
    fit: dict[str, JsonValue]


class _CalibrationRecord(Record):
    level: float
    episodes: int
    fingerprints: list[str]


class _WorldRecord(Record):
    task: TaskRecord
    ensemble: _EnsembleRecord
    provenance: _ProvenanceRecord
    calibration: _CalibrationRecord | None


def save(world: WorldModel, path: str | os.PathLike[str]) -> Path:
    """Write a world to a directory; an interrupted save leaves the old world or the new one, whole."""
    dynamics = world.dynamics
    if not isinstance(dynamics, EnsembleMLP):
        raise ValueError(f"only EnsembleMLP worlds can be saved, this one has {type(dynamics).__name__}")
    arrays = {f"dynamics.{key}": value.cpu().numpy() for key, value in dynamics.state_dict().items()}
    arrays |= {"starts": world.starts, "low": world.low, "high": world.high}
    calibration = world.calibration
    if calibration is not None:
        arrays |= {
            "calibration.std_scale": calibration.std_scale,
            "calibration.windows": calibration.windows,
            "calibration.data_std": calibration.data_std,
        }
        for mode in MODES:
            arrays[f"calibration.half_width.{mode}"] = calibration.half_width[mode]
            arrays[f"calibration.coverage.{mode}"] = calibration.coverage[mode]
    config, origin = dynamics.config, world.provenance
    record = _WorldRecord(
        task=record_task(world.task),
        ensemble=_EnsembleRecord(**{**vars(config), "angles": list(config.angles)}),
        provenance=_ProvenanceRecord(
            fingerprints=list(origin.fingerprints),
            steps=origin.steps,
            source=origin.source,
            versions=origin.versions,
            fit=origin.fit,
        ),
        calibration=None
        if calibration is None
        else _CalibrationRecord(
            level=calibration.level,
            episodes=calibration.episodes,
            fingerprints=list(calibration.fingerprints),
        ),
    )
    return store.write_directory(path, kind="world", arrays=arrays, document=record.model_dump(mode="json"))


def load(path: str | os.PathLike[str], task: Task | None = None) -> WorldModel:
    """Read what ``save`` wrote.

    Args:
        path: the directory.
        task: needed only where the task was made with ``reward_fn``, ``terminated_fn`` or ``core``, which no
            file holds.

    Raises:
        StoreError: not a world, or a byte of it has changed.
    """
    arrays, document = store.read_directory(path, kind="world")
    try:
        record = _WorldRecord.model_validate(document)
        return _rebuild(record, arrays, task)
    except (ValidationError, KeyError, RuntimeError) as error:
        reason = error.title if isinstance(error, ValidationError) else str(error).splitlines()[0]
        raise store.StoreError(
            f"{path}: not a world of this version of wmgym ({reason}); fit it again"
        ) from error


def _rebuild(record: _WorldRecord, arrays: dict[str, np.ndarray], task: Task | None) -> WorldModel:
    settings: dict[str, Any] = record.ensemble.model_dump()
    dynamics = EnsembleMLP(EnsembleConfig(**{**settings, "angles": tuple(settings["angles"])}))
    prefix = "dynamics."
    dynamics.load_state_dict(
        {key[len(prefix) :]: torch.tensor(value) for key, value in arrays.items() if key.startswith(prefix)}
    )
    calibration = None
    if record.calibration is not None:
        calibration = Calibration(
            level=record.calibration.level,
            std_scale=arrays["calibration.std_scale"],
            half_width={mode: arrays[f"calibration.half_width.{mode}"] for mode in MODES},
            windows=arrays["calibration.windows"],
            episodes=record.calibration.episodes,
            coverage={mode: arrays[f"calibration.coverage.{mode}"] for mode in MODES},
            data_std=arrays["calibration.data_std"],
            fingerprints=tuple(record.calibration.fingerprints),
        )
    origin = record.provenance
    rebuilt = rebuild_task(record.task, task)
    _check_shapes(rebuilt, dynamics.config, calibration, arrays)
    return WorldModel(
        task=rebuilt,
        dynamics=dynamics.requires_grad_(False).eval(),
        starts=arrays["starts"],
        low=arrays["low"],
        high=arrays["high"],
        provenance=Provenance(
            fingerprints=tuple(origin.fingerprints),
            steps=origin.steps,
            source=origin.source,
            versions=origin.versions,
            fit=dict(origin.fit),
        ),
        calibration=calibration,
    )


def _check_shapes(
    task: Task, config: EnsembleConfig, calibration: Calibration | None, arrays: dict[str, np.ndarray]
) -> None:
    """Refuse arrays that do not belong to this task; torch has checked the weights."""
    core, limits = task.core.dim, task.core.dim + task.core.displacement_dim
    shapes = {"low": (limits,), "high": (limits,), "starts": (max(len(arrays["starts"]), 1), core)}
    if calibration is not None:
        shapes |= {"calibration.std_scale": (config.target_dim,), "calibration.data_std": (core,)}
        shapes |= {"calibration.windows": (calibration.horizon,)}
        for mode in MODES:
            shapes[f"calibration.half_width.{mode}"] = (calibration.horizon, core)
            shapes[f"calibration.coverage.{mode}"] = (calibration.horizon,)
    found = {name: array.shape for name, array in arrays.items() if not name.startswith("dynamics.")}
    if found != shapes or (config.core_dim, config.action_dim) != (core, task.action_dim):
        raise RuntimeError("its arrays do not fit its task")
