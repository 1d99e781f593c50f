"""Settings of a fit and of the ensemble."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Annotated, Any, Literal, TypeAlias, get_args

import torch
from pydantic import Field

from wmgym.io.schema import STRICT
from wmgym.models.dynamics import Precision
from wmgym.tasks.geometry import Geometry

OptimizerName: TypeAlias = Literal["AdamW", "Muon"]


@dataclass(frozen=True)
class FitConfig:
    """How to fit.

    Attributes:
        members: ensemble members.
        width: units a hidden layer.
        depth: hidden layers.
        layer_norm: normalise them; better with a few thousand transitions, worse with many.
        batch_size: transitions a member and update.
        optimizer: "AdamW", or "Muon" for the hidden layers: it learns more of many data by each update, which
            takes twice the time at 128 units a layer and more at more.
        learning_rate: the optimiser's, decayed by cosine to a tenth, Muon's to a fiftieth.
        weight_decay: likewise.
        max_updates: gradient steps at most.
        eval_every: updates between two looks at the rollout error.
        patience: looks without improvement before stopping.
        validation: share of the training steps held out for those looks, by whole episodes.
        rollout: steps of the open-loop rollouts that decide.
        finetune_updates: further gradient steps through rollouts, which see the states that the model itself
            leads to (Venkatraman et al. 2015; Li et al. 2025, arXiv:2501.10100).
        finetune_steps: steps of those rollouts.
        precision: of the hidden layers' arithmetic while fitting; "bfloat16" takes two thirds of the time
            where the processor has it.
        device: torch device that learns, such as "cuda"; the world comes out on the CPU. Its weights are
            another device's, so they differ from those that the CPU would find.
        margin: imagined states may leave the data's range by this share of it before they count as diverged.
    """

    __pydantic_config__ = STRICT

    members: int = 8
    width: int = 256
    depth: int = 3
    layer_norm: bool = True
    batch_size: int = 256
    optimizer: OptimizerName = "AdamW"
    learning_rate: float = 5e-3
    weight_decay: float = 1e-4
    max_updates: int = 3_000
    eval_every: int = 100
    patience: int = 8
    validation: float = 0.1
    rollout: int = 16
    finetune_updates: int = 0
    finetune_steps: int = 8
    precision: Precision = "float32"
    device: str = "cpu"
    margin: float = 1.0

    def __post_init__(self) -> None:
        """Refuse settings that cannot train."""
        for name, least in (
            ("members", 1), ("width", 1), ("depth", 1), ("batch_size", 1), ("max_updates", 1),
            ("eval_every", 1), ("patience", 1), ("rollout", 1), ("finetune_steps", 1),
            ("finetune_updates", 0),
        ):  # fmt: skip
            value = getattr(self, name)
            if not isinstance(value, Integral) or isinstance(value, bool):
                raise ValueError(f"{name} must be a whole number, got {value!r}")
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        for name in ("learning_rate", "weight_decay", "validation", "margin"):
            if not isinstance(getattr(self, name), Real):
                raise ValueError(f"{name} must be a number, got {getattr(self, name)!r}")
        if self.optimizer not in get_args(OptimizerName):
            raise ValueError(f"optimizer must be AdamW or Muon, got {self.optimizer!r}")
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision must be float32 or bfloat16, got {self.precision!r}")
        check_device(self.device)
        if not (
            0 < self.validation < 1 and self.learning_rate > 0 and min(self.weight_decay, self.margin) >= 0
        ):
            raise ValueError(
                "need 0 < validation < 1, learning_rate > 0, and weight_decay >= 0 and margin >= 0"
            )


@dataclass(frozen=True)
class EnsembleConfig:
    """Architecture of ``EnsembleMLP``; stored with a world."""

    __pydantic_config__ = STRICT

    geometry: Geometry
    action_dim: int
    target_dim: int
    learns_termination: bool = False
    members: int = 8
    width: int = 256
    depth: Annotated[int, Field(ge=1)] = 3
    layer_norm: bool = True

    def check_sizes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Refuse sizes that are not those of the weights, before anything of such a size is made.

        Args:
            shapes: of the stored arrays, by name.

        Raises:
            KeyError: there are too few layers.
            ValueError: a size differs.
        """
        first, last = shapes["weights.0"], shapes[f"weights.{self.depth}"]
        outputs = 2 * self.target_dim + int(self.learns_termination)
        if first != (self.members, first[1], self.width) or last != (self.members, self.width, outputs):
            raise ValueError("members, width, depth or target_dim differ from the weights")
        core, inputs = self.geometry, first[1]
        # A dimension is seen or free; coordinates of a user's own may see several in one.
        if not (
            0 <= self.action_dim <= inputs
            and 0 <= core.dim <= 16 * inputs + len(core.free)
            and 0 <= core.displacement_dim <= self.target_dim
        ):
            raise ValueError("the core or the action has more dimensions than the weights")


def check_device(device: str | torch.device) -> None:
    """Refuse a device that this torch does not know or this machine does not have, in one line."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device={device!r} cannot be used here: {reason}") from None


def architecture(config: FitConfig, **given: Any) -> EnsembleConfig:
    """The architecture that a fit's settings ask for, with the sizes that data give."""
    names = ("members", "width", "depth", "layer_norm")
    return EnsembleConfig(**({name: getattr(config, name) for name in names} | given))
