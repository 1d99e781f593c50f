"""A few steps that a world took when it was saved, taken again when it is loaded.

A checksum says that the bytes are the ones that were written. It does not say that this version of torch,
this build or this release of wmgym makes the same robot of them; a few steps do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from wmgym.io.files import StoreError
from wmgym.io.provenance import library_versions
from wmgym.io.schema import Record, refusing
from wmgym.tasks import actions

_STEPS = 8
_TOLERANCE = 1e-3  # of a column's largest number: far above rounding, and small beside what a member errs


class CheckRecord(Record):
    """Steps from the first start state, as a world's document holds them.

    Attributes:
        action: ``(steps, numbers)`` of one action, as the env takes it, flattened.
        core: ``(steps, core_dim)``, where the mean of all members leads.
        reward: ``(steps,)``.
    """

    action: list[list[float]]
    core: list[list[float]]
    reward: list[float]


def record_check(world: Any) -> dict[str, Any] | None:
    """What ``compare_check`` takes of a ``WorldModel``, whose module imports this one.

    Under random actions; None where the path is not finite, or where a model of the caller's cannot be
    stepped or steps otherwise the next time.
    """
    action = actions.uniform(world.task.action_space, np.random.default_rng(0), _STEPS).reshape(_STEPS, -1)
    try:
        (core, reward), again = _path(world, action), _path(world, action)
    except Exception:  # whatever a class of the caller's raises, load says better what is wrong with it
        return None
    if not (np.array_equal(core, again[0]) and np.array_equal(reward, again[1])):
        return None
    if not (np.isfinite(core).all() and np.isfinite(reward).all()):
        return None
    return {"action": action.astype(float).tolist(), "core": core.tolist(), "reward": reward.tolist()}


def compare_check(world: Any, check: Any, name: str, *, given: bool) -> None:
    """Step as when the world was saved.

    Args:
        world: as it was loaded.
        check: what was recorded then, as ``CheckRecord`` describes it; None compares nothing.
        name: of the directory, for the error.
        given: whether the caller gave the task, whose reward may be another one.

    Raises:
        StoreError: it steps to somewhere else, or these are no steps of such a task.
    """
    if check is None:
        return
    with refusing(name, "a world", "fit it again"):
        _compare(world, CheckRecord.model_validate(check), name, given)


def _compare(world: Any, record: CheckRecord, name: str, given: bool) -> None:
    action, core, reward = (np.array(record.action), np.array(record.core), np.array(record.reward))
    space, steps = world.task.action_space, len(reward)
    size = int(np.prod(space.shape or ()))
    if (
        not 1 <= steps <= _STEPS
        or action.shape != (steps, size)
        or core.shape != (steps, world.task.core.dim)
    ):
        raise ValueError(f"its recorded steps have shapes {action.shape}, {core.shape}, {reward.shape}")
    shaped = action.astype(space.dtype).reshape(steps, *(space.shape or ()))
    if not all(space.contains(one) for one in shaped):
        raise ValueError("its recorded actions are none of the task's")
    found, paid = _path(world, action)
    pairs = [(found, core)] + ([] if given else [(paid[:, None], reward[:, None])])
    off = max(float((np.abs(new - old).max(0) / (np.abs(old).max(0) + 1e-3)).max()) for new, old in pairs)
    if off <= _TOLERANCE:  # NaN is not
        return
    then, now = world.provenance.versions, library_versions()
    changed = [f"{key} {then[key]}, now {now.get(key, 'none')}" for key in then if then[key] != now.get(key)]
    cause = f"it was made with {'; '.join(changed)}" if changed else "this machine's torch or a file differs"
    raise StoreError(
        f"steps otherwise than when it was saved, by {off:.2g} of a column's range in {steps} steps; "
        f"{cause}. Install what it was made with, or fit it again"
    )


@torch.no_grad()
def _path(world: Any, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cores ``(steps, core_dim)`` and rewards ``(steps,)`` that flat actions lead to."""
    space, device = world.task.action_space, world.device
    shaped = torch.tensor(
        action.astype(space.dtype).reshape(len(action), 1, *(space.shape or ())), device=device
    )
    at = world.init(torch.tensor(world.starts[:1], device=device), torch.Generator(device).manual_seed(0))
    cores, rewards = [], []
    for now in shaped:
        step = world.step(at, now.long() if actions.whole(space) else now.float(), "mean")
        at = step.state
        cores.append(at.core[0].double().cpu().numpy())
        rewards.append(float(step.reward[0]))
    return np.stack(cores), np.array(rewards)
