"""The command line that all benchmarks share."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import tables
from benchmarks.harness.results import (
    RESULTS,
    ROOT,
    RUNS,
    Row,
    Units,
    by_unit,
    committed,
    committed_unit,
    result_rows,
)
from benchmarks.harness.worlds import TASKS, Setup
from wmgym.data.executors import KINDS, make_executor

Work = Callable[[], list[Row]]


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """One question; the module it stands in has its name and its description.

    Attributes:
        units: the pieces of work of a run, by name, given the setup and the parsed arguments: ``Work``, or
            ``Growing`` if it ``grows``.
        goals: targets beside what was measured, from all rows.
        collects: what a run makes before it measures; with ``fits``, only when asked to by ``--fit``.
        envs: tasks to choose from.
        fits: whether worlds can be fitted anew.
        seeds: of all runs, where rows name none.
        arguments: adds options of its own to the parser.
        threads: for torch; None leaves its default.
        grows: the units show rows as they measure them and go on where an earlier run stopped.
    """

    units: Callable[[Setup, argparse.Namespace], Mapping[str, Any]]
    goals: Callable[[list[Row]], list[Row]]
    collects: str
    envs: tuple[str, ...] = TASKS
    fits: bool = False
    seeds: tuple[int, ...] = (0,)
    arguments: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    threads: int | None = 1
    grows: bool = False


def per_env(measure: Callable[[str, Setup], list[Row]]) -> Callable[..., dict[str, Work]]:
    """One unit of work for every task."""

    def units(setup: Setup, args: argparse.Namespace) -> dict[str, Work]:
        return {env_id: functools.partial(measure, env_id, setup) for env_id in args.env}

    return units


def main(name: str, doc: str, benchmark: Benchmark, argv: list[str]) -> None:
    """Say what a full run takes, run the units asked for, write and print the result."""
    args = parse(name, doc, benchmark, argv)
    setup = Setup(quick=args.quick, fit=args.fit)
    print(announcement(name, benchmark, args), flush=True)
    if benchmark.threads is not None:
        torch.set_num_threads(benchmark.threads)
    kind = "quick" if args.quick else "fitted" if args.fit else "shipped"
    folder = RUNS / kind / name
    if args.quick:
        shutil.rmtree(folder, ignore_errors=True)
    about = {"worlds": "fitted" if args.fit else "shipped"} if benchmark.fits else {}
    units = Units(name, folder, about)
    path = RUNS / "quick" / f"{name}.json" if args.quick else RESULTS / f"{name}.json"
    command = f"python -m benchmarks {name}{against(args)}" + " --quick" * args.quick + " --fit" * args.fit

    def save() -> Row:
        return units.write(path, command, benchmark.goals, benchmark.seeds, keep=not args.quick)

    works = benchmark.units(setup, args)
    if args.executor is not None:
        units.do_all(works, make_executor(args.executor, address=args.address))
        works = {}
    for unit, work in works.items():
        if benchmark.grows:
            units.grow(unit, work, None if args.quick else committed_unit(name, unit), save)
        else:
            units.do(unit, work)
    result = save()
    print(tables.plain_targets(result["targets"], judged=not args.quick))
    print(f"written to {path.relative_to(ROOT)}")


def parse(name: str, doc: str, benchmark: Benchmark, argv: list[str]) -> argparse.Namespace:
    """The arguments of one benchmark."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {name}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--env", nargs="+", choices=benchmark.envs, default=list(benchmark.envs), metavar="ENV",
        help=f"tasks, of {', '.join(benchmark.envs)}; all of them by default",
    )  # fmt: skip
    parser.add_argument(
        "--quick", action="store_true",
        help="a small sample, in under 3 minutes a task; does not touch the committed result",
    )  # fmt: skip
    if benchmark.fits:
        parser.add_argument(
            "--fit", action="store_true",
            help="collect data and fit worlds anew instead of measuring the shipped ones",
        )  # fmt: skip
    parser.add_argument(
        "--executor", choices=KINDS,
        help="do units side by side, in processes or on a Ray cluster; leave it out where time is measured",
    )  # fmt: skip
    parser.add_argument("--address", help="of the Ray cluster")
    parser.set_defaults(fit=False)
    benchmark.arguments(parser)
    args = parser.parse_args(argv)
    if args.executor and benchmark.grows:
        parser.error(f"{name} keeps rows as it measures them, in one process; leave --executor out")
    if args.quick and args.fit:
        parser.error("--quick runs on shipped worlds; leave --fit out")
    return args


def announcement(name: str, benchmark: Benchmark, args: argparse.Namespace) -> str:
    """What this run does, and what the full one takes."""
    which = "worlds fitted anew" if args.fit else "the shipped worlds"
    size = "a small sample" if args.quick else "the full sample"
    full = f"python -m benchmarks {name} --env {' '.join(args.env)}{against(args)}"
    full += " --fit" * benchmark.fits
    document, cost = committed(name), minutes(name, args.env, benchmark.fits)
    took = "has not been timed yet"
    if document is not None and cost:
        machine = document["hardware"]
        time = "a minute" if round(cost) <= 1 else f"about {cost:,.0f} minutes"
        took = f"took {time} on {machine['cores']} cores ({machine['cpu']})"
    return "\n".join(
        [
            f"{name}: {', '.join(args.env)}; {size}" + (f", {which}" if benchmark.fits else ""),
            f"The full run, `{full}`, {took}. It {benchmark.collects}.",
        ]
    )


def against(args: argparse.Namespace) -> str:
    """The earlier checkout that a run compares with, if it does; a folder is this machine's affair."""
    base = getattr(args, "base", None)
    return "" if base is None else " --base PATH" if Path(base).is_dir() else f" --base {base}"


def minutes(name: str, envs: list[str], fits: bool) -> float:
    """What the committed units of these tasks took; fits that an earlier run had finished are added."""
    document = committed(name)
    if document is None:
        return 0.0
    fit = {row["env"]: row["minutes"] for row in result_rows("open_loop", section="fit")} if fits else {}
    total = 0.0
    for unit in by_unit(document).values():
        about: set[Any] = {row.get("env", envs[0]) for row in unit["rows"]}
        for env_id in about & set(envs):
            took = unit["wall_s"] / 60
            total += took if took > fit.get(env_id, 0.0) else took + fit[env_id]
    return max(1.0, total)
