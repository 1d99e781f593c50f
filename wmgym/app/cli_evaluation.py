"""The commands that judge worlds and policies; ``cli`` adds them to the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from wmgym.app import console, options


def score(
    world: options.World,
    out: options.Out,
    policy: Annotated[
        list[Path] | None,
        Option(help="Saved policy or directory of them; repeat for several.", show_default="random actions"),
    ] = None,
    episodes: Annotated[int, Option(min=2, help="Episodes per policy, real and imagined.")] = 20,
    max_episode_steps: options.MaxEpisodeSteps = None,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
) -> None:
    """Compare policies' returns in the real env and in imagination; writes OUT/report.json.

    Example: wmgym score worlds/cheetah --policy runs/sac/policy --out runs/score
    """
    with console.job("score", out, as_json) as job:
        from wmgym.evaluation import score as score_module

        how: dict[str, Any] = {"seed": seed, "max_episode_steps": max_episode_steps}
        report = score_module.score(world, options.policies(policy), episodes, **how, progress=not as_json)
        report.save(out / "report.json")
        job.done(
            {"world": str(world), "policy": [str(p) for p in policy or ()], "episodes": episodes, **how},
            report.to_dict(),
            console.score_table(report),
            real_steps=report.real_steps,
            imagined_steps=report.imagined_steps,
        )


COMMANDS: tuple[Callable[..., None], ...] = (score,)
"""In the order of the list of commands."""
