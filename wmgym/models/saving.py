"""Save and load worlds: safetensors and strict JSON behind a checksum; loading runs no code from the file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import JsonValue, ValidationError

from wmgym.io import artifacts
from wmgym.io.provenance import Provenance
from wmgym.io.schema import Record
from wmgym.models.config import EnsembleConfig
from wmgym.models.dynamics import PROPAGATIONS
from wmgym.models.ensemble import EnsembleMLP
from wmgym.models.error_bounds import Calibration
from wmgym.models.support import Support
from wmgym.models.world import WorldModel
from wmgym.tasks.layout import Geometry
from wmgym.tasks.schema import TaskRecord, rebuild_task, record_task
from wmgym.tasks.task import Task

SHIPPED = Path(__file__).parent / "pretrained"
"""Worlds that come with the package, in a directory each, named by env id."""


class _EnsembleRecord(Record):
    geometry: Geometry
    action_dim: int
    target_dim: int
    learns_termination: bool
    members: int
    width: int
    depth: int
    layer_norm: bool


class _ProvenanceRecord(Record):
    fingerprints: list[str]
    steps: int
    source: Literal["real", "imagined"]
    versions: dict[str, str]
    fit: dict[str, JsonValue]


_SUPPORT = ("core", "action", "next_core", "episode", "step")
_PLAIN = ("std_scale", "windows", "data_std", "center", "reach")
_BY_MODE = ("half_width", "per_disagreement", "power", "tube", "distrust", "coverage")
"""Arrays of a support, of a calibration, and those that a calibration has for each mode."""


class _CalibrationRecord(Record):
    level: float
    episodes: int
    fingerprints: list[str]


class _WorldRecord(Record):
    task: TaskRecord
    ensemble: _EnsembleRecord
    readout: _EnsembleRecord | None
    provenance: _ProvenanceRecord
    calibration: _CalibrationRecord | None
    typical_distance: float | None


def save(world: WorldModel, path: str | os.PathLike[str], *, half: bool = False) -> Path:
    """Write a world to a directory; an interrupted save leaves the old world or the new one, whole.

    Args:
        world: what to write.
        path: the directory.
        half: store weights, bounds and support in float16, for half the size. What is loaded is then another
            world, by a rounding error: calibrate what was loaded.
    """
    arrays, document = pack(world)
    if half:
        arrays = {name: _halved(array) if "." in name else array for name, array in arrays.items()}
    return artifacts.write_directory(path, kind="world", arrays=arrays, document=document)


def pack(world: WorldModel) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """All of a world as arrays and JSON values.

    Raises:
        ValueError: its dynamics is not an ``EnsembleMLP``, or a keyword of its env is no JSON value.
    """
    arrays: dict[str, np.ndarray] = {}
    ensembles: dict[str, _EnsembleRecord] = {}
    for name, model in (("dynamics", world.dynamics), ("readout", world.readout)):
        if model is None:
            continue
        if not isinstance(model, EnsembleMLP):
            raise ValueError(f"only EnsembleMLP worlds can be saved, this one has {type(model).__name__}")
        arrays |= {f"{name}.{key}": value.cpu().numpy() for key, value in model.state_dict().items()}
        ensembles[name] = _EnsembleRecord.model_validate(model.config, from_attributes=True)
    arrays |= {"starts": world.starts, "low": world.low, "high": world.high}
    calibration = world.calibration
    if calibration is not None:
        arrays |= {f"calibration.{name}": getattr(calibration, name) for name in _PLAIN}
        for name in _BY_MODE:
            for propagation in PROPAGATIONS:
                arrays[f"calibration.{name}.{propagation}"] = getattr(calibration, name)[propagation]
    support = world.support
    if support is not None:
        arrays |= {f"support.{name}": getattr(support, name) for name in _SUPPORT}
    origin = world.provenance
    record = _WorldRecord(
        task=record_task(world.task),
        ensemble=ensembles["dynamics"],
        readout=ensembles.get("readout"),
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
        typical_distance=None if support is None else support.typical,
    )
    return arrays, record.model_dump(mode="json")


def load(path: str | os.PathLike[str], task: Task | None = None) -> WorldModel:
    """Read what ``save`` wrote, or a world that ships with wmgym.

    Args:
        path: the directory; or the id of an env whose world ships, ``"Hopper-v5"`` or ``"wmgym/Hopper-v5"``.
        task: needed only where the task was made with ``reward_fn``, ``terminated_fn`` or ``core``, which no
            file holds.

    Raises:
        StoreError: not a world, or a byte of it has changed.
    """
    found, shipped = Path(path), SHIPPED / os.fspath(path).removeprefix("wmgym/")
    if not found.exists() and shipped.is_dir():
        found = shipped
    arrays, document = artifacts.read_directory(found, kind="world")
    return unpack(arrays, document, task, name=os.fspath(path))


def _halved(array: np.ndarray) -> np.ndarray:
    if array.dtype != np.float32 or not np.all(np.abs(array) < np.finfo(np.float16).max):
        return array
    return array.astype(np.float16)


def unpack(
    arrays: dict[str, np.ndarray], document: dict[str, Any], task: Task | None = None, name: str = "world"
) -> WorldModel:
    """Rebuild what ``pack`` took apart; ``name`` is for the error."""
    half = (name for name, array in arrays.items() if array.dtype == np.float16)
    arrays = {**arrays, **{name: arrays[name].astype(np.float32) for name in half}}
    try:
        record = _WorldRecord.model_validate_json(json.dumps(document))
        return _rebuild(record, arrays, task)
    except (ValidationError, KeyError, RuntimeError) as error:
        reason = error.title if isinstance(error, ValidationError) else str(error).splitlines()[0]
        raise artifacts.StoreError(
            f"{name}: not a world of this version of wmgym ({reason}); fit it again"
        ) from error


def _rebuild(record: _WorldRecord, arrays: dict[str, np.ndarray], task: Task | None) -> WorldModel:
    dynamics = _rebuild_ensemble(record.ensemble, arrays, "dynamics.")
    readout = None if record.readout is None else _rebuild_ensemble(record.readout, arrays, "readout.")
    calibration = None
    if record.calibration is not None:
        stored: dict[str, Any] = {name: arrays[f"calibration.{name}"] for name in _PLAIN}
        for name in _BY_MODE:
            stored[name] = {
                propagation: arrays[f"calibration.{name}.{propagation}"] for propagation in PROPAGATIONS
            }
        calibration = Calibration(
            level=record.calibration.level,
            episodes=record.calibration.episodes,
            fingerprints=tuple(record.calibration.fingerprints),
            **stored,
        )
    support = None
    if record.typical_distance is not None:
        rows = {name: arrays[f"support.{name}"] for name in _SUPPORT}
        support = Support(**rows, typical=record.typical_distance)
    origin = record.provenance
    rebuilt = rebuild_task(record.task, task)
    _check_shapes(
        rebuilt, dynamics.config, None if readout is None else readout.config, calibration, support, arrays
    )
    return WorldModel(
        task=rebuilt,
        dynamics=dynamics,
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
        readout=readout,
        calibration=calibration,
        support=support,
    )


def _rebuild_ensemble(record: _EnsembleRecord, arrays: dict[str, np.ndarray], prefix: str) -> EnsembleMLP:
    settings: dict[str, Any] = {**record.model_dump(), "geometry": record.geometry}
    model = EnsembleMLP(EnsembleConfig(**settings))
    model.load_state_dict(
        {key[len(prefix) :]: torch.tensor(value) for key, value in arrays.items() if key.startswith(prefix)}
    )
    model.requires_grad_(False).eval().use_precision("float32")
    return model


def _check_shapes(
    task: Task,
    config: EnsembleConfig,
    readout: EnsembleConfig | None,
    calibration: Calibration | None,
    support: Support | None,
    arrays: dict[str, np.ndarray],
) -> None:
    """Refuse arrays that do not belong to this task; torch has checked the weights."""
    core, limits = task.core.dim, task.core.dim + task.core.displacement_dim
    bank = (max(len(arrays["starts"]), 1), task.core.state_dim)
    shapes = {"low": (limits,), "high": (limits,), "starts": bank}
    if calibration is not None:
        steps = calibration.horizon
        plain: dict[str, tuple[int, ...]] = {"std_scale": (config.target_dim,), "windows": (steps,)}
        plain |= dict.fromkeys(("data_std", "center", "reach"), (core,))
        by_mode: dict[str, tuple[int, ...]] = dict.fromkeys(("half_width", "per_disagreement"), (steps, core))
        by_mode |= {"coverage": (2, steps), **dict.fromkeys(("power", "tube", "distrust"), (steps,))}
        shapes |= {f"calibration.{name}": shape for name, shape in plain.items()}
        shapes |= {
            f"calibration.{name}.{propagation}": by_mode[name]
            for name in by_mode
            for propagation in PROPAGATIONS
        }
    if support is not None:
        n, action = len(support.episode), task.action_space.shape
        shapes |= {"support.core": (n, core), "support.next_core": (n, core)}
        shapes |= {"support.action": (n, int(np.prod(action))) if action else (n,)}
        shapes |= {"support.episode": (n,), "support.step": (n,)}
    found = {
        name: array.shape for name, array in arrays.items() if not name.startswith(("dynamics.", "readout."))
    }
    predicted = 0 if readout is None else readout.target_dim
    ours = (config.geometry, config.action_dim, predicted)
    if found != shapes or ours != (task.core.geometry, task.action_dim, task.core.readout_dim):
        raise RuntimeError("its arrays do not fit its task")
