"""Adapt a world to a robot that differs from the one it was fitted to, by a few transitions of that robot."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from wmgym.calibration.calibrate import calibrate
from wmgym.calibration.open_loop import open_loop_steps
from wmgym.data.layouts import difference, laid_out
from wmgym.data.robot_log import refuse_no_log
from wmgym.data.transitions import Transitions
from wmgym.io.arguments import seed_number
from wmgym.io.provenance import Provenance, library_versions
from wmgym.models.config import FitConfig
from wmgym.models.dynamics import Dynamics, targets
from wmgym.models.ensemble import EnsembleMLP
from wmgym.models.fine_tuning import tuned_outcomes, tuned_readout
from wmgym.models.fit import hold_out
from wmgym.models.residual import ResidualDynamics
from wmgym.models.residual_fit import corrected
from wmgym.models.rollout_error import RolloutError
from wmgym.models.state_unit import state_unit
from wmgym.models.support import sample_support
from wmgym.models.training_loop import (
    FitState,
    data_range,
    encoded_actions,
    optimise,
)
from wmgym.models.world import WorldModel
from wmgym.tasks.task import alike, on_robot

CORRECTION = FitConfig(
    members=5, width=128, depth=2, max_updates=1_500, learning_rate=2e-3, batch_size=128, validation=0.15
)
"""Settings for a correction from a few thousand transitions."""

_FINE_TUNING: dict[str, Any] = {
    "max_updates": 200, "learning_rate": 3e-4, "batch_size": 128, "eval_every": 50, "patience": 4,
    "validation": 0.15,
}  # fmt: skip
"""Few and small updates: more fit the policies of the log better, and worse those that it does not hold."""

_WINDOWS, _HORIZON = 128, 16
_MANY_POLICIES = 6  # of which some can be spared for bounds that hold for others


@dataclass(frozen=True)
class _Candidate:
    """New dynamics, how they came about, and their open-loop error on held-out episodes."""

    how: str
    dynamics: Dynamics
    error: float


def adapt(
    world: WorldModel, data: Transitions, calib: Transitions | None = None, *, seed: int = 0
) -> WorldModel:
    """A world of the robot that made ``data``, learned from few transitions of it; the old world stays.

    Two ways are tried and the one kept whose open-loop error on held-out episodes is smaller: the ensemble's
    weights are fine-tuned, from where they are; or they stay and a correction is fitted that also sees the
    last few actions (``ResidualDynamics``), which alone can express a delay or play. New bounds are made from
    episodes that neither saw. A world of a corrected simulator gets a new correction.

    Readouts and regressed rewards are fine-tuned too, where held-out episodes say that it helps. Flags,
    classes of rewards and ends stay as they are: they follow from where a step led, and a few episodes hold
    too few of them to learn from.

    Args:
        world: the world of the nominal robot, or an earlier one of this.
        data: real transitions of the robot at hand, of a few episodes.
        calib: real episodes of it for the bounds; of policies that ``data`` does not hold, if they are to
            hold for others: a few thousand transitions teach a world far more of their own policies. None
            takes a third of ``data``: of its policies where there are six or more, else of its episodes.
        seed: decides everything random.

    Returns:
        The new world: its task's env is that of ``data``, its provenance names both fits.

    Raises:
        ValueError: imagined data, on which a model that feeds on itself collapses; a robot with other states
            or actions; one episode and no ``calib``; a single transition to learn from; a seed that is no
            whole number; or dynamics of another kind with a memory of their own.
        TypeError: ``world`` is no ``WorldModel``.
    """
    seed = seed_number(seed)
    if not isinstance(world, WorldModel):
        raise TypeError(f"adapt takes a WorldModel, got {type(world).__name__}; read one with wmgym.load")
    for part in (data, *([] if calib is None else [calib])):
        refuse_no_log(part, "adapt")
        if part.source != "real":
            raise ValueError(
                "these transitions are imagined; a world that learns from its own output loses reality step "
                "by step. Adapt it to real transitions of the robot"
            )
        if not alike(world.task, part.task):
            raise ValueError(
                "the data have other states or actions than the world: "
                f"{difference(part.task, world.task)}; fit a world of them"
            )
    data = laid_out(data, world.task)
    if calib is None:
        if data.num_episodes < 2:
            raise ValueError("one episode cannot be both learned from and kept for the bounds; pass calib=")
        data, calib = _kept_apart(data, seed)
    elif not calib.countable and {*calib.fingerprints()} & {*data.fingerprints()}:
        raise ValueError(
            "calib holds episodes of the data; bounds need episodes that the world did not learn"
        )
    if not calib.countable and {*calib.fingerprints()} & {*world.provenance.fingerprints}:
        raise ValueError("the world has learned from these episodes already; adapt it to new ones")
    if len(data) < 2:
        raise ValueError(
            "there is a single transition to learn from, and another is needed to judge by; pass more "
            "episodes, or longer ones"
        )
    low, high = data_range(data, 1.0, world.task.core.joint_limits)
    ends = np.minimum(world.low, low), np.maximum(world.high, high)
    robot = on_robot(world.task, data.task) if data.task.has_env else data.task
    bare = replace(world, task=robot, low=ends[0], high=ends[1], calibration=None)
    config = _config(world.dynamics)
    rows, held = hold_out(data, config, seed)
    given = data, rows, held, config, torch.Generator().manual_seed(seed)

    def judged(how: str, dynamics: Dynamics) -> _Candidate:
        return _Candidate(how, dynamics, _error(replace(bare, dynamics=dynamics), data, held, seed))

    found = [judged("as before", world.dynamics)]
    if isinstance(world.dynamics, EnsembleMLP):
        found.append(judged("fine-tuned", _fine_tuned(world.dynamics, data, seed)))
    base = world.dynamics.base if isinstance(world.dynamics, ResidualDynamics) else world.dynamics
    if getattr(base, "memory", 0):
        raise ValueError(f"{type(base).__name__} has a memory of its own, which no correction goes on top of")
    found.append(judged("corrected", corrected(base, data, CORRECTION, seed)))
    best = min(found, key=lambda each: each.error)
    provenance = Provenance(
        fingerprints=(*world.provenance.fingerprints, *data.fingerprints()),
        steps=world.provenance.steps + len(data),
        source="real" if world.provenance.source == "real" else "imagined",
        versions=library_versions(),
        fit={
            "adapted": best.how, "steps": len(data), "seed": seed, "from": world.provenance.fit,
            "errors": {each.how: round(each.error, 6) for each in found},
        },
    )  # fmt: skip
    made = replace(
        bare,
        dynamics=best.dynamics,
        readout=tuned_readout(world.readout, *given),
        outcomes=tuned_outcomes(world.outcomes, *given),
        starts=data.state[data.first],
        provenance=provenance,
        support=sample_support(data, seed, getattr(best.dynamics, "coordinates", None)),
    )
    return calibrate(made, calib, seed=seed)


def _kept_apart(data: Transitions, seed: int) -> tuple[Transitions, Transitions]:
    """What to learn from, and what to make bounds from."""
    names = sorted(set(data.episode_policy))
    if len(names) < _MANY_POLICIES:
        learned, kept = data.split((2 / 3, 1 / 3), seed)
        return learned, kept
    held = np.random.default_rng(seed).permutation(names)[: len(names) // 3]
    out = np.isin(data.episode_policy, held)
    return data.select(np.flatnonzero(~out)), data.select(np.flatnonzero(out))


def _config(dynamics: Dynamics) -> FitConfig:
    return FitConfig(**_FINE_TUNING, members=dynamics.num_members)


def _fine_tuned(dynamics: EnsembleMLP, data: Transitions, seed: int) -> EnsembleMLP:
    """A copy whose weights have learned from ``data``; its units stay, so that it starts as it was."""
    model, config = copy.deepcopy(dynamics).requires_grad_(True), _config(dynamics)
    rows, held = hold_out(data, config, seed)
    with torch.no_grad():
        inputs = model.encode(torch.tensor(data.core), encoded_actions(data))
        wanted = targets(data, model.coordinates, model.target_dim)
        labels = (wanted - model.target_mean) / model.target_std
    fitting = FitState(
        model, inputs, labels, torch.tensor(data.terminated).float(), rows, config,
        torch.Generator().manual_seed(seed), RolloutError(data, held, config, seed), False,
    )  # fmt: skip
    optimise(fitting, "fine-tune")
    return model.finished()


def _error(world: WorldModel, data: Transitions, held: np.ndarray, seed: int) -> float:
    """Mean over steps of the median open-loop error, in standard deviations, from held-out rows."""
    starts = np.intersect1d(data.window_starts(1), held)
    rng = np.random.default_rng(seed)
    starts = np.sort(rng.choice(starts, min(_WINDOWS, len(starts)), replace=False))
    seen = None if world.support is None else world.support.core
    unit = state_unit(data.core, data.task.core.geometry, seen)
    sizes = [
        np.nanmedian((step.error / unit).mean(1))
        for step in open_loop_steps(world, data, starts, _HORIZON, "member", seed)
        if not np.isnan(step.error).all()
    ]
    return float(np.mean(sizes))
