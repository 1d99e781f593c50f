"""Where an artifact comes from: library versions, data, settings, and what it cost."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from wmgym.io import artifacts
from wmgym.io.schema import STRICT, Count, Fingerprint


def write_run_json(out: Path, command: str, config: Mapping[str, Any], ledger: Mapping[str, float]) -> None:
    """Leave ``run.json`` in ``out``.

    Args:
        out: an existing directory.
        command: the verb.
        config: its settings, JSON values only.
        ledger: real and imagined steps, wall and CPU seconds.
    """
    artifacts.write_json(
        out / "run.json",
        {"command": command, "config": dict(config), "versions": library_versions(), "ledger": dict(ledger)},
    )


def fingerprint(values: Any) -> str:
    """SHA-256 of JSON values, the same for dictionaries in any order."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def content(arrays: Mapping[str, np.ndarray], document: Any) -> str:
    """SHA-256 of arrays and of the JSON values that are beside them."""
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def cpu_seconds() -> float:
    """CPU time of this process and, but for Windows, its finished children."""
    return sum(os.times()[:4])


def library_versions() -> dict[str, str]:
    """Versions that decide what a trajectory looks like."""
    return {name: _version(name) for name in ("wmgym", "gymnasium", "mujoco", "numpy", "torch")}


@functools.cache  # reading one takes milliseconds, and every recorded episode asks for all
def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


@dataclass(frozen=True)
class Provenance:
    """Where a world came from; enough to refuse calibrating it on what it was fitted to.

    Attributes:
        fingerprints: content hashes of the episodes that it was fitted to.
        steps: number of transitions.
        source: whether a real env made them.
        versions: of the libraries.
        fit: settings and outcome of the fit, JSON values.
    """

    __pydantic_config__ = STRICT

    fingerprints: tuple[Fingerprint, ...]
    steps: Count
    source: Literal["real", "imagined"]
    versions: dict[str, str]
    fit: dict[str, Any] = field(default_factory=dict)
