"""The whole line in one call: collect, fit, calibrate, train, repeat, score. Resumable after every stage."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wmgym import archive, store
from wmgym.calibrating import calibrate
from wmgym.collecting import PolicyFn, collect
from wmgym.data import Transitions, concat
from wmgym.fitting import FitConfig, fit
from wmgym.ledger import cpu_seconds, write_run_json
from wmgym.policy import MLPPolicy, load_policy
from wmgym.scoring import GapReport, score
from wmgym.task import make_task
from wmgym.world import Mode, WorldModel

Say = Callable[[str], None]


@dataclass(frozen=True)
class RunConfig:
    """What ``run`` does.

    Attributes:
        env_id: the real env.
        seed: decides everything.
        real_steps: real env steps in all, calibration included, scoring not.
        first_steps: of these, random ones to begin with.
        round_steps: real steps between two trainings; episodes of the policy of the moment alternate between
            its exploration noise and none, since a policy can get stuck where its noisy self does not.
        calibration_steps: real steps at the end, taken by the final policy, that only calibrate.
        collect_limit: cut real episodes after this many steps, so that few steps hold several episodes.
        first_fit: how the first world is fitted.
        next_fit: how each later one continues from the one before.
        algorithm: SB3 class.
        imagined_steps: imagined steps a round.
        last_imagined_steps: imagined steps of the last round, on the best world; earlier ones only lead the
            data on.
        num_envs: imagined episodes side by side.
        horizon: steps of an imagined episode; None takes the real time limit.
        prefill: of the imagined steps, how many fill the replay buffer before the first update.
        branch: start imagined episodes from all real states, not from start states alone.
        mode: of the imagined env, in training and in the score; see ``WorldModel.step``.
        halt: count leaving the range of the data as failure; see ``wmgym.sb3.ImaginedVecEnv``.
        hyperparameters: keywords of the SB3 class.
        score_episodes: real episodes of the final score.
    """

    env_id: str
    seed: int = 0
    real_steps: int = 10_000
    first_steps: int = 2_000
    round_steps: int = 1_000
    calibration_steps: int = 1_000
    collect_limit: int = 250
    first_fit: FitConfig = field(default_factory=lambda: FitConfig(max_updates=400, eval_every=50))
    next_fit: FitConfig = field(default_factory=lambda: FitConfig(max_updates=300, eval_every=50))
    algorithm: str = "SAC"
    imagined_steps: int = 36_000
    last_imagined_steps: int = 200_000
    num_envs: int = 128
    horizon: int | None = 30
    prefill: int = 5_120
    branch: bool = True
    mode: Mode = "member"
    halt: bool = False
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    score_episodes: int = 20

    def __post_init__(self) -> None:
        """Refuse a budget that leaves nothing to do."""
        if min(self.first_steps, self.round_steps, self.calibration_steps) < 1:
            raise ValueError("first_steps, round_steps and calibration_steps must be at least 1")
        if self.real_steps < self.first_steps + self.calibration_steps:
            raise ValueError(
                f"real_steps={self.real_steps} is less than first_steps + calibration_steps = "
                f"{self.first_steps + self.calibration_steps}"
            )

    @property
    def batches(self) -> list[int]:
        """Real steps collected before each training."""
        left = self.real_steps - self.first_steps - self.calibration_steps
        full, rest = divmod(left, self.round_steps)
        return [self.first_steps, *[self.round_steps] * full, *([rest] if rest else [])]


def recipe(env_id: str, *, seed: int = 0, real_steps: int | None = None, **changes: Any) -> RunConfig:
    """Settings measured to work on ``env_id``, or the general ones, with ``changes`` on top.

    Args:
        env_id: the real env.
        seed: decides everything.
        real_steps: real env steps in all; None keeps the recipe's.
        changes: fields of ``RunConfig``; ``first_fit`` and ``next_fit`` may be dictionaries of ``FitConfig``
            fields.

    Raises:
        ValueError: an unknown field.
    """
    chosen = {**_RECIPES.get(env_id, {}), **changes}
    unknown = set(chosen) - {entry.name for entry in dataclasses.fields(RunConfig)}
    if unknown:
        raise ValueError(f"unknown run settings {sorted(unknown)}; see wmgym.RunConfig for the known ones")
    for name in ("first_fit", "next_fit"):
        if isinstance(chosen.get(name), Mapping):
            chosen[name] = fit_config(chosen[name])
    if real_steps is not None:
        chosen["real_steps"] = real_steps
    return RunConfig(env_id=env_id, seed=seed, **chosen)


def fit_config(settings: Mapping[str, Any]) -> FitConfig:
    """A ``FitConfig`` from JSON values; an unknown key is refused."""
    unknown = set(settings) - {entry.name for entry in dataclasses.fields(FitConfig)}
    if unknown:
        raise ValueError(f"unknown fit settings {sorted(unknown)}; see wmgym.FitConfig for the known ones")
    return FitConfig(**settings)


_SAC: dict[str, Any] = {
    "learning_rate": 1e-3,
    "learning_starts": 0,
    "train_freq": 1,
    "gradient_steps": 8,
    "gamma": 0.98,
    "tau": 0.02,
    "buffer_size": 200_000,
    "policy_kwargs": {"net_arch": [128, 128], "optimizer_kwargs": {"fused": True}},
}

_RECIPES: dict[str, dict[str, Any]] = {
    "HalfCheetah-v5": {"hyperparameters": _SAC},
    "InvertedPendulum-v5": {
        "algorithm": "PPO",
        "hyperparameters": {"n_steps": 32, "batch_size": 1_024, "n_epochs": 8, "learning_rate": 1e-3},
        "real_steps": 1_000,
        "first_steps": 300,
        "round_steps": 200,
        "calibration_steps": 100,
        "collect_limit": 100,
        # Else the cart drifts, unpunished, to the end of its rail, which random data never shows.
        "halt": True,
        "first_fit": FitConfig(max_updates=400, eval_every=50, margin=0.1),
        "next_fit": FitConfig(max_updates=300, eval_every=50, margin=0.1),
        "imagined_steps": 300_000,
        "last_imagined_steps": 600_000,
        "num_envs": 256,
        "horizon": 200,
    },
}


@dataclass(frozen=True)
class RunResult:
    """What a run leaves behind."""

    world: WorldModel
    policy: MLPPolicy
    report: GapReport
    ledger: dict[str, float]


def run(
    config: RunConfig, out: str | os.PathLike[str], *, progress: bool = False, say: Say | None = None
) -> RunResult:
    """Run the line in directory ``out``; killed anywhere, the same call goes on from the last finished stage.

    Leaves ``world/`` (fitted and calibrated), ``policy/``, ``report.json``, ``run.json`` and one folder a
    round.

    Raises:
        ValueError: ``out`` holds a run with other settings.
    """
    line = _Line(config, Path(out), progress, say or (lambda text: None))
    for index in range(len(config.batches)):
        line.round(index)
    return line.finish()


class _Line:
    """The stages of one run, each done once and then read back."""

    def __init__(self, config: RunConfig, out: Path, progress: bool, say: Say) -> None:
        from wmgym import sb3  # an optional dependency, asked for before any work is done

        self.sb3, self.config, self.out, self.progress, self.say = sb3, config, out, progress, say
        self.task = make_task(config.env_id)
        sb3.check_agent(self.task.make(), self._train_config())
        out.mkdir(parents=True, exist_ok=True)
        wanted = config_dict(config)
        settings = out / "config.json"
        if settings.exists() and store.read_json(settings) != wanted:
            raise ValueError(f"{out} holds a run with other settings; choose another --out or remove it")
        store.write_json(settings, wanted)
        self.ledger: dict[str, float] = {"real_steps": 0, "imagined_steps": 0, "wall_s": 0.0, "cpu_s": 0.0}
        self.data: list[Transitions] = []
        self.world: WorldModel | None = None
        self.agent: dict[str, np.ndarray] | None = None

    def round(self, index: int) -> None:
        """Collect with the agent of the moment, fit on all there is, train on."""
        folder = self.out / f"round-{index:02d}"
        steps, seed = self.config.batches[index], self.config.seed * 1_000 + index
        with self._stage(folder / "collect.json", "collect") as stage:
            if stage.todo:
                self._collect(steps, seed).save(folder / "data")
                stage.note(real_steps=steps)
        self.data.append(Transitions.load(folder / "data"))
        with self._stage(folder / "fit.json", "fit") as stage:
            if stage.todo:
                settings = self.config.first_fit if index == 0 else self.config.next_fit
                starts = None if index == 0 else self.data[0].core[self.data[0].first]
                world = fit(
                    concat(self.data),
                    settings,
                    seed,
                    initial=self.world,
                    starts=starts,
                    progress=self.progress,
                )
                archive.save(world, folder / "world")
                stage.note(rollout_error=min(world.provenance.fit["rollout_error"]))
        self.world = archive.load(folder / "world")
        with self._stage(folder / "train.json", "train") as stage:
            if stage.todo:
                self._train(folder, seed, index == len(self.config.batches) - 1, stage)
        self.agent, _ = store.read_directory(folder / "agent", kind="agent")
        self.say(f"round {index + 1}/{len(self.config.batches)}: {sum(map(len, self.data)):,} real steps")

    def _collect(self, steps: int, seed: int) -> Transitions:
        return collect(
            self.task,
            self._policies(seed),
            steps=steps,
            seed=seed,
            max_episode_steps=self.config.collect_limit,
            workers=1,
            progress=self.progress,
        )

    def _policies(self, seed: int) -> dict[str, PolicyFn] | None:
        if self.agent is None:
            return None
        model = self.sb3.new_agent(self.task.make(), self._train_config(), seed)
        self.sb3.load_agent(model, self.agent)
        return {
            "explore": lambda obs: model.predict(obs, deterministic=False),
            "greedy": lambda obs: model.predict(obs, deterministic=True),
        }

    def _train_config(self, *, last: bool = False) -> Any:
        c = self.config
        steps = c.last_imagined_steps if last else c.imagined_steps
        return self.sb3.TrainConfig(
            c.algorithm, steps, c.num_envs, c.horizon, c.prefill, c.mode, c.halt, c.hyperparameters
        )

    def _train(self, folder: Path, seed: int, last: bool, stage: _Stage) -> None:
        assert self.world is not None
        starts = np.concatenate([part.core for part in self.data]) if self.config.branch else None
        model = self.sb3.train(
            self.world,
            self._train_config(last=last),
            seed,
            starts=starts,
            agent=self.agent,
            progress=self.progress,
        )
        store.write_directory(
            folder / "agent", kind="agent", arrays=self.sb3.agent_arrays(model), document={"seed": seed}
        )
        self.sb3.to_policy(model, f"{self.config.algorithm} in imagination").save(folder / "policy")
        stage.note(imagined_steps=model.num_timesteps)

    def finish(self) -> RunResult:
        """Calibrate on fresh episodes of the final policy, then score it on both sides."""
        last = self.out / f"round-{len(self.config.batches) - 1:02d}"
        policy = load_policy(last / "policy")
        seed = self.config.seed * 1_000 + 999
        with self._stage(self.out / "calibrate.json", "calibrate") as stage:
            if stage.todo:
                assert self.world is not None
                fresh = self._collect(self.config.calibration_steps, seed)
                fresh.save(self.out / "calibration-data")
                archive.save(
                    calibrate(self.world, fresh, seed=seed, progress=self.progress), self.out / "world"
                )
                policy.save(self.out / "policy")
                stage.note(real_steps=len(fresh))
        world = archive.load(self.out / "world")
        with self._stage(self.out / "score.json", "score") as stage:
            if stage.todo:
                report = score(
                    world,
                    {policy.name: policy},
                    self.config.score_episodes,
                    seed,
                    mode=self.config.mode,
                    progress=self.progress,
                )
                report.save(self.out / "report.json")
                stage.note(scored_real_steps=report.real_steps, scored_imagined_steps=report.imagined_steps)
        report = GapReport.load(self.out / "report.json")
        write_run_json(self.out, "run", config_dict(self.config), self.ledger)
        return RunResult(world, policy, report, self.ledger)

    def _stage(self, record: Path, name: str) -> _Stage:
        return _Stage(record, name, self.ledger)


class _Stage:
    """One unit of work: skipped when its record exists, timed and recorded when it does not."""

    def __init__(self, record: Path, name: str, ledger: dict[str, float]) -> None:
        self.record, self.name, self.ledger = record, name, ledger
        self.todo = not record.exists()
        self.facts: dict[str, float] = {}

    def note(self, **facts: float) -> None:
        self.facts.update(facts)

    def __enter__(self) -> _Stage:
        self.wall, self.cpu = time.perf_counter(), cpu_seconds()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            return
        if self.todo:
            self.note(wall_s=time.perf_counter() - self.wall, cpu_s=cpu_seconds() - self.cpu)
            store.write_json(self.record, {"stage": self.name, **self.facts})
        for key, value in store.read_json(self.record).items():
            if key not in ("stage", "rollout_error"):
                self.ledger[key] = self.ledger.get(key, 0) + value


def config_dict(config: RunConfig) -> dict[str, Any]:
    """Settings as JSON values, so that they compare equal to what a file gives back."""
    settings: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return settings
