"""Derivatives of a few steps: of MuJoCo by finite differences, of a world by autograd, in the same units.

Both are taken in the tangent space that ``Coordinates`` spans: core dimensions that can move, velocities of a
floating base in its own frame, and its orientation as a rotation vector. Units: a core dimension counts in
standard deviations of real states, an action in halves of its range.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import mujoco
import numpy as np
import torch
from gymnasium import spaces

import wmgym
from wmgym.models.coordinates import Coordinates
from wmgym.models.dynamics import Propagation
from wmgym.tasks import ground_truth
from wmgym.tasks.ground_truth import Snapshot


@dataclasses.dataclass(frozen=True)
class Derivatives:
    """At ``n`` states, after each of ``k`` horizons; ``steps`` is the longest, ``m`` the tangent's dimension.

    Attributes:
        core: ``(n, k, m, m)``, of the core by the first core.
        action: ``(n, k, m, steps, action_dim)``, of the core by every action; zero past the horizon.
        returns: ``(n, k, steps, action_dim)``, of the sum of rewards by every action; likewise.
        steered: the part of it that passes through the states; see ``with_steered``.
    """

    core: np.ndarray
    action: np.ndarray
    returns: np.ndarray
    steered: np.ndarray | None = None


class Path(Protocol):
    """A path that can be left at any of its steps.

    Attributes:
        cores: ``(steps + 1, core_dim)`` float64.
        actions: ``(steps, action_dim)`` float64.
    """

    cores: np.ndarray
    actions: np.ndarray

    def run(self, at: int, core: np.ndarray | None, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """From step ``at`` on, at another core if given: cores ``(steps - at, core_dim)`` and rewards."""
        ...


class MujocoPath:
    """Steps of a live env from a snapshot, with a snapshot before each; see ``Path``.

    Attributes:
        terminated: whether the episode ended on the way; steps go on regardless.
    """

    def __init__(
        self, task: wmgym.Task, env: Any, start: Snapshot, actions: np.ndarray, core: np.ndarray | None = None
    ) -> None:
        self.task, self.env, self.actions = task, env, actions
        self._place(start, core)
        cores, self.snapshots = [self._core()], list[Snapshot]()
        self.terminated = False
        for action in actions:
            self.snapshots.append(ground_truth.snapshot(env))
            self.terminated |= bool(env.unwrapped.step(action)[2])
            cores.append(self._core())
        self.cores = np.array(cores)

    def run(self, at: int, core: np.ndarray | None, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self._place(self.snapshots[at], core)
        cores, rewards = [], []
        for action in actions[at:]:
            rewards.append(self.env.unwrapped.step(action)[1])
            cores.append(self._core())
        return np.array(cores), np.array(rewards)

    def _place(self, start: Snapshot, core: np.ndarray | None) -> None:
        data = self.env.unwrapped.data
        ground_truth.restore(self.env, start)
        if core is not None:
            data.qpos[:], data.qvel[:] = ground_truth.to_mujoco(self.task, core, place=data.qpos.copy())

    def _core(self) -> np.ndarray:
        data, read = self.env.unwrapped.data, self.task.core.from_mujoco
        assert read is not None
        return read(data.qpos, data.qvel).copy()


@dataclasses.dataclass(frozen=True)
class Units:
    """What counts as 1: ``(m,)`` of the tangent's dimensions, ``(action_dim,)`` of the actions."""

    core: np.ndarray
    action: np.ndarray


def units_of(task: wmgym.Task, coordinates: Coordinates, cores: np.ndarray) -> Units:
    """Standard deviations of cores ``(n, core_dim)``, and halves of the actions' ranges.

    Velocities that the coordinates turn into the body's frame are measured there. A rotation counts in twice
    the deviation of the quaternion's vector part, which is the rotation vector's where that is small.
    """
    features, labels = coordinates.features(cores), list(coordinates.feature_labels)
    found = []
    for kind, i in coordinates.change_labels[: tangent_dim(coordinates)]:
        if kind == "rotation":
            quaternion = task.core.geometry.quaternion
            assert quaternion is not None
            found.append(2 * cores[:, quaternion + 1 + i].std())
        else:
            seen = features[:, labels.index((kind, i))] if kind == "body" else cores[:, i]
            found.append(seen.std())
    std, space = np.array(found), task.action_space
    assert isinstance(space, spaces.Box)
    return Units(np.where(std < 1e-8, 1.0, std), (space.high - space.low).reshape(-1).astype(float) / 2)


def tangent_dim(coordinates: Coordinates) -> int:
    """Dimensions of a change without the displacement, which is no part of a core."""
    return coordinates.change_dim - coordinates.geometry.displacement_dim


def moved(coordinates: Coordinates, cores: Any, tangent: Any) -> Any:
    """Cores ``(n, core_dim)`` moved by ``(n, m)``."""
    count = coordinates.geometry.displacement_dim
    if isinstance(tangent, np.ndarray):
        return coordinates.move(cores, np.pad(tangent, ((0, 0), (0, count))))[0]
    return coordinates.move(cores, torch.nn.functional.pad(tangent, (0, count)))[0]


def apart(coordinates: Coordinates, cores: Any, others: Any) -> Any:
    """Invert ``moved``: what takes cores ``(n, core_dim)`` to others."""
    shape = len(cores), coordinates.geometry.displacement_dim
    none = np.zeros(shape) if isinstance(cores, np.ndarray) else cores.new_zeros(shape)
    return coordinates.difference(cores, others, none)[:, : tangent_dim(coordinates)]


def finite_differences(
    paths: Sequence[Path], coordinates: Coordinates, units: Units, horizons: Sequence[int], step: float
) -> Derivatives:
    """Central differences over ``step`` units to either side."""
    every = [_finite_differences(path, coordinates, units, step) for path in paths]
    at = np.array(horizons) - 1
    return Derivatives(*(np.stack([one[part][at] for one in every]) for part in range(3)))


def _finite_differences(
    path: Path, coordinates: Coordinates, units: Units, step: float
) -> tuple[np.ndarray, ...]:
    m, (steps, action_dim) = tangent_dim(coordinates), path.actions.shape

    def slope(at: int, cores: Sequence[np.ndarray | None], actions: Sequence[np.ndarray]) -> tuple[Any, Any]:
        ahead, behind = (path.run(at, *pair) for pair in zip(cores, actions, strict=True))
        ends = [apart(coordinates, path.cores[at + 1 :], cores) for cores, _ in (ahead, behind)]
        return (ends[0] - ends[1]) / units.core / (2 * step), (ahead[1] - behind[1]).cumsum() / (2 * step)

    by_core, by_action = np.zeros((steps, m, m)), np.zeros((steps, m, steps, action_dim))
    returns = np.zeros((steps, steps, action_dim))
    for i in range(m):
        nudge = np.zeros((2, m))
        nudge[:, i] = step * units.core[i], -step * units.core[i]
        starts = moved(coordinates, path.cores[[0, 0]], nudge)
        by_core[:, :, i], _ = slope(0, starts, [path.actions, path.actions])
    for at in range(steps):
        for j in range(action_dim):
            actions = np.stack([path.actions, path.actions])
            actions[:, at, j] += step * units.action[j], -step * units.action[j]
            by_action[at:, :, at, j], returns[at:, at, j] = slope(at, [None, None], actions)
    return by_core, by_action, returns


def of_world(
    world: wmgym.WorldModel,
    cores: np.ndarray,
    actions: np.ndarray,
    units: Units,
    horizons: Sequence[int],
    propagation: Propagation,
    member: int = 0,
) -> Derivatives:
    """Autograd through ``WorldModel.step`` from cores ``(n, core_dim)`` under ``(n, steps, action_dim)``."""
    coordinates, m = world.coordinates, tangent_dim(world.coordinates)
    core_unit, action_unit = (torch.tensor(u, dtype=torch.float32) for u in (units.core, units.action))
    nudge = torch.zeros(len(cores), m, requires_grad=True)
    push = torch.zeros(actions.shape, requires_grad=True)
    start = moved(coordinates, torch.tensor(cores, dtype=torch.float32), nudge * core_unit)
    given = torch.tensor(actions, dtype=torch.float32) + push * action_unit
    at = world.init(start, torch.Generator().manual_seed(0))
    at = dataclasses.replace(at, member=torch.full_like(at.member, member))
    found, total = list[tuple[np.ndarray, ...]](), torch.zeros(len(cores))
    for h in range(1, actions.shape[1] + 1):
        after = world.step(at, given[:, h - 1], propagation)
        at, total = after.state, total + after.reward
        if h in horizons:
            end = apart(coordinates, at.core.detach(), at.core) / core_unit
            rows = [torch.autograd.grad(end[:, i].sum(), (nudge, push), retain_graph=True) for i in range(m)]
            returns = torch.zeros_like(push)
            if total.requires_grad:  # a pendulum's reward is constant
                (found_return,) = torch.autograd.grad(total.sum(), push, retain_graph=True, allow_unused=True)
                returns = returns if found_return is None else found_return
            by_core, by_action = (np.stack(part, 1) for part in zip(*rows, strict=True))
            found.append((by_core, by_action, returns.numpy()))
    return Derivatives(*(np.stack(part, 1).astype(np.float64) for part in zip(*found, strict=True)))


def with_steered(
    found: Derivatives, task: wmgym.Task, actions: np.ndarray, units: Units, horizons: Sequence[int]
) -> Derivatives:
    """``steered`` filled in: ``returns`` without what the reward owes to the action itself, its cost.

    A known reward holds that cost as a formula, so a world has it right whatever its dynamics. It is a sum of
    squares in every task of the table, which central differences of any width get exactly.
    """
    assert task.reward is not None
    rest, unobserved = np.zeros(task.core.state_dim), np.zeros(task.core.unobserved_dim)
    cost = np.zeros(actions.shape)
    for j, unit in enumerate(units.action):
        ends = [task.reward(rest, actions + sign * unit * np.eye(len(units.action))[j], rest, unobserved)
                for sign in (1, -1)]  # fmt: skip
        cost[..., j] = (ends[0] - ends[1]) / 2
    counts = np.arange(actions.shape[1]) < np.array(horizons)[:, None]  # (k, steps)
    return dataclasses.replace(found, steered=found.returns - cost[:, None] * counts[..., None])


def transition_differences(
    path: MujocoPath, coordinates: Coordinates, units: Units
) -> tuple[np.ndarray, np.ndarray]:
    """One step's derivatives ``(m, m)`` and ``(m, action_dim)``, by ``mujoco.mjd_transitionFD``.

    MuJoCo differentiates each of the step's substeps in coordinates of its own; the chain rule joins them. It
    cannot do so for the integrator RK4.
    """
    model, data = path.env.unwrapped.model, path.env.unwrapped.data
    assert not model.na
    size = 2 * model.nv
    ground_truth.restore(path.env, path.snapshots[0])
    data.ctrl[:] = path.actions[0]
    before = _mujoco_tangent(path, coordinates, 0)
    total, by_action = np.eye(size), np.zeros((size, model.nu))
    for _ in range(path.env.unwrapped.frame_skip):
        by_state, by_control = np.zeros((size, size)), np.zeros((size, model.nu))
        mujoco.mjd_transitionFD(model, data, 1e-6, True, by_state, by_control, None, None)
        total, by_action = by_state @ total, by_state @ by_action + by_control
        mujoco.mj_step(model, data)
    after = np.linalg.pinv(_mujoco_tangent(path, coordinates, 1))
    scale = 1 / units.core[:, None]
    return scale * (after @ total @ before) * units.core, scale * (after @ by_action) * units.action


def _mujoco_tangent(path: MujocoPath, coordinates: Coordinates, at: int) -> np.ndarray:
    """How MuJoCo's tangent ``[positions, velocities]`` moves with ours at a core: ``(2 nv, m)``."""
    model, step, columns = path.env.unwrapped.model, 1e-6, []
    for direction in np.eye(tangent_dim(coordinates)) * step:
        ends = moved(coordinates, path.cores[[at, at]], np.stack([direction, -direction]))
        qpos, qvel = ground_truth.to_mujoco(path.task, ends)
        position = np.zeros(model.nv)
        mujoco.mj_differentiatePos(model, position, 2 * step, qpos[1], qpos[0])
        columns.append(np.concatenate([position, (qvel[0] - qvel[1]) / (2 * step)]))
    return np.stack(columns, 1)


def cosine(found: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Of the angle between arrays ``(n, ...)``, state by state ``(n,)``; NaN where either is zero."""
    a, b = found.reshape(len(found), -1), real.reshape(len(real), -1)
    size = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(size > 1e-12, (a * b).sum(1) / size, np.nan)


def ratio(found: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Length of ``found`` as a multiple of that of ``real``, state by state ``(n,)``; NaN where that is 0."""
    a, b = (np.linalg.norm(x.reshape(len(x), -1), axis=1) for x in (found, real))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(b > 1e-12, a / b, np.nan)
