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
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import wmgym
from tests.data.envs import still
from wmgym.data.collect import collect
from wmgym.data.executors import ProcessExecutor, SerialExecutor, chosen, make_executor
from wmgym.data.units import Executor, Unit, in_order
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


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """Ray on this machine, with two CPUs."""
    ray = pytest.importorskip("ray")
    from wmgym.data.ray_cluster import connect

    connect(None, 2)
    yield
    ray.shutdown()


@pytest.fixture(params=["serial", "processes", "ray"])
def executor(request: pytest.FixtureRequest) -> Executor:
    """Each of the three; what holds for one holds for all."""
    if request.param == "ray":
        request.getfixturevalue("local_ray")
    return make_executor(request.param, workers=None if request.param == "serial" else 2)


def units(*items: Any) -> list[Unit[Any]]:
    return [Unit(f"number {index}", item, seed=index) for index, item in enumerate(items)]


# What holds for all three


def test_results_are_in_order_and_progress_adds_up(executor: Executor) -> None:
    def work(unit: Unit[int], advance: Advance) -> tuple[int, int, np.ndarray]:
        time.sleep({0: 0.2, 1: 0.1}.get(unit.item, 0.0))
        advance(unit.item)
        return unit.item, unit.seed, np.full(50_000, unit.item)  # more than a pipe holds

    seen: list[int] = []
    made = executor.map(work, units(*range(5)), lambda amount, note="": seen.append(amount))
    found = in_order(made)
    assert [pair for *pair, _ in found] == [[number, number] for number in range(5)]
    assert all((array == number).all() and array.flags.writeable for number, _, array in found)
    assert sum(seen) == 10


def test_units_are_taken_when_there_is_room_and_outcomes_come_as_they_are_ready(executor: Executor) -> None:
    taken: list[int] = []

    def endless() -> Iterator[Unit[int]]:
        for index in itertools.count():
            taken.append(index)
            yield Unit(str(index), index)

    outcomes = executor.map(lambda unit, advance: unit.item, endless(), silent)
    assert len(list(itertools.islice(outcomes, 3))) == 3
    outcomes.close()
    assert len(taken) < 20


def test_an_error_names_its_unit_and_stops_the_rest(executor: Executor) -> None:
    def work(unit: Unit[int], advance: Advance) -> None:
        if unit.item == 1:
            raise ValueError("wrong")
        if unit.item > 1:
            time.sleep(60)

    started = time.monotonic()
    with pytest.raises(ValueError, match="wrong") as caught:
        in_order(executor.map(work, units(*range(6)), silent))
    assert "unit 'number 1'" in caught.value.__notes__[0]
    assert time.monotonic() - started < 10
    assert not multiprocessing.active_children()


def test_one_that_fails_leaves_the_others_be_where_nobody_stops_them(executor: Executor) -> None:
    def work(unit: Unit[int], advance: Advance) -> int:
        if unit.item == 0:
            raise SystemExit(3)
        if unit.item == 1:
            raise KeyError("odd")
        return unit.item

    found = {outcome.index: outcome for outcome in executor.map(work, units(*range(4)), silent)}
    assert [found[index].value for index in range(4)] == [None, None, 2, 3]
    kinds = [type(found[index].error) for index in range(4)]
    assert kinds == [SystemExit, KeyError, type(None), type(None)]
    assert all(f"unit 'number {index}'" in found[index].error.__notes__[0] for index in (0, 1))  # type: ignore[union-attr]


def test_a_unit_computes_in_one_thread_and_leaves_the_callers_as_they_were(executor: Executor) -> None:
    def work(unit: Unit[int], advance: Advance) -> int:
        import torch

        return torch.get_num_threads()

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert in_order(executor.map(work, units(0, 1), silent)) == [1, 1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("kind", ["processes", "ray"])
def test_a_result_that_cannot_be_read_is_its_units_error(kind: str, request: pytest.FixtureRequest) -> None:
    if kind == "ray":
        request.getfixturevalue("local_ray")

    class Unreadable:
        def __reduce__(self) -> tuple[Any, ...]:
            return int, ("no number",)

    def work(unit: Unit[int], advance: Advance) -> Any:
        return Unreadable() if unit.item == 1 else unit.item

    found = {each.index: each for each in make_executor(kind).map(work, units(0, 1, 2), silent)}
    assert [found[0].value, found[2].value] == [0, 2]
    assert str(found[1].error).startswith("unit 'number 1': its result cannot be read here: invalid literal")


@pytest.mark.parametrize("kind", ["processes", "ray"])
def test_a_worker_that_dies_is_one_line_that_names_the_unit(
    kind: str, request: pytest.FixtureRequest
) -> None:
    def work(unit: Unit[int], advance: Advance) -> int:
        if unit.item == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return unit.item

    if kind == "ray":
        request.getfixturevalue("local_ray")
    found = {each.index: each for each in make_executor(kind).map(work, units(0, 1, 2), silent)}
    assert [found[0].value, found[2].value] == [0, 2]
    with pytest.raises(RuntimeError, match=r"^unit 'number 1': a worker process died[^\n]*$"):
        raise found[1].error or AssertionError


def test_verbs_give_the_same_bits_wherever_they_run(
    executor: Executor, pendulum_world: wmgym.WorldModel
) -> None:
    policies = {"still": lambda obs: np.zeros((len(obs), 1)), "random": None}
    data = collect("InvertedPendulum-v5", policies, episodes=6, seed=3, executor=executor)
    alone = collect("InvertedPendulum-v5", policies, episodes=6, seed=3, workers=1)
    assert data.fingerprints() == alone.fingerprints()
    del policies["random"]
    how: dict[str, Any] = {"real_episodes": 2, "imagined_episodes": 8, "max_episode_steps": 40}
    first, second = (
        wmgym.score(pendulum_world, policies, **how, **where)
        for where in ({"executor": executor}, {"workers": 1})
    )
    assert replace(first, origin=None) == replace(second, origin=None)


@pytest.mark.parametrize(
    "executor", ["processes", pytest.param("ray", marks=pytest.mark.slow)], indirect=True
)
def test_calibration_and_training_too(executor: Executor, pendulum_world: wmgym.WorldModel) -> None:
    calib = collect("InvertedPendulum-v5", steps=200, seed=91, workers=1)
    first, second = (
        wmgym.calibrate(pendulum_world, calib, horizon=8, executor=where).pack()[0]
        for where in (executor, SerialExecutor())
    )
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    config = wmgym.TrainConfig(
        "PPO", steps=128, num_envs=4, hyperparameters={"n_steps": 32, "batch_size": 32, "n_epochs": 1}
    )
    policies, alone = (
        wmgym.sb3.train_seeds(pendulum_world, config, (0, 1), executor=where)
        for where in (executor, SerialExecutor())
    )
    for seed in (0, 1):
        pairs = zip(policies[seed].weights, alone[seed].weights, strict=True)
        assert all((a == b).all() for a, b in pairs)
    assert not (policies[0].weights[0] == policies[1].weights[0]).all()


# What is told apart


def test_little_work_stays_in_this_process() -> None:
    assert chosen(None, 8, 1, True) == chosen(None, 1, 8, True) == chosen(None, None, 8, False)
    assert chosen(None, 1, 8, True) == SerialExecutor()
    assert chosen(None, 8, 3, False) == ProcessExecutor(3)
    assert chosen("processes", 2, 1, False) == ProcessExecutor(2)
    assert chosen(SerialExecutor(), None, 8, True) == SerialExecutor()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"executor": "threads"}, "executor must be one of serial, processes, ray, got 'threads'"),
        ({"executor": "processes", "workers": 0}, "workers must be a whole number of at least 1"),
        ({"executor": "serial", "workers": 2}, "workers=2 is for 'processes'"),
        ({"executor": SerialExecutor(), "workers": 2}, "this one has its own"),
        ({"executor": "serial", "step_timeout": 1.0}, "leave executor= out"),
    ],
)
def test_an_executor_that_makes_no_sense_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        collect("Hopper-v5", steps=8, **given)
    with pytest.raises(ValueError, match="address='auto' is for executor='ray'"):
        make_executor("processes", address="auto")


def test_a_policy_that_cannot_travel_is_named_where_it_has_to(
    local_ray: None, pendulum_world: wmgym.WorldModel
) -> None:
    stuck = threading.Lock()

    def locked(obs: np.ndarray) -> np.ndarray:
        with stuck:
            return np.zeros((len(obs), 1))

    how: dict[str, Any] = {"episodes": 2, "seed": 0, "max_episode_steps": 4}
    policies = {"free": lambda obs: np.zeros((len(obs), 1)), "locked": locked}
    collect("InvertedPendulum-v5", policies, **how, executor="processes")
    with pytest.raises(ValueError, match=r"policies\['locked'\]\.stuck\) cannot be sent.*lock") as caught:
        collect("InvertedPendulum-v5", policies, **how, executor="ray")
    assert "\n" not in str(caught.value)
    how = {"episodes": 2, "max_episode_steps": 4, "executor": "ray"}
    with pytest.raises(ValueError, match=r"^unit 'locked'.* cannot be sent"):
        wmgym.rank(pendulum_world, policies, **how)


def test_large_arrays_go_to_ray_once_and_arrive_writable(local_ray: None) -> None:
    from wmgym.data import ray_executor

    shared, own = np.arange(100_000.0), np.arange(50_000.0)

    def work(unit: Unit[np.ndarray], advance: Advance) -> float:
        shared[0] += 1  # a copy of its own
        unit.item[0] = 5.0
        return float(shared.sum() + unit.item.sum())

    made = ray_executor.RayExecutor()
    found = in_order(made.map(work, units(own, own.copy(), own), silent))
    assert found == [float(shared.sum() + 1 + own.sum() + 5)] * 3
    assert len(made._sent._refs) == 2


def test_what_ray_cannot_hold_is_refused(local_ray: None) -> None:
    unit = Unit("big", 0, resources={"GPU": 4})
    with pytest.raises(ValueError, match="unit 'big' asks for 4 GPU, and the cluster has 0"):
        in_order(make_executor("ray").map(lambda unit, advance: 0, [unit], silent))


def test_without_ray_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    for module in ("ray_cluster", "ray_executor"):
        monkeypatch.delitem(sys.modules, f"wmgym.data.{module}", raising=False)
    with pytest.raises(ImportError, match=r'^executor="ray" needs Ray.*pip install "wmgym\[ray\]"$'):
        make_executor("ray")
    assert len(collect("Hopper-v5", steps=8, executor="serial")) == 8


# Processes


def test_work_inherits_closures_and_nothing_of_it_is_sent() -> None:
    unpicklable = (seven for seven in itertools.repeat(7))
    items = units(lambda: 1, lambda: 2)
    found = in_order(
        ProcessExecutor(2).map(lambda unit, advance: (next(unpicklable), unit.item()), items, silent)
    )
    assert found == [(7, 1), (7, 2)]


def test_the_first_units_error_is_raised() -> None:
    def work(unit: Unit[int], advance: Advance) -> None:
        if unit.item in (1, 2):
            raise ValueError(f"item {unit.item}")

    for _ in range(5):
        with pytest.raises(ValueError, match="item 1"):
            in_order(SerialExecutor().map(work, units(*range(6)), silent))
        with pytest.raises(ValueError, match="item"):
            in_order(ProcessExecutor(2).map(work, units(*range(6)), silent))


def test_an_error_that_cannot_be_sent_keeps_its_words() -> None:
    class Local(Exception):  # noqa: N818
        def __init__(self, number: int) -> None:
            super().__init__(f"number {number}")

    def work(unit: Unit[int], advance: Advance) -> Any:
        if unit.item:
            raise Local(3)
        return lambda: None  # a result that cannot be sent

    with pytest.raises(RuntimeError, match="Local: number 3"):
        in_order(ProcessExecutor(2).map(work, units(1, 1), silent))
    with pytest.raises(Exception, match=r"pickle|local object"):
        in_order(ProcessExecutor(2).map(work, units(0, 0), silent))


def test_an_error_tells_where_it_was_raised_in_its_process() -> None:
    class Local(Exception):  # noqa: N818
        """Cannot be sent."""

    def raises_here(unit: Unit[int], advance: Advance) -> None:
        raise {0: ValueError("wrong"), 1: Local("alone"), 2: SystemExit(3)}[unit.item]

    for item, kind in enumerate((ValueError, RuntimeError, SystemExit)):
        with pytest.raises(kind) as caught:
            in_order(ProcessExecutor(2).map(raises_here, units(item, item), silent))
        (note,) = caught.value.__notes__
        assert note.startswith("It was raised in a worker process, in unit 'number ")
        assert "in raises_here" in note
        assert "\n" not in str(caught.value)
    assert caught.value.code == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_killed_at_any_moment_is_one_line(signal_number: int) -> None:
    def work(unit: Unit[int], advance: Advance) -> np.ndarray:
        if unit.item == 0:
            time.sleep(random.random() * 0.1)
            os.kill(os.getpid(), signal_number)
        return np.zeros(3_000_000)

    for _ in range(5):
        with pytest.raises(RuntimeError, match="a worker process died") as caught:
            in_order(ProcessExecutor(2).map(work, units(*range(4)), silent))
        assert "\n" not in str(caught.value)
    assert not multiprocessing.active_children()


FOREVER = """
import os, signal, sys, time
from wmgym.data.executors import ProcessExecutor
from wmgym.data.units import Unit, in_order

def work(unit, advance):
    os.write(1, b"up\\n")
    while True:
        time.sleep(10) if unit.item else sum(range(1000))

{before}
units = [Unit(str(item), item) for item in range(2)]
in_order(ProcessExecutor(2).map(work, units, lambda amount, note="": None))
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
from wmgym.data.executors import ProcessExecutor
from wmgym.data.units import Unit, in_order

def work(unit, advance):
    os.write(1, b"up\\n")
    ctypes.PyDLL(None).sleep(30)  # C code that keeps every Python thread of its process from running

units = [Unit(str(item), item) for item in range(2)]
in_order(ProcessExecutor(2).map(work, units, lambda amount, note="": None))
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

    for _ in range(8):
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
