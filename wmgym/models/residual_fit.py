"""Fit a correction of a nominal model, or of a world's dynamics, to what a robot did otherwise."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
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
from wmgym.models.rollout_error import RolloutError
from wmgym.models.training_loop import FitState, encoded_actions, optimise
from wmgym.tasks.task import EnvFactory, Task, make_task

_SHARES = (0.0, 0.25, 0.5, 1.0)  # of a correction
_NOTHING = 1e-3  # standard deviations of error, which are no reason to drop one
_CLEAR = 0.5  # of the error without any: with this or less, a correction helps without a doubt
_BETTER = 0.95  # likewise: with less, a share of one helps
_FOLDS = 3  # of a log's episodes, by which it is judged


def residual(base: str | gym.Env[Any, Any] | EnvFactory | Task | Dynamics) -> FitDynamics:
    """What ``fit(data, dynamics=)`` takes to learn a correction.

    Rollouts over episodes that it does not see decide how much of it is kept: where they are worse with it, a
    share of it or none, which a warning says. Where it is in doubt, that takes three fits of one member each.

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
    given: Task | Dynamics = base  # type: ignore[assignment]

    def fitted(train: Transitions, config: FitConfig, seed: int) -> ResidualDynamics:
        found = corrected(given, train, config, seed)
        return _worth_keeping(found, _judged_shares(found, train, config, seed))

    return fitted


def corrected(base: Task | Dynamics, train: Transitions, config: FitConfig, seed: int) -> ResidualDynamics:
    """All of a correction; whether rollouts are better with it is for the caller to find out."""
    nominal, drive = _apart(base, train)
    if isinstance(train.task.action_space, spaces.Box):
        drive = DriveSearch(train, seed).clear(_one_step_errors(nominal, train), drive)
    return ResidualDynamics(nominal, _correction(nominal, drive, train, config, seed), drive)


def _correction(
    nominal: Dynamics, drive: Drive, train: Transitions, config: FitConfig, seed: int
) -> EnsembleMLP:
    """Of what dynamics say under a drive."""
    core, action, earlier = torch.tensor(train.core), encoded_actions(train), earlier_actions(train)
    with torch.no_grad():
        said = nominal.predict(core, drive.replayed(action, earlier, train)).mean.mean(0)
    wrong = targets(train, target_dim=said.shape[1]) - said
    return _fit_correction(train, extended(action, earlier, said), wrong, config, seed)


def _judged_shares(
    found: ResidualDynamics, train: Transitions, config: FitConfig, seed: int
) -> dict[float, float]:
    """The error of rollouts by the share of a correction that they are with.

    What a fit holds out to stop by is an episode or two of a short log. Unless all is clear from these, every
    episode judges one of a few corrections of one member each that did not see it.
    """

    def errors(model: ResidualDynamics, held: np.ndarray, shares: tuple[float, ...]) -> np.ndarray:
        rollouts = RolloutError(train, held, config, seed)
        carry = found.drive.before(train, rollouts.starts)
        scaled = (_scaled(model, share) for share in shares)
        return np.array([rollouts.median(each, found.coordinates, carry) for each in scaled])

    alone, whole = errors(found, hold_out(train, config, seed)[1], (0.0, 1.0))
    folds = np.array_split(np.random.default_rng(seed).permutation(train.num_episodes), _FOLDS)
    if whole <= max(_CLEAR * alone, _NOTHING) or train.num_episodes == 1:
        return {0.0: float(alone), 1.0: float(whole)}
    every = []
    for own in (fold for fold in folds if len(fold)):
        rest = train.select(np.setdiff1d(np.arange(train.num_episodes), own))
        network = _correction(found.base, found.drive, rest, replace(config, members=1), seed)
        held = np.flatnonzero(np.isin(train.episode, own))
        every.append(errors(replace(found, network=network), held, _SHARES))
    return dict(zip(_SHARES, np.mean(every, 0).tolist(), strict=True))


def _worth_keeping(found: ResidualDynamics, errors: dict[float, float]) -> ResidualDynamics:
    """All of a correction unless rollouts are better without any; then a share if clearly better, or none."""
    alone, whole = errors[0.0], errors[1.0]
    if whole <= max(alone, _NOTHING):
        return replace(found, rollout_error=(alone, whole))
    share = min(errors, key=lambda each: errors[each])
    share = share if errors[share] < _BETTER * alone else 0.0
    kept = f"{share:.0%} of the correction is kept" if share else "no correction is kept"
    warnings.warn(
        f"{kept}: rollouts over episodes that it did not see are {alone:.3g} std off without it and "
        f"{whole:.3g} with all of it; more transitions teach a better one, and so may wmgym.identify before",
        stacklevel=4,
    )
    return replace(_scaled(found, share), rollout_error=(alone, errors[share]))


def _scaled(found: ResidualDynamics, share: float) -> ResidualDynamics:
    """With a share of the correction; its noise stays, that of what no correction explains."""
    if share == 1:
        return found
    network = copy.deepcopy(found.network)
    width = network.target_dim
    with torch.no_grad():
        for part in (network.weights[-1][..., :width], network.biases[-1][..., :width], network.target_mean):
            part *= share
    return replace(found, network=network.finished())


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
