"""Whether to believe a world: a table of rules over a gap report, each with its reason in plain words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from wmgym.calibration.open_loop_rows import OpenLoopRow
from wmgym.evaluation.exploitation import bystanders, exploitation, optimism, out_of_sample
from wmgym.evaluation.findings import Level, Reason, Verdict
from wmgym.evaluation.gap_report import RANDOM, GapReport

MIN_POLICIES, MIN_EPISODES = 5, 10
MIN_LINEAGES = 3  # independent trainings without which a verdict speaks for these trainings alone
MIN_RANK, MIN_RANK_LOW = 0.9, 0.6  # Spearman correlation, and the lower limit of its interval
MEAN_GAP, WIDEST_GAP = 0.05, 0.1  # shares of the return scale
REWARD_ERROR = 0.05  # of one step, relative
UNDERCOVERAGE, OVERCOVERAGE = 0.05, 0.08  # of error bounds, against their level
SKILL, SKILL_STEPS = 0.9, 8  # open-loop error relative to the constant-state baseline; noise leaves some
MIN_COSINE, ERROR_RATIO, SMALL_ERROR = 0.8, 2.0, 0.05  # under other actions; the last one in std
MIN_FORESEEN = 0.8  # of the policies that fail


def verdict(report: GapReport) -> Verdict:
    """Judge a world by a report alone. What the report does not hold is never a reason to trust."""
    reasons = [Reason(name, *judge(report)) for name, judge in (RANKING_RULES | OTHER_RULES).items()]
    unsure = {reason.rule for reason in reasons if not reason.passed}
    level: Level = "trust"
    if unsure:
        level = "do not trust" if unsure & RANKING_RULES.keys() else "trust for ranking only"
    order = (False, None, True)
    scope = "" if level == "do not trust" else _scope(report)
    return Verdict(level, tuple(sorted(reasons, key=lambda reason: order.index(reason.passed))), scope)


def _scope(report: GapReport) -> str:
    runs = _lineages(report)
    if runs >= MIN_LINEAGES:
        return ""
    return "policies of this training" if runs == 1 else f"policies of these {runs} trainings"


Judgement: TypeAlias = tuple[bool | None, str]
"""Whether a rule is passed, None where nothing is known, and why."""


def _evidence(report: GapReport) -> Judgement:
    count, runs = _count(report), _lineages(report)
    from_runs = "1 training" if runs == 1 else f"{runs} independent trainings"
    found = f"{count}, {f'of {from_runs}, ' if runs else ''}in {report.episodes} real episodes each"
    if not runs or len(bystanders(report)) < MIN_POLICIES or report.episodes < MIN_EPISODES:
        return None, (
            f"There is too little evidence: {found}; a verdict takes {MIN_POLICIES} policies and"
            f" {MIN_EPISODES} episodes."
        )
    if runs < MIN_LINEAGES:
        return True, (
            f"There is enough evidence for {_scope(report)}: {found}; to speak for policies of other"
            f" trainings too it takes {MIN_LINEAGES} trainings."
        )
    return True, f"There is enough evidence: {found}."


def _ranking(report: GapReport) -> Judgement:
    if report.agreement is None:
        return None, f"Whether the world ranks policies correctly is unknown: only {_count(report)} scored."
    scored = bystanders(report)
    if max(s.real_interval[0] for s in scored) <= min(s.real_interval[1] for s in scored):
        return None, (
            f"Whether the world ranks policies correctly is unknown: the real returns of {_count(report)} do"
            " not differ by more than chance."
        )
    rank = report.agreement.spearman
    low, high = rank.interval
    text = (
        f"the Spearman correlation of imagined and real returns is {rank.value:.2f} [{low:.2f}, {high:.2f}]"
        f" over {_count(report)} (at least {MIN_RANK:g}, and {MIN_RANK_LOW:g} at the lower limit)."
    )
    if rank.value < MIN_RANK:
        return False, f"The world ranks policies wrongly: {text}"
    if low < MIN_RANK_LOW:
        return None, f"Too few policies to say whether the world ranks them correctly: {text}"
    return True, f"The world ranks policies correctly: {text}"


def _returns(report: GapReport) -> Judgement:
    scored = bystanders(report)
    if not scored:
        return None, "How far imagined returns are off is unknown: no policy was scored."
    mean = float(np.mean([abs(entry.gap) for entry in scored]))
    worst = max(scored, key=lambda entry: max(np.abs(entry.gap_interval)))
    scale = "" if report.scale is None else f" ({report.scale:,.3g})"
    text = (
        f"they are off by {mean:.1%} of the return scale{scale} on average and at worst by"
        f" {_signed(worst.gap, worst.gap_interval)}, for {worst.name} (at most {MEAN_GAP:.0%} and"
        f" {WIDEST_GAP:.0%})."
    )
    if mean > MEAN_GAP or not all(_reaches(entry.gap_interval, WIDEST_GAP) for entry in scored):
        return False, f"Imagined returns are wrong: {text}"
    if max(np.abs(worst.gap_interval)) > WIDEST_GAP:
        return None, f"Too few episodes to say whether imagined returns are right: {text}"
    return True, f"Imagined returns are right: {text}"


def judge_rewards(rows: Sequence[OpenLoopRow]) -> Judgement:
    """Whether rewards of single steps are right, by open-loop rows."""
    first = next(iter(rows), None)
    if first is None or first.reward_error is None or first.reward_size is None:
        return None, "Whether rewards of single steps are right is unknown: they were not compared."
    off = first.reward_error / max(first.reward_size, 1e-9)
    text = f"imagined ones are {off:+.1%} off after one step from a real state (at most {REWARD_ERROR:.0%})."
    passed = abs(off) <= REWARD_ERROR
    return passed, f"Rewards of single steps are {'right' if passed else 'wrong'}: {text}"


def _bounds(report: GapReport) -> Judgement:
    if all(entry.coverage is None for entry in report.scores):
        return None, "How sure the world is of a step is unknown: it has no error bounds; calibrate it."
    judged = out_of_sample(report)
    if all(entry.name == RANDOM for entry in judged):
        return None, "Whether the error bounds hold is unknown: they come from all policies that were scored."
    shares = [entry.coverage for entry in judged if entry.coverage is not None]
    stale = [entry.name for entry in report.scores if entry.stale]
    return judge_bounds(shares, 0.9 if report.level is None else report.level, stale)


def judge_bounds(shares: Sequence[float], level: float, stale: Sequence[str]) -> Judgement:
    """Whether error bounds hold: shares of errors inside, and for whom they are significantly too few."""
    least, most, mean = level - UNDERCOVERAGE, level + OVERCOVERAGE, float(np.mean(shares))
    text = f"{mean:.0%} of errors lie inside, and bounds of {level:.0%} take {least:.0%} to {most:.0%}"
    if mean > most:
        return False, f"The error bounds are too wide to say much: {text}."
    if mean < least or stale:
        named = f"; significantly too few for {', '.join(stale)}" if stale else ""
        return False, f"The error bounds do not hold: {text}{named}."
    return True, f"The error bounds hold: {text}."


def judge_prediction(every: Sequence[OpenLoopRow]) -> Judgement:
    """Whether states are predicted, by open-loop rows."""
    rows = [row for row in every if row.steps <= SKILL_STEPS]
    if not rows:
        return None, "How well the world predicts states is unknown: no real episode was replayed in it."
    row = rows[-1]
    share = row.error / max(row.constant_state, 1e-9)
    passed = share <= SKILL
    return passed, (
        f"The world predicts states {'well' if passed else 'badly'}: after {row.steps} steps its error is"
        f" {share:.0%} of that of keeping the state constant (at most {SKILL:.0%})."
    )


def _counterfactual(report: GapReport) -> Judgement:
    found = report.counterfactual
    if found is None or len(found.alternatives) < 2:
        why = found.skipped if found is not None and found.skipped else "this was not tested"
        return None, f"Whether the world knows what other actions would have done is unknown: {why}."
    logged, *others = found.alternatives
    worst = max(others, key=lambda each: each.error)
    least = min(others, key=lambda each: each.cosine or 0.0)
    cosine = least.cosine or 0.0
    limit = max(ERROR_RATIO * logged.error, SMALL_ERROR)
    passed = worst.error <= limit and cosine >= MIN_COSINE
    return passed, (
        f"The world {'knows' if passed else 'does not know'} what other actions would have done: after"
        f" {found.steps} steps states are {worst.error:.3f} std off under actions of the kind"
        f" {worst.actions!r} (at most {limit:.3f}; {logged.error:.3f} under the logged ones), and the"
        f" difference that actions make has a cosine of {cosine:.2f} with the real one (at least"
        f" {MIN_COSINE:g}; {least.actions})."
    )


def _optimism(report: GapReport) -> Judgement:
    found = optimism(report)
    if not found.failing:
        return None, "Whether the world predicts failure is unknown: no scored policy fails."
    foreseen = 1 - len(found.missed) / len(found.failing)
    passed = foreseen >= MIN_FORESEEN
    named = f", not that of {', '.join(found.missed)}" if found.missed else ""
    return passed, (
        f"The world {'predicts' if passed else 'does not predict'} failure: of {len(found.failing)} policies"
        f" that fail it foresees that of {foreseen:.0%}{named} (at least {MIN_FORESEEN:.0%})."
    )


def _exploitation(report: GapReport) -> Judgement:
    found = exploitation(report)
    if found is None:
        return None, "Whether training exploits the world is unknown: no policy trained in it was scored."
    low, high = found.worst_interval
    several = len(found.policies) > 1
    text = (
        f"{f'of {len(found.policies)} trained in it, ' if several else 'trained in it, '}{found.worst} earns"
        f" {_signed(found.worst_gap, found.worst_interval)} of the range more than in reality (at most"
        f" {WIDEST_GAP:.0%}){f'; {found.mean_gap:+.1%} on average' if several else ''}."
    )
    if low > WIDEST_GAP:
        return False, f"Policies exploit the world: {text}"
    if high > WIDEST_GAP:
        return None, f"Too few episodes to say whether policies exploit the world: {text}"
    return True, f"Policies do not exploit the world: {text}"


def _reaches(interval: tuple[float, float], limit: float) -> bool:
    """Whether an interval has a point within ``-limit`` to ``limit``."""
    return interval[0] <= limit and interval[1] >= -limit


def _signed(value: float, interval: tuple[float, float]) -> str:
    return f"{value:+.1%} [{interval[0]:+.1%}, {interval[1]:+.1%}]"


def _lineages(report: GapReport) -> int:
    return report.agreement.lineages if report.agreement else 0


def _count(report: GapReport) -> str:
    number = len(bystanders(report))
    return "1 policy" if number == 1 else f"{number} policies"


_Rules: TypeAlias = dict[str, Callable[[GapReport], Judgement]]
RANKING_RULES: _Rules = {"evidence": _evidence, "ranking": _ranking}
OTHER_RULES: _Rules = {
    "returns": _returns,
    "rewards": lambda report: judge_rewards(report.open_loop),
    "prediction": lambda report: judge_prediction(report.open_loop),
    "error bounds": _bounds,
    "counterfactual": _counterfactual,
    "optimism": _optimism,
    "exploitation": _exploitation,
}
