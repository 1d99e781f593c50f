"""How far are imagined returns from real ones, over whole episodes of policies that no fit saw?

Imagined episodes start where the real ones did. Gaps are shares of the range of real mean returns over all
policies of the task. A small network is trained to tell imagined from real transitions of the same policies
(two-sample test, arXiv:1610.06545): an AUC of 0.5 means that it cannot. Baselines: MuJoCo with 0.001 and 0.01
sigma state noise at every step, the gap that errors of that size make.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import wmgym
from benchmarks.harness.metrics import auroc, imagined_episodes, spread
from benchmarks.harness.results import Row, target
from benchmarks.harness.runner import Benchmark, per_env
from benchmarks.harness.worlds import LARGE, STEPS, Setup, policies
from wmgym.data.policy import MLPPolicy
from wmgym.tasks import ground_truth

SMALL = ("InvertedPendulum-v5", "InvertedDoublePendulum-v5", "Reacher-v5", "Pusher-v5")
PROPAGATIONS = ("mean", "member", "sample")
NOISES = (1e-3, 1e-2)


def measure(env_id: str, setup: Setup) -> list[Row]:
    world, held, episodes = setup.world(env_id), policies(env_id, "held-out"), setup.size(20, 4)
    real = {
        name: wmgym.collect(world.task, {name: policy}, episodes=episodes, seed=55_000 + i)
        for i, (name, policy) in enumerate(held.items())
    }
    means = [data.returns.mean() for data in real.values()]
    roles = ("fit", "calibration", "held-out")
    cards = [policy.card for role in roles for policy in policies(env_id, role).values()]
    means += [card.return_mean for card in cards if card is not None]
    scale = float(max(means) - min(means))
    std = spread(setup.train(env_id))
    found = [
        noisy(world.task, name, policy, real[name].returns, size, size * std, scale)
        for size in NOISES
        for name, policy in held.items()
    ]
    for propagation in PROPAGATIONS:
        seen = []
        for name, policy in held.items():
            returns, lengths, diverged, rows = imagined_episodes(
                world, policy, real[name].state[real[name].first], propagation
            )
            seen.append(rows)
            gap = (returns - real[name].returns) / scale
            found.append(
                {
                    "section": "gap", "env": env_id, "model": "world", "propagation": propagation,
                    "policy": name, "real": float(real[name].returns.mean()),
                    "imagined": float(returns.mean()),
                    "real_length": float(real[name].lengths.mean()),
                    "imagined_length": float(lengths.mean()),
                    "gap": float(gap.mean()), "gap_sem": float(gap.std(ddof=1) / np.sqrt(len(gap))),
                    "diverged": float(diverged.mean()), "range": scale,
                }
            )  # fmt: skip
        truth = np.concatenate([np.concatenate([d.core, d.action], 1) for d in real.values()])
        found.append(
            {
                "section": "distribution", "env": env_id, "model": "world", "propagation": propagation,
                **compare(world, truth, np.concatenate(seen)),
            }
        )  # fmt: skip
    return found


def baseline(size: float) -> str:
    return f"MuJoCo with {size:g} sigma state noise"


def noisy(
    task: wmgym.Task,
    name: str,
    policy: MLPPolicy,
    real: np.ndarray,
    size: float,
    noise: np.ndarray,
    scale: float,
) -> Row:
    """Half as many real episodes, with ``noise`` on the core before every step."""
    env, rng, found = task.make(), np.random.default_rng(0), []
    unwrapped: Any = env.unwrapped
    for episode in range(len(real) // 2):
        obs, _ = env.reset(seed=55_000 + episode)
        returns, over = 0.0, False
        while not over:
            core = task.read_core(env, obs) + noise * rng.normal(size=len(noise))
            place = task.read_unobserved(env)[: task.core.displacement_dim]
            unwrapped.set_state(*ground_truth.to_mujoco(task, core, place))
            obs, reward, terminated, truncated, _ = env.step(policy(np.array(unwrapped._get_obs())))
            returns, over = returns + float(reward), terminated or truncated
        found.append(returns)
    gap = (np.mean(found) - real.mean()) / scale
    return {
        "section": "gap", "env": task.env_id, "model": baseline(size), "policy": name,
        "real": float(real.mean()), "imagined": float(np.mean(found)), "gap": float(gap), "range": scale,
    }  # fmt: skip


@torch.no_grad()
def compare(world: wmgym.WorldModel, real: np.ndarray, imagined: np.ndarray) -> Row:
    """AUC of a classifier on fresh rows, and distances between marginal quantiles in units of the std."""
    rng, count = np.random.default_rng(0), min(len(real), len(imagined), 20_000)
    real, imagined = (x[rng.permutation(len(x))[:count]] for x in (real, imagined))
    std = real.std(0) + 1e-8
    levels = np.linspace(0.01, 0.99, 99)
    moving = real.std(0) > 1e-6
    distance = np.abs(np.quantile(real, levels, 0) - np.quantile(imagined, levels, 0)).mean(0) / std
    x = torch.tensor((np.concatenate([real, imagined]) - real.mean(0)) / std).float().clamp(-20, 20)
    y = torch.cat([torch.zeros(count), torch.ones(count)])
    order = torch.tensor(rng.permutation(len(x)))
    train, test = order[: len(order) // 2], order[len(order) // 2 :]
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(x.shape[1], 64), torch.nn.ReLU(), torch.nn.Linear(64, 64), torch.nn.ReLU(),
        torch.nn.Linear(64, 1),
    )  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), 1e-3, weight_decay=1e-4)
    with torch.enable_grad():
        for _ in range(1_500):
            rows = train[torch.randint(len(train), (256,))]
            loss = torch.nn.functional.binary_cross_entropy_with_logits(net(x[rows])[:, 0], y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    score = net(x[test])[:, 0].detach().numpy()
    label = y[test].numpy() > 0
    return {
        "auc": auroc(score, label),
        "quantile_distance": float(distance[moving].mean()),
        "worst_quantile_distance": float(distance[moving].max()),
    }


def goals(rows: list[Row]) -> list[Row]:
    """The targets beside what was measured, in the default propagation."""

    def mean_gap(**having: str) -> dict[str, float]:
        gaps = [r for r in rows if r["section"] == "gap" and all(r.get(k) == having[k] for k in having)]
        return {
            env: round(float(np.mean([abs(r["gap"]) for r in gaps if r["env"] == env])), 4)
            for env in dict.fromkeys(r["env"] for r in gaps)
        }

    mean, found = mean_gap(propagation="member"), []
    for names, most, which in ((LARGE, 0.05, "five large tasks"), (SMALL, 0.02, "four small tasks")):
        mine = {env: gap for env, gap in mean.items() if env in names}
        found.append(
            target(
                f"return gap of held-out policies, mean absolute, share of the pool's return range, {which}",
                f"<= {most}", mine, len(mine) == len(names) and max(mine.values()) <= most,
            )
        )  # fmt: skip
    for size in NOISES:
        what = f"return gap of {baseline(size)}, mean absolute, share of the pool's return range"
        found.append(target(what, "none set", mean_gap(model=baseline(size)), True))
    return found


BENCHMARK = Benchmark(
    per_env(measure),
    goals,
    collects="collects 20 episodes of every held-out policy, in MuJoCo and in the world;"
    f" with --fit it first collects {STEPS:,} transitions for each task and fits a world to them",
    fits=True,
)
