"""The commands that show: a page of a report, and a video of a policy; ``cli`` adds them to the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from wmgym.app import console, options


def report(
    source: Annotated[
        Path,
        Argument(
            metavar="RUN|WORLD",
            help="Directory that `run` or `score` wrote; or a world, or the id of one that ships, to score.",
        ),
    ],
    out: Annotated[Path, Option(help="HTML file to write.", show_default="RUN/report.html")] = Path(),
    policy: Annotated[
        list[Path] | None,
        Option(help="Of a WORLD: saved policy or directory of them; repeat.", show_default="random actions"),
    ] = None,
    episodes: Annotated[int, Option(min=2, help="Of a WORLD: real episodes per policy.")] = 20,
    max_episode_steps: options.MaxEpisodeSteps = None,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
) -> None:
    """Write one HTML file that says whether to trust a world, and shows why.

    Example: wmgym report runs/demo
    """
    from wmgym.app import page

    finished = (source / page.REPORT).exists()
    folder = source if finished else out.parent if out.suffix else Path("runs/report")
    path = out if out.suffix else folder / "report.html"
    with console.job("report", path.parent, as_json) as job:
        if finished and policy:
            raise ValueError(f"{source} has been scored; --policy goes with a world")
        if not finished:
            from wmgym.evaluation import score as score_module

            how: dict[str, Any] = {"seed": seed, "max_episode_steps": max_episode_steps}
            found = score_module.score(
                source, options.policies(policy), episodes, **how, progress=not as_json
            )
            found.save(folder / page.REPORT)
            given = {"world": str(source), "policy": [str(p) for p in policy or ()], "episodes": episodes}
            job.done({**given, **how}, {}, real_steps=found.real_steps, imagined_steps=found.imagined_steps)
        page.write_page(folder, path)
        job.answer({"page": str(path)}, {}, page=path)


def video(
    world: options.World,
    out: Annotated[Path, Option(help="File to write; .mp4, or .webp without imageio-ffmpeg.")],
    policy: Annotated[Path | None, Option(help="Saved policy.", show_default="random actions")] = None,
    seconds: Annotated[float, Option(min=0.1, help="Seconds of simulated time at most.")] = 10.0,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
) -> None:
    """Film a policy in MuJoCo beside what the world imagines of it, with error and bound below.

    Example: wmgym video HalfCheetah-v5 --policy runs/demo/policy --out cheetah.mp4
    """
    with console.job("video", out.parent, as_json) as job:
        from wmgym.data.policy import load_policy
        from wmgym.evaluation.report.video import record
        from wmgym.models import saving

        made = record(saving.load(world), None if policy is None else load_policy(policy), seed, seconds)
        made.save(out)
        job.answer({"video": str(out)}, {}, page=out)


COMMANDS: tuple[Callable[..., None], ...] = (report, video)
"""In the order of the list of commands."""
