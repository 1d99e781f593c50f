"""Disagreement: how far two ensemble members' own paths of one episode have come apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import Tensor

from wmgym.models.batching import alike, as_tensor, clamp
from wmgym.models.coordinates import Coordinates
from wmgym.models.dynamics import Prediction
from wmgym.models.error_bounds import SMALLEST_DISAGREEMENT
from wmgym.models.state import WorldState
from wmgym.tasks.layout import Array

_LOST = 1e9  # disagreement where a path is no longer finite


def advance_companion(
    state: WorldState,
    prediction: Prediction,
    coordinates: Coordinates,
    limits: tuple[Array, Array],
    data_std: Tensor,
) -> WorldState:
    """The state with its companion moved on by what the next member predicted for it.

    Args:
        state: after the step, its companion still before it.
        prediction: leading shape ``(batch,)``.
        coordinates: of the predicted change.
        limits: smallest and largest companion allowed, ``(core_dim,)`` each.
        data_std: ``(core_dim,)`` of the calibration data.
    """
    core, companion, total, target, std = alike(
        state.core, state.companion, state.cumulative_disagreement, prediction.mean, data_std
    )
    moved, _ = coordinates.move(companion, target[:, : coordinates.change_dim])
    companion = clamp(moved, *limits)
    return replace(
        state,
        companion=as_tensor(companion),
        cumulative_disagreement=as_tensor(total + abs(core - companion) / std),
        companion_carry=prediction.carry,
    )


def disagreement(state: WorldState, elapsed: np.ndarray, data_std: Tensor) -> np.ndarray:
    """How far two members have come apart ``(batch, core_dim)``, in units of ``data_std``.

    Per dimension the root mean square of their distance now and of its mean over the ``elapsed`` ``(batch,)``
    steps so far, shrunk towards the geometric mean over dimensions: one other member is a small sample of
    what the model does not know, and its past and its other dimensions steady the estimate.
    """
    now, total = (
        np.nan_to_num(x.detach().cpu().numpy(), nan=_LOST, posinf=_LOST, neginf=_LOST)
        for x in ((state.core - state.companion) / data_std, state.cumulative_disagreement)
    )
    past = total / np.maximum(elapsed, 1).astype(np.float32)[:, None]
    own = np.sqrt((now**2 + past**2) / 2)
    rest = np.exp(np.log(np.maximum(past, SMALLEST_DISAGREEMENT)).mean(1, keepdims=True))
    found: np.ndarray = own**0.4 * rest**0.6
    return found
