"""The whole line in one call: collect, fit, calibrate, train, repeat, score. Resumable after every stage."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from wmgym.app.recipes import Round, RunConfig, config_dict
from wmgym.calibration.calibrate import calibrate
from wmgym.data.collect import collect
from wmgym.data.policy import MLPPolicy, PolicyFn, load_policy
from wmgym.data.transitions import Transitions, concat
from wmgym.evaluation.gap_report import GapReport
from wmgym.evaluation.score import score
from wmgym.io import artifacts
from wmgym.io.provenance import cpu_seconds, write_run_json
from wmgym.models import saving
from wmgym.models.fit import fit
from wmgym.models.world import WorldModel
from wmgym.tasks.task import make_task

Say = Callable[[str], None]


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
    for index, budgets in enumerate(config.rounds):
        line.round(index, budgets)
    return line.finish()


class _Line:
    """The stages of one run, each done once and then read back."""

    def __init__(self, config: RunConfig, out: Path, progress: bool, say: Say) -> None:
        from wmgym.agents import sb3  # an optional dependency, asked for before any work is done

        self.sb3, self.config, self.out, self.progress, self.say = sb3, config, out, progress, say
        self.task = make_task(config.env_id)
        with closing(self.task.make()) as env:
            sb3.check_agent(env, self._train_config())
        out.mkdir(parents=True, exist_ok=True)
        wanted = config_dict(config)
        settings = out / "config.json"
        if settings.exists() and artifacts.read_json(settings) != wanted:
            raise ValueError(f"{out} holds a run with other settings; choose another --out or remove it")
        artifacts.write_json(settings, wanted)
        self.ledger: dict[str, float] = {"real_steps": 0, "imagined_steps": 0, "wall_s": 0.0, "cpu_s": 0.0}
        self.data: list[Transitions] = []
        self.world: WorldModel | None = None
        self.agent: dict[str, np.ndarray] | None = None

    def round(self, index: int, budgets: Round) -> None:
        """Collect with the agent of the moment, fit on all there is, train on."""
        folder, seed = self.out / f"round-{index:02d}", self.config.seed * 1_000 + index
        with self._stage(folder / "collect.json", "collect") as stage:
            if stage.todo:
                self._collect(budgets.real_steps, seed).save(folder / "data")
                stage.note(real_steps=budgets.real_steps)
        self.data.append(Transitions.load(folder / "data"))
        with self._stage(folder / "fit.json", "fit") as stage:
            if stage.todo:
                settings = replace(self.config.fit, max_updates=budgets.fit_updates)
                starts = self.data[0].state[self.data[0].first] if index else None
                world = fit(concat(self.data), settings, seed, starts=starts, progress=self.progress)
                saving.save(world, folder / "world")
                stage.note(rollout_error=min(world.provenance.fit["rollout_error"]))
        self.world = saving.load(folder / "world")
        with self._stage(folder / "train.json", "train") as stage:
            if stage.todo:
                self._train(folder, seed, budgets.imagined_steps, stage)
        self.agent, _ = artifacts.read_directory(folder / "agent", kind="agent")
        self.say(f"round {index + 1}/{len(self.config.rounds)}: {sum(map(len, self.data)):,} real steps")

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
        with closing(self.task.make()) as env:
            model = self.sb3.new_agent(env, self._train_config(), seed)
        self.sb3.load_agent(model, self.agent)
        return {
            "explore": lambda obs: model.predict(obs, deterministic=False),
            "greedy": lambda obs: model.predict(obs, deterministic=True),
        }

    def _train_config(self, steps: int = 1) -> Any:
        c = self.config
        return self.sb3.TrainConfig(
            c.algorithm, steps, c.num_envs, c.horizon, c.prefill, c.propagation, c.halt, c.hyperparameters
        )

    def _train(self, folder: Path, seed: int, steps: int, stage: _Stage) -> None:
        assert self.world is not None
        starts = np.concatenate([part.state for part in self.data]) if self.config.branch else None
        model = self.sb3.train(
            self.world,
            self._train_config(steps),
            seed,
            starts=starts,
            agent=self.agent,
            progress=self.progress,
        )
        artifacts.write_directory(
            folder / "agent", kind="agent", arrays=self.sb3.agent_arrays(model), document={"seed": seed}
        )
        self.sb3.to_policy(model, f"{self.config.algorithm} in imagination").save(folder / "policy")
        stage.note(imagined_steps=model.num_timesteps)

    def finish(self) -> RunResult:
        """Calibrate on fresh episodes of the final policy, then score it on both sides."""
        last = self.out / f"round-{len(self.config.rounds) - 1:02d}"
        policy = load_policy(last / "policy")
        seed = self.config.seed * 1_000 + 999
        with self._stage(self.out / "calibrate.json", "calibrate") as stage:
            if stage.todo:
                assert self.world is not None
                fresh = self._collect(self.config.calibration_steps, seed)
                fresh.save(self.out / "calibration-data")
                saving.save(
                    calibrate(self.world, fresh, seed=seed, progress=self.progress), self.out / "world"
                )
                policy.save(self.out / "policy")
                stage.note(real_steps=len(fresh))
        world = saving.load(self.out / "world")
        with self._stage(self.out / "score.json", "score") as stage:
            if stage.todo:
                report = score(
                    world,
                    {policy.name: policy},
                    self.config.score_episodes,
                    seed,
                    propagation=self.config.propagation,
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
            artifacts.write_json(self.record, {"stage": self.name, **self.facts})
        for key, value in artifacts.read_json(self.record).items():
            if key not in ("stage", "rollout_error"):
                self.ledger[key] = self.ledger.get(key, 0) + value
