"""Collect transitions from the real env: exact seeds, every step checked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from wmgym.data.executors import _run_all
from wmgym.data.policy import PolicyFn
from wmgym.data.pool import as_policies, is_pool
from wmgym.data.rollout_worker import Group
from wmgym.data.transitions import Transitions, concat, from_steps
from wmgym.io.progress import track
from wmgym.tasks.task import EnvFactory, Task, make_task

_STREAMS = 8  # envs side by side
_GROUP = 4  # envs that share a policy call; fixed, so that results do not depend on the number of processes
_STEPS_WORTH_A_PROCESS = 4_000


def collect(
    env: str | EnvFactory | Task,
    policy: Any = None,
    *,
    steps: int | None = None,
    episodes: int | None = None,
    seed: int = 0,
    noise: float = 0.0,
    switch_every: int | None = None,
    max_episode_steps: int | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> Transitions:
    """Run policies in the real env for exactly ``steps`` steps, or for ``episodes`` whole episodes.

    Episode ``i`` is reset with a seed drawn from ``(seed, i)`` and policies are called on fixed groups of
    envs, so the result does not depend on ``workers`` as long as the policies have no random state of their
    own.

    Args:
        env: an id, a function that makes the env, or a task.
        policy: None for uniform random actions; a function of a batch of observations; an object with
            ``predict``, such as an SB3 model; the path of a saved policy; a mapping of these by name, which
            take turns by episode; or the path of a directory of saved policies, which each take an equal
            number of steps or episodes and of which those held out stay out (``wmgym.load_pool`` gives
            them by name).
        steps: total number of env steps; the last episodes are cut to meet it.
        episodes: number of episodes instead, each run to its end.
        seed: decides resets, random actions and noise.
        noise: standard deviation of Gaussian action noise, as a share of half the action range (Box only).
        switch_every: mean number of steps after which another of the policies takes over, whichever the draw
            names, within an episode. A fit to the states between two gaits knows far more policies than one
            to the gaits alone.
        max_episode_steps: cut episodes after this many steps, earlier than the env's own limit.
        workers: processes; None uses every core where the job is long enough to pay for starting them.
        progress: show a bar on a terminal.

    Raises:
        CollectError: a MuJoCo warning, a value that is not finite, or an observation outside its space.
        ValueError: a bad argument.
    """
    task = env if isinstance(env, Task) else make_task(env)
    if (steps is None) == (episodes is None) or (steps or episodes or 0) < 1:
        raise ValueError("pass either steps= or episodes=, at least 1")
    if not noise >= 0 or (noise > 0 and not isinstance(task.action_space, spaces.Box)):
        raise ValueError("noise must be >= 0, and 0 for Discrete actions")
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    if switch_every is not None and switch_every < 1:
        raise ValueError(f"switch_every must be at least 1, got {switch_every}")
    policies = as_policies(policy)
    if is_pool(policy) and switch_every is None:
        return _collect_pool(
            task,
            policies,
            steps,
            episodes,
            seed,
            noise=noise,
            max_episode_steps=max_episode_steps,
            workers=workers,
            progress=progress,
        )
    if max_episode_steps is not None and max_episode_steps < 1:
        raise ValueError(f"max_episode_steps must be at least 1, got {max_episode_steps}")
    limit = min((x for x in (max_episode_steps, task.max_episode_steps) if x is not None), default=None)
    if episodes is not None and limit is None:
        raise ValueError("episodes= needs an env with a time limit; pass max_episode_steps= or steps=")
    plan = _plan(task, policies, steps, episodes, limit, seed, noise, switch_every)
    expected = steps if steps is not None else (episodes or 0) * (limit or 0)
    if workers is None:
        workers = os.cpu_count() or 1 if expected >= _STEPS_WORTH_A_PROCESS else 1
    with track("collect", expected, show=progress) as advance:
        done = _run_all(plan, workers, advance)
    done.sort(key=lambda episode: episode.index)
    return from_steps(
        task,
        [episode.columns for episode in done],
        seeds=tuple(episode.seed for episode in done),
        policies=tuple(episode.policy for episode in done),
    )


def _collect_pool(
    task: Task,
    pool: Mapping[str, PolicyFn | None],
    steps: int | None,
    episodes: int | None,
    seed: int,
    **rest: Any,
) -> Transitions:
    """Each policy its share, the first ones one more where it does not divide."""
    total = steps or episodes or 0
    if total < len(pool):
        raise ValueError(f"{total} steps or episodes are too few for {len(pool)} policies; ask for more")
    parts = []
    for index, (name, policy) in enumerate(pool.items()):
        share = total // len(pool) + (index < total % len(pool))
        own = int(np.random.SeedSequence((seed, index)).generate_state(1)[0])
        own_steps, own_episodes = (share, None) if episodes is None else (None, share)
        parts.append(collect(task, {name: policy}, steps=own_steps, episodes=own_episodes, seed=own, **rest))
    return concat(parts)


def _plan(
    task: Task,
    policies: Mapping[str, PolicyFn | None],
    steps: int | None,
    episodes: int | None,
    limit: int | None,
    seed: int,
    noise: float,
    switch_every: int | None,
) -> list[Group]:
    if steps is not None:  # a divisor of steps that leaves each stream a whole episode or more
        most = min(_STREAMS, max(1, steps // (limit or steps)))
        stride = next(n for n in range(most, 0, -1) if steps % n == 0)
    else:
        stride = min(_STREAMS, episodes or 1)
    each = None if steps is None else steps // stride
    size = min(_GROUP, -(-stride // 2))
    return [
        Group(
            task,
            policies,
            tuple(range(at, min(at + size, stride))),
            stride,
            each,
            episodes,
            limit,
            seed,
            noise,
            switch_every,
        )
        for at in range(0, stride, size)
    ]
