"""Run real episodes' actions open loop in imagination, and compare the states."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from wmgym.data.transitions import Transitions
from wmgym.models.dynamics import Carry, Propagation, predict_assigned
from wmgym.models.world import WorldModel
from wmgym.tasks import actions


@dataclass(frozen=True)
class OpenLoopStep:
    """Imagined against real states after one more step; NaN where the real episode was over.

    ``stacked`` puts a dimension ``horizon`` before these shapes.

    Attributes:
        error: ``(n, core_dim)`` absolute error, raw units; ``world.core_names`` names the dimensions.
        core: ``(n, core_dim)`` imagined, raw units.
        disagreement: ``(n, core_dim)`` of each episode so far, see ``WorldModel.disagreement``; zeros without
            ``trust``.
        reward: ``(n,)`` imagined for that step.
    """

    error: np.ndarray
    core: np.ndarray
    disagreement: np.ndarray
    reward: np.ndarray


def open_loop_errors(
    world: WorldModel,
    real: Transitions,
    starts: np.ndarray,
    horizon: int,
    propagation: Propagation,
    seed: int = 0,
) -> Iterator[np.ndarray]:
    """The errors of ``open_loop_steps`` alone: ``(len(starts), core_dim)``, raw units, after each step."""
    return (step.error for step in open_loop_steps(world, real, starts, horizon, propagation, seed))


def open_loop_steps(
    world: WorldModel,
    real: Transitions,
    starts: np.ndarray,
    horizon: int,
    propagation: Propagation,
    seed: int = 0,
    trust: bool = False,
) -> Iterator[OpenLoopStep]:
    """Run real actions open loop in imagination: what comes of it after each of 1 .. ``horizon`` steps.

    Args:
        world: where to imagine.
        real: real transitions of the same task.
        starts: ``(n,)`` int64, rows of ``real`` to start from.
        horizon: number of steps.
        propagation: see ``WorldModel.step``.
        seed: decides everything random.
        trust: also follow a second member, for ``disagreement``; needs a calibrated world.
    """
    device, shape = world.device, (len(starts), real.core.shape[1])
    generator = torch.Generator(device).manual_seed(seed)
    state = world.init(known_states(world, real, starts), generator)
    carry = remembered(world, real, starts, state.member)
    state = replace(state, carry=carry, companion_carry=carry)
    left = steps_left(real)[starts]
    going = np.arange(len(starts))
    for h in range(horizon):
        keep = left[going] > h
        if not keep.all():  # replay only what can still be compared
            kept = torch.tensor(keep.nonzero()[0], device=device)
            state, going = state.map(lambda rows, kept=kept: rows[kept]), going[keep]  # type: ignore[misc]
        error, core, disagreement = (np.full(shape, np.nan, np.float32) for _ in range(3))
        reward = np.full(shape[0], np.nan, np.float32)
        if len(going):
            rows = starts[going] + h
            action = given_actions(world, real.action[rows])
            with torch.no_grad():
                step = world.step(state, action, propagation, generator, trust)
            state, reward[going] = step.state, step.reward.cpu().numpy()
            core[going] = state.core.cpu().numpy()
            error[going] = np.abs(world.coordinates.distance(core[going], real.next_core[rows]))
            disagreement[going] = world.disagreement(state, np.full(len(going), h + 1)) if trust else 0.0
        yield OpenLoopStep(error, core, disagreement, reward)


def known_states(world: WorldModel, real: Transitions, rows: np.ndarray) -> torch.Tensor:
    """Real states ``(n, state_dim)`` as far as the world knows them: MuJoCo alone knows no readouts."""
    return torch.tensor(real.state[rows][:, : world.task.core.state_dim], device=world.device)


def remembered(world: WorldModel, real: Transitions, starts: np.ndarray, member: torch.Tensor) -> Carry:
    """What a model with a memory knows after the real steps before rows ``starts`` ``(n,)``; else None."""
    carry: Carry = None
    step = starts - real.first[real.episode[starts]]
    for back in range(getattr(world.dynamics, "memory", 0), 0, -1):
        there, rows = torch.tensor(step >= back, device=world.device), np.maximum(starts - back, 0)
        core, action = torch.tensor(real.core[rows]), given_actions(world, real.action[rows])
        with torch.no_grad():
            seen = core.to(world.device), world.encode_action(action)
            after = predict_assigned(world.dynamics, *seen, member, carry).carry
        parts = after if isinstance(after, tuple) else () if after is None else (after,)
        kept = tuple(part * there.view(-1, *[1] * (part.ndim - 1)) for part in parts)
        carry = kept if isinstance(after, tuple) else kept[0] if kept else None
    return carry


def stacked(steps: Iterable[OpenLoopStep]) -> OpenLoopStep:
    """All steps of ``open_loop_steps`` at once: arrays ``(horizon, n, ...)``."""
    every = list(steps)
    return OpenLoopStep(*(np.stack([getattr(s, part.name) for s in every]) for part in fields(OpenLoopStep)))


def survived(replays: OpenLoopStep, real: Transitions, starts: np.ndarray) -> OpenLoopStep:
    """Replays ``(horizon, n, ...)`` in which windows that a real termination ended keep their last values.

    Otherwise only the calm episodes would count for many steps, and bounds would narrow with the horizon for
    no other reason than that the others are gone.
    """
    horizon = len(replays.error)
    left = steps_left(real)[starts]
    ended = real.terminated[np.cumsum(real.lengths) - 1][real.episode[starts]]
    last = np.where(ended, left, horizon).clip(max=horizon) - 1  # (n,) the last step with values of its own
    at = np.minimum(np.arange(horizon)[:, None], last)
    column = np.arange(len(starts))
    return OpenLoopStep(*(getattr(replays, part.name)[at, column] for part in fields(OpenLoopStep)))


def spread(values: np.ndarray, most: int) -> np.ndarray:
    """The values, or ``most`` of them from first to last, evenly."""
    return values.take(np.linspace(0, len(values) - 1, min(len(values), most)).astype(int), 0)


def spread_starts(data: Transitions, most: int) -> np.ndarray:
    """Rows ``(n,)`` to start from: every episode's first, and up to ``most`` spread evenly over the data."""
    return np.union1d(spread(np.arange(len(data)), most), spread(data.first, most))


def steps_left(data: Transitions) -> np.ndarray:
    """Transitions from each row to its episode's end, that row included: ``(n,)``."""
    return np.asarray(np.cumsum(data.lengths)[data.episode] - np.arange(len(data)))


def given_actions(world: WorldModel, stored: np.ndarray) -> torch.Tensor:
    """Stored actions ``(n, ...)`` as the agent gave them, whole numbers from their space's start."""
    first = torch.as_tensor(actions.first(world.task.action_space), device=world.device)
    return torch.tensor(stored, device=world.device) + first
