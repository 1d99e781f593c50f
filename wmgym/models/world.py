"""WorldModel: task plus dynamics, and the only place that samples."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional

from wmgym.io.provenance import Provenance
from wmgym.models.batching import alike, as_tensor, clamp, library
from wmgym.models.coordinates import Coordinates
from wmgym.models.dynamics import PROPAGATIONS, Dynamics, Precision, Prediction, Propagation
from wmgym.models.ensemble import EnsembleMLP
from wmgym.models.error_bounds import SMALLEST_DISAGREEMENT, Calibration
from wmgym.models.state import WorldState, WorldStep
from wmgym.models.support import NearestReal, Search, Support
from wmgym.tasks.layout import Array
from wmgym.tasks.schema import record_task
from wmgym.tasks.task import Task

_LOST = 1e9  # disagreement where a path left the numbers


@dataclass(frozen=True)
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
    _coordinates: Coordinates = field(init=False, repr=False, compare=False)
    _bounds: tuple[Array, Array] = field(init=False, repr=False, compare=False)
    _hard: Array = field(init=False, repr=False, compare=False)
    _action_bounds: tuple[Tensor, ...] = field(init=False, repr=False, compare=False)
    _std_scale: Tensor = field(init=False, repr=False, compare=False)
    _data_std: Tensor | None = field(init=False, repr=False, compare=False)
    _search: Search | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Freeze the arrays and keep device copies beside them."""
        for name in ("starts", "low", "high"):
            array = getattr(self, name)
            if array.flags.writeable:  # the caller's own stays as it is
                object.__setattr__(self, name, array.copy())
                getattr(self, name).setflags(write=False)
        device = self.device
        # Finite, so that an infinite prediction differs from what it is clamped to, as NaN does.
        low, high = (torch.nan_to_num(torch.tensor(side, device=device)) for side in (self.low, self.high))
        scale, data_std = np.ones(self.dynamics.target_dim, np.float32), None
        if self.calibration is not None:
            scale = self.calibration.std_scale.astype(np.float32)
            data_std = torch.tensor(np.float32(self.calibration.data_std), device=device)
        object.__setattr__(self, "_coordinates", Coordinates(self.task.core.geometry).to(device))
        object.__setattr__(self, "_bounds", alike(low, high))
        hard = torch.ones(len(low), dtype=torch.bool, device=device)  # dimensions that diverge at their bound
        hard[[joint for joint, _, _ in self.task.core.joint_limits]] = False
        object.__setattr__(self, "_hard", alike(hard)[0])
        object.__setattr__(self, "_action_bounds", _action_bounds(self.task.action_space, device))
        object.__setattr__(self, "_std_scale", torch.tensor(scale, device=device))
        object.__setattr__(self, "_data_std", data_std)
        found = None if self.support is None else Search(self.support, self.task.core.geometry, device)
        object.__setattr__(self, "_search", found)

    @property
    def device(self) -> torch.device:
        """Where the dynamics live."""
        parameters = getattr(self.dynamics, "parameters", None)
        first = next(iter(parameters()), None) if parameters is not None else None
        return torch.device("cpu") if first is None else first.device

    def to(self, device: torch.device | str, precision: Precision = "float32") -> WorldModel:
        """A copy of this world on another device; ``precision`` is that of its networks' hidden layers."""
        import copy

        dynamics, readout = copy.deepcopy(self.dynamics), copy.deepcopy(self.readout)
        for model in (dynamics, readout):
            if isinstance(model, torch.nn.Module):
                model.to(device)
            if isinstance(model, EnsembleMLP):
                model.use_precision(precision)
        return replace(self, dynamics=dynamics, readout=readout)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a directory; ``wmgym.load`` reads it back. A crash leaves the old world or the new one."""
        from wmgym.models.saving import save

        save(self, path)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as what ``save`` writes; a task that holds functions of the caller's cannot."""
        from wmgym.models.saving import pack, unpack

        if "given" in {(record := record_task(self.task)).reward, record.terminated}:
            raise ValueError(
                "this world's task holds functions of yours and cannot be pickled; save and load it"
            )
        return unpack, pack(self)

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
        members = self.deal_members(held, state.shape[0], generator)
        shown = state[:, core.dim :]
        if state.shape[1] < core.state_dim:
            rest = torch.zeros(len(state), self.task.action_dim, device=state.device)
            shown = self._read_out(state, rest)[:, core.readout_dim - core.shown_dim :]
        start = state[:, : core.dim]
        return WorldState(start, shown, members, start, torch.zeros_like(start))

    def _read_out(self, core: Tensor, encoded: Tensor) -> Tensor:
        """Hidden, then shown readouts ``(batch, readout_dim)``."""
        if not self.task.core.readout_dim:
            return core[:, :0]
        if self.readout is None:
            raise ValueError(f"{self.task.env_id} has readouts and this world predicts none; fit it again")
        return self.readout.predict(core, encoded).mean[0]

    def deal_members(self, held: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Members for ``count`` new episodes beside those ``held``: the least used first, ties at random."""
        members = self.dynamics.num_members
        used = torch.bincount(held, minlength=members)
        rounds = -(-count // members) + int(used.max() - used.min())
        # A slot's rank in its member's queue.
        level = used[:, None] + torch.arange(rounds, device=held.device)
        tie = torch.rand(members, rounds, generator=generator, device=held.device)
        chosen = torch.argsort((level + 0.5 * tie).flatten())[:count] // rounds
        return chosen[torch.randperm(count, generator=generator, device=held.device)]

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
            propagation: "member" follows each episode's member without noise: MuJoCo is deterministic, what the
                ensemble calls noise is its own disagreement, and added at every step it throws robots over; "sample"
                adds it (TS-infinity of arXiv:1805.12114), for real envs that are noisy; "mean" takes the mean
                of all members and costs as many times more.
            generator: source of the noise; needed in sample mode.
            trust: let the next member follow its own path beside each episode's, for about twice the cost:
                how far the two come apart is what ``disagreement`` tells. Asked for at all steps of an episode or at
                none. Needs a calibrated world.
        """
        if trust and self._data_std is None:
            raise ValueError("trust needs a calibrated world; see wmgym.calibrate")
        encoded, other = self.encode_action(action), None
        if propagation == "mean":
            prediction = self.dynamics.predict(state.core, encoded)
            target = as_tensor(alike(prediction.mean)[0].mean(0))
            logit = None if prediction.end_logit is None else prediction.end_logit.mean(0)
            if trust:
                following = (state.member + 1) % self.dynamics.num_members
                other = self.dynamics.predict_assigned(state.companion, encoded, following).mean
        elif propagation in PROPAGATIONS:
            if trust:
                own, other = self.dynamics.predict_pair(state.core, state.companion, encoded, state.member)
            else:
                own = self.dynamics.predict_assigned(state.core, encoded, state.member)
            target, logit = own.mean, own.end_logit
            if propagation == "sample":
                if generator is None:
                    raise ValueError("sample mode draws noise; pass generator=torch.Generator()")
                target = sample(own, self._std_scale, generator)
        else:
            raise ValueError(f"propagation must be one of {', '.join(PROPAGATIONS)}, got {propagation!r}")
        with np.errstate(all="ignore"):  # torch does not complain of what diverges either
            outcome = self._finish(state, action, encoded, target, logit, propagation, generator)
            if other is None:
                return outcome
            return replace(outcome, state=self._advance_companion(outcome.state, other))

    def _advance_companion(self, state: WorldState, other: Tensor) -> WorldState:
        """The state with its companion moved on by ``other``."""
        assert self._data_std is not None
        at, (low, high) = self.task.core.dim, self._bounds
        core, companion, cumulative_disagreement, target, std = alike(
            state.core, state.companion, state.cumulative_disagreement, other, self._data_std
        )
        companion = clamp(
            self._coordinates.move(companion, target[:, : self._coordinates.change_dim])[0],
            low[:at],
            high[:at],
        )
        cumulative_disagreement = as_tensor(cumulative_disagreement + abs(core - companion) / std)
        return replace(state, companion=as_tensor(companion), cumulative_disagreement=cumulative_disagreement)

    def disagreement(self, state: WorldState, elapsed: np.ndarray) -> np.ndarray:
        """How far two members have come apart ``(batch, core_dim)``, in the calibration data's std.

        Of each dimension, what they are apart by now and were on average over the ``elapsed`` ``(batch,)``
        steps so far, drawn towards the geometric mean over dimensions: one other member is a small sample of
        what the model does not know, and its past and its other dimensions steady it.
        """
        assert self._data_std is not None
        now, cumulative_disagreement = (
            np.nan_to_num(x.detach().cpu().numpy(), nan=_LOST, posinf=_LOST, neginf=_LOST)
            for x in ((state.core - state.companion) / self._data_std, state.cumulative_disagreement)
        )
        past = cumulative_disagreement / np.maximum(elapsed, 1).astype(np.float32)[:, None]
        own = np.sqrt((now**2 + past**2) / 2)
        rest = np.exp(np.log(np.maximum(past, SMALLEST_DISAGREEMENT)).mean(1, keepdims=True))
        disagreement: np.ndarray = own**0.4 * rest**0.6
        return disagreement

    def _finish(
        self,
        state: WorldState,
        action: Tensor,
        encoded: Tensor,
        target: Tensor,
        end_logit: Tensor | None,
        propagation: Propagation,
        generator: torch.Generator | None,
    ) -> WorldStep:
        task = self.task
        flat = action if action.ndim == 1 else action.flatten(1)
        core, shown, flat, target = alike(state.core, state.shown, flat, target)
        next_core, displacement, diverged = self._move(core, target)
        unobserved, next_shown = displacement, shown
        if task.core.readout_dim:
            readout = self._read_out(as_tensor(next_core), encoded)
            readout, core, shown, flat, next_core, unobserved = alike(
                readout, core, shown, flat, next_core, displacement
            )
            shown_from = readout.shape[1] - task.core.shown_dim
            next_shown = readout[:, shown_from:]
            if shown_from:
                unobserved = library(unobserved).concatenate([unobserved, readout[:, :shown_from]], 1)
        known = [_beside(core, shown), flat, _beside(next_core, next_shown), unobserved]
        if not task.from_table:  # functions of the caller's take tensors
            known = [as_tensor(array) for array in known]
        if task.reward is not None:
            reward = as_tensor(task.reward(*known))
            if task.from_table:
                reward = reward.to(state.core.dtype)  # to NumPy a bool times a number is a double
        else:
            reward = torch.nan_to_num(as_tensor(target)[:, self._coordinates.change_dim], 0.0, 0.0, 0.0)
        if task.terminated is not None:
            terminated = as_tensor(task.terminated(*known))
        elif end_logit is None:
            raise ValueError("the task has no termination and the dynamics learned none; pass terminated_fn")
        elif propagation != "sample":
            terminated = end_logit > 0
        else:
            draw = torch.rand(end_logit.shape, generator=generator, device=end_logit.device)
            terminated = draw < torch.sigmoid(end_logit)
        next_state = replace(state, core=as_tensor(next_core), shown=as_tensor(next_shown))
        return WorldStep(next_state, as_tensor(displacement), reward, terminated, as_tensor(diverged))

    def _move(self, core: Array, target: Array) -> tuple[Array, Array, Array]:
        """The next core and the displacement, always finite, and ``diverged``."""
        lib, (low, high) = library(core), self._bounds
        raw = lib.concatenate(self._coordinates.move(core, target[:, : self._coordinates.change_dim]), 1)
        sound = clamp(raw, low, high)
        differs = sound != raw  # NaN differs from everything
        at = core.shape[1]
        if self.task.core.joint_limits:  # a joint that runs into its stop is no divergence
            hard = self._hard if isinstance(raw, np.ndarray) else as_tensor(self._hard)
            differs = differs & (hard | (raw != raw))
        diverged = differs.any(1)
        if diverged.any():
            rest = lib.concatenate([core, lib.zeros_like(raw[:, at:])], 1)
            sound = clamp(lib.where(lib.isfinite(raw), raw, rest), low, high)
        return sound[:, :at], sound[:, at:], diverged

    @torch.no_grad()
    def novelty(self, core: Tensor) -> Tensor:
        """How far cores ``(batch, core_dim)`` are from real ones of the fit: 1 is usual, 3 is elsewhere.

        The distance to the nearest of a sample of the fit's states, in the coordinates that the networks see,
        as a multiple of how far real states of one episode are from those of others.
        """
        return self._need_support().novelty(core)

    @torch.no_grad()
    def nearest_real(self, obs: np.ndarray, k: int = 1) -> NearestReal:
        """The logged transitions that support a prediction from ``obs`` ``(n, obs_dim)``, nearest first.

        Raises:
            ValueError: a world without a sample of its fit's data, or ``k`` beyond it.
        """
        flat = np.asarray(obs, np.float64).reshape(len(obs), -1)
        core = np.asarray(self.task.core.from_obs(flat), np.float32)[:, : self.task.core.dim]
        return self._need_support().nearest(torch.tensor(core, device=self.device), k)

    def _need_support(self) -> Search:
        if self._search is None:
            raise ValueError("this world holds no sample of its fit's data; fit it again")
        return self._search

    def encode_action(self, action: Tensor) -> Tensor:
        """Actions as the dynamics take them: ``(batch, action_dim)`` floats."""
        space = self.task.action_space
        if isinstance(space, spaces.Discrete):
            return functional.one_hot(action - int(space.start), int(space.n)).float()
        return torch.clamp(action.flatten(1), *self._action_bounds)


def sample(prediction: Prediction, std_scale: Tensor, generator: torch.Generator) -> Tensor:
    """Draw one target per row."""
    noise = torch.randn(prediction.mean.shape, generator=generator, device=prediction.mean.device)
    return torch.addcmul(prediction.mean, std_scale * prediction.std, noise)


def _action_bounds(space: spaces.Box | spaces.Discrete, device: torch.device) -> tuple[Tensor, ...]:
    """Of a Box's flat actions."""
    if isinstance(space, spaces.Discrete):
        return ()
    return tuple(torch.tensor(side.reshape(-1), device=device).float() for side in (space.low, space.high))


def _beside(core: Array, shown: Array) -> Array:
    """A core and the readouts that the observation shows: the state."""
    return library(core).concatenate([core, shown], 1) if shown.shape[1] else core
