"""The parts of a world as arrays and JSON values, and back: what a save writes and a load checks."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from pydantic import JsonValue

from wmgym.io.artifacts import StoreError
from wmgym.io.deprecation import warn_old_file
from wmgym.io.provenance import Provenance
from wmgym.io.schema import Record, join_arrays, split_arrays, to_json
from wmgym.models.coordinates import Coordinates
from wmgym.models.dynamics import Dynamics, pack_dynamics, unpack_dynamics
from wmgym.models.ensemble import EnsembleMLP
from wmgym.models.error_bounds import Calibration
from wmgym.models.support import Support
from wmgym.tasks.schema import TaskRecord, rebuild_task, record_task
from wmgym.tasks.task import Task

_BANK = ("starts", "low", "high")


class _ModelRecord(Record):
    kind: str
    settings: dict[str, JsonValue]


class _WorldRecord(Record):
    task: TaskRecord
    dynamics: _ModelRecord
    readout: _ModelRecord | None
    provenance: Provenance
    calibration: dict[str, JsonValue] | None
    support: dict[str, JsonValue] | None


def pack_parts(parts: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The fields of a ``WorldModel`` as arrays by dotted name and JSON values.

    Raises:
        ValueError: the dynamics has no name to be saved under, or a keyword of its env is no JSON value.
    """
    arrays: dict[str, np.ndarray] = {name: parts[name] for name in _BANK}
    document: dict[str, Any] = {"task": record_task(parts["task"]), "provenance": parts["provenance"]}
    for name in ("dynamics", "readout", "calibration", "support"):
        part, document[name] = parts[name], None
        if part is None:
            continue
        if name in ("dynamics", "readout"):
            kind, own, settings = pack_dynamics(part)
            document[name] = {"kind": kind, "settings": settings}
        else:
            own, document[name] = split_arrays(part)
        arrays |= {f"{name}.{key}": array for key, array in own.items()}
    return arrays, _WorldRecord(**document).model_dump(mode="json")


def unpack_parts(
    arrays: Mapping[str, np.ndarray], document: Mapping[str, Any], task: Task | None, name: str
) -> dict[str, Any]:
    """The fields of the ``WorldModel`` that ``pack_parts`` took apart.

    Args:
        arrays: those in float16 come back as float32.
        document: JSON values.
        task: the caller's, where no file can hold its functions.
        name: what the error calls it.

    Raises:
        ValueError: the file needs ``task``, or the one given describes other spaces.
        StoreError: this is not a world of this version of wmgym, or of a model whose class is not imported.
    """
    arrays = {key: a.astype(np.float32) if a.dtype == np.float16 else a for key, a in arrays.items()}
    if "ensemble" in document:
        with _refusing(name):
            stored = TaskRecord.model_validate(document["task"])
        geometry = to_json(rebuild_task(stored, task).core.geometry)
        with _refusing(name):
            arrays, document = _renewed(arrays, document, geometry)
        warn_old_file(name)
    with _refusing(name):
        record = _WorldRecord.model_validate_json(json.dumps(document))
        parts = _rebuild(record, arrays)
    parts["task"] = rebuild_task(record.task, task)
    with _refusing(name):
        _check(parts, arrays)
    return parts


def _renewed(
    arrays: Mapping[str, np.ndarray], document: Mapping[str, Any], geometry: JsonValue
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """A world as version 0.1 stored it, as this one does; its network's geometry was its task's."""
    new = dict(document)
    new["dynamics"] = {"kind": "ensemble", "settings": {**new.pop("ensemble"), "geometry": geometry}}
    new["readout"] = new["readout"] and {"kind": "ensemble", "settings": new["readout"]}
    typical = new.pop("typical_distance")
    new["support"] = None if typical is None else {"typical": typical}
    return {key.replace(".per_doubt.", ".per_disagreement."): array for key, array in arrays.items()}, new


@contextlib.contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Make a ``StoreError`` of whatever goes wrong, in a class of the caller's too."""
    try:
        yield
    except StoreError as error:
        raise StoreError(f"{name}: {error}") from error
    except Exception as error:
        reason = getattr(error, "title", None) or (str(error) or type(error).__name__).splitlines()[0]
        text = f"{name}: not a world of this version of wmgym ({reason}); fit it again"
        raise StoreError(text) from error


def _rebuild(record: _WorldRecord, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    parts: dict[str, Any] = {name: arrays[name] for name in _BANK}
    parts["provenance"] = record.provenance
    for name in ("dynamics", "readout"):
        model = getattr(record, name)
        if model is not None:
            model = unpack_dynamics(model.kind, _under(name, arrays), model.settings)
        parts[name] = model
    for name, kind in (("calibration", Calibration), ("support", Support)):
        values = getattr(record, name)
        parts[name] = None if values is None else join_arrays(kind, _under(name, arrays), values)
    return parts


def _under(part: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    prefix = f"{part}."
    return {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}


def _check(parts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Refuse parts that do not belong to this task."""
    task, dynamics, readout = parts["task"], parts["dynamics"], parts["readout"]
    core, moved = task.core.dim, task.core.displacement_dim
    bank = (max(len(arrays["starts"]), 1), task.core.state_dim)
    shapes: dict[str, tuple[int, ...]] = {"starts": bank, **dict.fromkeys(("low", "high"), (core + moved,))}
    calibration, support = parts["calibration"], parts["support"]
    if calibration is not None:
        own = calibration.shapes(core, dynamics.target_dim)
        shapes |= {f"calibration.{name}": shape for name, shape in own.items()}
    if support is not None:
        own = support.shapes(core, task.action_space.shape)
        shapes |= {f"support.{name}": shape for name, shape in own.items()}
    found = {
        name: array.shape for name, array in arrays.items() if not name.startswith(("dynamics.", "readout."))
    }
    coordinates = getattr(dynamics, "coordinates", None) or Coordinates(task.core.geometry)
    fits = _fits(dynamics, task, coordinates.change_dim + int(task.reward is None))
    if readout is not None or task.core.readout_dim:
        fits = fits and readout is not None and _fits(readout, task, task.core.readout_dim)
    if isinstance(dynamics, EnsembleMLP):
        fits = fits and dynamics.config.geometry == task.core.geometry
    if found != shapes or not fits:
        raise RuntimeError("its arrays do not fit its task")


def _fits(model: Dynamics, task: Task, target_dim: int) -> bool:
    """Whether a model predicts such targets from the task's cores and actions."""
    with torch.no_grad():
        mean = model.predict(torch.zeros(1, task.core.dim), torch.zeros(1, task.action_dim)).mean
    return mean.shape == (model.num_members, 1, target_dim) and model.target_dim == target_dim


def rounded(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays of the parts in float16 where they fit; the bank of starts and the limits as they are."""
    most = np.finfo(np.float16).max
    return {
        name: array.astype(np.float16)
        if "." in name and array.dtype == np.float32 and np.all(np.abs(array) < most)
        else array
        for name, array in arrays.items()
    }
