"""Map work over items: one after the other, or in forked processes."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.reduction import ForkingPickler
from typing import Any, Protocol, TypeAlias, TypeVar

from wmgym.io.progress import Advance

Item = TypeVar("Item")
Result = TypeVar("Result")
Work: TypeAlias = Callable[[Item, Advance], Result]
"""What is done to an item; tells ``advance`` of its progress."""

_LOOK_SECONDS = 0.1  # how often a parent looks at its children's progress, and they at whether it lives
_PR_SET_PDEATHSIG = 1  # of Linux' prctl


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
    """Does each item in a forked process, which inherits the work: lambdas and closures will do.

    At most ``workers`` of them run at once, and none is left a second after their parent is gone, however it
    ends. Python's own pool would wait for ever for the rest of a result whose sender was killed.
    """

    workers: int

    def map(self, work: Work[Item, Result], items: Sequence[Item], advance: Advance) -> list[Result]:
        """Results in the order of ``items``.

        Raises:
            RuntimeError: a process died, or raised what cannot be pickled.
        """
        fork = multiprocessing.get_context("fork")
        counts = fork.RawArray("q", len(items))  # how far each item has come
        waiting, seen = list(enumerate(items)), 0
        running: dict[Any, tuple[int, Any]] = {}
        results: dict[int, Result] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self.workers:
                    index, item = waiting.pop(0)
                    receiver, sender = fork.Pipe(duplex=False)
                    child = fork.Process(target=_run, args=(work, item, counts, index, sender, os.getpid()))
                    running[receiver] = index, child
                    with warnings.catch_warnings(), _ctrl_c_later():
                        # The child uses none of its parent's threads.
                        warnings.filterwarnings("ignore", ".*multi-threaded, use of fork.*")
                        child.start()
                    sender.close()  # so that the pipe ends with the child
                ready: list[Any] = connection.wait(list(running), _LOOK_SECONDS)
                for receiver in sorted(ready, key=lambda each: running[each][0]):  # the first item's error
                    results[running[receiver][0]] = _receive(receiver)
                    running.pop(receiver)[1].join()
                    receiver.close()
                seen, before = sum(counts), seen
                advance(seen - before)
        finally:
            started = [child for _, child in running.values() if child.pid is not None]
            for child in started:  # all of them first, for a second Ctrl-C may cut the waiting short
                child.kill()
            for child in started:
                child.join()
            for receiver in running:
                receiver.close()
        return [results[index] for index in range(len(items))]


def executor(workers: int, items: int) -> Executor:
    """Processes where there is work for two and the system can fork, else this process alone."""
    if min(workers, items) < 2 or not can_fork():
        return SerialExecutor()
    return ForkExecutor(min(workers, items))


def can_fork() -> bool:
    """Whether this system can copy a process; Windows cannot."""
    return "fork" in multiprocessing.get_all_start_methods()


def _receive(receiver: Any) -> Any:
    """A child's result; raises what went wrong there, with a note of where."""
    try:
        outcome, where = receiver.recv()
    except (EOFError, OSError):
        raise RuntimeError("a worker process died; is memory short?") from None
    if where:
        outcome.add_note(where)
        raise outcome
    return outcome


def _run(work: Work[Any, Any], item: Any, counts: Any, index: int, sender: Any, parent: int) -> None:
    """In a child: do one item and send its result, or what went wrong."""
    end_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)  # never enter the parent's thread pool

    def advance(amount: int, note: str = "") -> None:
        counts[index] += amount

    try:
        outcome = ForkingPickler.dumps((work(item, advance), ""))
    except BaseException as error:  # SystemExit too, which leaves the parent as it would without processes
        where = f"It was raised in a worker process:\n{traceback.format_exc()}"
        try:
            outcome = ForkingPickler.dumps((error, where))
            ForkingPickler.loads(outcome)
        except Exception:  # an error may hold anything, and fail in many ways
            outcome = ForkingPickler.dumps((RuntimeError(f"{type(error).__name__}: {error}"), where))
    with contextlib.suppress(BrokenPipeError):  # the parent is gone
        sender.send_bytes(outcome)


def end_with(parent: int) -> None:
    """In a child: have it killed as soon as its parent is gone, whatever it is doing then.

    The kernel sees to it on Linux, where not even C code that never returns can hold it up; elsewhere a
    thread of the child looks.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is None or prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        threading.Thread(target=_look_for, args=(parent,), daemon=True).start()
    elif os.getppid() != parent:  # it was gone before the kernel knew
        os._exit(1)


def _look_for(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os._exit(1)


@contextlib.contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Hold Ctrl-C back: no child meets it before it ignores it, no parent before it knows the child."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
