"""Tables of the reality gap: each simulator of a changed robot, by shift and budget."""

from __future__ import annotations

from benchmarks.harness.results import Row, result_rows
from benchmarks.harness.tables import short, table

SIMULATORS = ("nominal", "identified", "pool world", "adapted", "hybrid", "identified hybrid", "B alone")


def reality_errors() -> str:
    """Open-loop errors after 32 steps."""
    return _by_simulator("open_loop", "{:.3f}")


def reality_returns() -> str:
    """Mean absolute gaps of returns."""
    return _by_simulator("return_gap", "{:.0%}")


def reality_coverage() -> str:
    """Coverage of the 90 % bounds of those that have some."""
    return _by_simulator(
        "coverage", "{:.0%}", ("pool world", "adapted", "hybrid", "identified hybrid", "B alone")
    )


def _by_simulator(key: str, form: str, names: tuple[str, ...] = SIMULATORS) -> str:
    """A row for each task, shift and budget: means over seeds, the least one bold where less is better."""
    cells: dict[tuple[str, str, str, int], dict[str, list[float]]] = {}
    for row in result_rows("reality_gap"):
        if row[key] is not None:
            cell = short(row["env"]), row["kind"], row["shift"], row["budget"]
            cells.setdefault(cell, {}).setdefault(row["simulator"], []).append(row[key])
    if not cells:
        return "Nothing has been measured yet."
    rows = []
    for (env, kind, shift, budget), values in cells.items():
        means = {name: sum(each) / len(each) for name, each in values.items()}
        least = min(means.values()) if key != "coverage" else None
        said = [
            "-" if name not in means else _marked(form.format(means[name]), means[name] == least)
            for name in names
        ]
        rows.append([env, f"{shift} ({kind})", f"{budget:,}", *said])
    return table(["task", "shift", "steps of the robot", *names], rows)


def _marked(text: str, best: bool) -> str:
    return f"**{text}**" if best else text


def reality_cost() -> str:
    """Seconds to make each simulator, means over everything measured."""
    found: dict[str, list[float]] = {}
    rows: list[Row] = result_rows("reality_gap")
    for row in rows:
        found.setdefault(row["simulator"], []).append(row["made_s"])
    shown = [[name, f"{sum(each) / len(each):.0f} s"] for name, each in found.items()]
    return table(["simulator", "time to make it"], shown) if shown else "Nothing has been measured yet."
