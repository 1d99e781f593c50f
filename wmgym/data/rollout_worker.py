"""Real envs side by side: step them by policies, check every step, record whole episodes."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from wmgym.data.acting import Actor, PolicyError, naming
from wmgym.data.policy import PolicyFn
from wmgym.data.steps import Episode, Recorder, Step, StepError, columns
from wmgym.data.units import Unit
from wmgym.io.progress import Advance
from wmgym.tasks.actions import uniform
from wmgym.tasks.mjcf.simulation import simulation
from wmgym.tasks.task import Task

MUJOCO_WARNINGS = (
    "inertia is singular", "contact buffer full", "constraint buffer full",
    "position is not finite or too large", "velocity is not finite or too large",
    "acceleration is not finite or too large", "control is not finite",
)  # fmt: skip
"""What MuJoCo's warning counters count, in their order."""


class CollectError(RuntimeError):
    """The real env returned data that no model should be fitted to; names the episode and the step."""


class Watch:
    """Lets a parent see how long an env in a forked child has been busy with one call."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._call = multiprocessing.get_context("fork").RawArray("d", 3)  # when it began or 0, episode, step

    def begin(self, episode: int, step: int) -> None:
        """In the child: the env is called next."""
        self._call[:] = time.monotonic(), episode, step

    def end(self) -> None:
        """In the child: it has returned."""
        self._call[0] = 0.0

    def check(self) -> None:
        """In the parent: raise ``CollectError`` where the call takes longer than allowed."""
        began, episode, step = self._call
        if began and time.monotonic() - began > self.seconds:
            raise CollectError(
                f"episode {episode:.0f}, step {step:.0f}: the env has not returned for step_timeout="
                f"{self.seconds:g} seconds; mend it, or allow more"
            )


@dataclass(frozen=True)
class Rollout:
    """Episodes to collect; stream ``s`` of ``streams`` runs episodes ``s``, ``s + streams``, ...

    Attributes:
        task: the real env.
        policies: by name; episodes take turns.
        steps: of each stream; None for whole episodes.
        episodes: over all streams; None for steps.
        max_episode_steps: where an episode is cut; None leaves it to the env.
        seed: decides resets, random actions and noise.
        noise: standard deviation of action noise, in half action ranges.
        switch_every: mean number of steps that a policy acts for; None for the whole episode.
        streams: envs stepped side by side.
        group: those of them that share policy calls and are stepped in one process.
        watch: told of every call of an env; None where none may hang.
    """

    task: Task
    policies: Mapping[str, PolicyFn | None]
    steps: int | None
    episodes: int | None
    max_episode_steps: int | None
    seed: int
    noise: float
    switch_every: int | None
    streams: int = 1
    group: tuple[int, ...] = (0,)
    watch: Watch | None = None


def reset_seed(seed: int, index: int) -> int:
    """The seed that episode ``index`` of a rollout is reset with."""
    return int(np.random.SeedSequence((seed, index)).generate_state(1)[0])


def run_group(unit: Unit[Rollout], advance: Advance) -> list[Episode]:
    """All episodes of a rollout's group, from its first reset to its last step."""
    rollout = unit.item
    streams: list[_Stream] = []
    actors = {}
    for name, policy in rollout.policies.items():
        if policy is not None:
            with naming(name):
                actors[name] = Actor(policy, rollout.task)
    try:
        streams.extend(_Stream(rollout, index) for index in rollout.group)
        while live := [stream for stream in streams if stream.active]:
            for stream, action in zip(live, _act(rollout, live, actors), strict=True):
                stream.step(action)
            advance(len(live))
        return [episode for stream in streams for episode in stream.finished]
    finally:
        for stream in streams:
            stream.env.close()


class _Stream:
    """One real env: knows the episode it is in and checks every step."""

    def __init__(self, rollout: Rollout, index: int) -> None:
        self.rollout, self.env = rollout, rollout.task.make()
        self.recorder = Recorder(rollout.task, self.env)
        self.left = rollout.steps
        self.finished: list[Episode] = []
        self.active = self._start(index)

    def _start(self, index: int) -> bool:
        """Reset for an episode, unless there is no more to do."""
        rollout = self.rollout
        if self.left == 0 or (rollout.episodes is not None and index >= rollout.episodes):
            return False
        source = np.random.SeedSequence((rollout.seed, index))
        self.index, self.seed = index, reset_seed(rollout.seed, index)
        self.rng = np.random.default_rng(source.spawn(1)[0])
        names = list(rollout.policies)
        self.acting = names[index % len(names)]
        self.policy = self.acting if rollout.switch_every is None else "switching"
        self.turn = 0  # of the policies that act in this episode
        self.steps: list[Step] = []
        self._call(self.recorder.reset, self.seed)
        self.simulation = simulation(self.env)  # a reset may have made another
        self._check(0.0)
        return True

    def step(self, action: Any) -> None:
        """One env step; at an episode's end, record it and reset for the next."""
        step: Step = self._call(self.recorder.step, action)
        self.steps.append(step)
        self._check(step.reward)
        self.left = None if self.left is None else self.left - 1
        cut = step.truncated or self.left == 0 or len(self.steps) == self.rollout.max_episode_steps
        if step.terminated or cut:
            self.steps[-1] = step._replace(truncated=not step.terminated)
            imagined = bool(getattr(self.env.unwrapped, "imagined", False))
            self.finished.append(
                Episode(self.index, self.policy, self.seed, columns(self.steps), imagined, step.truncated)
            )
            self.active = self._start(self.index + self.rollout.streams)

    def _call(self, method: Callable[[Any], Any], argument: Any) -> Any:
        """A call of the env; what goes wrong there names the episode and the step."""
        watch = self.rollout.watch
        if watch is not None:
            watch.begin(self.index, len(self.steps))
        try:
            return method(argument)
        except StepError as error:
            raise CollectError(f"{self._here}: {error}") from error
        except Exception as error:
            said = " ".join(str(error).split())
            why = f"the env raised {type(error).__name__}{': ' * bool(said)}{said}"
            raise CollectError(f"{self._here}: {why}") from error
        finally:
            if watch is not None:
                watch.end()

    def _check(self, reward: float) -> None:
        """Refuse what no model should be fitted to."""
        obs, space = self.recorder.obs, self.rollout.task.observation_space
        if self.simulation is not None:
            counts = self.simulation[1].warning.number
            if counts.any():
                self._stop(f"MuJoCo warns: {MUJOCO_WARNINGS[int(np.argmax(counts > 0))]}")
        if not np.isfinite(obs).all():
            self._stop("the observation is not finite")
        if not np.isfinite(reward):
            self._stop("the reward is not finite")
        if not ((obs >= space.low) & (obs <= space.high)).all():
            self._stop("the observation is outside observation_space")

    def _stop(self, why: str) -> None:
        raise CollectError(f"{self._here}: {why}; limit the actions or mend the env before fitting to it")

    @property
    def _here(self) -> str:
        seed = f"reset seed {self.seed}, policy {self.policy!r}"
        return f"episode {self.index} ({seed}), step {len(self.steps)}"


def _act(rollout: Rollout, live: list[_Stream], actors: Mapping[str, Actor]) -> list[Any]:
    """An action for every stream; each policy is called once on all that it drives."""
    space = rollout.task.action_space
    actions: list[Any] = [None] * len(live)
    if rollout.switch_every is not None:
        names = list(rollout.policies)
        for stream in live:
            if stream.rng.random() * rollout.switch_every < 1:
                stream.acting = names[stream.rng.integers(len(names))]
                stream.turn += 1
    for name, policy in rollout.policies.items():
        rows = [i for i, stream in enumerate(live) if stream.acting == name]
        if not rows:
            continue
        if policy is None:
            chosen = np.concatenate([uniform(space, live[i].rng, 1) for i in rows])
        else:
            seen = np.stack([live[i].recorder.obs for i in rows])
            try:
                chosen = actors[name](seen, [(live[i].index, live[i].turn) for i in rows])
            except PolicyError as error:
                first = live[rows[0]]
                where = f"episode {first.index} (reset seed {first.seed}), step {len(first.steps)}"
                raise PolicyError(f"policy {name!r} {error}; {where}") from error
        for i, action in zip(rows, chosen, strict=True):
            actions[i] = action
    if not isinstance(space, spaces.Box):
        return actions
    if rollout.noise:
        half = (space.high - space.low) / 2
        for i, stream in enumerate(live):
            actions[i] = actions[i] + rollout.noise * half * stream.rng.normal(size=space.shape)
    return [np.clip(action, space.low, space.high).astype(space.dtype) for action in actions]
