"""Imagined rollouts as ``DynaSAC`` learns from them: what they are worth, and what its actor ascends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, TypeAlias

import torch
from pydantic import Field
from torch import Tensor

from wmgym.io.schema import STRICT, Amount, Share
from wmgym.models.state import WorldStep

Observe: TypeAlias = Callable[[Tensor], Tensor]
Act: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]
Step: TypeAlias = Callable[[Tensor, Tensor], WorldStep]
_Number: TypeAlias = Annotated[int, Field(ge=1, le=1_000_000)]


@dataclass(frozen=True)
class Imagination:
    """How DynaSAC imagines.

    Attributes:
        training_steps: differentiable model steps of every update.
        rollout_steps: model steps of a distribution rollout, whose states are where updates start.
        rollout_every: updates from one distribution rollout to the next.
        rollout_batch: real states that each starts from.
        rollouts_kept: rollouts that updates draw from, the last ones.
        recent_share: share of these real states that is drawn from the last ``recent_steps``.
        recent_steps: see ``recent_share``.
        low_value_share: share that is drawn from the tenth of real states from which the policy is worth
            least: where it falls and where it is stuck.
        disagreement_ratio: a rollout ends where two draws of the next state, by two members, differ this many
            times as much as they do in 95 % of its first steps, which start from real states.
        range_rate: how fast the range of values follows the quantiles of imagined rewards.
        pessimism: in a world that is not refitted, what steps cost that its members disagree about; see
            ``DisagreementPenalty``. Needs a calibrated world.
        averaging_rate: how fast the averaged actor follows the one that learns; at first faster: it averages
            over the last tenth of the updates.
        choice_episodes: imagined episodes of each actor that are compared; the averaged one acts
            deterministically unless another is worth more.
        choice_steps: where these are cut.
        choice_margin: by which share of the averaged actor's worth another one's must be above it.
    """

    __pydantic_config__ = STRICT

    training_steps: _Number = 5
    rollout_steps: _Number = 20
    rollout_every: _Number = 40
    rollout_batch: _Number = 256
    rollouts_kept: _Number = 5
    recent_share: Share = 0.3
    recent_steps: _Number = 2_000
    low_value_share: Share = 0.2
    disagreement_ratio: Amount = 2.0
    range_rate: Share = 1e-3
    pessimism: Amount = 5.0
    averaging_rate: Share = 1e-3
    choice_episodes: _Number = 64
    choice_steps: _Number = 500
    choice_margin: Amount = 0.1


@dataclass(frozen=True)
class Path:
    """A batch of imagined rollouts of ``steps`` steps, differentiable in what acted.

    Attributes:
        obs: ``(steps + 1, batch, obs_dim)``.
        actions: ``(steps + 1, batch, action_dim)``, in [-1, 1].
        log_probs: ``(steps + 1, batch)``.
        rewards: ``(steps, batch)``.
        counts: ``(steps + 1, batch)``, 0 after an episode ended or the model diverged, else 1.
        sound: ``(batch,)`` bool, whether the model did not diverge.
    """

    obs: Tensor
    actions: Tensor
    log_probs: Tensor
    rewards: Tensor
    counts: Tensor
    sound: Tensor

    def last(self) -> tuple[Tensor, Tensor]:
        """Observation and action of the last state of each rollout that counts."""
        at, rows = self._last, torch.arange(len(self.sound))
        return self.obs[at, rows], self.actions[at, rows]

    @property
    def _last(self) -> Tensor:
        return self.counts.sum(0).long() - 1  # (batch,)

    def expanded_value(self, end_value: Tensor, ent_coef: Tensor, gamma: float) -> Tensor:
        """Value ``(batch,)`` of the first state and action, from that of the last ones (arXiv:1803.00101)."""
        target = end_value
        for h in reversed(range(len(self.rewards))):
            value = (target - ent_coef * self.log_probs[h + 1]) * self.counts[h + 1]
            target = self.rewards[h] + gamma * value
        return target

    def gain(self, last_value: Tensor, ent_coef: Tensor, gamma: float) -> Tensor:
        """Mean of discounted rewards and entropy and the value of ``last()``: what the actor ascends.

        A rollout that ended is cut before the action that ended it. Nothing can be differentiated through an
        end, but the slope of the value there says what the end cost.
        """
        powers = torch.tensor(gamma) ** torch.arange(len(self.counts))
        rewards = (powers[:-1, None] * self.rewards * self.counts[1:]).sum(0)
        log_probs = (powers[:, None] * self.log_probs * self.counts).sum(0)
        return (rewards + powers[self._last] * last_value - ent_coef * log_probs).mean()


def imagine(state: Tensor, steps: int, observe: Observe, act: Act, step: Step) -> Path:
    """Roll out from states ``(batch, state_dim)``."""
    seen: list[tuple[Tensor, ...]] = []
    rewards, count, sound = [], torch.ones(len(state)), torch.ones(len(state), dtype=torch.bool)
    for _ in range(steps):
        obs = observe(state)
        seen.append((obs, *act(obs), count))
        outcome = step(state, seen[-1][1])
        rewards.append(outcome.reward.float())  # one of a few known values is in double precision
        sound = sound & ~outcome.diverged
        count = count * ~(outcome.terminated | outcome.diverged)
        state = outcome.state.full
    obs = observe(state)
    seen.append((obs, *act(obs), count))
    every_obs, actions, log_probs, counts = (torch.stack(each) for each in zip(*seen, strict=True))
    return Path(every_obs, actions, log_probs, torch.stack(rewards), counts, sound)
