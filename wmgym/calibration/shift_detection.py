"""Statistics that tell a changed robot from the one a world was fitted to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from wmgym.calibration.open_loop import given_actions
from wmgym.data.transitions import Transitions
from wmgym.models.dynamics import targets
from wmgym.models.world import WorldModel

_CHUNK = 8_192
_CLIP = 5.0  # standard deviations at which residuals are clipped; contacts have heavy tails
_ACTION_STEP = 0.2  # relative step of the finite difference over the action's size


@dataclass(frozen=True)
class Signs:
    """Statistics of windows of real transitions that grow when the robot differs from the world's.

    Each ``(windows,)`` and without unit. None has an absolute threshold: compare with windows of the usual
    robot, by a quantile for instance. ``z`` stands for the standardised residual, see ``signs``.

    Attributes:
        surprise: mean of ``log(1 + z**2)``: how unlikely the transitions are. Responds to any change.
        gain: absolute z-score of the hypothesis that actions act as strongly as in the fit. Responds to
            actuator strength and to mass.
        direction: largest eigenvalue of the mean of ``z z^T``, 1 for a perfect model: the largest mean square
            along any direction. Responds to errors that repeat, such as those of another friction.
        impulse: largest norm, over steps, of ``z`` of the root's horizontal velocity. Responds to
            pushes.
    """

    surprise: np.ndarray
    gain: np.ndarray
    direction: np.ndarray
    impulse: np.ndarray


def signs(world: WorldModel, data: Transitions, rows: np.ndarray) -> Signs:
    """Statistics that tell a changed robot, of windows of real transitions ``data[rows]``.

    All four are made of the standardised residual ``z``: a step's change minus the ensemble's mean, over its
    standard deviation, which holds both predicted noise and members' disagreement; where the world is unsure,
    ``z`` is small. The gain is a matched filter: ``z`` against the derivative of the prediction with respect
    to the action's size.

    Args:
        world: the world fitted to the usual robot.
        data: transitions of the robot at hand.
        rows: ``(windows, length)`` int64, the transitions of each window; about a second of one episode.

    Raises:
        ValueError: rows of another shape, none, or beyond the data.
    """
    rows = np.asarray(rows)
    if rows.ndim != 2 or not rows.size or rows.min() < 0 or rows.max() >= len(data):
        raise ValueError(f"rows must be (windows, length) indices of {len(data)} transitions")
    z, slope = (x[rows] for x in residuals(world, data))  # (windows, length, change_dim)
    clipped = clip(z)
    evidence, information = (clipped * slope).sum((1, 2)), (slope**2).sum((1, 2))
    second_moment = np.einsum("wti,wtj->wij", clipped, clipped) / rows.shape[1]
    root = _root_columns(world)
    return Signs(
        surprise=np.log1p(z**2).mean((1, 2)),
        gain=np.abs(evidence) / np.sqrt(np.maximum(information, 1e-12)),
        direction=np.linalg.eigvalsh(second_moment)[:, -1],
        impulse=np.sqrt((z[..., root] ** 2).sum(2)).max(1),
    )


def clip(z: np.ndarray) -> np.ndarray:
    """Standardised residuals without their heavy tails."""
    return z.clip(-_CLIP, _CLIP)


def residuals(world: WorldModel, data: Transitions) -> tuple[np.ndarray, np.ndarray]:
    """``z``, and the prediction's derivative in the action's size in the same units, ``(n, change_dim)``."""
    target, z, slope = targets(data, world.coordinates, world.dynamics.target_dim), [], []
    for at in range(0, len(data), _CHUNK):
        part = slice(at, at + _CHUNK)
        core = torch.tensor(data.core[part], device=world.device)
        action = world.encode_action(given_actions(world, data.action[part]))
        changes = target.shape[1]
        with torch.no_grad():
            prediction = world.dynamics.predict(core, action)
            more, less = (
                world.dynamics.predict(core, action * factor).mean.mean(0)[:, :changes]
                for factor in (1 + _ACTION_STEP, 1 - _ACTION_STEP)
            )
        variance = prediction.std.square().mean(0) + prediction.mean.var(0, correction=0)
        std = variance[:, :changes].sqrt()
        z.append(((target[part].to(std) - prediction.mean.mean(0)[:, :changes]) / std).cpu().numpy())
        slope.append(((more - less) / (2 * _ACTION_STEP) / std).cpu().numpy())
    return np.concatenate(z), np.concatenate(slope)


def _root_columns(world: WorldModel) -> list[int]:
    """Columns of a change that hold the root's horizontal velocity; all where the task has no known root."""
    core = world.task.core
    labels = world.coordinates.change_labels
    if core.to_mujoco is None or core.layout is not None:
        return [*range(len(labels))]
    column = {i: k for k, (kind, i) in enumerate(labels) if kind != "rotation"}
    _, velocity = core.to_mujoco(np.arange(core.dim)[None])
    turned = core.geometry.velocities
    return [column[i] for i in (turned[0][:2] if turned else (int(velocity[0, 0]),))]
