"""Tables of the reality gap: each simulator of a changed robot, by shift and budget."""

from __future__ import annotations

from benchmarks.harness.metrics import matters
from benchmarks.harness.results import Row, result_rows
from benchmarks.harness.tables import short, table

SIMULATORS = (
    "nominal",
    "identified",
    "identified with drive",
    "pool world",
    "adapted",
    "hybrid",
    "identified hybrid",
    "B alone",
)


def reality_errors() -> str:
    """Open-loop errors after 32 steps."""
    return _by_simulator("open_loop", "{:.3f}")


def reality_returns() -> str:
    """Mean absolute gaps of returns."""
    return _by_simulator("return_gap", "{:.0%}")


def reality_coverage() -> str:
    """Coverage of the 90 % bounds of those that have some."""
    return _by_simulator("coverage", "{:.0%}", SIMULATORS[3:])


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


def detection_by_shift() -> str:
    """Of every shift and task: trials that were flagged, where it matters and where not."""
    found: dict[str, dict[str, dict[bool, list[bool]]]] = {}
    rows = [row for row in result_rows("detection") if row["role"] == "held-out"]
    envs = [*dict.fromkeys(row["env"] for row in rows)]
    for row in rows:
        flags = [at is not None for at in row["flagged_at"]]
        cell = found.setdefault(f"{row['shift']} ({row['kind']})", {}).setdefault(row["env"], {})
        cell.setdefault(matters(row), []).extend(flags)
    if not found:
        return "Nothing has been measured yet."

    def said(flags: list[bool] | None) -> str:
        return f"{sum(flags)} of {len(flags)}" if flags else "-"

    shown = []
    for what, cells in found.items():
        each = [cells.get(env, {}) for env in envs]
        shown.append([what, *(f"{said(cell.get(True))}; {said(cell.get(False))}" for cell in each)])
    return table(["shift", *(short(env) for env in envs)], shown)


def retrained_scores() -> str:
    """Of every task and shift: scores on the robot of the policy as it is and after more training."""
    shown = []
    for row in result_rows("retrained"):
        scores = [
            f"{row[name]:,.0f} \u00b1 {2 * row[f'{name}_se']:,.0f}" if name in row else "-"
            for name in ("deployed", "retrained", "last", "continued", "direct")
        ]
        shown.append([short(row["env"]), f"{row['shift']} ({row['kind']})", *scores, row["gate"]])
    head = [
        "task",
        "shift",
        "deployed",
        "retrained",
        "last",
        "continued in the identified simulator",
        "SAC on the robot",
        "best in the identified simulator",
    ]
    return table(head, shown) if shown else "Nothing has been measured yet."


def fallback_gaps() -> str:
    """Of every task and policy: real and imagined returns without and with MuJoCo's help."""
    rows = result_rows("fallback")
    shown = []
    for row in rows:
        if row["mixed"]:
            alone = next(
                other for other in rows
                if not other["mixed"] and all(other[k] == row[k] for k in ("env", "policy", "seed"))
            )  # fmt: skip
            shown.append(
                [
                    short(row["env"]), row["policy"], f"{row['real']:,.0f} \u00b1 {2 * row['real_se']:,.0f}",
                    f"{alone['imagined']:,.0f}", f"{row['imagined']:,.0f}", f"{row['share']:.0%}",
                ]
            )  # fmt: skip
    head = ["task", "policy", "MuJoCo", "world", "world with fallback", "steps in MuJoCo"]
    return table(head, shown) if shown else "Nothing has been measured yet."


def hybrid_speed() -> str:
    """Steps per second of a hybrid env and of MuJoCo alone."""
    rate = {(row["env"], row["engine"]): row["steps_per_s"] for row in result_rows("hybrid")}
    shown = [
        [short(env), f"{value:,.0f}", f"{rate[env, 'mujoco.rollout']:,.0f}",
         f"{value / rate[env, 'mujoco.rollout']:.2f}"]
        for (env, engine), value in rate.items() if engine == "hybrid"
    ]  # fmt: skip
    if not shown:
        return "Nothing has been measured yet."
    return table(["task", "hybrid, steps/s", "mujoco.rollout, steps/s", "ratio"], shown)
