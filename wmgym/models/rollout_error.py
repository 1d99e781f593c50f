"""What decides what a fit keeps: how far rollouts come from held-out episodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from wmgym.data.transitions import Transitions
from wmgym.models.config import FitConfig
from wmgym.models.coordinates import Coordinates
from wmgym.models.dynamics import Carry, Dynamics, predict_assigned
from wmgym.models.ensemble import EnsembleMLP
from wmgym.models.training_loop import encoded_actions, in_one_unit, safe_std, windows


class RolloutError:
    """Open-loop error of every member on held-out windows, in units of the data's std.

    Attributes:
        starts: ``(windows,)`` rows of the data that they start from.
        length: steps of each.
    """

    def __init__(
        self, train: Transitions, held: np.ndarray, config: FitConfig, seed: int, newest: int = 0
    ) -> None:
        length = config.rollout
        first = len(train) - newest
        # Of a fit that goes on, the old episodes may have been learned from before: new ones weigh as much.
        groups = [rows for rows in (held[held < first], held[held >= first]) if len(rows)]
        found = [windows(train, rows, length) for rows in groups]
        while min(map(len, found)) < 8 and length > 1:  # short episodes: shorter windows
            length //= 2
            found = [windows(train, rows, length) for rows in groups]
        rng = np.random.default_rng(seed)
        size = 128 if len(groups) > 1 else min(128, len(found[0]))
        starts = np.concatenate([rng.choice(rows, size, replace=len(rows) < size) for rows in found])
        self.starts, self.length = starts, length
        rows = starts[:, None] + np.arange(length)  # (windows, length)
        self.core = torch.tensor(train.core[starts])
        self.action = encoded_actions(train)[rows]
        self.next_core = torch.tensor(train.next_core[rows])
        self.groups = [list(each) for each in train.task.core.geometry.vectors]
        self.alone = sorted({*range(train.core.shape[1])}.difference(*self.groups))
        self.std = in_one_unit(safe_std(torch.tensor(train.core)), train.task.core.geometry.vectors)

    def __call__(self, model: EnsembleMLP) -> float:
        """Mean over steps, windows and members."""
        every = [float(each.mean()) for each in self._rollouts(model, model.coordinates, self._size)]
        return sum(every) / len(every)

    def median(self, model: Dynamics, coordinates: Coordinates, carry: Tensor) -> float:
        """Mean over steps of the median over windows and members of the mean over dimensions.

        That is what ``wmgym.gap`` tells of simulators.

        Args:
            model: whose rollouts.
            coordinates: those of its changes.
            carry: ``(windows, n)``, what it remembers at the starts.
        """
        every = [float(each.median()) for each in self._rollouts(model, coordinates, _plain, carry)]
        return sum(every) / len(every)

    @torch.no_grad()
    def _rollouts(
        self,
        model: Dynamics,
        coordinates: Coordinates,
        size: Callable[[Tensor], Tensor],
        carry: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """Errors ``(members * windows,)`` after each step."""
        members, windows = model.num_members, len(self.core)
        here = getattr(model, "input_mean", self.core).device
        known: Carry = None if carry is None else carry.repeat(members, 1)
        action, next_core, std = (x.to(here) for x in (self.action, self.next_core, self.std))
        core = self.core.to(here).repeat(members, 1)
        member = torch.arange(members, device=here).repeat_interleave(windows)
        for h in range(action.shape[1]):
            given = action[:, h].repeat(members, 1)
            said = predict_assigned(model, core, given, member, known)
            change, known = said.mean, said.carry
            moved = coordinates.move(core, change[:, : coordinates.change_dim])[0]
            core = coordinates.followed(core, moved, given)
            error = coordinates.distance(core, next_core[:, h].repeat(members, 1)) / std
            yield size(error).clamp(max=10.0).nan_to_num(10.0)

    def _size(self, error: Tensor) -> Tensor:
        """Errors ``(n, dim)`` as one number each.

        A loose body has thirteen numbers and many a contact that nothing foresees: by each of them it would
        decide alone when an arm is known well enough. Its place, its rotation and either velocity count once.
        """
        if not self.groups:
            return error.square().mean(1).sqrt()
        vectors = [error[:, group].square().mean(1).sqrt() for group in self.groups]
        return torch.stack([*error[:, self.alone].abs().T, *vectors]).mean(0)


def _plain(error: Tensor) -> Tensor:
    """Errors ``(n, dim)`` as their mean sizes."""
    return error.abs().mean(1)
