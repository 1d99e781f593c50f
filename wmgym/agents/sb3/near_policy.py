"""Keep an actor near the one that a training goes on from, ever less."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

_WEIGHT = 1.0  # halfway; TD3+BC takes 0.4


class NearPolicy:
    """What another action costs than that of an earlier actor, after TD3+BC (arXiv:2106.06860).

    Free it would follow critics that know little of other actions; held for ever it would not improve. So the
    weight falls from infinity to 0: first come small and safe changes, then bold ones, and a callback can
    keep the best.

    Args:
        actor: of SAC; it is copied.
        begin: steps of the training at which the weight is infinite.
        end: steps from which on it is 0.
    """

    def __init__(self, actor: Any, begin: int, end: int) -> None:
        self._old = copy.deepcopy(actor).requires_grad_(False)
        self._begin, self._end = begin, end

    def weight(self, steps: int) -> float:
        """The weight after so many steps, in units of the mean value; large where it should be infinite."""
        return _WEIGHT * max(0, self._end - steps) / max(1, steps - self._begin)

    def __call__(self, actor: Any, obs: Tensor, steps: int) -> Tensor:
        """The weighted mean square of how far most likely actions, in [-1, 1], are apart."""
        old, new = (torch.tanh(each.get_action_dist_params(obs)[0]) for each in (self._old, actor))
        return self.weight(steps) * (new - old).square().mean()


@contextlib.contextmanager
def near_policy(model: Any, steps: int) -> Iterator[None]:
    """For the next ``steps``, keep a ``DynaSAC`` near what its actor is now."""
    model.near_policy = NearPolicy(model.actor, model.num_timesteps, model.num_timesteps + steps)
    try:
        yield
    finally:
        model.near_policy = None
