"""The unit of errors of states: what an error of one standard deviation is, dimension by dimension."""

from __future__ import annotations

import numpy as np
import torch

from wmgym.models.training_loop import CONSTANT, in_one_unit
from wmgym.tasks.geometry import Geometry

LEAST_SHARE = 0.25
"""Held-out data that move less than this share of what the fit's data do cannot say how large an error is:
where a body happens to stand still, any would be."""


def state_unit(core: np.ndarray, geometry: Geometry, seen: np.ndarray | None = None) -> np.ndarray:
    """Standard deviations ``(core_dim,)`` of real states; 1 where nothing moves.

    The components of a loose body's place, rotation or velocity count in one unit, as they do in training.

    Args:
        core: ``(n, core_dim)`` real states.
        geometry: of these states.
        seen: ``(m, core_dim)`` states that the world was fitted to, or a sample of them: no unit is less than
            ``LEAST_SHARE`` of theirs.
    """
    unit = _spread(core, geometry)
    if seen is not None:
        unit = np.maximum(unit, np.float32(LEAST_SHARE) * _spread(seen, geometry))
    return np.where(unit < CONSTANT, 1.0, unit).astype(np.float32)


def _spread(core: np.ndarray, geometry: Geometry) -> np.ndarray:
    return in_one_unit(torch.from_numpy(core.std(0)), geometry.vectors).numpy()
