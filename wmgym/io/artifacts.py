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

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import safetensors.numpy
from pydantic import Field, ValidationError

from wmgym.io import files
from wmgym.io.files import MANIFEST, StoreError, StrPath, read_json, write_json
from wmgym.io.schema import Count, Record

__all__ = [
    "MANIFEST",
    "StoreError",
    "check_place",
    "digest",
    "exists",
    "read_directory",
    "read_json",
    "write_directory",
    "write_json",
]

_LARGEST_MANIFEST = 1 << 16  # bytes
_LEAST_SPACE = 1 << 24  # bytes on a disk that is not full
_PAYLOAD = re.compile(r"arrays\.[0-9a-f]{16}\.safetensors|document\.[0-9a-f]{16}\.json")
_EXTENSION = {"arrays": "safetensors", "document": "json"}


class _File(Record):
    name: str
    sha256: str
    size: Count

    @classmethod
    def of(cls, role: str, payload: bytes) -> _File:
        """The description of a payload file with this content."""
        sha256 = hashlib.sha256(payload).hexdigest()
        return cls(name=f"{role}.{sha256[:16]}.{_EXTENSION[role]}", sha256=sha256, size=len(payload))


class _Files(Record):
    arrays: _File
    document: _File


class _Manifest(Record):
    format: Literal["wmgym-store"] = "wmgym-store"
    version: Literal[1] = 1
    kind: Annotated[str, Field(pattern="^[a-z][a-z0-9_-]{0,63}$")]
    files: _Files


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
    directory = files.as_path(path)
    payloads = {
        "arrays": _encode_arrays(directory, arrays),
        "document": files.encode_json(directory, document),
    }
    described = {role: _File.of(role, payload) for role, payload in payloads.items()}
    try:
        manifest = _Manifest(kind=kind, files=_Files(**described))
    except ValidationError as error:
        raise StoreError(f"{directory}: kind {kind!r} must be a lower-case word such as 'world'") from error
    with files.write_errors(directory), files.writing(directory) as replace:
        _refuse_foreign(directory, kind)
        try:
            for role, payload in payloads.items():
                replace(described[role].name, payload)
            replace(MANIFEST, files.encode_json(directory, manifest.model_dump()))
        finally:
            _sweep_payloads(directory, replace)
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
    directory = files.as_path(path)
    failed: _Manifest | None = None
    while True:
        manifest = _read_manifest(directory)
        if manifest.kind != kind:
            raise StoreError(
                f"{directory} holds a wmgym {manifest.kind!r}, not a {kind!r}; choose another path"
            )
        try:
            arrays = _read_payload(directory, "arrays", manifest.files.arrays)
            document = _read_payload(directory, "document", manifest.files.document)
        except files.MissingError:
            # A writer may have swept this payload since the manifest was read: then there is a new manifest.
            if manifest == failed:
                raise
            failed = manifest
        else:
            return _decode_arrays(directory, arrays), files.decode_json(directory, document)


def exists(path: StrPath, *, kind: str) -> bool:
    """Tell whether a complete artifact of that kind is at `path`; cheap, as it reads the manifest only."""
    try:
        return _read_manifest(Path(path)).kind == kind
    except StoreError:
        return False


def digest(path: StrPath) -> str:
    """SHA-256 of a file, or of an artifact, every byte of which is verified.

    Raises:
        MissingError: Nothing is there.
        StoreError: It cannot be read, or a byte differs from what was written.
    """
    place = files.as_path(path)
    if os.path.isdir(place):
        manifest = _read_manifest(place)
        _read_payload(place, "arrays", manifest.files.arrays)
        _read_payload(place, "document", manifest.files.document)
        return hashlib.sha256(files.encode_json(place, manifest.model_dump())).hexdigest()
    files.check_file(place, files.LARGEST)
    with files.read_errors(place), place.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_place(
    path: StrPath, *, kind: str | None = None, names: Sequence[str] = (), folder: bool = False
) -> None:
    """Refuse, before any work, a directory that could not be written.

    Args:
        path: The directory; it may be missing.
        kind: What `write_directory` will be asked to write there; None where it is other files.
        names: Names of single files that will be written there.
        folder: Whether artifacts will be written below it, so that it must be none itself.

    Raises:
        StoreError: The path is no writable directory, a name is too long, the disk is full, the directory
            holds something else than such an artifact, or a directory where a file belongs.
    """
    directory = files.as_path(path)
    with files.write_errors(directory):
        there = next(place for place in (directory, *directory.absolute().parents) if files.is_there(place))
        if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
            raise StoreError(
                f"{directory} cannot be written ({there} is no writable directory); choose another --out"
            )
        longest = max(len(os.fsencode(name)) for name in (*directory.parts, MANIFEST, *names))
        if hasattr(os, "pathconf") and longest > os.pathconf(there, "PC_NAME_MAX"):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        if shutil.disk_usage(there).free < _LEAST_SPACE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        for place in (directory / name for name in names):
            if place.is_dir():
                raise StoreError(f"{place} cannot be written (it is a directory); choose another --out")
        if kind is not None and there == directory:
            _refuse_foreign(directory, kind)
        if folder and (directory / MANIFEST).exists():
            raise StoreError(
                f"{directory} holds a wmgym {_read_manifest(directory).kind!r}; choose another --out"
            )


def _read_manifest(directory: Path) -> _Manifest:
    path = directory / MANIFEST
    try:
        payload = files.read_bytes(path, _LARGEST_MANIFEST)
        manifest = _Manifest.model_validate_json(payload)
    except files.MissingError as error:
        state = "holds no wmgym artifact" if os.path.exists(directory) else "is missing"
        raise StoreError(
            f"{directory} {state}; check the path or write it first (wmgym import reads recordings)"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        if first["loc"] == ("version",):
            raise StoreError(f"{path} is of another wmgym version; install the one that wrote it") from error
        raise _damaged(path, " ".join(map(str, (*first["loc"], first["msg"])))) from error
    if files.encode_json(path, manifest.model_dump()) != payload:
        raise _damaged(path, "it is not in canonical form")
    return manifest


def _read_payload(directory: Path, role: str, file: _File) -> bytes:
    if not _PAYLOAD.fullmatch(file.name):
        raise _damaged(directory / MANIFEST, f"no file of {role} is named {file.name!r}")
    payload = files.read_bytes(directory / file.name, file.size if role == "arrays" else files.LARGEST_JSON)
    if _File.of(role, payload) != file:
        raise _damaged(directory / file.name, "its name, size or SHA-256 differs from the manifest's")
    return payload


def _damaged(path: Path, why: str) -> StoreError:
    return StoreError(f"{path} is damaged ({why}); delete it and write it again")


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
        raise StoreError(f"{directory}: cannot store the arrays ({error}); rename them") from error


def _decode_arrays(directory: Path, payload: bytes) -> dict[str, np.ndarray]:
    try:
        arrays = safetensors.numpy.load(payload)
    except Exception as error:  # foreign bytes fail in many ways
        raise _damaged(directory, f"its arrays are no safetensors: {error!r}") from error
    # Copies, for views on the payload are read-only and not aligned.
    return {name: arrays[name].copy() for name in sorted(arrays)}


def _refuse_foreign(directory: Path, kind: str) -> None:
    """Refuse to write into a directory that holds something other than an artifact of this kind."""
    names = os.listdir(directory)
    if MANIFEST in names:
        try:
            found = _read_manifest(directory).kind
        except StoreError as error:
            raise StoreError(
                f"{directory} holds a damaged or foreign {MANIFEST}; choose another --out"
            ) from error
        if found != kind:
            raise StoreError(f"{directory} holds a wmgym {found!r}, not a {kind!r}; choose another --out")
    elif not all(_PAYLOAD.fullmatch(name) or files.is_temporary(name) for name in names):
        raise StoreError(f"{directory} is not empty and holds no wmgym artifact; choose another --out")


def _sweep_payloads(directory: Path, writer: files.Writer) -> None:
    """Remove the payload files that the manifest no longer names."""
    try:
        current = _read_manifest(directory).files
    except StoreError:
        return
    kept = {current.arrays.name, current.document.name}
    writer.sweep(lambda name: _PAYLOAD.fullmatch(name) is not None and name not in kept)
