"""Real envs side by side: step them by policies, check every step, record whole episodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from wmgym.data.policy import PolicyFn, apply_policy, random_actions
from wmgym.data.steps import Step, columns
from wmgym.io.progress import Advance
from wmgym.tasks.task import Task

MUJOCO_WARNINGS = (
    "inertia is singular", "contact buffer full", "constraint buffer full",
    "position is not finite or too large", "velocity is not finite or too large",
    "acceleration is not finite or too large", "control is not finite",
)  # fmt: skip
"""What MuJoCo's warning counters count, in their order."""


class CollectError(RuntimeError):
    """The real env returned data that no model should be fitted to; names the episode and the step."""


@dataclass(frozen=True)
class Rollout:
    """Episodes to collect; stream ``s`` of ``streams`` runs episodes ``s``, ``s + streams``, ...

    Attributes:
        task: the real env.
        policies: by name; episodes take turns.
        streams: envs stepped side by side.
        steps: of each stream; None for whole episodes.
        episodes: over all streams; None for steps.
        max_episode_steps: where an episode is cut; None leaves it to the env.
        seed: decides resets, random actions and noise.
        noise: standard deviation of action noise, in half action ranges.
        switch_every: mean number of steps that a policy acts for; None for the whole episode.
    """

    task: Task
    policies: Mapping[str, PolicyFn | None]
    streams: int
    steps: int | None
    episodes: int | None
    max_episode_steps: int | None
    seed: int
    noise: float
    switch_every: int | None


@dataclass(frozen=True)
class Group:
    """Some of a rollout's streams, which share policy calls and are run in one process."""

    rollout: Rollout
    streams: tuple[int, ...]


@dataclass(frozen=True)
class Episode:
    """One recorded episode: its number, the policy's name, the seed of its reset, and its columns."""

    index: int
    policy: str
    seed: int
    columns: Step


def run_group(group: Group, advance: Advance) -> list[Episode]:
    """All episodes of a group, from its first reset to its last step."""
    streams: list[_Stream] = []
    try:
        streams.extend(_Stream(group.rollout, index) for index in group.streams)
        while live := [stream for stream in streams if stream.active]:
            for stream, action in zip(live, _act(group.rollout, live), strict=True):
                stream.step(action)
            advance(len(live))
        return [episode for stream in streams for episode in stream.finished]
    finally:
        for stream in streams:
            stream.env.close()


class _Stream:
    """One real env: knows the episode it is in and checks every step."""

    def __init__(self, rollout: Rollout, index: int) -> None:
        self.rollout, self.task, self.env = rollout, rollout.task, rollout.task.make()
        self.left = rollout.steps
        self.finished: list[Episode] = []
        self.data: Any = getattr(self.env.unwrapped, "data", None)
        self.active = self._start(index)

    def _start(self, index: int) -> bool:
        """Reset for an episode, unless there is no more to do."""
        rollout = self.rollout
        if self.left == 0 or (rollout.episodes is not None and index >= rollout.episodes):
            return False
        source = np.random.SeedSequence((rollout.seed, index))
        self.index, self.seed = index, int(source.generate_state(1)[0])
        self.rng = np.random.default_rng(source.spawn(1)[0])
        names = list(rollout.policies)
        self.acting = names[index % len(names)]
        self.policy = self.acting if rollout.switch_every is None else "switching"
        self.taken = 0
        self.steps: list[Step] = []
        obs, _ = self.env.reset(seed=self.seed)
        self.obs = np.array(obs)  # a copy, for the env may write into its own
        self._look(0.0)
        return True

    def step(self, action: Any) -> None:
        """One env step; at an episode's end, record it and reset for the next."""
        obs, core, before = self.obs, self.core, self.unobserved
        next_obs, reward, terminated, truncated, _ = self.env.step(action)
        self.obs = np.array(next_obs)
        self.taken += 1
        self._look(float(reward))
        self.left = None if self.left is None else self.left - 1
        cut = truncated or self.left == 0 or self.taken == self.rollout.max_episode_steps
        truncated = cut and not terminated
        unobserved = self.task.unobserved_over(before, self.unobserved)
        self.steps.append(
            Step(obs, action, reward, self.obs, terminated, truncated, core, self.core, unobserved)
        )
        if terminated or truncated:
            self.finished.append(Episode(self.index, self.policy, self.seed, columns(self.steps)))
            self.active = self._start(self.index + self.rollout.streams)

    def _look(self, reward: float) -> None:
        """Check the step just taken and read the state behind it."""
        space = self.task.observation_space
        if hasattr(self.data, "warning"):  # a MujocoEnv; reading the counters needs no import of mujoco
            counts = self.data.warning.number
            if counts.any():
                self._stop(f"MuJoCo warns: {MUJOCO_WARNINGS[int(np.argmax(counts > 0))]}")
        if not np.isfinite(self.obs).all():
            self._stop("the observation is not finite")
        if not np.isfinite(reward):
            self._stop("the reward is not finite")
        if not ((self.obs >= space.low) & (self.obs <= space.high)).all():
            self._stop("the observation is outside observation_space")
        self.core = self.task.read_core(self.env, self.obs)
        self.unobserved = self.task.read_unobserved(self.env)

    def _stop(self, why: str) -> None:
        raise CollectError(
            f"episode {self.index} (reset seed {self.seed}, policy {self.policy!r}), step {self.taken}: "
            f"{why}; limit the actions or mend the env before fitting to it"
        )


def _act(rollout: Rollout, live: list[_Stream]) -> list[np.ndarray]:
    """An action for every stream; each policy is called once on all that it drives."""
    space = rollout.task.action_space
    actions: list[Any] = [None] * len(live)
    if rollout.switch_every is not None:
        names = list(rollout.policies)
        for stream in live:
            if stream.rng.random() * rollout.switch_every < 1:
                stream.acting = names[stream.rng.integers(len(names))]
    for name, policy in rollout.policies.items():
        rows = [i for i, stream in enumerate(live) if stream.acting == name]
        if not rows:
            continue
        if policy is None:
            chosen = np.concatenate([random_actions(space, live[i].rng, 1) for i in rows])
        else:
            chosen = apply_policy(policy, np.stack([live[i].obs for i in rows]))
            _require_usable(name, chosen, len(rows), space)
        for i, action in zip(rows, chosen, strict=True):
            actions[i] = action
    if isinstance(space, spaces.Discrete):
        return actions
    if rollout.noise:
        half = (space.high - space.low) / 2
        for i, stream in enumerate(live):
            actions[i] = actions[i] + rollout.noise * half * stream.rng.normal(size=space.shape)
    return [np.clip(action, space.low, space.high).astype(space.dtype) for action in actions]


def _require_usable(name: str, chosen: np.ndarray, n: int, space: spaces.Box | spaces.Discrete) -> None:
    if isinstance(space, spaces.Discrete) and chosen.dtype.kind not in "iu":
        raise ValueError(f"policy {name!r} gave actions of type {chosen.dtype}, not integers")
    expected = (n, *(space.shape or ()))
    if chosen.shape != expected or not np.isfinite(chosen).all():
        raise ValueError(
            f"policy {name!r} gave actions of shape {chosen.shape}, or not finite ones; expected {expected}"
        )
