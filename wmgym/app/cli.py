"""The command line: one command a verb, each leaving its artefact and a ``run.json`` in ``--out``.

Exit status: 0 done, 1 the input is at fault (one line on stderr), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from wmgym import __version__
from wmgym.app import console

if TYPE_CHECKING:
    from wmgym.data.policy import MLPPolicy


app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Learn a simulator from MuJoCo, train a policy in it, and measure how far it is from the truth.",
)
EnvId = Annotated[
    str, typer.Argument(metavar="ENV", help="Gymnasium id of the real env.", show_default=False)
]
DataDir = Annotated[
    Path, typer.Argument(metavar="DATA", help="Transitions from `collect`.", show_default=False)
]
WorldDir = Annotated[
    Path, typer.Argument(metavar="WORLD", help="World from `fit` or `calibrate`.", show_default=False)
]
Algorithm = Annotated[
    str | None, typer.Option(help="SB3 class; SAC, or PPO where actions are Discrete.", show_default=False)
]
Horizon = Annotated[
    int | None, typer.Option(min=1, help="Steps an episode; the real limit.", show_default=False)
]
Starts = Annotated[Path | None, typer.Option(help="Transitions; start episodes from all their states.")]
Hyperparameters = Annotated[Path | None, typer.Option(help="JSON object of keywords for the SB3 class.")]
Out = Annotated[Path, typer.Option(help="Directory to write.", show_default=False)]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Decides everything random.")]
RunSeed = Annotated[int, typer.Option(min=0, max=4_000_000, help="Decides everything random.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


def main() -> None:
    """Entry point of the ``wmgym`` command."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"wmgym {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def collect(
    env: EnvId,
    out: Out,
    steps: Annotated[int, typer.Option(min=1, help="Real env steps.", show_default=False)],
    policy: Annotated[
        list[Path] | None,
        typer.Option(
            help="Saved policy; repeat for several, which take turns. Or a directory of them. None: random."
        ),
    ] = None,
    noise: Annotated[float, typer.Option(min=0, help="Action noise, as a share of half the range.")] = 0.0,
    switch_every: Annotated[
        int | None, typer.Option(min=1, help="Mean steps until another policy takes over within an episode.")
    ] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Run policies in the real env and save the transitions.

    Example: wmgym collect HalfCheetah-v5 --steps 20000 --out data/cheetah
    """
    with console.job("collect", out, as_json, kind="transitions") as job:
        from wmgym.data import collect as collect_module

        policies = _pool(policy or []) or _load_policies(policy or [])
        how = {"steps": steps, "noise": noise, "switch_every": switch_every, "seed": seed}
        data = collect_module.collect(env, policies or None, **how, progress=not as_json)  # type: ignore[arg-type]
        data.save(out)
        config = {"env_id": env, "policy": _texts(policy), **how}
        job.done(config, data.describe(), real_steps=len(data))


@app.command()
def fit(
    data: DataDir,
    out: Out,
    config: Annotated[Path | None, typer.Option(help="JSON object of FitConfig fields.")] = None,
    updates: Annotated[
        int | None, typer.Option(min=1, help="Gradient steps at most.", show_default=False)
    ] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Fit a world model to transitions.

    Example: wmgym fit data/cheetah --out worlds/raw
    """
    with console.job("fit", out, as_json, kind="world") as job:
        from wmgym.data.transitions import Transitions
        from wmgym.models import fit as fit_module
        from wmgym.models import saving
        from wmgym.models.config import FitConfig

        settings = FitConfig(**console.read_settings(config, FitConfig))
        if updates is not None:
            settings = dataclasses.replace(settings, max_updates=updates)
        world = fit_module.fit(Transitions.load(data), settings, seed, progress=not as_json)
        saving.save(world, out)
        result = {
            "env_id": world.task.env_id,
            "steps": world.provenance.steps,
            "episodes": len(world.provenance.fingerprints),
            "members": settings.members,
            "rollout_error": min(world.provenance.fit["rollout_error"]),
        }
        job.done({"data": str(data), "seed": seed, "fit": dataclasses.asdict(settings)}, result)


@app.command()
def calibrate(
    world: WorldDir,
    data: DataDir,
    out: Out,
    level: Annotated[float, typer.Option(help="Probability that each error bound shall hold with.")] = 0.9,
    horizon: Annotated[
        int | None, typer.Option(min=1, help="Steps to bound; the longest episode's.", show_default=False)
    ] = None,
    update: Annotated[
        bool,
        typer.Option("--update", help="Adapt the bounds that WORLD has, level included, to new episodes."),
    ] = False,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Give a world error bounds from real episodes that `fit` did not see.

    Example: wmgym calibrate worlds/raw data/held-out --out worlds/cheetah
    """
    with console.job("calibrate", out, as_json, kind="world") as job:
        from wmgym.calibration import calibrate as calibrate_module
        from wmgym.calibration import online
        from wmgym.data.transitions import Transitions
        from wmgym.models import saving

        before, real = saving.load(world), Transitions.load(data)
        bounded = calibrate_module.calibrate(
            before,
            real,
            level=level,
            horizon=horizon,
            update=update,
            seed=seed,
            progress=not as_json,
        )
        saving.save(bounded, out)
        found = bounded.calibration
        assert found is not None
        rows = console.bounds(found)
        result: dict[str, Any] = {"level": found.level, "episodes": found.episodes, "horizon": found.horizon}
        result["bounds"] = rows
        if update:
            result["before"] = dataclasses.asdict(online.check(before, real, seed=seed))
        job.done(
            {
                "world": str(world),
                "data": str(data),
                "level": level,
                "horizon": horizon,
                "update": update,
                "seed": seed,
            },
            result,
            console.bounds_table(rows, found.level, result.get("before")),
            imagined_steps=int(found.windows.sum()) * len(found.half_width),
        )


@app.command()
def train(
    world: WorldDir,
    out: Out,
    algorithm: Algorithm = None,
    steps: Annotated[int, typer.Option(min=1, help="Imagined steps in all.")] = 200_000,
    envs: Annotated[int, typer.Option(min=1, help="Imagined episodes side by side.")] = 64,
    horizon: Horizon = None,
    data: Starts = None,
    hyperparameters: Hyperparameters = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Train a policy in imagination; saves it as OUT/policy.

    Example: wmgym train worlds/cheetah --data data/cheetah --horizon 20 --out runs/sac
    """
    with console.job("train", out, as_json) as job:
        from wmgym.agents import sb3
        from wmgym.io import artifacts
        from wmgym.models import saving

        artifacts.check_place(out / "policy", kind="policy")
        keywords = {} if hyperparameters is None else artifacts.read_json(hyperparameters)
        settings = sb3.TrainConfig(
            algorithm=algorithm, steps=steps, num_envs=envs, horizon=horizon, hyperparameters=keywords
        )
        simulator = saving.load(world)
        starts = None if data is None else _real_states(data, simulator.task.env_id)
        sb3.check_agent(sb3.ImaginedVecEnv(simulator, envs), settings)
        model = sb3.train(simulator, settings, seed, starts=starts, progress=not as_json)
        policy = sb3.to_policy(model, f"{type(model).__name__} in imagination").save(out / "policy")
        recent = [episode["r"] for episode in model.ep_info_buffer or ()]
        mean = sum(recent) / len(recent) if recent else None
        result = {"algorithm": type(model).__name__, "policy": str(policy), "imagined_return": mean}
        config = {"world": str(world), "data": data and str(data), "seed": seed}
        job.done(
            {**config, "train": dataclasses.asdict(settings)}, result, imagined_steps=model.num_timesteps
        )


@app.command()
def score(
    world: WorldDir,
    out: Out,
    policy: Annotated[list[Path], typer.Option(help="Saved policy; repeat for several.", show_default=False)],
    episodes: Annotated[int, typer.Option(min=2, help="Episodes a policy, real and imagined.")] = 20,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Compare policies' returns in MuJoCo and in imagination; writes OUT/report.json.

    Example: wmgym score worlds/cheetah --policy runs/sac/policy --out runs/score
    """
    with console.job("score", out, as_json) as job:
        from wmgym.evaluation import score as score_module
        from wmgym.models import saving

        simulator, policies = saving.load(world), _load_policies(policy)
        report = score_module.score(simulator, policies, episodes, seed, progress=not as_json)
        report.save(out / "report.json")
        job.done(
            {"world": str(world), "policy": _texts(policy), "episodes": episodes, "seed": seed},
            report.to_dict(),
            console.score_table(report),
            real_steps=report.real_steps,
            imagined_steps=report.imagined_steps,
        )


@app.command()
def run(
    env: EnvId,
    out: Out,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Real env steps; the env's recipe's.", show_default=False)
    ] = None,
    config: Annotated[Path | None, typer.Option(help="JSON object of RunConfig fields.")] = None,
    seed: RunSeed = 0,
    as_json: AsJson = False,
) -> None:
    """Collect, fit, train in rounds, calibrate and score; the same command again continues a killed run.

    Example: wmgym run HalfCheetah-v5 --out runs/demo
    """
    with console.job("run", out, as_json) as job:
        from wmgym.app import recipes
        from wmgym.app import run as run_module

        changes = console.read_settings(config, recipes.RunConfig, fixed=("env_id", "seed"))
        settings = recipes.recipe(env, seed=seed, real_steps=steps, **changes)
        say = None if as_json else console.stderr().print
        done = run_module.run(settings, out, progress=not as_json, say=say)
        job.answer(done.report.to_dict(), done.ledger, console.score_table(done.report))


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check this machine and say how to mend what is missing.

    Example: wmgym doctor
    """
    from wmgym.app.doctor import Finding, examine

    findings = examine()
    failed = any(finding.status == "fail" for finding in findings)
    if as_json:
        console.print_json(
            {"command": "doctor", "ok": not failed, "findings": [dataclasses.asdict(f) for f in findings]}
        )
    else:
        table = console.new_table("", *(field.name for field in dataclasses.fields(Finding)))
        color = {"ok": "green", "warn": "yellow", "fail": "red"}
        for f in findings:
            table.add_row(Text(f.name), Text(f.status, color[f.status]), Text(f.detail), Text(f.cure))
        console.stdout().print(table)
    raise typer.Exit(1 if failed else 0)


def _pool(paths: Sequence[Path]) -> Path | None:
    """The one directory given, where it holds policies and is none."""
    return paths[0] if len(paths) == 1 and any(paths[0].glob("*/manifest.json")) else None


def _load_policies(paths: Sequence[Path]) -> dict[str, MLPPolicy]:
    """Policies by their own name, or by directory where two share one."""
    from wmgym.data.policy import load_policy

    loaded = [(str(path), load_policy(path)) for path in paths]
    names = [policy.name for _, policy in loaded]
    named = {p.name if names.count(p.name) == 1 else path: p for path, p in loaded}
    if len(named) < len(loaded):
        raise ValueError("a --policy is given twice; give each once")
    return named


def _real_states(path: Path, env_id: str) -> Any:
    """All states of saved transitions ``(n, core_dim)``, which must be of that env."""
    from wmgym.data.transitions import Transitions

    data = Transitions.load(path)
    if data.task.env_id != env_id:
        raise ValueError(f"{path} is of {data.task.env_id!r}, the world imagines {env_id!r}")
    return data.state


def _texts(paths: Sequence[Path] | None) -> list[str]:
    return [str(path) for path in paths or ()]


if __name__ == "__main__":
    main()
