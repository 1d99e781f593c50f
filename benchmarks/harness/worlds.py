"""Data of the reference policies, worlds fitted to it, and held-out episodes, made once under ``runs/``."""

from __future__ import annotations

import dataclasses
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

import wmgym
from benchmarks.harness.results import ROOT, RUNS
from wmgym.data.joining import concat
from wmgym.data.policy import MLPPolicy
from wmgym.data.pool import load_pool
from wmgym.data.transitions import Transitions
from wmgym.io import artifacts
from wmgym.io.provenance import fingerprint
from wmgym.io.registered import SHIPPED, SMALL
from wmgym.models.distill import CONFIG
from wmgym.tasks.registry import TABLE

TASKS = tuple(TABLE)
LARGE = ("Hopper-v5", "HalfCheetah-v5", "Walker2d-v5", "Ant-v5", "Swimmer-v5")
STEPS, QUICK_STEPS = 300_000, 20_000
WITH_COPIES = ("Walker2d-v5",)
"""Tasks whose training data holds parameter-noise copies of the policies too, and whose fit takes half as
many updates again: those where it lowered the error."""
MIX = (
    (0.20, 0.0, None), (0.10, 0.1, None), (0.15, 0.0, 40), (0.15, 0.1, 40), (0.20, 0.3, 40), (0.10, 0.6, 40),
)  # fmt: skip
"""Share of the steps, action noise, and steps between two policies; the rest are uniform random actions."""
MIX_WITH_COPIES = ((0.10, 0.0, None), (0.10, 0.0, 40), (0.25, 0.1, 40), (0.30, 0.3, 40), (0.15, 0.6, 40))

FIT = wmgym.FitConfig(
    max_updates=20_000,
    eval_every=500,
    patience=40,
    finetune_updates=2_000,
    layer_norm=False,
)
T = TypeVar("T", Transitions, wmgym.WorldModel)


@dataclasses.dataclass(frozen=True)
class Setup:
    """Which worlds a run measures, and on how much data.

    Attributes:
        quick: a small sample instead of the full one.
        fit: collect the training data and fit worlds anew, instead of loading the shipped ones.
    """

    quick: bool = False
    fit: bool = False

    def size(self, full: int, quick: int) -> int:
        """The size of a sample."""
        return quick if self.quick else full

    def train(self, env_id: str) -> Transitions:
        """Training data, or a smaller collection of the same kind."""
        return pool_data(env_id, self.size(STEPS, QUICK_STEPS))

    def held_out(self, env_id: str) -> Transitions:
        """Whole episodes of the held-out policies."""
        return held_out_data(env_id, self.size(8, 2))

    def calibration(self, env_id: str) -> Transitions:
        """Whole episodes of the calibration's policies."""
        return calibration_data(env_id, *((1, 1) if self.quick else (4, 3)))

    def world(self, env_id: str) -> wmgym.WorldModel:
        """The world to judge; a fitted one has no bounds."""
        return fitted(env_id) if self.fit else wmgym.load(env_id)

    def small_world(self, env_id: str) -> wmgym.WorldModel:
        """The smaller twin of the world that ships, with bounds; one is made where none ships."""
        if not self.fit and small_ships(env_id):
            return wmgym.load(f"{env_id}{SMALL}")
        if not self.quick:
            return wmgym.calibrate(distilled(env_id, self.world(env_id)), self.calibration(env_id))
        config = dataclasses.replace(CONFIG, max_updates=300, eval_every=100)
        twin = wmgym.distill(self.world(env_id), self.train(env_id), imagined_steps=20_000, config=config)
        return wmgym.calibrate(twin, self.calibration(env_id))

    def calibrated(self, env_id: str) -> wmgym.WorldModel:
        """The world to judge, with bounds."""
        return calibrated(env_id) if self.fit else wmgym.load(env_id)


def fit_config(task: wmgym.Task) -> wmgym.FitConfig:
    """``FIT``; where a step takes milliseconds, fine-tuning looks as far ahead in seconds as elsewhere."""
    config = dataclasses.replace(FIT, finetune_steps=32) if task.dt < 0.01 else FIT
    return dataclasses.replace(config, max_updates=30_000) if task.env_id in WITH_COPIES else config


def policies(env_id: str, role: str) -> dict[str, MLPPolicy]:
    """Policies of ``policies/`` for the "fit", for "calibration", or "held-out" ones to be judged by.

    Every fourth of the pool, in order of return, is kept out of the fit: an error bound for policies that no
    fit saw has to be calibrated on such, and on those that were trained for nothing else.
    """
    every = load_pool(ROOT / "policies" / env_id, split=None)
    split = {name: policy.card.split for name, policy in every.items() if policy.card is not None}
    if role == "held-out":
        return {name: every[name] for name in every if split[name] == "held-out"}
    pool = [name for name in every if split[name] == "pool"]
    ranked = sorted(pool, key=lambda name: every[name].card.return_mean)  # type: ignore[union-attr]
    kept = ranked[2::4]
    if role == "calibration":
        return {name: every[name] for name in (*kept, *every) if name in kept or split[name] == role}
    return {name: every[name] for name in ranked if name not in kept}


def pool_data(env_id: str, steps: int = STEPS, *, with_copies: bool | None = None) -> Transitions:
    """``steps`` transitions of the fit's policies; without switching, an equal number of each.

    ``with_copies`` adds parameter-noise copies where policies switch; None asks ``WITH_COPIES``.
    """
    copies = env_id in WITH_COPIES if with_copies is None else with_copies

    def collect() -> Transitions:
        task, pool = wmgym.make_task(env_id), policies(env_id, "fit")
        everyone = dict(pool)
        if copies:
            more = (parameter_noise(policy, seed=100 + i) for i, policy in enumerate(pool.values()))
            everyone |= {copy.name: copy for each in more for copy in each}
        parts, left = [], steps
        for index, (share, noise, switch) in enumerate(MIX_WITH_COPIES if copies else MIX):
            groups = [{name: policy} for name, policy in pool.items()] if switch is None else [everyone]
            each = int(share * steps / len(groups))
            for number, group in enumerate(groups):
                seed = 1_000 * index + number
                parts.append(
                    wmgym.collect(task, group, steps=each, seed=seed, noise=noise, switch_every=switch)
                )
                left -= each
        parts.append(wmgym.collect(task, steps=left, seed=9_999))
        return concat(parts)

    return once(f"data/{env_id}-{steps}{'-with-copies' if copies else ''}", Transitions.load, collect)


def held_out_data(env_id: str, episodes: int = 8) -> Transitions:
    """Whole episodes of every held-out policy."""

    def collect() -> Transitions:
        return concat(
            [
                wmgym.collect(env_id, {name: policy}, episodes=episodes, seed=77_000 + number)
                for number, (name, policy) in enumerate(policies(env_id, "held-out").items())
            ]
        )

    return once(f"data/{env_id}-held-out-{episodes}", Transitions.load, collect)


def calibration_data(env_id: str, episodes: int = 4, of_copies: int = 3) -> Transitions:
    """Whole episodes of the calibration's policies: alone, with action noise, and of their copies."""

    named = policies(env_id, "calibration")

    def collect() -> Transitions:
        return played(env_id, named, episodes, of_copies, seed=66_000, copies_seed=45_000)

    which = zlib.crc32(" ".join(named).encode())  # the pool grows
    return once(f"data/{env_id}-calibration-{episodes}-{of_copies}-{which:08x}", Transitions.load, collect)


def played(
    env_id: str,
    named: Mapping[str, MLPPolicy],
    episodes: int,
    of_copies: int,
    *,
    seed: int,
    copies_seed: int,
) -> Transitions:
    """Whole real episodes of policies: alone, with action noise, and of their copies."""
    parts = []
    for i, (name, policy) in enumerate(named.items()):
        for j, noise in enumerate((0.0, 0.1, 0.3)):
            own = seed + 10 * i + j
            parts.append(wmgym.collect(env_id, {name: policy}, episodes=episodes, seed=own, noise=noise))
        for j, other in enumerate(parameter_noise(policy, seed=i)):
            own = copies_seed + 10 * i + j
            parts.append(wmgym.collect(env_id, {other.name: other}, episodes=of_copies, seed=own))
    return concat(parts)


def parameter_noise(policy: MLPPolicy, seed: int) -> list[MLPPolicy]:
    """Copies that behave unlike the policy they come from, by noise on its weights (arXiv:1706.01905).

    A pool's policies are few, and worlds and bounds have to hold for the next one. A scripted policy, which
    is one layer, has none.
    """
    if len(policy.weights) == 1:
        return []
    rng = np.random.default_rng(seed)
    return [
        dataclasses.replace(
            policy,
            name=f"{policy.name}, parameter noise {scale}",
            card=None,
            weights=tuple(
                (w * (1 + scale * rng.standard_normal(w.shape))).astype(np.float32) for w in policy.weights
            ),
        )
        for scale in (0.1, 0.2, 0.4, 0.6)
    ]


def fit_of(world: wmgym.WorldModel) -> str:
    """Eight letters that tell a world's fit from others, whatever its bounds."""
    return fingerprint([world.provenance.fit, world.provenance.fingerprints])[:8]


def minutes_of_fit(world: wmgym.WorldModel) -> float:
    """Minutes of the fit that gave a world its first weights; what went on from there is not counted."""
    fit = world.provenance.fit
    while "minutes" not in fit:
        fit = fit["begin"]
    return float(fit["minutes"])


def fitted(
    env_id: str,
    name: str = "base",
    train: Transitions | None = None,
    config: wmgym.FitConfig | None = None,
) -> wmgym.WorldModel:
    """The world called ``name``, fitted where it is missing; its provenance tells the minutes that took.

    ``train`` and ``config`` are the pool's data and ``fit_config`` unless another world is asked for.
    """

    def fit() -> wmgym.WorldModel:
        data = pool_data(env_id) if train is None else train
        began = time.perf_counter()
        world = wmgym.fit(data, config or fit_config(data.task), seed=0)
        minutes = round((time.perf_counter() - began) / 60, 2)
        print(f"{env_id}-{name}: fitted in {minutes:.1f} minutes", flush=True)
        origin = dataclasses.replace(world.provenance, fit={**world.provenance.fit, "minutes": minutes})
        return dataclasses.replace(world, provenance=origin)

    def load(path: Path) -> wmgym.WorldModel:
        return wmgym.load(path, None if train is None else train.task)

    return once(f"worlds/{env_id}-{name}", load, fit)


def small_ships(env_id: str) -> bool:
    """Whether the smaller twin of a world comes with the package."""
    return artifacts.exists(SHIPPED / f"{env_id}{SMALL}", kind="world")


def distilled(env_id: str, teacher: wmgym.WorldModel) -> wmgym.WorldModel:
    """A smaller twin of a world, without bounds: minutes of a GPU, or an hour of a core and more."""
    config = dataclasses.replace(
        CONFIG, batch_size=1_024, max_updates=40_000, eval_every=2_000,
        device="cuda" if torch.cuda.is_available() else "cpu",
    )  # fmt: skip
    return once(
        f"worlds/{env_id}-twin",
        wmgym.load,
        lambda: wmgym.distill(teacher, pool_data(env_id), members=8, imagined_steps=2_400_000, config=config),
    )


def calibrated(env_id: str) -> wmgym.WorldModel:
    """The world of ``fitted`` with bounds."""
    return once(
        f"worlds/{env_id}-calibrated",
        wmgym.load,
        lambda: wmgym.calibrate(fitted(env_id), calibration_data(env_id), seed=0),
    )


def once(name: str, load: Callable[[Path], T], make: Callable[[], T]) -> T:
    """What an earlier run saved, or made and saved now."""
    path = RUNS / name
    if artifacts.exists(path, kind="transitions" if name.startswith("data/") else "world"):
        return load(path)
    made = make()
    made.save(path)
    return made
