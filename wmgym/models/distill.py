"""A smaller twin of a world: fitted to what the world imagines and to the real transitions behind it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wmgym.data.joining import concat
from wmgym.data.transitions import Transitions
from wmgym.io.arguments import seed_number, whole_number
from wmgym.models.config import FitConfig
from wmgym.models.fit import fit
from wmgym.models.world import WorldModel
from wmgym.tasks import actions

CONFIG = FitConfig(
    layer_norm=False,
    optimizer="Muon",
    max_updates=12_000,
    eval_every=1_000,
    patience=20,  # never stops early: what is imagined leaves little to overfit
)
"""Settings of a fit: about five minutes of one core with the other defaults."""

STEPS = 16
"""Of an imagined episode: long enough to leave the data a little, too short to leave it far."""

_NOISE = 0.2  # of the actions, as a share of half their range; and share of whole numbers drawn anew


def distill(
    world: WorldModel,
    data: Transitions,
    *,
    width: int = 128,
    depth: int = 3,
    members: int = 4,
    imagined_steps: int = 600_000,
    config: FitConfig | None = None,
    seed: int = 0,
    progress: bool = False,
) -> WorldModel:
    """Fit a smaller world to a larger one; it has no error bounds before ``calibrate``.

    It learns from ``data`` and from what the mean of the world's members makes of the same actions with noise
    on them, from states of ``data``: the teacher is asked beside the data as well, and its answers are smooth
    where single transitions are not (Hinton et al. 2015, arXiv:1503.02531).

    Args:
        world: the teacher.
        data: real transitions of its task, best those that it was fitted to; keep others for calibration.
        width: units a hidden layer.
        depth: hidden layers.
        members: of the ensemble. They cost no time in a step, but each takes its share of the fit's.
        imagined_steps: of the teacher, about.
        config: further settings of the fit; None takes ``CONFIG``.
        seed: decides everything random.
        progress: show a bar on a terminal.

    Raises:
        ValueError: data of another task, too little of it, or a number that is not whole or too small.
    """
    if data.task.core.names != world.task.core.names or data.task.action_space != world.task.action_space:
        raise ValueError(f"the data are of {data.task!r}, the world imagines {world.task!r}")
    seed, imagined_steps = seed_number(seed), whole_number("imagined_steps", imagined_steps)
    config = replace(config or CONFIG, members=members, width=width, depth=depth)
    both = concat([data, _imagined(world, data, imagined_steps, np.random.default_rng(seed), config.device)])
    found = fit(both, config, seed, starts=world.starts, progress=progress)
    settings: dict[str, Any] = {**found.provenance.fit, "teacher": world.provenance.fit}
    provenance = replace(found.provenance, fingerprints=data.fingerprints(), steps=len(data), fit=settings)
    return replace(found, low=world.low, high=world.high, support=world.support, provenance=provenance)


@torch.no_grad()
def _imagined(
    world: WorldModel, data: Transitions, steps: int, rng: np.random.Generator, device: str
) -> Transitions:
    """Episodes of ``STEPS`` from states of the data, by the mean of all members."""
    length, world = min(STEPS, int(data.lengths.max())), world.to(device)
    begin = data.window_starts(length)
    begin = rng.choice(begin, max(1, steps // length))
    rows = begin[:, None] + np.arange(length)  # (episodes, length)
    action = _with_noise(world, data.action[rows], rng)
    given = action + np.asarray(actions.first(world.task.action_space)).astype(action.dtype)
    given = torch.tensor(given, device=world.device)
    start = torch.tensor(data.state[begin], device=world.device)
    state = world.init(start, torch.Generator(world.device).manual_seed(0))
    going, found = np.ones(len(begin), bool), []
    for k in range(length):
        outcome = world.step(state, given[:, k], "mean")
        encoded = world.encode_action(given[:, k])
        after = outcome.state
        step = {
            "core": state.core, "next_core": after.core, "full": state.full, "next_full": after.full,
            "unobserved": _unobserved(world, outcome.displacement, after.core, encoded),
            "reward": outcome.reward.double(), "terminated": outcome.terminated,
            "diverged": outcome.diverged,
        }  # fmt: skip
        read = {name: tensor.cpu().numpy() for name, tensor in step.items()}
        sound = going & ~read.pop("diverged")
        ended = read["terminated"]
        found.append(read | {"sound": sound})
        going, state = sound & ~ended, outcome.state
    stacked = {name: np.stack([each[name] for each in found], 1) for name in found[0]}
    return _transitions(data, action, stacked)


def _transitions(data: Transitions, action: np.ndarray, found: dict[str, np.ndarray]) -> Transitions:
    """Imagined steps ``(episodes, length, ...)`` up to where each episode went astray."""
    sound, observe = found["sound"], data.task.core.observe
    kept = sound.any(1)
    last = np.zeros_like(sound)
    last[np.arange(len(sound)), np.maximum(sound.sum(1) - 1, 0)] = True
    number = np.cumsum(kept) - 1
    terminated = found["terminated"][sound]
    count = int(kept.sum())
    return replace(
        data,
        obs=np.asarray(observe(found["full"][sound]), np.float32),
        next_obs=np.asarray(observe(found["next_full"][sound]), np.float32),
        action=action[sound],
        reward=None if data.reward is None else found["reward"][sound],
        terminated=terminated,
        truncated=last[sound] & ~terminated,
        core=found["core"][sound],
        next_core=found["next_core"][sound],
        unobserved=found["unobserved"][sound].astype(np.float64),
        episode=np.broadcast_to(number[:, None], sound.shape)[sound].astype(np.int64),
        episode_seed=(-1,) * count,
        episode_policy=("teacher",) * count,
    )


def _unobserved(world: WorldModel, displacement: Tensor, next_core: Tensor, encoded: Tensor) -> Tensor:
    core = world.task.core
    more = core.unobserved_dim - core.displacement_dim
    if not more or world.readout is None:
        return displacement
    readout = world.readout.predict(next_core, encoded).mean[0][:, :more]
    return torch.cat([displacement, readout], 1)


def _with_noise(world: WorldModel, action: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Stored actions ``(episodes, length, ...)``, some of them otherwise."""
    space = world.task.action_space
    if actions.whole(space):
        drawn = rng.integers(0, actions.choices(space), size=action.shape)
        mixed: np.ndarray = np.where(rng.random(action.shape) < _NOISE, drawn, action)
        return mixed
    low, high = (side.cpu().numpy() for side in world.action_bounds)
    noise = rng.normal(size=action.shape) * _NOISE * (high - low) / 2
    noise[: len(noise) // 2] = 0  # half of the episodes repeat what was done
    noisy: np.ndarray = np.clip(action + noise, low, high).astype(np.float32)
    return noisy
