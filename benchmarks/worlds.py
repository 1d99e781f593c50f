"""What the fidelity benchmarks share: data of the pool, worlds fitted to it, and held-out episodes.

Everything is kept under ``runs/fidelity`` and made again only where it is missing.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import ROOT, RUNS, Row, Units

import wmgym
from wmgym.data.policy import MLPPolicy
from wmgym.data.pool import load_pool
from wmgym.data.transitions import Transitions, concat
from wmgym.io import artifacts
from wmgym.tasks.mujoco_v5.registry import TABLE

TASKS = tuple(TABLE)
LARGE = ("Hopper-v5", "HalfCheetah-v5", "Walker2d-v5", "Ant-v5", "Swimmer-v5")
STEPS = 300_000
WITH_KIN = ("Walker2d-v5",)
"""Tasks whose fit sees kin of its policies too, and takes half as many updates again: those where it paid."""
MIX = (
    (0.20, 0.0, None), (0.10, 0.1, None), (0.15, 0.0, 40), (0.15, 0.1, 40), (0.20, 0.3, 40), (0.10, 0.6, 40),
)  # fmt: skip
"""Share of the steps, action noise, and steps between two policies; the rest are uniform random actions."""
MIX_WITH_KIN = ((0.10, 0.0, None), (0.10, 0.0, 40), (0.25, 0.1, 40), (0.30, 0.3, 40), (0.15, 0.6, 40))

FIT = wmgym.FitConfig(
    max_updates=20_000,
    eval_every=500,
    patience=40,
    finetune_updates=2_000,
    precision="bfloat16",
    layer_norm=False,
)


def fit_config(task: wmgym.Task) -> wmgym.FitConfig:
    """``FIT``; where a step takes milliseconds, fine-tuning looks as far ahead in seconds as elsewhere."""
    config = dataclasses.replace(FIT, finetune_steps=32) if task.dt < 0.01 else FIT
    return dataclasses.replace(config, max_updates=30_000) if task.env_id in WITH_KIN else config


def by_task(
    script: str,
    doc: str | None,
    measure: Callable[[str], list[Row]],
    goals: Callable[[list[Row]], list[Row]],
    tasks: tuple[str, ...] = TASKS,
) -> None:
    """The command line of a benchmark with one unit a task; finished ones are skipped."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=tasks, default=tasks, metavar="ENV")
    args = parser.parse_args()
    torch.set_num_threads(1)
    units = Units(script)
    for env_id in args.only:
        units.do(env_id, lambda: measure(env_id))  # noqa: B023  (called at once)
    print(units.write(goals, [0]))


def policies(env_id: str, role: str) -> dict[str, MLPPolicy]:
    """Policies of ``policies/`` for the "fit", for "calibration", or "held-out" ones to be judged by.

    Every fourth of the pool, in order of return, is kept out of the fit: an error bound for policies that no
    fit saw has to be calibrated on such. HumanoidStandup has no policies and borrows the other humanoid's.
    """
    own = "Humanoid-v5" if env_id == "HumanoidStandup-v5" else env_id
    found = load_pool(ROOT / "policies" / own, split="held-out" if role == "held-out" else "pool")
    if role == "held-out":
        return found
    ranked = sorted(found, key=lambda name: found[name].card.return_mean)  # type: ignore[union-attr]
    kept = ranked[2::4]
    return {name: found[name] for name in ranked if (name in kept) == (role == "calibration")}


def pool_data(env_id: str, steps: int = STEPS, *, with_kin: bool | None = None) -> Transitions:
    """``steps`` transitions of the fit's policies; without switching, an equal number of each.

    ``with_kin`` adds their kin where policies switch; None asks ``WITH_KIN``.
    """
    with_kin = env_id in WITH_KIN if with_kin is None else with_kin
    path = RUNS / "fidelity" / "data" / f"{env_id}-{steps}{'-kin' if with_kin else ''}"
    if artifacts.exists(path, kind="transitions"):
        return Transitions.load(path)
    task, pool = wmgym.make_task(env_id), policies(env_id, "fit")
    everyone = dict(pool)
    if with_kin:
        everyone |= {k.name: k for i, policy in enumerate(pool.values()) for k in kin(policy, seed=100 + i)}
    parts, left = [], steps
    for index, (share, noise, switch) in enumerate(MIX_WITH_KIN if with_kin else MIX):
        groups = [{name: policy} for name, policy in pool.items()] if switch is None else [everyone]
        each = int(share * steps / len(groups))
        for number, group in enumerate(groups):
            seed = 1_000 * index + number
            parts.append(wmgym.collect(task, group, steps=each, seed=seed, noise=noise, switch_every=switch))
            left -= each
    parts.append(wmgym.collect(task, steps=left, seed=9_999))
    data = concat(parts)
    data.save(path)
    return data


def held_out_data(env_id: str, episodes: int = 8) -> Transitions:
    """Whole episodes of every held-out policy."""
    path = RUNS / "fidelity" / "data" / f"{env_id}-held-out-{episodes}"
    if artifacts.exists(path, kind="transitions"):
        return Transitions.load(path)
    held = policies(env_id, "held-out")
    data = concat(
        [
            wmgym.collect(env_id, {name: policy}, episodes=episodes, seed=77_000 + number)
            for number, (name, policy) in enumerate(held.items())
        ]
    )
    data.save(path)
    return data


def calibration_data(env_id: str) -> Transitions:
    """Whole episodes of the policies kept for calibration, alone, with action noise, and of their kin."""
    path = RUNS / "fidelity" / "data" / f"{env_id}-calibration-kin"
    if artifacts.exists(path, kind="transitions"):
        return Transitions.load(path)
    parts = []
    for i, (name, policy) in enumerate(policies(env_id, "calibration").items()):
        for j, noise in enumerate((0.0, 0.1, 0.3)):
            parts.append(
                wmgym.collect(env_id, {name: policy}, episodes=4, seed=66_000 + 10 * i + j, noise=noise)
            )
        for j, other in enumerate(kin(policy, seed=i)):
            parts.append(wmgym.collect(env_id, {other.name: other}, episodes=3, seed=45_000 + 10 * i + j))
    data = concat(parts)
    data.save(path)
    return data


def kin(policy: MLPPolicy, seed: int) -> list[MLPPolicy]:
    """Policies that behave unlike the one they come from, by noise on its weights (arXiv:1706.01905).

    A pool's policies are few, and worlds and bounds have to hold for the next one. A scripted policy, which
    is one layer, has none.
    """
    if len(policy.weights) == 1:
        return []
    rng = np.random.default_rng(seed)
    return [
        dataclasses.replace(
            policy,
            name=f"{policy.name}, weights off by {scale}",
            card=None,
            weights=tuple(
                (w * (1 + scale * rng.standard_normal(w.shape))).astype(np.float32) for w in policy.weights
            ),
        )
        for scale in (0.1, 0.2, 0.4, 0.6)
    ]


def calibrated(env_id: str) -> wmgym.WorldModel:
    """The world of ``fitted`` with bounds."""
    path = RUNS / "fidelity" / "worlds" / f"{env_id}-calibrated"
    if artifacts.exists(path, kind="world"):
        return wmgym.load(path)
    world = wmgym.calibrate(fitted(env_id), calibration_data(env_id), seed=0)
    world.save(path)
    return world


def fitted(
    env_id: str,
    name: str = "base",
    train: Transitions | None = None,
    config: wmgym.FitConfig | None = None,
) -> wmgym.WorldModel:
    """The world called ``name``, fitted where it is missing; its provenance tells the minutes that took.

    ``train`` and ``config`` are the pool's data and ``fit_config`` unless another world is asked for.
    """
    path = RUNS / "fidelity" / "worlds" / f"{env_id}-{name}"
    if artifacts.exists(path, kind="world"):
        return wmgym.load(path, None if train is None else train.task)
    train = pool_data(env_id) if train is None else train
    began = time.perf_counter()
    world = wmgym.fit(train, config or fit_config(train.task), seed=0)
    minutes = (time.perf_counter() - began) / 60
    origin = dataclasses.replace(world.provenance, fit={**world.provenance.fit, "minutes": round(minutes, 2)})
    world = dataclasses.replace(world, provenance=origin)
    world.save(path)
    print(f"{env_id}-{name}: fitted in {minutes:.1f} minutes", flush=True)
    return world


@torch.no_grad()
def imagine(world: wmgym.WorldModel, state: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """Cores ``(n, steps, core_dim)`` that the mean of the ensemble predicts."""
    at = world.init(torch.tensor(state), torch.Generator().manual_seed(0))
    path = []
    for t in range(actions.shape[1]):
        at = world.step(at, torch.tensor(actions[:, t]), "mean").state
        path.append(at.core.numpy())
    return np.stack(path, 1).astype(np.float64)


def core_error(task: Any, found: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Difference of cores ``(..., core_dim)``: angles the short way round, quaternions of like sign."""
    geometry, error = task.core.geometry, found - real
    angles = [*geometry.angles]
    error[..., angles] = (error[..., angles] + np.pi) % (2 * np.pi) - np.pi
    if geometry.quaternion is not None:
        at = slice(geometry.quaternion, geometry.quaternion + 4)
        sign = np.sign((found[..., at] * real[..., at]).sum(-1, keepdims=True))
        error[..., at] = np.where(sign < 0, -1, 1) * found[..., at] - real[..., at]
    return error


def window_error(
    world: wmgym.WorldModel, test: Transitions, std: np.ndarray, horizon: int, rng: np.random.Generator
) -> float:
    """Normalised error after ``horizon`` steps, mean over 200 windows at most."""
    starts = test.window_starts(horizon)
    if not len(starts):
        return float("nan")
    starts = rng.choice(starts, size=min(200, len(starts)), replace=False)
    path = imagine(world, test.state[starts], test.action[starts[:, None] + np.arange(horizon)])[:, -1]
    error = core_error(world.task, path, test.next_core[starts + horizon - 1].astype(np.float64)) / std
    return float(np.sqrt(np.minimum(error**2, 1e4).mean(1)).mean())


def spread(data: Transitions) -> np.ndarray:
    """Standard deviation ``(core_dim,)``, the unit of normalised errors; 1 where nothing moves."""
    std = data.core.std(0)
    return np.where(std < 1e-8, 1.0, std)
