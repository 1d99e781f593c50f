"""A state and the one that a step led to, side by side: what rewards and outcomes are learned from.

Rewards are mostly written of what observations show. Where that is computed from the state, as a velocity in
the body's frame is from a quaternion and a velocity in the world's, a network would have to learn the
formula; so both states are followed by what is shown of them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from wmgym.data.transitions import Transitions
from wmgym.models.batching import columns, constant, library
from wmgym.models.config import EnsembleConfig, FitConfig, architecture
from wmgym.models.coordinates import Coordinates
from wmgym.models.dynamics import register_dynamics
from wmgym.models.ensemble import EnsembleMLP
from wmgym.models.training_loop import encoded_actions
from wmgym.tasks.geometry import Geometry
from wmgym.tasks.layout import Array, Core


def pair_geometry(geometry: Geometry) -> Geometry:
    """Of a core and the next one side by side, in world axes: an outcome may depend on where a robot is."""
    dim = geometry.dim
    return Geometry(
        2 * dim,
        angles=(*geometry.angles, *(i + dim for i in geometry.angles)),
        wrapped=(*geometry.wrapped, *((i + dim, low, high) for i, low, high in geometry.wrapped)),
    )


def outcome_geometry(core: Core) -> Geometry:
    """Of two states side by side, each with what observations show of it by formulas."""
    dim, formulas = core.dim, _formulas(core)
    turns = tuple((dim + i, *ends) for i, (_, ends) in enumerate(formulas) if ends is not None)
    wrapped = (*core.geometry.wrapped, *turns)
    return pair_geometry(replace(core.geometry, dim=dim + len(formulas), wrapped=wrapped))


def outcome_pair(core: Core, model: EnsembleMLP, before: Array, after: Array) -> Array:
    """What a network of such a geometry takes of states ``(batch, state_dim)`` and the next ones."""
    dim, formulas = core.dim, _formulas(core)
    if not formulas or model.config.geometry.dim == 2 * dim:  # worlds of before saw the cores alone
        return library(before).concatenate([before[:, :dim], after[:, :dim]], 1)
    taken: Array = np.array([k for k, _ in formulas])
    taken = constant(taken, before.device) if isinstance(before, Tensor) else taken
    parts = [part for each in (before, after) for part in (each[:, :dim], columns(core.observe(each), taken))]
    return library(before).concatenate(parts, 1)


def _formulas(core: Core) -> tuple[tuple[int, tuple[float, float] | None], ...]:
    return () if core.layout is None else core.layout.formulas


class PairCoordinates(Coordinates):
    """Of a core and the next one side by side: what is seen of both, and what has changed.

    A reward that is paid for a change, of a distance or a potential, is a small difference of large numbers
    in the two cores; the change itself, in its own unit, shows it.
    """

    def __init__(self, geometry: Geometry) -> None:
        """For a ``pair_geometry``."""
        super().__init__(geometry)
        dim = geometry.dim // 2
        angles, wrapped = geometry.angles, geometry.wrapped
        self.one = Coordinates(
            Geometry(dim, angles=angles[: len(angles) // 2], wrapped=wrapped[: len(wrapped) // 2])
        )
        self.feature_labels += self.one.change_labels
        self.feature_dim += self.one.change_dim

    def features(self, core: Array) -> Array:
        """``(batch, feature_dim)`` of cores side by side ``(batch, 2 * dim)``."""
        dim = core.shape[1] // 2
        first, second = core[:, :dim], core[:, dim:]
        changed = self.one.difference(first, second, first[:, :0])
        return library(core).concatenate([super().features(core), changed], 1)


@register_dynamics("rewards")
class RewardNetwork(EnsembleMLP):
    """Regresses the reward of a step from a core and the next one side by side, and the action."""

    coordinates_type: ClassVar[type[Coordinates]] = PairCoordinates


def pair_shape(train: Transitions, config: FitConfig, target_dim: int, geometry: Geometry) -> EnsembleConfig:
    """The architecture of a network that sees two states side by side, by the geometry of both."""
    return architecture(config, geometry=geometry, action_dim=train.task.action_dim, target_dim=target_dim)


def pair_features(model: EnsembleMLP, train: Transitions, next_core: np.ndarray) -> Tensor:
    """What a network of cores sees of every row ``(n, inputs)``, of which ``next_core`` says where it led."""
    both = torch.tensor(np.concatenate([train.core, next_core], 1))
    found: Tensor = model.features(both, encoded_actions(train))
    return found


def outcome_features(model: EnsembleMLP, train: Transitions) -> Tensor:
    """What a network of an ``outcome_geometry`` sees of every row ``(n, inputs)``."""
    with np.errstate(all="ignore"):
        both = outcome_pair(train.task.core, model, train.state, train.next_state)
    found: Tensor = model.features(torch.tensor(both, dtype=torch.float32), encoded_actions(train))
    return found
