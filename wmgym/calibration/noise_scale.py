"""The scale at which the model's own noise matches its one-step errors."""

from __future__ import annotations

import bisect
import functools
from dataclasses import replace

import numpy as np
import torch

from wmgym.calibration.conformal import marginal_calibration
from wmgym.calibration.open_loop import given_actions, open_loop_steps, spread
from wmgym.calibration.scoring_rules import pit
from wmgym.data.transitions import Transitions
from wmgym.models.dynamics import targets
from wmgym.models.world import WorldModel

_ONE_SIGMA = 0.6827
_SHARES = (2.0, 1.5, 1.25, 1.0, 0.75, 0.5, 0.25, 0.0)  # of the one-step noise
_MAX_STARTS, _COPIES = 128, 16  # starts of sampled episodes, and how many from each


def noise_scale(world: WorldModel, calib: Transitions, starts: np.ndarray, seed: int) -> np.ndarray:
    """Factor ``(target_dim,)`` for the one-step noise of sampled episodes; 1 where the data has no target.

    First each dimension's noise is scaled to cover one sigma of one member's one-step errors. But sampled
    episodes also differ by their members, and MuJoCo adds no noise. So only the share of that noise is kept
    with which many samples from one start cover one sigma of the truth, on average over numbers of steps.

    Args:
        world: the world to calibrate.
        calib: real episodes that ``fit`` did not see.
        starts: rows of ``calib`` to sample from.
        seed: decides the samples.
    """
    scale = _one_step_scale(world, calib)
    of_change = np.arange(len(scale)) < world.coordinates.change_dim
    blank, starts = marginal_calibration(calib, scale, 0.5), spread(starts, _MAX_STARTS)

    @functools.cache
    def excess(at: int) -> float:
        factor = np.where(of_change, _SHARES[at] * scale, scale)
        sampled = world.with_calibration(replace(blank, std_scale=factor))
        return _sampled_coverage(sampled, calib, starts, seed) - _ONE_SIGMA

    # More noise covers more: halve, then choose between the last that covers too much and the next.
    first = bisect.bisect_left(range(len(_SHARES)), True, key=lambda at: excess(at) < 0)
    near = [at for at in (first - 1, first) if 0 <= at < len(_SHARES)]
    best = min(near, key=lambda at: abs(excess(at)))  # at a tie the larger
    return np.where(of_change, _SHARES[best] * scale, scale)


def std_scale(z: np.ndarray) -> np.ndarray:
    """Factor ``(d,)`` that makes one sigma cover 68.27 % of standardised errors ``z`` ``(n, d)``."""
    return np.asarray(np.maximum(np.quantile(np.abs(z), _ONE_SIGMA, axis=0), 1e-3))


def _sampled_coverage(world: WorldModel, calib: Transitions, starts: np.ndarray, seed: int) -> float:
    """One-sigma coverage of the truth by samples from each start, mean over 1, 8 and 32 steps."""
    many, moving, covered = starts.repeat(_COPIES), calib.core.std(0) > 1e-8, []
    moving |= not moving.any()  # of a single transition, say
    for h, step in enumerate(open_loop_steps(world, calib, many, 32, "sample", seed), start=1):
        there = ~np.isnan(step.error[::_COPIES, 0])
        if h in (1, 8, 32) and there.any():
            copies = step.core.reshape(len(starts), _COPIES, -1).swapaxes(0, 1)[:, there][..., moving]
            truth = calib.next_core[starts[there] + h - 1][:, moving]
            rank = pit(copies, truth, np.random.default_rng(seed))
            covered.append(float((np.abs(rank - 0.5) <= _ONE_SIGMA / 2).mean()))
    return float(np.mean(covered))


def _one_step_scale(world: WorldModel, calib: Transitions) -> np.ndarray:
    """Factor ``(target_dim,)`` that makes one sigma cover one member's errors."""
    encoded = world.encode_action(given_actions(world, calib.action))
    with torch.no_grad():  # (members, n, target_dim)
        prediction = world.dynamics.predict(torch.tensor(calib.core, device=world.device), encoded)
    target = targets(calib, world.coordinates, world.dynamics.target_dim).numpy()
    mean, std = (x.cpu().numpy()[..., : target.shape[1]] for x in (prediction.mean, prediction.std))
    scale = np.ones(world.dynamics.target_dim, np.float32)
    scale[: target.shape[1]] = std_scale(((target - mean) / std).reshape(-1, target.shape[1]))
    return scale
