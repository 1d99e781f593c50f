"""What ``DynaSAC`` adds to SB3's zip files: JSON and safetensors, checked to the last byte."""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from collections import deque
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import safetensors.numpy
import torch
from stable_baselines3.common.save_util import open_path
from torch import Tensor

from wmgym.io.files import StoreError

Run: TypeAlias = dict[str, Any]
"""JSON values, arrays, tensors and generators, in dicts, lists, tuples and deques."""

_DOCUMENT, _ARRAYS = "dyna_sac.json", "dyna_sac.safetensors"  # SB3 does not look at them
_FORMAT = 1


def append_run(file: io.BytesIO, run: Run) -> None:
    """Add a run to a file that SB3 has written."""
    arrays: dict[str, np.ndarray] = {}
    document = _packed(run | {"format": _FORMAT}, arrays)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(_DOCUMENT, json.dumps(document))
        archive.writestr(_ARRAYS, safetensors.numpy.save(arrays))


def read_run(path: str | Path | io.BufferedIOBase) -> Run:
    """What ``append_run`` added; tuples and deques come back as lists, generators as their states.

    Raises:
        StoreError: a file that is damaged, or not of this version of ``DynaSAC``.
    """
    with contextlib.ExitStack() as stack:
        file = open_path(path, "r", suffix="zip")
        if isinstance(path, (str, Path)):
            stack.enter_context(file)
        try:
            with zipfile.ZipFile(file) as archive:
                if (damaged := archive.testzip()) is not None:
                    raise zipfile.BadZipFile(damaged)
                if "data" not in (names := archive.namelist()):  # a torn one ends in another zip
                    raise zipfile.BadZipFile(path)
                payload = archive.read(_DOCUMENT) if _DOCUMENT in names else b"{}"
                arrays = safetensors.numpy.load(archive.read(_ARRAYS)) if _ARRAYS in names else {}
        except (zipfile.BadZipFile, RuntimeError, ValueError) as error:
            raise StoreError(f"{path} is damaged or no zip file; load an earlier one") from error
    document = json.loads(payload)
    if document.get("format") != _FORMAT:
        raise StoreError(f"{path} was not saved by DynaSAC of this version; load it with what saved it")
    run: Run = _unpacked(document, arrays)
    return run


def _packed(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """A value as JSON, its arrays, tensors and generators in ``arrays``."""
    match value:
        case torch.Generator():
            return _packed(value.get_state(), arrays)
        case Tensor():
            return {"tensor": _packed(value.detach().numpy(), arrays)}
        case np.ndarray():
            name = f"{len(arrays):06d}"
            arrays[name] = np.array(value, order="C")
            return {"array": name}
        case np.generic():
            return value.item()
        case dict():
            return {name: _packed(each, arrays) for name, each in value.items()}
        case list() | tuple() | deque():
            return [_packed(each, arrays) for each in value]
    return value


def _unpacked(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    match value:
        case {"array": str() as name}:
            return arrays[name].copy()  # one that can be written
        case {"tensor": array, **rest} if not rest:
            return torch.from_numpy(_unpacked(array, arrays))
        case dict():
            return {name: _unpacked(each, arrays) for name, each in value.items()}
        case list():
            return [_unpacked(each, arrays) for each in value]
    return value
