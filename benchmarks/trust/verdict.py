"""Does the verdict see worlds that were made wrong on purpose, and does it trust right ones?

Right worlds are MuJoCo itself as the dynamics, and those that ship. Wrong worlds are MuJoCo with one thing
changed, so that nothing else is to blame, and worlds fitted to half of the data, or to those of one policy,
with a tenth of the updates of a shipped world (``updates``).
A wrong world keeps the bounds of the right one, as if nobody had noticed; fitted ones get their own. Policies
are the repository's reference policies, which learned in MuJoCo; the two best of those off-policy algorithms
trained count as trained in the world: for MuJoCo as a world that is so, for a wrong one it is kind.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

import wmgym
from benchmarks.harness import wrong_worlds as wrong
from benchmarks.harness.results import ROOT, Row, target
from benchmarks.harness.runner import Benchmark, Work
from benchmarks.harness.worlds import FIT, TASKS, Setup, policies, pool_data
from wmgym.data.joining import concat
from wmgym.data.transitions import Transitions
from wmgym.evaluation.gap_report import GapReport

CHEETAH, HOPPER = "HalfCheetah-v5", "Hopper-v5"
STEPS, HORIZON = 250, 64
UPDATES = 2_000
RIGHT = "MuJoCo itself"
CHANGED: dict[str, tuple[str, Callable[[wmgym.WorldModel], wmgym.WorldModel]]] = {
    "reward +10 %": (CHEETAH, lambda world: wrong.with_reward(world, 1.1)),
    "friction x0.3": (CHEETAH, lambda world: rebuilt(world, wrong.slippery)),
    "contact off": (CHEETAH, lambda world: rebuilt(world, wrong.without_contact)),
    "stale: mass +50 % unnoticed": (CHEETAH, lambda world: rebuilt(world, wrong.heavier)),
    "actions x0.8": (CHEETAH, lambda world: wrong.mistaken(world, action=lambda given: 0.8 * given)),
    "actions a step late": (CHEETAH, lambda world: wrong.mistaken(world, late=True)),
    "one joint inverted": (CHEETAH, lambda world: wrong.mistaken(world, action=wrong.inverted)),
    "speed +10 %": (CHEETAH, lambda world: wrong.mistaken(world, change=wrong.faster(world, 1.1))),
    "time step +10 %": (CHEETAH, lambda world: wrong.mistaken(world, change=lambda target: 1.1 * target)),
    "bounds of half the width": (CHEETAH, lambda world: wrong.with_bounds(world, 0.5)),
    "terminations ignored": (HOPPER, wrong.without_terminations),
}  # fmt: skip
HOMES = {RIGHT: (CHEETAH, HOPPER)} | {name: (home,) for name, (home, _) in CHANGED.items()}
FITTED = ("half of the data", "data of one policy")


def rebuilt(world: wmgym.WorldModel, change: wrong.Change) -> wmgym.WorldModel:
    """The same world with another MuJoCo model as its dynamics."""
    return dataclasses.replace(world, dynamics=wrong.Simulator(world.task, change))


def units(setup: Setup, args: argparse.Namespace) -> dict[str, Work]:
    """One for each world."""
    found: dict[str, Work] = {}
    for env_id in args.env:
        own = {name: functools.partial(judge_exact, env_id, name, setup)
               for name in (RIGHT, *CHANGED) if env_id in HOMES[name]}  # fmt: skip
        if env_id == CHEETAH and not setup.quick:
            own |= {name: functools.partial(judge_fitted, env_id, name, setup) for name in FITTED}
        own["shipped"] = functools.partial(judge_shipped, env_id, setup)
        found |= {f"{env_id}-{name}": work for name, work in own.items() if name in args.worlds}
    return found


def arguments(parser: argparse.ArgumentParser) -> None:
    every = (RIGHT, *CHANGED, *FITTED, "shipped")
    parser.add_argument(
        "--worlds", nargs="+", choices=every, default=list(every), metavar="WORLD",
        help=f"of {', '.join(every).replace('%', '%%')}; all of them by default",
    )  # fmt: skip


def judge_exact(env_id: str, name: str, setup: Setup) -> list[Row]:
    world = exact(env_id)
    if name != RIGHT:
        world = CHANGED[name][1](world)
    return [judged(env_id, name, "right" if name == RIGHT else "wrong", score(world, setup))]


@functools.cache
def exact(env_id: str) -> wmgym.WorldModel:
    """MuJoCo itself, its bounds made from the policies that other worlds are fitted to."""
    return wrong.bounded(wrong.exact(env_id), short_episodes(env_id, "fit"), HORIZON)


def short_episodes(env_id: str, role: str) -> Transitions:
    """Episodes of some policies, with and without action noise, cut after ``STEPS`` steps."""
    return concat(
        [
            wmgym.collect(env_id, {name: policy}, episodes=2, seed=31_000 + 10 * i + j, noise=noise,
                          max_episode_steps=STEPS, workers=1)
            for i, (name, policy) in enumerate(policies(env_id, role).items())
            for j, noise in enumerate((0.0, 0.1))
        ]
    )  # fmt: skip


def judge_fitted(env_id: str, name: str, setup: Setup) -> list[Row]:
    """Worlds that ``fit`` and ``calibrate`` made in good faith, of too little data."""
    if name == "half of the data":
        train, calib = pool_data(env_id, 150_000), short_episodes(env_id, "calibration")
    else:
        policy = "sac-60k"
        one = {policy: wmgym.load_policy(ROOT / "policies" / env_id / policy)}
        train = wmgym.collect(env_id, one, steps=40_000, noise=0.1, workers=1)
        calib = wmgym.collect(env_id, one, episodes=12, seed=1, max_episode_steps=STEPS, workers=1)
    config = dataclasses.replace(FIT, max_updates=UPDATES, finetune_updates=UPDATES // 10)
    world = wmgym.calibrate(wmgym.fit(train, config, seed=0), calib, horizon=HORIZON)
    return [{**judged(env_id, name, "wrong", score(world, setup)), "updates": UPDATES}]


def judge_shipped(env_id: str, setup: Setup) -> list[Row]:
    """As a user would, with policies that no fit saw; where these are few, also those of the bounds."""
    chosen = dict(policies(env_id, "held-out"))
    if len(chosen) < 5:
        chosen |= policies(env_id, "calibration")
    report = wmgym.score(wmgym.load(env_id), chosen, setup.size(10, 2), seed=88_000, workers=1)
    return [judged(env_id, "shipped", "shipped", report)]


def score(world: wmgym.WorldModel, setup: Setup) -> GapReport:
    """Reference policies that the shipped world was not fitted to, episodes cut after ``STEPS`` steps."""
    every: dict[str, Any] = dict(policies(world.task.env_id, "held-out"))
    if not setup.quick:
        every |= policies(world.task.env_id, "calibration")
    return wmgym.score(
        world, every, setup.size(12, 4), seed=88_000, trained_in_world=off_policy(every),
        max_episode_steps=setup.size(STEPS, 60), workers=1,
    )  # fmt: skip


def off_policy(every: dict[str, Any]) -> tuple[str, ...]:
    """The two best that SAC, TQC or TD3 trained."""
    names = [name for name in every if name.split("-")[0] in ("sac", "tqc", "td3")]
    return tuple(sorted(names, key=lambda name: -every[name].card.return_mean)[:2])


def judged(env_id: str, name: str, kind: str, report: GapReport) -> Row:
    verdict, scored = report.verdict, [s for s in report.scores if s.name != "random"]
    assert verdict is not None
    agreed, shares = report.agreement, [s.coverage for s in report.scores if s.coverage is not None]
    return {
        "env": env_id, "world": name, "kind": kind, "level": verdict.level,
        "failed": [reason.rule for reason in verdict.reasons if reason.passed is False],
        "unknown": [reason.rule for reason in verdict.reasons if reason.passed is None],
        "reasons": [reason.text for reason in verdict.reasons if not reason.passed],
        "policies": len(scored), "episodes": report.episodes,
        "spearman": None if agreed is None else round(agreed.spearman.value, 4),
        "mean_gap": round(float(np.mean([abs(s.gap) for s in scored])), 4),
        "coverage": round(float(np.mean(shares)), 4) if shares else None,
    }  # fmt: skip


def goals(rows: list[Row]) -> list[Row]:
    wrongs = [row for row in rows if row["kind"] == "wrong"]
    trusted = [row["world"] for row in wrongs if row["level"] == "trust"]
    many = len(CHANGED) + len(FITTED)
    said = f"{len(trusted)} of {len(wrongs)}" + (f": {', '.join(trusted)}" if trusted else "")
    what = f'verdict "trust" on worlds made wrong on purpose, {many} ways'
    found = [target(what, "0", said, not trusted if len(wrongs) == many else None)]
    alone = [row["world"] for row in wrongs if row["level"] != "trust" and row["failed"] == []]
    what = "wrong worlds that no rule failed, so that only missing evidence kept them from trust"
    found.append(target(what, "0", f"{len(alone)}" + (f": {', '.join(alone)}" if alone else ""), not alone))
    for row in rows:
        if row["kind"] == "right":
            what = f'verdict "trust" on MuJoCo itself as a world, {row["env"]}'
            found.append(target(what, "yes", row["level"], row["level"] == "trust"))
    shipped = {row["env"]: row["level"] for row in rows if row["kind"] == "shipped"}
    return [*found, target("verdicts on the worlds that ship", "none set", shipped, True)]


BENCHMARK = Benchmark(
    units,
    goals,
    collects="plays episodes of the reference policies in MuJoCo for every world, and fits two worlds",
    envs=TASKS,
    seeds=(88_000,),
    arguments=arguments,
)
