"""Policies by name, however they are given: functions, models, files, directories of files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from inspect import isclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from wmgym.data.foreign import OnnxPolicy, foreign_policy
from wmgym.data.policy import MLPPolicy, PolicyFn, load_policy
from wmgym.io import artifacts
from wmgym.io.files import StrPath

Split: TypeAlias = Literal["pool", "calibration", "held-out"]


def as_policies(policies: Any, split: Split | None = "pool") -> dict[str, PolicyFn | None]:
    """Policies by name, from any of the forms that ``collect`` and ``score`` take.

    Args:
        policies: None for uniform random actions; a function of a batch of observations, or of one; an object
            with ``predict``, such as an SB3 model, whose actions are then deterministic and whose
            ``VecNormalize`` comes along; a ``torch.nn.Module``; the path of a policy that ``MLPPolicy.save``
            wrote, or of an ONNX file; a mapping of any of these by name; or the path of a directory of saved
            policies, see ``load_pool``.
        split: of a directory of policies, those to take.

    Raises:
        ValueError: an empty mapping, a name that is no line of printable text, or what is no policy.
        StoreError: a path that holds no policy, or a damaged one.
    """
    if isinstance(policies, Mapping):
        if not policies:
            raise ValueError("no policies in the mapping; pass at least one, or None for random actions")
        return {_printable(name): _policy(policy) for name, policy in policies.items()}
    if is_pool(policies):
        return {_printable(name): policy for name, policy in load_pool(policies, split).items()}
    policy = _policy(policies)
    return {_printable(_name(policy if isinstance(policies, (str, os.PathLike)) else policies)): policy}


def is_pool(policies: Any) -> bool:
    """Whether this is a path, and of something else than one saved policy."""
    given = isinstance(policies, (str, os.PathLike)) and not _is_onnx(policies)
    return given and not artifacts.exists(policies, kind="policy")


def load_pool(path: StrPath, split: Split | None = "pool") -> dict[str, MLPPolicy]:
    """Every policy in the directories right under ``path``, by name, in the order of their directories.

    Args:
        path: a directory of directories that ``MLPPolicy.save`` wrote.
        split: only those whose card says so; a policy without a card counts as "pool". None takes all.

    Raises:
        StoreError: no such directory or policy, two of one name, or a damaged one.
    """
    found: dict[str, MLPPolicy] = {}
    place = Path(path)
    alone = not os.path.isdir(place) or os.path.exists(
        place / artifacts.MANIFEST
    )  # load_policy says what it is instead
    for directory in [place] if alone else sorted(entry for entry in place.glob("*") if entry.is_dir()):
        policy = load_policy(directory)
        if policy.name in found:
            raise artifacts.StoreError(f"{path}: two policies are named {policy.name!r}; rename one")
        found[policy.name] = policy
    splits = {name: policy.card.split if policy.card else "pool" for name, policy in found.items()}
    chosen = {name: policy for name, policy in found.items() if split in (None, splits[name])}
    if not chosen:
        raise artifacts.StoreError(f"{path} holds no policies{f' of split {split!r}' if split else ''}")
    return chosen


def load_one(path: StrPath) -> PolicyFn:
    """The policy that ``MLPPolicy.save`` wrote to ``path``, or an ONNX file's.

    Raises:
        StoreError: no policy, or a damaged one.
        ValueError: no file that ONNX Runtime can read.
        ImportError: ONNX Runtime is not installed.
    """
    return OnnxPolicy(path) if _is_onnx(path) else load_policy(path)


def _policy(policy: Any) -> PolicyFn | None:
    if isinstance(policy, (str, os.PathLike)):
        return load_one(policy)
    if isclass(policy):
        raise ValueError(
            f"{policy.__name__} is a class; pass a trained or loaded instance of it as the policy"
        )
    policy = foreign_policy(policy)
    if policy is None or callable(policy):
        named: PolicyFn | None = policy
        return named
    raise ValueError(
        f"{type(policy).__name__} is no policy; pass a function of observations, a model with predict, "
        "a saved policy's path, a mapping of these by name, or None for random actions"
    )


def _printable(name: Any) -> str:
    """A name that a line of a table or of a log can hold, or an error."""
    if not isinstance(name, str):
        raise ValueError(f"the name of a policy must be a str, got {name!r}")
    if not name.strip() or not name.isprintable():
        raise ValueError(f"the name of a policy must be one line of printable text, got {name!r}")
    return name


def _is_onnx(path: StrPath) -> bool:
    return os.fspath(path).endswith(".onnx")


def _name(policy: Any) -> str:
    if policy is None:
        return "random"
    return str(getattr(policy, "name", None) or getattr(policy, "__name__", type(policy).__name__))
