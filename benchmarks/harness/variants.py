"""The same data of a task whose core is described otherwise."""

from __future__ import annotations

import dataclasses
from typing import Any

from wmgym.data.transitions import Transitions
from wmgym.tasks.geometry import Geometry


def with_core(data: Transitions, **changes: Any) -> Transitions:
    """With other fields of the task's core."""
    core = dataclasses.replace(data.task.core, **changes)
    return dataclasses.replace(data, task=dataclasses.replace(data.task, core=core))


def seen_as(data: Transitions, geometry: Geometry) -> Transitions:
    """In other coordinates, in which mirrored limbs would be no permutation."""
    return with_core(data, geometry=geometry, symmetries=())


def in_world_axes(data: Transitions) -> Transitions:
    """Without body frame and feet."""
    g = data.task.core.geometry
    return seen_as(data, Geometry(g.dim, g.displacement_dim, angles=g.angles))


def without_symmetries(data: Transitions) -> Transitions:
    """Without symmetry augmentation."""
    return with_core(data, symmetries=())
