"""What the real env does from a snapshot, given actions, or from states that it is put into."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from wmgym.data.acting import Actor
from wmgym.data.joining import concat
from wmgym.data.policy import PolicyFn
from wmgym.data.steps import Episode, Recorder, Step, columns, from_episodes
from wmgym.data.transitions import Transitions
from wmgym.tasks.ground_truth import Snapshot, restore, to_mujoco
from wmgym.tasks.task import Task


def branch(
    task: Task, at: Snapshot, actions: np.ndarray, env: gym.Env[Any, Any] | None = None
) -> Transitions:
    """What the real env does from a snapshot, given actions; ends early where the env does.

    Args:
        task: the task of the env that was snapshot.
        at: where to start.
        actions: ``(steps, *action_shape)``.
        env: a live env of the task to use and leave wherever it ends; None makes one.
    """
    if env is None:
        return fork(task, at, [actions])
    restore(env, at)
    unwrapped: Any = env.unwrapped
    return record(task, env, task.flat(unwrapped._get_obs()), actions)


def record(task: Task, env: gym.Env[Any, Any], obs: Any, actions: np.ndarray) -> Transitions:
    """What a live env, which has just returned ``obs``, does given actions; ends early where the env does."""
    recorder = Recorder(task, env)
    recorder.look(obs)
    steps: list[Step] = []
    for action in actions:
        steps.append(recorder.step(action))
        if steps[-1].terminated or steps[-1].truncated:
            break
    steps[-1] = steps[-1]._replace(truncated=not steps[-1].terminated)
    return from_episodes(task, [Episode(0, "actions", -1, columns(steps))])


def fork(task: Task, at: Snapshot, plans: Sequence[np.ndarray]) -> Transitions:
    """``branch`` for several sequences of actions, one episode each."""
    with contextlib.closing(task.make()) as env:
        env.reset(seed=0)
        return concat([branch(task, at, actions, env) for actions in plans])


def can_be_put(task: Task) -> bool:
    """Whether the task's env can be put into any state and remembers nothing beside it.

    Envs of one's own may remember more than their state, and that cannot be put into them.
    """
    if not task.from_table or task.core.to_mujoco is None:
        return False
    with contextlib.closing(task.make()) as env:
        return getattr(env.unwrapped, "_drive", None) is None  # a changed robot's delay and play


def from_states(
    task: Task, policy: PolicyFn, name: str, cores: np.ndarray, steps: int, *, seed: int = 0
) -> tuple[Transitions | None, int]:
    """Short real episodes of a policy from states that its env is put into, and how many steps they took.

    There are none where all end at once.

    They are recorded from the second step on: what an env shows is in part of the step before. Those of which
    MuJoCo warns are left out: bodies may be inside each other.

    Args:
        task: of an env that ``can_be_put``.
        policy: acts in it.
        name: the policy's.
        cores: ``(n, core_dim)``, a state for each episode.
        steps: of each episode, unless it ends.
        seed: of the resets before.
    """
    episodes, actor, taken = list[Episode](), Actor(policy, task), 0
    with contextlib.closing(task.make()) as env:
        unwrapped: Any = env.unwrapped
        recorder = Recorder(task, env)

        def step(index: int) -> Step:
            return recorder.step(actor(recorder.obs[None], [index])[0])

        for index, core in enumerate(cores):
            env.reset(seed=seed + index)
            unwrapped.set_state(*to_mujoco(task, np.asarray(core, np.float64)))
            recorder.look(task.flat(unwrapped._get_obs()))
            recorded, ended = list[Step](), step(index).terminated
            while not ended and len(recorded) < steps:
                recorded.append(step(index))
                ended = recorded[-1].terminated
            taken += 1 + len(recorded)
            if recorded and not unwrapped.data.warning.number.any():
                recorded[-1] = recorded[-1]._replace(truncated=not ended)
                episodes.append(Episode(index, name, -1, columns(recorded)))
    return (from_episodes(task, episodes) if episodes else None), taken
