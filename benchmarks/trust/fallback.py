"""How much nearer do a policy's imagined returns come where MuJoCo takes a few of the steps?

Whole episodes of held-out policies from the same start states: in MuJoCo, in the shipped world, and in that
world with ``fallback="mujoco"``, which leaves the steps on which its members disagree most to MuJoCo. Its
trigger and how its threshold follows an episode were chosen on the calibration's policies.
"""

from __future__ import annotations

import numpy as np

import wmgym
from benchmarks.harness.real_returns import real
from benchmarks.harness.results import Row, target
from benchmarks.harness.runner import Benchmark, per_env
from benchmarks.harness.worlds import LARGE, Setup, policies
from wmgym.data.acting import Actor

EPISODES, PLAYED, SEEDS = 200, 96, (0,)


def measure(env_id: str, setup: Setup) -> list[Row]:
    world, rows = wmgym.load(env_id), list[Row]()
    for name, policy in policies(env_id, "held-out").items():
        truth = real(env_id, name, setup.size(EPISODES, 8))
        part = slice(setup.size(PLAYED, 8))
        for seed in SEEDS:
            for mixed in (False, True):
                returns, lengths, share = imagined(world, policy, truth.state[part], seed, mixed)
                rows.append(
                    {
                        "env": env_id, "policy": name, "seed": seed, "mixed": mixed,
                        "real": float(truth.returns[part].mean()), "imagined": float(returns.mean()),
                        "real_se": float(truth.returns[part].std() / np.sqrt(len(returns))),
                        "steps": int(lengths.sum()), "share": share, "episodes": len(returns),
                    }
                )  # fmt: skip
    return rows


def imagined(
    world: wmgym.WorldModel, policy: wmgym.MLPPolicy, starts: np.ndarray, seed: int, mixed: bool
) -> tuple[np.ndarray, np.ndarray, float]:
    """Returns and lengths ``(n,)`` of one episode a start, and the share of its steps that MuJoCo took."""
    count = len(starts)
    env = wmgym.ImaginedVectorEnv(world, count, fallback="mujoco" if mixed else None)
    obs, _ = env.reset(seed=seed, options={"state": starts})
    actor, going = Actor(policy, world.task), np.ones(count, bool)
    returns, lengths, taken = np.zeros(count), np.zeros(count, np.int64), 0
    while going.any():
        obs, reward, terminated, truncated, infos = env.step(actor(world.task.flat(obs), range(count)))
        returns += reward * going
        lengths += going
        if mixed:  # of an episode that ends, "fallback" is already the next one's
            of_last = infos.get("final_info", {}).get("fallback", np.zeros(count, bool))
            taken += int(((infos["fallback"] | of_last) & going).sum())
        going &= ~(terminated | truncated)
    return returns, lengths, taken / int(lengths.sum())


def gaps(rows: list[Row]) -> dict[tuple[str, str, int], tuple[float, float]]:
    """Of each task, policy and seed: gaps of the world and of the mixed env, in ranges of real returns."""
    found: dict[tuple[str, str, int], dict[bool, float]] = {}
    for row in rows:
        every = [other["real"] for other in rows if other["env"] == row["env"]]
        gap = abs(row["imagined"] - row["real"]) / (max(every) - min(every))
        found.setdefault((row["env"], row["policy"], row["seed"]), {})[row["mixed"]] = gap
    return {cell: (both[False], both[True]) for cell, both in found.items()}


def shares(rows: list[Row]) -> dict[str, float]:
    """Of all steps of a task, those that MuJoCo took."""
    found = {}
    for env_id in dict.fromkeys(row["env"] for row in rows):
        mixed = [row for row in rows if row["env"] == env_id and row["mixed"]]
        taken = sum(row["share"] * row["steps"] for row in mixed)
        found[env_id] = round(taken / sum(row["steps"] for row in mixed), 3)
    return found


def ratio(cells: list[tuple[float, float]]) -> float:
    """Mean gap of the mixed env over the world's."""
    world, mixed = np.mean(cells, 0)
    return round(float(mixed / max(world, 1e-9)), 3)


def goals(rows: list[Row]) -> list[Row]:
    """The targets beside what was measured."""
    cells, taken = gaps(rows), shares(rows)
    whole = len(taken) == len(LARGE)
    value, most = ratio(list(cells.values())), max(taken.values())
    each = {env_id: ratio([both for cell, both in cells.items() if cell[0] == env_id]) for env_id in taken}
    ratios = [mixed / world for world, mixed in cells.values() if world > 0.01]
    middle = round(float(np.median(ratios)), 3) if ratios else None

    def judged(met: bool) -> bool | None:
        return None if met and not whole else met

    gap = "return gap of a policy with fallback='mujoco' against the world's"
    return [
        target(f"{gap}: ratio of means over tasks, policies and seeds, in ranges of real returns", "<= 0.5",
               value, judged(value <= 0.5)),
        target("share of steps in MuJoCo, by task", "<= 0.2", taken, judged(most <= 0.2)),
        target(f"{gap}: ratio of means by task", "none set", each, True),
        target(f"{gap}: median ratio where the world's gap is above 1 % of the range", "none set", middle,
               True),
    ]  # fmt: skip


BENCHMARK = Benchmark(
    per_env(measure),
    goals,
    collects="plays 96 episodes of every held-out policy of five tasks in MuJoCo, in the worlds and in both",
    envs=LARGE,
    seeds=SEEDS,
)
