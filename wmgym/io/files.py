"""Single files: replaced in one step and durably, read with one-line errors."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pydantic_core

try:
    import fcntl
except ImportError:  # Windows; there, two processes must not write one directory at once
    fcntl = None  # type: ignore[assignment]

StrPath = str | os.PathLike[str]
_TEMPORARY = re.compile(r"\.tmp-[0-9a-f]{16}")


class StoreError(ValueError):
    """An artifact cannot be written or read; the message is one line that names the path and the cure."""


class MissingError(StoreError):
    """A file is not there."""


def write_json(path: StrPath, document: Mapping[str, Any]) -> Path:
    """Replace one JSON file atomically and durably, in sorted, indented form with a trailing newline.

    Args:
        path: The file; its directory is created with its parents when missing.
        document: What `json.dumps` takes, with string keys and finite numbers only.

    Returns:
        `path` as a `Path`.

    Raises:
        StoreError: The path cannot be written, or the document is not JSON.
    """
    return write_bytes(path, encode_json(Path(path), document))


def write_bytes(path: StrPath, payload: bytes) -> Path:
    """Replace one file atomically and durably; its directory is created with its parents when missing.

    Raises:
        StoreError: The path cannot be written.
    """
    target = Path(path)
    with write_errors(target), writing(target.parent) as replace:
        replace(target.name, payload)
    return target


def read_json(path: StrPath) -> dict[str, Any]:
    """Read one JSON object; NaN and Infinity are refused.

    Raises:
        StoreError: The file cannot be read or is not such an object.
    """
    payload = read_bytes(Path(path))
    try:
        document = pydantic_core.from_json(payload, allow_inf_nan=False)
    except ValueError as error:
        raise StoreError(f"{path} is not a JSON object ({error}); correct it or write it again") from error
    if not isinstance(document, dict):
        raise StoreError(f"{path} is not a JSON object (but a {type(document).__name__}); correct it")
    return document


def encode_json(path: Path, document: Mapping[str, Any]) -> bytes:
    """A document as it is written: sorted, indented, ASCII; `StoreError` names `path` where it is no JSON."""
    try:
        text = json.dumps(dict(document), allow_nan=False, sort_keys=True, indent=2)
    except (TypeError, ValueError) as error:
        raise StoreError(f"{path}: the document is not JSON ({error}); convert or drop that value") from error
    return f"{text}\n".encode("ascii")


def read_bytes(path: Path) -> bytes:
    """Read a regular file.

    Raises:
        MissingError: There is none.
        StoreError: It is something else, or cannot be read.
    """
    try:
        # One look, since a writer may sweep the file between two. Reading a named pipe would wait for ever.
        if not stat.S_ISREG(path.stat().st_mode):
            raise StoreError(f"{path} is not a regular file; choose another path")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingError(f"{path} is missing; check the path or write it again") from error
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror}); check its permissions") from error


@contextlib.contextmanager
def writing(directory: Path) -> Iterator[Callable[[str, bytes], None]]:
    """Make a directory where it is missing, hold it against other writers, and give a function that writes.

    ``replace(name, payload)`` gives a file this content in one step, durably: it holds the old content or the
    new. The kernel lets go of the directory when this process dies, however it dies, so temporary files that
    are there in one's turn are left over from a killed writer and go.
    """
    _make_directory(directory)
    with _opened(directory) as descriptor:
        if descriptor is not None:
            with contextlib.suppress(OSError):  # some network file systems have no locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)

        def replace(name: str, payload: bytes) -> None:
            temporary = directory / f".tmp-{secrets.token_hex(8)}"
            with temporary.open("xb") as file:
                file.write(payload)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(directory / name)
            _sync(descriptor)

        try:
            yield replace
        finally:
            remove(directory, filter(is_temporary, os.listdir(directory)))


def remove(directory: Path, names: Iterator[str]) -> None:
    """Remove what can be removed of these files."""
    for name in names:
        with contextlib.suppress(OSError):
            (directory / name).unlink()


def is_temporary(name: str) -> bool:
    """Tell whether a file of that name is one that is written before it is renamed."""
    return _TEMPORARY.fullmatch(name) is not None


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn the system's errors into a `StoreError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path} cannot be written ({error.strerror}); choose another --out") from error


def _make_directory(directory: Path) -> None:
    if not directory.is_dir():
        _make_directory(directory.parent)
        directory.mkdir(exist_ok=True)
        with _opened(directory.parent) as descriptor:
            _sync(descriptor)


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int | None]:
    """A directory's descriptor; None on Windows, which cannot open one."""
    if fcntl is None:
        yield None
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _sync(descriptor: int | None) -> None:
    if descriptor is not None:
        os.fsync(descriptor)
