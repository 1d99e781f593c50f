"""Is a change of the robot that matters flagged within 1,000 of its steps, and the usual robot left alone?

``wmgym.watch`` learns from 20,000 steps of the nominal robot under the policy at hand what the shipped
world's errors look like, and looks at the robot after 250, 500 and 1,000 steps. A change matters where it
changes the policy's mean real return by a tenth or more, and by more than two standard errors. Its looks and
its level were chosen on the calibration's policies; it is judged here on policies that no fit saw.
"""

from __future__ import annotations

import argparse
import functools

import numpy as np

import wmgym
from benchmarks.harness.metrics import matters
from benchmarks.harness.results import Row, target
from benchmarks.harness.runner import Benchmark, Work
from benchmarks.harness.worlds import Setup, policies
from wmgym.calibration.watch import LOOKS
from wmgym.data.transitions import Transitions

KINDS = ("mild", "strong", "unmodelled")
SHIFTS = {what: (kind, changes) for kind in KINDS for what, changes in wmgym.shifts(kind).items()}
REFERENCE, USUAL_TRIALS, TRIALS, EPISODES = 20_000, 10, 5, 20
ENVS = ("Hopper-v5", "HalfCheetah-v5", "Walker2d-v5", "Ant-v5")


def driven(task: wmgym.Task, name: str, policy: wmgym.MLPPolicy, least: int, seed: int) -> Transitions:
    """At least 20 whole episodes, and as many steps as asked for."""
    data = wmgym.collect(task, {name: policy}, episodes=EPISODES, seed=seed, workers=1)
    if len(data) < least:
        data = wmgym.collect(task, {name: policy}, steps=least, seed=seed, workers=1)
    return data


def trials(data: Transitions, most: int) -> list[Transitions]:
    """Pieces of whole episodes that hold a watch's last look, one after the other."""
    found, first = [], 0
    lengths = data.lengths
    while first < data.num_episodes and len(found) < most:
        reach = np.flatnonzero(np.cumsum(lengths[first:]) >= LOOKS[-1])
        if not len(reach):
            break
        last = first + int(reach[0]) + 1
        found.append(data.select(np.arange(first, last)))
        first = last
    return found


def measure(env_id: str, role: str, name: str, number: int, setup: Setup) -> list[Row]:
    """One policy: the usual robot, then every shift."""
    world, policy, task = wmgym.load(env_id), policies(env_id, role)[name], wmgym.make_task(env_id)
    reference = driven(task, name, policy, REFERENCE, 81_000 + number)
    watch = wmgym.watch(world, reference)
    usual = driven(task, name, policy, USUAL_TRIALS * (LOOKS[-1] + 1_000), 82_000 + number)
    returns = whole(reference, usual)
    rows: list[Row] = []
    shifts = dict(list(SHIFTS.items())[::4]) if setup.quick else SHIFTS
    for what, (kind, changes) in {"none": ("usual", {}), **shifts}.items():
        data, most = usual, USUAL_TRIALS
        if kind != "usual":
            robot = wmgym.make_task(wmgym.shift(env_id, **changes))
            data, most = driven(robot, name, policy, TRIALS * LOOKS[-1], 83_000 + number), TRIALS
        said = [watch(trial) for trial in trials(data, most)]
        own = whole(data)
        change, size = own.mean() - returns.mean(), abs(returns.mean())
        error = np.sqrt(own.var() / len(own) + returns.var() / len(returns))
        rows.append(
            {
                "env": env_id, "policy": name, "role": role, "shift": what, "kind": kind,
                "return": float(own.mean()), "usual_return": float(returns.mean()),
                "change": float(change / size), "change_se": float(error / size),
                "episodes": len(own), "trials": len(said),
                "flagged_at": [each.steps if each.flagged else None for each in said],
                "signs": sorted({each.sign for each in said if each.flagged}),
            }
        )  # fmt: skip
    return rows


def whole(*parts: Transitions) -> np.ndarray:
    """Returns of the episodes that came to their end."""
    found = []
    for data in parts:
        last = data.first + data.lengths - 1
        found.append(data.returns[data.terminated[last] | data.truncated[last]])
    return np.concatenate(found)


def units(setup: Setup, args: argparse.Namespace) -> dict[str, Work]:
    found: dict[str, Work] = {}
    for env_id in args.env:
        for number, name in enumerate(policies(env_id, args.role)):
            if not (setup.quick and number):
                unit = f"{env_id}, {name}" + ("" if args.role == "held-out" else f", {args.role}")
                found[unit] = functools.partial(measure, env_id, args.role, name, number, setup)
    return found


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--role", choices=("held-out", "calibration"), default="held-out",
        help="which policies drive; those of the calibration chose the rule",
    )  # fmt: skip


def share(rows: list[Row]) -> float | None:
    """Of all trials, those that were flagged."""
    flags = [at is not None for row in rows for at in row["flagged_at"]]
    return round(float(np.mean(flags)), 3) if flags else None


def goals(rows: list[Row]) -> list[Row]:
    """The targets beside what was measured."""
    own = [row for row in rows if row["role"] == "held-out"]
    whole = len({(row["env"], row["policy"]) for row in own}) == 24
    true = [row for row in own if matters(row)]
    usual = [row for row in own if row["kind"] == "usual"]

    def count(chosen: list[Row]) -> str:
        return f"{sum(row['trials'] for row in chosen)} trials of {len(chosen)} robots"

    def judged(value: float | None, met: bool) -> bool | None:
        return None if value is None or (met and not whole) else met

    found, false = share(true), share(usual)
    out = [
        target(f"changes that matter, flagged within 1,000 steps: share of {count(true)}", ">= 0.95", found,
               judged(found, (found or 0) >= 0.95)),
        target(f"false alarms on the nominal robot: share of {sum(row['trials'] for row in usual)} trials",
               "<= 0.05", false, judged(false, (false or 0) <= 0.05)),
    ]  # fmt: skip
    for what, chosen in {
        "changes of the return by a tenth or more, those within two standard errors included": [
            row for row in own if matters(row, 0)
        ],
        "all changes, whether they matter or not": [row for row in own if row["kind"] != "usual"],
    }.items():
        said = f"{what}, flagged within 1,000 steps: share of {count(chosen)}"
        out.append(target(said, "none set", share(chosen), True))
    if other := [row for row in rows if row["role"] == "calibration"]:
        chose = [share([row for row in other if matters(row)])]
        chose.append(share([row for row in other if row["kind"] == "usual"]))
        what = "policies that chose the rule: share flagged where it matters, and false alarms"
        out.append(target(what, "none set", chose, True))
    return out


BENCHMARK = Benchmark(
    units,
    goals,
    collects="drives the nominal robot and eleven changed ones with every held-out policy of four tasks",
    envs=ENVS,
    arguments=arguments,
)
