"""What ``sample_efficiency`` measured: curves, published curves, and targets."""

from __future__ import annotations

import csv
import functools

import numpy as np

from benchmarks.harness.results import ROOT, Row, target
from benchmarks.harness.tables import short

NAME = "sample_efficiency"
ALGORITHMS = ("DynaSAC", "SAC", "CrossQ")
FIVE = ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5")
ENVS = (*FIVE, "InvertedPendulum-v5")
SEEDS = (102, 103, 104, 105, 106)
SAC_1M = {
    "HalfCheetah-v5": 11_321, "Hopper-v5": 2_787, "Walker2d-v5": 4_536,
    "Ant-v5": 5_734, "Humanoid-v5": 4_826,
}  # fmt: skip
"""SAC's published returns after a million steps (v4), by which returns are divided before an average."""
RETURNS: tuple[tuple[str, int, int | None, int, int | None], ...] = (
    ("HalfCheetah-v5", 10_000, 4_382, 5_000, 3_500), ("HalfCheetah-v5", 20_000, 7_532, 7_500, None),
    ("HalfCheetah-v5", 50_000, 9_149, 9_500, None), ("Hopper-v5", 20_000, 2_142, 2_200, None),
    ("Hopper-v5", 50_000, 3_470, 3_400, None), ("Walker2d-v5", 20_000, 1_486, 1_600, None),
    ("Walker2d-v5", 50_000, 6_150, 5_000, None), ("Ant-v5", 20_000, 2_393, 2_400, None),
    ("Ant-v5", 50_000, 5_225, 5_000, None), ("Humanoid-v5", 50_000, 6_379, 4_500, None),
    ("InvertedPendulum-v5", 500, None, 1_000, None),
)  # fmt: skip
"""Task, real steps, best published mean (v4), target of the mean, target of the worst seed."""
REFERENCE = 100_000  # real steps of SAC whose return DynaSAC should reach sooner
NOT_MEASURED = "not measured yet"


# Curves


def seeds_at(rows: list[Row], algorithm: str, env_id: str, step: int) -> dict[int, Row]:
    """The rows of a checkpoint by seed."""
    mine = (r for r in rows if (r["algorithm"], r["env"], r["step"]) == (algorithm, env_id, step))
    return {r["seed"]: r for r in sorted(mine, key=lambda r: r["seed"])}


def steps_of(rows: list[Row], algorithm: str, env_id: str) -> list[int]:
    """Checkpoints of an algorithm on a task that some seed has reached."""
    return sorted({r["step"] for r in rows if (r["algorithm"], r["env"]) == (algorithm, env_id)})


def curve(rows: list[Row], algorithm: str, env_id: str) -> list[Row]:
    """Mean over seeds by checkpoint: step, number of seeds, return, seconds.

    It ends where less than half of the seeds have come to, for a mean would jump there for who is missing.
    """
    found: list[Row] = []
    for step in steps_of(rows, algorithm, env_id):
        every = list(seeds_at(rows, algorithm, env_id, step).values())
        means = {name: float(np.mean([r[name] for r in every])) for name in ("mean", "wall_s", "cpu_s")}
        found.append({"step": step, "seeds": len(every), **means})
    most = max((point["seeds"] for point in found), default=0)
    return [point for point in found if 2 * point["seeds"] >= most]


@functools.cache
def published(env_id: str) -> dict[str, list[Row]]:
    """Published curves on the v4 task, by algorithm: real steps, mean return, hours where known."""
    found: dict[str, list[Row]] = {}
    with (ROOT / "benchmarks" / "references" / f"{NAME}.csv").open() as file:
        for row in csv.DictReader(file):
            if row["task"] == env_id.replace("-v5", "-v4"):
                hours = float(row["hours"]) if row["hours"] else None
                point = {"step": int(row["real_steps"]), "mean": float(row["mean_return"]), "hours": hours}
                found.setdefault(row["algorithm"], []).append(point)
    return found


# Targets


def goals(rows: list[Row]) -> list[Row]:
    """The targets that this benchmark can judge, beside what was measured; a few seeds do not meet one."""
    return [
        *(return_goal(rows, env_id, step, aim, floor) for env_id, step, _, aim, floor in RETURNS),
        cost_goal(rows, FIVE[:1], 30),
        cost_goal(rows, FIVE, 60),
        sooner_goal(rows),
        single_episodes_goal(rows),
        keeps_goal(rows),
    ]


def return_goal(rows: list[Row], env_id: str, step: int, aim: int, floor: int | None) -> Row:
    """Mean return of DynaSAC over seeds after so many real steps."""
    found = {seed: row["mean"] for seed, row in seeds_at(rows, "DynaSAC", env_id, step).items()}
    wanted = f">= {aim:,}" + (f", no seed under {floor:,}" if floor else "")
    some = f"{len(found)} of " if 0 < len(found) < len(SEEDS) else ""
    what = f"{short(env_id)}, DynaSAC, mean return after {step:,} real steps, {some}{len(SEEDS)} seeds"
    if not found:
        return target(what, wanted, NOT_MEASURED, None)
    mean, worst = float(np.mean(list(found.values()))), min(found.values())
    measured = f"{mean:,.0f} ({each(found)})"
    return target(what, wanted, measured, judged(mean >= aim and worst >= (floor or -np.inf), len(found)))


def cost_goal(rows: list[Row], envs: tuple[str, ...], aim: int) -> Row:
    """CPU seconds of training per 1,000 real steps, evaluations left out."""
    found = {}
    for env_id in envs:
        last = [r for r in last_rows(rows, "DynaSAC") if r["env"] == env_id]
        if last:
            found[env_id] = round(float(np.mean([1_000 * r["cpu_s"] / r["step"] for r in last])), 1)
    where = "each of the five tasks" if len(envs) > 1 else short(envs[0])
    what = f"CPU seconds per 1,000 real steps, DynaSAC, {where}"
    met = None if not found else all(cost <= aim for cost in found.values())
    return target(what, f"<= {aim}", found or NOT_MEASURED, None if met and len(found) < len(envs) else met)


def sooner_goal(rows: list[Row]) -> Row:
    """Minutes until the mean over seeds reaches the mean that SAC has after 100,000 real steps."""
    found, sooner = {}, 0
    for env_id in FIVE:
        race = time_to_reference(rows, env_id)
        if race is not None:
            ours, theirs = (race[name] and race[name]["wall_s"] / 60 for name in ("DynaSAC", "SAC"))
            sooner += ours is not None and ours < theirs
            reached = "not reached" if ours is None else f"{ours:.1f}"
            found[env_id] = f"{reached} / {theirs:.1f} (return {race['return']:,.0f})"
    still_possible = sooner + len(FIVE) - len(found) >= 4
    met = True if sooner >= 4 else None if still_possible else False
    what = "minutes of training to the return of SB3 SAC after 100,000 steps: DynaSAC / SAC, same cores"
    return target(what, "sooner on at least 4 of 5 tasks", found or NOT_MEASURED, met)


def time_to_reference(rows: list[Row], env_id: str) -> Row | None:
    """Where the curve of every algorithm gets there, None where it does not; None without SAC's or ours."""
    last = seeds_at(rows, "SAC", env_id, REFERENCE)
    if not last or not steps_of(rows, "DynaSAC", env_id):
        return None
    found: Row = {"return": float(np.mean([r["mean"] for r in last.values()]))}
    for algorithm in ALGORITHMS:
        mine = [r for r in rows if algorithm != "SAC" or r["seed"] in last]
        there = (p for p in curve(mine, algorithm, env_id) if p["mean"] >= found["return"])
        found[algorithm] = next(there, None)
    return found


def single_episodes_goal(rows: list[Row]) -> Row:
    """Evaluation episodes that fall far behind their policy's median."""
    mine = [r for r in rows if r["algorithm"] == "DynaSAC" and r["env"] in FIVE]
    mine = [r for r in mine if 10_000 <= r["step"] <= 50_000 and r["under_half"] is not None]
    what = "share of DynaSAC's evaluation episodes under half of the median, 10,000 to 50,000 real steps"
    if not mine:
        return target(what, "<= 2 %", NOT_MEASURED, None)
    share = float(np.mean([r["under_half"] for r in mine]))
    measured = f"{share:.1%} of {sum(len(r['returns']) for r in mine):,} episodes"
    return target(what, "<= 2 %", measured, judged(share <= 0.02, *counts(mine)))


def keeps_goal(rows: list[Row]) -> Row:
    """Whether more real steps keep what was learned."""
    what = "DynaSAC's return after 1.5 times the steps of a checkpoint, relative to the best so far"
    lasting = kept_shares(rows)
    if not lasting:
        return target(what, ">= 85 %, all seeds", NOT_MEASURED, None)
    worst = min(lasting, key=lambda r: r["share"])
    under = sum(r["share"] < 0.85 for r in lasting)
    at = f"{short(worst['env'])}, seed {worst['seed']}, {worst['step']:,} steps"
    measured = f"{under} of {len(lasting)} checkpoints under 85 %; least {worst['share']:.0%} ({at})"
    return target(what, ">= 85 %, all seeds", measured, judged(under == 0, *counts(lasting)))


def kept_shares(rows: list[Row]) -> list[Row]:
    """Checkpoints at 1.5 times another one's steps: their return as a share of the unit's best until then."""
    found = []
    mine = [r for r in rows if r["algorithm"] == "DynaSAC" and r["env"] in FIVE]
    for row in mine:
        unit = [r for r in mine if (r["env"], r["seed"]) == (row["env"], row["seed"])]
        best = max(r["mean"] for r in unit if r["step"] <= row["step"])
        if any(3 * r["step"] == 2 * row["step"] for r in unit) and best > 0:
            found.append({**row, "share": row["mean"] / best})
    return found


def judged(met: bool, seeds: int, envs: int = len(FIVE)) -> bool | None:
    """Missed by few seeds is missed; met by few seeds is not measured yet."""
    return None if met and (seeds < len(SEEDS) or envs < len(FIVE)) else met


def counts(rows: list[Row]) -> tuple[int, int]:
    """Seeds of the task that has fewest of them, and tasks."""
    seeds: dict[str, set[int]] = {}
    for row in rows:
        seeds.setdefault(row["env"], set()).add(row["seed"])
    return min(map(len, seeds.values())), len(seeds)


def last_rows(rows: list[Row], algorithm: str) -> list[Row]:
    """The last checkpoint of every unit."""
    found = {
        (r["env"], r["seed"]): r for r in sorted(rows, key=lambda r: r["step"]) if r["algorithm"] == algorithm
    }
    return list(found.values())


def each(found: dict[int, float]) -> str:
    """Every seed's return."""
    return "; ".join(f"{seed}: {value:,.0f}" for seed, value in found.items())
