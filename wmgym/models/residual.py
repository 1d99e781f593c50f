"""MuJoCo's own step as dynamics, and a learned correction of any dynamics: what is left to learn of a robot.

``ResidualDynamics`` over ``MujocoDynamics`` is a hybrid simulator: the nominal model's step, plus what a
robot did otherwise. Both go wherever dynamics go: into worlds, their envs, their files.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wmgym.io.files import StoreError
from wmgym.io.schema import from_json, to_json
from wmgym.models.coordinates import Coordinates
from wmgym.models.drive import MEMORY, PASSES, Drive, without_drive
from wmgym.models.dynamics import (
    Carry,
    Dynamics,
    Prediction,
    pack_dynamics,
    predict_assigned,
    register_dynamics,
    unpack_dynamics,
)
from wmgym.models.ensemble import EnsembleMLP
from wmgym.tasks.schema import TaskRecord, rebuild_task, record_task
from wmgym.tasks.task import Task

_making = threading.Lock()

_STD = 1e-6  # of a prediction that is certain; a standard deviation is above zero


@register_dynamics("mujoco")
@dataclass
class MujocoDynamics:
    """MuJoCo's step of a task's own model, many rows at once; no learning, no gradient, CPU only.

    It starts every step from the core: of what MuJoCo keeps beside positions and velocities, its solver's
    warm start is left out, which matters little. The drive of a changed robot remembers commands.
    """

    task: Task
    num_members: int = 1
    _physics: Any = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse a task that runs on no MuJoCo model."""
        if self.task.core.to_mujoco is None:
            raise ValueError(
                f"{self.task.env_id or 'this task'} does not say how its state lies in MuJoCo; that takes an "
                "env with a compiled model, and for an env of your own a log that was collected from it or "
                "read in its layout: wmgym.from_log(..., task=wmgym.collect(env, steps=500).task)"
            )
        self.coordinates = Coordinates(self.task.core.geometry)
        self.drive, self._bare = without_drive(self.task)
        self.memory = 0 if self.drive == PASSES else MEMORY

    @property
    def target_dim(self) -> int:
        """The change of the core and the displacement."""
        return self.coordinates.change_dim

    def predict(self, core: Tensor, action: Tensor, carry: Carry = None) -> Prediction:
        """One env step of every row; leading shape ``(1, batch)``."""
        physics, acts, kept = self._ready(), action, None
        if self.memory:
            earlier, held = self.drive.remembered(action, carry)
            acts = self.drive.acts(action, earlier, held)
            kept = self.drive.carried(action, earlier, acts)
        before = core.detach().cpu().double()
        after, moved = physics.step(before.numpy(), acts.detach().cpu().numpy())
        change = self.coordinates.difference(before, torch.from_numpy(after), torch.from_numpy(moved))
        mean = change.float()[None]
        return Prediction(mean, torch.full_like(mean, _STD), carry=kept)

    def _ready(self) -> Any:
        with _making:  # of several threads one makes it
            if self._physics is None or self._physics.owner != os.getpid():
                from wmgym.tasks.physics import Physics

                if not self._bare.has_env:
                    raise StoreError(
                        "a function made the nominal model's env, which a file does not hold; pass its task: "
                        "wmgym.load(path, task=wmgym.make_task(function))"
                    )
                self._physics = Physics.of(self._bare)
        return self._physics

    def pack(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """No arrays; the task as JSON values, and whether a function makes its env."""
        task, made = self.task, self.task.factory is not None or not self.task.has_env
        return {}, {"task": record_task(task).model_dump(mode="json"), **({"function": True} if made else {})}

    @classmethod
    def unpack(cls, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> MujocoDynamics:
        """Rebuild what ``pack`` took apart."""
        record = TaskRecord.model_validate_json(json.dumps(settings["task"]))
        task = rebuild_task(record, None, "the nominal model")
        return cls(replace(task, env_id="") if settings.get("function") else task)

    def made_by(self, task: Task) -> MujocoDynamics:
        """The same with the env of another task, where a function made its own."""
        if self.task.has_env or not task.has_env:
            return self
        return MujocoDynamics(replace(task, core=self.task.core, robot=None))

    def __getstate__(self) -> dict[str, Any]:
        """All but the live model, which copies make anew."""
        return {**self.__dict__, "_physics": None}


@register_dynamics("residual")
@dataclass
class ResidualDynamics:
    """What other dynamics predict, plus a correction by an ensemble that also sees the last few actions.

    ``wmgym.fit(data, dynamics=wmgym.residual("Hopper-v5"))`` learns one.

    Attributes:
        base: the dynamics that are corrected.
        network: the correction. Its actions are the action, the ``MEMORY`` earlier ones, and what ``base``
            predicts.
        drive: what becomes of a command on the way to ``base``.
        rollout_error: of held-out rollouts, without and with the correction, where it was fitted just now; a
            world's provenance keeps it.
    """

    base: Dynamics
    network: EnsembleMLP
    drive: Drive = PASSES
    rollout_error: tuple[float, ...] = field(default=(), repr=False, compare=False)

    def __post_init__(self) -> None:
        """Predict in the coordinates of the correction."""
        self.coordinates, self.num_members = self.network.coordinates, self.network.num_members
        self.target_dim, self.memory = self.network.target_dim, MEMORY

    def predict(self, core: Tensor, action: Tensor, carry: Carry = None) -> Prediction:
        """All members; leading shape ``(members, batch)``."""
        earlier, held = self.drive.remembered(action, carry)
        acts = self.drive.acts(action, earlier, held)
        base = self.base.predict(core, acts)
        nominal = base.mean.mean(0)
        said = self.network.predict(core, extended(action, earlier, nominal))
        end = None if base.end_logit is None else base.end_logit.mean(0).expand(self.num_members, -1)
        return replace(
            said, mean=said.mean + nominal, end_logit=end, carry=self.drive.carried(action, earlier, acts)
        )

    def predict_assigned(
        self, core: Tensor, action: Tensor, member: Tensor, carry: Carry = None
    ) -> Prediction:
        """Each row by its own member of the correction ``(batch,)``: leading shape ``(batch,)``."""
        earlier, held = self.drive.remembered(action, carry)
        acts = self.drive.acts(action, earlier, held)
        base = predict_assigned(self.base, core, acts, member % self.base.num_members)
        said = self.network.predict_assigned(core, extended(action, earlier, base.mean), member)
        carry = self.drive.carried(action, earlier, acts)
        return replace(said, mean=said.mean + base.mean, end_logit=base.end_logit, carry=carry)

    def pack(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays of both parts by dotted name; kinds and settings as JSON values."""
        arrays: dict[str, np.ndarray] = {}
        settings: dict[str, Any] = {"drive": to_json(self.drive)}
        for name, part in (("base", self.base), ("network", self.network)):
            kind, own, settings_of = pack_dynamics(part)
            arrays |= {f"{name}.{key}": array for key, array in own.items()}
            settings[name] = {"kind": kind, "settings": settings_of}
        return arrays, settings

    @classmethod
    def unpack(cls, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> ResidualDynamics:
        """Rebuild what ``pack`` took apart."""
        parts: list[Any] = []
        for name in ("base", "network"):
            prefix = f"{name}."
            own = {key.removeprefix(prefix): a for key, a in arrays.items() if key.startswith(prefix)}
            parts.append(unpack_dynamics(settings[name]["kind"], own, settings[name]["settings"]))
        return cls(parts[0], parts[1], from_json(Drive, settings.get("drive", {})))

    def made_by(self, task: Task) -> ResidualDynamics:
        """The same, its base with the env of another task where a function made its own."""
        base: Any = self.base
        return replace(self, base=base.made_by(task)) if hasattr(base, "made_by") else self


def extended(action: Tensor, earlier: Tensor, nominal: Tensor) -> Tensor:
    """What the correction takes for its action."""
    return torch.cat([action, earlier, nominal], 1)
