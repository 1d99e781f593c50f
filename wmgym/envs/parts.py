"""Rows of a batch in parts that stay in the cache, side by side on the processor's cores.

What surrounds the networks is a hundred operations that each run on one core, while torch's own threads wait.
"""

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

MOST = 2_048  # rows of a part, whose hidden layers then stay in the cache
LEAST = 256  # with fewer rows of a part, beginning it costs more than it saves
LEAST_PHYSICS = 32  # the same where MuJoCo steps them

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


def least_of(world: WorldModel) -> int:
    """With fewer rows of a part, beginning it costs more than it saves."""
    dynamics = world.dynamics
    dynamics = dynamics.base if isinstance(dynamics, ResidualDynamics) else dynamics
    return LEAST_PHYSICS if isinstance(dynamics, MujocoDynamics) else LEAST


def parts_of(rows: int, least: int) -> list[slice]:
    """Slices of about the same size, as many as keep all threads of torch busy."""
    threads = torch.get_num_threads()
    count = max(-(-rows // MOST), min(threads, rows // least), 1)
    if count > 1:
        count += -count % threads
    size = -(-rows // count)
    size += -size % MULTIPLE
    return [slice(at, min(at + size, rows)) for at in range(0, rows, size)]


def side_by_side(work: Callable[[slice], None], parts: list[slice]) -> None:
    """Call ``work`` with every part, on a thread of its own for each thread that torch has here.

    A single part is done by the caller, with all of torch's threads.
    """
    threads = torch.get_num_threads()
    if len(parts) == 1 or threads == 1:
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
