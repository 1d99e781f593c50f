"""Tables of the gradients' page, from the result of ``jacobians``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.harness.results import Row, result_rows
from benchmarks.harness.tables import short, table, tasks

HORIZONS = (1, 2, 4, 8, 16)
NEARBY, COARSE, WIDER = "0.001 sigma away", "0.01", "1e-05"
_STEPS = [f"h = {h}" for h in HORIZONS]


def return_gradients(part: str) -> str:
    """One row a task: cosine of "returns" or of "steered" by horizon, beside MuJoCo's own a little off."""
    rows = []
    for env_id in tasks("jacobians"):
        mine, near = by_horizon(env_id), checks(env_id, NEARBY)
        cells = [
            f"{said(mine, h, f'{part}_median', f'{part}_p10')} / {said(near, h, f'{part}_cosine')}"
            for h in HORIZONS
        ]
        rows.append([short(env_id), *cells, f"{mine[1]['states']} / {near[1]['states']}"])
    return table(["task", *_STEPS, "states"], rows)


def gradients_by_contact() -> str:
    """One row a task: median cosine of "steered" in contact and in flight, and states of each."""
    rows = []
    for env_id in tasks("jacobians"):
        groups = [by_horizon(env_id, group=group) for group in ("contact", "flight")]
        cells = [
            " / ".join(said(group, h, "steered_median", "steered_p10") for group in groups) for h in HORIZONS
        ]
        counts = " / ".join(str(group[1]["states"] if 1 in group else "-") for group in groups)
        rows.append([short(env_id), *cells, counts])
    return table(["task", *_STEPS, "states, h = 1"], rows)


def core_gradients() -> str:
    """One row a task and kind: cosines of the core's derivatives, by the actions and by the first core."""
    rows = []
    for env_id in tasks("jacobians"):
        mine = by_horizon(env_id)
        for part, name in (("action", "actions"), ("core", "first core")):
            cells = [said(mine, h, f"{part}_median", f"{part}_p10") for h in HORIZONS]
            rows.append([short(env_id), name, *cells])
        rows.append([short(env_id), "first core, nothing moves",
                     *(said(mine, h, "constant_state_median") for h in HORIZONS)])  # fmt: skip
    return table(["task", "derivative by", *_STEPS], rows)


def gradient_lengths() -> str:
    """One row a task: how long the world's gradients of "steered" are, relative to MuJoCo's."""
    return over_horizons(lambda env_id, h: said(by_horizon(env_id), h, "steered_length"))


def member_gradients() -> str:
    """One row a task: cosine of single members' gradients of "steered"."""
    return over_horizons(
        lambda env_id, h: said(by_horizon(env_id, propagation="member"), h, "steered_median", "steered_p10")
    )


def over_horizons(cell: Callable[[str, int], str]) -> str:
    """One row a task, one column a horizon."""
    rows = [[short(env_id), *(cell(env_id, h) for h in HORIZONS)] for env_id in tasks("jacobians")]
    return table(["task", *_STEPS], rows)


def gradient_checks() -> str:
    """One row a task: what the finite differences depend on."""
    rows = []
    for env_id in tasks("jacobians"):
        oracle = result_rows("jacobians", env=env_id, section="oracle")[0]
        wider, coarse = checks(env_id, WIDER), checks(env_id, COARSE)
        part = "steered" if "steered_difference" in wider[1] else "action"
        cells = [f"{wider[h][f'{part}_difference']:.0e}" if h in wider else "" for h in (1, 8, 16)]
        moved = [said(coarse, h, f"{part}_cosine") for h in (1, 8)]
        euler = "Euler instead of RK4" if oracle["integrator_replaced"] else "its own"
        most = max(oracle["core_most"], oracle["action_most"])
        rows.append([short(env_id), f"{most:.0e}", euler, *cells, *moved])
    head = ["task", "largest difference from `mjd_transitionFD`", "integrator there",
            *(f"difference between steps, h = {h}" for h in (1, 8, 16)),
            *(f"cosine with differences over 0.01 std, h = {h}" for h in (1, 8))]  # fmt: skip
    return table(head, rows)


def gradient_trust() -> str:
    """A list: how far each task's gradients can be followed."""
    found: dict[str, list[str]] = {}
    for env_id in tasks("jacobians"):
        rows = [row for row in by_horizon(env_id).values() if "steered_median" in row]
        found.setdefault(how_far(rows), []).append(short(env_id))
    return "\n".join(f"- {', '.join(names)}: {key}." for key, names in found.items())


def how_far(rows: Sequence[Row]) -> str:
    """``trusted`` in words."""
    if not rows:
        return "there is none, for the reward is constant"
    horizon, every = trusted(rows), [row["h"] for row in rows]
    if not horizon:
        return "not even one step"
    beyond = [h for h in every if h > horizon]
    return f"up to {steps(horizon)}, not {min(beyond)}" if beyond else f"{steps(horizon)}, the most measured"


def trusted(rows: Sequence[Row]) -> int:
    """The longest horizon up to which the median is 0.5 or more and nine in ten are above 0."""
    horizon = 0
    for row in sorted(rows, key=lambda row: row["h"]):
        if row["steered_median"] < 0.5 or row["steered_p10"] <= 0:
            break
        horizon = row["h"]
    return horizon


def steps(count: int) -> str:
    """A number of steps in words."""
    return "one step" if count == 1 else f"{count} steps"


def by_horizon(env_id: str, propagation: str = "mean", group: str = "all") -> dict[int, Row]:
    """Rows of a task by their horizon."""
    having = {"env": env_id, "propagation": propagation, "group": group}
    return {row["h"]: row for row in result_rows("jacobians", section="cosine", **having)}


def checks(env_id: str, by: str) -> dict[int, Row]:
    """Rows of a task's other finite differences, by their horizon."""
    return {row["h"]: row for row in result_rows("jacobians", section="check", env=env_id, by=by)}


def said(rows: dict[int, Row], h: int, key: str, low: str | None = None) -> str:
    """A number, with a lower one in brackets; nothing where it was not measured."""
    if h not in rows or key not in rows[h]:
        return "-"
    number = f"{rows[h][key]:.2f}"
    return number if low is None else f"{number} ({rows[h][low]:.2f})"
