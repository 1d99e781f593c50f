"""Score policies in the real env and in imagination from the same start states."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from wmgym import drift, store
from wmgym.collecting import collect
from wmgym.dynamics import Mode
from wmgym.progress import track
from wmgym.streams import PolicyFn, apply_policy, random_actions
from wmgym.vector_env import ImaginedVectorEnv
from wmgym.world import WorldModel

RANDOM = "random"


@dataclass(frozen=True)
class PolicyScore:
    """One policy, real beside imagined; returns are undiscounted, per episode, from the same start states.

    Attributes:
        name: the policy.
        real_mean: mean return in the real env.
        real_interval: its 95 % bootstrap interval.
        imagined_mean: mean return in imagination.
        imagined_interval: its 95 % bootstrap interval.
        gap: imagined minus real mean, as a share of the best policy's real mean minus the random policy's.
        gap_interval: 95 % bootstrap interval of that, pairing episodes by start state.
        real_length: mean steps of a real episode.
        imagined_length: mean steps of an imagined one.
        diverged: share of imagined episodes that left the range of the data.
        coverage: share of errors inside the world's bounds when the real episodes' actions are replayed open
            loop; None where the world has no bounds.
        stale: that is too little to be chance, so the bounds no longer hold for this policy.
        real_returns: each real episode's return.
        imagined_returns: each imagined episode's return, in the same order.
    """

    name: str
    real_mean: float
    real_interval: tuple[float, float]
    imagined_mean: float
    imagined_interval: tuple[float, float]
    gap: float
    gap_interval: tuple[float, float]
    real_length: float
    imagined_length: float
    diverged: float
    coverage: float | None
    stale: bool
    real_returns: tuple[float, ...]
    imagined_returns: tuple[float, ...]

    @property
    def advice(self) -> str | None:
        """What to do about stale bounds."""
        if not self.stale:
            return None
        return (
            f"bounds are stale, they held for {self.coverage:.0%} of its errors; "
            "calibrate(world, new_episodes, update=True) adapts them"
        )


@dataclass(frozen=True)
class GapReport:
    """How far returns in imagination are from real ones.

    Attributes:
        env_id: the real env.
        episodes: episodes a policy, on either side.
        seed: decides start states and draws.
        scores: one entry a policy, best real mean first; the random policy is always among them.
        real_steps: real env steps this took.
        imagined_steps: imagined env steps this took.
    """

    env_id: str
    episodes: int
    seed: int
    scores: tuple[PolicyScore, ...]
    real_steps: int
    imagined_steps: int

    def __getitem__(self, name: str) -> PolicyScore:
        """The score of one policy."""
        for entry in self.scores:
            if entry.name == name:
                return entry
        raise KeyError(f"no policy {name!r}; scored were {[entry.name for entry in self.scores]}")

    def __str__(self) -> str:
        """One line a policy: real beside imagined."""
        lines = [f"{self.env_id}, {self.episodes} episodes a policy, mean return [95 % interval]"]
        for entry in self.scores:
            real, imagined = (
                f"{mean:,.1f} [{low:,.1f}, {high:,.1f}]"
                for mean, (low, high) in (
                    (entry.real_mean, entry.real_interval),
                    (entry.imagined_mean, entry.imagined_interval),
                )
            )
            lines.append(f"{entry.name}: real {real}, imagined {imagined}, gap {100 * entry.gap:+.1f} %")
        lines += [f"{entry.name}: {advice}" for entry in self.scores if (advice := entry.advice)]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """JSON values only."""
        return asdict(self)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write as a JSON file."""
        return store.write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> GapReport:
        """Read what ``save`` wrote."""
        document = store.read_json(path)
        try:
            entries: list[dict[str, Any]] = document.pop("scores")
            scores = tuple(PolicyScore(**_tuples(entry)) for entry in entries)
            return cls(scores=scores, **document)
        except (KeyError, TypeError, AttributeError) as error:
            raise store.StoreError(
                f"{path}: not a gap report of this version of wmgym; score again"
            ) from error


def _tuples(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}


def score(
    world: WorldModel,
    policies: Mapping[str, PolicyFn],
    real_episodes: int = 20,
    seed: int = 0,
    *,
    mode: Mode = "member",
    workers: int | None = None,
    progress: bool = False,
) -> GapReport:
    """Run every policy, and the random one, for whole episodes in the real env and in imagination.

    Args:
        world: the learned simulator.
        policies: callables by name; each takes a batch of observations.
        real_episodes: episodes a policy on either side; imagined ones start from the real ones' start states.
        seed: decides start states and all draws.
        mode: of the imagined env; see ``WorldModel.step``.
        workers: processes for the real env; None uses every core where that pays.
        progress: show a bar on a terminal.

    Raises:
        ValueError: no policies, or a policy of the reserved name "random".
    """
    if not policies or RANDOM in policies:
        raise ValueError(f"pass at least one policy by name; {RANDOM!r} is reserved for the baseline")
    if real_episodes < 2:
        raise ValueError(f"an interval needs at least 2 episodes, got real_episodes={real_episodes}")
    runs, fresh = {}, dict[str, drift.Freshness | None]()
    entrants: dict[str, PolicyFn | None] = {**policies, RANDOM: None}
    for name, policy in entrants.items():
        real = collect(
            world.task, {name: policy}, episodes=real_episodes, seed=seed, workers=workers, progress=progress
        )
        runs[name] = (
            real.returns,
            real.lengths,
            *_imagine(world, policy, real.state[real.first], seed, mode, progress),
        )
        fresh[name] = None if world.calibration is None else drift.check(world, real, mode, seed)
    random_mean = runs[RANDOM][0].mean()
    spread = max(returns.mean() for returns, *_ in runs.values()) - random_mean
    scale = float(spread) if spread > 0 else max(abs(float(random_mean)), 1.0)
    scores = [_compare(name, *run, fresh[name], scale, seed) for name, run in runs.items()]
    return GapReport(
        env_id=world.task.env_id,
        episodes=real_episodes,
        seed=seed,
        scores=tuple(sorted(scores, key=lambda entry: -entry.real_mean)),
        real_steps=int(sum(run[1].sum() for run in runs.values())),
        imagined_steps=int(sum(run[3].sum() for run in runs.values())),
    )


def mean_interval(values: np.ndarray, seed: int) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean."""
    found = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=2_000, rng=np.random.default_rng(seed)
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def _imagine(
    world: WorldModel, policy: PolicyFn | None, starts: np.ndarray, seed: int, mode: Mode, progress: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns, lengths and divergence ``(n,)`` of one imagined episode from each start."""
    env = ImaginedVectorEnv(world, len(starts), mode=mode)
    obs, _ = env.reset(seed=seed, options={"state": starts})
    rng = np.random.default_rng(seed)
    returns, lengths, diverged = (
        np.zeros(len(starts)),
        np.zeros(len(starts), np.int64),
        np.zeros(len(starts), bool),
    )
    going = np.ones(len(starts), bool)
    limit = env.max_episode_steps
    if limit is None:
        raise ValueError("the task has no time limit to score whole episodes by; make the env with one")
    with track("imagine", limit, show=progress) as advance:
        while going.any():
            if policy is None:
                action = random_actions(world.task.action_space, rng, len(starts))
            else:
                action = apply_policy(policy, obs)
            obs, reward, terminated, truncated, infos = env.step(action)
            returns += reward * going
            lengths += going
            diverged |= going & infos.get("final_info", infos)["diverged"].astype(bool)
            going &= ~(terminated | truncated)
            advance(1)
    return returns, lengths, diverged


def _compare(
    name: str,
    real: np.ndarray,
    real_lengths: np.ndarray,
    imagined: np.ndarray,
    imagined_lengths: np.ndarray,
    diverged: np.ndarray,
    fresh: drift.Freshness | None,
    scale: float,
    seed: int,
) -> PolicyScore:
    difference = (imagined - real) / scale
    return PolicyScore(
        name=name,
        real_mean=float(real.mean()),
        real_interval=mean_interval(real, seed),
        imagined_mean=float(imagined.mean()),
        imagined_interval=mean_interval(imagined, seed),
        gap=float(difference.mean()),
        gap_interval=mean_interval(difference, seed),
        real_length=float(real_lengths.mean()),
        imagined_length=float(imagined_lengths.mean()),
        diverged=float(diverged.mean()),
        coverage=None if fresh is None else fresh.coverage,
        stale=fresh is not None and fresh.stale,
        real_returns=tuple(real.tolist()),
        imagined_returns=tuple(imagined.tolist()),
    )
