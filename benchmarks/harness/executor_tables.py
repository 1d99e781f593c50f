"""Tables of the executors: what a unit costs beside its own work."""

from __future__ import annotations

import numpy as np

from benchmarks.harness.results import result_rows
from benchmarks.harness.tables import table

NAMES = {"processes": "processes", "ray": "Ray, two nodes"}


def executor_overheads() -> str:
    """Seconds beside the work's own: of the first units, for which workers start, and of the later ones."""
    rows = []
    for kind, name in NAMES.items():
        mine = result_rows("executors", section="overhead", executor=kind)
        whole = result_rows("executors", section="makespan", executor=kind)
        if not mine or not whole:
            return "Nothing has been measured yet."
        beside = np.array([row["took"] - row["seconds"] for row in mine])
        seconds = mine[0]["seconds"]
        first, later = beside[:2], beside[2:]
        rows.append(
            [name, f"{first.mean():.2f} s", f"{1e3 * np.median(later):.0f} ms", f"{1e3 * later.max():.0f} ms",
             f"{np.median(beside) / seconds:.2%}", f"{whole[0]['wall'] / whole[0]['ideal'] - 1:.1%}"]
        )  # fmt: skip
    head = [
        "executor", "first unit of a worker", "later units, median", "worst", "median of a 10 s unit",
        "8 units of 10 s, two at a time: longer than 40 s by",
    ]  # fmt: skip
    return table(head, rows)
