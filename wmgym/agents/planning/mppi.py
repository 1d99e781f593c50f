"""Model predictive path integral control in an imagined world."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from wmgym.agents.planning.search import Planner, Search, spread
from wmgym.models.world import WorldModel


class MPPI(Planner):
    """Model predictive path integral control (Williams et al. 2017, arXiv:1509.01149): a policy by planning.

    Each call draws action sequences around a plan and imagines them from the state that the observation
    shows. The plan becomes their mean, weighted by the exponential of their returns, and the next iteration
    draws with their weighted deviation; the best few are judged again. The first action of the last plan is
    returned. The next call starts from the rest of it where the observation is near what was predicted, and
    anew elsewhere: for that the planner keeps the plans of its last call.

    The members of the ensemble judge sequences in turn. What terminates earns no more, and a sequence that
    diverges is not followed as long as another one does not. Of sequences that tie for the best return, as
    where reward is for staying alive, those count more that end nearer to the middle of the world's range.

    Random numbers follow from ``seed`` and the observation: the same calls after ``reset`` give the same
    actions, and an observation without a plan gets the same action whenever it is seen.
    """

    def __init__(
        self,
        world: WorldModel | str | os.PathLike[str],
        horizon: int = 25,
        samples: int = 256,
        *,
        iterations: int = 3,
        temperature: float = 0.5,
        noise: float = 0.8,
        seed: int = 0,
    ) -> None:
        """Plan in ``world``.

        Args:
            world: the learned simulator, the directory of a saved one, or the id of one that ships.
            horizon: steps ahead; what comes later counts nothing, so it has to reach what matters.
            samples: sequences that each iteration imagines.
            iterations: of drawing, imagining and averaging, in each call. A call costs ``iterations`` times
                ``horizon`` steps of ``samples`` imagined envs for each observation.
            temperature: of the weights, in standard deviations of the sequences' returns. Towards 0 the best
                sequence alone counts.
            noise: standard deviation of the sequences around the plan, in half action ranges; what leaves the
                action space is clipped to it.
            seed: decides everything random.

        Raises:
            ValueError: a number out of range, or a world with Discrete actions.
        """
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        self.temperature = temperature
        self._search = Search(world, horizon, samples, iterations, noise, seed, self._weights)

    def _weights(self, scores: Tensor) -> Tensor:
        best = scores.amax(1, keepdim=True)
        return torch.softmax((scores - best) / (self.temperature * spread(scores)).clamp_min(1e-6), 1)
