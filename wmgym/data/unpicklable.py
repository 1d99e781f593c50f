"""Which part of a value cannot be pickled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from types import FunctionType
from typing import Any

_DEPTH = 5  # of parts in parts


def culprit(
    value: Any, error: Exception, dumps: Callable[[Any], object], depth: int = _DEPTH
) -> tuple[str, Exception]:
    """The innermost part of a value that ``dumps`` refuses, such as ``policies['walk']``, and its error.

    Args:
        value: what was refused.
        error: with which error.
        dumps: pickles a value or raises.
        depth: how far to look.
    """
    for name, part in _parts(value) if depth else ():
        try:
            dumps(part)
        except Exception as found:  # whatever the classes of users raise
            inner, why = culprit(part, found, dumps, depth - 1)
            return f"{name}{'.' * bool(inner and inner[0] != '[')}{inner}", why
    return "", error


def _parts(value: Any) -> Iterable[tuple[str, Any]]:
    """Parts of a value that a person would name."""
    if is_dataclass(value) and not isinstance(value, type):
        return [(each.name, getattr(value, each.name)) for each in fields(value)]
    if isinstance(value, Mapping):
        return [(f"[{key!r}]", part) for key, part in value.items()]
    if isinstance(value, (list, tuple)):
        return [(f"[{index}]", part) for index, part in enumerate(value)]
    if isinstance(value, FunctionType) and value.__closure__:
        cells = zip(value.__code__.co_freevars, value.__closure__, strict=True)
        return [(name, cell.cell_contents) for name, cell in cells]
    return []
