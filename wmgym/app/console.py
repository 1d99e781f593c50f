"""What the commands share: run.json and the answer, errors and warnings as plain lines, files, tables."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from wmgym.app.doctor import Finding
    from wmgym.evaluation.gap_report import GapReport, PolicyScore
    from wmgym.models.error_bounds import Calibration


class Job:
    """One command at work: what it costs and what it will print."""

    def __init__(self, command: str, out: Path) -> None:
        """Start the clocks."""
        from wmgym.io.provenance import cpu_seconds

        self.command, self.out = command, out
        self.wall, self.cpu = time.perf_counter(), cpu_seconds()
        self.spoken: dict[str, Any] = {}
        self.shown: RenderableType = ""

    def done(
        self,
        config: Mapping[str, Any],
        result: Mapping[str, Any],
        table: RenderableType | None = None,
        *,
        real_steps: int = 0,
        imagined_steps: int = 0,
    ) -> None:
        """Leave ``run.json`` beside the artifact, which must be there by now."""
        from wmgym.io.provenance import cpu_seconds, write_run_json

        ledger = {
            "wall_s": time.perf_counter() - self.wall,
            "cpu_s": cpu_seconds() - self.cpu,
            "real_steps": real_steps,
            "imagined_steps": imagined_steps,
        }
        write_run_json(self.out, self.command, config, ledger)
        self.answer(result, ledger, table)

    def answer(
        self, result: Mapping[str, Any], ledger: Mapping[str, float], table: RenderableType | None = None
    ) -> None:
        """Keep what to print once all is done."""
        self.spoken = {
            "command": self.command, "out": str(self.out), "result": dict(result), "ledger": dict(ledger),
        }  # fmt: skip
        self.shown = Group(table or facts(result), facts(ledger), Text(f"saved to {self.out}"))


@contextlib.contextmanager
def job(command: str, out: Path, as_json: bool, kind: str | None = None) -> Iterator[Job]:
    """Run a command's body, its stray prints sent to stderr, and print its answer or one line of error.

    Args:
        command: the verb.
        out: the directory that it will write, refused before any work where that is impossible.
        as_json: print one JSON object instead of tables.
        kind: the artifact that ``out`` itself will be.
    """
    with plain_errors(), plain_warnings(), contextlib.redirect_stdout(sys.stderr):
        from wmgym.io import artifacts

        work = Job(command, out)
        artifacts.check_place(out, kind=kind)
        yield work
    if as_json:
        print_json(work.spoken)
    else:
        stdout().print(work.shown)


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Turn mistakes in the input into one line and an exit status; a bug in wmgym keeps its traceback."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(130) from None
    except Exception as error:
        from wmgym.data.rollout_worker import CollectError

        if not isinstance(error, (ValueError, OSError, ImportError, CollectError)):
            raise
        typer.echo(f"error: {_one_line(error)}", err=True)
        raise typer.Exit(1) from None


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Print warnings as one line each, without the source that raised them; renamings always."""

    def show(message: Warning | str, *rest: Any, **more: Any) -> None:
        text = Text.from_ansi(str(message)).plain
        typer.echo(f"warning: {' '.join(text.split())}", err=True)

    with warnings.catch_warnings():
        warnings.filterwarnings("default", ".*goes in the next release", DeprecationWarning)
        warnings.showwarning = show
        yield


def print_json(answer: Mapping[str, Any]) -> None:
    """Print one strict JSON object."""
    typer.echo(json.dumps(answer, indent=2, allow_nan=False))


def stdout() -> Console:
    """Stdout; wide enough for the tables where it is no terminal."""
    return Console(width=None if sys.stdout.isatty() else 140, highlight=False, markup=False)


def stderr() -> Console:
    """Stderr, for what is said meanwhile."""
    return Console(stderr=True, highlight=False, markup=False)


def new_table(title: str, *columns: str) -> Table:
    """An empty table without lines."""
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns:
        table.add_column(name)
    return table


def facts(named: Mapping[str, Any]) -> Table:
    """Names and values, a row each."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for key, value in named.items():
        shown = f"{value:,.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
        shown = f"{value:,}" if isinstance(value, int) else shown
        table.add_row(Text(key), Text(", ".join(shown) if isinstance(shown, list) else str(shown)))
    return table


def score_table(report: GapReport) -> Table:
    """Real beside imagined returns, a row for each policy."""
    title = f"{report.env_id}, {report.episodes} episodes per policy; [95 % intervals]"
    table = new_table(
        title, "policy", "real return", "imagined return", "gap %", "diverged", "errors inside bounds"
    )
    for entry in report.scores:
        table.add_row(*map(Text, _score_row(entry)))
    return table


def bounds(found: Calibration) -> list[dict[str, Any]]:
    """Bounds after 1, 2, 4, ... steps, in the data's standard deviations, averaged over core dimensions."""
    horizons = sorted({2**k for k in range(found.horizon.bit_length())} | {found.horizon})
    return [
        {
            "steps": h,
            "windows": int(found.windows[h - 1]),
            "half_width": {m: float((w[h - 1] / found.data_std).mean()) for m, w in found.half_width.items()},
            "coverage": {m: _number(c[0, h - 1]) for m, c in found.coverage.items()},
        }
        for h in horizons
    ]


def bounds_table(
    rows: Sequence[Mapping[str, Any]], level: float, before: Mapping[str, Any] | None = None
) -> Table:
    """The rows of ``bounds`` as a table; ``before``, a ``Freshness``, is of the bounds before an update."""
    propagations = list(rows[0]["half_width"])
    title = (
        f"Error bounds at level {level:.0%}: half-width in standard deviations of the data (mean), coverage"
    )
    if before is not None:
        inside = f"{before['coverage']:.0%} of errors in {before['episodes']} new episodes"
        title += f"\nBefore the update {inside} were inside{', too few: stale' if before['stale'] else ''}"
    columns = [
        f"{what}, {propagation}" for propagation in propagations for what in ("half-width", "coverage")
    ]
    table = new_table(title, "steps", "windows", *columns)
    for row in rows:
        cells = [
            (row["half_width"][propagation], row["coverage"][propagation]) for propagation in propagations
        ]
        shown = [
            x for width, share in cells for x in (f"{width:.3f}", "-" if share is None else f"{share:.0%}")
        ]
        table.add_row(str(row["steps"]), f"{row['windows']:,}", *shown)
    return table


def findings_table(findings: Sequence[Finding]) -> Table:
    """What ``doctor`` found, a row each."""
    table = new_table("", "name", "status", "detail", "cure")
    color = {"ok": "green", "warn": "yellow", "fail": "red"}
    for f in findings:
        table.add_row(Text(f.name), Text(f.status, color[f.status]), Text(f.detail), Text(f.cure))
    return table


def _one_line(error: Exception) -> str:
    text = (
        f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
    )
    return " ".join(text.split()) or type(error).__name__


def _score_row(entry: PolicyScore) -> tuple[str, ...]:
    percent = 100 * entry.gap, (100 * entry.gap_interval[0], 100 * entry.gap_interval[1])
    return (
        entry.name,
        _with_interval(entry.real_mean, entry.real_interval),
        _with_interval(entry.imagined_mean, entry.imagined_interval),
        _with_interval(*percent),
        f"{entry.diverged:.0%}",
        "-" if entry.coverage is None else f"{entry.coverage:.0%}{', stale' if entry.stale else ''}",
    )


def _with_interval(mean: float, interval: tuple[float, float]) -> str:
    return f"{mean:,.1f} [{interval[0]:,.1f}, {interval[1]:,.1f}]"


def _number(value: Any) -> float | None:
    return None if math.isnan(value) else float(value)
