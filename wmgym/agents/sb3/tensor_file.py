"""Tensors of a ``torch.save`` file, read without torch and without running the pickle that describes them.

torch resizes a storage that a tensor's shape exceeds, so 5 kB can ask for gigabytes. Here the pickle's
opcodes are looked at one by one; those of a plain state dict are understood, anything else is refused, and a
tensor has to fit the bytes that are there.
"""

from __future__ import annotations

import io
import math
import pickletools
import zipfile
from typing import IO, Any, NamedTuple

import numpy as np

LARGEST = 1 << 28  # bytes of a member: far above any MLP, far below memory
_LARGEST_PICKLE = _LARGEST_DIRECTORY = 1 << 20
_DTYPES = {
    f"torch {kind}Storage": np.dtype(name)
    for kind, name in {
        "Float": "<f4", "Double": "<f8", "Half": "<f2", "Long": "<i8", "Int": "<i4", "Short": "<i2",
        "Char": "i1", "Byte": "u1", "Bool": "?",
    }.items()
}  # fmt: skip
_REBUILD = "torch._utils _rebuild_tensor_v2"


class _Storage(NamedTuple):
    dtype: np.dtype[Any]
    key: str
    numbers: int


class _Stored(NamedTuple):
    """A tensor that has not been read."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]


class _Name(str):
    """A global's name, which is never looked up."""


_MARK = object()


def open_zip(file: IO[bytes]) -> zipfile.ZipFile:
    """A zip with a directory of a size that can be read.

    Raises:
        ValueError: it is none, or names too many members.
    """
    file.seek(max(0, file.seek(0, io.SEEK_END) - 22 - (1 << 16)))
    tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) < at + 22:
        raise ValueError("no zip file")
    directory = int.from_bytes(tail[at + 12 : at + 16], "little")
    if tail[at - 20 : at - 16] == b"PK\6\7":  # 64-bit sizes stand before it; torch always writes them
        directory = max(directory, int.from_bytes(tail[at - 36 : at - 28], "little"))
    if directory > _LARGEST_DIRECTORY:
        raise ValueError("its directory of members is implausibly large")
    return zipfile.ZipFile(file)


def read_member(archive: zipfile.ZipFile, name: str, most: int = LARGEST) -> bytes:
    """A member that is stored as it is, as SB3 and torch store them.

    Raises:
        ValueError: it is missing, compressed, encrypted, too large or damaged.
    """
    try:
        info = archive.getinfo(name)
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise ValueError(
                f"{name} is compressed, as Stable-Baselines3 never saves it; save the model again"
            )
        if info.file_size > most:
            raise ValueError(f"{name} has {info.file_size} bytes, implausibly many")
        return archive.read(info)
    except KeyError:
        raise ValueError(f"it has no {name}") from None


def read_tensors(payload: bytes) -> dict[str, np.ndarray]:
    """The tensors of a state dict that torch has saved.

    Raises:
        ValueError: it is no plain state dict, or a tensor does not fit its bytes.
    """
    with open_zip(io.BytesIO(payload)) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("it is no file that torch saves")
        root = pickles[0].removesuffix("data.pkl")
        if (
            f"{root}byteorder" in archive.namelist()
            and read_member(archive, f"{root}byteorder", 8) != b"little"
        ):
            raise ValueError("its numbers are big-endian")
        state = _state_dict(read_member(archive, pickles[0], _LARGEST_PICKLE))
        if sum(math.prod(each.shape) * each.storage.dtype.itemsize for each in state.values()) > len(payload):
            raise ValueError("its tensors are larger than the file")
        keys = {each.storage.key for each in state.values()}
        held = {key: read_member(archive, f"{root}data/{key}") for key in keys}
        return {name: _read(each, held[each.storage.key]) for name, each in state.items()}


def _read(stored: _Stored, held: bytes) -> np.ndarray:
    storage, end = stored.storage, stored.offset + math.prod(stored.shape)
    if len(held) != storage.numbers * storage.dtype.itemsize:
        raise ValueError("a tensor's bytes are not as many as it says")
    if min(stored.offset, *stored.shape, 0) < 0 or end > storage.numbers:
        raise ValueError("a tensor is larger than what is stored of it")
    return np.frombuffer(held, storage.dtype)[stored.offset : end].reshape(stored.shape).copy()


def _state_dict(payload: bytes) -> dict[str, _Stored]:
    """What a pickle of a state dict describes."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    argument: Any
    for opcode, argument, _ in pickletools.genops(payload):
        match opcode.name:
            case "PROTO":
                pass
            case "STOP":
                break
            case "MARK":
                stack.append(_MARK)
            case "GLOBAL":
                stack.append(_Name(argument))
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1":
                stack.append(argument)
            case "NEWTRUE" | "NEWFALSE" | "NONE":
                stack.append(None)
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE":
                stack.append(tuple(_popped(stack)))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(opcode.name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "REDUCE":
                arguments = stack.pop()
                stack.append(_called(stack.pop(), arguments))
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _put(stack[-1], key, value)
            case "SETITEMS":
                items = _popped(stack)
                for key, value in zip(items[::2], items[1::2], strict=True):
                    _put(stack[-1], key, value)
            case "BUILD":  # the versions of the modules
                stack.pop()
            case _:
                raise ValueError(f"its pickle holds {opcode.name}, which a state dict has no need of")
    (state,) = stack
    if not isinstance(state, dict) or not all(isinstance(value, _Stored) for value in state.values()):
        raise ValueError("it is no dict of tensors")
    return state


def _popped(stack: list[Any]) -> list[Any]:
    """What is above the last mark."""
    at = next(k for k in reversed(range(len(stack))) if stack[k] is _MARK)
    found = stack[at + 1 :]
    del stack[at:]
    return found


def _put(target: Any, key: Any, value: Any) -> None:
    if not (isinstance(target, dict) and type(key) is str):  # a nested tuple would hash for ever
        raise ValueError("it is no dict with names as keys")
    target[key] = value


def _storage(described: Any) -> _Storage:
    match described:
        case (str("storage"), _Name() as kind, str() as key, str(), int() as count) if kind in _DTYPES:
            return _Storage(_DTYPES[kind], key, count)
    raise ValueError("a tensor is of a kind that no MLP has")


def _called(function: Any, arguments: Any) -> Any:
    """What a call would make: an empty dict, or a tensor of a shape."""
    match arguments:
        case () if function == "collections OrderedDict":
            return {}
        case (_Storage() as storage, int() as offset, tuple() as shape, tuple() as strides, *_) if (
            function == _REBUILD and all(type(n) is int for n in (*shape, *strides))
        ):
            dense = [math.prod(shape[k + 1 :]) for k in range(len(shape))]
            moved = [(n, a, b) for n, a, b in zip(shape, strides, dense, strict=True) if n > 1 and a != b]
            if moved:
                raise ValueError("a tensor is not stored densely")
            return _Stored(storage, offset, shape)
    raise ValueError("its pickle calls what a state dict has no need of")
