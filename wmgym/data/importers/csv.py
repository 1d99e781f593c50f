"""CSV files: a header that names the columns, a row a step or sample."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from pathlib import Path

import numpy as np

from wmgym.data.importers.cells import column
from wmgym.data.importers.table import Table


def read(path: str) -> list[Table]:
    """The one table of a file, be it compressed by gzip; comma, semicolon or tab between cells.

    Lines before the header that begin with ``#`` are comments; so may the header itself, as NumPy writes it.
    The fact ``text`` says of every column that is neither numbers nor dates where it is not.

    Raises:
        ValueError: no UTF-8, no header, a row of another length, two columns of one name.
    """
    first, rest, above = _header_line(_text(path))
    delimiter = max(",;\t", key=first.count)
    header = [name.strip() for name in next(csv.reader([first.lstrip("# ")], delimiter=delimiter), [])]
    _check_header(header)
    if "\n" in rest and not rest.endswith("\n"):  # a logger that was killed leaves half a line
        complete, _, last = rest.rpartition("\n")
        if last.count(delimiter) + 1 < len(header):
            rest = complete
    if not rest.strip():
        raise ValueError("it has a header and no rows; leave it out")
    try:
        values = np.loadtxt(io.StringIO(rest), delimiter=delimiter, comments=None, ndmin=2)
        if values.shape[1] == len(header) and not np.isinf(values).any():
            return [Table(path, {name: values[:, k].copy() for k, name in enumerate(header)})]
    except ValueError:
        pass  # empty cells, words, dates, as infinite ones: cell by cell
    reader = csv.reader(io.StringIO(rest), delimiter=delimiter)
    rows, lines = [], []
    for row in filter(None, reader):
        line = above + reader.line_num + 1
        if len(row) == len(header) + 1 and not row[-1].strip():  # a delimiter at the end of the line
            row.pop()
        if len(row) != len(header):
            raise ValueError(f"line {line} has {len(row)} cells, the header names {len(header)} columns")
        rows.append(row)
        lines.append(line)
    columns, text = {}, {}
    for name, words in zip(header, zip(*rows, strict=True), strict=True):
        columns[name], said = column(words, lines, commas=delimiter != ",")
        if said is not None:
            text[name] = said
    return [Table(path, columns, {"text": text} if text else {})]


def _text(path: str) -> str:
    content = Path(path).read_bytes()
    try:
        if path.lower().endswith(".gz"):
            content = gzip.decompress(content)
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is no UTF-8 text (byte {error.start}); save it as CSV in UTF-8") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"it cannot be decompressed ({error}); is it whole?") from error
    if not text.strip():
        raise ValueError("it is empty; leave it out")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _header_line(text: str) -> tuple[str, str, int]:
    """The line that names the columns, all after it, and how many comments are above it."""
    above = 0
    first, _, rest = text.partition("\n")
    while first.startswith("#"):
        following = rest.partition("\n")[0]
        cells = re.split("[,;\t]", following)
        if any(map(_is_number, cells)) and len(cells) == len(re.split("[,;\t]", first)):
            break
        above += 1
        first, _, rest = rest.partition("\n")
    return first, rest, above


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _check_header(header: list[str]) -> None:
    if not any(header) or all(map(_is_number, header)):
        raise ValueError("its first line must name the columns")
    twice = {name for name in header if header.count(name) > 1}
    if twice:
        raise ValueError(f"two columns are called {sorted(twice)[0]!r}; rename one")
