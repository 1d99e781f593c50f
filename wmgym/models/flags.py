"""Columns of two values, such as contacts and switches: named from where a step led, not regressed.

The mean change of a flag says how likely it changes, which is seldom half and then rounds to "never". Whether
a leg touches the ground is seen from where it has come to.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from wmgym.data.columns import LARGEST
from wmgym.data.odd_columns import one_hot
from wmgym.data.transitions import Transitions
from wmgym.io.schema import ArraySpec, Record, check_arrays
from wmgym.models.batching import constant
from wmgym.models.config import FitConfig
from wmgym.models.coordinates import Coordinates
from wmgym.models.dynamics import register_dynamics
from wmgym.models.ensemble import EnsembleMLP
from wmgym.models.pairs import PairCoordinates, pair_features, pair_geometry, pair_shape
from wmgym.models.regression import fit_logits

TRACE = 1e-3
"""Probability below which a flag never changes: traces would add up over many steps."""

_ENOUGH = 8  # changes that held-out rows need, to be judged by
_FORESEEN = 0.8  # share of changes that the likeliest must name, or flags are drawn


@register_dynamics("flags")
class FlagNetwork(EnsembleMLP):
    """An ensemble whose means are logits of flags."""

    coordinates_type: ClassVar[type[Coordinates]] = PairCoordinates

    def loss(self, outputs: Tensor, labels: Tensor, ends: Tensor) -> Tensor:
        """Cross-entropy, mean over rows and flags, summed over members; see ``EnsembleMLP.loss``."""
        logits = outputs[..., : self.target_dim]
        return functional.binary_cross_entropy_with_logits(logits, labels) * self.num_members


@dataclass(frozen=True)
class Flags:
    """What a step makes of the columns of two values.

    Attributes:
        columns: ``(n,)`` int64, dimensions of the core.
        sources: ``(n,)`` int64, which logit each follows: a column that always equals another follows its.
        low: ``(n,)`` float32, the value below.
        high: likewise, above.
        drawn: whether they are drawn by their probability where there is a generator; false where the
            likeliest is right.
        network: logits ``(batch, flags)`` of the values above, from a core and the next one, whose flags are
            still those of before, and the action.
    """

    columns: np.ndarray
    sources: np.ndarray
    low: np.ndarray
    high: np.ndarray
    drawn: bool
    network: EnsembleMLP

    def settle(
        self, core: Tensor, next_core: Tensor, action: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """The next core with its flags; where gradients flow, they are those of expected flags.

        Args:
            core: ``(batch, core_dim)``.
            next_core: likewise, one step later.
            action: ``(batch, action_dim)``, encoded.
            generator: draws flags where these are to be drawn; None takes the likeliest.
        """
        at, source, low, high = (
            constant(x, core.device) for x in (self.columns, self.sources, self.low, self.high)
        )
        held = next_core.index_copy(1, at, core.index_select(1, at))
        logits = self.network.predict(torch.cat([core, held], 1), action).mean[0]
        likely = torch.sigmoid(logits)
        threshold: Tensor | float = 0.5
        if self.drawn and generator is not None:
            threshold = torch.rand(logits.shape, generator=generator, device=logits.device)
            threshold = threshold.clamp(TRACE, 1 - TRACE)
        value = torch.where((likely > threshold)[:, source], high, low)
        if logits.requires_grad:
            value = value + (likely - likely.detach())[:, source] * (high - low)
        return next_core.index_copy(1, at, value)

    def document(self) -> dict[str, Any]:
        """All but the network as JSON values."""
        names = ("columns", "sources", "low", "high")
        return {name: getattr(self, name).tolist() for name in names} | {"drawn": self.drawn}

    @classmethod
    def from_document(cls, document: Mapping[str, Any], network: EnsembleMLP, core_dim: int) -> Flags:
        """Rebuild what ``document`` gave.

        Raises:
            ValueError: its parts do not belong together.
        """
        record = _FlagsRecord.model_validate(document)
        arrays: dict[str, np.ndarray] = {
            "columns": np.array(record.columns, np.int64),
            "sources": np.array(record.sources, np.int64),
            "low": np.array(record.low, np.float32),
            "high": np.array(record.high, np.float32),
        }
        count = max(len(record.columns), 1)
        ends = ArraySpec((count,), low=-LARGEST, high=LARGEST)
        check_arrays(
            arrays,
            {
                "columns": ArraySpec((count,), "int64", low=0, high=core_dim - 1),
                "sources": ArraySpec((count,), "int64", low=0, high=network.target_dim - 1),
                "low": ends,
                "high": ends,
            },
        )
        if (arrays["low"] >= arrays["high"]).any() or len({*record.columns}) < len(record.columns):
            raise ValueError("flags have two values and stand in columns of their own")
        return cls(**arrays, drawn=record.drawn, network=network)


class _FlagsRecord(Record):
    """What ``Flags.document`` gives."""

    columns: list[int]
    sources: list[int]
    low: list[float]
    high: list[float]
    drawn: bool


def fit_flags(
    train: Transitions,
    rows: Tensor,
    held: np.ndarray,
    config: FitConfig,
    generator: torch.Generator,
    progress: bool,
    before: Flags | None = None,
    whole: bool = False,
) -> Flags | None:
    """The flags among the core's whole numbers; None where there are none.

    A fit that goes on knows those ``before``: they stay unless ``train`` holds the ``whole`` of what was
    learned, and shows every one of them.
    """
    geometry = train.task.core.geometry
    every = np.concatenate([train.core, train.next_core])
    flags = [i for i in geometry.whole if len(np.unique(every[:, i])) == 2]
    if before is not None and not (whole and {*before.columns.tolist()} <= {*flags, *dict(geometry.copies)}):
        return before
    if not flags:
        return None
    if (said := one_hot(train)) is not None:
        warnings.warn(said, stacklevel=3)
    config, low, high = replace(config, members=1), every.min(0), every.max(0)
    model = FlagNetwork(
        pair_shape(train, config, len(flags), pair_geometry(train.task.core.geometry)), generator
    )
    next_core = train.next_core.copy()
    next_core[:, flags] = train.core[:, flags]
    features = pair_features(model, train, next_core)
    labels = torch.tensor(train.next_core[:, flags] == high[flags]).float()
    changed = (train.core != train.next_core)[:, flags]
    # Without rows where a flag changes, the best network would be one that never changes any.
    judged = held if changed[held].sum() >= _ENOUGH else np.union1d(held, np.flatnonzero(changed.any(1)))
    logits = fit_logits(model, features, labels, rows, judged, config, generator, progress, "fit flags")
    named = (logits > 0).numpy() == labels.numpy()
    foreseen = named[judged][changed[judged]].mean() if changed.any() else 1.0
    copies = [(i, flags.index(source)) for i, source in geometry.copies if source in flags]
    columns = np.array([*flags, *(i for i, _ in copies)], np.int64)
    return Flags(
        columns,
        np.array([*range(len(flags)), *(source for _, source in copies)], np.int64),
        low[columns].astype(np.float32),
        high[columns].astype(np.float32),
        drawn=bool(foreseen < _FORESEEN),
        network=model.finished(),
    )
