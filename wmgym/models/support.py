"""Support: real transitions of the fit kept with a world, and how far an imagined state is from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from wmgym.data.columns import LARGEST
from wmgym.data.transitions import Transitions
from wmgym.io.schema import ArraySpec
from wmgym.models.batching import alike, as_tensor
from wmgym.models.coordinates import Coordinates
from wmgym.tasks import actions
from wmgym.tasks.task import Task

ROWS = 4_096
"""Transitions kept with a world: under a megabyte for a robot of 17 dimensions."""

SEARCHED = 1_024
"""Rows that novelty is measured against at every step; a search of all would cost more than the step."""

_AT_ONCE = 256  # states whose distances to those stay in the cache


@dataclass(frozen=True, repr=False)
class Support:
    """A random sample of the transitions that a world was fitted to, in random order.

    Attributes:
        core: ``(n, core_dim)`` float32, raw units.
        action: as ``Transitions`` stores them.
        next_core: ``(n, core_dim)`` float32.
        episode: ``(n,)`` int64, index of the episode in the fit's data.
        step: ``(n,)`` int64, steps since that episode's start.
        typical: median distance from a row to the nearest of ``SEARCHED`` others of another episode, the unit
            of novelty.
    """

    core: np.ndarray
    action: np.ndarray
    next_core: np.ndarray
    episode: np.ndarray
    step: np.ndarray
    typical: Annotated[float, Field(gt=0)]

    def __repr__(self) -> str:
        """One line."""
        return f"Support({len(self.core)} transitions)"

    def specs(self, task: Task) -> dict[str, ArraySpec]:
        """What the arrays of a task's support are like."""
        n, width = len(self.episode), task.action_dim
        action = ArraySpec((n, width), low=-LARGEST, high=LARGEST)
        if actions.whole(task.action_space):
            most = actions.choices(task.action_space)
            action = ArraySpec((n, *most.shape), "int64", low=0, high=int(most.max()) - 1)
        rows = dict.fromkeys(("core", "next_core"), ArraySpec((n, task.core.dim)))
        return {
            **rows,
            "action": action,
            **dict.fromkeys(("episode", "step"), ArraySpec((n,), "int64", low=0)),
        }


@dataclass(frozen=True)
class NearestReal:
    """Logged transitions nearest to each of ``n`` states, nearest first; shapes ``(n, k, ...)``.

    Attributes:
        core: where the real env was, raw units.
        action: what was done there.
        next_core: where it went.
        episode: index of the episode in the fit's data.
        step: steps since that episode's start.
        distance: root mean square over features of the difference, in units of their std in the fit's data.
    """

    core: np.ndarray
    action: np.ndarray
    next_core: np.ndarray
    episode: np.ndarray
    step: np.ndarray
    distance: np.ndarray


class Search:
    """Brute-force nearest neighbours in the coordinates that the networks see, each divided by its std.

    In tens of dimensions trees visit nearly every leaf, and one matrix product is as fast.
    """

    def __init__(
        self, support: Support, coordinates: Coordinates, device: torch.device | str = "cpu"
    ) -> None:
        self.support = support
        self._coordinates = coordinates.without_contacts()
        features = self._coordinates.features(torch.tensor(support.core, device=device))
        std = features.std(0)
        # What never moved is off the data by any change at all, but a rounding error is none.
        self._unit = std.clamp(min=1e-3) * features.shape[1] ** 0.5
        self._rows = features / self._unit
        self._squares = self._rows.square().sum(1)

    def distance(self, core: Tensor, rows: int | None = None) -> Tensor:
        """Distances ``(batch, n)`` from cores ``(batch, core_dim)`` to the first ``rows``."""
        x = self._coordinates.features(core) / self._unit
        bank, squares = self._rows[:rows], self._squares[:rows]
        square = torch.addmm(squares + x.square().sum(1, keepdim=True), x, bank.T, alpha=-2)
        return square.clamp_(min=0).sqrt_()

    def novelty(self, core: Tensor) -> Tensor:
        """Distance ``(batch,)`` to the nearest searched row, in units of what is typical of real states."""
        x = as_tensor(self._coordinates.features(alike(core)[0])) / self._unit
        bank, squares = self._rows[:SEARCHED].T, self._squares[:SEARCHED]
        parts = (x[at : at + _AT_ONCE] for at in range(0, len(x), _AT_ONCE))
        nearest = [torch.addmm(squares, part, bank, alpha=-2).amin(1) for part in parts]
        square = torch.cat(nearest) + x.square().sum(1)
        novelty: Tensor = square.clamp_(min=0).sqrt_() / self.support.typical
        return novelty

    def nearest(self, core: Tensor, k: int) -> NearestReal:
        """The ``k`` nearest of all rows."""
        if not 1 <= k <= len(self.support.core):
            raise ValueError(f"k must lie in 1 .. {len(self.support.core)}, got {k}")
        distance, found = self.distance(core).topk(k, largest=False)
        rows, columns = found.cpu().numpy(), ("core", "action", "next_core", "episode", "step")
        kept = {name: getattr(self.support, name)[rows] for name in columns}
        return NearestReal(**kept, distance=distance.cpu().numpy())


def sample_support(train: Transitions, seed: int, coordinates: Coordinates | None = None) -> Support:
    """Draw the rows that a world keeps; distances are in the task's coordinates unless others are given."""
    coordinates = coordinates or Coordinates(train.task.core.geometry)
    rows = np.random.default_rng(seed).permutation(len(train))[:ROWS]
    step = np.arange(len(train)) - train.first[train.episode]
    kept = train.core[rows], train.action[rows], train.next_core[rows], train.episode[rows], step[rows]
    drawn = Support(*kept, typical=1.0)
    search = Search(drawn, coordinates)
    looked = torch.tensor(drawn.core[-SEARCHED:])
    distance = search.distance(looked, SEARCHED).numpy()
    own = drawn.episode[-SEARCHED:][:, None] == drawn.episode[:SEARCHED]
    if own.all():  # one episode is all there is
        own = distance <= 0
    nearest = np.where(own, np.inf, distance).min(1)
    finite = nearest[np.isfinite(nearest)]
    typical = float(np.median(finite)) if len(finite) else 1.0
    return replace(drawn, typical=max(typical, 1e-6))
