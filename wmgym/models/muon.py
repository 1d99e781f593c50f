"""Muon, for the stacked matrices of an ensemble."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

_MOMENTUM = 0.95
_STEPS = 5
_A, _B, _C = 3.4445, -4.7750, 2.0315


class Muon(torch.optim.Optimizer):
    """Steps along the nearest orthogonal matrix to the momentum (Jordan et al. 2024, kellerjordan.github.io).

    Directions that gradients seldom point in are learned as fast as the common ones, which Adam leaves to
    the end of a fit. The root mean square of a step is the learning rate, about that of Adam's, so one
    rate serves both. ``torch.optim.Muon`` takes single matrices; here every member has its own.

    Args:
        params: matrices ``(..., rows, columns)``, hidden layers' best; AdamW is better for the rest.
        lr: learning rate.
        weight_decay: as AdamW's.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of all matrices that have a gradient."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if not state:
                    state["momentum"] = torch.zeros_like(matrix)
                momentum = state["momentum"]
                momentum.mul_(_MOMENTUM).add_(matrix.grad)
                update = orthogonal(matrix.grad.add(momentum, alpha=_MOMENTUM))
                size = math.sqrt(max(matrix.shape[-2:]))
                matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"] * size)


def orthogonal(matrix: Tensor) -> Tensor:
    """Matrices ``(..., rows, columns)`` with their singular values brought near 1, by Newton and Schulz.

    Within 0.7 and 1.2, which is all that a step needs, after five multiplications.
    """
    found: Tensor = matrix / (torch.linalg.matrix_norm(matrix, keepdim=True) + 1e-7)
    tall = found.shape[-2] > found.shape[-1]
    found = found.mT if tall else found
    for _ in range(_STEPS):
        square = found @ found.mT
        found = _A * found + (_B * square + _C * square @ square) @ found
    return found.mT if tall else found
