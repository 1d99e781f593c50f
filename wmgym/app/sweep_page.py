"""A sweep's results: one table of all runs, and one page."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wmgym.evaluation.intervals import interquartile_mean, stratified_interval
from wmgym.io import files

COLUMNS = (
    "task", "algorithm", "budget", "seed", "real_return", "random_return", "imagined_return", "gap",
    "verdict", "policy", "real_steps", "wall_s", "cpu_s", "folder",
)  # fmt: skip


@dataclass(frozen=True)
class Aggregate:
    """One algorithm after one budget.

    Attributes:
        task: of one task, raw returns; empty where over all tasks, normalised returns.
        algorithm: of the agent.
        budget: real steps.
        runs: how many.
        iqm: interquartile mean.
        interval: 95 % interval by a bootstrap stratified by task.
    """

    task: str
    algorithm: str
    budget: int
    runs: int
    iqm: float
    interval: tuple[float, float]


def aggregates(rows: Sequence[Mapping[str, Any]]) -> list[Aggregate]:
    """Interquartile means with intervals (Agarwal et al. 2021, arXiv:2108.13264), over all tasks and of each.

    Over tasks a return counts as 0 where it is that of random actions and as 1 where it is the best mean that
    any algorithm and budget of this sweep has reached on the task; what is worse than random is below 0.
    """
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    groups = list(dict.fromkeys((row["algorithm"], row["budget"]) for row in rows))
    zero = {task: float(np.mean([r["random_return"] for r in rows if r["task"] == task])) for task in tasks}
    best = {
        task: max(float(np.mean(found)) for group in groups if len(found := _returns(rows, task, *group)))
        for task in tasks
    }
    made = []
    for algorithm, budget in groups:
        scores = []
        for task in tasks:
            own = _returns(rows, task, algorithm, budget)
            if len(own):
                scores.append((own - zero[task]) / (abs(best[task] - zero[task]) or 1.0))
        made.append(_aggregate("", algorithm, budget, scores))
    for task in tasks if len(tasks) > 1 else ():
        each = ((group, _returns(rows, task, *group)) for group in groups)
        made += [_aggregate(task, *group, [found]) for group, found in each if len(found)]
    return made


def write_table(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """All runs as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _harmless(row[key]) for key in COLUMNS} for row in rows)
    return files.write_bytes(path, text.getvalue().encode())


def write_page(
    path: Path,
    *,
    rows: Sequence[Mapping[str, Any]],
    failed: Mapping[str, str],
    left: Sequence[str],
    ledger: Mapping[str, float],
    logs: Mapping[str, str],
) -> Path:
    """All runs as one HTML file that needs no network, no server and no script.

    Args:
        path: the file to write.
        rows: of the runs that are done.
        failed: why the others failed, by name.
        left: names of those that are left.
        ledger: what all of it took.
        logs: path of each run's log from the page, by name.

    Raises:
        ImportError: jinja2 is missing.
        StoreError: the file cannot be written.
    """
    try:
        import jinja2  # noqa: F401
    except ModuleNotFoundError as error:
        raise ImportError(f"a page needs {error.name}: pip install 'wmgym[report]'") from error
    from wmgym.evaluation.report.page import render

    made = aggregates(rows)
    page = render(
        "sweep.html.j2",
        rows=rows,
        overall=[each for each in made if not each.task],
        by_task=[each for each in made if each.task],
        failed=failed,
        left=left,
        ledger=ledger,
        logs=logs,
    )
    return files.write_bytes(path, page.encode())


def _returns(rows: Sequence[Mapping[str, Any]], task: str, algorithm: str, budget: int) -> np.ndarray:
    mine = (task, algorithm, budget)
    found = [r["real_return"] for r in rows if (r["task"], r["algorithm"], r["budget"]) == mine]
    return np.array(found, np.float64)


def _aggregate(task: str, algorithm: str, budget: int, scores: list[np.ndarray]) -> Aggregate:
    every = np.concatenate(scores)
    return Aggregate(
        task, algorithm, budget, len(every), float(interquartile_mean(every)), stratified_interval(scores)
    )


def _harmless(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value
