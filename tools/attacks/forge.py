"""Artifacts changed in one place and hashed again: the check of their contents is what is attacked."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

DELETE = object()
Path_ = tuple[Any, ...]


def write(folder: Path, kind: str, arrays: bytes, document: bytes) -> Path:
    """An artifact of any bytes, with a manifest that fits them."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        file.unlink()
    files = {}
    for role, extension, payload in (("arrays", "safetensors", arrays), ("document", "json", document)):
        sha256 = hashlib.sha256(payload).hexdigest()
        name = f"{role}.{sha256[:16]}.{extension}"
        (folder / name).write_bytes(payload)
        files[role] = {"name": name, "sha256": sha256, "size": len(payload)}
    manifest = {"files": files, "format": "wmgym-store", "kind": kind, "version": 1}
    (folder / "manifest.json").write_text(json.dumps(manifest, sort_keys=True, indent=2) + "\n")
    return folder


def read(folder: Path) -> tuple[bytes, bytes]:
    """The bytes of an artifact's arrays and document."""
    return next(folder.glob("arrays.*")).read_bytes(), next(folder.glob("document.*")).read_bytes()


def places(value: Any, at: Path_ = ()) -> Iterator[Path_]:
    """Where a JSON value can be changed: everything, but of each list the first and the last entry alone."""
    yield at
    if isinstance(value, dict):
        for key, each in value.items():
            yield from places(each, (*at, key))
    elif isinstance(value, list):
        for index in sorted({0, len(value) - 1} & set(range(len(value)))):
            yield from places(value[index], (*at, index))


def dotted(at: Path_) -> str:
    """A place as text, without indices."""
    return ".".join("*" if isinstance(key, int) else key for key in at)


def put(document: Any, at: Path_, value: Any) -> Any:
    """A copy of a JSON value with another value at a place; DELETE takes it out."""
    if not at:
        return value
    changed = copy.deepcopy(document)
    home = changed
    for key in at[:-1]:
        home = home[key]
    if value is DELETE:
        del home[at[-1]]
    else:
        home[at[-1]] = value
    return changed


def look(document: Any, at: Path_) -> Any:
    """The value at a place."""
    for key in at:
        document = document[key]
    return document


class Raw(str):
    """Text that goes into the JSON as it is."""


def encode(document: Any) -> bytes:
    """JSON, NaN and ``Raw`` text included."""
    raws: list[str] = []

    def named(value: Any) -> Any:
        if isinstance(value, Raw):
            raws.append(value)
            return f"@raw{len(raws) - 1}@"
        if isinstance(value, dict):
            return {key: named(each) for key, each in value.items()}
        return [named(each) for each in value] if isinstance(value, list) else value

    text = json.dumps(named(document))
    return re.sub(r'"@raw(\d+)@"', lambda found: raws[int(found[1])], text).encode()


ANYWHERE: dict[str, Any] = {
    "null": None, "true": True, "0": 0, "1": 1, "-1": -1, "0.5": 0.5, "-0.5": -0.5, "1e300": 1e300,
    "1e10": 10**10, "2^63": 2**63, "10^400": Raw("1" + "0" * 400), "10^5000": Raw("1" + "0" * 5_000),
    "1e400": Raw("1e400"),
    "NaN": Raw("NaN"), "Infinity": Raw("Infinity"), "-Infinity": Raw("-Infinity"), "''": "", "text": "x",
    "lone surrogate": Raw('"\\ud800"'), "NUL": "a\0b", "two lines": "a\nb", "module:": "antigravity:X-v0",
    "[]": [], "{}": {}, "[[]]": [[]], "deep": Raw("[" * 5_000 + "]" * 5_000), "long": "x" * 100_000,
}  # fmt: skip
"""Values to put in a place, by name."""


def mutations(value: Any) -> Iterator[tuple[str, Any]]:
    """Other values for a place that holds this one."""
    for name, other in ANYWHERE.items():
        if other != value or isinstance(other, bool) != isinstance(value, bool):  # 0 is 0.0
            yield name, other
    yield "gone", DELETE
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        yield "negated", -value if value else -1
        yield "as float", float(value) + 0.25
        yield "as text", str(value)
    if isinstance(value, list):
        yield "longer", [*value, value[-1] if value else 0]
        if value:
            yield "shorter", value[:-1]
            yield "twice", value * 2
        yield "wrapped", [value]
    if isinstance(value, dict):
        yield "a key more", {**value, "code": "import os"}
    if isinstance(value, str) and value:
        yield "a letter more", f"{value}x"


def _dtype(kind: str) -> Callable[[np.ndarray], np.ndarray]:
    return lambda array: array.astype(kind)


def _one(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        changed = array.astype(np.float32) if array.dtype.kind != "f" else array.copy()
        changed.reshape(-1)[-1:] = value
        return changed

    return change


def _integers(value: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        changed = array.copy()
        if array.dtype.kind == "i":
            changed.reshape(-1)[-1:] = value
        return changed

    return change


_KINDS = ("float64", "int64", "int8", "uint16", "bool", "complex64", "float16")
ARRAYS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    **{f"as {kind}": _dtype(kind) for kind in _KINDS},
    **{f"one {value}": _one(value) for value in (np.nan, np.inf, -np.inf, 1e38, -1e38)},
    **{f"one {value}": _integers(value) for value in (-1, 10**9, -(2**63))},
    "0-d": lambda array: array.reshape(-1)[0] if array.size else np.float32(0).reshape(()),
    "empty": lambda array: array[:0] if array.ndim else np.zeros(0, array.dtype),
    "a row less": lambda array: array[:-1] if array.ndim else array.reshape(1),
    "a row more": lambda array: np.concatenate([array, array[-1:]]) if array.ndim else array.reshape(1),
    "a column less": lambda array: array[..., :-1] if array.ndim else array.reshape(1),
    "an axis more": lambda array: array[..., None],
    "an axis before": lambda array: array[None],
    "flat": lambda array: array.reshape(-1, 1),
    "turned": lambda array: np.ascontiguousarray(array.T) if array.ndim > 1 else array[None],
    "reversed": lambda array: np.ascontiguousarray(array[::-1]) if array.ndim else array,
    "negated": lambda array: ~array if array.dtype == bool else -array,
    "zeros": np.zeros_like,
    "all -1": lambda array: np.full_like(array, True if array.dtype == bool else -1),
    "1e30 times": lambda array: (array.astype(np.float32) * 1e30) if array.dtype.kind == "f" else array,
    "wide": lambda array: np.zeros((0, 10**9), array.dtype),
}  # fmt: skip
"""Changes of one array, by name."""


def array_changes(array: np.ndarray) -> Iterator[str]:
    """Names of the changes that make another array of this one."""
    for how, change in ARRAYS.items():
        with np.errstate(all="ignore"):
            other = np.asarray(change(array))
        if (other.shape, other.dtype) != (array.shape, array.dtype) or other.tobytes() != array.tobytes():
            yield how
    yield from ("gone", "twice")


def changed_arrays(arrays: dict[str, np.ndarray], name: str, how: str) -> bytes:
    """Safetensors of the arrays with one of them changed, gone, or with one more."""
    if how == "gone":
        changed = {key: array for key, array in arrays.items() if key != name}
    elif how == "twice":
        changed = {**arrays, f"{name}.0": arrays[name]}
    else:
        with np.errstate(all="ignore"):
            changed = {**arrays, name: np.asarray(ARRAYS[how](arrays[name]))}
    return safetensors.numpy.save({key: np.array(array, order="C") for key, array in changed.items()})


def headers(payload: bytes) -> Iterator[tuple[str, bytes]]:
    """Safetensors with a changed header."""
    size = int.from_bytes(payload[:8], "little")
    header, rest = json.loads(payload[8 : 8 + size]), payload[8 + size :]
    name = next(key for key in header if key != "__metadata__")

    def packed(changed: Any) -> bytes:
        text = changed if isinstance(changed, bytes) else json.dumps(changed).encode()
        return len(text).to_bytes(8, "little") + text + rest

    for key, value in {
        "dtype": "F8_E4M3", "shape": [10**12, 10**12], "data_offsets": [0, 2**62],
    }.items():  # fmt: skip
        yield f"{key} {value}", packed({**header, name: {**header[name], key: value}})
    yield "dtype X", packed({**header, name: {**header[name], "dtype": "X"}})
    yield "dtype BF16", packed({**header, name: {**header[name], "dtype": "BF16"}})
    yield "no dtype", packed({**header, name: {}})
    yield "no header", packed(b"")
    yield "no JSON", packed(b"{")
    yield "deep JSON", packed(b"[" * 100_000)
    yield "a long header", (2**62).to_bytes(8, "little") + payload[8:]
    yield "metadata", packed({"__metadata__": {"code": "x"}, **header})
    yield "no bytes", b""
    yield "zeros", bytes(len(payload))
    yield "pickle", b"cos\nsystem\n(S'false'\ntR."
    yield "rest doubled", payload + rest
