"""Fit a correction of a nominal model, or of a world's dynamics, to what a robot did otherwise."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from wmgym.data.layouts import refuse_unlike, settled_as
from wmgym.data.transitions import Transitions
from wmgym.models.config import FitConfig, architecture
from wmgym.models.drive import PASSES, Drive, DriveSearch, Wrong, earlier_actions, without_drive
from wmgym.models.dynamics import Dynamics, targets
from wmgym.models.ensemble import EnsembleMLP
from wmgym.models.fit import FitDynamics, hold_out
from wmgym.models.regression import held_out_error, normalise
from wmgym.models.residual import MujocoDynamics, ResidualDynamics, extended
from wmgym.models.training_loop import FitState, encoded_actions, optimise
from wmgym.tasks.task import EnvFactory, Task, make_task


def residual(base: str | gym.Env[Any, Any] | EnvFactory | Task | Dynamics) -> FitDynamics:
    """What ``fit(data, dynamics=)`` takes to learn a correction.

    Args:
        base: a task, an id, an env or a function that makes one, whose MuJoCo model is corrected: a hybrid
            simulator; or dynamics. The delay and play of a changed robot, one that was identified for
            instance, are where the search for a drive begins.
    """
    if isinstance(base, (str, gym.Env)) or (callable(base) and not hasattr(base, "predict")):
        base = make_task(base)
    if not isinstance(base, Task) and not hasattr(base, "predict"):
        raise TypeError(
            f"residual takes an env, its id, a task or dynamics, got {type(base).__name__}; wmgym.adapt "
            "corrects a learned world"
        )
    if isinstance(base, Task) and base.robot is None:
        MujocoDynamics(base)  # refuses now what it would after the collecting

    def fitted(train: Transitions, config: FitConfig, seed: int) -> ResidualDynamics:
        nominal, drive = _apart(base, train)
        core, action, earlier = torch.tensor(train.core), encoded_actions(train), earlier_actions(train)
        if isinstance(train.task.action_space, spaces.Box):
            drive = DriveSearch(train, seed).clear(_one_step_errors(nominal, train), drive)
        with torch.no_grad():
            said = nominal.predict(core, drive.replayed(action, earlier, train)).mean.mean(0)
        wrong = targets(train, target_dim=said.shape[1]) - said
        correction = _fit_correction(train, extended(action, earlier, said), wrong, config, seed)
        return ResidualDynamics(nominal, correction, drive)

    return fitted


def _apart(base: Any, train: Transitions) -> tuple[Dynamics, Drive]:
    """What to correct, and the drive that it has."""
    if not isinstance(base, Task):
        return base, PASSES
    refuse_unlike(train.task, base)
    drive, task = without_drive(settled_as(base, train.task))
    return MujocoDynamics(task), drive


def _one_step_errors(base: Dynamics, data: Transitions) -> Wrong:
    """How wrong dynamics are at rows of a log, by what acted there, in standard deviations of its changes."""
    core, wanted = torch.tensor(data.core), targets(data, target_dim=base.target_dim)
    unit = wanted.std(0).clamp(min=1e-6)

    @torch.no_grad()
    def wrong(rows: np.ndarray, acted: Tensor) -> Tensor:
        said = base.predict(core[rows], acted).mean.mean(0)
        return (said[:, : wanted.shape[1]] - wanted[rows]) / unit

    return wrong


def _fit_correction(
    train: Transitions, action: Tensor, target: Tensor, config: FitConfig, seed: int
) -> EnsembleMLP:
    """An ensemble from cores and any further inputs to what is left to predict, for ``ResidualDynamics``.

    Args:
        train: transitions.
        action: ``(n, inputs)``, what the network sees as its action.
        target: ``(n, target_dim)``, what it learns, in the task's coordinates.
        config: architecture and optimiser.
        seed: decides initial weights, batches and the held-out episodes.
    """
    generator = torch.Generator().manual_seed(seed)
    rows, held = hold_out(train, config, seed)
    geometry, sizes = train.task.core.geometry, {"action_dim": action.shape[1], "target_dim": target.shape[1]}
    model = EnsembleMLP(architecture(config, geometry=geometry, **sizes), generator)
    with torch.no_grad():  # start from no correction but the mean one
        model.weights[-1][..., : target.shape[1]] = 0
    inputs, labels = normalise(model, model.features(torch.tensor(train.core), action), target)
    fitting = FitState(
        model, inputs, labels, torch.zeros(len(inputs)), rows, config, generator,
        held_out_error(inputs, labels, held), False,
    )  # fmt: skip
    optimise(fitting, "fit correction")
    return model.finished()
