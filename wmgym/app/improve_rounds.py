"""One round after the other: train in the world, play in reality, judge, and fit on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from wmgym.agents.config import TrainConfig
from wmgym.app.improve_branches import branch_off
from wmgym.app.improve_conclusion import CUT, Bred, conclusion
from wmgym.app.improve_play import LEAST, RealEnv, beats, drawn
from wmgym.app.stages import Stages, plain
from wmgym.calibration import online
from wmgym.calibration.calibrate import calibrate
from wmgym.data.branch import can_be_put
from wmgym.data.joining import concat
from wmgym.data.policy import MLPPolicy, load_policy
from wmgym.data.transitions import Transitions
from wmgym.envs.conventions import knows
from wmgym.evaluation.imagined import imagine
from wmgym.io import artifacts
from wmgym.io.arguments import SEEDS
from wmgym.io.files import StoreError
from wmgym.io.provenance import content, write_run_json
from wmgym.io.schema import read_settings, to_json
from wmgym.models import saving
from wmgym.models.config import FitConfig
from wmgym.models.fit import fit
from wmgym.models.world import WorldModel

_DRAWS, _CALIBRATES = 4, 1 / 3
_SAME = 0.01  # returns closer than this share of their size are no range that a gap is a share of
_CONFIG = "config.json"
_MADE = ("world", "policy", "data", "random", "round-00")


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
        from wmgym.agents.sb3 import trial

        self.sb3, self.world, self.out, self.data, self.calib = sb3, world, out, data, calib
        self.max_gap, self.train, self.config = max_gap, train, config
        self.seed, self.progress = seed, progress
        self.fit_seed = seed if seed < SEEDS else drawn(seed, 0)
        self.real, self.branches = RealEnv(world.task, limit, progress), can_be_put(world.task)
        least = LEAST * limit
        # Every gap is a share of what policies earn above random actions, so that a tenth of all goes there.
        self.random_steps = max(least, min(real_steps // 10, real_steps - 2 * least * (rounds + 1)))
        self.steps = (real_steps - self.random_steps) // (rounds + 1)
        artifacts.check_place(out, names=("improve.json", "run.json", "config.json"), folder=True)
        for name, kind in (("world", "world"), ("policy", "policy"), ("data", "transitions")):
            artifacts.check_place(out / name, kind=kind)
        arrays, document = world.pack()
        settings = {
            "world": content(arrays, document),
            "data": None if data is None else content(data.arrays(), data.episode_policy),
            "calib": None if calib is None else content(calib.arrays(), calib.episode_policy),
            "rounds": rounds, "real_steps": real_steps, "max_gap": max_gap, "seed": seed,
            "train": plain(dataclasses.asdict(train)), "fit": dataclasses.asdict(config),
        }  # fmt: skip
        self.settings: dict[str, Any] = to_json(settings)
        self._check_settings()
        trial.try_in_world(world, train)
        self.stages = Stages(out, self.settings, lambda config, record: config)
        self.bred: list[Bred] = []
        self.learned: list[Transitions] = []
        self.refits: list[bool] = []  # whether each changed the weights
        self.bounds: list[Transitions] = [] if calib is None else [calib]

    def begin(self) -> None:
        """Claim the directory, in which no other process may be at work, and play random actions."""
        self._check_settings()  # again, for another process may have been at work since
        artifacts.write_json(self.out / _CONFIG, self.settings)
        with self.stages.stage("random", ("random",)) as noted:
            if noted is not None:
                found = self.real.episodes(None, drawn(self.seed, 0), self.random_steps)
                found.save(self.out / "random")
                noted["real_steps"] = len(found)
        self.random = self.real.read(self.out / "random").returns

    def _check_settings(self) -> None:
        """Refuse a directory of something else, or of other settings with which a stage was done."""
        place = self.out / _CONFIG
        if not place.exists():
            if there := [name for name in _MADE if (self.out / name).exists()]:
                raise ValueError(
                    f"{self.out} holds a {there[0]} of something else; choose another --out or remove it"
                )
            return
        try:
            before = artifacts.read_json(place)
        except StoreError as error:
            said = str(error).rpartition("; ")[0]
            raise StoreError(f"{said}; choose another --out or remove {self.out}") from error
        begun = any((self.out / name).exists() for name in ("random.json", "round-00"))
        if (begun or before.keys() != self.settings.keys()) and before != self.settings:
            other = sorted(key for key in self.settings if before.get(key) != self.settings[key])
            raise ValueError(
                f"{self.out} holds work with other settings: {', '.join(other)}; choose another --out or "
                "remove it"
            )

    def round(self, index: int, *, last: bool) -> Bred:
        """Train, play, judge; and refit where that is called for."""
        name, seed = f"round-{index:02d}", drawn(self.seed, index + 1)
        folder = self.out / name
        with self.stages.stage(f"{name}/train", ("policy",)) as noted:
            if noted is not None:
                model = self.sb3.train(self.world, self.train, seed, progress=self.progress)
                title = f"{type(model).__name__} round {index}"
                self.sb3.to_policy(model, title).save(folder / "policy")
                noted["imagined_steps"] = model.num_timesteps
        policy = load_policy(folder / "policy")
        with self.stages.stage(f"{name}/play", ("judged",)) as noted:
            if noted is not None:
                share = self.steps if last else self.steps // (3 if self.branches else 2)
                judged = self.real.episodes({policy.name: policy}, seed, share)
                judged.save(folder / "judged")
                noted["real_steps"] = len(judged)
        judged = self.real.read(folder / "judged")
        with self.stages.stage(f"{name}/judge", ("bred.json",)) as noted:
            if noted is not None:
                bred, noted["imagined_steps"] = self._judge(policy, judged, seed, last)
                artifacts.write_json(folder / "bred.json", bred.model_dump())
        read: Bred = read_settings(Bred, artifacts.read_json(folder / "bred.json"), str(folder / "bred.json"))
        self.bred.append(read)
        if read.learned:
            with self.stages.stage(f"{name}/explore", ("noisy", "branched*")) as noted:
                if noted is not None:
                    noted["real_steps"] = self._explore(folder, policy, judged, seed)
            self._learn(folder, judged, seed)
        return read

    def _explore(self, folder: Path, policy: MLPPolicy, judged: Transitions, seed: int) -> int:
        """Real steps that only teach: short episodes from imagined states, and some with noise."""
        left, branched, starts = self.steps - len(judged), 0, self._known_starts(judged)
        if self.branches and len(starts):
            found, branched = branch_off(
                self.world, policy, starts, left // 2, seed,
                limit=self.real.limit, propagation=self.train.propagation,
            )  # fmt: skip
            if found is not None:
                found.save(folder / "branched")
        noisy = self.real.noisy(policy, seed, left - branched)
        noisy.save(folder / "noisy")
        return len(noisy) + branched

    def _known_starts(self, judged: Transitions) -> np.ndarray:
        """The states ``(n, state_dim)`` that real episodes started in and the world may be started in."""
        starts = judged.state[judged.first]
        known: np.ndarray = starts[[knows(state, self.world) for state in starts]]
        return known

    def _judge(self, policy: MLPPolicy, judged: Transitions, seed: int, last: bool) -> tuple[Bred, int]:
        """What the world says of a policy that was trained in it, beside what came of it."""
        starts, real = self._known_starts(judged), float(judged.returns.mean())
        cut = np.setdiff1d(np.arange(judged.num_episodes), judged.episode[judged.terminated])
        # An env may cut episodes itself, before the time limit that is known of it.
        limit = int(judged.lengths.max()) if len(cut) else self.real.limit
        imagined, diverged, steps = 0.0, 1.0, 0
        if len(starts):
            found = imagine(
                self.world, policy, starts, starts[:0], seed,
                draws=_DRAWS, limit=limit, propagation=self.train.propagation,
            )  # fmt: skip
            imagined, steps = float(found.returns.mean()), found.steps
            lost = judged.num_episodes - len(starts)  # where the world knows nothing of the start
            diverged = (float(found.diverged.sum()) + lost) / judged.num_episodes
        above = beats(judged.returns, self.random)
        every = [float(self.random.mean()), real, *(bred.real for bred in self.bred)]
        scale = max(every) - every[0]  # what falls far below random actions is no measure
        if scale < _SAME * max(map(abs, every)):  # no policy has earned anything yet
            scale = max(map(abs, every))
        gap = (imagined - real) / max(scale, 1e-9)
        fresh = None if self.world.calibration is None else online.check(self.world, judged, seed=seed)
        bred = Bred(
            policy=policy.name,
            real=real,
            imagined=imagined,
            gap=gap,
            diverged=diverged,
            coverage=None if fresh is None else fresh.coverage,
            episodes=judged.num_episodes,
            real_steps=len(judged),
            above_random=above,
            learned=not last and (abs(gap) > self.max_gap or not above or diverged > CUT),
        )
        return bred, steps

    def _learn(self, folder: Path, judged: Transitions, seed: int) -> None:
        """A new world: fitted on to two thirds of whole episodes and all short ones, bounded by the rest."""
        for part in (judged, self.real.read(folder / "noisy")):
            if _distinct(part) < 2:  # an env that always does the same: all there is to learn
                self.learned.append(part)
                continue
            learn, kept = part.split((1 - _CALIBRATES, _CALIBRATES), seed)
            self.learned.append(learn)
            self.bounds.append(kept)
        if (folder / "branched").exists():
            self.learned.append(self.real.read(folder / "branched"))
        with self.stages.stage(f"{folder.name}/fit", ("world",)) as noted:
            if noted is not None:
                known = self.known()
                assert known is not None
                raw = fit(
                    known,
                    self.config,
                    self.fit_seed,  # every round holds out the episodes that those before did
                    begin=self.world,
                    newest=sum(map(len, self.learned)),
                    starts=self.world.starts,
                    progress=self.progress,
                )
                self._bounded(raw, seed).save(folder / "world")
        self.world = saving.load(folder / "world", self.world.task)
        errors = self.world.provenance.fit["rollout_error"]
        self.refits.append(bool(errors) and min(errors) < errors[0])

    def known(self) -> Transitions | None:
        """All that the world was fitted to by now, as far as it was given."""
        every = ([] if self.data is None else [self.data]) + self.learned
        return concat(every) if every else None

    def _bounded(self, world: WorldModel, seed: int) -> WorldModel:
        """The world with bounds from all episodes kept for them, but for such as a fit saw as well.

        An env without chance does the same again; where that leaves none, there are no bounds.
        """
        if not self.bounds:
            return world
        every, seen = concat(self.bounds), {*world.provenance.fingerprints}
        fresh = [index for index, each in enumerate(every.fingerprints()) if each not in seen]
        kept = every if every.countable and fresh else every.select(fresh) if fresh else None
        return world if kept is None else calibrate(world, kept, seed=seed, progress=self.progress)

    def conclusion(self) -> str:
        """What came of it, and what to do next."""
        table = self.world.calibration
        level = None if table is None else table.level
        return conclusion(self.bred[-1], self.random, self.max_gap, self.refits, level)

    def finish(self) -> tuple[MLPPolicy, str, Transitions | None]:
        """Put all where it is looked for; return the best policy, the conclusion and what is ``known``."""
        best = max(range(len(self.bred)), key=lambda index: self.bred[index].real)
        policy = load_policy(self.out / f"round-{best:02d}" / "policy")
        policy.save(self.out / "policy")
        if self.world.calibration is None:
            self.world = self._bounded(self.world, self.fit_seed)
        self.world.save(self.out / "world")
        known, said = self.known(), self.conclusion()
        if known is not None:
            known.save(self.out / "data")
        document = {
            "rounds": [bred.model_dump() for bred in self.bred],
            "random": float(self.random.mean()),
            "policy": policy.name,
            "conclusion": said,
        }
        artifacts.write_json(self.out / "improve.json", document)
        write_run_json(self.out, "improve", self.settings, self.stages.ledger)
        return policy, said, known


def _distinct(data: Transitions) -> int:
    return len({*data.fingerprints()})
