"""What a sweep runs: tasks x algorithms x seeds x budgets."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from pydantic import JsonValue

from wmgym.app.recipes import MAX_SEED, RunConfig, recipe
from wmgym.io import files
from wmgym.io.provenance import fingerprint
from wmgym.io.schema import STRICT, read_settings

_OWN = ("env_id", "seed", "real_steps")
_LARGEST = 1 << 20  # bytes of a file that a person wrote


@dataclass(frozen=True)
class SweepConfig:
    """Runs to compare; every combination is one.

    Attributes:
        tasks: ids of envs.
        seeds: of runs.
        budgets: real env steps of a run, calibration included.
        algorithms: as ``wmgym.run`` takes them.
        settings: fields of ``RunConfig`` that hold for every run, on top of the recipe of its env.
        resources: what Ray reserves for each run; see ``wmgym.Unit``.
    """

    __pydantic_config__ = STRICT

    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    budgets: tuple[int, ...]
    algorithms: tuple[str, ...] = ("DynaSAC",)
    settings: dict[str, JsonValue] = field(default_factory=dict)
    resources: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what leaves nothing to run, or the same thing twice."""
        for name in ("tasks", "algorithms", "seeds", "budgets"):
            given = getattr(self, name)
            if not given:
                raise ValueError(f"{name} is empty; name at least one")
            if len(set(given)) < len(given):
                raise ValueError(f"{name} names one twice: {list(given)}")
        if not 0 <= min(self.seeds) <= max(self.seeds) <= MAX_SEED:
            raise ValueError(f"seeds must lie in 0..{MAX_SEED}")
        if min(self.budgets) < 1:
            raise ValueError("budgets must be at least 1 real step")
        if own := sorted(self.settings.keys() & set(_OWN)):
            raise ValueError(f"settings.{own[0]} is the sweep's own; leave it out")
        if min(self.resources.values(), default=0) < 0:
            raise ValueError("resources must be at least 0")


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep.

    Attributes:
        task: id of the env.
        algorithm: of the agent.
        budget: real env steps, calibration included.
        seed: of everything random.
        config: all settings.
    """

    task: str
    algorithm: str
    budget: int
    seed: int
    config: RunConfig

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.task} {self.algorithm} {self.budget:,} steps seed {self.seed}"

    @property
    def folder(self) -> str:
        """A file name of its own, whatever characters the task's id has."""
        text = f"{self.task}-{self.algorithm}-{self.budget}-seed-{self.seed}"
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", text).lstrip(".-")[:100]
        return plain if plain == text else f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    @property
    def fingerprint(self) -> str:
        """Of all settings."""
        return fingerprint(self.config.to_dict())


def runs(config: SweepConfig) -> list[SweepRun]:
    """All runs, those of the first seed first, so that a sweep cut short has a bit of everything.

    Raises:
        ValueError: a combination that ``RunConfig`` refuses; names it.
    """
    found = []
    axes = (config.seeds, config.budgets, config.tasks, config.algorithms)
    for seed, budget, task, algorithm in product(*axes):
        settings: dict[str, Any] = dict(config.settings)
        train = settings.pop("train", {})
        if not isinstance(train, dict) or "algorithm" in train:
            raise ValueError("settings.train must hold fields of TrainConfig, and algorithms the algorithm")
        settings["train"] = {**train, "algorithm": algorithm}
        try:
            made = recipe(task, seed=seed, real_steps=budget, **settings)
        except Exception as error:  # envs of users fail in their own ways
            said = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{task}, {algorithm}, {budget:,} steps: {said}") from error
        found.append(SweepRun(task, algorithm, budget, seed, made))
    return found


def read_config(path: Path) -> SweepConfig:
    """A sweep's YAML or JSON file.

    Raises:
        ValueError: it is neither, or holds something else; one line.
    """
    try:
        found = yaml.safe_load(files.read_bytes(path, _LARGEST))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        if isinstance(error, files.StoreError):
            raise
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold tasks, seeds and budgets, not a {type(found).__name__}")
    try:
        made: SweepConfig = read_settings(SweepConfig, found, str(path))
    except RecursionError:
        raise ValueError(f"{path} is not YAML of this kind: it refers to itself") from None
    return made
