"""What planners share: action sequences drawn around a plan, judged by the returns that a world imagines."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from wmgym.models.saving import load
from wmgym.models.state import WorldState
from wmgym.models.world import WorldModel

Weigh = Callable[[Tensor], Tensor]
"""Scores ``(n, samples)``, -inf for what must not be followed, to weights that add up to 1 in each row."""

_KEPT = 0.03  # share of the sequences, the best ones, that the next iteration judges again


@dataclass(frozen=True)
class Plans:
    """The plans of one call, a row for each observation.

    Attributes:
        mean: ``(m, horizon, action_dim)``, in half action ranges from the middle, the executed action first.
        best: ``(m, kept, horizon, action_dim)``, the sequences with the highest scores.
        expected: ``(m, core_dim)``, the core predicted to follow the executed action.
        reach: ``(m, core_dim)``, how far the sequences take each core dimension, root mean square.
    """

    mean: Tensor
    best: Tensor
    expected: Tensor
    reach: Tensor

    def resumed(self, core: Tensor, angles: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """The plans that led to cores ``(n, core_dim)``, one step on: mean, best, and ``(n,)`` bool.

        A planner is called with observations alone, and rows come and go between calls, so a plan is found
        by where it led. It counts where the core is within ``reach`` of what was expected, root mean square
        over dimensions. In the shipped worlds the median next step of an episode is at 0.1 of it or less and
        the farthest seen at 0.6; a reset is at 2 or more, but at 0.2 in InvertedPendulum, where all starts
        are alike. A dimension that nothing moves, such as a goal, has to be met exactly.
        """
        error = core[:, None] - self.expected
        error[..., angles] = torch.remainder(error[..., angles] + math.pi, 2 * math.pi) - math.pi
        nearest = (error / self.reach.clamp_min(1e-6)).square().mean(2).sqrt().min(1)
        mean, best = (_one_step_on(part[nearest.indices]) for part in (self.mean, self.best))
        return mean, best, nearest.values < 1


class Search:
    """Iterated sampling around a plan; ``weigh`` tells one planner from another.

    Args:
        world: where to imagine: a world, the directory of a saved one, or the id of one that ships.
        horizon: steps ahead.
        samples: action sequences that each iteration judges.
        iterations: times that the plan is replaced by the weighted mean of these sequences.
        noise: standard deviation of the first iteration, in half action ranges; later ones draw with the
            weighted deviation of the sequences before them.
        seed: decides everything random.
        weigh: weights of sequences by their scores.

    Raises:
        ValueError: a number out of range, or a world with Discrete actions.
    """

    def __init__(
        self,
        world: WorldModel | str | os.PathLike[str],
        horizon: int,
        samples: int,
        iterations: int,
        noise: float,
        seed: int,
        weigh: Weigh,
    ) -> None:
        """Check all of it, and load the world."""
        for name, value, least in (
            ("horizon", horizon, 1), ("samples", samples, 2), ("iterations", iterations, 1)
        ):  # fmt: skip
            if value != int(value) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value}")
        if not 0 < noise < math.inf:
            raise ValueError(f"noise must be above 0 and finite, in half action ranges; got {noise}")
        self.world = world if isinstance(world, WorldModel) else load(world)
        space = self.world.task.action_space
        if not isinstance(space, spaces.Box):
            raise ValueError(
                f"planners draw real-valued actions and this world takes {space}; train a policy in it: "
                "wmgym.train(world, wmgym.TrainConfig(algorithm='PPO'))"
            )
        self.horizon, self.samples, self.iterations = int(horizon), int(samples), int(iterations)
        self.noise, self.seed, self.weigh = noise, seed, weigh
        self.action_shape = space.shape
        sides = (torch.tensor(side, device=self.world.device).flatten() for side in (space.low, space.high))
        low, high = (side.float() for side in sides)
        self.middle, self.half = (high + low) / 2, (high - low) / 2
        sides = (torch.tensor(side, device=self.world.device) for side in (self.world.low, self.world.high))
        low, high = (side[: self.world.task.core.dim] for side in sides)
        bounded = low.isfinite() & high.isfinite()  # angles that wrap around have no bounds
        self.center = torch.where(bounded, (high + low) / 2, 0.0)
        self.width = torch.where(bounded, (high - low) / 2, math.inf).clamp_min(1e-6)
        self.plans: Plans | None = None

    @torch.no_grad()
    def act(self, obs: np.ndarray) -> np.ndarray:
        """The first action of a new plan for each observation.

        Args:
            obs: ``(n, *obs_shape)``, or one observation alone.

        Returns:
            ``(n, *action_shape)`` float32, or one action alone.

        Raises:
            ValueError: observations of another shape, or that are not finite.
        """
        task = self.world.task
        array = np.asarray(task.flat(obs), np.float64)
        shape = task.observation_space.shape
        if shape not in (array.shape, array.shape[1:]):
            batch = ", ".join(map(str, ("n", *shape)))
            raise ValueError(f"observations here have shape {shape} or ({batch}), got {array.shape}")
        if not np.isfinite(array).all():
            raise ValueError("observations must be finite to plan from; these hold NaN or infinity")
        if not array.size:
            return np.zeros((0, *self.action_shape), np.float32)
        rows = array.reshape(-1, task.obs_dim)
        state = torch.tensor(np.asarray(task.core.from_obs(rows), np.float32), device=self.world.device)
        start = self.world.init(state, torch.Generator(device=state.device).manual_seed(0))
        self.plans = self._improved(start, [self._generator(row) for row in rows])
        action = (self.middle + self.half * self.plans.mean[:, 0]).cpu().numpy()
        return action.reshape(*array.shape[: array.ndim - len(shape)], *self.action_shape)

    def _generator(self, obs: np.ndarray) -> torch.Generator:
        """Noise by seed and observation, so that a row's does not depend on the rows beside it."""
        digest = hashlib.blake2b(f"{self.seed} ".encode() + obs.tobytes(), digest_size=8)
        return torch.Generator().manual_seed(int.from_bytes(digest.digest(), "little"))

    def _improved(self, start: WorldState, generators: list[torch.Generator]) -> Plans:
        """Plans from the states ``start``, which begin at those of the last call where these led there."""
        n, shape = len(start.core), (self.horizon, len(self.half))
        mean, best = start.core.new_zeros(n, *shape), start.core.new_zeros(n, 0, *shape)
        found = torch.zeros(n, dtype=torch.bool, device=mean.device)
        if self.plans is not None:
            mean, best, found = self.plans.resumed(start.core, self.world.task.core.geometry.angles)
            mean = mean * found[:, None, None]
        noise = torch.full_like(mean, self.noise)
        for _ in range(self.iterations):
            drawn = torch.stack([torch.randn(self.samples, *shape, generator=g) for g in generators])
            sequences = mean[:, None] + noise[:, None] * drawn.to(mean.device)
            sequences[:, 0] = mean
            last = sequences[:, self.samples - best.shape[1] :]
            last.copy_(torch.where(found[:, None, None, None], best, last))
            sequences = sequences.clamp(-1, 1)
            returns, ends = self.scores(start, sequences)
            scores = self.untied(returns, ends)
            weights = self.weigh(scores)[:, :, None, None]
            mean = (weights * sequences).sum(1)
            noise = (weights * (sequences - mean[:, None]).square()).sum(1).sqrt()
            order = scores.topk(max(1, int(_KEPT * self.samples)), 1).indices[:, :, None, None]
            best = sequences.gather(1, order.expand(-1, -1, *shape))
            found = torch.ones_like(found)
        following = self.world.step(start, self.middle + self.half * mean[:, 0], "mean").state.core
        reach = (ends - start.core[:, None]).square().mean(1).sqrt()
        return Plans(mean, best, following, reach)

    def scores(self, start: WorldState, sequences: Tensor) -> tuple[Tensor, Tensor]:
        """Imagined returns ``(n, samples)`` of sequences, and cores ``(n, samples, core_dim)`` at their ends.

        Members of the ensemble judge in turn. What terminates earns no more. What diverges scores -inf, as
        long as another sequence of its row does not.
        """
        n, samples = sequences.shape[:2]
        state = start.map(lambda part: part.repeat_interleave(samples, 0))
        turns = torch.arange(samples, device=state.core.device) % self.world.dynamics.num_members
        state = replace(state, member=turns.repeat(n))
        earned = state.core.new_zeros(n * samples)
        going, diverged = (
            torch.ones_like(earned, dtype=torch.bool),
            torch.zeros_like(earned, dtype=torch.bool),
        )
        for step in range(self.horizon):
            action = self.middle + self.half * sequences[:, :, step].flatten(0, 1)
            outcome = self.world.step(state, action.view(-1, *self.action_shape))
            state, earned = outcome.state, earned + outcome.reward.to(earned.dtype) * going
            diverged |= going & outcome.diverged
            going &= ~(outcome.terminated | outcome.diverged)
        scores, lost = earned.view(n, samples), diverged.view(n, samples)
        scores = scores.masked_fill(lost & ~lost.all(1, keepdim=True), -math.inf)
        return scores, state.core.view(n, samples, -1)

    def untied(self, scores: Tensor, ends: Tensor) -> Tensor:
        """Scores ``(n, samples)`` without ties for the best: nearer to the world's middle ranks higher.

        Where reward is for staying alive, as in InvertedPendulum, all sequences that survive the horizon
        return the same, so the plan would drift to where nothing survives for long. In the middle of its
        allowed range the world knows most and an episode has most room. What tied gets the standard
        deviation of all scores and stays above the rest, which stays as it is.
        """
        tied = scores == scores.amax(1, keepdim=True)
        away = ((ends - self.center) / self.width).square().mean(2)
        farthest = away.masked_fill(~tied, 0.0).amax(1, keepdim=True)
        count = tied.sum(1, keepdim=True)
        mean = (away * tied).sum(1, keepdim=True) / count
        deviation = ((away - mean).square() * tied).sum(1, keepdim=True).div(count).sqrt()
        scale = spread(scores)
        gain = torch.where(scale > 0, scale, 1.0) * (farthest - away) / deviation.clamp_min(1e-9)
        return torch.where(tied, scores + gain, scores)


class Planner:
    """A policy that plans by a ``Search``, which its subclass makes."""

    _search: Search

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        """Plan for observations ``(n, *obs_shape)``, or for one alone: ``(n, *action_shape)``, or one action.

        Raises:
            ValueError: observations of another shape, or that are not finite.
        """
        return self._search.act(obs)

    @property
    def imagined_steps(self) -> int:
        """Steps imagined for each observation of a call."""
        return self._search.iterations * self._search.horizon * self._search.samples

    def reset(self) -> None:
        """Forget the plans of the last call."""
        self._search.plans = None


def spread(scores: Tensor) -> Tensor:
    """Standard deviation of each row of scores ``(n, samples)``, -inf counted as the best: ``(n, 1)``."""
    return torch.where(scores.isfinite(), scores, scores.amax(1, keepdim=True)).std(1, keepdim=True)


def _one_step_on(plan: Tensor) -> Tensor:
    """Sequences ``(..., horizon, action_dim)`` without their first action, the middle action at their end."""
    return torch.cat([plan[..., 1:, :], torch.zeros_like(plan[..., :1, :])], -2)
