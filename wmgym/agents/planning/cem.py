"""The cross-entropy method in an imagined world."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from wmgym.agents.planning.search import Planner, Search
from wmgym.models.world import WorldModel


class CEM(Planner):
    """Planning by the cross-entropy method, as in PETS (Chua et al. 2018, arXiv:1805.12114).

    Like ``MPPI``, but the plan becomes the plain mean of the best sequences, and each iteration draws with
    their standard deviation, so that it narrows down. As in iCEM (Pinneri et al. 2020, arXiv:2008.06389) the
    best few sequences stay for the next iteration, and for the next call.
    """

    def __init__(
        self,
        world: WorldModel | str | os.PathLike[str],
        horizon: int = 25,
        samples: int = 256,
        *,
        iterations: int = 3,
        elites: float = 0.1,
        noise: float = 0.5,
        seed: int = 0,
    ) -> None:
        """Plan in ``world``.

        Args:
            world: see ``MPPI``.
            horizon: see ``MPPI``.
            samples: see ``MPPI``.
            iterations: see ``MPPI``.
            elites: share of the sequences, the best ones, that make the next plan.
            noise: standard deviation of the first iteration, in half action ranges.
            seed: decides everything random.

        Raises:
            ValueError: a number out of range, or a world with Discrete actions.
        """
        if not 0 < elites <= 1:
            raise ValueError(f"elites must be a share above 0 and at most 1, got {elites}")
        self.elites = max(2, round(elites * samples))
        self._search = Search(world, horizon, samples, iterations, noise, seed, self._weights)

    def _weights(self, scores: Tensor) -> Tensor:
        chosen = torch.zeros_like(scores).scatter_(1, scores.topk(self.elites, 1).indices, 1.0)
        chosen = chosen * scores.isfinite()
        return chosen / chosen.sum(1, keepdim=True)
