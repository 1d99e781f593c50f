"""Pass or fail a report by given limits, for continuous integration."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from wmgym.evaluation.exploitation import bystanders
from wmgym.evaluation.gap_report import GapReport
from wmgym.io import files


@dataclass(frozen=True)
class Check:
    """One limit and whether a report keeps it.

    Attributes:
        name: "rank", "gap" or "coverage".
        passed: whether the limit is kept; a report that does not hold the number does not keep it.
        detail: the number beside the limit, in a line.
    """

    name: str
    passed: bool
    detail: str


def gate(
    report: GapReport,
    *,
    min_rank: float | None = None,
    max_gap: float | None = None,
    coverage: tuple[float, float] | None = None,
) -> tuple[Check, ...]:
    """Hold a report against limits.

    The random policy, and those trained in the world, are left out; of the coverage also those whose episodes
    made the bounds.

    Args:
        report: what ``score`` returned.
        min_rank: least Spearman correlation between real and imagined mean returns.
        max_gap: largest mean absolute gap of the policies, as a share of the return scale, ``report.scale``.
        coverage: least and largest mean share of errors inside the error bounds.

    Returns:
        A check for each limit that is given.

    Raises:
        ValueError: no limit at all, or one outside its range.
    """
    if min_rank is None and max_gap is None and coverage is None:
        raise ValueError("a gate needs a limit; pass min_rank, max_gap or coverage")
    if min_rank is not None and not -1 <= min_rank <= 1:
        raise ValueError(f"min_rank is a correlation between -1 and 1, got {min_rank:g}")
    if max_gap is not None and not max_gap >= 0:
        raise ValueError(f"max_gap must be at least 0, got {max_gap:g}")
    if coverage is not None and not 0 <= coverage[0] <= coverage[1] <= 1:
        raise ValueError(f"coverage must be 0 <= least <= largest <= 1, got {coverage[0]:g}:{coverage[1]:g}")
    found = []
    if min_rank is not None:
        found.append(_rank(report, min_rank))
    if max_gap is not None:
        found.append(_gap(report, max_gap))
    if coverage is not None:
        found.append(_coverage(report, *coverage))
    return tuple(found)


def write_junit(path: str | os.PathLike[str], checks: Sequence[Check], name: str) -> Path:
    """Write checks as a JUnit XML file, one test case each, atomically; ``name`` is the suite's."""
    failures = str(sum(not check.passed for check in checks))
    suite = ElementTree.Element("testsuite", name=_text(name), tests=str(len(checks)), failures=failures)
    for check in checks:
        case = ElementTree.SubElement(suite, "testcase", classname="wmgym.gate", name=check.name)
        if check.passed:
            ElementTree.SubElement(case, "system-out").text = _text(check.detail)
        else:
            ElementTree.SubElement(case, "failure", message=_text(check.detail))
    whole = ElementTree.Element("testsuites")
    whole.append(suite)
    ElementTree.indent(whole)
    target = Path(path)
    with files.write_errors(target), files.writing(target.parent) as replace:
        replace(target.name, ElementTree.tostring(whole, "utf-8", xml_declaration=True) + b"\n")
    return target


def _rank(report: GapReport, least: float) -> Check:
    if report.agreement is None:
        return Check("rank", False, "no rank correlation: the report holds too few policies")
    rank = report.agreement.spearman
    detail = f"Spearman correlation {rank.value:.3f} [{rank.interval[0]:.3f}, {rank.interval[1]:.3f}]"
    return Check("rank", rank.value >= least, f"{detail}, at least {least:g} is asked for")


def _gap(report: GapReport, largest: float) -> Check:
    scored = bystanders(report)
    if not scored:
        return Check("gap", False, "no gap: no policy was scored")
    mean, worst = np.mean([abs(e.gap) for e in scored]), max(scored, key=lambda entry: abs(entry.gap))
    detail = f"mean absolute gap {mean:.3f}, at most {largest:g} is asked for"
    return Check("gap", bool(mean <= largest), f"{detail}; widest {worst.gap:+.3f} ({worst.name})")


def _coverage(report: GapReport, least: float, largest: float) -> Check:
    judged = [entry for entry in bystanders(report) if not entry.calibrated_on]
    shares = [entry.coverage for entry in judged if entry.coverage is not None]
    if not shares:
        return Check("coverage", False, "no coverage: the world has no error bounds, or no policy was scored")
    mean = float(np.mean(shares))
    detail = f"{mean:.3f} of errors inside the error bounds, {least:g} to {largest:g} is asked for"
    return Check("coverage", least <= mean <= largest, detail)


def _text(text: str) -> str:
    """Text that XML can hold."""
    return re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\N{REPLACEMENT CHARACTER}", text)
