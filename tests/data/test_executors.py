"""Work in other processes: the same results, one-line errors, and nothing left behind however it ends."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.data.envs import still
from wmgym.data.collect import collect
from wmgym.data.executors import ForkExecutor, SerialExecutor, executor
from wmgym.io.progress import Advance


def silent(amount: int, note: str = "") -> None:
    return None


def alive(group: int) -> list[str]:
    """Processes of a group, without zombies."""
    command = ["ps", "-e", "-o", "pgid=,stat="]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listed.splitlines()]
    return [pgid for pgid, state in rows if pgid == str(group) and "Z" not in state]


@contextlib.contextmanager
def parent_of_two(code: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, once it has two children."""
    # A job in the background, be it pytest's own, ignores Ctrl-C, and so would all that it starts.
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [sys.executable, "-c", f"{heeding}\n{code}"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, start_new_session=True) as parent:
        try:
            while len(alive(parent.pid)) < 3:
                assert parent.poll() is None
                time.sleep(0.05)
            yield parent
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(parent.pid, signal.SIGKILL)


@pytest.mark.parametrize("workers", [1, 2, 3, 9])
def test_results_come_in_the_order_of_items(workers: int) -> None:
    slow = {0: 0.2, 1: 0.1}

    def work(item: int, advance: Advance) -> tuple[int, np.ndarray]:
        time.sleep(slow.get(item, 0.0))
        advance(item)
        return item, np.full(50_000, item)  # more than a pipe holds

    seen: list[int] = []
    found = executor(workers, 5).map(work, range(5), lambda amount, note="": seen.append(amount))
    assert [index for index, _ in found] == [0, 1, 2, 3, 4]
    assert all((array == index).all() for index, array in found)
    assert sum(seen) == 10


def test_little_work_stays_in_this_process() -> None:
    assert executor(8, 1) == executor(1, 8) == SerialExecutor()
    assert executor(8, 3) == ForkExecutor(3)


def test_work_inherits_closures_and_nothing_of_it_is_sent() -> None:
    unpicklable = (seven for seven in itertools.repeat(7))
    items = [lambda: 1, lambda: 2]
    found = ForkExecutor(2).map(lambda item, advance: (next(unpicklable), item()), items, silent)
    assert found == [(7, 1), (7, 2)]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_items_error_is_raised_and_stops_the_rest(workers: int) -> None:
    def work(item: int, advance: Advance) -> None:
        if item in (1, 2):
            raise ValueError(f"item {item}")
        if item > 2:
            time.sleep(60)

    started = time.monotonic()
    with pytest.raises(ValueError, match="item 1"):
        executor(workers, 6).map(work, range(6), silent)
    assert time.monotonic() - started < 5
    assert not multiprocessing.active_children()


def test_an_error_that_cannot_be_sent_keeps_its_words() -> None:
    class Local(Exception):  # noqa: N818
        def __init__(self, number: int) -> None:
            super().__init__(f"number {number}")

    def work(item: int, advance: Advance) -> Any:
        if item:
            raise Local(3)
        return lambda: None  # a result that cannot be sent

    with pytest.raises(RuntimeError, match="Local: number 3"):
        ForkExecutor(2).map(work, [1, 1], silent)
    with pytest.raises(Exception, match=r"pickle|local object"):
        ForkExecutor(2).map(work, [0, 0], silent)


def test_an_error_tells_where_it_was_raised_in_its_process() -> None:
    class Local(Exception):  # noqa: N818
        """Cannot be sent."""

    def raises_here(item: int, advance: Advance) -> None:
        raise {0: ValueError("wrong"), 1: Local("alone"), 2: SystemExit(3)}[item]

    for item, kind in enumerate((ValueError, RuntimeError, SystemExit)):
        with pytest.raises(kind) as caught:
            ForkExecutor(2).map(raises_here, [item, item], silent)
        (note,) = caught.value.__notes__
        assert note.startswith("It was raised in a worker process:\nTraceback")
        assert "in raises_here" in note
        assert "\n" not in str(caught.value)
    assert caught.value.code == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_killed_at_any_moment_is_one_line(signal_number: int) -> None:
    def work(item: int, advance: Advance) -> np.ndarray:
        if item == 0:
            time.sleep(random.random() * 0.1)
            os.kill(os.getpid(), signal_number)
        return np.zeros(3_000_000)

    for _ in range(5):
        with pytest.raises(RuntimeError, match="a worker process died") as caught:
            ForkExecutor(2).map(work, range(4), silent)
        assert "\n" not in str(caught.value)
    assert not multiprocessing.active_children()


FOREVER = """
import os, signal, sys, time
from wmgym.data.executors import ForkExecutor

def work(item, advance):
    os.write(1, b"up\\n")
    while True:
        time.sleep(10) if item else sum(range(1000))

{before}
ForkExecutor(2).map(work, range(2), lambda amount, note="": None)
"""


@pytest.mark.parametrize(
    ("end", "before"),
    [
        (signal.SIGKILL, ""),
        (signal.SIGTERM, ""),
        (signal.SIGINT, ""),
        (signal.SIGTERM, "signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))"),
    ],
)
def test_no_child_is_left_a_second_after_its_parent(end: int, before: str) -> None:
    with parent_of_two(FOREVER.format(before=before)) as parent:
        assert parent.stdout is not None
        assert parent.stdout.read(6) == b"up\nup\n"
        os.kill(parent.pid, end)
        parent.wait(10)
        time.sleep(1.0)
        assert not alive(parent.pid)
        _, errors = parent.communicate()
        assert errors.count(b"Traceback") == (end == signal.SIGINT), errors.decode()


STUCK = """
import ctypes, os
from wmgym.data.executors import ForkExecutor

def work(item, advance):
    os.write(1, b"up\\n")
    ctypes.PyDLL(None).sleep(30)  # C code that keeps every Python thread of its process from running

ForkExecutor(2).map(work, range(2), lambda amount, note="": None)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other kernels do not end children")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_not_even_a_child_stuck_in_c_code_is_left(end: int) -> None:
    with parent_of_two(STUCK) as parent:
        assert parent.stdout is not None
        assert parent.stdout.read(6) == b"up\nup\n"
        os.kill(parent.pid, end)
        parent.wait(5)
        time.sleep(1.0)
        assert not alive(parent.pid)


def test_children_that_collect_end_with_their_parent() -> None:
    collecting = (
        "import wmgym; wmgym.collect('HalfCheetah-v5', steps=40_000, workers=2, max_episode_steps=100)"
    )
    with parent_of_two(collecting) as parent:
        time.sleep(0.3)
        parent.kill()
        parent.wait()
        time.sleep(1.0)
        assert not alive(parent.pid)


def test_children_leave_ctrl_c_to_their_parent() -> None:
    def observed(obs: np.ndarray) -> np.ndarray:
        assert (signal.getsignal(signal.SIGINT) is signal.SIG_IGN) == (os.getpid() != parent)
        pids.add(os.getpid())
        return still(obs)

    parent, pids = os.getpid(), set[int]()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        for workers in (1, 2):
            collect("Hopper-v5", observed, steps=80, seed=0, max_episode_steps=20, workers=workers)
    finally:
        signal.signal(signal.SIGINT, before)
    assert pids == {parent}  # children keep their own copy


def test_a_child_that_dies_is_reported() -> None:
    def fatal(obs: np.ndarray) -> np.ndarray:
        if os.getpid() != parent:
            os._exit(9)
        return still(obs)

    parent = os.getpid()
    with pytest.raises(RuntimeError, match="died"):
        collect("Hopper-v5", fatal, steps=80, seed=0, max_episode_steps=20, workers=2)


def test_an_error_in_one_child_never_waits_for_another_that_is_sending() -> None:
    """A pool with shared queues hung here now and then."""

    def wrong(obs: np.ndarray) -> np.ndarray:
        if len(obs) < 4 and random.random() < 0.3:
            raise ValueError("wrong")
        return still(obs)

    for _ in range(20):
        with contextlib.suppress(ValueError):
            collect("Hopper-v5", wrong, steps=400, seed=0, max_episode_steps=40, workers=2)
    assert not multiprocessing.active_children()


def test_pythons_warning_about_forking_with_threads_is_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    fork = os.fork

    def warn() -> int:  # as Python 3.12 does
        message = "This process (pid=1) is multi-threaded, use of fork() may lead to deadlocks in the child."
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        warned.append(message)
        return fork()

    warned: list[str] = []
    monkeypatch.setattr(os, "fork", warn)
    assert len(collect("Hopper-v5", steps=80, seed=0, max_episode_steps=20, workers=2)) == 80
    assert len(warned) == 2
