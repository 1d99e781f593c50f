"""Do imagined robots stay physical over two minutes of simulated time?

MuJoCo's kinematics look at imagined states. Real data gives the ranges: how far joints pass their limits, how
deep feet sink in and how fast each velocity gets. A state outside these ranges is rejected; the outer bounds
are twice as wide. In free flight only gravity may change the velocity of the centre of mass.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import wmgym
from benchmarks.harness.results import Row, target
from benchmarks.harness.runner import Benchmark, per_env
from benchmarks.harness.worlds import STEPS, TASKS, Setup, policies
from wmgym.data.policy import apply_policy
from wmgym.data.transitions import Transitions
from wmgym.tasks import ground_truth

LOOKS = 2_000  # states that MuJoCo looks at


def measure(env_id: str, setup: Setup) -> list[Row]:
    train, world = setup.train(env_id), setup.world(env_id)
    envs, seconds = setup.size(256, 32), setup.size(120, 8)
    steps = round(seconds / world.task.dt)
    endless = wmgym.make_task(env_id, env_kwargs={"max_episode_steps": steps})
    bounds = Bounds(world.task, train)
    entrants: dict[str, Any] = {"random": None, **policies(env_id, "held-out")}
    found = []
    for name, policy in entrants.items():
        real = wmgym.collect(endless, {name: policy}, steps=4 * steps, seed=88_000, workers=2)
        pairs, finite, variance = imagine(world, policy, steps, envs)
        seen = ground_truth.inspect(world.task, pairs[:, 0])
        next_seen = ground_truth.inspect(world.task, pairs[:, 1])
        rows = np.random.default_rng(0).choice(len(real), size=min(LOOKS, len(real)), replace=False)
        before, after = (ground_truth.inspect(world.task, x[rows]) for x in (real.core, real.next_core))
        moving = real.core.var(0) > 1e-10
        ratio = variance[moving] / real.core.var(0)[moving]
        found.append(
            {
                "env": env_id, "policy": name, "seconds": float(seconds), "envs": envs, "finite": finite,
                "rejected_states": bounds.outside(pairs[:, 0], seen, 0.0),
                "rejected_states_real": bounds.outside(real.core[rows], before, 0.0),
                "outside_outer_bounds": bounds.outside(pairs[:, 0], seen, 1.0),
                "variance_ratio_median": float(np.median(ratio)),
                "variance_ratio_low": float(ratio.min()), "variance_ratio_high": float(ratio.max()),
                "flight_error": flight_error(world.task, seen, next_seen),
                "flight_error_real": flight_error(world.task, before, after),
            }
        )  # fmt: skip
    return found


@torch.no_grad()
def imagine(
    world: wmgym.WorldModel, policy: Any, steps: int, envs: int
) -> tuple[np.ndarray, bool, np.ndarray]:
    """Pairs of successive cores ``(n, 2, core_dim)``, whether all was finite, the variances."""
    env = wmgym.ImaginedVectorEnv(world, envs, max_episode_steps=steps)
    env.action_space.seed(0)
    rng = np.random.default_rng(0)
    obs, _ = env.reset(seed=0)
    pairs, finite, count = [], True, 0
    total, squares = np.zeros(world.task.core.dim), np.zeros(world.task.core.dim)
    each = -(-LOOKS // steps) if steps < LOOKS else 1
    looks = set(np.linspace(0, steps - 1, min(steps, LOOKS)).astype(int).tolist())
    for t in range(steps):
        core = env.core()
        action = env.action_space.sample() if policy is None else apply_policy(policy, obs)
        obs, reward, terminated, truncated, _ = env.step(action)
        finite &= bool(np.isfinite(obs).all() and np.isfinite(reward).all())
        total += core.sum(0, dtype=np.float64)
        squares += np.square(core, dtype=np.float64).sum(0)
        count += len(core)
        if t in looks:
            going = np.flatnonzero(~(terminated | truncated))
            rows = rng.choice(going, size=min(each, len(going)), replace=False)
            pairs += [np.stack([core[i], env.core()[i]]) for i in rows]
    variance = squares / count - (total / count) ** 2
    return np.array(pairs), finite, variance


class Bounds:
    """What real data allows: ranges of penetration, of joint limits and of every velocity."""

    def __init__(self, task: wmgym.Task, train: Transitions) -> None:
        assert task.core.to_mujoco is not None
        rows = np.random.default_rng(1).choice(len(train), size=min(20_000, len(train)), replace=False)
        real = ground_truth.inspect(task, train.core[rows])
        self.penetration, self.limit = real.penetration.max(), real.limit.max()
        _, velocity = task.core.to_mujoco(np.arange(1, task.core.dim + 1)[None])
        self.velocity = np.isin(np.arange(1, task.core.dim + 1), velocity)
        self.speed = np.abs(train.core[:, self.velocity]).max(0)

    def outside(self, cores: np.ndarray, seen: ground_truth.Inspection, margin: float) -> float:
        """Share of states beyond the ranges seen, widened by a share of themselves."""
        wide = 1 + margin
        bad = (seen.penetration > wide * self.penetration + 1e-6) | (seen.limit > wide * self.limit + 1e-6)
        bad |= (np.abs(cores[:, self.velocity]) > wide * self.speed + 1e-6).any(1)
        return float(bad.mean())


def flight_error(task: wmgym.Task, now: Any, then: Any) -> float | None:
    """Median error of the centre of mass's vertical acceleration in free flight, as a share of gravity."""
    flying = ~(now.contact.any(1) | then.contact.any(1))
    if task.env_id in ("Swimmer-v5", "Reacher-v5", "Pusher-v5") or "Inverted" in task.env_id:
        return None  # nothing flies there
    if flying.sum() < 20:
        return None
    change = (then.com_velocity - now.com_velocity)[flying, 2] / task.dt
    return float(np.median(np.abs(change / 9.81 + 1)))


def goals(rows: list[Row]) -> list[Row]:
    """The targets beside what was measured."""
    envs = list(dict.fromkeys(r["env"] for r in rows))
    worst = {e: max(r["outside_outer_bounds"] for r in rows if r["env"] == e) for e in envs}
    ratio = {
        e: [round(f(r["variance_ratio_median"] for r in rows if r["env"] == e), 2) for f in (min, max)]
        for e in envs
    }
    what = "120 s of simulated time, 256 envs, random and held-out policies, 11 tasks: "
    return [
        target(what + "finite", "100 %", all(r["finite"] for r in rows), all(r["finite"] for r in rows)),
        target(what + "share of states outside the outer bounds of real data", "0", worst,
               len(envs) == len(TASKS) and max(worst.values()) == 0),
        target(what + "state variance relative to MuJoCo's, median over dimensions, least and most by policy",
               "within 2x",
               ratio, all(low >= 0.5 and high <= 2 for low, high in ratio.values())),
    ]  # fmt: skip


BENCHMARK = Benchmark(
    per_env(measure),
    goals,
    collects="steps 256 imagined envs for 120 s of simulated time under every held-out policy, and MuJoCo"
    f" beside them; with --fit it first collects {STEPS:,} transitions a task and fits a world to them",
    fits=True,
)
