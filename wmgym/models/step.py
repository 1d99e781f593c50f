"""The parts of an imagined step: predictions, the companion's path, reward and termination."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from wmgym.models.batching import alike, as_tensor, clamp
from wmgym.models.coordinates import Coordinates
from wmgym.models.dynamics import Dynamics, Prediction, Propagation, predict_assigned
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
    coordinates: Coordinates,
    limits: tuple[Array, Array],
    data_std: Tensor,
) -> WorldState:
    """The state after a step, its companion moved on by what the next member predicted for it."""
    core, companion, total, target, std = alike(
        state.core, state.companion, state.cumulative_disagreement, prediction.mean, data_std
    )
    moved, _ = coordinates.move(companion, target[:, : coordinates.change_dim])
    companion = clamp(moved, *(side[: core.shape[1]] for side in limits))
    return replace(
        state,
        companion=as_tensor(companion),
        cumulative_disagreement=as_tensor(total + abs(core - companion) / std),
        companion_carry=prediction.carry,
    )


def reward_of(task: Task, known: tuple[Array, ...], predicted: Tensor) -> Tensor:
    """Rewards ``(batch,)``: the task's formula of what is ``known``, or the first column of ``predicted``."""
    if task.reward is None:
        return torch.nan_to_num(predicted[:, 0], 0.0, 0.0, 0.0)
    reward = as_tensor(task.reward(*_in_kind(task, known)))
    # To NumPy a bool times a number is a double.
    return reward.to(predicted.dtype) if task.from_table else reward


def terminated_of(
    task: Task, known: tuple[Array, ...], end_logit: Tensor | None, generator: torch.Generator | None
) -> Tensor:
    """Terminations ``(batch,)`` bool; learned ones are drawn with a generator, and the likelier without.

    Raises:
        ValueError: neither the task nor the dynamics know of any.
    """
    if task.terminated is not None:
        return as_tensor(task.terminated(*_in_kind(task, known)))
    if end_logit is None:
        raise ValueError("the task has no termination and the dynamics learned none; pass terminated_fn")
    if generator is None:
        return end_logit > 0
    draw = torch.rand(end_logit.shape, generator=generator, device=end_logit.device)
    return draw < torch.sigmoid(end_logit)


def _in_kind(task: Task, known: tuple[Array, ...]) -> tuple[Array, ...]:
    """Functions of the caller's take tensors, those of the table both kinds."""
    return known if task.from_table else tuple(as_tensor(array) for array in known)
