"""CSV files: a header that names the columns, a row a step or sample."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from wmgym.data.importers.table import Table

_MISSING = {"", "nan", "na", "n/a", "null", "none", "-"}
_FLAGS = {"true": 1.0, "false": 0.0}


def read(path: str) -> list[Table]:
    """The one table of a file; comma, semicolon or tab between cells.

    Raises:
        ValueError: no header, a row of another length, two columns of one name.
    """
    text = Path(path).read_text(encoding="utf-8-sig", errors="strict")
    first, _, rest = text.partition("\n")
    delimiter = max(",;\t", key=first.count)
    header = [name.strip() for name in next(csv.reader([first.lstrip("# ")], delimiter=delimiter), [])]
    _check_header(header)
    if "\n" in rest and not rest.endswith("\n"):  # a logger that was killed leaves half a line
        complete, _, last = rest.rpartition("\n")
        if last.count(delimiter) + 1 < len(header):
            rest = complete
    try:
        values = np.loadtxt(io.StringIO(rest), delimiter=delimiter, comments=None, ndmin=2)
        if values.shape[1] == len(header):
            return [Table(path, {name: values[:, k].copy() for k, name in enumerate(header)})]
    except ValueError:
        pass  # empty cells, words, dates: cell by cell
    rows = [row for row in csv.reader(io.StringIO(rest), delimiter=delimiter) if row]
    for k, row in enumerate(rows):
        if len(row) != len(header):
            raise ValueError(f"line {k + 2} has {len(row)} cells, the header names {len(header)} columns")
    if not rows:
        raise ValueError("it has a header and no rows")
    cells = zip(*rows, strict=True)
    return [Table(path, {name: _numbers(name, column) for name, column in zip(header, cells, strict=True)})]


def _check_header(header: list[str]) -> None:
    def number(text: str) -> bool:
        try:
            float(text)
        except ValueError:
            return False
        return True

    if not any(header) or all(map(number, header)):
        raise ValueError("its first line must name the columns")
    twice = {name for name in header if header.count(name) > 1}
    if twice:
        raise ValueError(f"two columns are called {sorted(twice)[0]!r}; rename one")


def _numbers(name: str, cells: tuple[str, ...]) -> np.ndarray:
    """A column of text as numbers; of dates as seconds, of labels as their places in the alphabet."""
    words = [cell.strip() for cell in cells]
    try:
        return np.array([_number(word) for word in words])
    except ValueError:
        pass
    try:
        dates = np.array([word.removesuffix("Z") for word in words], "datetime64[ns]")
    except ValueError:
        return np.unique(words, return_inverse=True)[1].astype(np.int64)
    day = dates[0].astype("datetime64[D]")
    seconds: np.ndarray = (dates - day).astype(np.int64) / 1e9 + float(day.astype(np.int64)) * 86_400
    return seconds


def _number(word: str) -> float:
    low = word.lower()
    if low in _MISSING:
        return float("nan")
    return _FLAGS[low] if low in _FLAGS else float(word)
