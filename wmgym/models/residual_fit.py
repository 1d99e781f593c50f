"""Fit a correction of a nominal model, or of a world's dynamics, to what a robot did otherwise."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from wmgym.data.layouts import settled_as
from wmgym.data.transitions import Transitions
from wmgym.models.config import FitConfig, architecture
from wmgym.models.drive import MEMORY, PASSES, Drive, find_drive
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
            simulator; or dynamics.
    """
    if isinstance(base, (str, gym.Env)) or (callable(base) and not hasattr(base, "predict")):
        base = make_task(base)
    if isinstance(base, Task) and base.robot is None:
        MujocoDynamics(base)  # refuses now what it would after the collecting

    def fitted(train: Transitions, config: FitConfig, seed: int) -> ResidualDynamics:
        task = settled_as(base, train.task) if isinstance(base, Task) else None
        nominal: Any = base if task is None else MujocoDynamics(task)
        core, action, earlier = torch.tensor(train.core), encoded_actions(train), _earlier(train)
        drive = _drive(nominal, train, action, earlier, seed)
        with torch.no_grad():
            said = nominal.predict(core, drive.replayed(action, earlier, train)).mean.mean(0)
        wrong = targets(train, target_dim=said.shape[1]) - said
        correction = _fit_correction(train, extended(action, earlier, said), wrong, config, seed)
        return ResidualDynamics(nominal, correction, drive)

    return fitted


@torch.no_grad()
def _drive(base: Dynamics, train: Transitions, action: Tensor, earlier: Tensor, seed: int) -> Drive:
    space = train.task.action_space
    if not isinstance(space, spaces.Box):
        return PASSES
    core, wanted = torch.tensor(train.core), targets(train, target_dim=base.target_dim)
    unit = wanted.std(0).clamp(min=1e-6)
    half_range = (space.high - space.low).reshape(-1) / 2

    def wrong(rows: np.ndarray, acted: Tensor) -> Tensor:
        said = base.predict(core[rows], acted).mean.mean(0)
        return (said[:, : wanted.shape[1]] - wanted[rows]) / unit

    return find_drive(train, action, earlier, half_range, wrong, seed)


def _earlier(data: Transitions) -> Tensor:
    """The actions before each transition, the last one first, zeros before an episode's start."""
    action, step = encoded_actions(data), np.arange(len(data)) - data.first[data.episode]
    rows = np.arange(len(data))
    found = []
    for back in range(1, MEMORY + 1):
        before = action[np.maximum(rows - back, 0)].clone()
        before[torch.tensor(step < back)] = 0
        found.append(before)
    return torch.cat(found, 1)


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
