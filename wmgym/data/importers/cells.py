"""A column of a CSV file: text as numbers, or where it is none."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

_MISSING = frozenset({"", "nan", "na", "n/a", "#n/a", "<na>", "null", "none", "-", "--", "?"})
_FLAGS = {"true": 1.0, "false": 0.0}
_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d\S*)?")
_COMMA = re.compile(r"[+-]?\d*,?\d+(e[+-]?\d+)?", re.IGNORECASE)
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")
_QUANTITY = re.compile(r"[+-]?\.?\d")
_MOST_LABELS = 1_000  # more different words than that are no kinds of action


def column(
    words: Sequence[str], lines: Sequence[int], commas: bool
) -> tuple[np.ndarray, dict[str, Any] | None]:
    """Cells as numbers: dates as seconds since 1970, missing values as NaN, other text as places of labels.

    Among labels "none" is one: to do nothing is an action.

    Args:
        words: the cells.
        lines: the line in the file of each.
        commas: whether decimals may be written with a comma: commas do not stand between cells.

    Returns:
        The column, and for text what is to be said about it: the ``line`` and ``cell`` that is no number, a
        ``hint``, the ``labels``, or None where these cannot be kinds of action, and how many cells are
        ``missing``.
    """
    words = [word.strip() for word in words]
    if (found := _numbers(words)) is not None:
        return found, None
    if commas and _decimal_commas(words):
        return np.array([_number(word.replace(",", ".")) for word in words]), None
    known = [word.lower() not in _MISSING for word in words]
    is_date = [_DATE.fullmatch(word) is not None for word in words]
    if all(date or not here for date, here in zip(is_date, known, strict=True)):
        try:
            return _seconds([word if date else "" for word, date in zip(words, is_date, strict=True)]), None
        except ValueError:  # 2026-13-45
            is_date = [False] * len(words)
    is_number = [_numbers([word]) is not None for word in words]
    named = [there or word.lower() == "none" for word, there in zip(words, known, strict=True)]
    right = is_date if sum(is_date) > sum(is_number) else is_number
    at = next(k for k, word in enumerate(words) if known[k] and not right[k])
    labels, codes = np.unique(
        [w for w, there in zip(words, named, strict=True) if there], return_inverse=True
    )
    quantities = sum(map(bool, map(_QUANTITY.match, labels))) > 0.5 * len(labels)  # 3.2 Nm
    numbers = any(number and there for number, there in zip(is_number, known, strict=True))
    alike = not numbers and not quantities and len(labels) <= _MOST_LABELS
    said = {
        "line": lines[at],
        "cell": words[at][:40],
        "hint": _hint(words[at], first=at == 0 < len(words) - 1 and all(is_number[1:])),
        "labels": labels.tolist() if alike else None,
        "missing": known.count(False),
    }
    places = np.full(len(words), np.nan)
    places[np.array(named)] = codes
    return places, said


def _hint(word: str, first: bool) -> str:
    if first:
        return "if this line holds units, delete it"
    if _QUANTITY.match(word) and re.search(r"[^\d.,+-]\s*$", word):
        return "write the number alone, and its unit in the column's name"
    if re.search(r"\d,\d", word):
        return "write decimals with a point, and no separator of thousands"
    return "correct the cell, or empty it where the value is missing"


def _numbers(words: Sequence[str]) -> np.ndarray | None:
    try:
        return np.array([_number(word) for word in words])
    except ValueError:
        return None


def _number(word: str) -> float:
    low = word.lower()
    if low in _MISSING:
        return float("nan")
    if low in _FLAGS:
        return _FLAGS[low]
    if "_" in word or not word.isascii() or not math.isfinite(number := float(word)):
        raise ValueError(word)  # Python takes 1_000, digits of any script, and 1e400 as infinite
    return number


def _decimal_commas(words: Sequence[str]) -> bool:
    """Whether all commas are decimal ones, which those of 1,234 and 12,345 need not be."""
    numbers = [word for word in words if word.lower() not in _MISSING]
    with_comma = [word for word in numbers if "," in word]
    return all(map(_COMMA.fullmatch, numbers)) and not all(map(_THOUSANDS.fullmatch, with_comma))


def _seconds(dates: Sequence[str]) -> np.ndarray:
    """Seconds since 1970 of ISO dates; NaN for empty ones."""
    stamps = np.array([date.removesuffix("Z") for date in dates], "datetime64[ns]")
    known = ~np.isnat(stamps)
    day = stamps[known][0].astype("datetime64[D]")
    seconds: np.ndarray = (stamps - day).astype(np.int64) / 1e9 + float(day.astype(np.int64)) * 86_400
    return np.where(known, seconds, np.nan)
