"""Reward and termination of an imagined step: by the task's formulas, or as the dynamics predict them."""

from __future__ import annotations

import torch
from torch import Tensor

from wmgym.models.batching import as_tensor
from wmgym.tasks.layout import Array
from wmgym.tasks.task import Task


def reward_of(task: Task, known: tuple[Array, ...], predicted: Tensor) -> Tensor:
    """Rewards ``(batch,)``.

    Args:
        task: whose formula it is, where there is one.
        known: what that takes: state, action, next state and unobserved quantities.
        predicted: ``(batch, k)``, what was predicted after the change; its first column is a learned reward.
    """
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
