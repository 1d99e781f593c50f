"""What the commands share: run.json and the answer, errors and warnings as plain lines, tables."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from wmgym.tasks.back_end import back_end_errors

if TYPE_CHECKING:
    from wmgym.evaluation.gap_report import GapReport
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
        shown: RenderableType | None = None,
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
        self.answer(result, ledger, shown)

    def answer(
        self,
        result: Mapping[str, Any],
        ledger: Mapping[str, float],
        shown: RenderableType | None = None,
        page: Path | None = None,
    ) -> None:
        """Keep what to print once all is done; last the page to open, where there is one."""
        self.spoken = {
            "command": self.command, "out": str(self.out), "result": dict(result), "ledger": dict(ledger),
        }  # fmt: skip
        lines = [f"saved to {self.out}"]
        if page is not None:
            self.spoken["page"] = str(page)
            lines.append(f"open {page}")
        self.shown = Group(shown or facts(result), facts(ledger), *lines)


@contextlib.contextmanager
def job(
    command: str, out: Path, as_json: bool, kind: str | None = None, writes: Sequence[str] = ("run.json",)
) -> Iterator[Job]:
    """Run a command's body, its stray prints sent to stderr, and print its answer or one line of error.

    Args:
        command: the verb.
        out: the directory that it will write, refused before any work where that is impossible.
        as_json: print one JSON object instead of tables.
        kind: the artifact that ``out`` itself will be.
        writes: names of the files that it will write there.
    """
    with plain_errors(), _plain_warnings(), contextlib.redirect_stdout(sys.stderr):
        from wmgym.io import artifacts

        work = Job(command, out)
        artifacts.check_place(out, kind=kind, names=writes)
        yield work
    show(work.spoken if as_json else work.shown)


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Turn mistakes in the input into one line and an exit status; a bug in wmgym keeps its traceback."""
    try:
        with back_end_errors():
            yield
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(130) from None
    except Exception as error:
        from wmgym.data.rollout_worker import CollectError

        if not isinstance(error, (ValueError, OSError, ImportError, CollectError)):
            raise
        text = str(error)
        if isinstance(error, OSError) and error.filename:
            text = f"{error.filename}: {error.strerror}"
        typer.echo(f"error: {' '.join(text.split()) or type(error).__name__}", err=True)
        raise typer.Exit(1) from None


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Print warnings as one line each, without the source that raised them; renamings always."""

    def tell(message: Warning | str, *rest: Any, **more: Any) -> None:
        text = Text.from_ansi(str(message)).plain
        typer.echo(f"warning: {' '.join(text.split())}", err=True)

    with warnings.catch_warnings():
        warnings.filterwarnings("default", ".*goes in the next release", DeprecationWarning)
        warnings.showwarning = tell
        yield


def show(answer: Mapping[str, Any] | RenderableType) -> None:
    """Print one strict JSON object or, wide enough for the tables where stdout is no terminal, the rest."""
    if isinstance(answer, Mapping):
        typer.echo(json.dumps(answer, indent=2, allow_nan=False))
    else:
        width = None if sys.stdout.isatty() else 140
        Console(width=width, highlight=False, markup=False).print(answer)


def table(title: str | None, columns: Sequence[str], rows: Iterable[Sequence[RenderableType]]) -> Table:
    """A table without lines."""
    made = Table(*columns, title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for row in rows:
        made.add_row(*row)
    return made


def score_table(report: GapReport) -> RenderableType:
    """Real beside imagined returns, a row for each policy; how well imagination ranks them; the verdict."""
    from wmgym.evaluation.gap_report import env_name, with_interval

    title = f"{env_name(report.env_id)}, {report.episodes} episodes per policy; [95 % intervals]"
    estimated = any(s.more_imagined_returns for s in report.scores)
    columns = [
        "policy", "real return", *["estimate from both"] * estimated, "imagined return", "gap %", "diverged",
        "errors inside bounds",
    ]  # fmt: skip
    rows: list[list[RenderableType]] = []
    for s in report.scores:
        low, high = s.gap_interval
        both = "-"
        if s.estimate is not None and s.estimate_interval is not None:
            both = with_interval(s.estimate, s.estimate_interval)
        cells = [
            with_interval(s.real_mean, s.real_interval),
            *[both] * estimated,
            with_interval(s.imagined_mean, s.imagined_interval),
            with_interval(100 * s.gap, (100 * low, 100 * high)),
        ]
        inside = "-" if s.coverage is None else f"{s.coverage:.0%}{', stale' if s.stale else ''}"
        rows.append([Text(s.name), *cells, f"{s.diverged:.0%}", inside])
    shown: list[RenderableType] = [table(title, columns, rows)]
    if report.agreement is not None:
        shown.append(plain(report.agreement))
    if (found := report.verdict) is not None:
        open_ones = [each for each in found.reasons if not each.passed]
        said = [f"verdict: {found.title}", *(f"- {each.text}" for each in open_ones)]
        shown.append(plain("\n".join([*said, f"+ {len(found.reasons) - len(open_ones)} checks passed"])))
    return Group(*shown)


def bounds(found: Calibration) -> list[dict[str, Any]]:
    """Bounds after 1, 2, 4, ... steps, in the data's standard deviations, averaged over core dimensions."""
    coverage = {
        m: [None if math.isnan(c) else float(c) for c in rows[0]] for m, rows in found.coverage.items()
    }
    return [
        {
            "steps": h,
            "windows": int(found.windows[h - 1]),
            "half_width": {m: float((w[h - 1] / found.data_std).mean()) for m, w in found.half_width.items()},
            "coverage": {m: shares[h - 1] for m, shares in coverage.items()},
        }
        for h in sorted({2**k for k in range(found.horizon.bit_length())} | {found.horizon})
    ]


def bounds_table(
    rows: Sequence[Mapping[str, Any]], level: float, before: Mapping[str, Any] | None = None
) -> Table:
    """The rows of ``bounds`` as a table; ``before``, a ``Freshness``, is of the bounds before an update."""
    title = (
        f"Error bounds at level {level:.0%}: half-width in standard deviations of the data (mean), coverage"
    )
    if before is not None:
        inside = f"{before['coverage']:.0%} of errors in {before['episodes']} new episodes"
        title += f"\nBefore the update {inside} were inside{', too few: stale' if before['stale'] else ''}"
    ways = list(rows[0]["half_width"])
    columns = ["steps", "windows", *(f"{what}, {way}" for way in ways for what in ("half-width", "coverage"))]
    shown = []
    for row in rows:
        cells = [str(row["steps"]), f"{row['windows']:,}"]
        for way in ways:
            share = row["coverage"][way]
            cells += [f"{row['half_width'][way]:.3f}", "-" if share is None else f"{share:.0%}"]
        shown.append(cells)
    return table(title, columns, shown)


def plain(value: object) -> Text:
    """What a value says of itself; names in it stay text."""
    return Text(str(value))


def _ranges(numbers: Sequence[int]) -> str:
    """Numbers in rising order, those in a row as a range."""
    gaps = [k for k in range(1, len(numbers)) if numbers[k] != numbers[k - 1] + 1]
    rows = [numbers[a:b] for a, b in itertools.pairwise([0, *gaps, len(numbers)])]
    return ", ".join(f"{row[0]} to {row[-1]}" if len(row) > 1 else str(row[0]) for row in rows)


def facts(named: Mapping[str, Any]) -> Table:
    """Names and values, a row each."""
    found = Table.grid(padding=(0, 2, 0, 0))
    for key, value in named.items():
        shown = f"{value:,.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
        shown = f"{value:,}" if isinstance(value, int) else shown
        if isinstance(value, dict):
            shown = [f"{_ranges(numbers)} {name}" for name, numbers in value.items() if numbers]
        found.add_row(key, ", ".join(shown) if isinstance(shown, list) else str(shown))
    return found
