"""Rows of a batch in parts whose memory is used again from step to step; MuJoCo's step side by side."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

from wmgym.models.batching import MULTIPLE
from wmgym.models.dynamics import Propagation
from wmgym.models.ensemble import EnsembleMLP
from wmgym.models.fallback import FallbackDynamics
from wmgym.models.outcomes import Classifier
from wmgym.models.residual import MujocoDynamics, ResidualDynamics
from wmgym.models.world import WorldModel
from wmgym.tasks.layout import Core
from wmgym.tasks.threads import share_cores

MOST = 8_192
"""Rows of a part of a world of networks: its hidden layers are memory that the process holds already."""

LEAST = 32
"""Rows of a part that MuJoCo steps; with fewer, beginning it costs more than it saves."""

_pools: dict[int, ThreadPoolExecutor] = {}
_lock = threading.Lock()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pools.clear)  # a forked child has none of the threads


def separable(world: WorldModel, propagation: Propagation) -> bool:
    """Whether the step of some episodes is theirs in the step of all, and draws nothing.

    Functions and models of the caller's may be anything.
    """
    task, outcomes, core = world.task, world.outcomes, world.task.core
    models = [world.dynamics, world.readout, None if outcomes is None else outcomes.network]
    ours = all(model is None or _ours(model) for model in models)
    functions = task.from_table or (task.reward is None and task.terminated is None)
    shows = task.from_table or core.layout is not None or core.observe is Core.observe
    draws = propagation == "sample" or (outcomes is not None and outcomes.drawn)
    return ours and functions and shows and not draws and world.device.type == "cpu"


def _ours(model: object) -> bool:
    """Whether it is a network of ours, MuJoCo, or made of these; those of others may remember the batch."""
    if type(model) is ResidualDynamics:
        return _ours(model.base) and _ours(model.network)
    if type(model) is FallbackDynamics:
        return _ours(model.base)
    return type(model) in (EnsembleMLP, Classifier, MujocoDynamics)


def parts_of(rows: int, world: WorldModel) -> list[slice]:
    """Slices of about the same size.

    What MuJoCo steps has one for every thread of torch. Networks have no more than they need, for they use
    all threads themselves, and what is around them is Python, which one thread at a time may run.
    """
    count = -(-rows // MOST)
    if _mujoco(world):
        threads = torch.get_num_threads()
        count = max(count, min(threads, rows // LEAST), 1)
        if count > 1:
            count += -count % threads
    size = -(-rows // count)
    size += -size % MULTIPLE
    return [slice(at, min(at + size, rows)) for at in range(0, rows, size)]


def _mujoco(world: WorldModel) -> bool:
    dynamics = world.dynamics
    dynamics = dynamics.base if isinstance(dynamics, ResidualDynamics) else dynamics
    return isinstance(dynamics, MujocoDynamics)


def each_part(work: Callable[[slice], None], parts: list[slice], world: WorldModel) -> None:
    """Call ``work`` with every part: side by side where MuJoCo steps them, else one after the other."""
    threads = torch.get_num_threads()
    if len(parts) == 1 or threads == 1 or not _mujoco(world):
        for part in parts:
            work(part)
        return
    inference = torch.is_inference_mode_enabled()

    def alone(part: slice) -> None:
        with torch.inference_mode(inference), torch.no_grad():
            work(part)

    for done in [_pool(threads).submit(alone, part) for part in parts]:
        done.result()


def _pool(threads: int) -> ThreadPoolExecutor:
    with _lock:
        if threads not in _pools:
            _pools[threads] = _made(threads)
        return _pools[threads]


def _made(threads: int) -> ThreadPoolExecutor:
    """Threads in each of which torch uses no others."""
    pool = ThreadPoolExecutor(threads, "wmgym")
    together = threading.Barrier(threads)

    def begin() -> None:
        torch.set_num_threads(1)
        share_cores()
        together.wait()  # so that each thread comes here

    for begun in [pool.submit(begin) for _ in range(threads)]:
        begun.result()
    torch.set_num_threads(threads)  # what a thread sets is the default of those to come
    return pool
