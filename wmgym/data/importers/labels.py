"""Columns of text: refused where numbers are needed, made one alphabet where they name actions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from wmgym.data.importers.columns import Roles
from wmgym.data.importers.table import Table


def labelled(tables: Sequence[Table], roles: Roles) -> tuple[list[Table], tuple[str, ...]]:
    """Tables whose columns with a role are numbers, and the labels of a Discrete action, in its order.

    A text column may tell episodes apart, or be the one action column if no cell of it in any file is a
    number; the same label is the same action in every file, and an empty cell is a missing action, as among
    numbers.

    Raises:
        ValueError: another role has a column with text.
    """
    texts = [table.facts.get("text", {}) for table in tables]
    action = roles.action[0] if len(roles.action) == 1 else None
    named = action is not None and all(text.get(action, {}).get("labels") for text in texts)
    for table, text in zip(tables, texts, strict=True):
        for name in roles.used():
            if name in text and name != roles.episode and not (named and name == action):
                _refuse(table.name, name, text[name], time=name == roles.time)
    if action is None or not named:
        return list(tables), ()
    words = sorted({word for text in texts for word in text[action]["labels"]})
    found = []
    for table, text in zip(tables, texts, strict=True):
        places = np.searchsorted(words, text[action]["labels"])  # of this file's labels among all
        column = table.columns[action].copy()
        known = np.isfinite(column)
        column[known] = places[column[known].astype(np.int64)]
        found.append(replace(table, columns={**table.columns, action: column}))
    return found, tuple(words)


def _refuse(source: str, name: str, said: dict[str, object], time: bool) -> None:
    what = "no number or date such as 2026-01-31T12:00:00.5" if time else "no number"
    raise ValueError(
        f"{source}, line {said['line']}: column {name!r} holds {said['cell']!r}, {what}; {said['hint']}, or "
        "name other columns"
    )
