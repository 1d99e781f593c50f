"""Fit, calibrate and ship one world a task, each with a card of what the benchmarks say of it.

    python benchmarks/fit_worlds.py                     # all tasks, into wmgym/worlds/
    python benchmarks/fit_worlds.py --only Hopper-v5    # finished tasks are skipped
    python benchmarks/fit_worlds.py --cards             # write the cards anew from benchmarks/results/

The worlds are those of ``worlds.py``, rounded to half precision and calibrated after that, so that the bounds
are the rounded world's. ``benchmarks/results/fit_worlds.json`` holds sizes and what rounding costs.
"""

from __future__ import annotations

import argparse
import dataclasses

import numpy as np
import torch
from common import Row, Units, result_rows, target
from worlds import (
    LARGE,
    TASKS,
    WITH_KIN,
    calibration_data,
    fitted,
    held_out_data,
    policies,
    pool_data,
    spread,
    window_error,
)

import wmgym
from wmgym.io import artifacts
from wmgym.models import saving

STARTS = 512
USELESS = 0.5  # return gap, share of the pool's range
LIMIT = 40e6  # bytes, all worlds together


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=TASKS, default=TASKS, metavar="ENV")
    parser.add_argument("--cards", action="store_true", help="only write the cards anew")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not args.cards:
        units = Units("fit_worlds")
        for env_id in args.only:
            units.do(env_id, lambda: [ship(env_id)])  # noqa: B023  (called at once)
        print(units.write(goals, [0]))
    for env_id in args.only:
        if artifacts.exists(saving.SHIPPED / env_id, kind="world"):
            (saving.SHIPPED / env_id / "README.md").write_text(card(env_id))


def ship(env_id: str) -> Row:
    path, whole = saving.SHIPPED / env_id, fitted(env_id)
    bank = np.random.default_rng(0).permutation(whole.starts)[:STARTS]
    saving.save(dataclasses.replace(whole, starts=bank, calibration=None), path, half=True)
    world = wmgym.calibrate(wmgym.load(path), calibration_data(env_id), seed=0)
    saving.save(world, path, half=True)
    shipped = wmgym.load(path)
    return {
        "env": env_id, "bytes": size(env_id), "error_whole": error(env_id, whole),
        "error_shipped": error(env_id, shipped),
    }  # fmt: skip


def size(env_id: str) -> int:
    return sum(file.stat().st_size for file in (saving.SHIPPED / env_id).iterdir())


def error(env_id: str, world: wmgym.WorldModel, horizon: int = 32) -> float:
    """Normalised error after 32 steps, held-out policies."""
    test, std = held_out_data(env_id), spread(pool_data(env_id))
    return window_error(world, test, std, horizon, np.random.default_rng(0))


def card(env_id: str) -> str:
    """What a user should know of a shipped world, from the results of the benchmarks."""
    world = wmgym.load(saving.SHIPPED / env_id)
    table, origin = world.calibration, world.provenance
    assert table is not None
    count = len(policies(env_id, "calibration"))
    kin = ", of copies of theirs with noise on the weights" if env_id in WITH_KIN else ""
    others = "1 other policy" if count == 1 else f"{count} other policies"
    lines = [
        f"# {env_id}",
        "",
        f"Fitted to {origin.steps:,} real transitions of this repository's reference policies{kin} and of"
        f" random actions. {others}, and copies of theirs with noise on the weights, calibrated it, and a"
        " third of all policies are held out of both: the numbers below are theirs.",
        "",
        "| what | value |",
        "| --- | --- |",
    ]
    rows: list[tuple[str, str]] = [*fidelity(env_id), *gap(env_id), *bounds(env_id), *sane(env_id)]
    rows += [
        ("steps until the median bound passes 0.5 std", f"{table.trust_horizon(0.5):,}"),
        ("size", f"{size(env_id) / 1e6:.1f} MB"),
        ("fitted with", ", ".join(f"{name} {version}" for name, version in origin.versions.items())),
    ]
    lines += [f"| {what} | {value} |" for what, value in rows]
    lines += ["", "## Where not to trust it", "", *warnings_of(env_id), ""]
    return "\n".join(lines)


def fidelity(env_id: str) -> list[tuple[str, str]]:
    found = []
    for row in result_rows("open_loop", env=env_id, section="error", model="world"):
        (hold,) = result_rows("open_loop", env=env_id, section="error", model="hold-last", h=row["h"])
        share = row["error"] / hold["error"]
        found.append(
            (
                f"error after {after(row['h'])}, in std; share of standing still's",
                f"{row['error']:.3f}; {share:.0%}",
            )
        )
    return found


def after(steps: int) -> str:
    return "1 step" if steps == 1 else f"{steps:,} steps"


def gap(env_id: str) -> list[tuple[str, str]]:
    gaps = [r["gap"] for r in result_rows("return_gap", env=env_id, section="gap", mode="member")]
    if not gaps:
        return []
    worst = max(gaps, key=abs)
    said = f"{np.mean(np.abs(gaps)):.1%} of the pool's range, worst {worst:+.1%}"
    return [(f"return gap over whole episodes, {len(gaps)} policies, mean absolute", said)]


def bounds(env_id: str) -> list[tuple[str, str]]:
    rows = result_rows("calibration", env=env_id, section="bound", mode="member")
    return [(f"90 % bound holds after {after(r['h'])}", f"{r['doubt_coverage']:.0%}") for r in rows]


def sane(env_id: str) -> list[tuple[str, str]]:
    rows = result_rows("sanity", env=env_id)
    if not rows:
        return []
    worst = max(r["outside_outer_bounds"] for r in rows)
    return [("states outside the validator's outer bounds in 120 s, worst policy", f"{worst:.2%}")]


def warnings_of(env_id: str) -> list[str]:
    found = ['- Where no such policy goes; with `trust=True`, `infos["novelty"]` and `distrust` say when.']
    gaps = result_rows("return_gap", env=env_id, section="gap", mode="member")
    if gaps:
        worst = max(gaps, key=lambda r: abs(r["gap"]))
        earned = f"{worst['real']:,.0f} in MuJoCo and {worst['imagined']:,.0f} here"
        if np.mean([abs(r["gap"]) for r in gaps]) > USELESS:
            found.append("- Any return: the gap is so wide that they do not even rank policies.")
        found.append(f"- Returns: `{worst['policy']}` earns {earned}.")
    times = result_rows("open_loop", env=env_id, section="accuracy", model="world", threshold=0.5)
    if times:
        found.append(
            f"- Single trajectories past {times[0]['median_s']:.1f} s, where half of them are 0.5 std off."
        )
    contact = result_rows("open_loop", env=env_id, section="contact")
    if contact:
        found.append(
            f"- Moments of contact: F1 of feet touching the ground one step ahead is {contact[0]['f1']:.2f}."
        )
    found.append("- Other keywords of the env, other masses, other MuJoCo versions: fit your own.")
    return found


def goals(rows: list[Row]) -> list[Row]:
    """The issue's targets beside what was measured."""
    total = sum(r["bytes"] for r in rows)
    cost = {r["env"]: round(r["error_shipped"] / r["error_whole"] - 1, 4) for r in rows if r["env"] in LARGE}
    return [
        target("shipped worlds, all eleven tasks together", "<= 40 MB",
               f"{total / 1e6:.1f} MB, {len(rows)} tasks", len(rows) == len(TASKS) and total <= LIMIT),
        target("half precision costs no fidelity: change of the error at h = 32", "<= 2 %", cost,
               len(cost) == len(LARGE) and max(cost.values()) <= 0.02),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
