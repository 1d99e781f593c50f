"""Fit, calibrate and ship one world a task.

    python -m tools.fit_worlds                     # all tasks, into wmgym/models/pretrained/
    python -m tools.fit_worlds --env Hopper-v5     # finished tasks are skipped
    python -m tools.fit_worlds --calibrate         # new bounds for the worlds there are
    python -m tools.fit_worlds --improve --env Hopper-v5           # fit one on to the policies that it breeds
    python -m tools.fit_worlds --small --env Hopper-v5             # a smaller twin of a world that ships
    python -m tools.fit_worlds --executor ray --address auto       # a task a unit

The worlds are those of ``benchmarks/harness/worlds.py``, rounded to half precision and calibrated after that,
so that the bounds are the rounded world's. ``benchmarks/results/fit_worlds.json`` holds sizes and what
rounding costs; ``python -m benchmarks pages`` writes the cards.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import wmgym
from benchmarks.harness.bred import bred_data, improved
from benchmarks.harness.metrics import spread, window_error
from benchmarks.harness.results import RESULTS, RUNS, Row, Units, target
from benchmarks.harness.worlds import (
    LARGE,
    TASKS,
    calibration_data,
    distilled,
    fitted,
    held_out_data,
    pool_data,
    small_ships,
)
from wmgym.data.executors import KINDS, make_executor
from wmgym.data.joining import concat
from wmgym.io import files
from wmgym.io.registered import SHIPPED, SMALL

STARTS = 512
LIMIT, WHOLE_LIMIT = 40e6, 60e6  # bytes, the eleven tasks' worlds together, and with their smaller twins


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", nargs="+", choices=TASKS, default=TASKS, metavar="ENV")
    parser.add_argument("--calibrate", action="store_true", help="fit nothing; make the bounds anew")
    parser.add_argument("--improve", action="store_true", help="fit on in rounds; see wmgym.improve")
    parser.add_argument("--small", action="store_true", help="distil smaller twins, into <env>-small")
    parser.add_argument("--executor", choices=KINDS, default="serial")
    parser.add_argument("--workers", type=int, help="processes; one a core by default")
    parser.add_argument("--address", help="of a Ray cluster; auto is the one of this machine")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.calibrate:
        for env_id in args.env:
            data = bounds_data(env_id, wmgym.load(env_id))
            for name in [env_id, f"{env_id}{SMALL}"][: 1 + small_ships(env_id)]:
                wmgym.calibrate(wmgym.load(name), data, seed=0).save(SHIPPED / name, half=True)
                print(name, flush=True)
        return
    if args.small:
        for env_id in args.env:
            teacher = wmgym.load(env_id)
            _, payloads = ship(env_id, functools.partial(distilled, teacher=teacher), teacher)
            put(f"{env_id}{SMALL}", payloads)
            print(f"{env_id}{SMALL}", flush=True)
        return
    make = improved if args.improve else fitted
    units = Units("fit_worlds", RUNS / make.__name__ / "fit_worlds", {})
    works = {env_id: functools.partial(ship, env_id, make) for env_id in args.env}
    units.do_all(works, make_executor(args.executor, workers=args.workers, address=args.address), take)
    path = RESULTS / "fit_worlds.json"
    units.write(path, "python -m tools.fit_worlds", goals, (0,))
    print(path)


def ship(
    env_id: str, make: Callable[[str], wmgym.WorldModel], breeder: wmgym.WorldModel | None = None
) -> tuple[Row, dict[str, bytes]]:
    """A row, and the files of the world that was made, which may come from another machine.

    Its bounds also hold for policies that were trained in ``breeder``, or in the world itself.
    """
    whole = make(env_id)
    bank = np.random.default_rng(0).permutation(whole.starts)[:STARTS]
    with tempfile.TemporaryDirectory() as home:
        path = Path(home) / env_id
        dataclasses.replace(whole, starts=bank, calibration=None).save(path, half=True)
        rounded = wmgym.load(path)
        data = bounds_data(env_id, rounded if breeder is None else breeder)
        wmgym.calibrate(rounded, data, seed=0).save(path, half=True)
        shipped = wmgym.load(path)
        payloads = {file.name: file.read_bytes() for file in path.iterdir()}
    row = {
        "env": env_id, "bytes": sum(map(len, payloads.values())),
        "error_full_precision": error(env_id, whole), "error_half_precision": error(env_id, shipped),
    }  # fmt: skip
    return row, payloads


def bounds_data(env_id: str, breeder: wmgym.WorldModel) -> wmgym.Transitions:
    """Episodes of the calibration's policies, and of some that were trained in a world alone."""
    bred = bred_data(env_id, breeder)
    return concat([calibration_data(env_id), *([] if bred is None else [bred])])


def take(env_id: str, made: tuple[Row, dict[str, bytes]]) -> list[Row]:
    """Put a world where it ships."""
    row, payloads = made
    put(env_id, payloads)
    return [row]


def put(name: str, payloads: dict[str, bytes]) -> None:
    """Write a world's files where it ships, and remove its old ones; its card stays."""
    files.write_files(SHIPPED / name, payloads)
    for old in (SHIPPED / name).iterdir():
        if old.suffix != ".md" and old.name not in payloads:
            old.unlink()


def error(env_id: str, world: wmgym.WorldModel, horizon: int = 32) -> float:
    """Normalised error after 32 steps, held-out policies."""
    test, std = held_out_data(env_id), spread(pool_data(env_id))
    return window_error(world, test, std, horizon, np.random.default_rng(0))


def goals(rows: list[Row]) -> list[Row]:
    """The targets beside what was measured."""
    total = sum(r["bytes"] for r in rows)
    whole = sum(file.stat().st_size for file in SHIPPED.rglob("*") if file.is_file())
    cost = {
        r["env"]: round(r["error_half_precision"] / r["error_full_precision"] - 1, 4)
        for r in rows
        if r["env"] in LARGE
    }
    return [
        target("shipped worlds, all eleven tasks together", "<= 40 MB",
               f"{total / 1e6:.1f} MB, {len(rows)} tasks", len(rows) == len(TASKS) and total <= LIMIT),
        target("and their smaller twins", "<= 60 MB", f"{whole / 1e6:.1f} MB", whole <= WHOLE_LIMIT),
        target("half precision costs no fidelity: change of the error at h = 32", "<= 2 %", cost,
               len(cost) == len(LARGE) and max(cost.values()) <= 0.02),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
