"""Everything that the future of an imagined env depends on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from wmgym.models.state import WorldState


@dataclass(frozen=True)
class EnvSnapshot:
    """Everything that the future of an imagined env depends on; see ``ImaginedVectorEnv.snapshot``.

    Attributes:
        state: of the world, ``num_envs`` episodes.
        elapsed: ``(num_envs,)`` int64, steps since each episode's start.
        ended: ``(num_envs,)`` bool, episodes that are over and not yet started anew.
        place: ``(num_envs, displacement_dim)``, where the root has moved to, for pictures.
        generator: state of the env's random generator.
    """

    state: WorldState
    elapsed: np.ndarray
    ended: np.ndarray
    place: np.ndarray
    generator: torch.Tensor

    def __repr__(self) -> str:
        return f"EnvSnapshot(num_envs={len(self.elapsed)})"

    def repeated(self, n: int) -> EnvSnapshot:
        """``n`` copies of every episode, those of one beside each other.

        Raises:
            ValueError: less than one copy.
        """
        if n < 1:
            raise ValueError(f"fork into at least 1 copy, got n={n}")
        return EnvSnapshot(
            self.state.map(lambda part: part.repeat_interleave(n, 0)),
            self.elapsed.repeat(n),
            self.ended.repeat(n),
            self.place.repeat(n, 0),
            self.generator,
        )
