"""Worlds made wrong on purpose, each in one way, out of a right one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import mujoco.rollout
import numpy as np
import torch
from torch import Tensor

import wmgym
from wmgym.calibration.conformal import error_bounds, groups, marginal_calibration
from wmgym.calibration.open_loop import open_loop_steps, spread_starts, stacked
from wmgym.data.transitions import Transitions
from wmgym.models.coordinates import Coordinates
from wmgym.models.dynamics import PROPAGATIONS, Prediction
from wmgym.tasks import ground_truth

Change = Callable[[Any], None]
_FULL = mujoco.mjtState.mjSTATE_FULLPHYSICS


class Simulator:
    """MuJoCo as the dynamics of a world, with a model that may have been changed: exact but for that."""

    num_members = 1

    def __init__(self, task: wmgym.Task, change: Change = lambda model: None) -> None:
        self.task, env = task, task.make()
        unwrapped: Any = env.unwrapped
        self.model, self.skip = unwrapped.model, unwrapped.frame_skip
        change(self.model)
        self.data = mujoco.MjData(self.model)
        mujoco.mj_setConst(self.model, self.data)
        self.coordinates = Coordinates(task.core.geometry)
        self.target_dim = self.coordinates.change_dim
        self.rollout = mujoco.rollout.Rollout(nthread=0)

    def __deepcopy__(self, memo: Any) -> Simulator:
        return self  # MuJoCo's pool of threads cannot be copied, and nothing of this changes

    def predict(self, core: Tensor, action: Tensor, carry: Any = None) -> Prediction:
        found = self.predict_assigned(core, action, torch.zeros(len(core), dtype=torch.int64))
        return Prediction(found.mean[None], torch.full_like(found.mean[None], 1e-3))

    def predict_assigned(self, core: Tensor, action: Tensor, member: Tensor) -> Prediction:
        before = torch.as_tensor(core).numpy()
        qpos, qvel = ground_truth.to_mujoco(self.task, before.astype(np.float64))
        initial = np.zeros((len(before), mujoco.mj_stateSize(self.model, _FULL)))
        initial[:, 1 : 1 + self.model.nq + self.model.nv] = np.concatenate([qpos, qvel], 1)  # after the time
        control = np.repeat(np.asarray(action, np.float64)[:, None], self.skip, axis=1)
        states, _ = self.rollout.rollout(self.model, self.data, initial, control)
        ends = states[:, -1, 1:]
        after = ends[:, : self.model.nq], ends[:, self.model.nq : self.model.nq + self.model.nv]
        moved = after[0][:, : self.task.core.displacement_dim] - qpos[:, : self.task.core.displacement_dim]
        assert self.task.core.from_mujoco is not None
        next_core = torch.tensor(self.task.core.from_mujoco(*after), dtype=torch.float32)
        mean = self.coordinates.difference(torch.as_tensor(core), next_core, torch.tensor(moved).float())
        return Prediction(mean, torch.full_like(mean, 1e-3))


class Mistaken:
    """Dynamics that mistake the action, or what comes of it, or take the action of the step before."""

    def __init__(
        self,
        right: Any,
        *,
        action: Callable[[Tensor], Tensor] = lambda given: given,
        change: Callable[[Tensor], Tensor] = lambda target: target,
        late: bool = False,
    ) -> None:
        self.right, self.action, self.change, self.late = right, action, change, late
        self.num_members, self.target_dim = right.num_members, right.target_dim
        self.coordinates = right.coordinates

    def predict(self, core: Tensor, action: Tensor, carry: Any = None) -> Prediction:
        return self._wrong(self.right.predict(core, self._taken(action, carry)), action)

    def predict_assigned(self, core: Tensor, action: Tensor, member: Tensor, carry: Any = None) -> Prediction:
        return self._wrong(self.right.predict_assigned(core, self._taken(action, carry), member), action)

    def _taken(self, action: Tensor, carry: Any) -> Tensor:
        if not self.late:
            return self.action(action)
        return torch.zeros_like(action) if carry is None else carry

    def _wrong(self, found: Prediction, action: Tensor) -> Prediction:
        mean = self.change(torch.as_tensor(found.mean))
        return dataclasses.replace(found, mean=mean, carry=action if self.late else None)


def exact(env_id: str, change: Change = lambda model: None) -> wmgym.WorldModel:
    """A world without bounds whose dynamics are MuJoCo itself."""
    shipped = wmgym.load(env_id)
    return dataclasses.replace(
        shipped, dynamics=Simulator(shipped.task, change), calibration=None, support=None
    )


def bounded(world: wmgym.WorldModel, calib: Transitions, horizon: int) -> wmgym.WorldModel:
    """Bounds as ``calibrate`` gives them, for propagation "member", which stands in for the others too."""
    starts = spread_starts(calib, 128)
    blank = marginal_calibration(calib, np.ones(world.dynamics.target_dim), 0.9)
    scaled = world.with_calibration(blank)
    steps = stacked(open_loop_steps(scaled, calib, starts, horizon, "member", 0, trust=True))
    found = error_bounds(blank, steps, *groups(calib, starts))
    bounds: dict[str, Any] = {
        name: dict.fromkeys(PROPAGATIONS, values.astype(np.float32)) for name, values in found.items()
    }
    windows = (~np.isnan(steps.error[..., 0])).sum(1)
    return world.with_calibration(dataclasses.replace(blank, windows=windows, **bounds))


def with_reward(world: wmgym.WorldModel, factor: float) -> wmgym.WorldModel:
    right = world.task.reward
    assert right is not None
    task = dataclasses.replace(world.task, reward=lambda *known: factor * right(*known))
    return dataclasses.replace(world, task=task)


def without_terminations(world: wmgym.WorldModel) -> wmgym.WorldModel:
    def never(core: Any, action: Any, next_core: Any, unobserved: Any) -> Any:
        return next_core[..., 0] != next_core[..., 0]

    return dataclasses.replace(world, task=dataclasses.replace(world.task, terminated=never))


def with_bounds(world: wmgym.WorldModel, factor: float) -> wmgym.WorldModel:
    """All bounds given disagreement multiplied."""
    table = world.calibration
    assert table is not None
    scaled: Any = {
        name: {how: (factor * rows).astype(np.float32) for how, rows in getattr(table, name).items()}
        for name in ("half_width", "per_disagreement")
    }
    return world.with_calibration(dataclasses.replace(table, **scaled))


def mistaken(world: wmgym.WorldModel, **how: Any) -> wmgym.WorldModel:
    return dataclasses.replace(world, dynamics=Mistaken(world.dynamics, **how))


def faster(world: wmgym.WorldModel, factor: float) -> Callable[[Tensor], Tensor]:
    """Changes of which the root's displacement alone is multiplied."""
    geometry = world.task.core.geometry
    end = world.coordinates.change_dim
    columns = torch.ones(world.dynamics.target_dim)
    columns[end - geometry.displacement_dim : end] = factor
    return lambda target: target * columns


def inverted(action: Tensor) -> Tensor:
    """Actions ``(n, action_dim)`` with the first joint's inverted."""
    return torch.cat([-action[:, :1], action[:, 1:]], 1)


def slippery(model: Any) -> None:
    model.geom_friction[:] *= 0.3


def without_contact(model: Any) -> None:
    model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_CONTACT


def heavier(model: Any) -> None:
    model.body_mass[:] *= 1.5
    model.body_inertia[:] *= 1.5
