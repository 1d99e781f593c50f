"""The parts of a world as arrays and JSON values, and back: what a save writes and a load checks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pydantic import JsonValue

from wmgym.data.columns import LARGEST
from wmgym.io.deprecation import warn_old_file
from wmgym.io.provenance import Provenance
from wmgym.io.schema import (
    ArraySpec,
    Count,
    Record,
    check_arrays,
    join_arrays,
    refusing,
    split_arrays,
    to_json,
)
from wmgym.models.coordinates import Coordinates
from wmgym.models.dynamics import Dynamics, pack_dynamics, unpack_dynamics
from wmgym.models.ensemble import EnsembleMLP
from wmgym.models.error_bounds import Calibration
from wmgym.models.flags import FlagNetwork, Flags
from wmgym.models.outcomes import Classifier, Outcomes
from wmgym.models.pairs import RewardNetwork, outcome_geometry, outcome_pair, pair_geometry
from wmgym.models.self_check import CheckRecord
from wmgym.models.support import Support
from wmgym.tasks.geometry import Geometry
from wmgym.tasks.schema import TaskRecord, rebuild_task, record_task
from wmgym.tasks.task import Task

_BANK = ("starts", "low", "high")
_OUTCOMES = {"outcomes": "network", "rewards": "rewards"}  # by the name under which their arrays are


class _ModelRecord(Record):
    kind: str
    settings: dict[str, JsonValue]


class _WorldRecord(Record):
    """What a world's document holds.

    Attributes:
        start_states: how many there are; None in worlds that were saved before it was counted.
        check: steps that a load takes again; None in worlds that were saved before there were any.
    """

    task: TaskRecord
    dynamics: _ModelRecord
    readout: _ModelRecord | None
    provenance: Provenance
    calibration: dict[str, JsonValue] | None
    support: dict[str, JsonValue] | None
    start_states: Count | None = None
    outcomes: dict[str, JsonValue] | None = None
    flags: dict[str, JsonValue] | None = None
    check: CheckRecord | None = None


def pack_parts(parts: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The fields of a ``WorldModel`` as arrays by dotted name and JSON values.

    Raises:
        ValueError: the dynamics has no name to be saved under, or a keyword of its env is no JSON value.
    """
    arrays: dict[str, np.ndarray] = {name: parts[name] for name in _BANK}
    document: dict[str, Any] = {
        "task": record_task(parts["task"]),
        "provenance": parts["provenance"],
        "start_states": len(parts["starts"]),
    }
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
    outcomes: Outcomes | None = parts["outcomes"]
    document["outcomes"] = None if outcomes is None else outcomes.document()
    for name, network in _learned(outcomes).items():
        own, document["outcomes"][_OUTCOMES[name]] = network.pack()
        arrays |= {f"{name}.{key}": array for key, array in own.items()}
    flags: Flags | None = parts["flags"]
    if flags is not None:
        own, settings = flags.network.pack()
        document["flags"] = {**flags.document(), "network": settings}
        arrays |= {f"flags.{key}": array for key, array in own.items()}
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
    refusal = name, "a world", "fit it again"
    arrays = {key: a.astype(np.float32) if a.dtype == np.float16 else a for key, a in arrays.items()}
    if "ensemble" in document:
        with refusing(*refusal):
            stored = TaskRecord.model_validate(document["task"])
        geometry = to_json(rebuild_task(stored, task, name).core.geometry.coarser())
        with refusing(*refusal):
            arrays, document = _renewed(arrays, document, geometry)
        warn_old_file(name)
    with refusing(*refusal):
        record = _WorldRecord.model_validate_json(json.dumps(document))
        parts = _rebuild(record, arrays)
    parts["task"] = rebuild_task(record.task, task, name)
    if task is not None and hasattr(parts["dynamics"], "made_by"):
        parts["dynamics"] = parts["dynamics"].made_by(task)
    with refusing(*refusal):
        starts = len(arrays["starts"]) if record.start_states is None else record.start_states
        _check(parts, arrays, max(starts, 1))
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
    parts["outcomes"] = None
    if record.outcomes is not None:
        values = dict(record.outcomes)
        learned: dict[str, type[EnsembleMLP]] = {"outcomes": Classifier, "rewards": RewardNetwork}
        networks = {}
        for name, of_kind in learned.items():
            settings: Any = values.pop(_OUTCOMES[name], None)
            networks[_OUTCOMES[name]] = of_kind.unpack(_under(name, arrays), settings) if settings else None
        parts["outcomes"] = Outcomes.from_document(values, **networks)
    parts["flags"] = None
    if record.flags is not None:
        values = dict(record.flags)
        network = FlagNetwork.unpack(_under("flags", arrays), values.pop("network"))
        parts["flags"] = Flags.from_document(values, network, arrays["starts"].shape[1])
    return parts


def _under(part: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    prefix = f"{part}."
    return {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}


def _check(parts: Mapping[str, Any], arrays: Mapping[str, np.ndarray], starts: int) -> None:
    """Refuse parts that do not belong to this task, or another number of start states."""
    task, dynamics, readout = parts["task"], parts["dynamics"], parts["readout"]
    calibration, support, core = parts["calibration"], parts["support"], task.core
    specs = {"starts": ArraySpec((starts, core.state_dim), low=-LARGEST, high=LARGEST)}
    ends = ArraySpec((core.dim + core.displacement_dim,), low=-np.inf, high=np.inf)
    specs |= dict.fromkeys(("low", "high"), ends)
    if calibration is not None:
        own = calibration.specs(core.dim, dynamics.target_dim)
        specs |= {f"calibration.{name}": spec for name, spec in own.items()}
    if support is not None:
        specs |= {f"support.{name}": spec for name, spec in support.specs(task).items()}
    outcomes: Outcomes | None = parts["outcomes"]
    flags: Flags | None = parts["flags"]
    names = ("dynamics", *(name for name in ("readout", "outcomes", "flags") if parts[name] is not None))
    models = tuple(f"{name}." for name in (*names, *_learned(outcomes)))
    check_arrays({name: array for name, array in arrays.items() if not name.startswith(models)}, specs)
    low, high = (np.clip(parts[end].astype(np.float64), -1e30, 1e30) for end in ("low", "high"))
    if (low > high).any():
        raise ValueError("low exceeds high")
    kept = {"starts": parts["starts"]} | (
        {} if support is None else {"support": np.concatenate([support.core, support.next_core])}
    )
    for name, cores in kept.items():  # a user's own starts may lie outside, but not by far
        below, above = (low - (high - low))[: core.dim], (high + (high - low))[: core.dim]
        if ((cores[:, : core.dim] < below) | (cores[:, : core.dim] > above)).any():
            raise ValueError(f"{name} holds states far outside low and high")
    with np.errstate(all="ignore"):
        shown = core.observe(parts["starts"])
    if not np.isfinite(shown).all():
        raise ValueError("observations of starts are not finite")
    geometry = core.geometry
    coordinates = getattr(dynamics, "coordinates", None) or Coordinates(geometry)
    changes = coordinates.change_dim
    if task.reward is None and (outcomes is None or not outcomes.knows_reward):
        changes += 1
    elif task.reward is None:  # worlds of before predicted it all the same
        changes = max(changes, min(changes + 1, dynamics.target_dim))
    _check_model(dynamics, geometry, changes, parts)
    learned = task.terminated is None and outcomes is None
    may = learned or (task.terminated is None and outcomes is not None and not outcomes.ends.any())
    if isinstance(dynamics, EnsembleMLP) and not learned <= dynamics.config.learns_termination <= may:
        raise ValueError("the dynamics learn a termination that the task knows, or do not learn one")
    if (readout is None) != (core.readout_dim == 0):
        raise ValueError("the readout and the task do not go together")
    if readout is not None:
        _check_model(readout, geometry.in_world(), core.readout_dim, parts)
    if flags is not None and flags.columns.max() >= core.dim:
        raise ValueError("flags are columns of the core")
    one, alone = parts["starts"][:1], pair_geometry(geometry)
    networks = [(network, outcome_geometry(core)) for network in _learned(outcomes).values()]
    networks += [] if flags is None else [(flags.network, alone)]
    for network, seen in networks:
        seen = alone if network.config.geometry == alone else seen
        pair = np.asarray(outcome_pair(core, network, one, one), np.float32)
        _check_model(network, seen, network.target_dim, {**parts, "starts": pair})


def _learned(outcomes: Outcomes | None) -> dict[str, EnsembleMLP]:
    """The networks of outcomes, by the name under which their arrays are."""
    if outcomes is None:
        return {}
    both = {"outcomes": outcomes.network, "rewards": outcomes.rewards}
    return {name: network for name, network in both.items() if network is not None}


def _check_model(model: Dynamics, geometry: Geometry, target_dim: int, parts: Mapping[str, Any]) -> None:
    """Refuse a model that does not predict such targets from the task's cores and actions, finite ones."""
    task = parts["task"]
    if isinstance(model, EnsembleMLP) and model.config.geometry not in (geometry, geometry.coarser()):
        raise ValueError("the network's geometry is not the task's")
    core = torch.tensor(parts["starts"][:1, : geometry.dim])
    with torch.no_grad():
        found = model.predict(core, torch.zeros(1, task.action_dim))
        mean, std = found.mean, found.std
    if not mean.shape == std.shape == (model.num_members, 1, target_dim) or model.target_dim != target_dim:
        raise ValueError(f"the network predicts {tuple(mean.shape)}, the task needs {target_dim} numbers")
    if not (mean.isfinite().all() and std.isfinite().all()):
        raise ValueError("the network predicts numbers that are not finite")


def rounded(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays of the parts in float16 where they fit; the bank of starts and the limits as they are."""
    most = np.finfo(np.float16).max
    return {
        name: array.astype(np.float16)
        if "." in name and array.dtype == np.float32 and np.all(np.abs(array) < most)
        else array
        for name, array in arrays.items()
    }
