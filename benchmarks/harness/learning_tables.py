"""Tables and words of the page about sample efficiency."""

from __future__ import annotations

import numpy as np

from benchmarks.harness.learning_curves import (
    ALGORITHMS,
    ENVS,
    FIVE,
    NAME,
    NOT_MEASURED,
    REFERENCE,
    RETURNS,
    SAC_1M,
    each,
    goals,
    published,
    return_goal,
    seeds_at,
    steps_of,
    time_to_reference,
)  # fmt: skip
from benchmarks.harness.results import RESULTS, Row, committed, read, result_rows
from benchmarks.harness.tables import said, short, table
from wmgym.evaluation.intervals import interquartile_mean, stratified_interval

AGGREGATED = (10_000, 20_000, 50_000)
PUBLISHED = ("DHMBPO (2 updates/step)", "MACURA", "MBPO", "TD-MPC2 (tuned)", "SAC", "CrossQ")
MINUTES = (2, 5, 10, 20, 40)
ELSEWHERE: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("`make demo` on a clean clone, after downloads, 2 cores",
     "<= 7 minutes, >= 3,500 on each of 5 seeds", ("make demo", "7 minutes")),
    ("policy trained only in the shipped world, scored in MuJoCo, against the best of the reference policies",
     ">= 80 % on HalfCheetah, Hopper, Walker2d, Swimmer; imagined minus real <= 10 %",
     ("shipped world alone",)),
    ("MPPI in shipped worlds without training: InvertedPendulum, Reacher, HalfCheetah",
     "1,000; >= -6; >= 3,000", ("MPPI in the shipped world",)),
)  # fmt: skip
"""What other benchmarks measure, its target, and words by which it is found in their results."""


def verdict(found: Row) -> str:
    """What became of a target, in words."""
    if found["met"] is None:
        started = found["measured"] != NOT_MEASURED
        return "so far met, not all seeds or tasks measured yet" if started else NOT_MEASURED
    return "met" if found["met"] else "**missed**"


def return_targets() -> str:
    """Returns after so many real steps: published, target, DynaSAC by seed, the others, the verdict."""
    rows, lines = result_rows(NAME), []
    for env_id, step, best, aim, floor in RETURNS:
        goal = return_goal(rows, env_id, step, aim, floor)
        others = [mean_of(seeds_at(rows, algorithm, env_id, step)) for algorithm in ALGORITHMS[1:]]
        lines.append(
            [short(env_id), f"{step:,}", "-" if best is None else f"{best:,}",
             goal["target"].removeprefix(">= "), goal["measured"], *others, verdict(goal)]
        )  # fmt: skip
    head = ["task", "real steps", "best published (v4)", "target", "DynaSAC: mean (every seed)", "SB3 SAC",
            "CrossQ", "verdict"]  # fmt: skip
    return table(head, lines)


def mean_of(found: dict[int, Row]) -> str:
    """Mean return over seeds and their number."""
    if not found:
        return NOT_MEASURED
    return f"{np.mean([r['mean'] for r in found.values()]):,.0f} ({len(found)} seeds)"


def other_targets() -> str:
    """Cost, single episodes, steadiness; then what other benchmarks measure."""
    mine = goals(result_rows(NAME))[len(RETURNS) :]
    lines = [[g["what"], g["target"], said(g["measured"], "<br>"), verdict(g)] for g in mine]
    there = [t for path in sorted(RESULTS.glob("*.json")) if path.stem != NAME for t in read(path)["targets"]]
    for what, aim, words in ELSEWHERE:
        found = [t for t in there if all(word in t["what"] + t["target"] for word in words)]
        lines += [[t["what"], t["target"], said(t["measured"], "<br>"), verdict(t)] for t in found]
        lines += [] if found else [[what, aim, NOT_MEASURED, NOT_MEASURED]]
    return table(["what", "target", "measured", "verdict"], lines)


def aggregates() -> str:
    """Interquartile means of normalised returns over seeds and the five tasks, with bootstrap intervals."""
    rows, lines = result_rows(NAME), []
    for algorithm in ALGORITHMS:
        cells = []
        for step in AGGREGATED:
            scores = normalised(rows, algorithm, step)
            if len(scores) < len(FIVE):
                cells.append(
                    NOT_MEASURED if not scores else f"{len(scores)} of {len(FIVE)} tasks measured yet"
                )
                continue
            low, high = stratified_interval(scores)
            runs = sum(map(len, scores))
            cells.append(
                f"{interquartile_mean(np.concatenate(scores)):.2f} [{low:.2f}, {high:.2f}] ({runs} runs)"
            )
        lines.append([algorithm, *cells])
    for algorithm in PUBLISHED:
        cells = []
        for step in AGGREGATED:
            every = [
                point["mean"] / SAC_1M[env_id]
                for env_id in FIVE
                for point in published(env_id).get(algorithm, [])
                if point["step"] == step
            ]
            cells.append(f"{interquartile_mean(np.array(every)):.2f}" if len(every) == len(FIVE) else "-")
        lines.append([f"{algorithm}, published, v4", *cells])
    return table(["algorithm", *(f"{step:,} steps" for step in AGGREGATED)], lines)


def normalised(rows: list[Row], algorithm: str, step: int) -> list[np.ndarray]:
    """Returns of every seed over SAC's published ones, an array for each of the five tasks that has some."""
    found = [
        np.array([r["mean"] / SAC_1M[env_id] for r in seeds_at(rows, algorithm, env_id, step).values()])
        for env_id in FIVE
    ]
    return [scores for scores in found if len(scores)]


def race() -> str:
    """Minutes of training in MuJoCo itself until SAC's return after 100,000 steps."""
    rows, lines = result_rows(NAME), []
    for env_id in FIVE:
        found = time_to_reference(rows, env_id)
        if found is None:
            lines.append([short(env_id), NOT_MEASURED, *["-"] * len(ALGORITHMS)])
            continue
        times = [
            "not reached"
            if found[a] is None
            else f"{found[a]['wall_s'] / 60:.1f} ({found[a]['cpu_s'] / 60:.1f})"
            for a in ALGORITHMS
        ]
        lines.append([short(env_id), f"{found['return']:,.0f}", *times])
    return table(["task", f"return of SAC after {REFERENCE:,} steps", *ALGORITHMS], lines)


def by_minutes() -> str:
    """Mean return over seeds of the last checkpoint within so many minutes of training."""
    rows, lines = result_rows(NAME), []
    for env_id in ENVS:
        for algorithm in ALGORITHMS:
            mine = [r for r in rows if (r["algorithm"], r["env"]) == (algorithm, env_id)]
            if mine:
                lines.append([short(env_id), algorithm, *(within(mine, minutes) for minutes in MINUTES)])
    if not lines:
        return f"This is {NOT_MEASURED}."
    return table(["task", "algorithm", *(f"{minutes} min" for minutes in MINUTES)], lines)


def within(rows: list[Row], minutes: float) -> str:
    """Mean return and real steps of the last checkpoints of one algorithm on one task until then."""
    last: dict[int, Row] = {}
    for row in sorted(rows, key=lambda r: r["step"]):
        if row["wall_s"] <= 60 * minutes:
            last[row["seed"]] = row
    if len(last) < len({r["seed"] for r in rows}):
        return "-"
    mean, steps = (np.mean([r[name] for r in last.values()]) for name in ("mean", "step"))
    over = all(
        row == max((r for r in rows if r["seed"] == seed), key=lambda r: r["step"])
        for seed, row in last.items()
    )
    return f"{mean:,.0f} ({steps / 1_000:,.1f}k steps{', its last' if over else ''})"


def all_seeds() -> str:
    """Every checkpoint of every seed, a table a task."""
    rows, parts = result_rows(NAME), []
    for env_id in ENVS:
        lines = []
        for algorithm in ALGORITHMS:
            for step in steps_of(rows, algorithm, env_id):
                found = seeds_at(rows, algorithm, env_id, step)
                every = list(found.values())
                low = [r["under_half"] for r in every if r["under_half"] is not None]
                lines.append(
                    [algorithm, f"{step:,}", f"{np.mean([r['mean'] for r in every]):,.0f}",
                     each({seed: r["mean"] for seed, r in found.items()}),
                     each({seed: r["min"] for seed, r in found.items()}),
                     each({seed: r["median"] for seed, r in found.items()}),
                     f"{np.mean(low):.0%}" if low else "-",
                     f"{np.mean([r['wall_s'] for r in every]) / 60:.1f}",
                     f"{np.mean([r['cpu_s'] for r in every]) / 60:.1f}"]
                )  # fmt: skip
        if lines:
            head = ["algorithm", "real steps", "mean", "mean of every seed", "worst episode of every seed",
                    "median of every seed", "episodes under half of the median", "minutes",
                    "CPU minutes"]  # fmt: skip
            parts.append(f"### {short(env_id)}\n\n{table(head, lines)}")
    return "\n\n".join(parts) or f"This is {NOT_MEASURED}."


def chosen() -> str:
    """DynaSAC's actor that did best in imagined episodes, beside the averaged one of the same trainings."""
    rows, lines = [row for row in result_rows(NAME) if "averaged" in row], []
    for env_id in ENVS:
        for step in steps_of(rows, "DynaSAC", env_id):
            found = seeds_at(rows, "DynaSAC", env_id, step)
            means = {seed: (row["mean"], float(np.mean(row["averaged"]))) for seed, row in found.items()}
            each_seed = (f"{seed}: {mine:,.0f} ({other:,.0f})" for seed, (mine, other) in means.items())
            both = np.mean([*means.values()], 0)
            lines.append(
                [short(env_id), f"{step:,}", f"{both[0]:,.0f} ({both[1]:,.0f})", "; ".join(each_seed)]
            )
    head = ["task", "real steps", "chosen (averaged)", "every seed"]
    return table(head, lines) if lines else f"This is {NOT_MEASURED}."


def recipes() -> str:
    """The settings of every algorithm, as they were when its rows were measured."""
    document = committed(NAME)
    if document is None:
        return f"This is {NOT_MEASURED}."
    kinds: dict[tuple[str, str], list[Row]] = {}
    for unit in document["units"]:
        kinds.setdefault((unit["unit"].partition("-")[0], unit["recipe"]), []).append(unit)
    parts = []
    for algorithm, recipe in sorted(kinds, key=lambda kind: (ALGORITHMS.index(kind[0]), kind[1])):
        mine = kinds[algorithm, recipe]
        settings = ", ".join(f"{name} {value}" for name, value in mine[0]["settings"].items())
        commits = ", ".join(sorted({unit["commit"] for unit in mine}))
        parts.append(
            f"- **{algorithm}** (recipe `{recipe}`, {len(mine)} runs, commit {commits}): {settings}."
        )
    return "\n".join(parts)
