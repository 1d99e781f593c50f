"""What lies between a robot's commands and its actuators: a delay, and play."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from wmgym.data.transitions import Transitions
from wmgym.models.batching import constant
from wmgym.models.dynamics import Carry
from wmgym.models.training_loop import encoded_actions
from wmgym.tasks.shift import SHIFTED, shift
from wmgym.tasks.task import Task, on_robot

MEMORY = 4
"""Earlier actions that are remembered: a delay or play shows in these alone."""

WORTH = 0.5
"""Of the error without a drive, the most that one with it may have: play explains some of whatever makes a
robot weaker."""

_SHARES = (0.0, 0.07, 0.14, 0.22, 0.31, 0.42)
_REFINED = 8  # halvings of what is between two shares
_ROWS = 1_000  # of a log, by which drives are compared
_GAINS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.1, 1.25, 1.5)
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

    @classmethod
    def of(cls, delay: int, share: float, half_range: np.ndarray) -> Drive:
        """One whose play is a share of half the range ``(action_dim,)`` of every command."""
        return cls(delay, tuple((share * half_range).tolist()) if share else ())

    def share(self, half_range: np.ndarray) -> float:
        """The share of half the range ``(action_dim,)`` of its commands that its play is."""
        return float(np.mean(self.half / half_range)) if self.half else 0.0

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
        half = constant(np.array(self.half), action.device).to(action.dtype)
        return torch.minimum(torch.maximum(held, arrived - half), arrived + half)

    def remembered(self, action: Tensor, carry: Carry) -> tuple[Tensor, Tensor]:
        """Earlier actions, and what acted last, as ``carried`` keeps them; episodes start at rest."""
        rows, size = action.shape
        if carry is None:
            carry = action.new_zeros(rows, (MEMORY + 1) * size)
        assert isinstance(carry, Tensor)
        return carry[:, : MEMORY * size], carry[:, MEMORY * size :]

    def carried(self, action: Tensor, earlier: Tensor, acts: Tensor) -> Tensor:
        """What to remember for the next step: actions, and where there is play what acted."""
        kept = [action, earlier[:, : -action.shape[1]]]
        return torch.cat([*kept, acts] if self.half else kept, 1)

    def before(self, data: Transitions, rows: np.ndarray) -> Tensor:
        """What ``carried`` keeps of a log's steps before ``rows`` ``(n,)``."""
        action, earlier = encoded_actions(data), earlier_actions(data)
        kept = [earlier[rows]]
        if self.half:
            acted = self.replayed(action, earlier, data)
            inside = torch.as_tensor(rows > data.first[data.episode[rows]])[:, None]
            kept.append(acted[np.maximum(rows - 1, 0)] * inside)
        return torch.cat(kept, 1)

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


def half_ranges(task: Task) -> np.ndarray:
    """Half the range of every command ``(action_dim,)``; none for whole actions."""
    space = task.action_space
    if not isinstance(space, spaces.Box):
        return np.zeros(0)
    half: np.ndarray = (space.high - space.low).reshape(-1) / 2
    return half


def without_drive(task: Task) -> tuple[Drive, Task]:
    """The drive of a changed robot, and the robot without it; other tasks stay as they are.

    Raises:
        ValueError: it delays by more than ``MEMORY`` steps.
    """
    kwargs = dict(task.env_kwargs)
    delay, share = (kwargs.pop(name, 0) for name in ("delay", "backlash"))
    if task.env_id != SHIFTED or not (delay or share):
        return PASSES, task
    if delay > MEMORY:
        raise ValueError(f"a simulator delays commands by {MEMORY} steps at most, this robot by {delay}")
    return Drive.of(delay, share, half_ranges(task)), on_robot(task, shift(**kwargs))


def earlier_actions(data: Transitions) -> Tensor:
    """The actions before each transition, the last one first, zeros before an episode's start.

    ``(n, MEMORY * action_dim)``, as models take them.
    """
    action, step = encoded_actions(data), np.arange(len(data)) - data.first[data.episode]
    rows = np.arange(len(data))
    found = []
    for back in range(1, MEMORY + 1):
        before = action[np.maximum(rows - back, 0)].clone()
        before[torch.tensor(step < back)] = 0
        found.append(before)
    return torch.cat(found, 1)


class DriveSearch:
    """Looks for the drive with which a model explains a log best.

    Args:
        data: the log, of commands in a box.
        seed: decides by which rows drives are compared.
    """

    def __init__(self, data: Transitions, seed: int) -> None:
        self.data, self.half_range = data, half_ranges(data.task)
        self.action, self.earlier = encoded_actions(data), earlier_actions(data)
        self._rows = np.sort(np.random.default_rng(seed).permutation(len(data))[:_ROWS])

    def replayed(self, drive: Drive) -> Tensor:
        """What acted in every transition ``(n, action_dim)``."""
        return drive.replayed(self.action, self.earlier, self.data)

    def best(self, wrong: Wrong, known: Drive = PASSES, plays: bool = True) -> tuple[Drive, float]:
        """The drive with the least error, the known one among them, and that error.

        Args:
            wrong: the model's errors.
            known: where to begin.
            plays: whether drives with play are tried as well, not only delays.
        """
        none = self.error(wrong, known)
        if none < _NOTHING:
            return known, none
        tried = {
            (delay, share): self.error(wrong, Drive.of(delay, share, self.half_range))
            for share in (_SHARES if plays else _SHARES[:1])
            for delay in range(MEMORY + 1)
        }
        delay, share = min(tried, key=lambda each: tried[each])
        width = _SHARES[1]
        for _ in range(_REFINED if share else 0):
            width /= 2
            for near in (share - width, share + width):
                tried[delay, near] = self.error(wrong, Drive.of(delay, near, self.half_range))
            share = min((share - width, share, share + width), key=lambda each: tried[delay, each])
        least = tried[delay, share]
        return (known, none) if none <= least else (Drive.of(delay, share, self.half_range), least)

    def clear(self, wrong: Wrong, known: Drive = PASSES) -> Drive:
        """The best drive; the known one where it is not clearly better than that, or than other strengths.

        Commands of a weak motor look like those that play has made smaller, late ones too; a strength is for
        a correction to learn, or for what looks for a gear.
        """
        drive, error = self.best(wrong, known)
        if drive.half and drive != known:
            late = {delay: self._any_strength(wrong, Drive(delay)) for delay in range(MEMORY + 1)}
            delay = min(late, key=lambda each: late[each])
            if error >= WORTH * late[delay]:
                drive, error = Drive(delay), late[delay]
        return drive if error < WORTH * self._any_strength(wrong, known) else known

    def _any_strength(self, wrong: Wrong, drive: Drive) -> float:
        return min(self.error(wrong, drive, gain) for gain in (1.0, *_GAINS))

    def error(self, wrong: Wrong, drive: Drive, gain: float = 1.0) -> float:
        """Mean clipped error of a model under a drive, in standard deviations."""
        acted = gain * self.replayed(drive)[torch.as_tensor(self._rows)]
        return float(wrong(self._rows, acted).abs().nan_to_num(_CLIP).clamp(max=_CLIP).mean())


Wrong = Callable[[np.ndarray, Tensor], Tensor]
"""Errors ``(k, d)`` of a model, in standard deviations, at ``k`` rows of a log under what acted there."""
