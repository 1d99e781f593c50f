"""The parts of an imagined step: predictions, the companion's path, reward and termination."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wmgym.models.batching import (
    alike,
    any_in_row,
    as_tensor,
    clamp,
    columns,
    constant,
    library,
    with_columns,
)
from wmgym.models.coordinates import Coordinates
from wmgym.models.dynamics import Dynamics, Prediction, Propagation, predict_assigned
from wmgym.models.error_bounds import LASTING_RATE
from wmgym.models.flags import Flags
from wmgym.models.outcomes import Outcomes
from wmgym.models.state import WorldState
from wmgym.tasks.layout import Array
from wmgym.tasks.task import Task


def predict_step(
    model: Dynamics, state: WorldState, action: Tensor, propagation: Propagation, trust: bool
) -> tuple[Prediction, Prediction | None]:
    """What a model predicts of episodes ``(batch, ...)``: by each one's member, or by the mean of all.

    With ``trust`` also what the next member predicts of their companions.
    """
    member, carry, companion_carry = state.member, state.carry, state.companion_carry
    pair: Any = getattr(model, "predict_pair", None)
    if trust and pair is not None and propagation != "mean":
        carries = () if carry is None else (carry, companion_carry)
        both: tuple[Prediction, Prediction] = pair(state.core, state.companion, action, member, *carries)
        return both
    if propagation == "mean":
        every = model.predict(state.core, action, *(() if carry is None else (carry,)))
        mean = as_tensor(alike(every.mean)[0].mean(0))
        logit = None if every.end_logit is None else every.end_logit.mean(0)
        own = Prediction(mean, lambda: every.std.mean(0), logit, every.carry)
    else:
        own = predict_assigned(model, state.core, action, member, carry)
    if not trust:
        return own, None
    following = (member + 1) % model.num_members
    return own, predict_assigned(model, state.companion, action, following, companion_carry)


def advance_companion(
    state: WorldState,
    prediction: Prediction,
    action: Tensor,
    coordinates: Coordinates,
    limits: tuple[Array, Array],
    data_std: Tensor,
    flags: Flags | None,
) -> WorldState:
    """The state after a step, its companion moved on by what the next member predicted for it."""
    core, companion, lasting, target, given, std = alike(
        state.core, state.companion, state.lasting_disagreement, prediction.mean, action, data_std
    )
    companion, lasting = companion_after(
        core, companion, lasting, target, given, coordinates, limits, std, flags
    )
    return replace(
        state,
        companion=as_tensor(companion),
        lasting_disagreement=as_tensor(lasting),
        companion_carry=prediction.carry,
    )


def companion_after(
    core: Array,
    companion: Array,
    lasting: Array,
    target: Array,
    action: Array,
    coordinates: Coordinates,
    limits: tuple[Array, Array],
    data_std: Array,
    flags: Flags | None,
) -> tuple[Array, Array]:
    """Where a companion moves to, and ``lasting_disagreement`` with its distance from the next core.

    That is a mean over about ten steps which never falls: two paths that have come apart and then settle in
    one place, such as a robot's on its back, agree with each other and not with what is real.

    Flags are those of the core, which the companion is beside.
    """
    moved, _ = coordinates.move(companion, target[:, : coordinates.change_dim])
    moved = coordinates.followed(companion, moved, action)
    companion = clamp(moved, *(side[: core.shape[1]] for side in limits))
    if flags is not None:
        at = constant(flags.columns, core.device) if isinstance(core, Tensor) else flags.columns
        companion = with_columns(companion, at, columns(core, at))
    apart = abs(coordinates.distance(core, companion)) / data_std
    return companion, library(core).maximum(lasting, lasting + float(LASTING_RATE) * (apart - lasting))


def moved_within(
    coordinates: Coordinates,
    joint_limits: Sequence[tuple[int, float, float]],
    limits: tuple[Array, Array],
    core: Array,
    target: Array,
    action: Array,
) -> tuple[Array, Array, Array]:
    """The next core and the displacement, as predicted and within limits, and ``diverged`` ``(batch,)``."""
    moved, displacement = coordinates.move(core, target[:, : coordinates.change_dim])
    raw = library(core).concatenate([coordinates.followed(core, moved, action), displacement], 1)
    sound = clamp(raw, *limits)
    differs = sound != raw  # NaN differs from everything
    if joint_limits:
        # One that runs into its stop is no divergence, unless it is NaN.
        joints: Array = np.array([joint for joint, _, _ in joint_limits])
        joints = constant(joints, raw.device) if isinstance(raw, Tensor) else joints
        at_stop = columns(raw, joints)
        differs = with_columns(differs, joints, at_stop != at_stop)
    return raw, sound, any_in_row(differs)


def integrate(
    coordinates: Coordinates,
    joint_limits: Sequence[tuple[int, float, float]],
    limits: tuple[Array, Array],
    core: Array,
    target: Array,
    action: Array,
) -> tuple[Array, Array, Array]:
    """The next core and the displacement, always finite, and ``diverged``."""
    raw, sound, diverged = moved_within(coordinates, joint_limits, limits, core, target, action)
    away = isinstance(diverged, Tensor) and not diverged.is_cpu
    if away or diverged.any():  # to look would be to wait for the device
        sound = put_back(limits, core, raw)
    return sound[:, : core.shape[1]], sound[:, core.shape[1] :], diverged


def put_back(limits: tuple[Array, Array], core: Array, raw: Array) -> Array:
    """The next core and the displacement where the prediction diverged; always finite."""
    lib = library(core)
    rest = lib.concatenate([core, lib.zeros_like(raw[:, core.shape[1] :])], 1)
    return clamp(lib.where(lib.isfinite(raw), raw, rest), *limits)


def outcome_of(
    task: Task,
    outcomes: Outcomes | None,
    known: tuple[Array, ...],
    encoded: Tensor,
    predicted: Tensor,
    end_logit: Tensor | None,
    generator: torch.Generator | None,
    noise: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Rewards and terminations ``(batch,)`` of a step.

    By the task's functions where it has them, else by the world's outcomes, else by what the dynamics
    predicted.

    Args:
        task: whose functions come first.
        outcomes: what the world knows of rewards and terminations that are one of a few.
        known: what the task's functions take: states, actions, next states, unobserved quantities.
        encoded: actions as networks take them ``(batch, action_dim)``.
        predicted: ``(batch, 1)`` reward that the dynamics predicted, or ``(batch, 0)``.
        end_logit: likewise, of termination.
        generator: draws outcomes that are not certain.
        noise: draws terminations that the dynamics predict.

    Raises:
        ValueError: nothing knows of terminations.
    """
    terminated = None
    if task.terminated is not None:
        terminated = as_tensor(task.terminated(*_in_kind(task, known)))
    elif outcomes is None or end_logit is not None:
        terminated = _drawn_ends(end_logit, noise)
    logits = None
    if outcomes is not None:
        pair = as_tensor(outcomes.pair(task.core, known[0], known[2]))
        logits = outcomes.of(pair, encoded, terminated, generator)
    if terminated is None:
        assert outcomes is not None
        assert logits is not None
        terminated = outcomes.terminated(logits)
    if task.reward is not None:
        reward = as_tensor(task.reward(*_in_kind(task, known)))
        # To NumPy a bool times a number is a double.
        return (reward.to(predicted.dtype) if task.from_table else reward), terminated
    if outcomes is None or logits is None:
        return torch.nan_to_num(predicted[:, 0], 0.0, 0.0, 0.0), terminated
    regressed = outcomes.regressed(pair, encoded, predicted)
    if np.isnan(outcomes.values).all():
        return regressed, terminated
    return outcomes.reward(logits, regressed), terminated


def _drawn_ends(end_logit: Tensor | None, noise: torch.Generator | None) -> Tensor:
    """Terminations ``(batch,)`` bool that the dynamics predict: the likelier, or drawn with a generator."""
    if end_logit is None:
        raise ValueError("the task has no termination and the dynamics learned none; pass terminated_fn")
    if noise is None:
        return end_logit > 0
    draw = torch.rand(end_logit.shape, generator=noise, device=end_logit.device)
    return draw < torch.sigmoid(end_logit)


def _in_kind(task: Task, known: tuple[Array, ...]) -> tuple[Array, ...]:
    """Functions of the caller's take tensors, those of the table both kinds."""
    return known if task.from_table else tuple(as_tensor(array) for array in known)
