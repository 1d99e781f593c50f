"""One round after the other: train in the world, play in reality, judge, and fit on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from wmgym.agents.config import TrainConfig
from wmgym.app.improve_branches import branch_off, with_noise
from wmgym.app.stages import Stages, plain
from wmgym.calibration import online
from wmgym.calibration.calibrate import calibrate
from wmgym.data.branch import can_be_put
from wmgym.data.collect import collect
from wmgym.data.joining import concat
from wmgym.data.policy import MLPPolicy, PolicyFn, load_policy
from wmgym.data.transitions import Transitions
from wmgym.envs.conventions import knows
from wmgym.evaluation.imagined import imagine
from wmgym.io import artifacts
from wmgym.io.provenance import content, write_run_json
from wmgym.io.schema import Amount, Count, Record, read_settings, to_json
from wmgym.models import saving
from wmgym.models.config import FitConfig
from wmgym.models.fit import fit
from wmgym.models.world import WorldModel
from wmgym.tasks.schema import has_functions

LEAST = 2
"""Whole episodes that a policy is judged by."""

_NOISES = (0.1, 0.3)  # of the actions, in whole episodes that do not judge
_DRAWS, _CALIBRATES = 4, 1 / 3
_SAME = 0.01  # returns closer than this share of their size are no range that a gap is a share of
_MADE = ("world", "policy", "random", "round-00")


class Bred(Record):
    """A policy that was trained in a world, and what that world said of it.

    Attributes:
        policy: its name.
        real: mean return of its real episodes, none of which any fit had seen.
        imagined: mean return of imagined ones from the same start states.
        gap: imagined minus real, as a share of the range of real returns so far, random actions included; of
            the return itself where these are alike.
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
        for kind in ("world", "policy"):
            artifacts.check_place(out / kind, kind=kind)
        arrays, document = world.pack()
        settings = {
            "world": content(arrays, document),
            "data": None if data is None else content(data.arrays(), data.episode_policy),
            "calib": None if calib is None else content(calib.arrays(), calib.episode_policy),
            "rounds": rounds, "real_steps": real_steps, "max_gap": max_gap, "seed": seed,
            "train": plain(dataclasses.asdict(train)), "fit": dataclasses.asdict(config),
        }  # fmt: skip
        self.settings: dict[str, Any] = to_json(settings)
        place = out / "config.json"
        if place.exists() and (before := artifacts.read_json(place)) != self.settings:
            other = sorted(key for key in settings if before.get(key) != self.settings[key])
            raise ValueError(
                f"{out} holds work with other settings: {', '.join(other)}; choose another --out or remove it"
            )
        if not place.exists() and (there := [name for name in _MADE if (out / name).exists()]):
            raise ValueError(f"{out} holds a {there[0]} of something else; choose another --out or remove it")
        artifacts.write_json(place, self.settings)
        self.stages = Stages(out, self.settings, lambda config, record: config)
        self.bred: list[Bred] = []
        self.learned: list[Transitions] = []
        self.bounds: list[Transitions] = [] if calib is None else [calib]
        with self.stages.stage("random", ("random",)) as noted:
            if noted is not None:
                self._collect(None, _drawn(seed, 0), episodes=LEAST).save(out / "random")
                noted["real_steps"] = len(self._read(out / "random"))
        self.anchor = float(self._read(out / "random").returns.mean())

    def round(self, index: int, *, last: bool) -> Bred:
        """Train, play, judge; and refit where that is called for."""
        name, seed = f"round-{index:02d}", _drawn(self.seed, index + 1)
        folder = self.out / name
        with self.stages.stage(f"{name}/train", ("policy",)) as noted:
            if noted is not None:
                model = self.sb3.train(self.world, self.train, seed, progress=self.progress)
                title = f"{type(model).__name__} round {index}"
                self.sb3.to_policy(model, title).save(folder / "policy")
                noted["imagined_steps"] = model.num_timesteps
        policy = load_policy(folder / "policy")
        before = self.stages.ledger["real_steps"]
        with self.stages.stage(f"{name}/play", ("judged", "noisy", "branched*")) as noted:
            if noted is not None:
                noted["real_steps"] = self._play(folder, policy, seed, last)
        taken = int(self.stages.ledger["real_steps"] - before)
        judged, noisy = (self._read(folder / part) for part in ("judged", "noisy"))
        short = [self._read(folder / "branched")] if (folder / "branched").exists() else []
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
        branches = not last and can_be_put(self.world.task)
        share, policies = self.steps // (3 if branches else 2), {policy.name: policy}
        episodes = max(LEAST, share // self.limit)
        judged = self._collect(policies, seed, episodes=episodes)
        while len(judged) < share - self.limit:  # episodes that end early leave room for more
            more = max(1, (share - len(judged)) // self.limit)
            judged = concat([judged, self._collect(policies, _drawn(seed, len(judged)), episodes=more)])
        judged.save(folder / "judged")
        left, branched, starts = self.steps - len(judged), 0, self._known_starts(judged)
        if branches and len(starts):
            found, branched = branch_off(
                self.world, policy, starts, left // 2, seed,
                limit=self.limit, propagation=self.train.propagation,
            )  # fmt: skip
            if found is not None:
                found.save(folder / "branched")
        steps, parts = max(LEAST, (left - branched) // len(_NOISES)), list[Transitions]()
        for place, noise in enumerate(_NOISES):
            of_noise = _drawn(seed, place + 1)
            if isinstance(self.world.task.action_space, spaces.Box):
                parts.append(self._collect(policies, of_noise, steps=steps, noise=noise))
                continue
            rng = np.random.default_rng(of_noise)
            act = with_noise(policy, self.world.task.action_space, noise, rng)
            parts.append(self._collect({policy.name: act}, of_noise, steps=steps))
        noisy = concat(parts)
        noisy.save(folder / "noisy")
        return len(judged) + len(noisy) + branched

    def _known_starts(self, judged: Transitions) -> np.ndarray:
        """The states ``(n, state_dim)`` that real episodes started in and the world may be started in."""
        starts = judged.state[judged.first]
        known: np.ndarray = starts[[knows(state, self.world) for state in starts]]
        return known

    def _read(self, place: Path) -> Transitions:
        return Transitions.load(place, self.world.task if has_functions(self.world.task) else None)

    def _collect(self, policies: Mapping[str, PolicyFn] | None, seed: int, **how: Any) -> Transitions:
        task, limit = self.world.task, self.limit
        return collect(
            task, policies, seed=seed, max_episode_steps=limit, workers=1, progress=self.progress, **how
        )

    def _judge(
        self, policy: MLPPolicy, judged: Transitions, real_steps: int, seed: int, last: bool
    ) -> tuple[Bred, int]:
        """What the world says of a policy that was trained in it, beside what came of it."""
        starts, real = self._known_starts(judged), float(judged.returns.mean())
        cut = np.setdiff1d(np.arange(judged.num_episodes), judged.episode[judged.terminated])
        # An env may cut episodes itself, before the time limit that is known of it.
        limit = int(judged.lengths.max()) if len(cut) else self.limit
        imagined, diverged, steps = 0.0, 1.0, 0
        if len(starts):
            found = imagine(
                self.world, policy, starts, starts[:0], seed,
                draws=_DRAWS, limit=limit, propagation=self.train.propagation,
            )  # fmt: skip
            imagined, steps = float(found.returns.mean()), found.steps
            lost = judged.num_episodes - len(starts)  # where the world knows nothing of the start
            diverged = (float(found.diverged.sum()) + lost) / judged.num_episodes
        every = [self.anchor, real, *(bred.real for bred in self.bred)]
        scale = max(every) - min(every)
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
            real_steps=real_steps,
            learned=not last and (abs(gap) > self.max_gap or not len(starts)),
        )
        return bred, steps

    def _learn(
        self, folder: Path, judged: Transitions, noisy: Transitions, short: list[Transitions], seed: int
    ) -> None:
        """A new world: fitted on to two thirds of whole episodes and all short ones, bounded by the rest."""
        for part in (judged, noisy):
            if _distinct(part) < 2:  # an env that always does the same: all there is to learn
                self.learned.append(part)
                continue
            learn, kept = part.split((1 - _CALIBRATES, _CALIBRATES), seed)
            self.learned.append(learn)
            self.bounds.append(kept)
        self.learned += short
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
                self._bounded(raw, seed).save(folder / "world")
        self.world = saving.load(folder / "world", self.world.task)

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

    def finish(self) -> MLPPolicy:
        """Put the world and the best policy where they are looked for; return the latter."""
        best = max(range(len(self.bred)), key=lambda index: self.bred[index].real)
        policy = load_policy(self.out / f"round-{best:02d}" / "policy")
        policy.save(self.out / "policy")
        if self.world.calibration is None:
            self.world = self._bounded(self.world, self.seed)
        self.world.save(self.out / "world")
        rows = [bred.model_dump() for bred in self.bred]
        artifacts.write_json(self.out / "improve.json", {"rounds": rows})
        write_run_json(self.out, "improve", self.settings, self.stages.ledger)
        return policy


def _drawn(seed: int, place: int) -> int:
    """A seed for one purpose, of any seed; none that ``collect`` draws with the same one."""
    return int(np.random.SeedSequence((seed, place, 2)).generate_state(1)[0] >> 1)


def _distinct(data: Transitions) -> int:
    return len({*data.fingerprints()})
