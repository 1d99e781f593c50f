"""What do units of work cost in processes and on Ray, and what is lost when a node is?

Units of 10 seconds sleep, for the machine's cores are shared: what is left of a unit's time is then the
executor's own. Ray's multi-node cluster is the one of its own tests: a head without CPUs and two worker nodes
of a CPU each, raylets of their own, all on this machine; no network lies between them.
"""

from __future__ import annotations

import argparse
import functools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import wmgym
from benchmarks.harness.clusters import SMALL_RUN, cluster
from benchmarks.harness.results import ROOT, Row, target
from benchmarks.harness.runner import Benchmark
from benchmarks.harness.worlds import Setup
from wmgym.data.executors import ProcessExecutor, SerialExecutor, make_executor
from wmgym.data.units import Executor, Unit, in_order
from wmgym.io import artifacts, files
from wmgym.io.progress import Advance

WORLD = "HalfCheetah-v5"
NO_RAY = "import sys; sys.modules['ray'] = None; "


def silent(amount: int, note: str = "") -> None:
    return None


def overhead(kind: str, setup: Setup) -> list[Row]:
    """Units that sleep, two at a time, with a world in their work."""
    world, seconds = wmgym.load(WORLD), setup.size(10, 1)

    def work(unit: Unit[int], advance: Advance) -> str:
        time.sleep(seconds)
        return world.task.env_id

    if kind == "processes":
        return _timed(kind, ProcessExecutor(2), work, seconds, setup.size(8, 4))
    with cluster():
        return _timed(kind, make_executor("ray"), work, seconds, setup.size(8, 4))


def _timed(kind: str, executor: Executor, work: Any, seconds: float, count: int) -> list[Row]:
    began: dict[int, float] = {}

    def units() -> Iterator[Unit[int]]:
        for index in range(count):
            began[index] = time.perf_counter()
            yield Unit(f"sleep {index}", index)

    start = time.perf_counter()
    took = {}
    for outcome in executor.map(work, units(), silent):
        took[outcome.index] = time.perf_counter() - began[outcome.index]
    wall = time.perf_counter() - start
    rows: list[Row] = [
        {"section": "overhead", "executor": kind, "seconds": seconds, "index": index, "took": took[index]}
        for index in sorted(took)
    ]
    ideal = seconds * count / 2
    return [*rows, {"section": "makespan", "executor": kind, "units": count, "wall": wall, "ideal": ideal}]


def node_lost(setup: Setup) -> list[Row]:
    """A sweep of 20 runs on two nodes, one of which is killed when a third of the runs is done."""
    count = setup.size(20, 4)
    config = wmgym.SweepConfig(
        tasks=("InvertedPendulum-v5",), seeds=tuple(range(count)), budgets=(300,), algorithms=("PPO",),
        settings=SMALL_RUN,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as home:
        whole, broken = Path(home) / "whole", Path(home) / "broken"
        wmgym.sweep(config, whole, executor=SerialExecutor())
        killed: list[int] = []
        with cluster() as nodes:

            def say(text: str) -> None:
                done.append(text)
                if not killed and sum(line.startswith("done") for line in done) >= count // 3:
                    killed.append(len(done))
                    nodes.kill(0)

            done: list[str] = []
            began = time.perf_counter()
            found = wmgym.sweep(config, broken, executor="ray", say=say)
            wall = time.perf_counter() - began
        first, second = (_made(out) for out in (whole, broken))
        back = sum(path.stat().st_size for path in broken.glob("units/*/run/**/*") if path.is_file())
    differ = sum(second.get(name) != made for name, made in first.items() if name in second)
    return [
        {"section": "node lost", "units": count, "done": len(found.rows), "failed": len(found.failed),
         "lost": count - len(second), "differ": differ, "killed_after": killed[0] if killed else None,
         "wall": wall, "mb_back": back / 1e6}
    ]  # fmt: skip


def _made(out: Path) -> dict[str, Any]:
    return {path.parent.name: artifacts.read_json(path)["made"] for path in out.glob("units/*/unit.json")}


def many(setup: Setup) -> list[Row]:
    """Units of 0.2 s on Ray: what the driver keeps, and in which order results are."""
    count = setup.size(200, 20)

    def work(unit: Unit[int], advance: Advance) -> tuple[int, np.ndarray]:
        time.sleep(0.2)
        return unit.item, np.full(1_000, unit.item)

    with cluster():
        executor = make_executor("ray")
        in_order(executor.map(work, [Unit("warm", 0), Unit("warm too", 1)], silent))
        before, start = _resident(), time.perf_counter()
        found = in_order(executor.map(work, [Unit(str(i), i) for i in range(count)], silent))
        wall, after = time.perf_counter() - start, _resident()
    right = [index for index, _ in found] == list(range(count))
    return [
        {"section": "many", "units": count, "growth_mb": (after - before) / 1e6, "in_order": right,
         "wall": wall, "ideal": 0.2 * count / 2}
    ]  # fmt: skip


def world_sent(setup: Setup) -> list[Row]:
    """One world to 50 units on two nodes: bytes written to each node's object store, relative to its own."""
    world = wmgym.load(WORLD)
    size = sum(array.nbytes for array in world.pack()[0].values())

    def work(unit: Unit[int], advance: Advance) -> tuple[str, float]:
        import ray

        time.sleep(0.05)
        return ray.get_runtime_context().get_node_id(), float(world.pack()[0]["starts"].sum())

    with cluster() as nodes:
        executor = make_executor("ray")
        in_order(executor.map(lambda unit, advance: None, [Unit(str(i), i) for i in range(4)], silent))
        before = nodes.bytes_created()
        found = in_order(executor.map(work, [Unit(str(i), i) for i in range(50)], silent))
        after = nodes.bytes_created()
    per_node = [(b - a) / size for a, b in zip(before, after, strict=True)]
    return [
        {"section": "world", "mb": size / 1e6, "units": 50, "nodes": len({node for node, _ in found}),
         "copies": per_node, "same": len({value for _, value in found}) == 1}
    ]  # fmt: skip


def driver(setup: Setup) -> list[Row]:
    """What the driver of a sweep does for every run: write what came back, and look at all that is open."""
    with tempfile.TemporaryDirectory() as home:
        out = Path(home)
        wmgym.load(WORLD).save(out / "world")
        back = {f"world/{file.name}": file.read_bytes() for file in (out / "world").iterdir()}
        back |= {f"{name}.json": b"{}" * 5_000 for name in ("run", "config", "report", "learning")}
        writing = []
        for index in range(setup.size(20, 3)):
            began = time.perf_counter()
            files.write_files(out / str(index), back)
            writing.append(time.perf_counter() - began)
    with cluster() as _:
        import ray

        sleep = ray.remote(lambda: time.sleep(60))
        waiting = [sleep.remote() for _ in range(2_000)]
        looking = []
        for _ in range(setup.size(20, 3)):
            began = time.perf_counter()
            ray.wait(waiting, timeout=0)
            looking.append(time.perf_counter() - began)
    return [
        {"section": "driver", "mb": sum(map(len, back.values())) / 1e6, "files": len(back),
         "write_s": float(np.median(writing)), "open": len(waiting), "look_s": float(np.median(looking))}
    ]  # fmt: skip


def importing(setup: Setup) -> list[Row]:
    """Seconds of ``import wmgym`` with Ray installed and without, alternately; what is said without."""
    times: dict[str, list[float]] = {"with Ray": [], "without Ray": []}
    for _ in range(setup.size(15, 3)):
        for name, code in {"with Ray": "", "without Ray": NO_RAY}.items():
            began = time.perf_counter()
            _python(f"{code}import wmgym, sys; assert not sys.modules.get('ray')")
            times[name].append(time.perf_counter() - began)
    asked = _python(NO_RAY + "import wmgym; wmgym.make_executor('ray')", check=False)
    said = asked.stderr.strip().splitlines()[-1]
    return [
        {
            "section": "import",
            "case": name,
            "median_s": float(np.median(each)),
            "runs": len(each),
            "said": said,
        }
        for name, each in times.items()
    ]


def _python(code: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=check)


def _resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def units(setup: Setup, args: argparse.Namespace) -> dict[str, Callable[[], list[Row]]]:
    return {
        "overhead of processes": functools.partial(overhead, "processes", setup),
        "overhead of Ray": functools.partial(overhead, "ray", setup),
        "node lost": functools.partial(node_lost, setup),
        "many": functools.partial(many, setup),
        "world": functools.partial(world_sent, setup),
        "driver": functools.partial(driver, setup),
        "import": functools.partial(importing, setup),
    }


def goals(rows: list[Row]) -> list[Row]:
    """The targets beside what was measured."""
    return [
        _overhead_goal(rows, "processes", 0.02),
        _overhead_goal(rows, "ray", 0.05),
        *_one(rows, "node lost", _lost_goals),
        *_one(rows, "many", _many_goals),
        *_one(rows, "world", _world_goals),
        *_one(rows, "driver", _driver_goals),
        _import_goal(rows),
    ]


def _overhead_goal(rows: list[Row], kind: str, most: float) -> Row:
    mine = [r for r in rows if r["section"] == "overhead" and r["executor"] == kind]
    shares = [r["took"] / r["seconds"] - 1 for r in mine]
    what = f"overhead of a unit of 10 s, {'Ray' if kind == 'ray' else kind}: median, worst of {len(mine)}"
    if not shares:
        return target(what, f"<= {most:.0%}", None, None)
    middle = float(np.median(shares))
    return target(what, f"<= {most:.0%}", f"{middle:.2%} / {max(shares):.2%}", middle <= most)


def _one(rows: list[Row], section: str, made: Callable[[Row], list[Row]]) -> list[Row]:
    found = [r for r in rows if r["section"] == section]
    return made(found[0]) if found else []


def _lost_goals(r: Row) -> list[Row]:
    what = f"a worker node killed after {r['killed_after']} of a sweep of {r['units']} units"
    return [
        target(f"{what}: lost units", "0", r["lost"], r["lost"] == 0 and r["killed_after"] is not None),
        target(f"{what}: results not bit-equal", "0", r["differ"], r["differ"] == 0 and r["lost"] == 0),
    ]


def _many_goals(r: Row) -> list[Row]:
    what = f"{r['units']} units of 0.2 s on Ray"
    return [
        target(f"{what}: growth of the driver's memory", "< 50 MB", f"{r['growth_mb']:.1f} MB",
               r["growth_mb"] < 50),
        target(f"{what}: order of results", "as given", "as given" if r["in_order"] else "another",
               r["in_order"]),
        target(f"{what}: time relative to two CPUs that never wait", "none set",
               round(r["wall"] / r["ideal"], 2), True),
    ]  # fmt: skip


def _world_goals(r: Row) -> list[Row]:
    copies = " / ".join(f"{each:.2f}" for each in r["copies"])
    return [
        target(f"a world of {r['mb']:.1f} MB sent to {r['units']} units on {r['nodes']} nodes: times it"
               " crosses to each", "1", copies,
               r["nodes"] == 2 and all(0.99 < each < 1.05 for each in r["copies"]))
    ]  # fmt: skip


def _driver_goals(r: Row) -> list[Row]:
    what = f"a driver's time to write a run of {r['mb']:.1f} MB, and to look at {r['open']:,} open units, ms"
    return [target(what, "none set", f"{1e3 * r['write_s']:.0f} / {1e3 * r['look_s']:.1f}", True)]


def _import_goal(rows: list[Row]) -> Row:
    times = {r["case"]: r["median_s"] for r in rows if r["section"] == "import"}
    what = "`import wmgym`, seconds, with Ray installed / without; a line where it is asked for and absent"
    if not times:
        return target(what, "unchanged; yes", None, None)
    said = next(r["said"] for r in rows if r["section"] == "import")
    line = said.startswith("ImportError: ") and 'pip install "wmgym[ray]"' in said
    both = times["with Ray"], times["without Ray"]
    same = abs(both[0] / both[1] - 1) < 0.1
    return target(what, "unchanged; yes", f"{both[0]:.2f} / {both[1]:.2f}; {'yes' if line else 'no'}",
                  same and line)  # fmt: skip


BENCHMARK = Benchmark(
    units=units,
    goals=goals,
    collects="makes what it needs",
    envs=("InvertedPendulum-v5",),
)
