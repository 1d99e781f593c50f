"""Everything that the future of an imagined env depends on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from wmgym.models.state import WorldState


@dataclass(frozen=True)
class EnvSnapshot:
    """Everything that the future of an imagined env depends on; see ``ImaginedVectorEnv.snapshot``."""

    state: WorldState
    elapsed: np.ndarray
    ended: np.ndarray
    place: np.ndarray
    generator: torch.Tensor
