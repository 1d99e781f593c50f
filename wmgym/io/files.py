"""Single files: replaced in one step and durably, read with one-line errors."""

from __future__ import annotations

import contextlib
import json
import math
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
MANIFEST = "manifest.json"  # there exactly where an artifact is

LARGEST_JSON = 1 << 26
"""Bytes of a JSON file at most: documents describe, arrays hold."""

LARGEST = 1 << 36
"""Bytes of any other file at most."""

_LARGE, _HOLLOW = 1 << 26, 8  # bytes from which a file must fill at least an eighth of its size on disk
_HOUR = 3_600.0  # seconds
_TEMPORARY = re.compile(r"\.tmp-[0-9a-f]{16}")


class StoreError(ValueError):
    """An artifact cannot be written or read; the message is one line that names the path and the cure."""


class MissingError(StoreError):
    """A file is not there."""


def as_path(given: object) -> Path:
    """What was given as a path.

    Raises:
        StoreError: it is none.
    """
    if not isinstance(given, (str, os.PathLike)) or isinstance(os.fspath(given), bytes):
        raise StoreError(f"a path is a str or a pathlib.Path, got {given!r:.80}; pass one")
    if not os.fspath(given):
        raise StoreError("a path is empty; name a file or a directory, '.' is the current one")
    return Path(given)


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
    return write_bytes(path, encode_json(as_path(path), document))


def write_bytes(path: StrPath, payload: bytes) -> Path:
    """Replace one file atomically and durably; its directory is created with its parents when missing.

    Raises:
        StoreError: The path cannot be written.
    """
    target = as_path(path)
    with write_errors(target), writing(target.parent) as replace:
        replace(target.name, payload)
    return target


def write_files(directory: StrPath, payloads: Mapping[str, bytes]) -> None:
    """Write files by their paths below a directory, such as those of an artifact from another machine.

    Each is replaced atomically and durably, manifests last, so that an artifact is there once it is whole.

    Raises:
        StoreError: One cannot be written.
    """
    for path in sorted(payloads, key=lambda path: (path.rpartition("/")[2] == MANIFEST, path)):
        write_bytes(Path(directory) / path, payloads[path])


def read_json(path: StrPath) -> dict[str, Any]:
    """Read one JSON object; NaN and Infinity are refused.

    Raises:
        StoreError: The file cannot be read or is not such an object.
    """
    return decode_json(path, read_bytes(as_path(path), LARGEST_JSON))


def decode_json(path: StrPath, payload: bytes) -> dict[str, Any]:
    """The JSON object that a file holds; see ``read_json``."""
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
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"{path}: the document is not JSON ({error}); convert or drop that value") from error
    return f"{text}\n".encode("ascii")


def read_bytes(path: Path, most: int) -> bytes:
    """Read a regular file of at most that many bytes.

    Raises:
        MissingError: There is none.
        StoreError: It is something else, larger, or cannot be read.
    """
    check_file(path, most)
    with read_errors(path):
        return path.read_bytes()


def check_file(path: Path, most: int) -> None:
    """Refuse, before it is opened, what is no regular file or would not end; see ``read_bytes``."""
    with read_errors(path):
        found = path.stat()  # opening a named pipe would wait for ever
    if not stat.S_ISREG(found.st_mode):
        raise StoreError(f"{path} is not a regular file; choose another path")
    if found.st_size > most:
        raise StoreError(f"{path} has {found.st_size} bytes, more than the {most} expected; it is damaged")
    blocks = getattr(found, "st_blocks", None)  # Windows does not say
    if found.st_size > _LARGE and blocks is not None and blocks * 512 * _HOLLOW < found.st_size:
        raise StoreError(f"{path} has {found.st_size} bytes but is nearly empty on disk; it is damaged")


@contextlib.contextmanager
def read_errors(path: StrPath) -> Iterator[None]:
    """Turn the system's errors into a `StoreError` that names `path`."""
    try:
        yield
    except StoreError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingError(f"{path} is missing; check the path or write it again") from error
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror}); check path and permissions") from error
    except ValueError as error:  # a NUL in the name
        raise StoreError(f"{str(path)!r} is no path ({error}); choose another one") from error


@contextlib.contextmanager
def writing(directory: Path) -> Iterator[Writer]:
    """Make a directory where it is missing, hold it against other writers, and give what writes to it.

    The kernel lets go of the directory when this process dies, however it dies, so temporary files that are
    there in one's turn are left over from a killed writer and go.
    """
    _make_directory(directory)
    with _opened(directory) as descriptor:
        writer = Writer(directory, descriptor)
        try:
            yield writer
        finally:
            writer.sweep(is_temporary)


class Writer:
    """One's turn to write to a directory; ``writer(name, payload)`` replaces a file."""

    def __init__(self, directory: Path, descriptor: int | None) -> None:
        """Wait for the turn."""
        self._directory, self._descriptor = directory, descriptor
        self._alone = descriptor is not None and _lock(descriptor)

    def __call__(self, name: str, payload: bytes) -> None:
        """Give a file this content in one step, durably: it holds the old content or the new."""
        temporary = self._directory / f".tmp-{secrets.token_hex(8)}"
        with temporary.open("xb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._directory / name)
        if self._descriptor is not None:
            os.fsync(self._descriptor)

    def sweep(self, leftover: Callable[[str], bool]) -> None:
        """Remove what can be removed of the files of such names.

        Without locks, as on some network file systems, another writer may be about to rename or to name one:
        then only those go that are an hour older than the newest, by the clock that dated both.
        """
        with contextlib.suppress(OSError), os.scandir(self._directory) as entries:
            dated = {entry.name: entry.stat().st_mtime for entry in entries}
            last = math.inf if self._alone else max(dated.values(), default=0.0) - _HOUR
            for name in (name for name, when in dated.items() if leftover(name) and when < last):
                with contextlib.suppress(OSError):
                    (self._directory / name).unlink()


def is_there(path: Path) -> bool:
    """Whether a path has anything, be it a link that leads nowhere."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def is_temporary(name: str) -> bool:
    """Tell whether a file of that name is one that is written before it is renamed."""
    return _TEMPORARY.fullmatch(name) is not None


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn the system's errors into a `StoreError` that names `path`."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"{path} cannot be written ({error.strerror}); choose another --out") from error
    except ValueError as error:  # a NUL in the name
        raise StoreError(f"{str(path)!r} is no path ({error}); choose another --out") from error


def _make_directory(directory: Path) -> None:
    if not directory.is_dir():
        _make_directory(directory.parent)
        directory.mkdir(exist_ok=True)
        with _opened(directory.parent) as descriptor:
            if descriptor is not None:
                os.fsync(descriptor)


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


def _lock(descriptor: int) -> bool:
    """Wait until no other writer holds a directory; false where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:
        return False
    return True
