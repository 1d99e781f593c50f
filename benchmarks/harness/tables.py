"""Tables in Markdown from the result files; nothing in them is typed by hand."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

from benchmarks.harness.metrics import break_even
from benchmarks.harness.results import RESULTS, Row, committed, read, result_rows
from benchmarks.harness.worlds import LARGE

MUJOCO_START = "MuJoCo with 0.001 sigma initial-state noise"
MUJOCO_STEP = "MuJoCo with 0.001 sigma state noise"
HORIZONS = (1, 8, 32, 128, 368)


def headline() -> str:
    """The README's one table: a row for each of the five tasks whose speed is measured."""
    rows = []
    rates = result_rows("throughput")
    for env_id in tasks("throughput"):
        time = times_to_half_std(env_id)
        bounds = result_rows("coverage", section="bound", env=env_id, propagation="member", h=32)
        best = {
            engine: max(
                r["steps_per_s"]
                for r in rates
                if (r["env"], r["engine"]) == (env_id, engine) and r["precision"] != "bfloat16"
            )
            for engine in ("ImaginedVectorEnv", "mujoco.rollout")
        }
        speed = f"{best['ImaginedVectorEnv']:,.0f} / {best['mujoco.rollout']:,.0f}"
        rows.append(
            [short(env_id), f"{time['world']:.2f} s / {time[MUJOCO_START]:.2f} s",
             f"{bounds[0]['disagreement_coverage']:.0%}", f"{mean_gap(env_id):.1%}", speed,
             str(break_even(rates, env_id) or "never")]
        )  # fmt: skip
    head = ["task", "time until the open-loop error passes 0.5 std: world / MuJoCo started 0.001 std off",
            "coverage of the 90 % bound after 32 steps", "return gap",
            "steps/s on 2 cores: imagined / `mujoco.rollout`",
            "number of envs from which imagination is faster"]  # fmt: skip
    return table(head, rows)


def targets(*names: str) -> str:
    """Targets of some benchmarks beside what was measured, a table a benchmark under its command."""
    parts = []
    for document in map(committed, names):
        if document is not None:
            rows = [
                [t["what"], t["target"], said(t["measured"], "<br>"), verdict(t)] for t in document["targets"]
            ]
            parts += [f"`{document['command']}`", table(["what", "target", "measured", "met"], rows)]
    return "\n\n".join(parts)


def counts() -> str:
    """How many targets were met, over all results that have some."""
    every = [[verdict(t) for t in read(path)["targets"]] for path in sorted(RESULTS.glob("*.json"))]
    judged = [one for verdicts in every if set(verdicts) != {"no target"} for one in verdicts]
    kinds = ("yes", "**no**", "not measured yet", "no target")
    met, missed, open_yet, free = (judged.count(kind) for kind in kinds)
    yet = f"{open_yet} are not measured yet, " if open_yet else ""
    return (
        f"{met} are met, {missed} are missed, {yet}and {free} measurements have no target and stand for"
        " comparison"
    )


def machine(name: str) -> str:
    """Where and with what the numbers of a result were measured."""
    document = committed(name)
    if document is None:
        return "Nothing has been measured yet."
    units, last = document["units"], document["hardware"]
    said = [f"{each['cores']} cores, {each['cpu']}" for each in (u.get("hardware", last) for u in units)]
    count = Counter(said)
    where = "; ".join(one if len(count) == 1 else f"{one} ({count[one]} units)" for one in count)
    versions = ", ".join(f"{library} {version}" for library, version in document["versions"].items())
    return f"Measured on {where}, with {versions}."


def verdict(found: Row) -> str:
    """What became of a target."""
    if found["target"] == "none set":
        return "no target"
    return "not measured yet" if found["met"] is None else "yes" if found["met"] else "**no**"


def plain_targets(found: Iterable[Row], judged: bool = True) -> str:
    """Targets for a terminal; a small sample is not judged."""
    lines = []
    for t in found:
        end = f" -> {verdict(t).strip('*')}" if judged else ""
        lines.append(f"- {t['what']}\n    target {t['target']}: {said(t['measured'])}{end}")
    return "\n".join(lines)


def open_loop() -> str:
    """One row a task: error relative to the constant-state baseline, of world and noisy MuJoCo."""
    rows = []
    for env_id in tasks("open_loop"):
        mine = result_rows("open_loop", section="error", env=env_id)
        error = {(r["model"], r["h"]): r["error"] for r in mine}
        shares = [
            " / ".join(
                f"{error[model, h] / error['constant state', h]:.2f}" if (model, h) in error else "-"
                for model in ("world", MUJOCO_START)
            )
            for h in HORIZONS
        ]
        time = times_to_half_std(env_id)
        contact = result_rows("open_loop", section="contact", env=env_id)
        f1 = f"{contact[0]['f1']:.2f} / {contact[0]['f1_mujoco_with_noise']:.2f}" if contact else ""
        rows.append([short(env_id), *shares, f"{time['world']:.2f} s / {time[MUJOCO_START]:.2f} s", f1])
    head = ["task", *(f"h = {h}" for h in HORIZONS), "time until 0.5 std", "contact F1"]
    return table(head, rows)


def return_gaps() -> str:
    """One row a task: mean absolute gap of the world and of MuJoCo with noise, the worst policy, the AUC."""
    rows = []
    for env_id in tasks("return_gap"):
        gaps = result_rows("return_gap", section="gap", env=env_id, propagation="member")
        worst = max(gaps, key=lambda r: abs(r["gap"]))
        told = result_rows("return_gap", section="distribution", env=env_id, propagation="member")
        rows.append(
            [short(env_id), f"{mean_gap(env_id):.1%}", f"{mean_gap(env_id, model=MUJOCO_STEP):.1%}",
             f"{worst['policy']}: {worst['imagined']:,.0f} imagined, {worst['real']:,.0f} real",
             f"{told[0]['auc']:.2f}"]
        )  # fmt: skip
    head = ["task", "return gap of the world", "of MuJoCo with 0.001 sigma state noise",
            "policy with the widest gap", "AUC, imagined against real"]  # fmt: skip
    return table(head, rows)


def coverage() -> str:
    """One row a task: coverage of the 90 % bound by horizon, the tube, the cost."""
    rows = []
    for env_id in tasks("coverage"):
        by = {r["h"]: r for r in result_rows("coverage", section="bound", env=env_id, propagation="member")}
        tube = result_rows("coverage", section="tube", env=env_id, propagation="member")[0]
        cost = result_rows("coverage", section="cost", env=env_id)[0]
        shares = [f"{by[h]['disagreement_coverage']:.0%}" if h in by else "-" for h in HORIZONS]
        least = min(share for row in by.values() for share in row["disagreement_policies"].values())
        inside = f"{tube['inside']:.0%}"
        rows.append([short(env_id), *shares, f"{least:.0%}", inside, f"{cost['ratio']:.2f}x"])
    head = ["task", *(f"h = {h}" for h in HORIZONS), "least of any policy", "trajectories inside the tube",
            "cost of a step"]  # fmt: skip
    return table(head, rows)


def signals() -> str:
    """One row an uncertainty signal, means over the five large tasks."""
    document = committed("uncertainty_signals")
    found = document["targets"] if document else []
    head = ["signal", *(found[0]["measured"] if found else [])]
    return table(head, [[t["what"].partition(": ")[2], *map(said, t["measured"].values())] for t in found])


def demo() -> str:
    """One row a seed of ``make demo``: the mean and the worst episode of its policy, what it cost."""
    head = ["seed", "real steps", "to calibrate", "real return", "worst episode", "imagined return",
            "errors inside the 90 % bound", "minutes in all", "CPU minutes of the run"]  # fmt: skip
    rows = [
        [str(run["seed"]), f"{run['real_steps']:,}", f"{run['calibration_steps']:,}", interval(run, "real"),
         f"{run['real_min']:,.0f}", interval(run, "imagined"), f"{run['coverage']:.0%}",
         f"{run['wall_s'] / 60:.1f}", f"{run['cpu_s'] / 60:.1f}"]
        for run in result_rows("end_to_end", section="demo")
    ]  # fmt: skip
    return table(head, rows) if rows else "Not measured yet."


def training() -> str:
    """One row a run: returns of the policy trained in imagination, in the world and in MuJoCo."""
    rows = []
    for run in result_rows("end_to_end", section="run"):
        sac = result_rows("end_to_end", section="sac", env=run["env"], seed=run["seed"])
        rows.append(
            [short(run["env"]), str(run["seed"]), f"{run['real_steps']:,.0f}",
             f"{run['imagined_steps']:,.0f}", interval(run, "real"), interval(run, "imagined"),
             f"{run['gap']:+.0%}", f"{sac[0]['real_mean']:,.0f}" if sac else "",
             f"{run['wall_s'] / 60:.1f} min"]
        )  # fmt: skip
    head = ["task", "seed", "real steps", "imagined steps", "real return", "imagined return", "gap",
            "SB3 SAC, same real steps", "wall time"]  # fmt: skip
    return table(head, rows)


def offline() -> str:
    """One row a run in a shipped world alone: returns in MuJoCo and in the world, and the best reference."""
    found = sorted(result_rows("offline"), key=lambda r: (r["env"], r["algorithm"], r["seed"]))
    rows = [
        [short(r["env"]), r["algorithm"], str(r["seed"]), f"{r['updates']:,}", f"{r['real']:,.0f}",
         f"{r['real_min']:,.0f}", f"{r['imagined']:,.0f}", f"{r['gap']:+.0%}",
         f"{r['best']:,.0f} ({r['best_policy']})", f"{r['real'] / r['best']:.0%}",
         " ".join(f"{100 * share:.0f}" for share in r.get("coverage", {}).values()),
         f"{r['cpu_s'] / 60:.1f} min"]
        for r in found
    ]  # fmt: skip
    head = ["task", "algorithm", "seed", "updates", "real return", "worst episode", "imagined return", "gap",
            "best reference policy", "share of it", "inside the bound, %, h = 1, 8, 32, 128, 368",
            "CPU time"]  # fmt: skip
    return table(head, rows) if rows else ""


def planning() -> str:
    """One row a task and planner: returns of all episodes, and what a real step costs."""
    rows = []
    found = result_rows("planning")
    for env_id, planner in dict.fromkeys((r["env"], r["planner"]) for r in found):
        mine = sorted(result_rows("planning", env=env_id, planner=planner), key=lambda r: r["seed"])
        returns = [r["return"] for r in mine]
        costs = [
            sum(r[key] for r in mine) / len(mine) for key in ("cpu_s_per_step", "cpu_s_per_step_in_mujoco")
        ]
        rows.append(
            [short(env_id), planner, f"{sum(returns) / len(returns):,.1f}", f"{min(returns):,.1f}",
             ", ".join(f"{r['seed']}: {r['return']:,.1f}" for r in mine), f"{mine[0]['imagined_steps']:,}",
             *(f"{cost:.2f} s" for cost in costs)]
        )  # fmt: skip
    head = ["task", "planner", "mean return", "worst", "by seed", "imagined steps for a real one",
            "CPU time of a real step", "the same in MuJoCo"]  # fmt: skip
    return table(head, rows)


def inputs() -> str:
    """One row a set of data: what it is of, its size, and errors of a world fitted to it, mean over seeds."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in (row for row in result_rows("inputs") if "data" in row):
        found.setdefault((row["env"], row["data"]), []).append(row)
    rows = []
    for (env, data), each in found.items():
        error = {h: [row["error"] for row in each if row["h"] == h] for h in (1, 8, 32)}
        means = [f"{sum(e) / len(e):.3f}" if e else "" for e in error.values()]
        kind = {"csv": "CSV", "minari": "Hopper"}[env]
        rows.append([kind, data, f"{each[0]['steps']:,}", str(each[0]["episodes"]), *means])
    return table(["data", "how recorded", "steps", "episodes", "h = 1", "h = 8", "h = 32"], rows)


def robots() -> str:
    """One row a robot that only its model describes: returns of its policies, or errors, over seeds."""
    found: dict[str, list[Row]] = {}
    for row in (row for row in result_rows("inputs") if not {"data", "family"} & row.keys()):
        found.setdefault(row["env"], []).append(row)
    rows = []
    for env, each in found.items():
        seeds = len({row["seed"] for row in each})
        if env == "push_bot":
            ratio = [row["ratio"] for row in each]
            said = (
                f"error {sum(ratio) / len(ratio):.3f} of the constant-state baseline's ({min(ratio):.3f} to "
            )
            said += f"{max(ratio):.3f}), coverage {sum(row['coverage'] for row in each) / len(each):.1%}"
        else:
            gaps = [abs(row["gap"]) for row in each]
            said = f"gap {sum(gaps) / len(gaps):.1%} of the range, at worst {max(gaps):.1%}"
            itself = [abs(row["gap_mujoco"]) for row in each if "gap_mujoco" in row]
            few = [row["gap_mujoco_of_few"] for row in each if "gap_mujoco" in row]
            if itself:
                said += f"; MuJoCo itself {sum(itself) / len(itself):.1%}, at worst {max(itself):.1%}"
                said += f" (over 5 episodes {sum(few) / len(few):.1%} in the mean)"
        rows.append([env, f"{each[0]['steps']:,}", str(seeds), str(each[0]["readouts"]), said])
    return table(["robot", "steps", "seeds", "columns predicted", "measured"], rows)


def ablation() -> str:
    """One row a change: error after 32 steps relative to the base, most telling changes first."""
    ratio = ablation_ratios()
    envs = tasks("ablation")
    ranked = sorted(ratio, key=lambda change: -abs(mean_log(ratio[change].values())))
    return table(
        ["change", *map(short, envs)],
        [[c, *(f"x{ratio[c][e]:.2f}" if e in ratio[c] else "" for e in envs)] for c in ranked],
    )


def ablation_ratios(h: int = 32) -> dict[str, dict[str, float]]:
    """Error after ``h`` steps relative to the base, by change and task."""
    error = {(r["change"], r["env"]): r[f"error_{h}"] for r in result_rows("ablation")}
    found: dict[str, dict[str, float]] = {}
    for (change, env_id), value in error.items():
        if change != "base":
            found.setdefault(change, {})[env_id] = value / error["base", env_id]
    return found


def mean_log(ratios: Iterable[float]) -> float:
    """Logarithm of the geometric mean."""
    every = [math.log(ratio) for ratio in ratios]
    return sum(every) / len(every)


def times_to_half_std(env_id: str) -> dict[str, float]:
    """Median seconds until the open-loop error passes half a standard deviation, by model."""
    found = result_rows("open_loop", section="accuracy", env=env_id, threshold=0.5)
    return {r["model"]: r["median_s"] for r in found}


def mean_gap(env_id: str, **having: str) -> float:
    """Mean absolute return gap of the held-out policies, of the world unless told otherwise."""
    having = having or {"propagation": "member"}
    gaps = [abs(r["gap"]) for r in result_rows("return_gap", section="gap", env=env_id, **having)]
    return sum(gaps) / len(gaps)


def tasks(name: str) -> list[str]:
    """The tasks of a result, the five large ones first."""
    found = dict.fromkeys(r["env"] for r in result_rows(name))
    return sorted(found, key=lambda env_id: (LARGE.index(env_id) if env_id in LARGE else len(LARGE), env_id))


def interval(row: Row, side: str) -> str:
    """A mean with its 95 % interval."""
    low, high = row[f"{side}_interval"]
    return f"{row[f'{side}_mean']:,.0f} [{low:,.0f}, {high:,.0f}]"


def short(env_id: str) -> str:
    """A task's name without the version."""
    return env_id.removesuffix("-v5")


def said(measured: Any, between: str = ", ") -> str:
    """A measurement in words."""
    if isinstance(measured, dict):
        return between.join(f"{short(str(key))} {said(value)}" for key, value in measured.items())
    if isinstance(measured, list):
        return " / ".join(map(said, measured))
    return f"{measured:.3g}" if isinstance(measured, float) else str(measured)


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
