"""Crash-safe artifact directories: safetensors, JSON and a SHA-256 manifest; no pickle, ever.

An artifact directory holds three files:

```
manifest.json                   the commit point: kind, and name, size and SHA-256 of the other two
arrays.<hash16>.safetensors     named by the first 16 hex digits of its own SHA-256
document.<hash16>.json
```

A save writes new payload files beside the old ones and then renames a new manifest over the old one, so a
reader or a crash at any moment meets the old artifact or the new one, whole. A load checks the bytes before
it parses them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from wmgym.io import files
from wmgym.io.files import StoreError, StrPath, read_json, write_json
from wmgym.io.manifest import (
    MANIFEST,
    PAYLOAD,
    Manifest,
    damaged,
    describe,
    parse,
    read_manifest,
    read_payload,
)

try:
    import fcntl
except ImportError:  # Windows; there, two processes must not write one directory at once
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "StoreError",
    "check_place",
    "exists",
    "read_directory",
    "read_json",
    "write_directory",
    "write_json",
]


def write_directory(
    path: StrPath, *, kind: str, arrays: Mapping[str, np.ndarray], document: Mapping[str, Any]
) -> Path:
    """Replace the artifact at `path` atomically.

    A reader or a SIGKILL at any moment sees the old artifact or the new one, whole. When the call returns,
    the new one is on disk. Writers of one directory take turns: the last one wins. Leftovers of a killed one
    are removed; files of any other name are never touched.

    Args:
        path: The directory; it is created with its parents when missing.
        kind: What the artifact is, in lower case, such as `"world"`; `read_directory` asks for the same word.
        arrays: Named arrays of booleans, integers, floats (NaN allowed) or complex64, of any shape.
        document: What `json.dumps` takes, with string keys and finite numbers only; tuples become lists.

    Returns:
        `path` as a `Path`.

    Raises:
        StoreError: The path cannot be written or holds something else, or an argument cannot be stored.
    """
    directory = Path(path)
    payloads = {
        "arrays": _encode_arrays(directory, arrays),
        "document": files.encode_json(directory, document),
    }
    manifest = describe(directory, kind, payloads)
    with files.write_errors(directory):
        files.make_directory(directory)
        with _turn_to_write(directory):
            _refuse_foreign(directory, kind)
            try:
                files.replace(directory / manifest.files.arrays.name, payloads["arrays"])
                files.replace(directory / manifest.files.document.name, payloads["document"])
                files.replace(directory / MANIFEST, files.encode_json(directory, manifest.model_dump()))
            finally:
                _sweep_payloads(directory)
                files.sweep_temporaries(directory)
    return directory


def read_directory(path: StrPath, *, kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Verify every byte against the manifest and return `(arrays, document)`.

    The bytes that are parsed are the very bytes that were hashed. Loading runs no code from the directory.
    A writer may replace the artifact meanwhile: the result is then one of the versions, never a mixture.

    Args:
        path: The directory that `write_directory` wrote.
        kind: The kind that it must be.

    Returns:
        Fresh, writable arrays by name in alphabetical order, and the document.

    Raises:
        StoreError: Nothing is there, it is of another kind, or a byte differs from what was written.
    """
    directory = Path(path)
    failed: Manifest | None = None
    while True:
        manifest = read_manifest(directory)
        if manifest.kind != kind:
            raise StoreError(
                f"{directory} holds a wmgym {manifest.kind!r}, not a {kind!r}; choose another path"
            )
        try:
            arrays = read_payload(directory, manifest.files.arrays)
            document = read_payload(directory, manifest.files.document)
        except files.MissingError:
            # A writer may have swept this payload since the manifest was read: then there is a new manifest.
            if manifest == failed:
                raise
            failed = manifest
        else:
            return _decode_arrays(directory, arrays), parse(directory, document)


def exists(path: StrPath, *, kind: str) -> bool:
    """Tell whether a complete artifact of that kind is at `path`; cheap, as it reads the manifest only."""
    try:
        return read_manifest(Path(path)).kind == kind
    except StoreError:
        return False


def check_place(path: StrPath, *, kind: str | None = None) -> None:
    """Refuse, before any work, a directory that could not be written.

    Args:
        path: The directory; it may be missing.
        kind: What `write_directory` will be asked to write there; None where it is other files.

    Raises:
        StoreError: The path is no writable directory, or it holds something else than such an artifact.
    """
    directory = Path(path)
    there = next(place for place in (directory, *directory.absolute().parents) if os.path.lexists(place))
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise StoreError(
            f"{directory} cannot be written ({there} is no writable directory); choose another --out"
        )
    if kind is not None and there == directory:
        with files.write_errors(directory):
            _refuse_foreign(directory, kind)


def _encode_arrays(directory: Path, arrays: Mapping[str, np.ndarray]) -> bytes:
    stored = {}
    for name in sorted(arrays):
        if name == "__metadata__":
            raise StoreError(f"{directory}: safetensors reserves the array name {name!r}; rename it")
        array = np.asarray(arrays[name], order="C")  # unlike ascontiguousarray it keeps 0-d arrays 0-d
        if array.dtype.kind not in "biufc" or array.dtype.itemsize > 8:  # safetensors knows no wider numbers
            raise StoreError(f"{directory}: cannot store array {name!r} of dtype {array.dtype}; convert it")
        stored[name] = array
    try:
        return safetensors.numpy.save(stored)
    except (safetensors.SafetensorError, ValueError) as error:
        raise StoreError(
            f"{directory}: cannot store the arrays ({files.one_line(error)}); rename them"
        ) from error


def _decode_arrays(directory: Path, payload: bytes) -> dict[str, np.ndarray]:
    try:
        arrays = safetensors.numpy.load(payload)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise damaged(directory, f"its arrays are no safetensors: {files.one_line(error)}") from error
    # Copies, for views on the payload are read-only and not aligned.
    return {name: arrays[name].copy() for name in sorted(arrays)}


@contextlib.contextmanager
def _turn_to_write(directory: Path) -> Iterator[None]:
    """Hold the directory against other writers; the kernel lets go when this process dies, however it dies.

    Without it, a writer's sweep could remove a payload that another one has renamed but not yet committed.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _refuse_foreign(directory: Path, kind: str) -> None:
    """Refuse to write into a directory that holds something other than an artifact of this kind."""
    names = os.listdir(directory)
    if MANIFEST in names:
        try:
            manifest = read_manifest(directory)
        except StoreError as error:
            raise StoreError(
                f"{directory} holds a damaged or foreign {MANIFEST}; choose another --out"
            ) from error
        if manifest.kind != kind:
            raise StoreError(
                f"{directory} holds a wmgym {manifest.kind!r}, not a {kind!r}; choose another --out"
            )
    elif not all(PAYLOAD.fullmatch(name) or files.is_temporary(name) for name in names):
        raise StoreError(f"{directory} is not empty and holds no wmgym artifact; choose another --out")


def _sweep_payloads(directory: Path) -> None:
    """Remove the payload files that the manifest no longer names; the caller has its turn to write."""
    try:
        current = read_manifest(directory).files
    except StoreError:
        return
    for name in os.listdir(directory):
        if PAYLOAD.fullmatch(name) and name not in (current.arrays.name, current.document.name):
            with contextlib.suppress(OSError):
                (directory / name).unlink()
