"""The layers of an ensemble's networks, as predictions take them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor, nn

from wmgym.tasks.layout import Array

Layer: TypeAlias = tuple[Tensor, Tensor]
"""Weight ``(members, inputs, outputs)`` and bias ``(members, 1, outputs)``."""


@dataclass(frozen=True)
class Layers:
    """The layers of all members, or of some.

    Attributes:
        scale: mean and standard deviation of the inputs, as NumPy arrays on the CPU.
        hidden: up to the last activation.
        mean: gives the mean in raw units, and after it the logit of termination if that is learned.
        std: gives what the standard deviation is made of.
    """

    scale: tuple[Array, Array]
    hidden: tuple[Layer, ...]
    mean: Layer
    std: Layer

    def of(self, member: int) -> Layers:
        """Those of a single member."""
        every = (*self.hidden, self.mean, self.std)
        *hidden, mean, std = ((w[member : member + 1], b[member : member + 1]) for w, b in every)
        return Layers(self.scale, tuple(hidden), mean, std)

    @cached_property
    def matrices(self) -> tuple[tuple[Layer, ...], Layer, Layer]:
        """``hidden``, ``mean`` and ``std`` of a single member: ``(inputs, outputs)`` and ``(outputs,)``."""
        *hidden, mean, std = ((w[0], b[0, 0]) for w, b in (*self.hidden, self.mean, self.std))
        return tuple(hidden), mean, std


def through(layer: Layer, rows: Tensor) -> Tensor:
    """Rows ``(members, n, inputs)`` through a layer."""
    weight, bias = layer
    return torch.baddbmm(bias, rows, weight)


def init(members: int, inputs: int, outputs: int, generator: torch.Generator | None) -> Tensor:
    """Fresh weights; without a generator none in particular."""
    weight = torch.empty(members, inputs, outputs)
    if generator is not None:
        nn.init.trunc_normal_(weight, std=1 / math.sqrt(inputs), a=-2, b=2, generator=generator)
    return weight
