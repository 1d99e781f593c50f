"""The commands that show: a page of a report, and a video of a policy; ``cli`` adds them to the others."""

from __future__ import annotations

import os
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
    out: Annotated[Path | None, Option(help="HTML file to write.", show_default="RUN/report.html")] = None,
    policy: options.Judged = None,
    episodes: Annotated[int, Option(min=2, help="Real episodes per policy, of a WORLD.")] = 20,
    max_episode_steps: options.MaxEpisodeSteps = None,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
) -> None:
    """Write one HTML file that says whether to trust a world, and shows why.

    Example: wmgym report HalfCheetah-v5 --policy policies/HalfCheetah-v5 --out cheetah.html
    """
    path = source / "report.html" if out is None else out
    numbers = path.with_suffix(".json") if path.name else path
    with console.job("report", path.parent, as_json, writes=(path.name, numbers.name)) as job:
        from wmgym.app.page import REPORT, write_page
        from wmgym.data.pool import as_policies
        from wmgym.evaluation.report.page import write_report
        from wmgym.evaluation.score import score
        from wmgym.io import artifacts
        from wmgym.models import saving

        if numbers == path:  # which go beside the page
            raise ValueError(f"the page is an HTML file, so {path} must end in .html")
        scored = os.path.exists(source / REPORT) and not artifacts.exists(source, kind="world")
        if scored:
            if policy:
                raise ValueError(f"{source} is scored already; --policy goes with a world")
            job.answer({"page": str(write_page(source, path))}, {}, page=path)
            return
        if out is None:
            raise ValueError(f"{source} is not scored yet; to score it as a world, pass --out FILE.html")
        world = saving.load(source)
        named = as_policies(options.policies(policy, world.task), split=None)
        how: dict[str, Any] = {"seed": seed, "max_episode_steps": max_episode_steps}
        found = score(world, named, episodes, **how, progress=not as_json)
        found.save(numbers)
        command = f"wmgym report {source} --episodes {episodes} --seed {seed}"
        write_report(found, out, world=world, policies=named, made_by={"Command": command})
        job.answer({"page": str(out), "report": str(numbers)}, {}, console.score_table(found), page=out)


def video(
    world: options.World,
    out: Annotated[Path, Option(help="File to write; .mp4, or .webp without imageio-ffmpeg.")],
    policy: Annotated[
        Path | None, Option(help="As --policy of `score` names one.", show_default="random actions")
    ] = None,
    seconds: Annotated[float, Option(min=0.1, help="Seconds of simulated time at most.")] = 10.0,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
) -> None:
    """Film a policy in MuJoCo beside what the world imagines of it, with error and bound below.

    Example: wmgym video HalfCheetah-v5 --policy policies/HalfCheetah-v5/sac-120k --out cheetah.mp4
    """
    with console.job("video", out.parent, as_json, writes=(out.name,)) as job:
        from wmgym.data.pool import as_policies
        from wmgym.evaluation.report.video import check_suffix, record
        from wmgym.models import saving

        check_suffix(out)
        simulator = saving.load(world)
        named = as_policies(
            options.policies(None if policy is None else [policy], simulator.task), split=None
        )
        if len(named) > 1:
            raise ValueError(f"{policy} holds {len(named)} policies; name one")
        record(simulator, next(iter(named.values())), seed, seconds).save(out)
        job.answer({"video": str(out)}, {}, page=out)


def register(
    env_id: Annotated[str, Argument(metavar="ID", help="Such as lab/PushBot-v0.")],
    world: Annotated[Path, Argument(metavar="WORLD", help="World that `fit` or `calibrate` saved.")],
    as_json: options.AsJson = False,
) -> None:
    """Give a world an id: gymnasium.make("wmgym/ID") and every command that takes a WORLD find it by that.

    Example: wmgym register lab/PushBot-v0 worlds/push-bot
    """
    with console.plain_errors():
        from wmgym.envs import registration
        from wmgym.io import registered

        registration.register(env_id, world, keep=True)
    name = f"wmgym/{env_id.removeprefix('wmgym/')}"
    found = {"command": "register", "id": name, "world": str(world), "listed": str(registered.list_file())}
    console.show(found if as_json else console.facts(found))


def unregister(
    env_id: Annotated[str, Argument(metavar="ID", help="What `register` gave a world.")],
    as_json: options.AsJson = False,
) -> None:
    """Take an id from a world again; the world's files stay.

    Example: wmgym unregister lab/PushBot-v0
    """
    with console.plain_errors():
        from wmgym.envs import registration
        from wmgym.io import registered

        registration.unregister(env_id)
    name = f"wmgym/{env_id.removeprefix('wmgym/')}"
    found = {"command": "unregister", "id": name, "listed": str(registered.list_file())}
    console.show(found if as_json else console.facts(found))


def export(
    source: Annotated[
        Path, Argument(metavar="SOURCE", help="World, or the id of one that ships; or a saved policy.")
    ],
    out: Annotated[Path, Argument(metavar="OUT", help="ONNX file to write; a .json goes beside it.")],
    propagation: Annotated[
        str, Option(help="How episodes go: member, mean, or sample, which takes noise as an input.")
    ] = "member",
    trust: Annotated[
        bool, Option("--trust", help="Follow a second member, for bounds made for the episode.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Write a world's step, or a policy, as ONNX, for ONNX Runtime in any language.

    Example: wmgym export HalfCheetah-v5 cheetah.onnx
    """
    with console.plain_errors():
        from wmgym.data.policy import load_policy
        from wmgym.io import artifacts
        from wmgym.models import saving

        if not artifacts.exists(source, kind="policy"):
            saving.load(source).export(out, propagation=propagation, trust=trust)  # type: ignore[arg-type]
        elif trust or propagation != "member":
            raise ValueError("--trust and --propagation are for worlds; a policy has neither")
        else:
            load_policy(source).export(out)
    found = {"command": "export", "onnx": str(out), "contract": str(out.with_suffix(".json"))}
    console.show(found if as_json else console.facts(found))


COMMANDS: tuple[Callable[..., None], ...] = (report, video, register, unregister, export)
"""In the order of the list of commands."""
