"""What the commands take: their arguments and options, each with its help."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option


def json_object(text: str) -> dict[str, Any]:
    """The JSON object of a command-line option."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise typer.BadParameter(f"{text!r} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise typer.BadParameter(f"{text!r} is not a JSON object, such as '{{\"key\": 1}}'")
    return found


def policies(paths: Sequence[Path]) -> Any:
    """What ``--policy`` named: several by their own name, or by directory where two share one."""
    from wmgym.data.policy import load_policy

    if len(paths) < 2:
        return paths[0] if paths else None
    loaded = {str(path): load_policy(path) for path in paths}
    if len(loaded) < len(paths):
        raise ValueError("a --policy is given twice; give each once")
    names = [policy.name for policy in loaded.values()]
    return {p.name if names.count(p.name) == 1 else path: p for path, p in loaded.items()}


def real_states(path: Path, env_id: str) -> Any:
    """All states of saved transitions ``(n, core_dim)``, which must be of that env."""
    from wmgym.data.transitions import Transitions

    data = Transitions.load(path)
    if data.task.env_id != env_id:
        raise ValueError(f"{path} is of {data.task.env_id!r}, the world imagines {env_id!r}")
    return data.state


# Shared

EnvId = Annotated[
    str, Argument(metavar="ENV", help="Gymnasium id of the real env; module:Env-v0 imports module first.")
]
DataDir = Annotated[Path, Argument(metavar="DATA", help="Transitions that `collect` saved.")]
WorldDir = Annotated[
    Path,
    Argument(metavar="WORLD", help="World that `fit` or `calibrate` saved, or the id of one that ships."),
]
Out = Annotated[Path, Option(help="Directory to write.")]
EnvKwargs = Annotated[
    dict[str, Any] | None, Option(parser=json_object, metavar="JSON", help="Keywords for gymnasium.make.")
]
MaxEpisodeSteps = Annotated[
    int | None, Option(min=1, help="End episodes after this many steps.", show_default="the env's limit")
]
Seed = Annotated[int, Option(min=0, max=2**32 - 1, help="Seed of everything random.")]
AsJson = Annotated[bool, Option("--json", help="Print one JSON object and nothing else.")]

# Of single commands

Policies = Annotated[
    list[Path] | None,
    Option(
        help="Saved policy or directory of them; several take turns by episode.",
        show_default="random actions",
    ),
]
Steps = Annotated[int, Option(min=1, help="Real env steps.")]
Noise = Annotated[
    float, Option(min=0, help="Standard deviation of action noise, as a share of half the action range.")
]
SwitchEvery = Annotated[
    int | None,
    Option(min=1, help="Mean steps until another policy takes over within an episode.", show_default="never"),
]
FitFile = Annotated[
    Path | None, Option(help="JSON file: object of FitConfig fields.", show_default="FitConfig()")
]
Updates = Annotated[
    int | None, Option(min=1, help="Gradient steps at most.", show_default="the configuration's")
]
Level = Annotated[float, Option(help="Probability with which each error bound is to hold.")]
Horizon = Annotated[
    int | None,
    Option(min=1, help="Steps ahead that the bounds reach.", show_default="length of the longest episode"),
]
Update = Annotated[
    bool, Option("--update", help="Adapt WORLD's own bounds to new episodes instead; their level stays.")
]
Algorithm = Annotated[
    str | None, Option(help="Stable-Baselines3 class.", show_default="SAC, or PPO for Discrete actions")
]
ImaginedSteps = Annotated[int, Option(min=1, help="Imagined env steps, over all envs.")]
Envs = Annotated[int, Option(min=1, help="Imagined episodes side by side.")]
Starts = Annotated[
    Path | None,
    Option(help="Transitions from any of whose states episodes start.", show_default="true start states"),
]
Hyperparameters = Annotated[
    Path | None,
    Option(
        help="JSON file: object of keywords for the Stable-Baselines3 class.",
        show_default="Stable-Baselines3's",
    ),
]
ScoredPolicies = Annotated[list[Path], Option(help="Saved policy or directory of them; repeat for several.")]
Episodes = Annotated[int, Option(min=2, help="Episodes per policy, real and imagined.")]
RunSteps = Annotated[
    int | None, Option(min=1, help="Real env steps in all.", show_default="the env's recipe's")
]
RunFile = Annotated[
    Path | None,
    Option(help="JSON file: object of RunConfig fields.", show_default="the env's recipe"),
]
RunSeed = Annotated[int, Option(min=0, max=4_000_000, help="Seed of everything random.")]
