"""The command line: each command leaves its artifact and a ``run.json`` in ``--out``.

Exit status: 0 done, 1 the input is at fault (one line on stderr), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from typer import Option

from wmgym import __version__
from wmgym.app import (
    cli_data,
    cli_doctor,
    cli_evaluation,
    cli_gap,
    cli_improve,
    cli_report,
    cli_sweep,
    console,
    options,
)

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Learn a world model of an env, train a policy in it, and check both against the real env.",
)


def main() -> None:
    """Entry point of the ``wmgym`` command."""
    if not sys.flags.safe_path and "" not in sys.path:
        sys.path.append("")  # envs of one's own can be imported, and hide no library; ``-m`` puts it first
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"wmgym {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    modules: Annotated[
        list[str] | None,
        Option(
            "--import", metavar="MODULE", help="Import a module first, such as one that registers an env."
        ),
    ] = None,
) -> None:
    for module in modules or ():
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise typer.BadParameter(f"--import {module}: {error}") from None


for name, command in cli_data.COMMANDS.items():
    app.command(name)(command)


@app.command()
def fit(
    data: options.Data,
    out: options.Out,
    config: Annotated[
        Path | None, Option(help="JSON file: object of FitConfig fields.", show_default="FitConfig()")
    ] = None,
    updates: Annotated[
        int | None, Option(min=1, help="Gradient steps at most.", show_default="the configuration's")
    ] = None,
    hold_out: Annotated[
        float | None,
        Option(
            min=0.01,
            max=0.9,
            help="Share of the episodes to calibrate on and, half of them, to judge the world by: writes "
            "OUT/report.json.",
            show_default="none",
        ),
    ] = None,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
) -> None:
    """Fit a world model to transitions; with --hold-out, calibrate and judge it too.

    Example: wmgym fit data/cheetah --out worlds/raw
    """
    writes = ("run.json",) if hold_out is None else ("report.json", "run.json")
    with console.job("fit", out, as_json, kind="world", writes=writes) as job:
        from wmgym.data.transitions import Transitions
        from wmgym.io.schema import read_settings
        from wmgym.models import fit as fit_module
        from wmgym.models.config import FitConfig

        settings: FitConfig = read_settings(FitConfig, options.read(config), str(config))
        if updates is not None:
            settings = dataclasses.replace(settings, max_updates=updates)
        train, *held_out = [Transitions.load(data)]
        if hold_out is not None:
            train, *held_out = train.split((1 - hold_out, hold_out / 2, hold_out / 2), seed)
        world = fit_module.fit(train, settings, seed, progress=not as_json)
        report = None
        if held_out:
            from wmgym.calibration import calibrate as calibrate_module
            from wmgym.evaluation.open_loop import score_open_loop

            calib, test = held_out
            world = calibrate_module.calibrate(world, calib, seed=seed, progress=not as_json)
            report = score_open_loop(world, test, seed)
        world.save(out)
        result = {
            "env_id": world.task.env_id,
            "steps": world.provenance.steps,
            "episodes": len(world.provenance.fingerprints),
            "members": settings.members,
            "rollout_error": min(world.provenance.fit["rollout_error"]),
        }
        how = {"data": str(data), "seed": seed, "hold_out": hold_out, "fit": dataclasses.asdict(settings)}
        if report is None:
            job.done(how, result)
        else:
            report.save(out / "report.json")
            job.done(how, result | {"report": report.to_dict()}, Group(console.facts(result), str(report)))


@app.command()
def calibrate(
    world: options.World,
    data: options.Data,
    out: options.Out,
    level: Annotated[float, Option(help="Probability with which each error bound is to hold.")] = 0.9,
    horizon: options.Horizon = None,
    update: Annotated[
        bool, Option("--update", help="Adapt WORLD's own bounds to new episodes instead; their level stays.")
    ] = False,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
) -> None:
    """Give a world error bounds, from real episodes that `fit` did not see.

    Example: wmgym calibrate worlds/raw data/held-out --out worlds/cheetah
    """
    with console.job("calibrate", out, as_json, kind="world") as job:
        from wmgym.calibration import calibrate as calibrate_module
        from wmgym.calibration import online
        from wmgym.data.transitions import Transitions
        from wmgym.models import saving

        before, real = saving.load(world), Transitions.load(data)
        how: dict[str, Any] = {"level": level, "horizon": horizon, "update": update, "seed": seed}
        bounded = calibrate_module.calibrate(before, real, **how, progress=not as_json)
        bounded.save(out)
        found = bounded.calibration
        assert found is not None
        rows = console.bounds(found)
        result: dict[str, Any] = {"level": found.level, "episodes": found.episodes, "horizon": found.horizon}
        result["bounds"] = rows
        if update:
            result["before"] = dataclasses.asdict(online.check(before, real, seed=seed))
        job.done(
            {"world": str(world), "data": str(data), **how},
            result,
            console.bounds_table(rows, found.level, result.get("before")),
            imagined_steps=int(found.windows.sum()) * len(found.half_width),
        )


@app.command()
def train(
    world: options.World,
    out: options.Out,
    algorithm: Annotated[
        str | None,
        Option(
            help="Class of Stable-Baselines3 or sb3-contrib, or DynaSAC.",
            show_default="SAC, or PPO for Discrete actions",
        ),
    ] = None,
    steps: Annotated[int, Option(min=1, help="Imagined env steps, over all envs.")] = 200_000,
    envs: Annotated[int, Option(min=1, help="Imagined episodes side by side.")] = 64,
    max_episode_steps: options.MaxEpisodeSteps = None,
    data: options.Starts = None,
    policy: options.Begin = None,
    hyperparameters: options.Hyperparameters = None,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
    horizon: Annotated[int | None, Option(hidden=True)] = None,
) -> None:
    """Train a policy in imagination and save it as OUT/policy; logs to OUT/learning.json and TensorBoard.

    Example: wmgym train worlds/cheetah --data data/cheetah --max-episode-steps 20 --out runs/sac
    """
    with console.job("train", out, as_json) as job:
        from wmgym.agents import sb3
        from wmgym.data.transitions import Transitions
        from wmgym.io import artifacts
        from wmgym.io.deprecation import warn_renamed
        from wmgym.models import saving
        from wmgym.tasks.real_env import bare

        if horizon is not None:
            warn_renamed("--horizon", "--max-episode-steps")
        artifacts.check_place(out, folder=True)
        artifacts.check_place(out / "policy", kind="policy")
        settings = sb3.TrainConfig(
            algorithm=algorithm,
            steps=steps,
            num_envs=envs,
            max_episode_steps=max_episode_steps or horizon,
            hyperparameters=options.read(hyperparameters),
        )
        simulator = saving.load(world)
        real = None if data is None else Transitions.load(data)
        if real is not None and bare(real.task.env_id) != bare(simulator.task.env_id):
            raise ValueError(f"{data} is of {real.task.env_id}, the world of {simulator.task.env_id}")
        sb3.check_agent(sb3.ImaginedVecEnv(simulator, envs), settings)
        starts = None if real is None else real.state
        begin = options.policies([policy] if policy else None, simulator.task)
        model = sb3.train(
            simulator, settings, seed, starts=starts, policy=begin, log=out, progress=not as_json
        )
        found = sb3.to_policy(model, f"{type(model).__name__} in imagination").save(out / "policy")
        recent = [episode["r"] for episode in model.ep_info_buffer or ()]
        mean = sum(recent) / len(recent) if recent else None
        result = {"algorithm": type(model).__name__, "policy": str(found), "imagined_return": mean}
        shown = result if recent else result | {"imagined_return": "no episode ended"}
        named = {"world": str(world), "data": data and str(data), "policy": policy and str(policy)}
        config = {**named, "seed": seed, "train": dataclasses.asdict(settings)}
        job.done(config, result, console.facts(shown), imagined_steps=model.num_timesteps)


for home in (cli_improve, cli_evaluation, cli_gap, cli_report, cli_sweep):
    for command in home.COMMANDS:
        app.command()(command)


@app.command()
def run(
    env: options.Env,
    out: options.Out,
    steps: Annotated[
        int | None, Option(min=1, help="Real env steps in all.", show_default="the env's recipe's")
    ] = None,
    algorithm: Annotated[
        str | None,
        Option(
            help="DynaSAC learns while it collects; others of Stable-Baselines3, such as SAC, in rounds.",
            show_default="DynaSAC, or PPO for Discrete actions",
        ),
    ] = None,
    config: options.RunFile = None,
    env_kwargs: options.EnvKwargs = None,
    max_episode_steps: options.MaxEpisodeSteps = None,
    seed: Annotated[int, Option(min=0, max=4_000_000, help="Seed of everything random.")] = 0,
    as_json: options.AsJson = False,
) -> None:
    """Learn a world and a policy in it, calibrate and score. A killed run goes on where it stopped.

    Example: wmgym run HalfCheetah-v5 --out runs/demo
    """
    with console.job("run", out, as_json) as job:
        from wmgym.app import recipes
        from wmgym.app import run as run_module

        changes = options.read(config)
        if changes.keys() & {"env_id", "seed", "real_steps"}:
            raise ValueError(f"{config}: pass ENV, --seed and --steps on the command line")
        given = {"env_kwargs": env_kwargs, "max_episode_steps": max_episode_steps}
        changes |= {name: value for name, value in given.items() if value is not None}
        if algorithm is not None:
            changes["train"] = {**changes.get("train", {}), "algorithm": algorithm}
        settings = recipes.recipe(env, seed=seed, real_steps=steps, **changes)
        say = None if as_json else (lambda text: typer.echo(text, err=True))
        done = run_module.run(settings, out, progress=not as_json, say=say)
        job.answer(done.report.to_dict(), done.ledger, console.score_table(done.report), page=done.page)


for command in cli_doctor.COMMANDS:
    app.command()(command)

for registered in app.registered_commands:
    registered.cls = options.Command

if __name__ == "__main__":
    main()
