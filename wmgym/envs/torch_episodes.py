"""Imagined episodes whose numbers stay on their device, for trainers that live there too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from wmgym.envs.recorded_step import fits, record
from wmgym.models.dynamics import Carry, Propagation
from wmgym.models.state import WorldState
from wmgym.models.world import WorldModel
from wmgym.tasks import actions


@dataclass(frozen=True)
class TorchStep:
    """What a step returns, ``num_envs`` rows on the world's device.

    Attributes:
        obs: ``(num_envs, *obs_shape)`` float32; of the next episode where one has ended.
        reward: ``(num_envs,)`` float32.
        terminated: ``(num_envs,)`` bool.
        truncated: ``(num_envs,)`` bool, by the time limit or since it diverged.
        diverged: ``(num_envs,)`` bool, see ``ImaginedVectorEnv``.
        final_obs: as ``obs``, before any episode began anew.
    """

    obs: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    diverged: Tensor
    final_obs: Tensor


class TorchEpisodes:
    """``num_envs`` imagined episodes; tensors in, tensors out. Made by ``ImaginedVectorEnv.to_torch``.

    An ended episode starts anew in the same step. Each place keeps its ensemble member for all its episodes,
    and no step waits for the device. There are no infos: bounds and trust are the vector env's.

    On a CUDA device the third step after a reset is recorded as a graph, which the following ones replay;
    where functions of the caller's read numbers on the host, every step is launched kernel by kernel.
    """

    def __init__(
        self,
        world: WorldModel,
        num_envs: int,
        starts: np.ndarray,
        propagation: Propagation,
        max_episode_steps: int | None,
    ) -> None:
        """See ``ImaginedVectorEnv``; ``starts`` ``(n, state_dim)`` are drawn from."""
        self.world, self.num_envs, self.propagation = world, num_envs, propagation
        self.max_episode_steps = max_episode_steps
        self._generator = torch.Generator(world.device)
        self._generator.seed()
        self._starts = torch.tensor(starts, device=world.device)
        space = world.task.observation_space
        self._whole = space.dtype is not None and space.dtype.kind in "iu"
        self._low, self._high = (
            torch.tensor(side.reshape(1, -1).astype(np.float32), device=world.device)
            for side in (space.low, space.high)
        )
        self._state: WorldState | None = None
        self._elapsed = torch.zeros(num_envs, dtype=torch.int64, device=world.device)
        self._taken = 0
        self._replay: tuple[Tensor, TorchStep, Callable[[], None]] | None = None

    @torch.no_grad()
    def reset(self, seed: int | None = None) -> Tensor:
        """Start all episodes; their observations ``(num_envs, *obs_shape)``. A seed decides what follows."""
        if seed is not None:
            self._generator.manual_seed(seed)
        self._state = self.world.init(self._drawn(), self._generator)
        self._elapsed = torch.zeros_like(self._elapsed)
        self._taken, self._replay = 0, None  # other members, so another order of rows
        return self._shown(self._state.full)

    @torch.no_grad()
    def step(self, action: Tensor) -> TorchStep:
        """Advance every episode by one step.

        Args:
            action: ``(num_envs, *action_shape)`` on the world's device, clipped to the action space; integers
                of a Discrete one. Values are not checked, since that would wait for the device.

        Raises:
            ValueError: another shape.
            ResetNeeded: before the first reset.
        """
        if self._state is None:
            raise gym.error.ResetNeeded("first call reset()")
        need = (self.num_envs, *(self.world.task.action_space.shape or ()))
        if tuple(action.shape) != need:
            raise ValueError(f"actions have shape {tuple(action.shape)}, need (num_envs, ...) = {need}")
        if not actions.whole(self.world.task.action_space):
            action = action.to(torch.float32)
        self._taken += 1
        if self._replay is not None:
            given, outcome, replay = self._replay
            given.copy_(action)
            replay()
            return TorchStep(*(getattr(outcome, part.name).clone() for part in fields(outcome)))
        if not self.recordable or self._taken != _RECORD:
            return self._advance(action)
        outcome, fit = fits(partial(self._advance, action))
        if fit:
            self._record(action.clone())
        return outcome

    @property
    def recordable(self) -> bool:
        """Whether the world's device knows graphs."""
        return self.world.device.type == "cuda"

    def _record(self, given: Tensor) -> None:
        """Record a step that takes its state and ``given`` actions from the same tensors each time.

        It leaves the next state where it took the last one from.
        """
        assert self._state is not None
        dim, full, elapsed = self.world.task.core.dim, self._state.full.clone(), self._elapsed.clone()
        carry = _parts(self._state.carry)
        state = replace(self._state, core=full[:, :dim], shown=full[:, dim:])
        state.keep_full(full)
        self._state, self._elapsed = state, elapsed

        def work() -> TorchStep:
            outcome = self._advance(given)
            for held, new in zip((full, elapsed, *carry), self._moving(), strict=True):
                held.copy_(new)
            self._state, self._elapsed = state, elapsed
            return outcome

        self._replay = given, *record(work, self._generator)

    def _moving(self) -> tuple[Tensor, ...]:
        """All that a step changes."""
        assert self._state is not None
        return self._state.full, self._elapsed, *_parts(self._state.carry)

    def _advance(self, action: Tensor) -> TorchStep:
        assert self._state is not None
        outcome = self.world.step(self._state, action, self.propagation, self._generator)
        self._elapsed = self._elapsed + 1
        terminated, truncated = outcome.terminated, outcome.diverged
        if self.max_episode_steps is not None:
            truncated = truncated | (self._elapsed >= self.max_episode_steps)
        truncated = truncated & ~terminated
        ended, full = terminated | truncated, outcome.state.full
        self._state = self._begun(ended, outcome.state, full)
        self._elapsed = self._elapsed * ~ended
        reward = outcome.reward.to(torch.float32)
        seen, last = self._shown(self._state.full), self._shown(full)
        return TorchStep(seen, reward, terminated, truncated, outcome.diverged, last)

    def _drawn(self) -> Tensor:
        size, device = (self.num_envs,), self._starts.device
        return self._starts[torch.randint(len(self._starts), size, generator=self._generator, device=device)]

    def _begun(self, ended: Tensor, state: WorldState, full: Tensor) -> WorldState:
        """The state with new episodes at ``ended``; all rows draw, so that nobody has to count them."""
        full = torch.where(ended[:, None], self._drawn(), full)
        dim = self.world.task.core.dim
        after = replace(state, core=full[:, :dim], shown=full[:, dim:], carry=_cleared(state.carry, ended))
        after.keep_full(full)
        return after

    def _shown(self, full: Tensor) -> Tensor:
        task = self.world.task
        flat = task.core.observe(full).to(torch.float32)
        flat = flat.round() if self._whole else flat
        return torch.clamp(flat, self._low, self._high).reshape(len(full), *task.observation_space.shape)


def _cleared(carry: Carry, ended: Tensor) -> Carry:
    """What the dynamics remember, zero where an episode begins."""
    if carry is None:
        return None
    found = tuple(part * ~ended.view(-1, *[1] * (part.ndim - 1)) for part in _parts(carry))
    return found if isinstance(carry, tuple) else found[0]


def _parts(carry: Carry) -> tuple[Tensor, ...]:
    return () if carry is None else carry if isinstance(carry, tuple) else (carry,)


_RECORD = 3  # after two steps the rows are packed, and what is made once is there
