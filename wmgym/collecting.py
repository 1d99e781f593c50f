"""Collect transitions from the real env: exact seeds, every step checked."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import Any

import numpy as np
from gymnasium import spaces

from wmgym.data import Transitions, concat, from_steps
from wmgym.policy import load_pool
from wmgym.progress import Advance, track
from wmgym.streams import Episode, Group, PolicyFn, run_group
from wmgym.task import EnvFactory, Task, make_task

_STREAMS = 8  # envs side by side
_GROUP = 4  # envs that share a policy call; fixed, so that results do not depend on the number of processes
_STEPS_WORTH_A_PROCESS = 4_000


def collect(
    env: str | EnvFactory | Task,
    policy: PolicyFn | Mapping[str, PolicyFn | None] | str | os.PathLike[str] | None = None,
    *,
    steps: int | None = None,
    episodes: int | None = None,
    seed: int,
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
        policy: one policy, several by name (episodes take turns), None for uniform random actions, or the
            directory of a pool, whose policies each take an equal number of steps or episodes; held-out ones
            stay out (``wmgym.load_pool`` gives them by name).
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
    if isinstance(policy, (str, os.PathLike)) and switch_every is not None:
        policy = load_pool(policy)
    if isinstance(policy, (str, os.PathLike)):
        return _collect_pool(
            task,
            load_pool(policy),
            steps,
            episodes,
            seed,
            noise=noise,
            max_episode_steps=max_episode_steps,
            workers=workers,
            progress=progress,
        )
    policies = dict(policy) if isinstance(policy, Mapping) else {_name(policy): policy}
    if not policies:
        raise ValueError("no policies in the mapping; pass at least one, or None for random actions")
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
    pool: Mapping[str, PolicyFn],
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


def _run_all(plan: list[Group], workers: int, advance: Advance) -> list[Episode]:
    if workers <= 1 or len(plan) == 1 or "fork" not in multiprocessing.get_all_start_methods():
        return [episode for group in plan for episode in run_group(group, advance)]
    done: list[list[Episode]] = []
    for at in range(0, len(plan), workers):
        done.extend(_run_forked(plan[at : at + workers], advance))
    return [episode for episodes in done for episode in episodes]


def _run_forked(plan: list[Group], advance: Advance) -> list[list[Episode]]:
    """Run every group in a process of its own; the first error stops them all.

    Each child has its own pipe: one that is killed while it sends cannot hold a lock that others wait for, as
    in ``multiprocessing.Pool``. Forked children inherit the policies, lambdas and closures included, and run
    no main module again.
    """
    context = multiprocessing.get_context("fork")
    children: dict[Connection, ForkProcess] = {}
    done: dict[Connection, list[Episode]] = {}
    try:
        for group in plan:
            mine, theirs = context.Pipe(duplex=False)
            child = context.Process(target=_report_group, args=(group, theirs), daemon=True)
            with warnings.catch_warnings():  # the children use none of their parent's threads
                warnings.filterwarnings("ignore", ".*multi-threaded, use of fork.* may lead to deadlocks")
                child.start()
            theirs.close()
            children[mine] = child
        while len(done) < len(plan):
            for ready in wait([mine for mine in children if mine not in done]):
                assert isinstance(ready, Connection)
                answer = _receive(ready)
                if isinstance(answer, BaseException):
                    raise answer
                done[ready] = answer
                advance(sum(len(episode) for episode in answer))
    finally:
        for mine, child in children.items():
            child.kill()
            child.join()
            mine.close()
    return [done[mine] for mine in children]


def _report_group(group: Group, to: Connection) -> None:
    """In the child: run a group and send its episodes, or what went wrong."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)  # never enter the parent's thread pool
    try:
        answer: Any = run_group(group, lambda amount, note="": None)
    except Exception as error:
        answer = error
    try:
        to.send(answer)
    except Exception:  # what cannot be pickled fails in many ways, and an error may hold anything
        to.send(RuntimeError(f"{type(answer).__name__}: {answer}"))


def _receive(ready: Connection) -> Any:
    try:
        return ready.recv()
    except EOFError:
        return RuntimeError("a process that collected died; is memory short?")


def _name(policy: PolicyFn | None) -> str:
    if policy is None:
        return "random"
    return str(getattr(policy, "name", None) or getattr(policy, "__name__", type(policy).__name__))
