"""One round after the other: train in the world, play in reality, judge, and fit on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gymnasium import spaces

from wmgym.agents.config import TrainConfig
from wmgym.app.improve_branches import branch_off
from wmgym.app.stages import Stages
from wmgym.calibration import online
from wmgym.calibration.calibrate import calibrate
from wmgym.data.branch import can_be_put
from wmgym.data.collect import collect
from wmgym.data.joining import concat
from wmgym.data.policy import MLPPolicy, PolicyFn, load_policy
from wmgym.data.transitions import Transitions
from wmgym.evaluation.imagined import imagine
from wmgym.io import artifacts
from wmgym.io.provenance import fingerprint, write_run_json
from wmgym.io.schema import Amount, Count, Record, read_settings, to_json
from wmgym.models import saving
from wmgym.models.config import FitConfig
from wmgym.models.fit import fit
from wmgym.models.world import WorldModel

LEAST = 2
"""Whole episodes that a policy is judged by."""

_NOISES = (0.1, 0.3)  # of the actions, in whole episodes that do not judge
_DRAWS, _CALIBRATES = 4, 1 / 3


class Bred(Record):
    """A policy that was trained in a world, and what that world said of it.

    Attributes:
        policy: its name.
        real: mean return of its real episodes, none of which any fit had seen.
        imagined: mean return of imagined ones from the same start states.
        gap: imagined minus real, as a share of the range of real returns so far, random actions included.
        diverged: share of imagined episodes that left the range of the data.
        coverage: share of the real episodes' errors inside the world's bounds; None where it had none.
        episodes: real episodes behind this.
        real_steps: of these, and with noise on the actions.
        learned: whether they went into the next fit; those of the last round never do.
    """

    policy: str
    real: float
    imagined: float
    gap: float
    diverged: Amount
    coverage: Amount | None
    episodes: Count
    real_steps: Count
    learned: bool


class Rounds:
    """The rounds of one call, each stage done once and then read back."""

    def __init__(
        self,
        world: WorldModel,
        out: Path,
        data: Transitions | None,
        calib: Transitions | None,
        rounds: int,
        real_steps: int,
        max_gap: float,
        train: TrainConfig,
        config: FitConfig,
        seed: int,
        limit: int,
        progress: bool,
    ) -> None:
        from wmgym.agents import sb3  # an optional dependency, asked for before any work is done

        self.sb3, self.world, self.out, self.data, self.calib = sb3, world, out, data, calib
        self.max_gap, self.train, self.config = max_gap, train, config
        self.seed, self.progress = seed, progress
        self.limit = limit
        self.steps = (real_steps - LEAST * limit) // (rounds + 1)  # some are the random policy's
        sb3.check_agent(sb3.ImaginedVecEnv(world, train.num_envs), train)
        artifacts.check_place(out, names=("improve.json", "run.json", "config.json"), folder=True)
        settings = {
            "world": fingerprint([world.provenance.fit, world.provenance.fingerprints]),
            "data": None if data is None else fingerprint(data.fingerprints()),
            "calib": None if calib is None else fingerprint(calib.fingerprints()),
            "rounds": rounds, "real_steps": real_steps, "max_gap": max_gap, "seed": seed,
            "train": dataclasses.asdict(train), "fit": dataclasses.asdict(config),
        }  # fmt: skip
        self.settings: dict[str, Any] = to_json(settings)
        place = out / "config.json"
        if place.exists() and (before := artifacts.read_json(place)) != self.settings:
            other = sorted(key for key in settings if before.get(key) != self.settings[key])
            raise ValueError(
                f"{out} holds work with other settings: {', '.join(other)}; choose another --out or remove it"
            )
        artifacts.write_json(place, self.settings)
        self.stages = Stages(out, self.settings, lambda config, record: config)
        self.bred: list[Bred] = []
        self.learned: list[Transitions] = []
        self.bounds: list[Transitions] = [] if calib is None else [calib]
        with self.stages.stage("random", ("random",)) as noted:
            if noted is not None:
                self._collect(None, seed + 90_000, episodes=LEAST).save(out / "random")
                noted["real_steps"] = len(Transitions.load(out / "random"))
        self.anchor = float(Transitions.load(out / "random").returns.mean())

    def round(self, index: int, *, last: bool) -> Bred:
        """Train, play, judge; and refit where that is called for."""
        name, seed = f"round-{index:02d}", self.seed * 1_000 + index
        folder = self.out / name
        with self.stages.stage(f"{name}/train", ("policy",)) as noted:
            if noted is not None:
                model = self.sb3.train(self.world, self.train, seed, progress=self.progress)
                title = f"{type(model).__name__} round {index}"
                self.sb3.to_policy(model, title).save(folder / "policy")
                noted["imagined_steps"] = model.num_timesteps
        policy = load_policy(folder / "policy")
        with self.stages.stage(f"{name}/play", ("judged", "noisy", "branched*")) as noted:
            if noted is not None:
                noted["real_steps"] = self._play(folder, policy, seed, last)
        judged, noisy = (Transitions.load(folder / part) for part in ("judged", "noisy"))
        short = [Transitions.load(folder / "branched")] if (folder / "branched").exists() else []
        taken = len(judged) + len(noisy) + sum(len(part) + part.num_episodes for part in short)
        with self.stages.stage(f"{name}/judge", ("bred.json",)) as noted:
            if noted is not None:
                bred, noted["imagined_steps"] = self._judge(policy, judged, taken, seed, last)
                artifacts.write_json(folder / "bred.json", bred.model_dump())
        read: Bred = read_settings(Bred, artifacts.read_json(folder / "bred.json"), str(folder / "bred.json"))
        self.bred.append(read)
        if read.learned:
            self._learn(folder, judged, noisy, short, seed)
        return read

    def _play(self, folder: Path, policy: MLPPolicy, seed: int, last: bool) -> int:
        """Whole episodes of the policy that judge, and some with noise and short ones that only teach."""
        box = isinstance(self.world.task.action_space, spaces.Box)
        branches = not last and can_be_put(self.world.task)
        share, policies = self.steps // (3 if branches else 2), {policy.name: policy}
        episodes = max(LEAST, share // self.limit)
        judged = self._collect(policies, seed, episodes=episodes)
        while len(judged) < share - self.limit:  # episodes that end early leave room for more
            more = max(1, (share - len(judged)) // self.limit)
            judged = concat([judged, self._collect(policies, seed + 7_919 * len(judged), episodes=more)])
        judged.save(folder / "judged")
        noises, left = _NOISES if box else (0.0, 0.0), self.steps - len(judged)
        branched = 0
        if branches:
            found, branched = branch_off(
                self.world, policy, judged.state[judged.first], left // 2, seed,
                limit=self.limit, propagation=self.train.propagation,
            )  # fmt: skip
            if found is not None:
                found.save(folder / "branched")
        steps = max(LEAST, (left - branched) // len(noises))
        noisy = concat(
            [
                self._collect(policies, seed + 10_000 * (place + 1), steps=steps, noise=noise)
                for place, noise in enumerate(noises)
            ]
        )
        noisy.save(folder / "noisy")
        return len(judged) + len(noisy) + branched

    def _collect(self, policies: Mapping[str, PolicyFn] | None, seed: int, **how: Any) -> Transitions:
        task, limit = self.world.task, self.limit
        return collect(
            task, policies, seed=seed, max_episode_steps=limit, workers=1, progress=self.progress, **how
        )

    def _judge(
        self, policy: MLPPolicy, judged: Transitions, real_steps: int, seed: int, last: bool
    ) -> tuple[Bred, int]:
        """What the world says of a policy that was trained in it, beside what came of it."""
        starts = judged.state[judged.first]
        found = imagine(
            self.world, policy, starts, starts[:0], seed,
            draws=_DRAWS, limit=self.limit, propagation=self.train.propagation,
        )  # fmt: skip
        real, imagined = float(judged.returns.mean()), float(found.returns.mean())
        every = [self.anchor, real, *(bred.real for bred in self.bred)]
        scale = max(every) - min(every)
        gap = (imagined - real) / max(scale, 1e-9)
        fresh = None if self.world.calibration is None else online.check(self.world, judged, seed=seed)
        bred = Bred(
            policy=policy.name,
            real=real,
            imagined=imagined,
            gap=gap,
            diverged=float(found.diverged.mean()),
            coverage=None if fresh is None else fresh.coverage,
            episodes=judged.num_episodes,
            real_steps=real_steps,
            learned=not last and abs(gap) > self.max_gap,
        )
        return bred, found.steps

    def _learn(
        self, folder: Path, judged: Transitions, noisy: Transitions, short: list[Transitions], seed: int
    ) -> None:
        """A new world: fitted on to two thirds of whole episodes and all short ones, bounded by the rest."""
        parts = [part.split((1 - _CALIBRATES, _CALIBRATES), seed) for part in (judged, noisy)]
        self.learned += [*(learn for learn, _ in parts), *short]
        self.bounds += [kept for _, kept in parts]
        with self.stages.stage(f"{folder.name}/fit", ("world",)) as noted:
            if noted is not None:
                every = ([] if self.data is None else [self.data]) + self.learned
                raw = fit(
                    concat(every),
                    self.config,
                    self.seed,  # every round holds out the episodes that those before did
                    begin=self.world,
                    newest=sum(map(len, self.learned)),
                    starts=self.world.starts,
                    progress=self.progress,
                )
                bounded = calibrate(raw, concat(self.bounds), seed=seed, progress=self.progress)
                bounded.save(folder / "world")
        self.world = saving.load(folder / "world", self.world.task)

    def finish(self) -> MLPPolicy:
        """Put the world and the best policy where they are looked for; return the latter."""
        best = max(range(len(self.bred)), key=lambda index: self.bred[index].real)
        policy = load_policy(self.out / f"round-{best:02d}" / "policy")
        policy.save(self.out / "policy")
        self.world.save(self.out / "world")
        rows = [bred.model_dump() for bred in self.bred]
        artifacts.write_json(self.out / "improve.json", {"rounds": rows})
        write_run_json(self.out, "improve", self.settings, self.stages.ledger)
        return policy
