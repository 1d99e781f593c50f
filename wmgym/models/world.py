"""WorldModel: task plus dynamics, and the only place that samples."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from wmgym.io import artifacts
from wmgym.io.deprecation import renamed
from wmgym.io.provenance import Provenance
from wmgym.models.batching import alike, as_tensor, beside, constant, one_hot
from wmgym.models.config import check_device
from wmgym.models.coordinates import Coordinates
from wmgym.models.dynamics import PROPAGATIONS, Dynamics, Precision, Propagation
from wmgym.models.ensemble import EnsembleMLP
from wmgym.models.error_bounds import Calibration, disagreement
from wmgym.models.export import export_world
from wmgym.models.flags import Flags
from wmgym.models.outcomes import Outcomes
from wmgym.models.self_check import record_check
from wmgym.models.state import WorldState, WorldStep, deal_members
from wmgym.models.step import advance_companion, integrate, outcome_of, predict_step
from wmgym.models.storage import pack_parts, rounded, unpack_parts
from wmgym.models.support import NearestReal, Search, Support
from wmgym.tasks import actions
from wmgym.tasks.layout import Array
from wmgym.tasks.schema import record_task
from wmgym.tasks.task import Task


@dataclass(frozen=True, repr=False)
class WorldModel:
    """A learned simulator of one task: differentiable in core and action, on any torch device.

    Attributes:
        task: the env it stands for.
        dynamics: the one-step model.
        starts: ``(n, state_dim)`` float32 bank of real start states.
        low: ``(core_dim + displacement_dim,)`` float32, smallest core and displacement allowed; beyond it an
            episode diverged.
        high: likewise the largest.
        provenance: data and settings behind it.
        readout: predicts unobserved and shown readouts from the next core and the action; None where the task
            has none.
        calibration: error bounds, once ``calibrate`` has been run.
        support: real transitions of the fit, for novelty and ``nearest_real``.
        outcomes: learned rewards and terminations; None where the task's functions and the dynamics say all.
        flags: the core's columns of two values; None where there are none.
    """

    task: Task
    dynamics: Dynamics
    starts: np.ndarray
    low: np.ndarray
    high: np.ndarray
    provenance: Provenance
    readout: Dynamics | None = None
    calibration: Calibration | None = None
    support: Support | None = None
    outcomes: Outcomes | None = None
    flags: Flags | None = None

    def __post_init__(self) -> None:
        """Freeze the arrays; those of the caller stay writable."""
        for name in ("starts", "low", "high"):
            if (array := getattr(self, name)).flags.writeable:
                object.__setattr__(self, name, array.copy())
                getattr(self, name).setflags(write=False)

    def __repr__(self) -> str:
        """One line: what it imagines, with which model, and how far its bounds reach."""
        found = self.calibration
        bounds = f"{found.level:g} bounds for {found.horizon} steps" if found is not None else "no bounds"
        model = f"{type(self.dynamics).__name__} of {self.dynamics.num_members}"
        return f"WorldModel({self.task.env_id or 'unnamed env'}, {model}, {bounds})"

    @cached_property
    def device(self) -> torch.device:
        """Where the dynamics live."""
        parameters = getattr(self.dynamics, "parameters", None)
        first = next(iter(parameters()), None) if parameters is not None else None
        return torch.device("cpu") if first is None else first.device

    @cached_property
    @torch.inference_mode(False)
    def coordinates(self) -> Coordinates:
        """In which the dynamics predict changes: its own where it has some, else the task's."""
        own = getattr(self.dynamics, "coordinates", None)
        return own if own is not None else Coordinates(self.task.core.geometry).to(self.device)

    @property
    def core_names(self) -> tuple[str, ...]:
        """Names of the core's dimensions, which are those of ``error_bound``."""
        return self.task.core.names

    @cached_property
    @torch.inference_mode(False)
    def limits(self) -> tuple[Array, Array]:
        """``low`` and ``high``, finite: an infinite prediction differs from what it is clamped to."""
        low, high = alike(*(torch.tensor(x, device=self.device).nan_to_num() for x in (self.low, self.high)))
        return low, high

    @cached_property
    @torch.inference_mode(False)
    def action_bounds(self) -> tuple[Tensor, ...]:
        """Ends ``(action_dim,)`` of a Box of actions."""
        space = self.task.action_space
        assert isinstance(space, spaces.Box)
        sides = (side.reshape(-1).astype(np.float32) for side in (space.low, space.high))
        return tuple(torch.tensor(side, device=self.device) for side in sides)

    @cached_property
    @torch.inference_mode(False)
    def std_scale(self) -> Tensor:
        """Factors of noise ``(target_dim,)``."""
        scale = np.ones(self.dynamics.target_dim) if self.calibration is None else self.calibration.std_scale
        return torch.tensor(scale.astype(np.float32), device=self.device)

    @cached_property
    @torch.inference_mode(False)
    def data_std(self) -> Tensor:
        """The calibration's unit of errors ``(core_dim,)``."""
        if self.calibration is None:
            raise ValueError("trust needs a calibrated world; see wmgym.calibrate")
        return torch.tensor(np.float32(self.calibration.data_std), device=self.device)

    @cached_property
    @torch.inference_mode(False)
    def _search(self) -> Search:
        if self.support is None:
            raise ValueError("this world holds no sample of its fit's data; fit it again")
        return Search(self.support, self.coordinates, self.device)

    def to(self, device: torch.device | str, precision: Precision = "float32") -> WorldModel:
        """A copy on another device (ValueError where it is not there); ``precision`` is of hidden layers."""
        check_device(device)
        dynamics, readout = copy.deepcopy(self.dynamics), copy.deepcopy(self.readout)
        outcomes, flags = copy.deepcopy(self.outcomes), copy.deepcopy(self.flags)
        learned = [] if outcomes is None else [outcomes.network, outcomes.rewards]
        for model in (dynamics, readout, flags and flags.network, *learned):
            if isinstance(model, torch.nn.Module):
                model.to(device)
            if isinstance(model, EnsembleMLP):
                model.use_precision(precision)
        return replace(self, dynamics=dynamics, readout=readout, outcomes=outcomes, flags=flags)

    def pack(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """All of a world as arrays and JSON values, or a ValueError that says what cannot be stored."""
        return pack_parts({part.name: getattr(self, part.name) for part in fields(self)})

    @classmethod
    def unpack(
        cls,
        arrays: Mapping[str, np.ndarray],
        document: Mapping[str, Any],
        task: Task | None = None,
        name: str = "world",
    ) -> WorldModel:
        """Rebuild what ``pack`` took apart; ``name`` is for the error.

        Raises:
            StoreError: they are not a world of this version of wmgym.
        """
        return cls(**unpack_parts(arrays, document, task, name))

    def save(self, path: str | os.PathLike[str], *, half: bool = False) -> Path:
        """Write to a directory; ``wmgym.load`` reads it back. A crash leaves the old world or the new one.

        Args:
            path: the directory.
            half: store weights, bounds and support in float16, for half the size. What is loaded is then
                another world, by a rounding error: calibrate what was loaded.

        Raises:
            ValueError: see ``pack``.
            StoreError: the directory cannot be written or holds something else.
        """
        arrays, document = self.pack()
        arrays = rounded(arrays) if half else arrays
        loaded = WorldModel.unpack(arrays, document, self.task) if half else self
        document["check"] = record_check(loaded)
        return artifacts.write_directory(path, kind="world", arrays=arrays, document=document)

    def export(
        self, path: str | os.PathLike[str], *, propagation: Propagation = "member", trust: bool = False
    ) -> Path:
        """Write a step of one episode as ONNX, and a JSON contract of what it takes and gives beside it.

        ValueError: dynamics or functions of the caller's, or a path that does not end in ``.onnx``.
        """
        return export_world(self, path, propagation, trust)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as what ``save`` writes; a task that holds functions of the caller's cannot."""
        if "given" in {(record := record_task(self.task)).reward, record.terminated}:
            raise ValueError(
                "this world's task holds functions of yours and cannot be pickled; save and load it"
            )
        return WorldModel.unpack, self.pack()

    def with_calibration(self, calibration: Calibration) -> WorldModel:
        """The same model with error bounds."""
        return replace(self, calibration=calibration)

    def init(self, state: Tensor, generator: torch.Generator, held: Tensor | None = None) -> WorldState:
        """Start episodes from states ``(batch, state_dim)``; members are dealt out evenly.

        From cores alone ``(batch, core_dim)`` the readouts are those predicted without an action.
        ``held`` ``(n,)`` are the members of episodes that go on beside these, and count as dealt.
        """
        core = self.task.core
        if state.ndim != 2 or state.shape[1] not in (core.dim, core.state_dim):
            raise ValueError(f"states must have shape (batch, {core.state_dim}), got {tuple(state.shape)}")
        if held is None:
            held = torch.zeros(0, dtype=torch.int64, device=state.device)
        member = deal_members(held, len(state), self.dynamics.num_members, generator)
        shown = state[:, core.dim :]
        if state.shape[1] < core.state_dim:
            rest = torch.zeros(len(state), self.task.action_dim, device=state.device)
            shown = self._read_out(state, rest)[:, core.readout_dim - core.shown_dim :]
        start = state[:, : core.dim]
        return WorldState(start, shown, member, start, torch.zeros_like(start))

    def _read_out(self, core: Tensor, encoded: Tensor) -> Tensor:
        """Unobserved, then shown readouts ``(batch, readout_dim)``."""
        if not self.task.core.readout_dim:
            return core[:, :0]
        if self.readout is None:
            raise ValueError(f"{self.task.env_id} has readouts and this world predicts none; fit it again")
        return self.readout.predict(core, encoded).mean[0]

    @renamed(mode="propagation")
    def step(
        self,
        state: WorldState,
        action: Tensor,
        propagation: Propagation = "member",
        generator: torch.Generator | None = None,
        trust: bool = False,
    ) -> WorldStep:
        """Advance every episode by one step.

        Args:
            state: from ``init`` or an earlier step.
            action: ``(batch, *action_shape)``, or ``(batch,)`` int64 for Discrete; clipped to its bounds
                before the dynamics see it, as an actuator does.
            propagation: "member" follows each episode's member without noise: MuJoCo is deterministic, and
                what the ensemble states as noise is mostly its own error. "sample" adds that noise at every
                step (TS-infinity of arXiv:1805.12114), for real envs that are noisy. "mean" takes the mean of
                all members, at the cost of all.
            generator: source of the noise; needed for "sample".
            trust: let the next member follow its own path beside each episode's, for about twice the cost:
                how far the two come apart is ``disagreement``. Asked for at all steps of an episode or at
                none. Needs a calibrated world.

        Raises:
            ValueError: an unknown propagation, no generator for "sample", or trust without calibration.
        """
        if propagation not in PROPAGATIONS:
            raise ValueError(f"propagation must be one of {', '.join(PROPAGATIONS)}, got {propagation!r}")
        noise = generator if propagation == "sample" else None
        if propagation == "sample" and noise is None:
            raise ValueError("propagation='sample' draws noise; pass generator=torch.Generator()")
        encoded = self.encode_action(action)
        own, other = predict_step(self.dynamics, state, encoded, propagation, trust)
        target = own.mean if noise is None else own.sample(self.std_scale, noise)
        flat = action if action.ndim == 1 else action.flatten(1)
        with np.errstate(all="ignore"):  # torch does not warn of what diverges either
            core, before, flat, change, given = alike(state.core, state.full, flat, target, encoded)
            next_core, displacement, diverged = integrate(
                self.coordinates, self.task.core.joint_limits, self.limits, core, change, given
            )
            if self.flags is not None:
                settled = self.flags.settle(state.core, as_tensor(next_core), encoded, generator)
                next_core, core = alike(settled, core)
            next_state = replace(state, core=as_tensor(next_core), carry=own.carry)
            after, unobserved = next_core, displacement
            if self.task.core.readout_dim:
                readout = self._read_out(as_tensor(next_core), encoded)
                readout, before, flat, after, unobserved = alike(readout, before, flat, after, unobserved)
                split = readout.shape[1] - self.task.core.shown_dim
                unobserved, after = beside(unobserved, readout[:, :split]), beside(after, readout[:, split:])
                next_state = replace(next_state, shown=as_tensor(readout[:, split:]))
            if other is not None:
                next_state = advance_companion(
                    next_state, other, encoded, self.coordinates, self.limits, self.data_std, self.flags
                )
            next_state.keep_full(as_tensor(after))
            known = before, flat, after, unobserved
            reward, terminated = outcome_of(
                self.task,
                self.outcomes,
                known,
                encoded,
                target[:, self.coordinates.change_dim :],
                own.end_logit,
                generator,
                noise,
            )
        return WorldStep(next_state, as_tensor(displacement), reward, terminated, as_tensor(diverged))

    def disagreement(self, state: WorldState, elapsed: np.ndarray) -> np.ndarray:
        """How far two members' paths are apart ``(batch, core_dim)`` after ``elapsed`` ``(batch,)`` steps.

        In units of ``data_std``; see ``wmgym.models.error_bounds``.
        """
        distance = self.coordinates.distance(state.core, state.companion) / self.data_std
        now, lasting = (x.detach().cpu().numpy() for x in (distance, state.lasting_disagreement))
        return disagreement(now, lasting, elapsed)

    @torch.no_grad()
    def novelty(self, core: Tensor) -> Tensor:
        """How far cores ``(batch, core_dim)`` are from real ones of the fit: 1 is usual, 3 is elsewhere.

        The distance to the nearest of a sample of the fit's states, in the coordinates that the networks see,
        as a multiple of how far real states of one episode are from those of others.
        """
        return self._search.novelty(core)

    @torch.no_grad()
    def nearest_real(self, obs: np.ndarray, k: int = 1) -> NearestReal:
        """The logged transitions nearest to observations, nearest first.

        Args:
            obs: ``(n, *obs_shape)``; a single one ``obs_shape`` counts as ``n = 1``.
            k: how many for each.

        Raises:
            ValueError: a world without a sample of its fit's data, or ``k`` beyond it.
        """
        flat = np.asarray(obs, np.float64).reshape(-1, self.task.obs_dim)
        core = np.asarray(self.task.core.from_obs(flat), np.float32)[:, : self.task.core.dim]
        return self._search.nearest(torch.tensor(core, device=self.device), k)

    def encode_action(self, action: Tensor) -> Tensor:
        """Actions as the dynamics take them: ``(batch, action_dim)`` floats."""
        space = self.task.action_space
        if actions.whole(space):
            return one_hot(space, action.long() - constant(np.asarray(actions.first(space)), action.device))
        return torch.clamp(action.flatten(1), *self.action_bounds)
