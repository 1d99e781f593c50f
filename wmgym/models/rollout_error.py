"""What decides when a fit has learned enough: how far rollouts come from held-out episodes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from wmgym.data.transitions import Transitions
from wmgym.models.config import FitConfig
from wmgym.models.ensemble import EnsembleMLP
from wmgym.models.training_loop import encoded_actions, in_one_unit, safe_std, windows


class RolloutError:
    """Open-loop error of every member on held-out windows, in units of the data's std."""

    def __init__(self, train: Transitions, held: np.ndarray, config: FitConfig, seed: int) -> None:
        length = config.rollout
        starts = windows(train, held, length)
        while len(starts) < 8 and length > 1:  # short episodes: shorter windows
            length //= 2
            starts = windows(train, held, length)
        rng = np.random.default_rng(seed)
        starts = rng.choice(starts, size=min(128, len(starts)), replace=False)
        rows = starts[:, None] + np.arange(length)  # (windows, length)
        self.core = torch.tensor(train.core[starts])
        self.action = encoded_actions(train)[rows]
        self.next_core = torch.tensor(train.next_core[rows])
        self.groups = [list(each) for each in train.task.core.geometry.vectors]
        self.alone = sorted({*range(train.core.shape[1])}.difference(*self.groups))
        self.std = in_one_unit(safe_std(torch.tensor(train.core)), train.task.core.geometry.vectors)

    @torch.no_grad()
    def __call__(self, model: EnsembleMLP) -> float:
        """Mean over steps, windows and members."""
        members, windows, here = model.num_members, len(self.core), model.input_mean.device
        action, next_core, std = (x.to(here) for x in (self.action, self.next_core, self.std))
        core = self.core.to(here).repeat(members, 1)
        member = torch.arange(members, device=here).repeat_interleave(windows)
        total = 0.0
        for h in range(action.shape[1]):
            change = model.predict_assigned(core, action[:, h].repeat(members, 1), member).mean
            core = model.coordinates.move(core, change[:, : model.coordinates.change_dim])[0]
            error = model.coordinates.distance(core, next_core[:, h].repeat(members, 1)) / std
            total += float(self._size(error).clamp(max=10.0).nan_to_num(10.0).mean())
        return total / action.shape[1]

    def _size(self, error: Tensor) -> Tensor:
        """Errors ``(n, dim)`` as one number each.

        A loose body has thirteen numbers and many a contact that nothing foresees: by each of them it would
        decide alone when an arm is known well enough. Its place, its rotation and either velocity count once.
        """
        if not self.groups:
            return error.square().mean(1).sqrt()
        vectors = [error[:, group].square().mean(1).sqrt() for group in self.groups]
        return torch.stack([*error[:, self.alone].abs().T, *vectors]).mean(0)
