"""Run groups of rollout workers, here or in child processes."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import warnings
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import Any

from wmgym.data.rollout_worker import Episode, Group, run_group
from wmgym.io.progress import Advance


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
