"""How far are simulators from a robot that is not the nominal one, and what do a few of its steps buy?

MuJoCo plays the robot: a changed model, and drives that delay or play. Policies of the pool that no world was
fitted to drive it. Simulators: the nominal MuJoCo model; the same with identified parameters; the shipped
world; that world adapted; a hybrid of the nominal model and a correction; and a world of the robot's steps
alone. The hybrid is made twice: on the nominal model, and on the identified one, whose parameters leave the
correction less to learn. Errors are open loop under recorded commands of policies that no simulator learned
from, in standard deviations of the robot's states.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import wmgym
from benchmarks.harness.results import RUNS, Growing, Row, target
from benchmarks.harness.runner import Benchmark
from benchmarks.harness.worlds import Setup, policies
from wmgym.calibration import online
from wmgym.calibration.adapt import CORRECTION
from wmgym.data.transitions import Transitions, concat
from wmgym.io.provenance import cpu_seconds

KINDS = ("strong", "unmodelled")
SHIFTS = {what: (kind, changes) for kind in KINDS for what, changes in wmgym.shifts(kind).items()}
BUDGETS, SEEDS, CALIBRATION = (500, 2_000), (0,), 1_000
HORIZON, EPISODE = 32, 100
JUDGED = 200  # steps of an episode whose return is compared
ALONE = wmgym.FitConfig(
    members=5, width=200, max_updates=1_500, learning_rate=2e-3, batch_size=128, validation=0.15
)
SIMULATORS = ("nominal", "identified", "hybrid", "identified hybrid", "adapted", "pool world", "B alone")
CLOSED = ("adapted", "hybrid", "identified hybrid")


def driven(robot: wmgym.Task, env_id: str, steps: int, seed: int, *, judged: bool = False) -> Transitions:
    """Steps of the robot under the calibration's policies, to learn from, half of them with action noise.

    What bounds are made of is ``judged``: every episode is of one policy and without noise, as the robot will
    be driven.
    """
    pool, half = policies(env_id, "calibration"), steps // 2
    if judged:
        return wmgym.collect(robot, pool, steps=steps, seed=seed, workers=1, max_episode_steps=EPISODE)
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
    rows, done = list(before["rows"]), {row["simulator"] for row in before["rows"]}
    if done == set(SIMULATORS):
        return
    wall, cpu = time.perf_counter() - before["wall_s"], cpu_seconds() - before["cpu_s"]
    kind, changes = SHIFTS[what]
    robot = wmgym.make_task(wmgym.shift(env_id, **changes))
    log = driven(robot, env_id, budget, 1_000 * seed + 10)
    calib = driven(robot, env_id, CALIBRATION, 1_000 * seed + 20, judged=True)
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

    def identified() -> Any:
        return wmgym.identify(log, env_id, seed=seed).simulator()

    def corrected(model: Any) -> wmgym.WorldModel:
        fitted = wmgym.fit(log, CORRECTION, seed, dynamics=wmgym.residual(model))
        return wmgym.calibrate(fitted, calib, horizon=HORIZON)

    makers: dict[str, Callable[[], Any]] = {
        "nominal": lambda: env_id,
        "identified": identified,
        "pool world": lambda: world,
        "adapted": lambda: wmgym.adapt(world, log, calib, seed=seed),
        "hybrid": lambda: corrected(env_id),
        "identified hybrid": lambda: corrected(identified()),
        "B alone": lambda: wmgym.calibrate(wmgym.fit(log, ALONE, seed), calib, horizon=HORIZON),
    }
    for name in (name for name in SIMULATORS if name not in done):
        began = time.perf_counter()
        simulator = makers[name]()
        seconds = time.perf_counter() - began
        found = wmgym.gap(
            test, simulator, judges, horizon=HORIZON, seed=seed, workers=1, max_episode_steps=JUDGED
        )
        bounded = isinstance(simulator, wmgym.WorldModel) and simulator.calibration is not None
        if isinstance(simulator, wmgym.WorldModel) and simulator is not world:
            place = f"{env_id} {what} {budget} {seed} {name}".replace(" ", "_")
            simulator.save(RUNS / "reality_gap" / place)
        rows.append(
            {
                "env": env_id, "shift": what, "kind": kind, "budget": budget, "seed": seed, "simulator": name,
                "one_step": found.one_step, "open_loop": found.open_loop, "return_gap": found.return_gap,
                "rank": None if found.agreement is None else found.agreement.spearman.value,
                "coverage": online.check(simulator, test).coverage if bounded else None,
                "how": simulator.provenance.fit.get("adapted") if name == "adapted" else None,
                "made_s": round(seconds, 1),
            }
        )  # fmt: skip
        print(f"  {name}: {found.open_loop:.4f} std, return gap {found.return_gap:.3f}", flush=True)
        cost = {"wall_s": time.perf_counter() - wall, "cpu_s": cpu_seconds() - cpu}
        keep({**{key: round(value, 1) for key, value in cost.items()}, "rows": list(rows)})


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
        for against in ("nominal", "identified")
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
    collects="drives a changed robot and makes seven simulators of it for each shift, task and budget",
    envs=("Hopper-v5", "HalfCheetah-v5", "Walker2d-v5", "Ant-v5"),
    seeds=SEEDS,
    arguments=arguments,
    grows=True,
)
