"""The command that does many runs; ``cli`` adds it to the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from typer import Argument, Option

from wmgym.app import console, options


def sweep(
    config: Annotated[
        Path, Argument(metavar="CONFIG", help="YAML file: tasks, seeds, budgets, algorithms, settings.")
    ],
    out: options.Out,
    executor: Annotated[
        str, Option(metavar="serial|processes|ray", help="Where the runs are done; results are the same.")
    ] = "processes",
    address: options.Address = None,
    workers: Annotated[
        int | None, Option(min=1, help="Runs at once on this machine.", show_default="one a core")
    ] = None,
    budget_steps: Annotated[
        int | None, Option(min=1, help="Real env steps of all runs at most.", show_default="no limit")
    ] = None,
    budget_hours: Annotated[
        float | None, Option(help="Hours of all runs at most, added up over machines.", show_default="none")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Do many runs: tasks x algorithms x seeds x budgets. A killed sweep goes on where it stopped.

    The exit status is 1 where a run failed; the same command tries it again.

    Example: wmgym sweep sweep.yaml --out runs/sweep --executor ray --address auto
    """
    with console.job("sweep", out, as_json, writes=("results.json", "sweep.html")) as job:
        from wmgym.app import sweep as sweep_module
        from wmgym.app.sweep_config import read_config
        from wmgym.data.executors import make_executor

        asked = read_config(config)
        where = make_executor(executor, workers=workers, address=address)
        found = sweep_module.sweep(
            asked,
            out,
            executor=where,
            budget_steps=budget_steps,
            budget_hours=budget_hours,
            progress=not as_json,
            say=lambda text: typer.echo(text, err=True),
        )
        rows = [
            (r["task"], r["algorithm"], f"{r['budget']:,}", str(r["seed"]), f"{r['real_return']:,.1f}")
            for r in found.rows
        ]
        shown = console.table(None, ("task", "algorithm", "steps", "seed", "return"), rows)
        state = {"done": len(found.rows), "failed": list(found.failed), "left": found.left}
        result = {"rows": found.rows, "failed": found.failed, "left": found.left}
        job.answer(result, found.ledger, Group(shown, console.facts(state)), page=found.page)
    if found.failed:
        raise typer.Exit(1)


COMMANDS: tuple[Callable[..., None], ...] = (sweep,)
"""In the order of the list of commands."""
