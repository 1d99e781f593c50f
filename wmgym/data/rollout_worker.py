"""Real envs side by side: step them by policies, check every step, record whole episodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import spaces

from wmgym.data.policy import PolicyFn, apply_policy, random_actions
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
class Group:
    """Envs stepped side by side in one process; stream ``s`` runs episodes ``s``, ``s + stride``, ..."""

    task: Task
    policies: Mapping[str, PolicyFn | None]
    streams: tuple[int, ...]
    stride: int
    steps: int | None  # for each stream
    episodes: int | None  # over all streams
    limit: int | None  # steps of an episode
    seed: int
    noise: float
    switch_every: int | None  # mean number of steps that a policy acts for; None for the whole episode


@dataclass
class Episode:
    """One episode as it is recorded: rows, then columns once it is over.

    Attributes:
        policy: name on the record.
        acting: the policy that acts now.
    """

    index: int
    policy: str
    acting: str
    seed: int
    rng: np.random.Generator
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    columns: tuple[np.ndarray, ...] = ()

    def __len__(self) -> int:
        return len(self.columns[0])


class Stream:
    """One real env: knows the episode it is in and checks every step."""

    def __init__(self, group: Group, index: int) -> None:
        self.env, self.task = group.task.make(), group.task
        self.group, self.left = group, group.steps
        self.finished: list[Episode] = []
        self.data: Any = getattr(self.env.unwrapped, "data", None)
        self.active = self._start(index)

    def _start(self, index: int) -> bool:
        if self.left == 0 or (self.group.episodes is not None and index >= self.group.episodes):
            return False
        source = np.random.SeedSequence((self.group.seed, index))
        names = list(self.group.policies)
        acting = names[index % len(names)]
        self.episode = Episode(
            index=index,
            policy=acting if self.group.switch_every is None else "switching",
            acting=acting,
            seed=int(source.generate_state(1)[0]),
            rng=np.random.default_rng(source.spawn(1)[0]),
        )
        obs, _ = self.env.reset(seed=self.episode.seed)
        self.obs = np.array(obs)  # a copy, for the env may write into its own
        self._look(0.0)
        return True

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
            f"episode {self.episode.index} (reset seed {self.episode.seed}, policy {self.episode.policy!r}), "
            f"step {len(self.episode.rows)}: {why}; limit the actions or mend the env before fitting to it"
        )

    def step(self, action: Any) -> None:
        """One env step; at an episode's end, record it and reset for the next."""
        obs, core, before = self.obs, self.core, self.unobserved
        shown, reward, terminated, truncated, _ = self.env.step(action)
        self.obs = np.array(shown)
        row = [obs, action, reward, self.obs, terminated, truncated]
        self.episode.rows.append(())  # so that an error names this step
        self._look(float(reward))
        self.left = None if self.left is None else self.left - 1
        cut = self.left == 0 or len(self.episode.rows) == self.group.limit
        row[5] = (truncated or cut) and not terminated
        self.episode.rows[-1] = (*row, core, self.core, self.task.unobserved_over(before, self.unobserved))
        if terminated or row[5]:
            self.episode.columns = tuple(np.array(column) for column in zip(*self.episode.rows, strict=True))
            self.episode.rows = []  # arrays cross a process boundary far faster than rows
            self.finished.append(self.episode)
            self.active = self._start(self.episode.index + self.group.stride)


def run_group(group: Group, advance: Advance) -> list[Episode]:
    """All episodes of a group, from its first reset to its last step."""
    streams: list[Stream] = []
    try:
        streams.extend(Stream(group, index) for index in group.streams)
        while live := [stream for stream in streams if stream.active]:
            for stream, action in zip(live, _act(group, live), strict=True):
                stream.step(action)
            advance(len(live))
        return [episode for stream in streams for episode in stream.finished]
    finally:
        for stream in streams:
            stream.env.close()


def _act(group: Group, live: list[Stream]) -> list[np.ndarray]:
    space = group.task.action_space
    actions: list[Any] = [None] * len(live)
    if group.switch_every is not None:
        names = list(group.policies)
        for episode in (stream.episode for stream in live):
            if episode.rng.random() * group.switch_every < 1:
                episode.acting = names[episode.rng.integers(len(names))]
    for name, policy in group.policies.items():
        rows = [i for i, stream in enumerate(live) if stream.episode.acting == name]
        if not rows:
            continue
        if policy is None:
            chosen = np.concatenate([random_actions(space, live[i].episode.rng, 1) for i in rows])
        else:
            chosen = apply_policy(policy, np.stack([live[i].obs for i in rows]))
            _require_usable(name, chosen, len(rows), space)
        for i, action in zip(rows, chosen, strict=True):
            actions[i] = action
    if isinstance(space, spaces.Discrete):
        return actions
    if group.noise:
        half = (space.high - space.low) / 2
        for i, stream in enumerate(live):
            actions[i] = actions[i] + group.noise * half * stream.episode.rng.normal(size=space.shape)
    return [np.clip(action, space.low, space.high).astype(space.dtype) for action in actions]


def _require_usable(name: str, chosen: np.ndarray, n: int, space: spaces.Box | spaces.Discrete) -> None:
    if isinstance(space, spaces.Discrete) and chosen.dtype.kind not in "iu":
        raise ValueError(f"policy {name!r} gave actions of type {chosen.dtype}, not integers")
    expected = (n, *(space.shape or ()))
    if chosen.shape != expected or not np.isfinite(chosen).all():
        raise ValueError(
            f"policy {name!r} gave actions of shape {chosen.shape}, or not finite ones; expected {expected}"
        )
