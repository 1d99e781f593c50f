"""What a step computes, as functions of one row that a ``Recorder`` takes down.

The world's own code does the work, so that there is one place for every formula.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch

from wmgym.models.compiled_trace import Dense, Recorder
from wmgym.models.dynamics import Propagation
from wmgym.models.ensemble import EnsembleMLP
from wmgym.models.error_bounds import SMALLEST_DISAGREEMENT, disagreement
from wmgym.models.step import companion_after, moved_within
from wmgym.models.world import WorldModel
from wmgym.tasks import actions
from wmgym.tasks.layout import Array


class Recording(dict[str, Array]):
    """Inputs by name, recorded where they are first asked for."""

    def __init__(self, examples: Mapping[str, np.ndarray]) -> None:
        super().__init__()
        self.recorder, self._examples = Recorder(), examples

    def __missing__(self, name: str) -> Array:
        self[name] = self.recorder.input(name, self._examples[name])
        return self[name]


def predict(
    world: WorldModel, given: Mapping[str, Array], propagation: Propagation, trust: bool
) -> dict[str, Array]:
    """From the state to the next core as predicted, all ``(1, ...)``."""
    model, coordinates = world.dynamics, world.coordinates
    assert isinstance(model, EnsembleMLP)
    encoded = _encoded(world, given["action"])
    d, found = model.target_dim, dict[str, Array]()
    said, std = network(model, given["core"], encoded, None if propagation == "mean" else 0)
    if propagation == "mean":
        said = said.mean(0)
    target = said[:, :d]
    if model.config.learns_termination:
        found["end_logit"] = said[:, d:]
    if propagation == "sample":
        target = target + world._std_scale.numpy() * std() * given["noise"]
    limits, joints = world._limits, world.task.core.joint_limits
    raw, sound, diverged = moved_within(coordinates, joints, limits, given["core"], target)
    found |= {"raw": raw, "sound": sound, "diverged": diverged}
    found["predicted"] = target[:, coordinates.change_dim :]
    if trust:
        found["companion_target"] = network(model, given["companion"], encoded, 1)[0][:, :d]
    return found


def settle(world: WorldModel, given: Mapping[str, Array], trust: bool) -> dict[str, Array]:
    """From the next core, put back where it diverged, to all that a step gives."""
    core, task, table = world.task.core, world.task, world.calibration
    next_core, displacement = given["sound"][:, : core.dim], given["sound"][:, core.dim :]
    next_shown, unobserved = given["shown"], displacement
    if core.readout_dim:
        assert isinstance(world.readout, EnsembleMLP)
        said, _ = network(world.readout, next_core, _encoded(world, given["action"]), 0, member=0)
        readout = said[:, : core.readout_dim]
        split = core.readout_dim - core.shown_dim
        unobserved = np.concatenate([displacement, readout[:, :split]], 1)
        next_shown = readout[:, split:]
    full = np.concatenate([next_core, next_shown], 1)
    found: dict[str, Array] = {
        "next_core": next_core, "next_shown": next_shown, "displacement": displacement, "next_full": full,
        "unobserved": unobserved,
    }  # fmt: skip
    if task.from_table and task.reward is not None and task.terminated is not None and world.outcomes is None:
        state = np.concatenate([given["core"], given["shown"]], 1)
        known = state, given["action"], full, unobserved
        found["reward"] = task.reward(*known).astype(np.float32)
        found["terminated"] = task.terminated(*known)
    if task.from_table or core.layout is not None:
        found["obs"] = _shown(world, full)
    if table is not None:
        bound = given["row"]
        if trust:
            found |= _with_companion(world, given, next_core)
            bound = bound * _disagreement_scale(world, given, found, next_core)
        found["error_bound"] = table.saturated(bound, next_core).astype(np.float32)
        if trust:
            found["distrust"] = (found["error_bound"] / table.data_std).mean(1)
    return found


def _with_companion(world: WorldModel, given: Mapping[str, Array], next_core: Array) -> dict[str, Array]:
    companion, total = companion_after(
        next_core, given["companion"], given["cumulative"], given["companion_target"], world.coordinates,
        world._limits, world._data_std.numpy(),
    )  # fmt: skip
    return {"next_companion": companion, "next_cumulative": total}


def _disagreement_scale(
    world: WorldModel, given: Mapping[str, Array], found: Mapping[str, Array], next_core: Array
) -> Array:
    distance = world.coordinates.distance(next_core, found["next_companion"]) / world._data_std.numpy()
    scale = disagreement(distance, found["next_cumulative"], given["elapsed"])
    return np.maximum(scale, SMALLEST_DISAGREEMENT) ** given["power"]


def _shown(world: WorldModel, full: Array) -> Array:
    """The observation ``(1, obs_dim)`` in the type and the bounds of its space."""
    space = world.task.observation_space
    flat = world.task.core.observe(full)
    assert space.dtype is not None
    if space.dtype.kind in "iu":
        flat = flat.round()
    obs: Array = flat.astype(space.dtype)
    if np.isfinite(space.low).any() or np.isfinite(space.high).any():
        obs = obs.clip(space.low.reshape(1, -1), space.high.reshape(1, -1))
    return obs


def _encoded(world: WorldModel, action: Array) -> Array:
    if actions.whole(world.task.action_space):
        return action
    low, high = (side.numpy() for side in world._action_bounds)
    return np.minimum(np.maximum(action, low), high)


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
