"""Reference policies trained in the real env: ``policies/<env-id>/<name>/``.

    python -m tools.train_policies                        # every missing policy, long runs first
    python -m tools.train_policies --env Hopper-v5        # of some envs; any Gymnasium id will do
    python -m tools.train_policies --budget 100000        # none that learns from more real steps
    python -m tools.train_policies --executor ray --address auto     # on a Ray cluster
    python -m tools.train_policies --check                # score all again in MuJoCo
    python -m tools.train_policies --report               # policies/README.md and its picture

One process a core; each policy is written when it is there, so a killed run goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

import wmgym
from benchmarks.harness.policy_runs import (
    AIMS,
    BY_HAND,
    CALIBRATE,
    CALIBRATE_MANY,
    FEW,
    LEARNED_FEW,
    LEARNED_MANY,
    MANY,
    MORE,
)
from benchmarks.harness.results import ROOT
from benchmarks.harness.tables import table
from wmgym.data.executors import KINDS, make_executor
from wmgym.data.policy import MLPPolicy, PolicyCard, action_bounds
from wmgym.data.units import Executor, Unit
from wmgym.io import artifacts
from wmgym.io.progress import Advance
from wmgym.io.provenance import library_versions

POLICIES = ROOT / "policies"
SCORE_EPISODES, CHECK_EPISODES = 50, 10


@dataclass(frozen=True)
class Job:
    """One policy to make; every learning run has a seed of its own."""

    env_id: str
    name: str
    algorithm: str
    steps: int
    seed: int
    split: str
    hyperparameters: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return POLICIES / self.env_id / self.name


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", nargs="+", metavar="ENV", default=[*FEW, *MANY])
    parser.add_argument("--budget", type=int, metavar="STEPS", help="largest number of real steps of a run")
    parser.add_argument("--workers", type=int, help="processes; one a core by default")
    parser.add_argument("--executor", choices=KINDS, default="processes")
    parser.add_argument("--address", help="of a Ray cluster; auto is the one of this machine")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    if args.check:
        sys.exit(check(args.env))
    if not args.report:
        every = (job for env_id in args.env for job in jobs(env_id))
        wanted = [job for job in every if job.steps <= (args.budget or job.steps)]
        todo = [job for job in wanted if not artifacts.exists(job.path, kind="policy")]
        print(f"{len(wanted) - len(todo)} of {len(wanted)} done before", flush=True)
        where = make_executor(args.executor, workers=args.workers, address=args.address)
        make(sorted(todo, key=_cost, reverse=True), where)
    report()


def jobs(env_id: str) -> Iterator[Job]:
    """The pool of one env: made by hand first, then learned, of which every third is held out, and those
    that calibrate."""
    runs = (LEARNED_FEW.get(env_id, LEARNED_MANY), MORE.get(env_id, {}))
    learned = [(kind, steps) for each in runs for kind, every in each.items() for steps in every]
    by_hand = BY_HAND if env_id in MANY else BY_HAND[:3]
    kinds = [(kind, 0, "") for kind in by_hand] + [(kind, steps, "") for kind, steps in learned]
    only = CALIBRATE.get(env_id, CALIBRATE_MANY)
    kinds += [(kind, steps, "calibration") for kind, every in only.items() for steps in every]
    for index, (kind, steps, split) in enumerate(kinds):
        name = f"{kind.lower()}-{steps // 1000}k" if steps else kind
        yield Job(
            env_id,
            name,
            kind,
            steps,
            seed=zlib.crc32(f"{env_id}/{name}".encode()) % 1_000_000,
            split=split or ("held-out" if index % 3 == 2 else "pool"),
            hyperparameters=_hyperparameters(env_id, kind, steps) if steps else {},
        )


def make(todo: list[Job], executor: Executor) -> None:
    """Write each policy as it comes; a job that fails stops no other."""
    units = [Unit(f"{job.env_id}/{job.name}", job, job.seed) for job in todo]
    failed = 0
    for outcome in executor.map(produce, units, lambda *_: None):
        said = str(outcome.error) or type(outcome.error).__name__
        if outcome.value is not None:
            outcome.value.save(outcome.unit.item.path)
            said = f"{outcome.value.card.return_mean:,.1f} +- {outcome.value.card.return_std:,.1f}"
        failed += outcome.value is None
        print(f"{outcome.unit.name}: {said}", flush=True)
    if failed:
        sys.exit(f"{failed} failed; run the same command again")


def produce(unit: Unit[Job], advance: Advance) -> MLPPolicy:
    """Train or make one policy and score it in the real env."""
    job = unit.item
    policy = by_hand(job) if not job.steps else learn(job)
    score_seed = job.seed + 1
    scored = wmgym.collect(job.env_id, policy, episodes=SCORE_EPISODES, seed=score_seed, workers=1)
    card = PolicyCard(
        env_id=job.env_id,
        algorithm=job.algorithm,
        hyperparameters=job.hyperparameters,
        seed=job.seed,
        real_steps=job.steps,
        versions=library_versions(),
        return_mean=float(scored.returns.mean()),
        return_std=float(scored.returns.std(ddof=1)),
        episodes=SCORE_EPISODES,
        score_seed=score_seed,
        split=job.split,
    )
    return replace(policy, card=card)


def by_hand(job: Job) -> MLPPolicy:
    """A policy that learned nothing."""
    task = wmgym.make_task(job.env_id)
    assert isinstance(task.action_space, spaces.Box)
    rng = np.random.default_rng(job.seed)
    low, high = action_bounds(task.action_space)
    inputs, outputs = int(np.prod(task.observation_space.shape)), low.size
    half, middle = (high - low).ravel() / 2, (high + low).ravel() / 2

    def linear(gain: float, a: int, b: int) -> np.ndarray:
        return (rng.normal(size=(a, b)) * gain / np.sqrt(a)).astype(np.float32)

    zero = np.zeros(outputs, np.float32)
    if job.algorithm in ("constant", "leaning"):  # half torque, or all of it to one side
        sign = rng.choice([-0.5, 0.5], outputs) if job.algorithm == "constant" else np.ones(outputs)
        weights, biases = [np.zeros((inputs, outputs), np.float32)], [np.float32(middle + sign * half)]
    elif job.algorithm == "bang-bang":
        weights, biases = [linear(1e4, inputs, outputs)], [zero + middle]
    else:
        gain = 30.0 if job.algorithm == "noise-white" else 0.5
        weights = [linear(gain, inputs, 64), linear(2.0, 64, outputs) * half]
        biases = [rng.normal(size=64).astype(np.float32), zero + middle]
    return MLPPolicy(
        name=job.name, activation="tanh", head="clip", low=low, high=high,
        weights=tuple(np.float32(w) for w in weights), biases=tuple(np.float32(b) for b in biases),
    )  # fmt: skip


def learn(job: Job) -> MLPPolicy:
    """Train an SB3 agent in the real env."""
    import sb3_contrib
    import stable_baselines3
    import torch
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.utils import LinearSchedule
    from stable_baselines3.common.vec_env import VecEnv, VecNormalize

    from wmgym.agents.sb3.export import to_policy

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # the moments of dead units decay into numbers that are slow to add
    build = getattr(sb3_contrib if job.algorithm == "TQC" else stable_baselines3, job.algorithm)
    keywords = dict(job.hyperparameters)
    venv: VecEnv = make_vec_env(job.env_id, keywords.pop("n_envs", 1), seed=job.seed)
    normalizer = None
    if job.algorithm == "PPO":
        keywords["learning_rate"] = LinearSchedule(keywords["learning_rate"], 0.0, 1.0)
        # Without clipping, the normalisation is linear and goes into the first layer exactly.
        venv = normalizer = VecNormalize(venv, gamma=keywords["gamma"], clip_obs=np.inf)
    model = build("MlpPolicy", venv, seed=job.seed, device="cpu", **keywords)
    return to_policy(model.learn(job.steps), job.name, normalizer=normalizer)


def _hyperparameters(env_id: str, algorithm: str, steps: int) -> dict[str, Any]:
    # Swimmer pays slowly: with the usual discount the best that is found is 40 to 60 (RL Baselines3 Zoo).
    gamma = 0.9999 if env_id == "Swimmer-v5" else 0.99
    if algorithm == "PPO":
        long = steps > 500_000
        return {
            "n_envs": 16 if long else 8, "n_steps": 256, "batch_size": 512 if long else 256, "n_epochs": 10,
            "learning_rate": 3e-4, "gamma": gamma, "gae_lambda": 0.95,
        }  # fmt: skip
    small: dict[str, Any] = {
        "gamma": gamma, "learning_starts": 1_000, "policy_kwargs": {"net_arch": [256, 256]},
    }  # fmt: skip
    if steps <= 10_000:
        return small
    # A long run is bound by its updates, not by MuJoCo: one for every two real steps.
    return small | {"n_envs": 4, "gradient_steps": 2, "batch_size": 128, "learning_rate": 7e-4}


def _cost(job: Job) -> float:
    """Relative cost."""
    return job.steps * {"PPO": 0.05, "SAC": 1.0, "TQC": 1.4, "TD3": 0.6}.get(job.algorithm, 0.0)


def pool(env_id: str) -> list[MLPPolicy]:
    """All policies of one env, weakest first."""
    found = [wmgym.load_policy(path.parent) for path in (POLICIES / env_id).glob("*/manifest.json")]
    return sorted(found, key=lambda policy: policy.card.return_mean if policy.card else 0.0)


def check(env_ids: list[str]) -> int:
    """Score every policy again on fresh seeds; 0 where all are as they say."""
    bad = 0
    for env_id in env_ids:
        for policy in pool(env_id):
            low, high = stated_interval(policy)
            assert policy.card is not None
            seed = policy.card.score_seed + 1
            fresh = wmgym.collect(env_id, policy, episodes=CHECK_EPISODES, seed=seed, workers=1)
            mean = float(fresh.returns.mean())
            bad += not low <= mean <= high
            verdict = "as stated" if low <= mean <= high else "NOT AS STATED"
            print(f"{env_id}/{policy.name}: {mean:,.1f} in [{low:,.1f}, {high:,.1f}]: {verdict}", flush=True)
    return int(bad > 0)


def stated_interval(policy: MLPPolicy) -> tuple[float, float]:
    """99.99 % prediction interval for the mean of the check's episodes, by Student's t."""
    import scipy.stats

    card = policy.card
    assert card is not None, f"{policy.name} says nothing of itself"
    spread = card.return_std * np.sqrt(1 / card.episodes + 1 / CHECK_EPISODES)
    width = float(scipy.stats.t.ppf(1 - 0.5e-4, card.episodes - 1) * spread) + 1e-6 * abs(card.return_mean)
    return card.return_mean - width, card.return_mean + width


def report() -> None:
    """Write ``policies/README.md`` and the picture of the spread."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    env_ids = sorted(path.name for path in POLICIES.iterdir() if path.is_dir())
    figure, axes = plt.subplots(len(env_ids), 1, figsize=(9, 0.9 * len(env_ids) + 0.6), squeeze=False)
    aims = []
    for env_id, aim in AIMS.items():
        for policy in pool(env_id)[-1:]:
            assert policy.card is not None
            aims.append([env_id, f"{aim:,}", f"{policy.card.return_mean:,.0f}", policy.name])
    lines = [
        "# Reference policies",
        "",
        "Trained in real MuJoCo, one run each, by `python -m tools.train_policies`; returns are means",
        f"and standard deviations of {SCORE_EPISODES} episodes. `wmgym.load_policy` reads one. Policies for",
        "calibration enter no fit, held-out ones neither a fit nor a calibration of anything that ships.",
        "",
        "![Mean return of every policy](spread.png)",
        "",
        table(["env", "aimed at", "best", "policy"], aims),
        "",
    ]
    for (axis,), env_id in zip(axes, env_ids, strict=True):
        policies = pool(env_id)
        cards = [(policy.name, policy.card) for policy in policies if policy.card is not None]
        values = [card.return_mean for _, card in cards]
        gap = max((b - a for a, b in pairwise(values)), default=0.0)
        held = sum(card.split == "held-out" for _, card in cards)
        lines += [
            f"## {env_id}",
            "",
            f"{len(cards)} policies, {held} of them held out; largest gap between neighbours {gap:,.1f}.",
            "",
            table(
                ["policy", "algorithm", "real steps", "return", "split"],
                [
                    [name, card.algorithm, f"{card.real_steps:,}",
                     f"{card.return_mean:,.1f} ± {card.return_std:,.1f}", card.split]
                    for name, card in cards
                ],
            ),
            "",
        ]  # fmt: skip
        for split, color in (("pool", "tab:blue"), ("calibration", "tab:green"), ("held-out", "tab:orange")):
            chosen = [card for _, card in cards if card.split == split]
            axis.errorbar(
                [card.return_mean for card in chosen],
                np.zeros(len(chosen)),
                xerr=[card.return_std for card in chosen],
                fmt="o", color=color, alpha=0.7, label=split,
            )  # fmt: skip
        axis.set_yticks([])
        axis.set_ylabel(env_id.removesuffix("-v5"), rotation=0, ha="right", va="center")
    axes[0, 0].legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    axes[-1, 0].set_xlabel("mean return, one standard deviation of episodes")
    figure.tight_layout()
    figure.savefig(POLICIES / "spread.png", dpi=110)
    (POLICIES / "README.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
