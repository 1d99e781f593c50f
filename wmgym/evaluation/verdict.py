"""Whether to believe a world: a table of rules over a gap report, each with its reason in plain words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from scipy import stats

from wmgym.evaluation.gap_report import RANDOM, GapReport, PolicyScore

Level: TypeAlias = Literal["trust", "trust for ranking only", "do not trust"]

MIN_POLICIES, MIN_EPISODES = 5, 10
MIN_RANK = 0.9
MEAN_GAP, WIDEST_GAP = 0.05, 0.1
UNDERCOVERAGE = 0.05


@dataclass(frozen=True)
class Reason:
    """What one rule says of a report.

    Attributes:
        rule: the rule's name.
        passed: None where the report holds too little to say; that counts as not passed.
        text: why, in a sentence with its numbers.
    """

    rule: str
    passed: bool | None
    text: str


@dataclass(frozen=True)
class Verdict:
    """Whether a world's returns may be believed, and why.

    Attributes:
        level: "trust" where every rule passed; "trust for ranking only" where those did that the order of
            policies depends on; else "do not trust".
        reasons: one for each rule: failed ones first, then those that nothing is known of, then passed ones.
    """

    level: Level
    reasons: tuple[Reason, ...]

    def __str__(self) -> str:
        """The level, then a line for each reason."""
        marks = {False: "-", None: "?", True: "+"}
        return "\n".join([self.level, *(f"{marks[each.passed]} {each.text}" for each in self.reasons)])


def verdict(report: GapReport) -> Verdict:
    """Judge a world by a report alone. What the report does not hold is never a reason to trust."""
    reasons = [Reason(name, *judge(report)) for name, judge in (RANKING_RULES | OTHER_RULES).items()]
    unsure = {reason.rule for reason in reasons if not reason.passed}
    level: Level = "trust"
    if unsure:
        level = "do not trust" if unsure & RANKING_RULES.keys() else "trust for ranking only"
    order = (False, None, True)
    return Verdict(level, tuple(sorted(reasons, key=lambda reason: order.index(reason.passed))))


_Finding: TypeAlias = tuple[bool | None, str]


def _scored(report: GapReport) -> list[PolicyScore]:
    return [entry for entry in report.scores if entry.name != RANDOM]


def _evidence(report: GapReport) -> _Finding:
    found = f"{_count(_scored(report))} scored, in {report.episodes} real episodes each"
    if len(_scored(report)) >= MIN_POLICIES and report.episodes >= MIN_EPISODES:
        return True, f"There are enough data: {found}."
    need = f"{MIN_POLICIES} policies and {MIN_EPISODES} episodes are the least for a verdict"
    return None, f"Too few data: {found}; {need}."


def _ranking(report: GapReport) -> _Finding:
    scored = _scored(report)
    if len(scored) < MIN_POLICIES:
        return None, f"Whether the world ranks policies correctly is unknown: {_count(scored)} scored."
    real, imagined = np.array([(entry.real_mean, entry.imagined_mean) for entry in scored]).T
    rank = float(stats.spearmanr(real, imagined).statistic) if np.ptp(real) and np.ptp(imagined) else 0.0
    passed = rank >= MIN_RANK
    return passed, (
        f"The world ranks policies {'correctly' if passed else 'wrongly'}: the Spearman correlation of"
        f" imagined and real returns is {rank:.2f} over {_count(scored)} ({MIN_RANK:g} is the least)."
    )


def _gaps(report: GapReport) -> _Finding:
    scored = _scored(report)
    if not scored:
        return None, "How far imagined returns are off is unknown: no policy scored."
    mean = float(np.mean([abs(entry.gap) for entry in scored]))
    worst = max(scored, key=lambda entry: max(np.abs(entry.gap_interval)))
    low, high = worst.gap_interval
    text = (
        f"imagined returns are off by {mean:.1%} of the range of real returns on average, at worst by"
        f" {worst.gap:+.1%} [{low:+.1%}, {high:+.1%}] for {worst.name} (limits {MEAN_GAP:.0%} and"
        f" {WIDEST_GAP:.0%})."
    )
    if mean > MEAN_GAP or any(not _reaches(entry.gap_interval, WIDEST_GAP) for entry in scored):
        return False, f"Returns are wrong: {text}"
    if max(abs(low), abs(high)) > WIDEST_GAP:
        return None, f"Too few episodes to say whether returns are right: {text}"
    return True, f"Returns are right: {text}"


def _bounds(report: GapReport) -> _Finding:
    shares = [entry.coverage for entry in report.scores if entry.coverage is not None]
    if not shares:
        return None, "How sure the world is of a step is unknown: it has no error bounds; calibrate it."
    stale = [entry.name for entry in report.scores if entry.stale]
    least = 0.9 - UNDERCOVERAGE
    text = f"{np.mean(shares):.0%} of errors lie inside the error bounds ({least:.0%} is the least)"
    if stale:
        return False, f"Error bounds do not hold: {text}, and significantly too few for {', '.join(stale)}."
    if np.mean(shares) < least:
        return False, f"Error bounds do not hold: {text}."
    return True, f"Error bounds hold: {text}."


def _reaches(interval: tuple[float, float], limit: float) -> bool:
    """Whether an interval has a point within ``-limit`` to ``limit``."""
    return interval[0] <= limit and interval[1] >= -limit


def _count(scored: list[PolicyScore]) -> str:
    return "1 policy" if len(scored) == 1 else f"{len(scored)} policies"


_Rules: TypeAlias = dict[str, Callable[[GapReport], _Finding]]
RANKING_RULES: _Rules = {"evidence": _evidence, "ranking": _ranking}
OTHER_RULES: _Rules = {"returns": _gaps, "error bounds": _bounds}
