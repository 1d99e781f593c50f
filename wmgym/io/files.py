"""Single files: replaced in one step and durably, read with one-line errors."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

StrPath = str | os.PathLike[str]
_TEMPORARY = re.compile(r"\.tmp-([1-9][0-9]{0,8})-[0-9a-f]{16}")  # the number is the writer's process id
_STALE_SECONDS = 3600.0


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
    target = Path(path)
    payload = encode_json(target, document)
    with write_errors(target):
        make_directory(target.parent)
        sweep_temporaries(target.parent)
        replace(target, payload)
    return target


def read_json(path: StrPath) -> dict[str, Any]:
    """Read one JSON object; NaN and Infinity are refused.

    Raises:
        StoreError: The file cannot be read or is not such an object.
    """
    payload = read_bytes(Path(path))
    try:
        return decode_json(payload)
    except ValueError as error:
        raise StoreError(f"{path} is not a JSON object ({error}); correct it or write it again") from error


def encode_json(path: Path, document: Mapping[str, Any]) -> bytes:
    """A document as it is written: sorted, indented, ASCII.

    Raises:
        StoreError: It is not JSON; the message names `path`.
    """
    try:
        text = json.dumps(dict(document), allow_nan=False, sort_keys=True, indent=2)
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(
            f"{path}: the document is not JSON ({one_line(error)}); convert or drop that value"
        ) from error
    return f"{text}\n".encode("ascii")


def decode_json(payload: bytes) -> dict[str, Any]:
    """Parse one JSON object.

    Raises:
        ValueError: It is not one; the message is a line that says why.
    """
    try:
        document = json.loads(payload.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(one_line(error)) from error
    if not isinstance(document, dict):
        raise ValueError(f"it is a {type(document).__name__}")
    return document


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


def replace(target: Path, payload: bytes) -> None:
    """Give `target` this content in one step, durably: it holds the old content or the new."""
    temporary = target.parent / f".tmp-{os.getpid()}-{secrets.token_hex(8)}"
    try:
        with temporary.open("xb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_directory(target.parent)


def make_directory(directory: Path) -> None:
    """Create a directory and its parents, durably."""
    if directory.exists() and not directory.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, f"{directory} is a file")
    if not directory.exists():
        make_directory(directory.parent)
        directory.mkdir(exist_ok=True)
        _sync_directory(directory.parent)


def is_temporary(name: str) -> bool:
    """Tell whether a file of that name is one that `replace` writes before it renames it."""
    return _TEMPORARY.fullmatch(name) is not None


def sweep_temporaries(directory: Path) -> None:
    """Remove what killed writers left: temporary files of dead processes, and any older than an hour."""
    for name in os.listdir(directory):
        match = _TEMPORARY.fullmatch(name)
        if match is None:
            continue
        with contextlib.suppress(OSError):
            age = time.time() - (directory / name).stat().st_mtime
            if age > _STALE_SECONDS or not _is_alive(int(match[1])):
                (directory / name).unlink()


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn the system's errors into a `StoreError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path} cannot be written ({error.strerror}); choose another --out") from error


def one_line(error: BaseException) -> str:
    """The error's message without line breaks."""
    return " ".join(str(error).split())


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _sync_directory(directory: Path) -> None:
    if not hasattr(os, "O_DIRECTORY"):  # Windows cannot open one
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_alive(process_id: int) -> bool:
    if os.name == "nt":  # where signal 0 would end it
        return True
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
