"""Result files: one a benchmark, each row once, with the commit and the cost of every unit of work."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from wmgym.data.units import Executor, Unit
from wmgym.io.provenance import cpu_seconds, library_versions

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
RUNS = ROOT / "runs" / "benchmarks"

Row = dict[str, Any]
Growing = Callable[["Row | None", Callable[["Row"], None]], None]
"""Work on a unit, given what is kept of it and a function that keeps more of it: ``wall_s``, ``cpu_s``, all
its ``rows`` so far, and what else there is to say of it."""
KEYS = ("command", "commit", "versions", "hardware", "seeds", "wall_s", "cpu_s", "units", "rows", "targets")
"""What every result file holds, in this order; ``rows`` name their unit, ``units`` hold no rows."""


class Units:
    """Units of work of one benchmark, so that a killed run goes on and processes can work side by side.

    Args:
        name: The benchmark.
        folder: Where finished units are kept, each in its own file.
        about: Kept with every unit, such as which worlds it measured.
    """

    def __init__(self, name: str, folder: Path, about: Row) -> None:
        self.name, self.folder, self.about = name, folder, about
        self.done: dict[str, Row] = {}

    def do(self, unit: str, work: Callable[[], list[Row]]) -> None:
        """Run a unit unless an earlier call finished it; its rows and cost are kept either way."""
        if not self._finished(unit):
            print(f"{unit}: started", flush=True)
            self._keep(unit, *_measured(work))
        self.done[unit] = read(self._path(unit))

    def do_all(
        self,
        works: Mapping[str, Callable[[], Any]],
        executor: Executor,
        take: Callable[[str, Any], list[Row]] = lambda unit, rows: list(rows),
    ) -> None:
        """Run units, likewise, wherever the executor does; one that fails stops no other and is raised last.

        ``take`` makes rows of what a work returned, in this process.
        """
        todo = [unit for unit in works if not self._finished(unit)]
        failed: BaseException | None = None

        def pieces() -> Iterator[Unit[Callable[[], Any]]]:
            for unit in todo:
                print(f"{unit}: started", flush=True)
                yield Unit(unit, works[unit])

        for outcome in executor.map(lambda piece, advance: _measured(piece.item), pieces(), _silent):
            if outcome.value is None:
                print(f"{outcome.unit.name}: failed: {outcome.error}", flush=True)
                failed = failed or outcome.error
            else:
                found, cost = outcome.value
                self._keep(outcome.unit.name, take(outcome.unit.name, found), cost)
        if failed is not None:
            raise failed
        self.done |= {unit: read(self._path(unit)) for unit in works}

    def _path(self, unit: str) -> Path:
        return self.folder / f"{unit}.json"

    def _finished(self, unit: str) -> bool:
        found = self._path(unit).exists()
        if found:
            print(f"{unit}: finished by an earlier run", flush=True)
        return found

    def _keep(self, unit: str, rows: list[Row], cost: Row) -> None:
        write(self._path(unit), {"unit": unit, **_origin(), **cost, **self.about, "rows": rows})
        print(f"{unit}: {len(rows)} rows in {cost['wall_s']} s", flush=True)

    def grow(self, unit: str, work: Growing, kept: Row | None, save: Callable[[], object]) -> None:
        """Run a unit that shows its rows as it measures them, and goes on from what ``kept`` is of it.

        It is not kept in the folder: ``save`` has to write it into the result.
        """

        def keep(found: Row) -> None:
            self.done[unit] = {"unit": unit, **_origin(), **self.about, **found}
            save()

        print(f"{unit}: started", flush=True)
        work(kept, keep)

    def write(
        self,
        path: Path,
        command: str,
        goals: Callable[[list[Row]], list[Row]],
        seeds: tuple[int, ...],
        keep: bool = True,
    ) -> Row:
        """Write the units of this run into the result file; ``keep`` the others that it holds.

        ``seeds`` are those of rows that name none.
        """
        with locked(self.folder.with_suffix(".lock")):
            units = self.done
            if keep and path.exists():
                units = by_unit(read(path)) | units
            every = [units[name] for name in sorted(units)]
            rows = [{"unit": unit["unit"], **row} for unit in every for row in unit["rows"]]
            document = {
                "command": command,
                "commit": commit(),
                "versions": {**library_versions(), "python": platform.python_version()},
                "hardware": hardware(),
                "seeds": sorted({row["seed"] for row in rows if "seed" in row}) or list(seeds),
                "wall_s": round(sum(unit["wall_s"] for unit in every), 1),
                "cpu_s": round(sum(unit["cpu_s"] for unit in every), 1),
                "units": [{key: value for key, value in unit.items() if key != "rows"} for unit in every],
                "rows": rows,
                "targets": goals(rows),
            }
            write(path, document)
        return document


def _measured(work: Callable[[], Any]) -> tuple[Any, Row]:
    """What a work returned, and what it cost."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    found = work()
    return found, {"wall_s": round(time.perf_counter() - wall, 1), "cpu_s": round(cpu_seconds() - cpu, 1)}


def _silent(amount: int, note: str = "") -> None:
    return None


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def read(path: Path) -> Row:
    """One JSON file."""
    found: Row = json.loads(path.read_text())
    return found


def write(path: Path, document: Row) -> None:
    """Replace a JSON file at once, with one line for every entry of a list at the top."""

    def said(value: Any) -> str:
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return (
                "[\n" + ",\n".join(f"    {json.dumps(entry, allow_nan=False)}" for entry in value) + "\n  ]"
            )
        return json.dumps(value, allow_nan=False)

    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(f"  {json.dumps(key)}: {said(value)}" for key, value in document.items())
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(f"{{\n{lines}\n}}\n")
    temporary.replace(path)


def by_unit(document: Row) -> dict[str, Row]:
    """Every unit of a result file with its rows, as ``Units.do`` keeps it; where it ran stays with it."""
    where = document["hardware"]
    units = {unit["unit"]: {"hardware": where, **unit, "rows": list[Row]()} for unit in document["units"]}
    for row in document["rows"]:
        units[row["unit"]]["rows"].append({key: value for key, value in row.items() if key != "unit"})
    return units


def committed(name: str) -> Row | None:
    """A committed result file, None where there is none."""
    path = RESULTS / f"{name}.json"
    return read(path) if path.exists() else None


def committed_unit(name: str, unit: str) -> Row | None:
    """A unit of a committed result with its rows, None where there is none."""
    document = committed(name)
    return None if document is None else by_unit(document).get(unit)


def result_rows(name: str, **having: Any) -> list[Row]:
    """Rows of a committed result that have these values; none where there is no result."""
    document = committed(name)
    every: list[Row] = [] if document is None else document["rows"]
    return [row for row in every if all(row.get(key) == value for key, value in having.items())]


def target(what: str, aim: str, measured: Any, met: bool | None) -> Row:
    """One goal beside what was measured; an ``aim`` of "none set" is a measurement without a goal.

    ``met`` is None where too little has been measured yet.
    """
    return {"what": what, "target": aim, "measured": measured, "met": None if met is None else bool(met)}


def _origin() -> Row:
    """Which code measured a unit, on what."""
    return {"commit": commit(), "hardware": hardware()}


def commit() -> str:
    """The checkout's commit, marked where code differs from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "wmgym", "benchmarks", "tools", ":!benchmarks/results")
        return git("rev-parse", "--short", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def hardware() -> Row:
    """Processor, cores and memory."""
    model = platform.processor() or "unknown"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), model)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"cpu": model, "cores": os.cpu_count(), "memory_gib": round(memory), "system": sys.platform}
