"""Symmetry: what a robot does when its limbs trade places, as more data for the same fit.

An ant turned by a quarter, or a walker whose legs are swapped, obeys the same laws; so every transition is as
many as the robot has symmetries (van der Pol et al. 2020, arXiv:2006.16908). In a chart's coordinates each is
a permutation with signs, which costs a batch next to nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from wmgym.models.coordinates import Coordinates
from wmgym.models.rotations import multiply
from wmgym.tasks.layout import Geometry, Placement, Symmetry


def mapped(symmetry: Symmetry, geometry: Geometry, core: Tensor) -> Tensor:
    """Cores ``(n, dim)`` of the robot with its limbs having traded places."""
    moved = placed(symmetry.core, core)
    if symmetry.turn == 0.0:
        return moved
    if geometry.quaternion is None:
        raise ValueError("only a floating base can be turned; this geometry has no quaternion")
    at = slice(geometry.quaternion, geometry.quaternion + 4)
    half = symmetry.turn / 2
    turn = torch.tensor([[math.cos(half), 0.0, 0.0, math.sin(half)]], dtype=core.dtype, device=core.device)
    return torch.cat([moved[:, : at.start], multiply(moved[:, at], turn), moved[:, at.stop :]], 1)


def placed(places: Placement, values: Tensor) -> Tensor:
    """Columns of ``values`` ``(..., n)`` where they belong, with their signs."""
    source, sign = (torch.tensor([place[k] for place in places], device=values.device) for k in (0, 1))
    return values[..., source.long()] * sign.to(values.dtype)


@dataclass(frozen=True)
class Views:
    """The same batch as each of a robot's symmetries sees it, itself among them.

    Attributes:
        inputs: ``(views, input_dim)`` int64, the column that each network input takes.
        input_signs: likewise, 1 or -1.
        targets: ``(views, target_dim)`` int64.
        target_signs: likewise.
    """

    inputs: Tensor
    input_signs: Tensor
    targets: Tensor
    target_signs: Tensor

    def of(self, inputs: Tensor, targets: Tensor, view: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets ``(members, batch, dim)`` of each row's ``view`` ``(members, batch)`` int64."""
        return (
            inputs.gather(-1, self.inputs[view]) * self.input_signs[view],
            targets.gather(-1, self.targets[view]) * self.target_signs[view],
        )

    def moments(self, mean: Tensor, std: Tensor, *, targets: bool) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of all views together, from those of one."""
        columns, signs = (self.targets, self.target_signs) if targets else (self.inputs, self.input_signs)
        means, squares = mean[columns] * signs, (std.square() + mean.square())[columns]
        whole = means.mean(0)
        return whole, (squares.mean(0) - whole.square()).clamp(min=0).sqrt()


def views(symmetries: tuple[Symmetry, ...], coordinates: Coordinates, action_dim: int) -> Views | None:
    """Find the permutations that ``symmetries`` are in a chart's coordinates; None without any.

    Raises:
        ValueError: a symmetry is no permutation with signs there.
    """
    if not symmetries:
        return None
    g, generator = coordinates.geometry, torch.Generator().manual_seed(0)
    core, then = (0.01 * torch.randn(16, g.dim, dtype=torch.float64, generator=generator) for _ in range(2))
    for x in (core, then):
        if g.quaternion is not None:
            at = slice(g.quaternion, g.quaternion + 4)
            x[:, at] = functional.normalize(x[:, at], dim=1)
        if g.root is not None:  # feet near the ground, where what is seen of them is not flat
            x[:, g.root[0]] -= coordinates.feet(x)[0].mean(1)
    action = torch.randn(16, action_dim, dtype=torch.float64, generator=generator)
    shift = torch.randn(16, g.displacement_dim, dtype=torch.float64, generator=generator)
    seen = torch.cat([coordinates.features(core), action], 1)
    change = coordinates.difference(core, then, shift)
    inputs, targets = [_permutation(seen, seen)], [_permutation(change, change)]
    for symmetry in symmetries:
        here, there = mapped(symmetry, g, core), mapped(symmetry, g, then)
        inputs.append(
            _permutation(seen, torch.cat([coordinates.features(here), placed(symmetry.action, action)], 1))
        )
        targets.append(
            _permutation(change, coordinates.difference(here, there, placed(symmetry.displacement, shift)))
        )
    columns = (torch.stack(part) for side in (inputs, targets) for part in zip(*side, strict=True))
    return Views(*columns)


def _permutation(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Columns and signs that turn ``before`` ``(n, d)`` into ``after``."""
    apart = torch.stack([(after[:, :, None] - s * before[:, None, :]).abs().amax(0) for s in (1, -1)])
    nearest, column = apart.amin(0).min(1)
    if float(nearest.max()) > 1e-6:
        raise ValueError("this symmetry is no permutation with signs in the chart's coordinates")
    sign = 1.0 - 2.0 * apart[:, torch.arange(len(column)), column].argmin(0)
    return column, sign.float()
