"""Imagined episodes of several policies: from the start states of real ones, and from further ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from wmgym.data.acting import PolicyError, naming
from wmgym.data.executors import SerialExecutor, chosen
from wmgym.data.policy import PolicyFn
from wmgym.data.units import Executor, Unit, in_order
from wmgym.envs.rollout import rollout
from wmgym.evaluation.speed import clock
from wmgym.io.progress import Advance, track
from wmgym.models.dynamics import Propagation
from wmgym.models.world import WorldModel
from wmgym.tasks.task import Task

_DRAWS = 4
"""Imagined episodes from each real start state at most: their mean tells more of the real return than one."""
_STEPS_WORTH_A_PROCESS = 50_000

Given = TypeVar("Given")
Found = TypeVar("Found")


@dataclass(frozen=True)
class Imagined:
    """Imagined episodes of one policy.

    Attributes:
        returns: ``(n,)`` from the start state of each real episode, means over draws.
        lengths: ``(n,)`` their steps, likewise.
        failed: ``(n,)`` share of them that ended before the time limit.
        diverged: ``(n,)`` share of them that left the range of the data.
        more: ``(m,)`` returns from further start states.
        steps: imagined steps in all.
        seconds: processor time that they took, policy included; see ``speed.clock``.
    """

    returns: np.ndarray
    lengths: np.ndarray
    failed: np.ndarray
    diverged: np.ndarray
    more: np.ndarray
    steps: int
    seconds: float


def divide(real: int, imagined: int) -> tuple[int, int]:
    """Of ``imagined`` episodes, how many start at each of ``real`` start states, and how many elsewhere."""
    draws = max(1, min(_DRAWS, imagined // (2 * real)))
    return draws, max(0, imagined - draws * real)


def imagine(
    world: WorldModel,
    policy: PolicyFn | None,
    starts: np.ndarray,
    more: np.ndarray,
    seed: int,
    *,
    draws: int,
    limit: int,
    propagation: Propagation,
) -> Imagined:
    """Imagine ``draws`` episodes from each of ``starts`` and one from each of ``more``, all side by side."""
    count = len(starts) * draws
    every = np.concatenate([starts.repeat(draws, 0), more])
    now = clock(world)
    began = now()
    returns, lengths, diverged = rollout(
        world, policy, every, seed, max_episode_steps=limit, propagation=propagation
    )
    seconds = now() - began

    def paired(values: np.ndarray) -> np.ndarray:
        return np.asarray(values[:count].reshape(len(starts), draws).mean(1))

    return Imagined(
        returns=paired(returns),
        lengths=paired(lengths),
        failed=paired(lengths < limit),
        diverged=paired(diverged),
        more=returns[count:],
        steps=int(lengths.sum()),
        seconds=seconds,
    )


def start_states(task: Task, seeds: Sequence[int]) -> np.ndarray:
    """Start states ``(len(seeds), state_dim)`` of the real env, which is reset and not stepped."""
    if not seeds:
        return np.zeros((0, task.core.state_dim), np.float32)
    env, found = task.make(), []
    try:
        for seed in seeds:
            obs = np.array(env.reset(seed=seed)[0])
            found.append(task.state(task.read_core(env, obs)[None], obs[None]))
    finally:
        env.close()
    return np.concatenate(found)


def further_seeds(seed: int, count: int) -> list[int]:
    """Seeds of resets that ``collect`` does not use with the same seed."""
    sources = (np.random.SeedSequence((seed, index, 1)) for index in range(count))
    return [int(source.generate_state(1)[0]) for source in sources]


def over_policies(
    work: Callable[[Given], Found],
    given: Mapping[str, Given],
    world: WorldModel,
    steps: int,
    *,
    workers: int | None = None,
    executor: Executor | str | None = None,
    progress: bool = False,
) -> dict[str, Found]:
    """Do ``work`` with what is ``given`` of every policy, such as the policy itself.

    Without ``workers`` and ``executor`` that is on every core where so many imagined ``steps`` pay for
    processes. What goes wrong names the policy.
    """
    units = [Unit(name, item) for name, item in given.items()]
    where = chosen(executor, workers, len(units), steps >= _STEPS_WORTH_A_PROCESS)
    if world.device.type != "cpu":
        where = SerialExecutor()  # a forked process cannot use the parent's accelerator

    def one(unit: Unit[Given], tell: Advance) -> Found:
        try:
            with naming(unit.name):
                found = work(unit.item)
        except PolicyError:
            raise
        except ValueError as error:
            raise ValueError(f"policy {unit.name!r}: {error}") from error
        except Exception as error:
            error.add_note(f"It was raised in imagination of policy {unit.name!r}.")
            raise
        tell(1)
        return found

    with track("imagine", len(units), show=progress) as advance:
        return dict(zip(given, in_order(where.map(one, units, advance)), strict=True))
