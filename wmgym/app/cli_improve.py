"""The command that makes a world true where its own policies go; ``cli`` adds it to the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from wmgym.app import console, options


def improve(
    world: options.World,
    out: options.Out,
    data: Annotated[
        Path | None,
        Option(help="Transitions that WORLD was fitted to; without them refits are gentle and help less."),
    ] = None,
    calibration_data: Annotated[
        Path | None, Option(help="More real episodes for the bounds, which no fit saw.", show_default="none")
    ] = None,
    rounds: Annotated[int, Option(min=1, help="Refits at most.")] = 3,
    steps: Annotated[int, Option(min=1, help="Real env steps of all rounds.")] = 40_000,
    max_gap: Annotated[
        float, Option(help="Stop where a fresh policy's gap is within this share of the range of returns.")
    ] = 0.05,
    algorithm: Annotated[
        str | None,
        Option(
            help="Class of Stable-Baselines3 or sb3-contrib, or DynaSAC.",
            show_default="DynaSAC, or PPO for Discrete actions",
        ),
    ] = None,
    imagined_steps: Annotated[
        int | None,
        Option(
            min=1,
            help="Imagined steps of each policy's training.",
            show_default="5,000 DynaSAC, 200,000 PPO or A2C, else 50,000",
        ),
    ] = None,
    max_episode_steps: options.MaxEpisodeSteps = None,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
) -> None:
    """Train policies in a world, play them in the real env, and fit the world on to what came of it.

    A killed call does again the training or refit that it was in, and goes on. Writes OUT/world, OUT/policy,
    the best in reality of those trained, OUT/data, all that the world was fitted to, and OUT/improve.json.

    Example: wmgym improve worlds/cheetah --data data/cheetah --out runs/better
    """
    with console.job("improve", out, as_json, writes=("improve.json", "run.json")) as job:
        from wmgym.app import improve as improve_module
        from wmgym.data.transitions import Transitions
        from wmgym.models import saving

        source = saving.load(world)
        train = improve_module.training(source, algorithm, imagined_steps, max_episode_steps)
        old, calib = (None if path is None else Transitions.load(path) for path in (data, calibration_data))
        done = improve_module.improve(
            source,
            out,
            old,
            calib=calib,
            rounds=rounds,
            real_steps=steps,
            max_gap=max_gap,
            train=train,
            seed=seed,
            progress=not as_json,
            say=lambda text: typer.echo(text, err=True),
        )
        rows = [
            (
                bred.policy, f"{bred.real:,.1f}", f"{bred.imagined:,.1f}", f"{bred.gap:+.1%}",
                "-" if bred.coverage is None else f"{bred.coverage:.0%}",
            )
            for bred in done.rounds
        ]  # fmt: skip
        rows.append(("random actions", f"{done.random:,.1f}", "-", "-", "-"))
        names = ("policy", "real return", "imagined return", "gap", "bounds hold")
        result = {
            "rounds": [bred.model_dump() for bred in done.rounds],
            "random": done.random,
            "policy": done.policy.name,
            "conclusion": done.conclusion,
        }
        job.answer(result, done.ledger, console.table(None, names, rows))


COMMANDS: tuple[Callable[..., None], ...] = (improve,)
"""In the order of the list of commands."""
