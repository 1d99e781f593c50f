"""The commands that make data and look at them; ``cli`` adds them to the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from wmgym.app import console, options


def collect(
    env: options.Env,
    out: options.Out,
    steps: Annotated[int, Option(min=1, help="Real env steps.")],
    policy: options.Policies = None,
    noise: options.Noise = 0.0,
    switch_every: options.SwitchEvery = None,
    env_kwargs: options.EnvKwargs = None,
    max_episode_steps: options.MaxEpisodeSteps = None,
    seed: options.Seed = 0,
    executor: options.Where = None,
    address: options.Address = None,
    as_json: options.AsJson = False,
) -> None:
    """Run policies in the real env and save the transitions.

    Example: wmgym collect HalfCheetah-v5 --steps 20000 --out data/cheetah
    """
    with console.job("collect", out, as_json, kind="transitions") as job:
        from wmgym.data import collect as collect_module
        from wmgym.tasks.schema import record_kwargs
        from wmgym.tasks.task import make_task

        how: dict[str, Any] = {"steps": steps, "noise": noise, "switch_every": switch_every, "seed": seed}
        how["max_episode_steps"] = max_episode_steps
        where = options.executor(executor, address)
        task = make_task(env, env_kwargs=env_kwargs)
        given = options.policies(policy, task)
        data = collect_module.collect(task, given, **how, executor=where, progress=not as_json)
        data.save(out)
        named: dict[str, Any] = {"env_id": env, "policy": [str(p) for p in policy or ()]}
        named["env_kwargs"] = record_kwargs(env_kwargs or {})
        job.done({**named, **how}, data.describe(), real_steps=len(data))


Column = str | None
Columns = list[str] | None


def import_(
    paths: Annotated[
        list[Path],
        Argument(metavar="PATH...", help="Files of one format, a folder, a Minari or LeRobot data set."),
    ],
    out: options.Out,
    obs: Annotated[Columns, Option(help="Observation columns: names, or patterns such as 'q*'.")] = None,
    action: Annotated[Columns, Option(help="Action columns, likewise.")] = None,
    next_obs: Annotated[Columns, Option(help="Columns of the observation after a step.")] = None,
    reward: Annotated[Column, Option(help="Reward column.")] = None,
    terminated: Annotated[Column, Option(help="Column, not zero where an episode terminated.")] = None,
    truncated: Annotated[Column, Option(help="Column, not zero where one ended otherwise.")] = None,
    time: Annotated[Column, Option(help="Column of seconds, or of *_ms, *_us or *_ns.")] = None,
    episode: Annotated[Column, Option(help="Column that differs from episode to episode.")] = None,
    dt: Annotated[float | None, Option(help="Seconds a step.", show_default="that between rows")] = None,
    max_gap: Annotated[
        float | None,
        Option(help="Longest time between rows of one episode.", show_default="1.5 times the usual one"),
    ] = None,
    scale: Annotated[
        dict[str, Any] | None,
        Option(parser=options.json_object, metavar="JSON", help='Factors by column: {"q1": 0.01745}.'),
    ] = None,
    action_space: Annotated[
        str | None,
        Option(
            metavar="SPACE",
            help="What actions are: 'Box(-1, 1, (2,))', 'Discrete(4)', 'MultiDiscrete([3, 3])', ...",
            show_default="what the files say, or the range of the data",
        ),
    ] = None,
    max_episode_steps: options.MaxEpisodeSteps = None,
    as_json: options.AsJson = False,
) -> None:
    """Make transitions of recorded files: CSV, npz, HDF5, Minari, LeRobot, MCAP.

    Columns that are not named are found by their usual names; what was found is printed.

    Example: wmgym import logs/ --obs "q*" --obs "dq*" --action u --time t --out data/robot
    """
    with console.job("import", out, as_json, kind="transitions") as job:
        from wmgym.data.importers.from_log import from_log

        how: dict[str, Any] = {
            "obs": obs, "action": action, "next_obs": next_obs, "reward": reward, "terminated": terminated,
            "truncated": truncated, "time": time, "episode": episode, "dt": dt, "max_gap": max_gap,
            "scale": scale, "max_episode_steps": max_episode_steps,
        }  # fmt: skip
        space = None if action_space is None else options.space("--action-space", action_space)
        data = from_log(paths, **how, action_space=space)
        data.save(out)
        how |= {"paths": [str(path) for path in paths], "action_space": action_space}
        job.done(how, data.describe(), real_steps=len(data))


def check(data: options.Data, as_json: options.AsJson = False) -> None:
    """Look for what is wrong or odd in transitions.

    Example: wmgym check data/robot
    """
    with console.plain_errors():
        from wmgym.data import checks
        from wmgym.data.transitions import Transitions

        found = Transitions.load(data)
        findings = checks.check(found)
    if as_json:
        listed = [dataclasses.asdict(finding) for finding in findings]
        console.show({"command": "check", "data": found.describe(), "findings": listed})
    else:
        console.show(console.facts(found.describe()))
        rows = [(finding.about, finding.text) for finding in findings] or [("nothing", "")]
        console.show(console.table(None, ("found", "what it is"), rows))


COMMANDS: dict[str, Callable[..., None]] = {"collect": collect, "import": import_, "check": check}
"""By name, in the order of the list of commands."""
