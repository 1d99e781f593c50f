"""From nothing to a scored policy in one call: learn online or in rounds, calibrate, score; resumable."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from wmgym.app.checks import begun, changed_settings, check_run
from wmgym.app.config import Round
from wmgym.app.page import write_page
from wmgym.app.recipes import RunConfig
from wmgym.app.stages import Stages
from wmgym.calibration.calibrate import calibrate
from wmgym.data.collect import collect
from wmgym.data.joining import concat
from wmgym.data.policy import MLPPolicy, PolicyFn, load_policy
from wmgym.data.transitions import Transitions
from wmgym.evaluation.card import write_card
from wmgym.evaluation.gap_report import GapReport
from wmgym.evaluation.score import score
from wmgym.io import artifacts, files
from wmgym.io.artifacts import StoreError
from wmgym.io.provenance import write_run_json
from wmgym.io.schema import refusing
from wmgym.models import saving
from wmgym.models.fit import fit
from wmgym.models.world import WorldModel
from wmgym.tasks.task import make_task

Say = Callable[[str], None]

_PAGE = "report.html"


@dataclass(frozen=True)
class RunResult:
    """What a run leaves behind.

    Attributes:
        world: the last one, calibrated.
        policy: the last one.
        report: real and imagined returns of it and of those kept on the way.
        ledger: real and imagined steps, wall-clock and CPU seconds, summed over all stages.
        page: ``report.html``; None where the libraries that write it are not installed.
    """

    world: WorldModel
    policy: MLPPolicy
    report: GapReport
    ledger: dict[str, float]
    page: Path | None = None


def run(
    config: RunConfig | str,
    out: str | os.PathLike[str],
    *,
    workers: int | None = None,
    page: bool = True,
    progress: bool = False,
    say: Say | None = None,
) -> RunResult:
    """Learn a world and a policy in it, calibrate and score; see ``RunConfig``.

    Leaves in ``out``: ``world/`` (fitted and calibrated), ``policy/``, ``report.json``, ``report.html``,
    ``run.json`` and what it needs to continue. Killed anywhere, the same call goes on from the last finished
    stage and ends with the same result. A call with other settings goes on as well where no finished stage
    has read them.

    Args:
        config: settings, or the id of an env, whose recipe they are then.
        out: the directory to write.
        workers: processes of the final score; None uses every core where that pays.
        page: write ``report.html``, with videos.
        progress: show bars on a terminal.
        say: called with one line of text every 1,000 real steps that DynaSAC takes, or after each round.

    Raises:
        ValueError: ``out`` holds a run whose finished stages had other settings, the env has no time limit
            and none is given, or the agent refuses its settings or the env; all before any work.
        StoreError: ``out`` cannot be written, or what the run will leave there does not fit on the disk.
    """
    config = RunConfig(config) if isinstance(config, str) else config
    work = _Run(config, files.as_path(out), progress, say or (lambda text: None))
    if config.online:
        work.learn_online()
    for index, budgets in enumerate(config.rounds):
        work.round(index, budgets)
    return work.finish(workers, page)


class _Run:
    """The stages of one run, each done once and then read back."""

    def __init__(self, config: RunConfig, out: Path, progress: bool, say: Say) -> None:
        from wmgym.agents import sb3  # an optional dependency, asked for before any work is done
        from wmgym.agents.sb3 import online, trial

        self.sb3, self.online = sb3, online
        self.config, self.out, self.progress, self.say = config, out, progress, say
        task = make_task(config.env_id, env_kwargs=config.env_kwargs)
        self.task = replace(task, max_episode_steps=config.max_episode_steps or task.max_episode_steps)
        check_run(config, self.task, out)
        artifacts.check_place(out, folder=True)
        if config.online:
            online.check(self.task, config.train)
        else:
            with closing(self.task.make()) as env:
                sb3.check_agent(env, config.train)
            trial.try_training(self.task, config.train)
        settings, given = out / "config.json", config.to_dict()
        if settings.exists():
            if other := changed_settings(out, artifacts.read_json(settings), given):
                raise ValueError(
                    f"{out} holds a run with other settings: {', '.join(other)}; "
                    "choose another --out or remove it"
                )
        elif left := begun(out, given):
            raise StoreError(f"{settings} is missing though {left[0]} is there; restore it, or remove {out}")
        artifacts.write_json(settings, given)
        self.stages = Stages(out, given)
        self.data: list[Transitions] = []
        self.world: WorldModel | None = None
        self.policies: dict[str, MLPPolicy] = {}
        self.agent: dict[str, np.ndarray] | None = None

    def learn_online(self) -> None:
        """Train DynaSAC, which collects and fits by itself."""
        folder = self.out / "online"
        with self.stages.stage("online/learn", ("world", "policies/*", "learning.json")) as noted:
            if noted is not None:
                config, seed = self.config.train, self.config.seed * 1_000
                noted |= self.online.learn(
                    self.task, config, seed, folder, progress=self.progress, say=self.say
                )
        self.world = saving.load(folder / "world")
        for path in sorted((folder / "policies").iterdir()):
            self._keep(path)

    def round(self, index: int, budgets: Round) -> None:
        """Collect with the agent so far, fit to all data, train on."""
        name, seed = f"round-{index:02d}", self.config.seed * 1_000 + index
        folder = self.out / name
        with self.stages.stage(f"{name}/collect", ("data",)) as noted:
            if noted is not None:
                self._collect(budgets.real_steps, seed, self._policies(seed)).save(folder / "data")
                noted["real_steps"] = budgets.real_steps
        self.data.append(Transitions.load(folder / "data"))
        with self.stages.stage(f"{name}/fit", ("world",)) as noted:
            if noted is not None:
                settings = replace(self.config.fit, max_updates=budgets.fit_updates)
                starts = self.data[0].state[self.data[0].first] if index else None
                world = fit(concat(self.data), settings, seed, starts=starts, progress=self.progress)
                world.save(folder / "world")
                noted["rollout_error"] = min(world.provenance.fit["rollout_error"])
        self.world = saving.load(folder / "world")
        with self.stages.stage(f"{name}/train", ("agent", "policy", "learning*.json")) as noted:
            if noted is not None:
                noted["imagined_steps"] = self._train(folder, seed, budgets.imagined_steps)
        self.agent, _ = artifacts.read_directory(folder / "agent", kind="agent")
        self._keep(folder / "policy")
        self.say(f"round {index + 1}/{len(self.config.rounds)}: {sum(map(len, self.data)):,} real steps")

    def _keep(self, path: Path) -> None:
        self.policy = load_policy(path)
        self.policies[self.policy.name] = self.policy

    def _collect(self, steps: int, seed: int, policies: dict[str, PolicyFn] | None) -> Transitions:
        return collect(
            self.task,
            policies,
            steps=steps,
            seed=seed,
            max_episode_steps=self.config.collect.max_episode_steps,
            workers=1,
            progress=self.progress,
        )

    def _policies(self, seed: int) -> dict[str, PolicyFn] | None:
        if self.agent is None:
            return None
        with closing(self.task.make()) as env, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SB3 compares batch_size with this one env, which only acts
            model = self.sb3.new_agent(env, self.config.train, seed)
        with refusing(str(self.out), "an agent", "remove it and run again"):
            self.sb3.load_agent(model, self.agent)
        return {  # a policy can get stuck where its noisy self does not
            "explore": functools.partial(model.predict, deterministic=False),
            "greedy": functools.partial(model.predict, deterministic=True),
        }

    def _train(self, folder: Path, seed: int, steps: int) -> int:
        assert self.world is not None
        starts = np.concatenate([part.state for part in self.data]) if self.config.branch else None
        settings = replace(self.config.train, steps=steps)
        model = self.sb3.train(
            self.world, settings, seed, starts=starts, agent=self.agent, log=folder, progress=self.progress
        )
        artifacts.write_directory(
            folder / "agent", kind="agent", arrays=self.sb3.agent_arrays(model), document={"seed": seed}
        )
        name = f"{type(model).__name__} after {sum(map(len, self.data)):,} real steps"
        self.sb3.to_policy(model, name).save(folder / "policy")
        return int(model.num_timesteps)

    def finish(self, workers: int | None, page: bool) -> RunResult:
        """Calibrate on fresh episodes, then score the policies that were kept on both sides.

        Of those that DynaSAC kept, every other one calibrates, the last one first, so that the others can
        tell whether the bounds hold for policies that they do not come from.
        """
        policy, seed = self.policy, self.config.seed * 1_000 + 999
        calibrators = dict(list(self.policies.items())[::-2]) if self.config.online else {policy.name: policy}
        with self.stages.stage("calibrate", ("calibration-data", "world", "policy")) as noted:
            if noted is not None:
                assert self.world is not None
                playing: dict[str, PolicyFn] | None = {**calibrators}
                if not self.config.online:
                    playing = self._policies(seed)
                fresh = self._collect(self.config.collect.calibration_steps, seed, playing)
                fresh.save(self.out / "calibration-data")
                calibrate(self.world, fresh, seed=seed, progress=self.progress).save(self.out / "world")
                policy.save(self.out / "policy")
                noted["real_steps"] = len(fresh)
        world = saving.load(self.out / "world")
        with self.stages.stage("score", ("report.json",)) as noted:
            if noted is not None:
                (self.out / _PAGE).unlink(missing_ok=True)
                report = score(
                    world,
                    self._scored(),
                    self.config.evaluate.episodes,
                    seed,
                    trained_in_world={policy.name},
                    calibrated_on=calibrators.keys() & self._scored().keys(),
                    propagation=self.config.train.propagation,
                    workers=workers,
                    progress=self.progress,
                )
                report.save(self.out / "report.json")
                noted["scored_real_steps"] = report.real_steps
                noted["scored_imagined_steps"] = report.imagined_steps
        report = GapReport.load(self.out / "report.json")
        write_card(report, self.out / "world")
        write_run_json(self.out, "run", self.config.to_dict(), self.stages.ledger)
        return RunResult(world, policy, report, self.stages.ledger, self._page() if page else None)

    def _scored(self) -> dict[str, MLPPolicy]:
        """The policies kept, the last one among them; of many rounds, some spread over all."""
        every = list(self.policies.items())
        most = self.online.POLICIES_KEPT
        if len(every) > most:
            every = [every[round(index)] for index in np.linspace(0, len(every) - 1, most)]
        return dict(every)

    def _page(self) -> Path | None:
        """The page of the report, which stays as it is until there is another report."""
        if (self.out / _PAGE).exists():
            return self.out / _PAGE
        try:
            return write_page(self.out, self.out / _PAGE)
        except ImportError as error:
            self.say(f"no page: {error}")
            return None
