"""How much faster is a smaller twin of a shipped world, and how much worse?

The twin is the one that ships, or else one distilled from the world and the pool's transitions with the
defaults of ``wmgym.distill`` and kept under ``runs/``; its bounds are its own. Both worlds are timed in turns
at 1,024 envs, and at larger numbers on all cores beside ``mujoco.rollout``. Their open-loop error is taken on
policies that no fit saw, and so is the gap between imagined and real mean returns of these, as a share of the
range of real ones.
"""

from __future__ import annotations

import os
import time
from functools import partial

import numpy as np
import torch

import wmgym
from benchmarks.harness.metrics import core_error, imagine, imagined_episodes, spread, starts_of
from benchmarks.harness.results import Row, target
from benchmarks.harness.runner import Benchmark, per_env
from benchmarks.harness.timing import Take, in_turns, rollout
from benchmarks.harness.worlds import LARGE, Setup, policies
from wmgym.calibration.open_loop import steps_left
from wmgym.io.registered import SMALL

HORIZON, ENVS = 32, 1_024
SIZES = (1_024, 4_096, 16_384)
ROLLOUTS = {"Hopper-v5": 20, "HalfCheetah-v5": 9, "Walker2d-v5": 22, "Ant-v5": 25}
"""How many times as many steps a second as ``mujoco.rollout`` a world should make, as in ``throughput``."""


def measure(env_id: str, setup: Setup) -> list[Row]:
    train, test, teacher = setup.train(env_id), setup.held_out(env_id), setup.world(env_id)
    worlds = {"teacher": teacher, "twin": setup.small_world(env_id)}
    seconds = timed(worlds, setup.size(9, 3))
    beside = beside_rollout(env_id, worlds, setup)
    starts = starts_of(test, setup.size(64, 16))
    starts = starts[steps_left(test)[starts] >= HORIZON]
    rows = starts[:, None] + np.arange(HORIZON)
    real, std = test.next_core[rows[:, -1]].astype(np.float64), spread(train)
    gaps = returns(env_id, worlds, setup.size(20, 3))
    found = []
    for name, world in worlds.items():
        core = imagine(world, test.state[starts], test.action[rows])[:, -1]
        error = np.sqrt(np.square(core_error(world.task, core, real) / std).mean(1))
        table = world.calibration
        assert table is not None
        found.append(
            {"env": env_id, "world": name, "step_ms": float(np.median(seconds[name])) * 1e3,
             "error": float(error.mean()), "gap": gaps[name], "rollouts": beside[name],
             "bound": float((table.half_width["member"][HORIZON - 1] / table.data_std).mean())}
        )  # fmt: skip
    return found


def timed(worlds: dict[str, wmgym.WorldModel], repeats: int) -> dict[str, list[float]]:
    """Seconds of a step of many envs, in turns."""
    envs = {name: wmgym.ImaginedVectorEnv(world, ENVS) for name, world in worlds.items()}
    times: dict[str, list[float]] = {name: [] for name in worlds}
    for env in envs.values():
        env.reset(seed=0)
        env.action_space.seed(0)
    actions = next(iter(envs.values())).action_space.sample()
    for repeat in range(repeats + 1):  # the first warms up
        for name, env in envs.items():
            began = time.perf_counter()
            for _ in range(20):
                env.step(actions)
            if repeat:
                times[name].append((time.perf_counter() - began) / 20)
    return times


def beside_rollout(env_id: str, worlds: dict[str, wmgym.WorldModel], setup: Setup) -> dict[str, float]:
    """Steps a second of each world at its best size over those of ``mujoco.rollout``, on all cores."""
    cores, threads = os.cpu_count() or 1, torch.get_num_threads()
    torch.set_num_threads(cores)
    *_, real, steps = rollout(env_id, cores)
    takes: dict[tuple[str, int], tuple[Take, int]] = {("rollout", 0): (real, steps)}
    for name, world in worlds.items():
        for count in SIZES[: setup.size(len(SIZES), 1)]:
            env = wmgym.ImaginedVectorEnv(world, count)
            env.reset(seed=0)
            env.action_space.seed(0)
            takes[name, count] = (partial(env.step, env.action_space.sample()), count)
    times = in_turns({key: take for key, (take, _) in takes.items()}, setup.size(5, 2))
    torch.set_num_threads(threads)
    rate = {key: takes[key][1] / float(np.median(each)) for key, each in times.items()}
    return {w: max(rate[key] for key in rate if key[0] == w) / rate["rollout", 0] for w in worlds}


def returns(env_id: str, worlds: dict[str, wmgym.WorldModel], episodes: int) -> dict[str, float]:
    """Mean absolute gap of each world's mean returns, over policies that no fit saw."""
    gaps: dict[str, list[float]] = {name: [] for name in worlds}
    means = []
    task = next(iter(worlds.values())).task
    for i, (name, policy) in enumerate(policies(env_id, "held-out").items()):
        data = wmgym.collect(task, {name: policy}, episodes=episodes, seed=55_000 + i)
        means.append(float(data.returns.mean()))
        for which, world in worlds.items():
            found, *_ = imagined_episodes(world, policy, data.state[data.first], "member")
            gaps[which].append(abs(float(found.mean()) - means[-1]))
    cards = [p.card for role in ("fit", "calibration", "held-out") for p in policies(env_id, role).values()]
    means += [card.return_mean for card in cards if card is not None]
    return {name: float(np.mean(each) / (max(means) - min(means))) for name, each in gaps.items()}


def goals(rows: list[Row]) -> list[Row]:
    """The targets beside what was measured."""
    by = {(r["env"], r["world"]): r for r in rows}
    envs = list(dict.fromkeys(r["env"] for r in rows))

    def ratio(value: str, up: str, down: str) -> dict[str, float]:
        return {e: round(by[e, up][value] / by[e, down][value], 2) for e in envs}

    speed, error = ratio("step_ms", "teacher", "twin"), ratio("error", "twin", "teacher")
    more = {e: round(100 * (by[e, "twin"]["gap"] - by[e, "teacher"]["gap"]), 2) for e in envs}
    whole = set(envs) == set(LARGE)
    beside = {f"{e}{SMALL}": round(by[e, "twin"]["rollouts"], 1) for e in envs if e in ROLLOUTS}
    enough = [beside[f"{e}{SMALL}"] >= ROLLOUTS[e] for e in envs if e in ROLLOUTS]
    return [
        target(f"distilled world against its teacher: steps/s at {ENVS:,} envs", ">= 2x", speed,
               whole and min(speed.values()) >= 2),
        target(f"distilled world against its teacher: error after {HORIZON} steps", "<= 1.1x", error,
               whole and max(error.values()) <= 1.1),
        target("distilled world against its teacher: return gap, percentage points more", "<= 1", more,
               whole and max(more.values()) <= 1),
        target("distilled world at its best num_envs against mujoco.rollout on all cores",
               ", ".join(f"{e} >= {x}x" for e, x in ROLLOUTS.items()), beside, whole and all(enough)),
    ]  # fmt: skip


BENCHMARK = Benchmark(
    per_env(measure),
    goals,
    collects="collects the pool's transitions unless that was done, and distils where no twin ships",
    envs=LARGE,
)
