"""What lies between a robot's commands and its actuators: a delay, and play."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wmgym.data.transitions import Transitions

MEMORY = 4
"""Earlier actions that are remembered: a delay or play shows in these alone."""

_SHARES = (0.0, 0.07, 0.14, 0.22, 0.31, 0.42)
_REFINED = 8  # halvings of what is between two shares
_ROWS = 1_000  # of a log, by which drives are compared
_GAINS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.1, 1.25, 1.5)
_WORTH = 0.5  # of the error without a drive; play explains some of whatever makes a robot weaker
_NOTHING = 1e-4  # standard deviations of error, with which nothing is left to explain
_CLIP = 3.0  # standard deviations at which an error stops to count more: contacts have heavy tails


@dataclass(frozen=True)
class Drive:
    """A delay, then play, as ``wmgym.shift`` has them; the defaults pass every command on.

    Attributes:
        delay: steps by which a command acts late, ``MEMORY`` at most.
        half: ``(action_dim,)`` play: an actuator follows only where the command is further away than that,
            and then at that distance. Empty without play.
    """

    delay: int = 0
    half: tuple[float, ...] = ()

    def acts(self, action: Tensor, earlier: Tensor, held: Tensor) -> Tensor:
        """What acts ``(batch, action_dim)``.

        Args:
            action: the command ``(batch, action_dim)``.
            earlier: the ones before ``(batch, MEMORY * action_dim)``, the last one first.
            held: what acted in the step before ``(batch, action_dim)``; unread without play.
        """
        size, at = action.shape[1], self.delay - 1
        arrived = earlier[:, at * size : (at + 1) * size] if self.delay else action
        if not self.half:
            return arrived
        half = torch.tensor(self.half, dtype=action.dtype, device=action.device)
        return torch.minimum(torch.maximum(held, arrived - half), arrived + half)

    def replayed(self, action: Tensor, earlier: Tensor, data: Transitions) -> Tensor:
        """What acted in every transition of a log, whose episodes start at rest: ``(n, action_dim)``."""
        if not self.half:
            return self.acts(action, earlier, action)
        found = torch.zeros_like(action)
        for step in range(int(data.lengths.max())):
            rows = torch.as_tensor(data.first[data.lengths > step] + step)
            held = found[rows - 1] if step else torch.zeros_like(action[rows])
            found[rows] = self.acts(action[rows], earlier[rows], held)
        return found


PASSES = Drive()
"""Commands act at once and as they are."""


def find_drive(
    data: Transitions,
    action: Tensor,
    earlier: Tensor,
    half_range: np.ndarray,
    wrong: Callable[[np.ndarray, Tensor], Tensor],
    seed: int,
) -> Drive:
    """The drive with which a model explains a log best.

    None where that is not clearly better than commands as they are, or than weaker or stronger ones:
    saturated commands of a weak motor look like play, and are the correction's to learn.

    Args:
        data: the log.
        action: its commands ``(n, action_dim)`` as the model takes them.
        earlier: those before each ``(n, MEMORY * action_dim)``.
        half_range: of the commands ``(action_dim,)``, of which play is a share.
        wrong: errors ``(k, d)``, in standard deviations, of the model at some rows under what acted there.
        seed: decides which rows.
    """
    rows = np.sort(np.random.default_rng(seed).permutation(len(data))[:_ROWS])

    def error(drive: Drive, gain: float = 1.0) -> float:
        acted = gain * drive.replayed(action, earlier, data)[torch.as_tensor(rows)]
        return float(wrong(rows, acted).abs().nan_to_num(_CLIP).clamp(max=_CLIP).mean())

    def of(delay: int, share: float) -> Drive:
        return Drive(delay, tuple((share * half_range).tolist()) if share else ())

    none = error(PASSES)
    if none < _NOTHING:
        return PASSES
    tried = {(delay, share): error(of(delay, share)) for share in _SHARES for delay in range(MEMORY + 1)}
    delay, share = min(tried, key=lambda each: tried[each])
    width = _SHARES[1]
    for _ in range(_REFINED if share else 0):
        width /= 2
        tried |= {(delay, near): error(of(delay, near)) for near in (share - width, share + width)}
        share = min((share - width, share, share + width), key=lambda each: tried[delay, each])
    other = min(none, *(error(PASSES, gain) for gain in _GAINS))
    return of(delay, share) if tried[delay, share] < _WORTH * other else PASSES
