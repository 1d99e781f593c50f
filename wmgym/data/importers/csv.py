"""CSV files: a header that names the columns, a row a step or sample."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from wmgym.data.importers.cells import column
from wmgym.data.importers.table import Table


def read(path: str) -> list[Table]:
    """The one table of a file; comma, semicolon or tab between cells.

    Its fact ``text`` says of every column that is neither numbers nor dates where it is not.

    Raises:
        ValueError: no UTF-8, no header, a row of another length, two columns of one name.
    """
    try:
        content = Path(path).read_text(encoding="utf-8-sig", errors="strict")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is no UTF-8 text (byte {error.start}); save it as CSV in UTF-8") from error
    first, _, rest = content.partition("\n")
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
    reader = csv.reader(io.StringIO(rest), delimiter=delimiter)
    rows, lines = [], []
    for row in filter(None, reader):
        line = reader.line_num + 1
        if len(row) != len(header):
            raise ValueError(f"line {line} has {len(row)} cells, the header names {len(header)} columns")
        rows.append(row)
        lines.append(line)
    if not rows:
        raise ValueError("it has a header and no rows")
    columns, text = {}, {}
    for name, words in zip(header, zip(*rows, strict=True), strict=True):
        columns[name], said = column(words, lines, commas=delimiter != ",")
        if said is not None:
            text[name] = said
    return [Table(path, columns, {"text": text} if text else {})]


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
