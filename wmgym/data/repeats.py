"""Stretches of a log that are there twice, be it in two files, in one, or in one episode."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wmgym.data.series import Series

_SAME = 1e-4  # of a column's range; more than interpolation and float32 round, less than sensors' noise
_KEYS = 4  # columns that find candidates, which all columns then have to confirm
_LEAST = 10  # different rows from which a part of an episode is no coincidence
_TRIED = 20  # candidates, those with the most rows first


@dataclass(frozen=True)
class Repeat:
    """Rows that say the same as earlier ones.

    Attributes:
        row: the first of them.
        of: the row that it repeats.
        count: how many there are, each as far behind the row that it repeats.
        length: of the episode that they are in.
    """

    row: int
    of: int
    count: int
    length: int


def repeated(log: Series) -> Repeat | None:
    """The longest stretch of at least half an episode that is there before, in any episode.

    A part of an episode counts from ten different rows on, so that neither robots at rest nor those that go
    round and round in the same few states count. Whole numbers alone may be the same by chance.
    """
    columns = [np.asarray(column) for column in (*log.obs.values(), *log.action.values())]
    columns = [column.astype(float) if column.dtype.kind in "bui" else column for column in columns]
    spans = [np.ptp(column) for column in columns]
    moving = [(column, _SAME * span) for column, span in zip(columns, spans, strict=True) if span > 0]
    if all(_whole(column[:1_000]) and _whole(column) for column, _ in moving):
        return None
    keys = _keys(moving)
    episode = np.cumsum(log.begins) - 1
    first = np.flatnonzero(log.begins)
    length = np.diff(first, append=len(episode))
    order = np.argsort(keys, kind="stable")
    again = np.flatnonzero(keys[order][1:] == keys[order][:-1]) + 1
    later, earlier = order[again], order[again - 1]
    pairs, votes = np.unique(episode[later] * len(keys) + (later - earlier), return_counts=True)
    best: Repeat | None = None
    for at in np.argsort(-votes, kind="stable")[:_TRIED]:
        number, lag = divmod(int(pairs[at]), len(keys))
        rows = np.arange(max(first[number], lag), first[number] + length[number])
        for column, unit in moving:
            rows = rows[np.abs(column[rows] - column[rows - lag]) <= unit]
        there, whole = len(rows), int(length[number])
        different, all_different = (
            len(np.unique(keys[part])) for part in (rows, np.arange(whole) + first[number])
        )
        enough = there == whole or (different >= _LEAST and 2 * different >= all_different)
        if enough and (best is None or there > best.count):
            best = Repeat(int(rows[0]), int(rows[0]) - lag, there, whole)
    return best


def twice(log: Series) -> str | None:
    """Rows that are there twice."""
    found = repeated(log)
    if found is None:
        return None
    return (
        f"{found.count} rows from {log.where(found.row)} on repeat those from {log.where(found.of)} on: held "
        "out, they would be no new data; leave out one of the two"
    )


def _whole(column: np.ndarray) -> bool:
    return bool((column == np.rint(column)).all())


def _keys(columns: list[tuple[np.ndarray, float]]) -> np.ndarray:
    """A number a row ``(n,)``, the same where the columns that tell most rows apart are the same in units."""
    every = max(1, len(columns[0][0]) // 10_000)
    apart = [len(np.unique(np.rint(column[::every] / unit))) for column, unit in columns]
    telling = [columns[k] for k in np.argsort(np.negative(apart), kind="stable")[:_KEYS]]
    factors = np.random.default_rng(0).integers(2**62, size=_KEYS)
    keys = np.zeros(len(columns[0][0]), np.int64)
    for (column, unit), factor in zip(telling, factors, strict=False):
        keys += np.rint(column / unit).astype(np.int64) * factor  # wraps around
    return keys
