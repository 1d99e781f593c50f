"""The commands that judge worlds and policies; ``cli`` adds them to the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from wmgym.app import console, options


def score(
    world: options.World,
    out: options.Out,
    policy: options.Judged = None,
    episodes: Annotated[int, Option(min=2, help="Real episodes per policy.")] = 20,
    imagined_episodes: Annotated[
        int | None, Option(min=2, help="Imagined episodes per policy.", show_default="as many as real ones")
    ] = None,
    max_episode_steps: options.MaxEpisodeSteps = None,
    seed: options.Seed = 0,
    executor: options.Where = None,
    address: options.Address = None,
    as_json: options.AsJson = False,
) -> None:
    """Compare policies' returns in the real env and in imagination; writes OUT/report.json.

    Example: wmgym score worlds/cheetah --policy runs/sac/policy --out runs/score
    """
    with console.job("score", out, as_json, writes=("report.json", "run.json")) as job:
        from wmgym.evaluation import score as score_module
        from wmgym.models import saving

        where = options.executor(executor, address)
        judged = saving.load(world)
        how: dict[str, Any] = {"seed": seed, "max_episode_steps": max_episode_steps}
        how["imagined_episodes"] = imagined_episodes
        found = options.policies(policy, judged.task)
        report = score_module.score(judged, found, episodes, **how, executor=where, progress=not as_json)
        report.save(out / "report.json")
        job.done(
            {"world": str(world), "policy": [str(p) for p in policy or ()], "episodes": episodes, **how},
            report.to_dict(),
            console.score_table(report),
            real_steps=report.real_steps,
            imagined_steps=report.imagined_steps,
        )


def rank(
    world: options.World,
    out: options.Out,
    policy: options.Judged = None,
    episodes: options.ImaginedEpisodes = 100,
    max_episode_steps: options.MaxEpisodeSteps = None,
    seed: options.Seed = 0,
    executor: options.Where = None,
    address: options.Address = None,
    as_json: options.AsJson = False,
) -> None:
    """Rank policies in imagination, without a real step; writes OUT/ranking.json.

    Example: wmgym rank HalfCheetah-v5 --policy policies/HalfCheetah-v5 --out runs/rank
    """
    with console.job("rank", out, as_json, writes=("ranking.json", "run.json")) as job:
        from wmgym.evaluation import ranking
        from wmgym.io import artifacts
        from wmgym.models import saving

        where = options.executor(executor, address)
        judged = saving.load(world)
        how: dict[str, Any] = {"seed": seed, "max_episode_steps": max_episode_steps, "episodes": episodes}
        given = options.policies(policy, judged.task)
        found = ranking.rank(judged, given, **how, executor=where, progress=not as_json)
        result = dataclasses.asdict(found)
        artifacts.write_json(out / "ranking.json", result)
        named = {"world": str(world), "policy": [str(p) for p in policy or ()]}
        job.done({**named, **how}, result, console.plain(found), imagined_steps=found.imagined_steps)


def compare(
    world: options.World,
    first: Annotated[Path, Argument(metavar="FIRST", help="A policy, as --policy of `score` names one.")],
    second: Annotated[Path, Argument(metavar="SECOND", help="Another policy.")],
    out: options.Out,
    episodes: Annotated[int, Option(min=6, help="Real episodes of each.")] = 20,
    imagined_episodes: options.ImaginedEpisodes = 1_000,
    max_episode_steps: options.MaxEpisodeSteps = None,
    seed: options.Seed = 0,
    executor: options.Where = None,
    address: options.Address = None,
    as_json: options.AsJson = False,
) -> None:
    """Is SECOND better than FIRST in the real env? From the same start states; writes OUT/comparison.json.

    Example: wmgym compare Hopper-v5 runs/ppo/policy runs/sac/policy --out runs/compare
    """
    with console.job("compare", out, as_json, writes=("comparison.json", "run.json")) as job:
        from wmgym.evaluation import compare as compare_module
        from wmgym.io import artifacts
        from wmgym.models import saving

        where = options.executor(executor, address)
        judged = saving.load(world)
        how: dict[str, Any] = {"seed": seed, "max_episode_steps": max_episode_steps}
        how["imagined_episodes"] = imagined_episodes
        pair = [options.policies([path], judged.task) for path in (first, second)]
        how_run = {**how, "executor": where, "progress": not as_json}
        found = compare_module.compare(judged, pair[0], pair[1], episodes, **how_run)
        result = dataclasses.asdict(found)
        artifacts.write_json(out / "comparison.json", result)
        named = {"world": str(world), "first": str(first), "second": str(second), "episodes": episodes}
        steps = {"real_steps": found.real_steps, "imagined_steps": found.imagined_steps}
        job.done({**named, **how}, result, console.plain(found), **steps)


def select(
    world: options.World,
    out: options.Out,
    policy: options.Judged = None,
    budget: Annotated[int, Option(min=1, help="Real episodes in all.")] = 30,
    imagined_episodes: options.ImaginedEpisodes = 100,
    max_episode_steps: options.MaxEpisodeSteps = None,
    seed: options.Seed = 0,
    executor: options.Where = None,
    address: options.Address = None,
    as_json: options.AsJson = False,
) -> None:
    """Pick the best policy with few real episodes, spent where they decide most; writes OUT/selection.json.

    Example: wmgym select HalfCheetah-v5 --policy policies/HalfCheetah-v5 --out runs/select
    """
    with console.job("select", out, as_json, writes=("selection.json", "run.json")) as job:
        from wmgym.evaluation import select as select_module
        from wmgym.io import artifacts
        from wmgym.models import saving

        where = options.executor(executor, address)
        judged = saving.load(world)
        how: dict[str, Any] = {"seed": seed, "max_episode_steps": max_episode_steps}
        how["imagined_episodes"] = imagined_episodes
        given = options.policies(policy, judged.task)
        found = select_module.select(judged, given, budget, **how, executor=where, progress=not as_json)
        result = dataclasses.asdict(found)
        artifacts.write_json(out / "selection.json", result)
        named = {"world": str(world), "policy": [str(p) for p in policy or ()], "budget": budget}
        steps = {"real_steps": found.real_steps, "imagined_steps": found.imagined_steps}
        job.done({**named, **how}, result, console.plain(found), **steps)


def gate(
    report: Annotated[Path, Argument(metavar="REPORT", help="report.json that `score` wrote.")],
    min_rank: Annotated[
        float | None,
        Option(min=-1, max=1, help="Least Spearman correlation between real and imagined returns."),
    ] = None,
    max_gap: Annotated[
        float | None,
        Option(min=0, help="Largest mean absolute gap, as a share of the return scale."),
    ] = None,
    coverage: Annotated[
        str | None, Option(metavar="LOW:HIGH", help="Range for the share of errors inside the error bounds.")
    ] = None,
    junit: Annotated[Path | None, Option(help="JUnit XML file to write.", show_default="none")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Pass or fail a report by limits; exit status 1 where one is not kept.

    Example: wmgym gate runs/score/report.json --min-rank 0.9 --max-gap 0.05 --coverage 0.87:0.93
    """
    if min_rank is None and max_gap is None and coverage is None:
        raise typer.BadParameter("pass at least one of --min-rank, --max-gap and --coverage")
    inside = None if coverage is None else options.shares(coverage)
    with console.plain_errors():
        from wmgym.evaluation import gate as gate_module
        from wmgym.evaluation.gap_report import GapReport

        found = GapReport.load(report)
        checks = gate_module.gate(found, min_rank=min_rank, max_gap=max_gap, coverage=inside)
        if junit is not None:
            gate_module.write_junit(junit, checks, found.env_id)
    passed = all(check.passed for check in checks)
    if as_json:
        console.show({"command": "gate", "ok": passed, "checks": [dataclasses.asdict(c) for c in checks]})
    else:
        rows = [(check.name, "passed" if check.passed else "failed", check.detail) for check in checks]
        console.show(console.table(None, ("check", "status", "detail"), rows))
    raise typer.Exit(0 if passed else 1)


COMMANDS: tuple[Callable[..., None], ...] = (score, rank, compare, select, gate)
"""In the order of the list of commands."""
