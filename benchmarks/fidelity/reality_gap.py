"""How far are simulators from a robot that is not the nominal one, and what do a few of its steps buy?

MuJoCo plays the robot: a changed model, and drives that delay or play. Policies of the pool that no world was
fitted to drive it: three for the steps to learn from, and six others for the steps that bounds are made from,
since a world of few steps knows the policies of its log better than any other. Simulators: the nominal MuJoCo
model; the same with identified parameters, and with a delay and play identified beside them; the shipped
world; that world adapted; a hybrid of the nominal model and a correction; and a world of the robot's steps
alone. The hybrid is made twice: on the nominal model, and on the identified one with its drive, which leaves
the correction less to learn. Errors are open loop under recorded commands of policies that no simulator
learned from, in standard deviations of the robot's states.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import wmgym
from benchmarks.harness.results import RUNS, Growing, Row, target
from benchmarks.harness.runner import Benchmark
from benchmarks.harness.worlds import Setup, policies
from wmgym.calibration import online
from wmgym.calibration.adapt import CORRECTION
from wmgym.data.joining import concat
from wmgym.data.transitions import Transitions
from wmgym.io.provenance import cpu_seconds

KINDS = ("strong", "unmodelled")
SHIFTS = {what: (kind, changes) for kind in KINDS for what, changes in wmgym.shifts(kind).items()}
BUDGETS, SEEDS, CALIBRATION = (500, 2_000), (0,), 1_000
HORIZON, EPISODE = 32, 100
DRIVERS = {
    "Hopper-v5": ("bang-bang", "ppo-50k", "ppo-600k"),
    "HalfCheetah-v5": ("leaning", "sac-25k", "tqc-40k"),
    "Walker2d-v5": ("bang-bang", "tqc-40k", "ppo-600k"),
    "Ant-v5": ("bang-bang", "tqc-40k", "td3-60k"),
}
"""Policies that drive the robot for the steps to learn from; no world was fitted to them."""
BOUNDING = ("ppo-100k", "ppo-400k", "sac-15k", "sac-40k", "td3-20k", "tqc-25k")
"""Others, by whose steps bounds are made."""
JUDGED = 200  # steps of an episode whose return is compared
ALONE = wmgym.FitConfig(
    members=5, width=200, max_updates=1_500, learning_rate=2e-3, batch_size=128, validation=0.15
)
SIMULATORS = (
    "nominal",
    "identified",
    "identified with drive",
    "hybrid",
    "identified hybrid",
    "adapted",
    "pool world",
    "B alone",
)
PARAMETERS = ("friction", "mass", "gear", "damping", "slope")
CLOSED = ("adapted", "hybrid", "identified hybrid")


def driven(robot: wmgym.Task, env_id: str, steps: int, seed: int) -> Transitions:
    """Steps of the robot to learn from, half of them with action noise."""
    every, half = policies(env_id, "calibration"), steps // 2
    pool = {name: every[name] for name in DRIVERS[env_id]}
    quiet, noisy = (
        wmgym.collect(
            robot,
            pool,
            steps=half,
            seed=seed + i,
            noise=noise,
            switch_every=100,
            workers=1,
            max_episode_steps=EPISODE,
        )
        for i, noise in enumerate((0.0, 0.2))
    )
    return concat([quiet, noisy])


def bounding(robot: wmgym.Task, env_id: str, seed: int) -> Transitions:
    """Steps to make bounds from: every episode is of one policy and without noise, as the robot will run."""
    every = policies(env_id, "calibration")
    pool = {name: every[name] for name in BOUNDING}
    return wmgym.collect(robot, pool, steps=CALIBRATION, seed=seed, workers=1, max_episode_steps=EPISODE)


def measure(
    env_id: str,
    what: str,
    budget: int,
    seed: int,
    setup: Setup,
    kept: Row | None,
    keep: Callable[[Row], None],
) -> None:
    """One robot, and the simulators that ``budget`` of its steps make, one after the other."""
    before: Row = kept or {"wall_s": 0.0, "cpu_s": 0.0, "rows": []}
    cell = f"{env_id} {what} {budget} {seed}"
    rows = [row for row in before["rows"] if _bounded_as_now(row) or _place(cell, row["simulator"]).exists()]
    done = {row["simulator"] for row in rows}
    if done == set(SIMULATORS) and all(map(_bounded_as_now, rows)):
        return
    wall, cpu = time.perf_counter() - before["wall_s"], cpu_seconds() - before["cpu_s"]
    kind, changes = SHIFTS[what]
    robot = wmgym.make_task(wmgym.shift(env_id, **changes))
    log = driven(robot, env_id, budget, 1_000 * seed + 10)
    calib = bounding(robot, env_id, 1_000 * seed + 20)
    judges = policies(env_id, "held-out")
    if setup.quick:
        judges = dict(list(judges.items())[:3])  # the fewest that can be ranked
    test = concat(
        [
            wmgym.collect(
                robot, {name: policy}, episodes=2, seed=500 + i, workers=1, max_episode_steps=JUDGED
            )
            for i, (name, policy) in enumerate(judges.items())
        ]
    )
    world = wmgym.load(env_id)

    @functools.cache
    def identified() -> tuple[Any, float]:
        """The simulator and how long it took: two make use of it."""
        began = time.perf_counter()
        found = wmgym.identify(log, env_id, seed=seed)
        print(f"  {found}", flush=True)
        return found.simulator(), time.perf_counter() - began

    def corrected(model: Any) -> wmgym.WorldModel:
        fitted = wmgym.fit(log, CORRECTION, seed, dynamics=wmgym.residual(model))
        return wmgym.calibrate(fitted, calib, horizon=HORIZON)

    def cost() -> Row:
        spent = {"wall_s": time.perf_counter() - wall, "cpu_s": cpu_seconds() - cpu}
        return {key: round(value, 1) for key, value in spent.items()}

    makers: dict[str, Callable[[], Any]] = {
        "nominal": lambda: env_id,
        "identified": lambda: wmgym.identify(log, env_id, PARAMETERS, seed=seed).simulator(),
        "identified with drive": lambda: identified()[0],
        "pool world": lambda: world,
        "adapted": lambda: wmgym.adapt(world, log, calib, seed=seed),
        "hybrid": lambda: corrected(env_id),
        "identified hybrid": lambda: corrected(identified()[0]),
        "B alone": lambda: wmgym.calibrate(wmgym.fit(log, ALONE, seed), calib, horizon=HORIZON),
    }
    for i, row in enumerate(rows):
        if not _bounded_as_now(row):
            made = wmgym.load(_place(cell, row["simulator"]))
            horizon = None if row["simulator"] == "adapted" else HORIZON
            rows[i] = row | _bounds(wmgym.calibrate(made, calib, horizon=horizon), test)
            print(f"  {row['simulator']}: coverage {rows[i]['coverage']:.3f}", flush=True)
            keep({**cost(), "rows": list(rows)})
    for name in (name for name in SIMULATORS if name not in done):
        began = time.perf_counter()
        known = identified.cache_info().currsize
        simulator = makers[name]()
        seconds = time.perf_counter() - began
        if name == "identified hybrid" and known:
            seconds += identified()[1]
        found = wmgym.gap(
            test, simulator, judges, horizon=HORIZON, seed=seed, workers=1, max_episode_steps=JUDGED
        )
        bounded = isinstance(simulator, wmgym.WorldModel) and simulator.calibration is not None
        if isinstance(simulator, wmgym.WorldModel) and simulator is not world:
            simulator.save(_place(cell, name))
        rows.append(
            {
                "env": env_id, "shift": what, "kind": kind, "budget": budget, "seed": seed, "simulator": name,
                "one_step": found.one_step, "open_loop": found.open_loop, "return_gap": found.return_gap,
                "rank": None if found.agreement is None else found.agreement.spearman.value,
                "coverage": None, **(_bounds(simulator, test) if bounded else {}),
                "how": simulator.provenance.fit.get("adapted") if name == "adapted" else None,
                "made_s": round(seconds, 1),
            }
        )  # fmt: skip
        print(f"  {name}: {found.open_loop:.4f} std, return gap {found.return_gap:.3f}", flush=True)
        keep({**cost(), "rows": list(rows)})


def _bounds(world: wmgym.WorldModel, test: Transitions) -> Row:
    """How often bounds hold on policies that judge, and the median one after 32 steps, in std."""
    found = online.check(world, test)
    by_steps = {row.steps: row for row in found.by_steps}
    return {
        "coverage": found.coverage,
        "coverage_1": by_steps[1].coverage,
        "coverage_32": by_steps[HORIZON].coverage,
        "bound_32": by_steps[HORIZON].bound,
    }


def _bounded_as_now(row: Row) -> bool:
    """Whether a row's bounds, if it has some, are made by other policies than those of the log."""
    return row["coverage"] is None or row["simulator"] == "pool world" or "bound_32" in row


def _place(cell: str, simulator: str) -> Path:
    return RUNS / "reality_gap" / f"{cell} {simulator}".replace(" ", "_")


def units(setup: Setup, args: argparse.Namespace) -> dict[str, Growing]:
    return {
        f"{env_id}, {what}, {budget}, seed {seed}": partial(measure, env_id, what, budget, seed, setup)
        for seed in args.seed
        for budget in args.budget
        for env_id in args.env
        for what in args.shift
    }


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shift", nargs="+", choices=list(SHIFTS), default=list(SHIFTS), metavar="SHIFT")
    parser.add_argument("--budget", nargs="+", type=int, default=list(BUDGETS), help="steps of the robot")
    parser.add_argument("--seed", nargs="+", type=int, default=list(SEEDS))


def by_cell(rows: list[Row], key: str, budget: int) -> dict[tuple[Any, ...], dict[str, float]]:
    """One number of every simulator, by env, shift and seed."""
    found: dict[tuple[Any, ...], dict[str, float]] = {}
    for row in rows:
        if row["budget"] == budget and row[key] is not None:
            cell = row["env"], row["shift"], row["kind"], row["seed"]
            found.setdefault(cell, {})[row["simulator"]] = row[key]
    needed = {"adapted"} if key == "coverage" else {"nominal", *CLOSED}
    return {cell: values for cell, values in found.items() if needed <= values.keys()}


def goals(rows: list[Row]) -> list[Row]:
    """The targets beside what was measured."""
    cells = by_cell(rows, "open_loop", 2_000)
    ratios = {
        against: {
            cell: min(values[name] for name in CLOSED) / max(values[against], 1e-9)
            for cell, values in cells.items()
            if against in values
        }
        for against in ("nominal", "identified", "identified with drive")
    }
    whole = len({cell[:3] for cell in cells}) == 4 * len(SHIFTS)
    some = f"; {len(cells)} of {4 * len(SHIFTS) * 3} cells of four tasks and three seeds"

    def judged(value: float | None, met: bool) -> bool | None:
        return None if value is None or (met and not whole) else met

    def median(values: list[float]) -> float | None:
        return round(float(np.median(values)), 3) if values else None

    nominal = list(ratios["nominal"].values())
    middle, share = median(nominal), round(float(np.mean([r < 1 for r in nominal])), 3) if nominal else None
    best = "error at h = 32 at 2,000 transitions, best of adapted and the hybrids, against"
    found = [
        target(f"{best} nominal MuJoCo: share of shifts where it is lower{some}", "1", share,
               judged(share, share == 1)),
        target(f"{best} nominal MuJoCo: median ratio{some}", "<= 0.6", middle,
               judged(middle, (middle or 0) <= 0.6)),
    ]  # fmt: skip
    unmodelled, strong = (
        [r for cell, r in ratios["identified"].items() if cell[2] == kind]
        for kind in ("unmodelled", "strong")
    )
    value = median(unmodelled)
    met = None if value is None else judged(value, value <= 0.7)
    found.append(
        target(f"{best} identified MuJoCo, unmodelled shifts: median ratio{some}", "<= 0.7", value, met)
    )
    won = round(float(np.mean([r < 1 for r in strong])), 3) if strong else None
    known = list(ratios["identified with drive"].values())
    what = f"{best} MuJoCo with identified parameters and drive: median ratio{some}"
    found.append(target(what, "none set", median(known), True))
    what = f"{best} identified MuJoCo, which can express them: share of strong shifts where it is lower{some}"
    found.append(target(what, "none set", won, True))
    gaps = by_cell(rows, "return_gap", 2_000)
    value = median(
        [
            min(v[name] for name in CLOSED) / max(v["nominal"], 1e-9)
            for v in gaps.values()
            if v["nominal"] > 0.01
        ]
    )
    what = "return gap at 2,000 transitions, best of adapted and the hybrids: median ratio to nominal MuJoCo"
    met = None if value is None else judged(value, value <= 0.5)
    found.append(target(f"{what} where MuJoCo's is above 1 %{some}", "<= 0.5", value, met))
    for name in CLOSED:
        shares = [v[name] for v in by_cell(rows, "coverage", 2_000).values() if name in v]
        value = round(float(np.mean(shares)), 3) if shares else None
        met = None if value is None else judged(value, 0.87 <= value <= 0.93)
        found.append(
            target(
                f"coverage of the {name} simulator's 90 % bound, 2,000 + 1,000 steps{some}", "0.87 to 0.93",
                value, met,
            )
        )  # fmt: skip
    return found


BENCHMARK = Benchmark(
    units,
    goals,
    collects="drives a changed robot and makes eight simulators of it for each shift, task and budget",
    envs=("Hopper-v5", "HalfCheetah-v5", "Walker2d-v5", "Ant-v5"),
    seeds=SEEDS,
    arguments=arguments,
    grows=True,
)
