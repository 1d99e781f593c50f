"""Train with several seeds, side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from wmgym.agents.config import TrainConfig
from wmgym.agents.sb3.export import to_policy
from wmgym.agents.sb3.train import train
from wmgym.data.executors import chosen
from wmgym.data.policy import MLPPolicy
from wmgym.data.units import Executor, Unit, in_order
from wmgym.io.progress import Advance, track
from wmgym.models.saving import load
from wmgym.models.world import WorldModel


def train_seeds(
    world: WorldModel | str | os.PathLike[str],
    config: TrainConfig | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    *,
    executor: Executor | str | None = None,
    workers: int | None = None,
    starts: np.ndarray | None = None,
    progress: bool = False,
    **changes: Any,
) -> dict[int, MLPPolicy]:
    """What ``train`` gives with each of several seeds, as policies.

    Args:
        world: where to train; see ``train``.
        config: algorithm, budget and hyperparameters; None takes the defaults.
        seeds: one training each.
        executor: ``"serial"``, ``"processes"``, ``"ray"`` or what ``wmgym.make_executor`` made; None takes
            processes.
        workers: that many at once on this machine; None one a core.
        starts: see ``train``.
        progress: show a bar on a terminal.
        changes: fields of ``TrainConfig``, put in place of the config's.

    Raises:
        ValueError: no seeds, one twice, or what ``train`` refuses.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds must be some, each once, got {list(seeds)}")
    simulator = world if isinstance(world, WorldModel) else load(world)
    units = [Unit(f"seed {seed}", None, seed) for seed in seeds]

    def one(unit: Unit[None], advance: Advance) -> MLPPolicy:
        model = train(simulator, config, unit.seed, starts=starts, **changes)
        advance(1)
        return to_policy(model, f"{type(model).__name__} in imagination, seed {unit.seed}")

    where = chosen(executor, workers, len(units), pays=True)
    with track("train", len(units), show=progress) as advance:
        return dict(zip(seeds, in_order(where.map(one, units, advance)), strict=True))
