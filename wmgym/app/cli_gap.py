"""The command that measures a robot against a simulator of it; ``cli`` adds it to the others."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated, Any

from typer import Argument, Option

from wmgym.app import console, options


def gap(
    reality: Annotated[
        str,
        Argument(metavar="REALITY", help="Gymnasium id of the robot's env, or transitions recorded on it."),
    ],
    simulator: Annotated[
        str,
        Argument(metavar="SIMULATOR", help="World that `fit` saved; or an id, whose MuJoCo model simulates."),
    ],
    out: options.Out,
    policy: options.Judged = None,
    episodes: Annotated[int, Option(min=2, help="Episodes per policy.")] = 8,
    horizon: Annotated[int, Option(min=1, help="Steps of an open-loop window.")] = 32,
    env_kwargs: options.EnvKwargs = None,
    max_episode_steps: options.MaxEpisodeSteps = None,
    seed: options.Seed = 0,
    executor: options.Where = None,
    address: options.Address = None,
    page: Annotated[bool, Option(help="Also write OUT/gap.html, with a video.")] = True,
    as_json: options.AsJson = False,
) -> None:
    """Measure how a simulator differs from a robot; writes OUT/gap.json and OUT/gap.html.

    Example: wmgym gap wmgym/Shifted-v0 Hopper-v5 --env-kwargs '{"env_id": "Hopper-v5", "friction": 0.3}'
    --max-episode-steps 1000 --policy policies/Hopper-v5 --out runs/gap
    """
    with console.job("gap", out, as_json, writes=("gap.json", "gap.html", "run.json")) as job:
        from wmgym.data.transitions import Transitions
        from wmgym.evaluation.reality_gap import gap as measure
        from wmgym.evaluation.report.gap_page import write_gap
        from wmgym.tasks.task import make_task

        where = options.executor(executor, address)
        robot: Any = (
            Transitions.load(reality) if os.path.isdir(reality) else make_task(reality, env_kwargs=env_kwargs)
        )
        task = robot.task if isinstance(robot, Transitions) else robot
        judged = options.policies(policy, task)
        how: dict[str, Any] = {"episodes": episodes, "horizon": horizon, "seed": seed}
        found = measure(robot, simulator, judged, **how, max_episode_steps=max_episode_steps, executor=where)
        found.save(out / "gap.json")
        shown = out / "gap.html" if page else None
        if shown is not None:
            write_gap(found, shown, reality=robot, simulator=simulator, policies=judged)
        config = {"reality": reality, "simulator": simulator, "policy": [str(p) for p in policy or ()], **how}
        job.done(config, found.to_dict(), console.plain(found), real_steps=found.real_steps, imagined_steps=0)


COMMANDS: tuple[Callable[..., None], ...] = (gap,)
"""In the order of the list of commands."""
