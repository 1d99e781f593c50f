"""Collect transitions from the real env: exact seeds, every step checked."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium import spaces

from wmgym.data.checks import odd_rewards
from wmgym.data.executors import ProcessExecutor, chosen
from wmgym.data.joining import shown_otherwise
from wmgym.data.policy import PolicyFn
from wmgym.data.pool import as_policies, is_pool
from wmgym.data.processes import can_fork
from wmgym.data.rollout_worker import Rollout, Watch, run_group
from wmgym.data.steps import Episode, from_episodes
from wmgym.data.transitions import Transitions
from wmgym.data.units import Executor, Unit, in_order
from wmgym.io.arguments import count_or_none, number, whole_number
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
    executor: Executor | str | None = None,
    step_timeout: float | None = None,
    progress: bool = False,
) -> Transitions:
    """Run policies in the real env for exactly ``steps`` steps, or for ``episodes`` whole episodes.

    Episode ``i`` is reset with a seed drawn from ``(seed, i)`` and policies are called on fixed groups of
    envs, so the result depends neither on ``workers`` nor on ``executor`` as long as the policies have no
    random state of their own.

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
        max_episode_steps: cut episodes after this many steps, earlier than the env's own limit; where it has
            none, this is the limit of the world that is fitted to the data, unless the env cuts every episode
            itself after a number of steps.
        workers: processes; None uses every core where the job is long enough to pay for starting them. They
            are forked: where other threads of yours compute with torch meanwhile, a lock that one of them
            holds stays locked in a process for ever. Pass 1 there.
        executor: ``"serial"``, ``"processes"``, ``"ray"`` or what ``wmgym.make_executor`` made; None leaves
            it to ``workers``.
        step_timeout: seconds that one ``reset`` or ``step`` of the env may take; None waits for ever. The env
            then runs in a forked process whatever ``workers`` says, which is killed where it hangs;
            not together with ``executor``.
        progress: show a bar on a terminal.

    Raises:
        CollectError: a MuJoCo warning, a value that is not finite or of another type than Gymnasium asks for,
            an observation outside its space, or an env that hangs; names the episode and the step.
        ValueError: a bad argument.
    """
    task = env if isinstance(env, Task) else make_task(env)
    if task.robot is not None:
        from wmgym.data.describe import by_model  # imports MuJoCo

        task = by_model(task)
    if (steps is None) == (episodes is None):
        raise ValueError("pass either steps= or episodes=, at least 1")
    seed, noise = whole_number("seed", seed, least=0), number("noise", noise)
    if not noise >= 0 or (noise > 0 and not isinstance(task.action_space, spaces.Box)):
        raise ValueError("noise must be >= 0, and 0 for actions that are whole numbers")
    steps, episodes = count_or_none("steps", steps), count_or_none("episodes", episodes)
    switch_every, workers = count_or_none("switch_every", switch_every), count_or_none("workers", workers)
    max_episode_steps = count_or_none("max_episode_steps", max_episode_steps)
    if step_timeout is not None and not (number("step_timeout", step_timeout) > 0 and can_fork()):
        raise ValueError(f"step_timeout must be above 0, on a system that can fork, got {step_timeout}")
    if step_timeout is not None and executor is not None:
        raise ValueError("step_timeout= runs the env in processes of its own; leave executor= out")
    limit = min((x for x in (max_episode_steps, task.max_episode_steps) if x is not None), default=None)
    if episodes is not None and limit is None:
        raise ValueError("episodes= needs an env with a time limit; pass max_episode_steps= or steps=")
    if task.max_episode_steps is None and max_episode_steps is not None:
        task = replace(task, max_episode_steps=max_episode_steps)  # the only one that its episodes know
    policies = as_policies(policy)
    whole = Rollout(task, policies, steps, episodes, limit, seed, noise, switch_every)
    apart = is_pool(policy) and switch_every is None
    groups = [group for part in (_shares(whole) if apart else [whole]) for group in _groups(part)]
    expected = steps if steps is not None else (episodes or 0) * (limit or 0)
    found = _run(groups, expected, workers, executor, step_timeout, progress)
    names = list(policies)

    def place(episode: Episode) -> tuple[int, int]:
        return names.index(episode.policy) if apart else 0, episode.index

    recorded = sorted(itertools.chain.from_iterable(found), key=place)
    if task.max_episode_steps is None or max_episode_steps is not None:
        task = replace(task, max_episode_steps=_own_limit(recorded, task.max_episode_steps))
    data = from_episodes(task, recorded)
    if (otherwise := shown_otherwise(data)) is not None:
        warnings.warn(otherwise, stacklevel=2)
    if task.reward is not None and not task.from_table and (odd := odd_rewards(data)):
        warnings.warn(
            f"{odd}, and real returns the env's own: score would compare the two. Let the env pay the same, "
            "by gymnasium.wrappers.TransformReward for example",
            stacklevel=2,
        )
    return data


def _own_limit(episodes: list[Episode], limit: int | None) -> int | None:
    """The time limit of an env that cuts its episodes itself, without Gymnasium's ``TimeLimit``."""
    longest = max(len(episode.columns.obs) for episode in episodes)
    cut = {len(episode.columns.obs) for episode in episodes if episode.truncated}
    return longest if cut == {longest} else limit


def collect_each(
    task: Task,
    policies: Mapping[str, PolicyFn | None],
    *,
    episodes: int,
    seed: int = 0,
    max_episode_steps: int | None = None,
    workers: int | None = None,
    executor: Executor | str | None = None,
    progress: bool = False,
) -> dict[str, Transitions]:
    """Run every policy for whole episodes from the same start states, all policies side by side.

    Episode ``i`` of every policy starts where episode ``i`` of ``collect(..., seed=seed)`` does.

    Args:
        task: the real env.
        policies: by name; None draws actions uniformly.
        episodes: how many for each policy.
        seed: decides resets and random actions.
        max_episode_steps: cut episodes after this many steps; needed where the env has no limit.
        workers: processes; see ``collect``.
        executor: likewise.
        progress: show a bar on a terminal.

    Raises:
        CollectError: see ``collect``.
        ValueError: no time limit.
    """
    limits = [steps for steps in (max_episode_steps, task.max_episode_steps) if steps is not None]
    if not limits:
        raise ValueError(f"{task.env_id or 'the task'} has no time limit; pass max_episode_steps=")
    groups = {
        name: _groups(Rollout(task, {name: policy}, None, episodes, min(limits), seed, 0.0, None))
        for name, policy in policies.items()
    }
    every = list(itertools.chain.from_iterable(groups.values()))
    found = iter(_run(every, len(policies) * episodes * min(limits), workers, executor, None, progress))
    made = {}
    for name, own in groups.items():
        mine = itertools.chain.from_iterable(itertools.islice(found, len(own)))
        made[name] = from_episodes(task, sorted(mine, key=lambda episode: episode.index))
    return made


def _run(
    groups: list[Rollout],
    expected: int,
    workers: int | None,
    executor: Executor | str | None,
    step_timeout: float | None,
    progress: bool,
) -> list[list[Episode]]:
    """The episodes of each group; ``expected`` steps in all decide whether processes pay."""
    pays = expected >= _STEPS_WORTH_A_PROCESS
    where = chosen(executor, workers, len(groups), pays)
    with track("collect", expected, show=progress) as advance:
        if step_timeout is None:
            return in_order(where.map(run_group, _units(groups), advance))
        watches = [Watch(step_timeout) for _ in groups]

        def looking(amount: int, note: str = "") -> None:  # called in this process, while the others work
            advance(amount, note)
            for watch in watches:
                watch.check()

        watched = [replace(group, watch=watch) for group, watch in zip(groups, watches, strict=True)]
        most = workers or (os.cpu_count() or 1 if pays else 1)
        return in_order(ProcessExecutor(most).map(run_group, _units(watched), looking))


def _units(groups: Sequence[Rollout]) -> list[Unit[Rollout]]:
    return [
        Unit(
            f"{', '.join(group.policies) if len(group.policies) < 4 else f'{len(group.policies)} policies'}"
            f", streams {', '.join(map(str, group.group))}",
            group,
        )
        for group in groups
    ]


def _shares(whole: Rollout) -> list[Rollout]:
    """Each policy its share, the first ones one more where it does not divide."""
    total, count = whole.steps or whole.episodes or 0, len(whole.policies)
    if total < count:
        raise ValueError(f"{total} steps or episodes are too few for {count} policies; ask for more")
    parts = []
    for index, (name, policy) in enumerate(whole.policies.items()):
        share = total // count + (index < total % count)
        limits: dict[str, Any] = {"episodes": share} if whole.steps is None else {"steps": share}
        seed = int(np.random.SeedSequence((whole.seed, index)).generate_state(1)[0])
        parts.append(replace(whole, policies={name: policy}, seed=seed, **limits))
    return parts


def _groups(whole: Rollout) -> list[Rollout]:
    """Divide a rollout's steps or episodes between streams, and these between groups."""
    streams, steps = min(_STREAMS, whole.episodes or 1), whole.steps
    if steps is not None:  # a divisor of steps that leaves each stream a whole episode or more
        most = min(_STREAMS, max(1, steps // (whole.max_episode_steps or steps)))
        streams = next(n for n in range(most, 0, -1) if steps % n == 0)
        steps //= streams
    size = min(_GROUP, -(-streams // 2))
    groups = (tuple(range(at, min(at + size, streams))) for at in range(0, streams, size))
    return [replace(whole, streams=streams, steps=steps, group=group) for group in groups]
