"""Symmetry augmentation: what a robot's mirror images and rotations do, as more data for the same fit.

An ant turned by a quarter, or a walker with its legs swapped, obeys the same laws; so every transition is as
many as the robot has symmetries (van der Pol et al. 2020, arXiv:2006.16908). In the network's coordinates
each is a permutation with signs, which costs a batch next to nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from wmgym.models.batching import constant
from wmgym.models.contacts import ContactFeatures
from wmgym.models.coordinates import Coordinates, Label
from wmgym.models.rotations import multiply
from wmgym.tasks.geometry import Geometry
from wmgym.tasks.layout import Placement, Symmetry

_CORES, _SAME = 32, 1e-4  # random ones, and the largest difference, of the largest value, of equal numbers
_WIDE, _FAST = (3.0, 7.0), (11.0, 29.0)  # metres, and metres a second


def mapped(symmetry: Symmetry, geometry: Geometry, core: Tensor) -> Tensor:
    """Cores ``(n, dim)`` of the mirrored or turned robot."""
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
    source, sign = (constant(np.array([place[k] for place in places]), values.device) for k in (0, 1))
    return values[..., source.long()] * sign.to(values.dtype)


@dataclass(frozen=True)
class Views:
    """The same batch as each of a robot's symmetries sees it, itself among them.

    Attributes:
        inputs: ``(views, input_dim)`` int64, the column that each network input takes.
        input_signs: likewise, 1 or -1.
        targets: ``(views, target_dim)`` int64.
        target_signs: likewise.
        symmetries: all but the identity, which comes first.
    """

    inputs: Tensor
    input_signs: Tensor
    targets: Tensor
    target_signs: Tensor
    symmetries: tuple[Symmetry, ...]

    def to(self, device: torch.device | str) -> Views:
        """The same on another device."""
        names = ("inputs", "input_signs", "targets", "target_signs")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def of(self, inputs: Tensor, targets: Tensor, view: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets ``(members, batch, dim)`` of each row's ``view`` ``(members, batch)`` int64."""
        return (
            inputs.gather(-1, self.inputs[view]) * self.input_signs[view],
            targets.gather(-1, self.targets[view]) * self.target_signs[view],
        )

    def moments(self, mean: Tensor, std: Tensor, *, targets: bool) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of all views together, from those of one."""
        columns, signs = (self.targets, self.target_signs) if targets else (self.inputs, self.input_signs)
        means = mean[columns] * signs
        whole = means.mean(0)
        # Not the mean of squares less the square of the mean: of 1 and a millionth float32 leaves nothing.
        return whole, (std.square()[columns].mean(0) + (means - whole).square().mean(0)).sqrt()


def views(symmetries: tuple[Symmetry, ...], coordinates: Coordinates, action_dim: int) -> Views | None:
    """The permutations that ``symmetries`` are in a network's coordinates; None without any.

    Raises:
        ValueError: a symmetry is no permutation with signs there.
    """
    if not symmetries:
        return None
    seen = (*coordinates.feature_labels, *(("action", i) for i in range(action_dim)))
    inputs = _permutations(seen, symmetries, coordinates.geometry)
    targets = _permutations(coordinates.change_labels, symmetries, coordinates.geometry)
    return Views(*inputs, *targets, symmetries)


def expressible(
    symmetries: tuple[Symmetry, ...], coordinates: Coordinates, action_dim: int
) -> tuple[Symmetry, ...]:
    """Those that are permutations with signs in a network's coordinates."""

    def possible(symmetry: Symmetry) -> bool:
        try:
            views((symmetry,), coordinates, action_dim)
        except ValueError:
            return False
        return True

    return tuple(each for each in symmetries if possible(each))


def _permutations(
    labels: tuple[Label, ...], symmetries: tuple[Symmetry, ...], g: Geometry
) -> tuple[Tensor, Tensor]:
    """Columns and signs ``(views, labels)`` that each view takes, the robot's own first."""
    column = {label: k for k, label in enumerate(labels)}
    found = [[(label, 1) for label in labels]]
    for symmetry in symmetries:
        touch = _contacts(symmetry, g) if any(kind == "contact" for kind, _ in labels) else []
        found.append(
            [touch[i] if kind == "contact" else _image((kind, i), symmetry, g) for kind, i in labels]
        )
    if any(source not in column for each in found for source, _ in each):
        raise ValueError("this symmetry moves a number to where the network does not see it")
    return (
        torch.tensor([[column[source] for source, _ in each] for each in found]),
        torch.tensor([[float(sign) for _, sign in each] for each in found]),
    )


def _image(label: Label, symmetry: Symmetry, g: Geometry) -> tuple[Label, int]:
    """For a column of the mirrored or turned robot, the column that it takes and its sign."""
    kind, i = label
    if kind in ("clearance", "forward", "upward"):
        scale, foot = divmod(i, len(g.feet))
        return (kind, scale * len(g.feet) + _foot(symmetry, g, foot)), 1
    if kind == "axes" or (kind == "rotation" and symmetry.turn == 0.0):
        return _turned(label, symmetry, g)
    if kind in ("up", "rotation"):
        source, sign = _axes(symmetry, g, axial=kind == "rotation")[i]
    elif kind == "body" and g.quaternion is not None:
        vector = next(each for each in (*g.velocities, *g.positions) if i in each)
        axis, sign = _axes(symmetry, g, axial=False)[vector.index(i)]
        source = vector[axis]
    elif kind == "action":
        source, sign = symmetry.action[i]
    else:  # a vector in a mirrored pitch's frame has the signs that it has in the world
        if kind == "body":
            _check_heading(symmetry, g)
        source, sign = (*symmetry.core, *((g.dim + j, sign) for j, sign in symmetry.displacement))[i]
    return (kind, source), 1 if kind == "cos" else sign


def _axes(symmetry: Symmetry, g: Geometry, *, axial: bool) -> list[tuple[int, int]]:
    """The axis, and the sign, that each axis of the body takes the place of."""
    # A vector in the body's frame is mirrored, as the base's linear velocity shows, then seen from a frame
    # that has turned; a rotation vector is an axial one, so that a mirror also turns its sense.
    velocity, mirror = g.velocities[0], np.zeros((3, 3))
    for axis, i in enumerate(velocity):
        source, sign = symmetry.core[i]
        mirror[axis, velocity.index(source)] = sign
    cos, sin = math.cos(symmetry.turn), math.sin(symmetry.turn)
    images = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]]) @ mirror
    if axial:
        images *= np.linalg.det(mirror)
    largest = np.abs(images).argmax(1)
    signs = images[range(3), largest]
    if np.abs(np.abs(signs) - 1).max() > 1e-6:
        raise ValueError("this symmetry is no permutation with signs: it turns by no quarter")
    return [(int(axis), round(sign)) for axis, sign in zip(largest, signs, strict=True)]


def _turned(label: Label, symmetry: Symmetry, g: Geometry) -> tuple[Label, int]:
    """Of a rotation vector, or of an orientation's matrix of which two rows are seen."""
    kind, i = label
    turns, size = (g.quaternions, 3) if kind == "rotation" else (g.rotations, 6)
    k, i = divmod(i, size)
    images = [symmetry.core[turns[k] + j] for j in range(4)]
    at = images[0][0]
    axes = [(source - at - 1, sign) for source, sign in images[1:]]
    if at not in turns or images[0][1] != 1 or {axis for axis, _ in axes} != {0, 1, 2}:
        raise ValueError("this symmetry takes a rotation's numbers apart")
    if kind == "rotation":
        axis, sign = axes[i]
        return (kind, size * turns.index(at) + axis), sign
    (row, one), (column, other) = axes[i // 3], axes[i % 3]  # axial signs, whose product is that of vectors
    return (kind, size * turns.index(at) + 3 * row + column if row < 2 else -1), one * other


def _contacts(symmetry: Symmetry, g: Geometry) -> list[tuple[Label, int]]:
    """Images of what is seen of contacts: compared at random cores, in units in which nothing is far away."""
    seen = ContactFeatures(g.contacts, g.free, _WIDE, _FAST)
    core = torch.randn(_CORES, g.dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    here, there = seen(core), seen(mapped(symmetry, g, core))
    found = list[tuple[Label, int]]()
    for wanted in there.T:
        unit = wanted.abs().max().clamp(min=1e-9)
        apart = [(here.T - sign * wanted).abs().max(1).values / unit for sign in (1, -1)]
        source, sign = min(((int(each.argmin()), s) for each, s in zip(apart, (1, -1), strict=True)),
                           key=lambda pair: float(apart[pair[1] < 0][pair[0]]))  # fmt: skip
        if apart[sign < 0][source] > _SAME:
            raise ValueError("this symmetry moves a contact to where the network sees none")
        found.append((("contact", source), sign))
    return found


def _check_heading(symmetry: Symmetry, g: Geometry) -> None:
    assert g.pitch is not None
    signs = [symmetry.core[i][1] for i in g.velocities[0]]
    if symmetry.core[g.pitch[0]] != (g.pitch[0], math.prod(signs)):
        raise ValueError("this symmetry mirrors a planar robot's velocity but not its heading, or turns it")


def _foot(symmetry: Symmetry, g: Geometry, foot: int) -> int:
    """The foot whose place a foot takes: the one at the end of the links that its own take the place of."""
    links = []
    for link in g.feet[foot].links:
        (angle, sign), (velocity, rate_sign) = symmetry.core[link.angle], symmetry.core[link.velocity]
        links.append(replace(link, angle=angle, velocity=velocity, sign=link.sign * sign))
        if sign != rate_sign:
            raise ValueError("this symmetry turns a joint's angle and its velocity in different senses")
    image = replace(g.feet[foot], links=tuple(links))
    if image not in g.feet:
        raise ValueError("this symmetry moves a foot to where the robot has none")
    return g.feet.index(image)
