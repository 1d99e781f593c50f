"""Map work over items: one after the other, or in forked processes."""

from __future__ import annotations

import concurrent.futures
import mmap
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from typing import IO, Any, Protocol, TypeVar

import numpy as np

from wmgym.io.progress import Advance

Item = TypeVar("Item")
Item_contra = TypeVar("Item_contra", contravariant=True)
Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)

_PICKLER = ForkingPickler  # what multiprocessing itself sends between a parent and its children by
_LOOK_SECONDS = 0.1  # how often a parent looks at its children's progress, and they at whether it lives


class Work(Protocol[Item_contra, Result_co]):
    """What is done to an item; tells ``advance`` of its progress."""

    def __call__(self, item: Item_contra, advance: Advance, /) -> Result_co:
        """Do it."""


class Executor(Protocol):
    """Where work is done. The result must not depend on it."""

    def map(self, work: Work[Item, Result], items: Sequence[Item], advance: Advance) -> list[Result]:
        """Results in the order of ``items``; the first error stops all of it and is raised."""


@dataclass(frozen=True)
class SerialExecutor:
    """Does one item after the other in this process."""

    def map(self, work: Work[Item, Result], items: Sequence[Item], advance: Advance) -> list[Result]:
        """Results in the order of ``items``."""
        return [work(item, advance) for item in items]


@dataclass(frozen=True)
class ForkExecutor:
    """Does items in ``workers`` forked processes, which inherit the work: lambdas and closures will do.

    None of them is left a second after their parent is gone, however it ends.
    """

    workers: int

    def map(self, work: Work[Item, Result], items: Sequence[Item], advance: Advance) -> list[Result]:
        """Results in the order of ``items``.

        Raises:
            RuntimeError: a process died, or raised what cannot be pickled.
        """
        with ExitStack() as stack:
            # Results go through files without a name, since a process that is killed while it sends one
            # through the pool's pipe leaves half a message there, for whose rest the pool waits for ever.
            files: list[IO[bytes]] = [stack.enter_context(tempfile.TemporaryFile()) for _ in items]
            job = _Job(work, items, files, mmap.mmap(-1, 8 * (1 + len(items))), os.getpid())
            pool = stack.enter_context(
                concurrent.futures.ProcessPoolExecutor(
                    self.workers, multiprocessing.get_context("fork"), _enter, (job,)
                )
            )
            stack.callback(job.stop)  # before the pool waits for its processes
            with warnings.catch_warnings():  # the children use none of their parent's threads
                warnings.filterwarnings("ignore", ".*multi-threaded, use of fork.* may lead to deadlocks")
                futures = {pool.submit(_run, index): index for index in range(len(items))}
            results: dict[int, Any] = {}
            while len(results) < len(items):
                pending = [future for future, index in futures.items() if index not in results]
                done, _ = concurrent.futures.wait(pending, _LOOK_SECONDS)
                for future in sorted(done, key=futures.__getitem__):  # of several errors, the first item's
                    results[futures[future]] = _outcome(future, files[futures[future]])
                advance(job.progress())
            return [results[index] for index in range(len(items))]


def executor(workers: int, items: int) -> Executor:
    """Processes where there is work for two and the system can fork, else this process alone."""
    if min(workers, items) < 2 or "fork" not in multiprocessing.get_all_start_methods():
        return SerialExecutor()
    return ForkExecutor(min(workers, items))


@dataclass
class _Job:
    """What children inherit; ``shared`` holds a flag to stop and how far each item has come, int64 each."""

    work: Work[Any, Any]
    items: Sequence[Any]
    files: list[IO[bytes]]
    shared: mmap.mmap
    parent: int
    seen: int = 0

    def stop(self) -> None:
        np.frombuffer(self.shared, np.int64)[0] = 1

    def progress(self) -> int:
        """How far all items have come since the last call."""
        before, self.seen = self.seen, int(np.frombuffer(self.shared, np.int64)[1:].sum())
        return self.seen - before

    def watch(self) -> None:
        """In a child: end it as soon as the parent is gone or says so."""
        flag = np.frombuffer(self.shared, np.int64)
        while os.getppid() == self.parent and not flag[0]:
            time.sleep(_LOOK_SECONDS)
        os._exit(1)


_inherited: _Job  # in a child


def _enter(job: _Job) -> None:
    """In a child, before any work."""
    global _inherited
    _inherited = job
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    threading.Thread(target=job.watch, daemon=True).start()
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)  # never enter the parent's thread pool


def _run(index: int) -> None:
    """In a child: do one item and write its result, or what went wrong, to its file."""
    job = _inherited
    counts = np.frombuffer(job.shared, np.int64)[1:]

    def advance(amount: int, note: str = "") -> None:
        counts[index] += amount

    try:
        outcome = _PICKLER.dumps(job.work(job.items[index], advance))
    except Exception as error:
        outcome = _pickled(error)
    job.files[index].write(outcome)
    job.files[index].flush()


def _pickled(error: Exception) -> memoryview:
    try:
        found = _PICKLER.dumps(error)
        _PICKLER.loads(found)
    except Exception:  # an error may hold anything, and fail in many ways
        return _PICKLER.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
    return found


def _outcome(future: concurrent.futures.Future[None], file: IO[bytes]) -> Any:
    try:
        future.result()
    except BrokenProcessPool as error:
        raise RuntimeError("a worker process died; is memory short?") from error
    file.seek(0)
    outcome = _PICKLER.loads(file.read())
    if isinstance(outcome, Exception):
        raise outcome
    return outcome
