"""How many real steps and minutes does DynaSAC need, beside SAC and CrossQ that learn in MuJoCo itself?

A unit is one algorithm on one task with one seed, trained from nothing with the defaults of the algorithm. At
checkpoints of real steps its deterministic policy plays episodes in envs apart from the training env, from
the same start states for everyone; their steps do not count and their time is taken out. Every checkpoint is
written as it is reached, so processes may share the seeds between them. A killed DynaSAC goes on where it
was; SAC and CrossQ, which SB3 cannot resume exactly, start again. Finished units are skipped, unless settings
of the algorithm have changed since; a larger --budget extends them.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import inspect
import json
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from benchmarks.harness.bred import ENV_KWARGS
from benchmarks.harness.learning_curves import ALGORITHMS, ENVS, SEEDS, goals
from benchmarks.harness.results import RUNS, Growing, Row
from benchmarks.harness.runner import Benchmark
from benchmarks.harness.trainings import Checkpoints, Clock, Models, evaluate, summary
from benchmarks.harness.worlds import Setup

CHECKPOINTS = (5_000, 10_000, 15_000, 20_000, 30_000, 40_000, 50_000, 75_000, 100_000)
CHECKPOINTS_OF = {
    "HalfCheetah-v5": (3_000, 5_000, 7_500, 10_000, 15_000, 20_000, 30_000, 50_000, 75_000, 100_000),
    "InvertedPendulum-v5": (300, 400, 500, 750, 1_000, 1_500, 2_000, 3_000, 5_000),
}
BUDGETS = {"DynaSAC": 75_000, "SAC": 100_000, "CrossQ": 20_000}
"""A step of CrossQ, whose critics are 1,024 units wide, takes a CPU core many times as long as one of SAC."""
PENDULUM_BUDGETS = {"DynaSAC": 500, "SAC": 5_000, "CrossQ": 1_500}
QUICK_BUDGETS = {"DynaSAC": 1_250, "SAC": 1_000, "CrossQ": 300}
RESUMES = ("DynaSAC",)
"""Algorithms that ``save`` and ``load`` continue as if nothing had happened."""
UNSET = {"env", "seed", "device", "verbose", "tensorboard_log", "stats_window_size", "_init_setup_model",
         "policy", "policy_kwargs", "target_entropy", "replay_buffer_kwargs"}  # fmt: skip
"""Arguments that are no setting of an algorithm, or that ``configuration`` states otherwise."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), help="default: %(default)s")
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=list(ALGORITHMS))
    parser.add_argument(
        "--budget", type=int,
        help=f"real steps of every unit; default: {', '.join(f'{k} {v:,}' for k, v in BUDGETS.items())}, on"
        f" InvertedPendulum {', '.join(f'{k} {v:,}' for k, v in PENDULUM_BUDGETS.items())}",
    )  # fmt: skip
    parser.add_argument("--restart", action="store_true", help="measure finished units again")


def units(setup: Setup, args: argparse.Namespace) -> dict[str, Growing]:
    found: dict[str, Growing] = {}
    for env_id in args.env:
        for seed in args.seeds[:1] if setup.quick else args.seeds:
            for algorithm in args.algorithms:
                usual = (PENDULUM_BUDGETS if env_id == "InvertedPendulum-v5" else BUDGETS)[algorithm]
                budget = min(usual, QUICK_BUDGETS[algorithm]) if setup.quick else usual
                run = Run(
                    env_id, algorithm, seed,
                    budget=args.budget or budget,
                    folder=RUNS / ("quick" if setup.quick else "shipped") / "sample_efficiency",
                    episodes=setup.size(10, 3),
                    restart=args.restart,
                )  # fmt: skip
                found[run.name] = functools.partial(train, run)
    return found


@dataclasses.dataclass(frozen=True)
class Run:
    """One unit.

    Attributes:
        env_id: the task.
        algorithm: its name.
        seed: of the algorithm and of its training env.
        budget: real steps.
        folder: where models are kept while they train.
        episodes: of every evaluation.
        restart: forget what is kept of it.
    """

    env_id: str
    algorithm: str
    seed: int
    budget: int
    folder: Path
    episodes: int = 10
    restart: bool = False

    @property
    def name(self) -> str:
        return f"{self.algorithm}-{self.env_id}-{self.seed}"

    @property
    def checkpoints(self) -> list[int]:
        """Steps at which the policy is evaluated."""
        at = CHECKPOINTS_OF.get(self.env_id, CHECKPOINTS)
        return sorted({*(step for step in at if step < self.budget), self.budget})

    def make_env(self) -> gym.Env[Any, Any]:
        return gym.make(self.env_id, **ENV_KWARGS.get(self.env_id, {}))

    def make_model(self) -> Any:
        return kind_of(self.algorithm)("MlpPolicy", self.make_env(), seed=self.seed, device="cpu")


def train(run: Run, kept: Row | None, keep: Callable[[Row], None]) -> None:
    """Train a unit up to its budget, keeping every checkpoint."""
    settings = settings_of(run)
    recipe = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    usable = kept is not None and not run.restart and kept["recipe"] == recipe
    before: list[Row] = kept["rows"] if kept is not None and usable else []
    if before and before[-1]["step"] >= run.budget:
        print(f"{run.name}: finished by an earlier run", flush=True)
        return
    models, clock = Models(run.folder / run.name, recipe), Clock()
    if run.algorithm in RESUMES and before and (found := models.latest()) is not None:
        model = kind_of(run.algorithm).load(found / "model.zip", env=run.make_env())
        clock = Clock(**json.loads((found / "clock.json").read_text()))
        print(f"{run.name}: goes on after {model.num_timesteps:,} steps", flush=True)
    else:
        shutil.rmtree(models.folder, ignore_errors=True)
        model = run.make_model()
    start = model.num_timesteps
    rows = [row for row in before if row["step"] <= start]
    envs = [run.make_env() for _ in range(run.episodes)]

    def reached(step: int) -> None:
        clock.resume(training=False)
        returns = evaluate(model, envs)
        averaged = evaluate(Averaged(model), envs) if run.algorithm == "DynaSAC" else None
        clock.pause()
        row = {
            "algorithm": run.algorithm,
            "env": run.env_id,
            "seed": run.seed,
            "step": step,
            "recipe": recipe,
        }
        if averaged is not None:
            row["averaged"] = averaged.round(1).tolist()
        row |= summary(returns) | {"wall_s": round(clock.wall, 2), "cpu_s": round(clock.cpu, 2)}
        rows.append(row)
        later = [one for one in before if one["step"] > step]  # they stand until this run comes there
        cost = {
            "wall_s": round(clock.wall + clock.other_wall, 1),
            "cpu_s": round(clock.cpu + clock.other_cpu, 1),
        }
        keep({**cost, "recipe": recipe, "settings": settings, "rows": [*rows, *later]})
        if run.algorithm in RESUMES:
            models.save(model, clock)
        got = ", ".join(f"{name} {row[name]:,.0f}" for name in ("mean", "min", "median"))
        print(f"{run.name}: {step:,} steps, return {got}; {clock.wall / 60:.1f} minutes", flush=True)
        clock.resume()

    due = [step for step in run.checkpoints if step > start]
    model.learn(run.budget - start, Checkpoints(due, reached, clock), reset_num_timesteps=start == 0)


class Averaged:
    """Acts as DynaSAC would if it did not compare actors: always by the averaged one."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def predict(self, obs: np.ndarray, deterministic: bool = True) -> tuple[np.ndarray, None]:
        """As SB3's."""
        return self.model.policy.averaged_action(obs), None


def kind_of(algorithm: str) -> Any:
    """The class of that name; SB3 is an optional dependency."""
    import sb3_contrib
    import stable_baselines3

    import wmgym.sb3

    kinds = {"DynaSAC": wmgym.sb3.DynaSAC, "SAC": stable_baselines3.SAC, "CrossQ": sb3_contrib.CrossQ}
    return kinds[algorithm]


def settings_of(run: Run) -> Row:
    """All settings of an algorithm; some of DynaSAC's follow the budget that ``learn`` is given."""
    model = run.make_model()
    model.learn(run.budget, callback=lambda *_: False)  # stops after one step
    return configuration(model)


def configuration(model: Any) -> Row:
    """All settings of an algorithm by name, the same for the same recipe on every task."""
    kinds = [kind for kind in type(model).__mro__ if "__init__" in vars(kind) and kind is not object]
    names = {name for kind in kinds for name in inspect.signature(kind).parameters} - UNSET
    values = {name: getattr(model, name) for name in names if hasattr(model, name)}
    for name in ("imagination", "world_config"):
        if hasattr(model, name):
            values |= {f"{name}.{key}": value for key, value in vars(getattr(model, name)).items()}
    values.pop("imagination.pessimism", None)  # acts in a world that is not refitted alone
    for name in ("net_arch", "activation_fn", "optimizer_class", "optimizer_kwargs"):
        values[f"policy.{name}"] = getattr(model.policy, name, None)
    values["critics"] = model.critic.n_critics
    every = model.train_freq
    values["train_freq"] = f"{every.frequency} {every.unit.value}"
    values["target_entropy / action_dim"] = float(model.target_entropy) / model.action_space.shape[0]
    package = type(model).__module__.partition(".")[0]
    if package in ("stable_baselines3", "sb3_contrib"):
        values["package"] = f"{package} {metadata.version(package)}"
    return {
        name: said(value)
        for name, value in sorted(values.items())
        if value is not None and value is not False
    }


def said(value: Any) -> Any:
    """A setting as JSON."""
    if isinstance(value, type) or callable(value):
        return value.__name__
    if isinstance(value, (bool, int, float, str, type(None))):
        return value
    if isinstance(value, dict):
        return {str(key): said(entry) for key, entry in value.items()}
    return [said(entry) for entry in value] if type(value) in (list, tuple) else str(value)


BENCHMARK = Benchmark(
    units,
    goals,
    collects="trains three algorithms in MuJoCo from nothing, on five seeds a task",
    envs=ENVS,
    seeds=SEEDS,
    arguments=arguments,
    grows=True,
)
