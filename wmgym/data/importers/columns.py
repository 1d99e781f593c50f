"""Which column of a table is what: observation, action, time, ..., by the caller's word or by its name."""

from __future__ import annotations

import difflib
import fnmatch
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any, NoReturn, TypeAlias

import numpy as np

from wmgym.data.importers.table import Table

Names: TypeAlias = str | Sequence[str]
"""Names of columns or patterns such as ``"q*"``; of a column of several numbers, all of them."""

_BY_NAME = {
    "next_obs": r"next_?(obs\w*|states?)(\W.*)?",
    "obs": r"((obs|observations?|states?|qpos|qvel|q|qd|dq|pos|position|vel|velocity)([\W_\d].*)?"
    r"|.*joint_?states?\.(position|velocity)\..*)",
    "action": r"((actions?|act|u|ctrl|controls?|cmd|commands?)([\W_\d].*)?"
    r"|.*(action|cmd|command|control)s?\..*)",
    "reward": r"(next\.)?(rewards?|rew)",
    "terminated": r"terminat(ed|ions?)|terminals?",
    "truncated": r"truncat(ed|ions?)|timeouts?|next\.done",
    "time": r"(t|time|timestamp|stamp|seconds?|secs?)(_(s|ms|us|ns))?",
    "unobserved": r"unobserved|displacement",
    "episode": r"ep|(episode|trial|trajectory|traj|run)(_?(id|index|idx|number))?",
}
_TIME_UNITS = {"_ms": 1e-3, "_us": 1e-6, "_ns": 1e-9}
_SINCE_1970 = (1e9, 4e9)  # seconds, of the years 2001 to 2096
_EPOCHS = {
    unit: f"{word} since 1970"
    for unit, word in zip(_TIME_UNITS.values(), ("milliseconds", "microseconds", "nanoseconds"), strict=True)
}
_NEEDED = ("obs", "action")
_SEVERAL = ("obs", "action", "next_obs", "unobserved")

_RISES = 0.99  # share of rows in which a clock goes forward
_EVEN = 0.2  # its usual step, as a share of the mean one, gaps included


@dataclass(frozen=True)
class Roles:
    """Names of columns by what they are; None and empty where there are none."""

    obs: tuple[str, ...]
    action: tuple[str, ...]
    next_obs: tuple[str, ...] = ()
    unobserved: tuple[str, ...] = ()
    reward: str | None = None
    terminated: str | None = None
    truncated: str | None = None
    time: str | None = None
    episode: str | None = None

    def used(self) -> list[str]:
        """Every column that has a role."""
        values = [getattr(self, each.name) for each in fields(self)]
        return [name for v in values for name in ((v,) if isinstance(v, str) else v or ())]


def find_roles(tables: Sequence[Table], given: Mapping[str, Names | None]) -> Roles:
    """Roles of columns: what the caller named, the rest by the names that such columns usually have.

    Args:
        tables: of one recording or several, which must all have the columns with a role: one that some of
            them lack is refused, since what a robot showed or was paid does not depend on the recording.
        given: by role the caller's names or patterns; None finds them, empty says that there are none.

    Raises:
        ValueError: a name that no column has, or that some recordings lack, no observation or no action, or
            one column with two roles.
    """
    left_out = sorted({name for table in tables for name in table.facts.get("left_out", ())})
    every = list(dict.fromkeys(name for table in tables for name in table.columns))
    names = [name for name in tables[0].columns if all(name in table.columns for table in tables)]
    if not names:
        raise ValueError("the files have no column in common; import them one by one")
    found: dict[str, Any] = {}
    for role in _BY_NAME:
        wanted = given.get(role)
        if wanted is not None:
            found[role] = _named(role, wanted, names, every, tables)
    taken = {name for each in found.values() for name in each}
    for role, pattern in _BY_NAME.items():
        if role not in found:
            matching = [n for n in every if n not in taken and re.fullmatch(pattern, n, re.IGNORECASE)]
            shared = [name for name in matching if name in names]
            if matching and (len(shared) < len(matching) if role in _SEVERAL else not shared):
                _refuse_lacking(role, next(name for name in matching if name not in names), tables)
            found[role] = shared if role in _SEVERAL else shared[:1]
            taken.update(found[role])
    for role in _NEEDED:
        if not found[role]:
            useless = f" ({_listed(left_out)} hold no numbers)" if left_out else ""
            raise ValueError(
                f"which columns are the {role}? There are {_listed(names)}{useless}; name them with "
                f"{role}=[...]"
            )
    used = [name for each in found.values() for name in each]
    if twice := next((name for name in used if used.count(name) > 1), None):
        raise ValueError(f"column {twice!r} has two roles; name each column once")
    kept: dict[str, Any] = {
        role: tuple(each) if role in _SEVERAL else next(iter(each), None) for role, each in found.items()
    }
    return Roles(**kept)


def unused_clock(tables: Sequence[Table], roles: Roles) -> str | None:
    """A column without a role that rises from row to row in every recording, but counts no rows."""
    for name in (name for name in tables[0].columns if name not in roles.used()):
        steps = [np.diff(np.ravel(t.columns[name]).astype(np.float64)) for t in tables if name in t.columns]
        every = np.concatenate(steps)
        rises = len(steps) == len(tables) and len(every) > len(steps) and (every > 0).mean() > _RISES
        if rises and (every != 1).any() and np.median(every) > _EVEN * every.mean():
            return name
    return None


def matrix(table: Table, names: Sequence[str], scale: Mapping[str, Any]) -> np.ndarray:
    """Columns side by side ``(n, k)`` float64, in the caller's units.

    Raises:
        ValueError: columns of different lengths.
    """
    parts = [
        _scaled(table, name, column, scale).reshape(len(column), math.prod(column.shape[1:]))
        for name, column in ((name, table.columns[name]) for name in names)
    ]
    lengths = {len(part) for part in parts}
    if len(lengths) > 1:
        raise ValueError(f"{table.name}: {_listed(names)} have different numbers of rows")
    return np.concatenate(parts, 1)


def vector(table: Table, name: str | None, rows: int, scale: Mapping[str, Any]) -> np.ndarray | None:
    """A column ``(n,)``, also where it is stored as ``(n, 1)``; None where there is none of this role.

    Raises:
        ValueError: a column of another shape.
    """
    return None if name is None else _scaled(table, name, _single(table, name, rows), scale)


def seconds(table: Table, name: str, rows: int, scale: Mapping[str, Any]) -> np.ndarray:
    """A time column ``(n,)`` in seconds from its first row on.

    Names that end in ``_ms``, ``_us`` or ``_ns`` say their unit, and so does the size of a count since 1970.

    Raises:
        ValueError: a column of another shape.
    """
    column = _single(table, name, rows)
    unit, _ = time_unit(table, name)
    if column.dtype.kind in "iu":  # nanoseconds since 1970 do not fit into a float
        column = column.astype(np.int64) - np.int64(column[0])
    return _scaled(table, name, column, {name: unit} | dict(scale))


def time_unit(table: Table, name: str) -> tuple[float, str]:
    """Seconds in a unit of a time column, and what it counts where its size, not its name, says so."""
    for ending, unit in _TIME_UNITS.items():
        if name.lower().endswith(ending):
            return unit, ""
    known = table.columns[name][np.isfinite(table.columns[name])]
    middle, (low, high) = float(np.median(known)) if len(known) else 0.0, _SINCE_1970
    return next(((unit, word) for unit, word in _EPOCHS.items() if low <= middle * unit < high), (1.0, ""))


def column_names(table: Table, names: Sequence[str]) -> tuple[str, ...]:
    """A name for every number of these columns."""
    found: list[str] = []
    for name in names:
        column = table.columns[name]
        width = 1 if column.ndim == 1 else column.shape[1]
        labels = table.facts.get("names", {}).get(name)
        if labels is not None and len(labels) == width:
            found += labels
        else:
            found += [name] if column.ndim == 1 else [f"{name}_{k}" for k in range(width)]
    return tuple(found)


def _single(table: Table, name: str, rows: int) -> np.ndarray:
    column = table.columns[name]
    if column.size != rows or len(column) != rows:
        raise ValueError(f"{table.name}: column {name!r} has shape {column.shape}, expected ({rows},)")
    return column.reshape(-1)


def check_scale(scale: Mapping[str, Any], tables: Sequence[Table]) -> None:
    """Refuse factors of columns that do not exist, and what is no factor.

    Raises:
        ValueError: either.
    """
    for name, factor in scale.items():
        if not any(name in table.columns for table in tables):
            raise ValueError(f"scale names {name!r}, which is no column")
        pair = factor if isinstance(factor, (tuple, list)) else (factor, 0.0)
        right = all(isinstance(each, Real) and math.isfinite(each) for each in pair)
        if len(pair) != 2 or not right or pair[0] == 0:
            raise ValueError(
                f"scale of {name!r} must be a number that is not 0, or such a number and one to add, "
                f"got {factor!r}"
            )


def _scaled(table: Table, name: str, column: np.ndarray, scale: Mapping[str, Any]) -> np.ndarray:
    if column.dtype.kind == "f" and (infinite := np.isinf(column)).any():
        row = int(np.argmax(infinite.reshape(len(column), -1).any(1)))
        raise ValueError(
            f"{table.name}: column {name!r} is infinite in row {row}; correct it, or store NaN where the "
            "value is missing"
        )
    factor = scale.get(name, 1.0)
    by, plus = factor if isinstance(factor, (tuple, list)) else (factor, 0.0)
    scaled: np.ndarray = column.astype(np.float64) * by + plus
    return scaled


def _named(
    role: str, wanted: Names, names: Sequence[str], every: Sequence[str], tables: Sequence[Table]
) -> list[str]:
    found: list[str] = []
    for each in [wanted] if isinstance(wanted, str) else wanted:
        matching = [each] if each in every else fnmatch.filter(every, each)
        if not matching:
            if any(each in t.facts.get("left_out", ()) for t in tables):
                raise ValueError(f"{role}: column {each!r} holds no numbers; store numbers in it")
            close = difflib.get_close_matches(each, names, 1)
            hint = f" Did you mean {close[0]!r}?" if close else f" There are {_listed(names)}."
            raise ValueError(f"{role}: there is no column {each!r}.{hint}")
        for name in (name for name in matching if name not in names):
            _refuse_lacking(role, name, tables)
        found += [name for name in matching if name not in found]
    if role not in _SEVERAL and len(found) > 1:
        raise ValueError(f"{role} is one column, {each!r} matches {_listed(found)}")
    return found


def _refuse_lacking(role: str, name: str, tables: Sequence[Table]) -> NoReturn:
    """Refuse a column that some recordings have and some do not."""
    lacking = [table for table in tables if name not in table.columns]
    holder = next(table.name for table in tables if name in table.columns)
    if textual := [table for table in lacking if name in table.facts.get("left_out", ())]:
        raise ValueError(
            f"{role}: column {name!r} holds no numbers in {textual[0].name}; store numbers in it"
        )
    where = lacking[0].name + (f" and {len(lacking) - 1} more" if len(lacking) > 1 else "")
    without = f"name the columns to use with {role}=[...]" if role in _NEEDED else f"pass {role}=[]"
    raise ValueError(
        f"{role}: {where} has no column {name!r}, and {holder} has; add it, leave files out, or {without} to "
        "do without it"
    )


def _listed(names: Iterable[str]) -> str:
    shown = list(names)
    return ", ".join(map(repr, shown[:12])) + (f" and {len(shown) - 12} more" if len(shown) > 12 else "")
