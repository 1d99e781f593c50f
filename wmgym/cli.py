"""The command line: one command a verb, each leaving its artefact and a ``run.json`` in ``--out``.

Exit status: 0 done, 1 the input is at fault (one line on stderr), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

import wmgym

if TYPE_CHECKING:
    from wmgym.policy import MLPPolicy
    from wmgym.scoring import GapReport, PolicyScore
    from wmgym.world import Calibration

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
Out = Annotated[Path, typer.Option(help="Directory to write.", show_default=False)]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Decides everything random.")]
RunSeed = Annotated[int, typer.Option(min=0, max=4_000_000, help="Decides everything random.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


def main() -> None:
    """Entry point of the ``wmgym`` command."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"wmgym {wmgym.__version__}")
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
        typer.Option(help="Saved policy; repeat for several, which take turns; without one, random."),
    ] = None,
    noise: Annotated[float, typer.Option(min=0, help="Action noise, as a share of half the range.")] = 0.0,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Run policies in the real env and save the transitions.

    Example: wmgym collect HalfCheetah-v5 --steps 20000 --out data/cheetah
    """
    with _job("collect", out, as_json, kind="transitions") as job:
        from wmgym import collecting

        policies = _load_policies(policy or [])
        data = collecting.collect(
            env, policies or None, steps=steps, seed=seed, noise=noise, progress=not as_json
        )
        data.save(out)
        config = {"env_id": env, "steps": steps, "policy": _texts(policy), "noise": noise, "seed": seed}
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
    with _job("fit", out, as_json, kind="world") as job:
        from wmgym import archive, fitting
        from wmgym.data import Transitions

        settings = fitting.FitConfig(**_read_settings(config, fitting.FitConfig))
        if updates is not None:
            settings = dataclasses.replace(settings, max_updates=updates)
        world = fitting.fit(Transitions.load(data), settings, seed, progress=not as_json)
        archive.save(world, out)
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
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Give a world error bounds from real episodes that `fit` did not see.

    Example: wmgym calibrate worlds/raw data/held-out --out worlds/cheetah
    """
    with _job("calibrate", out, as_json, kind="world") as job:
        from wmgym import archive, calibrating
        from wmgym.data import Transitions

        bounded = calibrating.calibrate(
            archive.load(world),
            Transitions.load(data),
            level=level,
            horizon=horizon,
            seed=seed,
            progress=not as_json,
        )
        archive.save(bounded, out)
        found = bounded.calibration
        assert found is not None
        rows = _bounds(found)
        job.done(
            {"world": str(world), "data": str(data), "level": level, "horizon": horizon, "seed": seed},
            {"level": level, "episodes": found.episodes, "horizon": found.horizon, "bounds": rows},
            _bounds_table(rows, level),
            imagined_steps=int(found.windows.sum()) * len(found.half_width),
        )


@app.command()
def train(
    world: WorldDir,
    out: Out,
    algorithm: Annotated[
        str | None,
        typer.Option(help="SB3 class; SAC, or PPO where actions are Discrete.", show_default=False),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Imagined steps in all.")] = 200_000,
    envs: Annotated[int, typer.Option(min=1, help="Imagined episodes side by side.")] = 64,
    horizon: Annotated[
        int | None, typer.Option(min=1, help="Steps an episode; the real limit.", show_default=False)
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Transitions; start episodes from all their states.")
    ] = None,
    hyperparameters: Annotated[
        Path | None, typer.Option(help="JSON object of keywords for the SB3 class.")
    ] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Train a policy in imagination; saves it as OUT/policy.

    Example: wmgym train worlds/cheetah --data data/cheetah --horizon 20 --out runs/sac
    """
    with _job("train", out, as_json) as job:
        _require_place(out / "policy", "policy")
        from wmgym import archive, sb3, store

        keywords = {} if hyperparameters is None else store.read_json(hyperparameters)
        settings = sb3.TrainConfig(algorithm, steps, envs, horizon, keywords)
        simulator = archive.load(world)
        starts = None if data is None else _real_states(data, simulator.task.env_id)
        _try_agent(sb3.ImaginedVecEnv(simulator, envs), settings)
        model = sb3.train(simulator, settings, seed, starts=starts, progress=not as_json)
        name = type(model).__name__
        sb3.to_policy(model, f"{name} in imagination").save(out / "policy")
        recent = [episode["r"] for episode in model.ep_info_buffer or ()]
        job.done(
            {
                "world": str(world),
                "data": data and str(data),
                "seed": seed,
                "train": dataclasses.asdict(settings),
            },
            {
                "algorithm": name,
                "policy": str(out / "policy"),
                "imagined_return": sum(recent) / len(recent) if recent else None,
            },
            imagined_steps=model.num_timesteps,
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
    with _job("score", out, as_json) as job:
        from wmgym import archive, scoring

        simulator, policies = archive.load(world), _load_policies(policy)
        report = scoring.score(simulator, policies, episodes, seed, progress=not as_json)
        report.save(out / "report.json")
        job.done(
            {"world": str(world), "policy": _texts(policy), "episodes": episodes, "seed": seed},
            report.to_dict(),
            _score_table(report),
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
    with _job("run", out, as_json) as job:
        from wmgym import pipeline, sb3, task

        changes = _read_settings(config, pipeline.RunConfig, fixed=("env_id", "seed"))
        listed = changes.pop("real_steps", None)
        settings = pipeline.recipe(env, seed=seed, real_steps=steps or listed, **changes)
        trial = sb3.TrainConfig(
            settings.algorithm, num_envs=settings.num_envs, hyperparameters=settings.hyperparameters
        )
        real = task.make_task(env).make()
        _try_agent(real, trial)
        real.close()
        say = None if as_json else Console(stderr=True, highlight=False, markup=False).print
        done = pipeline.run(settings, out, progress=not as_json, say=say)
        job.answer(done.report.to_dict(), done.ledger, _score_table(done.report))


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check this machine and say how to mend what is missing.

    Example: wmgym doctor
    """
    from wmgym.doctor import Finding, examine

    findings = examine()
    failed = any(finding.status == "fail" for finding in findings)
    if as_json:
        _print_json(
            {"command": "doctor", "ok": not failed, "findings": [dataclasses.asdict(f) for f in findings]}
        )
    else:
        table = _table("", *(field.name for field in dataclasses.fields(Finding)))
        color = {"ok": "green", "warn": "yellow", "fail": "red"}
        for f in findings:
            table.add_row(Text(f.name), Text(f.status, color[f.status]), Text(f.detail), Text(f.cure))
        _console().print(table)
    raise typer.Exit(1 if failed else 0)


class _Job:
    """One command at work: what it cost and what it has to say."""

    def __init__(self, command: str, out: Path) -> None:
        self.command, self.out = command, out
        self.wall, self.cpu = time.perf_counter(), sum(os.times()[:4])
        self.spoken: dict[str, Any] = {}
        self.shown: RenderableType = ""

    def done(
        self,
        config: Mapping[str, Any],
        result: Mapping[str, Any],
        table: RenderableType | None = None,
        *,
        real_steps: int = 0,
        imagined_steps: int = 0,
    ) -> None:
        """Leave ``run.json`` beside the artefact, which must be there by now."""
        ledger = {
            "wall_s": time.perf_counter() - self.wall,
            "cpu_s": sum(os.times()[:4]) - self.cpu,  # children's included
            "real_steps": real_steps,
            "imagined_steps": imagined_steps,
        }
        from wmgym.pipeline import write_run_json

        write_run_json(self.out, self.command, config, ledger)
        self.answer(result, ledger, table)

    def answer(
        self, result: Mapping[str, Any], ledger: Mapping[str, float], table: RenderableType | None = None
    ) -> None:
        """Keep what to print once all is done."""
        self.spoken = {
            "command": self.command, "out": str(self.out), "result": dict(result), "ledger": dict(ledger),
        }  # fmt: skip
        self.shown = Group(table or _facts(result), _facts(ledger), Text(f"saved to {self.out}"))


@contextlib.contextmanager
def _job(command: str, out: Path, as_json: bool, kind: str = "") -> Iterator[_Job]:
    """Run a command's body, its stray prints sent to stderr, and print its answer or one line of error."""
    job = _Job(command, out)
    with _plain_errors(), _plain_warnings(), contextlib.redirect_stdout(sys.stderr):
        _require_place(out, kind)
        yield job
    if as_json:
        _print_json(job.spoken)
    else:
        _console().print(job.shown)


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """Turn the user's mistakes into a line and an exit status; a bug of ours keeps its traceback."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(130) from None
    except Exception as error:
        from wmgym.collecting import CollectError

        if not isinstance(error, (ValueError, OSError, ImportError, CollectError)):
            raise
        typer.echo(f"error: {_one_line(error)}", err=True)
        raise typer.Exit(1) from None


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Print warnings without the source line that raised them."""

    def show(message: Warning | str, *rest: Any, **more: Any) -> None:
        text = Text.from_ansi(str(message)).plain
        typer.echo(f"warning: {' '.join(text.split())}", err=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _one_line(error: Exception) -> str:
    text = (
        f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
    )
    return " ".join(text.split()) or type(error).__name__


def _require_place(out: Path, kind: str) -> None:
    """Refuse, before any work, a directory that cannot be written or holds something else than ``kind``."""
    from wmgym import store

    there = next(path for path in (out, *out.absolute().parents) if os.path.lexists(path))
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise store.StoreError(
            f"{out} cannot be written ({there} is no writable directory); choose another --out"
        )
    if not kind or there != out or store.exists(out, kind=kind):
        return
    foreign = [name for name in os.listdir(out) if not name.startswith((".tmp-", "arrays.", "document."))]
    if foreign:
        raise store.StoreError(f"{out} holds {foreign[0]!r} and no wmgym {kind}; choose another --out")


def _load_policies(paths: Sequence[Path]) -> dict[str, MLPPolicy]:
    """Policies by their own name, or by directory where two share one."""
    from wmgym.policy import load_policy

    loaded = [(str(path), load_policy(path)) for path in paths]
    names = [policy.name for _, policy in loaded]
    named = {p.name if names.count(p.name) == 1 else path: p for path, p in loaded}
    if len(named) < len(loaded):
        raise ValueError("a --policy is given twice; give each once")
    return named


def _read_settings(path: Path | None, kind: type, fixed: Sequence[str] = ()) -> dict[str, Any]:
    """Read fields of a config dataclass from a JSON file; ``fixed`` ones are the command line's."""
    from wmgym import store

    if path is None:
        return {}
    document = store.read_json(path)
    _require_fields(str(path), document, kind, fixed)
    return document


def _require_fields(where: str, document: Mapping[str, Any], kind: type, fixed: Sequence[str] = ()) -> None:
    from typing import get_type_hints

    from pydantic import TypeAdapter, ValidationError

    hints = {name: hint for name, hint in get_type_hints(kind).items() if name not in fixed}
    for key, value in document.items():
        if key not in hints:
            raise ValueError(f"{where}: unknown key {key!r}; known are {', '.join(hints)}")
        if dataclasses.is_dataclass(hints[key]) and isinstance(value, dict):
            _require_fields(f"{where}: {key}", value, hints[key])
            continue
        try:
            TypeAdapter(hints[key]).validate_json(json.dumps(value), strict=True)
        except ValidationError:
            wanted = getattr(hints[key], "__name__", str(hints[key]))
            raise ValueError(f"{where}: {key} must be of type {wanted}, got {json.dumps(value)}") from None


def _real_states(path: Path, env_id: str) -> Any:
    """All states of saved transitions ``(n, core_dim)``, which must be of that env."""
    from wmgym.data import Transitions

    data = Transitions.load(path)
    if data.task.env_id != env_id:
        raise ValueError(f"{path} is of {data.task.env_id!r}, the world imagines {env_id!r}")
    return data.core


def _try_agent(env: Any, settings: Any) -> None:
    """Refuse, before hours of training, keywords that SB3 does not take and agents that cannot be saved."""
    from wmgym import sb3

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # training itself will repeat them
        try:
            agent = sb3.new_agent(env, settings, 0)
        except Exception as error:
            raise ValueError(f"{settings.algorithm or 'SB3'} refuses: {_one_line(error)}") from error
        sb3.to_policy(agent)


def _texts(paths: Sequence[Path] | None) -> list[str]:
    return [str(path) for path in paths or ()]


def _print_json(answer: Mapping[str, Any]) -> None:
    typer.echo(json.dumps(answer, indent=2, allow_nan=False))


def _console() -> Console:
    """Stdout; wide enough for the tables where it is no terminal."""
    return Console(width=None if sys.stdout.isatty() else 140, highlight=False, markup=False)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns:
        table.add_column(name)
    return table


def _facts(facts: Mapping[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for key, value in facts.items():
        shown = f"{value:,.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
        shown = f"{value:,}" if isinstance(value, int) else shown
        table.add_row(Text(key), Text(", ".join(shown) if isinstance(shown, list) else str(shown)))
    return table


def _score_table(report: GapReport) -> Table:
    title = f"{report.env_id}, {report.episodes} episodes a policy; [95 % intervals]"
    table = _table(title, "policy", "real return", "imagined return", "gap %", "diverged")
    for entry in report.scores:
        table.add_row(*map(Text, _score_row(entry)))
    return table


def _score_row(entry: PolicyScore) -> tuple[str, ...]:
    percent = 100 * entry.gap, (100 * entry.gap_interval[0], 100 * entry.gap_interval[1])
    return (
        entry.name,
        _with_interval(entry.real_mean, entry.real_interval),
        _with_interval(entry.imagined_mean, entry.imagined_interval),
        _with_interval(*percent),
        f"{entry.diverged:.0%}",
    )


def _with_interval(mean: float, interval: tuple[float, float]) -> str:
    return f"{mean:,.1f} [{interval[0]:,.1f}, {interval[1]:,.1f}]"


def _bounds(found: Calibration) -> list[dict[str, Any]]:
    """The bounds at some numbers of steps, in the data's standard deviations, averaged over the core."""
    horizons = sorted({2**k for k in range(found.horizon.bit_length())} | {found.horizon})
    return [
        {
            "steps": h,
            "windows": int(found.windows[h - 1]),
            "half_width": {m: float((w[h - 1] / found.data_std).mean()) for m, w in found.half_width.items()},
            "coverage": {m: _number(c[h - 1]) for m, c in found.coverage.items()},
        }
        for h in horizons
    ]


def _bounds_table(rows: Sequence[Mapping[str, Any]], level: float) -> Table:
    modes = list(rows[0]["half_width"])
    title = f"Bounds at level {level:.0%}: mean half-width in data stds, held-out coverage"
    columns = [f"{what}, {mode}" for mode in modes for what in ("half-width", "coverage")]
    table = _table(title, "steps", "windows", *columns)
    for row in rows:
        cells = [(row["half_width"][mode], row["coverage"][mode]) for mode in modes]
        shown = [
            x for width, share in cells for x in (f"{width:.3f}", "-" if share is None else f"{share:.0%}")
        ]
        table.add_row(str(row["steps"]), f"{row['windows']:,}", *shown)
    return table


def _number(value: Any) -> float | None:
    return None if math.isnan(value) else float(value)


if __name__ == "__main__":
    main()
