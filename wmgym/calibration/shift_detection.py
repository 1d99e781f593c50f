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
_HEAVY = 5.0  # standard deviations beyond which more says no more
_NUDGE = 0.2  # share by which actions are made larger and smaller


@dataclass(frozen=True)
class Signs:
    """What windows of real transitions say against this being the robot that a world was fitted to.

    Each ``(windows,)``, larger where there is more to it, to be compared with windows of the usual robot.

    Attributes:
        surprise: how unlikely the transitions are; any change.
        gain: by how many standard errors actuators act more or less strongly than they did; another actuator,
            another mass.
        direction: the largest mean square along any one direction of what is unexplained; whatever is wrong
            in the same way over and over, as less friction is.
        impulse: the largest unexplained change of the root's velocity in one step; a push.
    """

    surprise: np.ndarray
    gain: np.ndarray
    direction: np.ndarray
    impulse: np.ndarray


def signs(world: WorldModel, data: Transitions, rows: np.ndarray) -> Signs:
    """Look for signs of a changed robot in windows of real transitions ``data[rows]``.

    All four look at a change's distance ``z`` from the ensemble's mean, in units of its spread: the noise it
    states and members' disagreement. Where the world knows itself to be unsure little is surprising. The gain
    is a matched filter: ``z`` against how the prediction moves with the size of the action.

    Args:
        world: the world fitted to the usual robot.
        data: transitions of the robot at hand.
        rows: ``(windows, length)`` int64, the transitions of each window; a second or so of one episode.
    """
    rows = np.asarray(rows)
    if rows.ndim != 2 or not rows.size or rows.min() < 0 or rows.max() >= len(data):
        raise ValueError(f"rows must be (windows, length) indices of {len(data)} transitions")
    z, stronger = (x[rows] for x in _unexplained(world, data))
    calm = z.clip(-_HEAVY, _HEAVY)  # contacts have heavy tails
    evidence, information = (calm * stronger).sum((1, 2)), (stronger**2).sum((1, 2))
    second = np.einsum("wti,wtj->wij", calm, calm) / rows.shape[1]
    root = _root_columns(world)
    return Signs(
        surprise=np.log1p(z**2).mean((1, 2)),
        gain=np.abs(evidence) / np.sqrt(np.maximum(information, 1e-12)),
        direction=np.linalg.eigvalsh(second)[:, -1],
        impulse=np.sqrt((z[..., root] ** 2).sum(2)).max(1),
    )


def _unexplained(world: WorldModel, data: Transitions) -> tuple[np.ndarray, np.ndarray]:
    """``z`` and how the prediction moves with the action's size, in the same units ``(n, change_dim)``."""
    wanted, found, moved = targets(data), [], []
    for at in range(0, len(data), _CHUNK):
        part = slice(at, at + _CHUNK)
        core = torch.tensor(data.core[part], device=world.device)
        action = world.encode_action(given_actions(world, data.action[part]))
        changes = wanted.shape[1]
        with torch.no_grad():
            said = world.dynamics.predict(core, action)
            more, less = (
                world.dynamics.predict(core, action * factor).mean.mean(0)[:, :changes]
                for factor in (1 + _NUDGE, 1 - _NUDGE)
            )
        variance = said.std.square().mean(0) + said.mean.var(0, correction=0)
        std = variance[:, :changes].sqrt()
        found.append(((wanted[part].to(std) - said.mean.mean(0)[:, :changes]) / std).cpu().numpy())
        moved.append(((more - less) / (2 * _NUDGE) / std).cpu().numpy())
    return np.concatenate(found), np.concatenate(moved)


def _root_columns(world: WorldModel) -> list[int]:
    """Columns of a change that hold the root's horizontal velocity; all where the task has no known root."""
    core = world.task.core
    moving = world.coordinates._tables["moving"].tolist()
    if core.to_mujoco is None:
        return [*range(world.coordinates.change_dim)]
    _, velocity = core.to_mujoco(np.arange(core.dim)[None])
    turns = core.geometry.velocities
    wanted = turns[0][:2] if turns else (int(velocity[0, 0]),)
    return [moving.index(i) for i in wanted]
