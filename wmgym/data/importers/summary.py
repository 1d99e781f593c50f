"""What an import found and did, in a few lines."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from wmgym.data.importers.columns import Roles
from wmgym.data.importers.rows import Rows
from wmgym.data.importers.table import Table
from wmgym.data.series import Series
from wmgym.data.transitions import Transitions

_SLOW = 5.0  # seconds a step from which a clock more likely counts other units
_OTHER_UNIT = 25.0  # times the usual size and spread of a column that are more likely another unit
_GROUP = 0.25  # share of the recordings from which they are of two kinds, and none is an exception
_FINER = 1.5  # times below the rows' own period from which a dt is more likely a mistake
_DONE = {
    "single": "recordings of one row: left out",
    "missing": "rows without all values: left out",
    "step": "rows without an action or reward: an episode ends before them",
    "repeated": "rows with the time stamp of the row before: left out",
    "late": "rows out of order: left out",
    "set back": "times the clock was set back: a new episode begins there",
    "gap": "gaps in time: a new episode begins after each",
    "torn": "rows whose next_obs is not the next row's obs: a new episode begins after each",
    "carried": "episodes whose last next_obs is the first obs of the next episode: that step is left out",
    "end": "terminated steps whose next observation was not recorded: left out; log next_obs to keep them",
}


@dataclass(frozen=True)
class Summary:
    """What was done to rows.

    Attributes:
        rows: of every table.
        turns: of observation columns that wrap, by number.
        step: usual seconds between rows, where there is a clock.
        off: largest deviation of a duration from ``step``, as a share of it.
        regular: the rows were sampled regularly, whatever their stamps say.
        target: seconds a step.
        counts: what the stamps count, where their size says so.
    """

    rows: Sequence[Rows]
    turns: Mapping[int, float]
    step: float | None = None
    off: float = 0.0
    regular: bool = True
    target: float | None = None
    counts: str = ""

    def text(
        self, tables: Sequence[Table], roles: Roles, data: Transitions, actions: str, labels: Sequence[str]
    ) -> str:
        """The lines; ``actions`` says what these were taken as, ``labels`` which number stands for which."""
        recordings = "1 recording" if len(tables) == 1 else f"{len(tables):,} recordings"
        lines = [
            f"{recordings}, {sum(len(next(iter(t.columns.values()))) for t in tables):,} rows: "
            f"{len(data):,} steps of {data.task.dt:g} s in {_counted(data.num_episodes, 'episodes')}"
        ]
        for role in fields(roles):
            value = getattr(roles, role.name)
            if value:
                lines.append(f"  {role.name:<11}{value if isinstance(value, str) else _few(value)}")
                if role.name == "action":
                    lines.append(f"  {'':<11}{actions}")
        if self.step is None and data.task.dt == 1.0:
            lines[0] += "; no column holds the time: dt= is the seconds a step takes"
        if self.step is not None:
            lines[-1 - bool(roles.episode)] += f" ({self._clock()})"
        unused = sorted({n for t in tables for n in [*t.columns, *t.facts.get("left_out", ())]})
        if unused := [name for name in unused if name not in roles.used()]:
            lines.append(f"  {'not used':<11}{_few(unused)}")
        if labels:
            lines.append(f"  {'labels':<11}{_few([f'{word} is {k}' for k, word in enumerate(labels)])}")
        for k, turn in self.turns.items():
            lines.append(f"  {data.task.core.names[k]} wraps at {turn:.4g}")
        lost = sum((rows.lost for rows in self.rows), Counter[str]())
        lost["single"] = sum(len(rows.obs) == 1 and rows.next_obs is None for rows in self.rows)
        lines += [f"  {_counted(lost[why], what)}" for why, what in _DONE.items() if lost[why]]
        return "\n".join(lines)

    def odd_clock(self) -> list[str]:
        """Lines about steps that are far from what a robot's log has."""
        if self.step is None or self.target is None:
            return []
        said = []
        if self.step >= _SLOW:
            said.append(
                f"there are {self.step:.4g} s between rows; is the time column in milliseconds, say? Then "
                "name its factor in scale, 0.001, or end its name in _ms, _us or _ns"
            )
        if self.step > _FINER * self.target:
            said.append(
                f"recorded every {self.step:.4g} s, so that {1 - self.target / self.step:.0%} of the steps "
                f"of dt={self.target:.4g} are interpolated, not recorded; pass dt={self.step:.4g}"
            )
        return said

    def odd_units(self, names: Sequence[str]) -> list[str]:
        """Lines about columns that are far larger in some recordings than in the others."""
        several = [rows for rows in self.rows if len(rows.obs) > 1]  # one row has no spread
        if len(several) < 3:
            return []
        size = np.array([[np.abs(rows.obs).max(0), rows.obs.std(0)] for rows in several])
        said = []
        for k, name in enumerate(names):
            # Of the largest size and of the spread; of two groups, the one of the smaller.
            usual = np.quantile(size[:, :, k], 0.5, axis=0, method="lower")
            if not (usual > 0).all():
                continue
            times = size[:, :, k] / usual
            for odd in (times > _OTHER_UNIT).all(1), (times < 1 / _OTHER_UNIT).all(1):
                if odd.any():
                    first = int(np.argmax(odd))
                    factor, many = times[first, 1], int(odd.sum()) - 1
                    where = f"{several[first].source}{f' and {many} more' if many else ''}"
                    than = "as in most recordings"
                    if many + 1 > _GROUP * len(several):
                        than = f"as in the others: the {len(several)} recordings are of two groups"
                    said.append(
                        f"{name} is {factor:,.3g} times as large in {where} {than}; is it in another unit "
                        "there, such as degrees or millimetres? Then convert it in the file"
                    )
        return said

    def series(self, obs_names: Sequence[str], action_names: Sequence[str]) -> Series:
        """The columns as recorded, not yet interpolated.

        Args:
            obs_names: of the observation's columns.
            action_names: of the action's; none where it is whole numbers.
        """
        known = [
            np.isfinite(r.action).all(1) & (r.reward is None or np.isfinite(r.reward)) for r in self.rows
        ]

        def joined(each: Sequence[np.ndarray]) -> np.ndarray:
            return np.concatenate([array[kept] for array, kept in zip(each, known, strict=True)])

        at = np.repeat(np.arange(len(known)), [int(kept.sum()) for kept in known])
        number = joined([rows.number for rows in self.rows])
        paid = [rows.reward for rows in self.rows if rows.reward is not None]
        return Series(
            obs=dict(zip(obs_names, joined([rows.obs for rows in self.rows]).T, strict=True)),
            action=dict(zip(action_names, joined([rows.action for rows in self.rows]).T, strict=False)),
            reward=joined(paid) if paid else None,
            terminated=joined([rows.terminated for rows in self.rows]),
            begins=joined([rows.begins for rows in self.rows]),
            where=lambda row: f"row {number[row]} of {self.rows[at[row]].source}",
        )

    def _clock(self) -> str:
        assert self.step is not None
        assert self.target is not None
        said = f"{self.counts}{', ' * bool(self.counts)}{1 / self.step:.4g} Hz"
        if self.off >= 0.01:
            said += f", jitter of up to {self.off:.0%}"
            said += " of the stamps alone" if self.regular else ""
        changed = not self.regular or abs(self.target - self.step) > 1e-9
        return said + (f"; interpolated to {1 / self.target:.4g} Hz" if changed else "")


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _counted(count: int, what: str) -> str:
    """A number, and a phrase that begins with what is counted, in the plural."""
    return f"{count:,} {what}" if count != 1 else f"1 {re.sub(r's(?= |$)', '', what, count=1)}"
