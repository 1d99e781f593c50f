"""Ray beyond one process: nodes that are lost, Ctrl-C, kills, addresses at which nothing answers."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from wmgym.data.units import Unit, in_order
from wmgym.io.progress import Advance

pytest.importorskip("ray")

from benchmarks.harness.clusters import Nodes, cluster
from wmgym.data import ray_cluster, ray_executor
from wmgym.data.executors import make_executor
from wmgym.data.ray_executor import RayExecutor

ENDLESS = """
import os, signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)
import wmgym
from wmgym.data.units import in_order

def work(unit, advance):
    with open({place!r} + unit.name, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(600)

executor = wmgym.make_executor("ray", workers=2)
units = [wmgym.Unit(str(i), i) for i in range(2)]
in_order(executor.map(work, units, lambda amount, note="": None))
"""


def silent(amount: int, note: str = "") -> None:
    return None


def units(count: int) -> list[Unit[int]]:
    return [Unit(f"number {index}", index, seed=index) for index in range(count)]


@pytest.fixture
def two_nodes() -> Iterator[Nodes]:
    with cluster() as nodes:
        yield nodes


def numbers(unit: Unit[int], advance: Advance) -> np.ndarray:
    time.sleep(0.5)
    return np.random.default_rng(unit.seed).normal(size=50_000)  # large enough to stay on its node


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_nodes_that_are_lost_lose_nothing(two_nodes: Nodes) -> None:
    """One after the other, and the one that takes the place of the first as well."""
    found: dict[int, Any] = {}
    for outcome in RayExecutor().map(numbers, units(16), silent):
        found[outcome.index] = outcome.value
        if len(found) in (4, 8):
            two_nodes.kill(0)
            two_nodes.add()
    assert sorted(found) == list(range(16))
    for index, value in found.items():
        assert (value == np.random.default_rng(index).normal(size=50_000)).all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_unit_whose_node_is_lost_every_time_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def deadly(unit: Unit[int], advance: Advance) -> int:
        if unit.item == 0:
            os.kill(os.getppid(), signal.SIGKILL)  # the raylet
            time.sleep(60)
        return unit.item

    def refill(amount: int, note: str = "") -> None:
        if nodes.alive() < 1:
            nodes.add()

    monkeypatch.setattr(ray_executor, "_ATTEMPTS", {True: 3, False: 2})
    with cluster(nodes=1) as nodes:
        found = {each.index: each for each in RayExecutor().map(deadly, units(3), refill)}
    assert [found[index].value for index in (1, 2)] == [1, 2]
    assert str(found[0].error) == "unit 'number 0': its node was lost, 3 times; is memory short?"


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_is_left_when_the_driver_ends(end: int, tmp_path: Any) -> None:
    code = ENDLESS.format(place=f"{tmp_path}/")
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stderr=pipe, start_new_session=True) as driver:
        for _ in range(600):
            pids = [path.read_text() for path in tmp_path.iterdir()]
            if len(pids) == 2 and all(pids):
                break
            time.sleep(0.1)
        assert len(pids) == 2, driver.stderr and driver.stderr.read().decode()
        os.kill(driver.pid, end)
        driver.wait(20)
    for _ in range(100):
        alive = [pid for pid in pids if _runs(int(pid))]
        if not alive:
            break
        time.sleep(0.1)
    assert not alive
    assert not _raylets_of(driver.pid)


def _runs(pid: int) -> bool:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"
    return False


def _raylets_of(session: int) -> list[str]:
    listed = subprocess.run(["ps", "-e", "-o", "sess=,args="], capture_output=True, text=True, check=True)
    rows = (line.split(None, 1) for line in listed.stdout.splitlines())
    return [
        args for sess, args in rows if sess == str(session) and ("raylet" in args or "gcs_server" in args)
    ]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("nonsense", "'nonsense' is no address of a Ray cluster; pass 'auto' or HOST:PORT"),
        ("ray://localhost:10001", "is no address of a Ray cluster"),
        ("127.0.0.1:1", r"no Ray cluster answers at 127\.0\.0\.1:1 .*refused"),
        ("127.0.0.1:99999", "no Ray cluster answers"),
        ("no.such.host.invalid:6379", "no Ray cluster answers"),
        ("\x00:6379", "no Ray cluster answers"),
    ],
)
def test_an_address_at_which_nothing_answers_is_one_line(
    address: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster.ray, "is_initialized", lambda: False)
    began = time.monotonic()
    with pytest.raises(ConnectionError, match=said) as caught:
        make_executor("ray", address=address)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 10


@pytest.mark.slow
def test_something_else_that_listens_is_refused_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster.ray, "is_initialized", lambda: False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        began = time.monotonic()
        with pytest.raises(ConnectionError, match="has not answered for 6 seconds"):
            make_executor("ray", address=f"127.0.0.1:{server.getsockname()[1]}")
        assert time.monotonic() - began < 10
    with pytest.raises(ConnectionError, match="on this machine: none is running"):
        make_executor("ray", address="auto")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_arrays_cross_to_each_node_once(two_nodes: Nodes) -> None:
    shared = np.arange(600_000.0)
    in_order(RayExecutor().map(lambda unit, advance: None, units(4), silent))
    before = two_nodes.bytes_created()

    def work(unit: Unit[int], advance: Advance) -> float:
        time.sleep(0.2)  # so that both nodes have some
        return float(shared.sum())

    totals = in_order(RayExecutor().map(work, units(30), silent))
    assert set(totals) == {float(shared.sum())}
    for old, new in zip(before, two_nodes.bytes_created(), strict=True):
        assert (new - old) / shared.nbytes == pytest.approx(1.0, abs=0.05)
