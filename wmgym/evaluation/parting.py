"""Where and when a simulator and a robot part, and what pushes there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch

from wmgym.data.transitions import Transitions
from wmgym.evaluation.reality import Diagnosis, Parting
from wmgym.models.world import WorldModel
from wmgym.tasks.ground_truth import inspect
from wmgym.tasks.task import Task

PARTING = 0.25  # std of a dimension at which simulator and robot have parted
_WORST = 5


def diagnosis(
    world: WorldModel,
    data: Transitions,
    starts: np.ndarray,
    error: np.ndarray,
    touching: Contacts,
) -> Diagnosis:
    """The diagnosis of windows.

    Args:
        world: the simulator.
        data: transitions of the robot.
        starts: ``(windows,)`` rows that windows start from.
        error: ``(horizon, windows, core_dim)``, in std.
        touching: what pushes.
    """
    over = error > PARTING  # (horizon, windows, core_dim)
    parted = over.any((0, 2))
    first = np.argmax(over.any(2), 0)  # (windows,)
    which = np.flatnonzero(parted)
    if not len(which):
        return Diagnosis(PARTING, 0.0, None, None, (), (), ())
    dimension = np.argmax(error[first[which], which], 1)
    rows = starts[which] + first[which]
    contacts = touching.names(data.core[rows])
    names = [world.core_names[i] for i in dimension]
    steps = float(np.median(first[which] + 1))
    soonest = np.argsort(first[which], kind="stable")[:_WORST]
    worst = []
    for k in soonest:
        window, episode = which[k], int(data.episode[starts[which[k]]])
        worst.append(
            Parting(
                policy=data.episode_policy[episode],
                episode=episode,
                start=int(starts[window] - data.first[episode]),
                steps=int(first[window] + 1),
                dimension=names[k],
                error=float(error[first[window], window, dimension[k]]),
                contact=contacts[k] if len(contacts) else "",
                nearest=_nearest(world, data.core[rows[k]]),
            )
        )
    return Diagnosis(
        threshold=PARTING,
        parted=float(parted.mean()),
        steps=steps,
        seconds=steps * world.task.dt,
        dimensions=_shares(names),
        contacts=_shares(contacts),
        worst=tuple(worst),
    )


def _shares(names: Sequence[str]) -> tuple[tuple[str, float], ...]:
    return tuple((name, count / len(names)) for name, count in Counter(names).most_common(6))


def _nearest(world: WorldModel, core: np.ndarray) -> float | None:
    if world.support is None:
        return None
    return float(world.novelty(torch.tensor(core[None], device=world.device))[0])


class Contacts:
    """What pushes, by MuJoCo's kinematics of a task; nothing where it has none."""

    def __init__(self, task: Task) -> None:
        self.task = task if task.has_env and task.core.to_mujoco is not None else None

    def names(self, cores: np.ndarray) -> list[str]:
        """For each core the parts that push, joined by +, or "free"; no names where nobody knows."""
        if self.task is None:
            return []
        found = inspect(self.task, cores)
        parts = [i for i, name in enumerate(found.geoms) if name not in ("floor", "ground", "geom0")]
        return ["+".join(found.geoms[i] for i in parts if row[i]) or "free" for row in found.contact]
