"""Arguments and options that several commands share, or that take several lines; what they name on disk."""

from __future__ import annotations

import ast
import contextlib
import importlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core
from typer import Argument, Option

if TYPE_CHECKING:
    from wmgym.data.units import Executor
    from wmgym.tasks.task import Task


_SPACES = ("Box", "Discrete", "MultiDiscrete", "MultiBinary")


class Command(typer.core.TyperCommand):
    """A command that refuses an option that takes one value and is given several; the last would count."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As typer's."""
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        for param in order:
            several = getattr(param, "multiple", True) or getattr(param, "is_flag", False)
            if not several and param.param_type_name == "option" and order.count(param) > 1:
                ctx.fail(f"{max(param.opts, key=len)} takes one value and is given {order.count(param)}")
        found: list[str] = super().parse_args(ctx, args)
        return found


def json_object(text: str) -> dict[str, Any]:
    """The JSON object of a command-line option."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise typer.BadParameter(f"{text!r} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise typer.BadParameter(f"{text!r} is not a JSON object, such as '{{\"key\": 1}}'")
    return found


def directory(text: str) -> Path:
    """A directory on the command line; an empty name, as of an unset variable, would be the current one."""
    if not text:
        raise typer.BadParameter("the name is empty; name a directory, '.' is the current one")
    return Path(text)


def shares(text: str) -> tuple[float, float]:
    """The two ends of a range of shares on the command line, such as 0.87:0.93."""
    with contextlib.suppress(ValueError):
        low, high = (float(end) for end in text.split(":"))
        if 0 <= low <= high <= 1:
            return low, high
    raise typer.BadParameter(f"{text!r} is no range of shares, such as 0.87:0.93")


def space(name: str, text: str) -> Any:
    """The space of actions on the command line, such as ``MultiDiscrete([3, 3])``; nothing is executed."""
    from gymnasium import spaces

    try:
        call = ast.parse(text, mode="eval").body
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") in _SPACES:
            given = {each.arg or "": ast.literal_eval(each.value) for each in call.keywords}
            return getattr(spaces, call.func.id)(*map(ast.literal_eval, call.args), **given)  # type: ignore[attr-defined]
        said = "it is none of them"
    except (AssertionError, SyntaxError, TypeError, ValueError) as error:
        said = " ".join(str(error).split())
    example = "'Box(-1, 1, (2,))', 'Discrete(4)', 'MultiDiscrete([3, 3])' or 'MultiBinary(4)'"
    raise ValueError(f"{name} takes a space such as {example}, got {text!r}: {said}")


def read(path: Path | None) -> dict[str, Any]:
    """The JSON object in a file; none where no file was named."""
    from wmgym.io import artifacts

    return {} if path is None else artifacts.read_json(path)


def policies(given: Sequence[Path] | None, task: Task) -> Any:
    """What ``--policy`` named, or None: several by their own name, or as given where two share one."""
    if not given:
        return None
    if len(set(map(str, given))) < len(given):
        raise ValueError("a --policy is given twice; give each once")
    if len(given) == 1 and os.path.isdir(given[0]):
        return given[0]
    loaded = {str(path): _policy(str(path), task) for path in given}
    names = [getattr(policy, "name", text) for text, policy in loaded.items()]
    found = zip(names, loaded.items(), strict=True)
    return {name if names.count(name) == 1 else text: policy for name, (text, policy) in found}


def executor(kind: str | None, address: str | None) -> Executor | None:
    """What ``--executor`` and ``--address`` name."""
    if kind is None:
        if address is not None:
            raise ValueError(f"--address {address} goes with --executor ray")
        return None
    from wmgym.data.executors import make_executor

    return make_executor(kind, address=address)


def _policy(text: str, task: Task) -> Any:
    """A saved policy, an ONNX file, a policy of a Stable-Baselines3 zip, or ``module:function``."""
    from wmgym.data.pool import load_one

    module, colon, name = text.partition(":")
    if colon and not os.path.exists(text):
        try:
            found = getattr(importlib.import_module(module), name, None)
        except ImportError as error:
            raise ValueError(f"--policy {text}: cannot import {module}: {error}") from None
        if not callable(found):
            raise ValueError(f"--policy {text}: {module} has no function {name!r}")
        return found
    if text.endswith(".zip"):
        from wmgym.agents.sb3 import import_sb3

        return import_sb3(text, task)
    return load_one(text)


Env = Annotated[
    str, Argument(metavar="ENV", help="Gymnasium id of the real env; module:Env-v0 imports module first.")
]
Data = Annotated[Path, Argument(metavar="DATA", help="Transitions that `collect` saved.")]
World = Annotated[
    Path,
    Argument(metavar="WORLD", help="World that `fit` or `calibrate` saved, or the id of one that ships."),
]
Out = Annotated[Path, Option(parser=directory, metavar="PATH", help="Directory to write.")]
EnvKwargs = Annotated[
    dict[str, Any] | None, Option(parser=json_object, metavar="JSON", help="Keywords for gymnasium.make.")
]
MaxEpisodeSteps = Annotated[
    int | None, Option(min=1, help="End episodes after this many steps.", show_default="the env's limit")
]
Seed = Annotated[int, Option(min=0, max=2**32 - 1, help="Seed of everything random.")]
AsJson = Annotated[bool, Option("--json", help="Print one JSON object and nothing else.")]
Policies = Annotated[
    list[Path] | None,
    Option(
        help="Saved policy, directory of them, ONNX file, Stable-Baselines3 zip, or module:function; several "
        "take turns by episode.",
        show_default="random actions",
    ),
]
Begin = Annotated[
    Path | None,
    Option(
        "--policy",
        help="Go on from this one: saved policy, ONNX file, Stable-Baselines3 zip, or module:function.",
        show_default="a new one",
    ),
]
Judged = Annotated[
    list[Path] | None,
    Option(
        "--policy",
        help="Saved policy, directory of them, ONNX file, Stable-Baselines3 zip, or module:function; "
        "repeatable.",
        show_default="random actions",
    ),
]
ImaginedEpisodes = Annotated[int, Option(min=2, help="Imagined episodes per policy.")]
Noise = Annotated[
    float, Option(min=0, help="Standard deviation of action noise, as a share of half the action range.")
]
SwitchEvery = Annotated[
    int | None,
    Option(min=1, help="Mean steps until another policy takes over within an episode.", show_default="never"),
]
Horizon = Annotated[
    int | None,
    Option(min=1, help="Steps ahead that the bounds reach.", show_default="length of the longest episode"),
]
Starts = Annotated[
    Path | None,
    Option(help="Transitions from any of whose states episodes start.", show_default="true start states"),
]
Where = Annotated[
    str | None,
    Option(
        "--executor",
        metavar="serial|processes|ray",
        help="Where the work is done; results are the same.",
        show_default="processes where they pay",
    ),
]
Address = Annotated[
    str | None,
    Option(
        help="Ray cluster for --executor ray; auto is the one of this machine.",
        metavar="auto|HOST:PORT",
        show_default="a Ray of its own",
    ),
]
Hyperparameters = Annotated[
    Path | None,
    Option(
        help="JSON file: object of keywords for the Stable-Baselines3 class.",
        show_default="Stable-Baselines3's",
    ),
]
RunFile = Annotated[
    Path | None, Option(help="JSON file: object of RunConfig fields.", show_default="the env's recipe")
]
