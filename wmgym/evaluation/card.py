"""The card of a world: its verdict and numbers as a README inside its directory, from a gap report."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from wmgym.evaluation.gap_report import GapReport, with_interval
from wmgym.evaluation.verdict import verdict
from wmgym.io import artifacts, files

NAME = "README.md"
_MARK = "<!-- A card that wmgym wrote from a gap report; it will be replaced. -->"
_SIGNS = {False: "failed", None: "unknown", True: "passed"}


def write_card(report: GapReport, world: str | os.PathLike[str]) -> Path:
    """Write the card of a saved world, atomically; the world's own files and checksums stay as they are.

    Args:
        report: what ``score`` returned for this world.
        world: the directory of the world.

    Returns:
        The path of the card, ``README.md`` in that directory.

    Raises:
        StoreError: no world is there, or a README.md that is no card of wmgym.
    """
    directory = Path(world)
    if not artifacts.exists(directory, kind="world"):
        raise artifacts.StoreError(f"{directory} holds no world; save it first")
    target = directory / NAME
    if target.exists() and not files.read_bytes(target, files.LARGEST_JSON).startswith(_MARK.encode()):
        raise artifacts.StoreError(f"{target} is no card of wmgym; move it out of the way")
    with files.write_errors(target), files.writing(directory) as replace:
        replace(NAME, card(report).encode())
    return target


def card(report: GapReport) -> str:
    """The card as Markdown."""
    found = report.verdict or verdict(report)
    parts = [_MARK, f"# {_plain(report.env_id or 'World')}", f"**Verdict: {found.title}.**"]
    parts.append("\n".join(f"- {_SIGNS[each.passed]}: {_plain(each.text)}" for each in found.reasons))
    parts += ["## Returns", _returns(report)]
    if report.open_loop:
        parts += ["## Open-loop errors, in standard deviations of the calibration data", _open_loop(report)]
    parts += ["## Where this comes from", _origin(report)]
    return "\n\n".join(parts) + "\n"


def _returns(report: GapReport) -> str:
    rows = [
        [
            _plain(entry.name) + "".join(f" ({note})" for note in entry.notes),
            with_interval(entry.real_mean, entry.real_interval),
            with_interval(entry.imagined_mean, entry.imagined_interval),
            f"{entry.gap:+.1%}",
            "-" if entry.coverage is None else f"{entry.coverage:.0%}",
        ]
        for entry in report.scores
    ]
    return _table(["policy", "real [95 %]", "imagined [95 %]", "gap", "errors inside bounds"], rows)


def _open_loop(report: GapReport) -> str:
    rows = [
        [str(row.steps), *(f"{x:.3f}" for x in (row.error, row.error_90, row.bound, row.constant_state))]
        for row in report.open_loop
    ]
    return _table(["steps", "median", "90 % quantile", "error bound", "constant-state baseline"], rows)


def _origin(report: GapReport) -> str:
    lines = [
        f"- {report.episodes} real episodes of each policy, {report.real_steps:,} steps, seed {report.seed}"
    ]
    if report.origin is not None:
        versions = ", ".join(f"{name} {version}" for name, version in report.origin.versions.items())
        lines += [f"- {versions}", f"- world {report.origin.world}"]
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def _plain(text: str) -> str:
    """Text of anybody's, without what Markdown or HTML would make of it."""
    return re.sub(r"([\\`*_\[\]<>|&])", r"\\\1", " ".join(text.split()))
