"""An ensemble's network as a recorded step takes it: for one row, with as few operations as possible."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from wmgym.models.compiled_trace import Dense
from wmgym.models.ensemble import EnsembleMLP
from wmgym.tasks.layout import Array


def network(
    model: EnsembleMLP, core: Array, action: Array, shift: int | None, member: int | None = None
) -> tuple[Array, Callable[[], Array]]:
    """The mean and, where that is learned, the logit of termination after it; and what gives the deviation.

    Args:
        model: whose layers are copied.
        core: ``(1, core_dim)``.
        action: ``(1, action_dim)``, encoded.
        shift: which member, see ``Dense``; None for all.
        member: one that every episode takes, whatever its own.
    """
    layers, d = model.prepared(), model.target_dim
    last = d + int(model.config.learns_termination)
    mean, std = (x.numpy() for x in (model.input_mean, model.input_std))
    hidden = (model.features(core, action) - mean) / std

    def dense(
        rows: Array, layer: tuple[torch.Tensor, torch.Tensor], columns: int, signs: tuple[int, int]
    ) -> Array:
        weight, bias = (
            x.numpy()[..., :columns] * np.float32(sign) for x, sign in zip(layer, signs, strict=True)
        )
        if member is not None:
            weight, bias = weight[member : member + 1], bias[member : member + 1]
        return rows.dense(Dense(weight, bias, shift))

    # SiLU is x / (1 + exp(-x)); negative from the first layer to the last, all is spared a negation a layer.
    sign = -1
    for layer in layers.hidden:
        negative = dense(hidden, layer, model.config.width, (sign, -1))
        if model.config.layer_norm:
            negative = _normalised(negative)
        hidden, sign = negative / (np.exp(negative) + 1), 1
    said = dense(hidden, layers.mean, last, (-1, 1))

    def deviation() -> Array:
        raw = dense(hidden, layers.std, d, (-1, 1))
        low, high = (
            (side.exp() * model.target_std).numpy() for side in (model.log_std_low, model.log_std_high)
        )
        return low + high * (0.5 + 0.5 * np.tanh(0.5 * (raw - model.log_std_high.numpy())))

    return said, deviation


def _normalised(rows: Array) -> Array:
    apart = rows - rows.mean(-1, keepdims=True)
    return apart / np.sqrt(np.square(apart).mean(-1, keepdims=True) + 1e-5)
