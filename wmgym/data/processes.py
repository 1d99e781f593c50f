"""Forked processes: at most so many at once, and none left behind however their parent ends."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from multiprocessing import connection
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from wmgym.io.progress import Advance

T = TypeVar("T")

_LOOK_SECONDS = 0.1  # how often a parent looks at its children's progress, and they at whether it lives
_PR_SET_PDEATHSIG = 1  # of Linux' prctl


def forked(
    run: Callable[[T, Advance], bytes], items: Iterable[T], workers: int, advance: Advance
) -> Generator[tuple[int, T, bytes | None]]:
    """Each item's place, the item and what ``run`` returned for it, as they come; None of one that died.

    A process a task, and no ``concurrent.futures``: its pool waits for ever for the rest of a result whose
    sender was killed, cannot stop what runs, pickles the work, and leaves its processes to a parent that may
    be gone.
    """
    fork = multiprocessing.get_context("fork")
    waiting, seen = enumerate(items), 0
    running: dict[Any, tuple[int, T, Any, Any]] = {}  # by the end of its pipe
    done = 0  # progress of those that have ended
    more = True
    try:
        while more or running:
            while more and len(running) < workers:
                following = next(waiting, None)
                if following is None:
                    more = False
                    break
                index, item = following
                receiver, sender = fork.Pipe(duplex=False)
                count = fork.RawArray("q", 1)
                child = fork.Process(target=_run, args=(run, item, count, sender, os.getpid()))
                running[receiver] = index, item, child, count
                with warnings.catch_warnings(), _ctrl_c_later():
                    # The child uses none of its parent's threads.
                    warnings.filterwarnings("ignore", ".*multi-threaded, use of fork.*")
                    child.start()
                sender.close()  # so that the pipe ends with the child
            ready: list[Any] = connection.wait(list(running), _LOOK_SECONDS)
            ended = []
            for receiver in sorted(ready, key=lambda each: running[each][0]):  # the first item's error
                index, item, child, count = running[receiver]
                try:
                    payload = receiver.recv_bytes()
                except (EOFError, OSError):
                    payload = None
                del running[receiver]
                child.join()
                receiver.close()
                done += count[0]
                ended.append((index, item, payload))
            total = done + sum(count[0] for *_, count in running.values())
            advance(total - seen)
            seen = total
            yield from ended
    finally:
        started = [child for _, _, child, _ in running.values() if child.pid is not None]
        for child in started:  # all of them first, for a second Ctrl-C may cut the waiting short
            child.kill()
        for child in started:
            child.join()
        for receiver in running:
            receiver.close()


def can_fork() -> bool:
    """Whether this system can copy a process; Windows cannot."""
    return "fork" in multiprocessing.get_all_start_methods()


def dumps(value: Any) -> bytes:
    """A value for a process on this machine."""
    return bytes(ForkingPickler.dumps(value))


def loads(payload: bytes) -> Any:
    """What ``dumps`` was given."""
    return ForkingPickler.loads(payload)


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


def _run(run: Callable[[T, Advance], bytes], item: T, count: Any, sender: Any, parent: int) -> None:
    """In a child: do one item and send what comes of it."""
    end_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    def advance(amount: int, note: str = "") -> None:
        count[0] += amount

    with contextlib.suppress(BrokenPipeError):  # the parent is gone
        sender.send_bytes(run(item, advance))


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
