"""Arguments that callers get wrong: refused in one line that names the argument, else as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, SupportsFloat

import numpy as np

SEEDS = 2**64
"""How many torch knows, from 0."""


def number(name: str, given: Any) -> float:
    """A number, of NumPy's or torch's too; refuses text, truth values and arrays of several."""
    kind = isinstance(given, SupportsFloat) and not isinstance(given, bool | np.bool_)
    if not kind or np.ndim(given) > 0:
        raise ValueError(f"{name} must be a number, got {short(given)}")
    try:
        return float(given)
    except OverflowError:  # an int of hundreds of digits
        raise ValueError(f"{name} must be a number that a float holds, got {short(given)}") from None


def whole_number(name: str, given: Any, least: int = 1) -> int:
    """A number of things, also written as ``1e5``; refuses fractions and what is below ``least``."""
    try:
        whole = number(name, given).is_integer() and given >= least
    except ValueError:
        whole = False
    if not whole:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {short(given)}")
    return int(given)


def count_or_none(name: str, given: Any) -> int | None:
    """A number of things, at least one, or None."""
    return None if given is None else whole_number(name, given)


def seed_number(given: Any) -> int:
    """The argument ``seed``: a whole number that torch takes for one too."""
    seed = whole_number("seed", given, least=0)
    if seed >= SEEDS:
        raise ValueError(f"seed must be less than 2**64, got {short(given)}")
    return seed


def keywords(name: str, given: Any) -> dict[str, Any]:
    """Keywords of a function, by name; a copy."""
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise ValueError(f"{name} must be keywords, such as {{'frame_skip': 2}}, got {short(given)}")
    return dict(given)


def numbers(name: str, given: Any) -> np.ndarray:
    """Several numbers as an array; refuses anything else."""
    if isinstance(given, str) or not np.iterable(given):
        raise ValueError(f"{name} must be numbers, such as (0.6, 0.2, 0.2), got {short(given)}")
    return np.array([number(f"{name}[{i}]", each) for i, each in enumerate(given)], np.float64)


def flag(name: str, given: Any) -> bool:
    """True or False; refuses words, of which Python takes "no" for true."""
    if given not in (False, True):
        raise ValueError(f"{name} must be True or False, got {short(given)}")
    return bool(given)


def instance(name: str, given: Any, kind: type, how: str) -> None:
    """Refuse what is of another class; ``how`` says what to do instead."""
    if not isinstance(given, kind):
        raise TypeError(f"{name} must be {kind.__name__}, got {short(given)}; {how}")


def function(name: str, given: Any) -> None:
    """Refuse what is neither None nor can be called."""
    if given is not None and not callable(given):
        raise TypeError(f"{name} must be a function or None, got {short(given)}")


def short(given: object) -> str:
    """A value as it is shown in an error."""
    return " ".join(repr(given).split())[:80]  # arrays are printed on several lines
