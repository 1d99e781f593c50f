"""Calibration: how far off a world may be, measured on held-out real episodes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import numpy as np
from pydantic import Field

from wmgym.io.deprecation import renamed
from wmgym.io.schema import ArraySpec, Fingerprint
from wmgym.models.dynamics import PROPAGATIONS, Propagation


@renamed(per_doubt="per_disagreement")
@dataclass(frozen=True, repr=False)
class Calibration:
    """Error bounds of a world and the evidence for them, from held-out real episodes.

    Attributes:
        level: probability with which a half-width holds, marginally per dimension and step.
        std_scale: ``(target_dim,)`` factor for the one-step noise, such that sampled episodes from one start
            cover the truth within one sigma 68.27 % of the time.
        half_width: for each propagation ``(horizon, core_dim)`` in raw units; row ``h - 1`` bounds the error
            after ``h`` steps from an episode's start, where nothing else is known of the episode.
        per_disagreement: likewise, the half-width at a ``disagreement`` of 1, to be multiplied by
            ``disagreement ** power``: narrower where two members' paths stay together.
        power: for each propagation ``(horizon,)``, the exponent between 0.25 and 1 with which held-out bounds
            were narrowest.
        tube: for each propagation ``(horizon,)`` factor that widens all bounds of the first ``h`` steps so
            that they hold simultaneously, in all dimensions.
        distrust: for each propagation ``(horizon,)`` median over held-out windows of the bound given
            disagreement, in units of ``data_std``, mean over dimensions.
        windows: ``(horizon,)`` number of held-out windows behind each row.
        episodes: number of held-out episodes behind all of it.
        coverage: for each propagation ``(2, horizon)`` share of held-out errors inside the bound by the step
            and inside the bound given disagreement, when each policy (each episode, where one policy made
            all) is judged by a bound made from the others; NaN at steps where this was not measured.
        data_std: ``(core_dim,)``, the unit of normalised errors: the standard deviation of the held-out data,
            and no less than a quarter of that of the data that the world was fitted to, see ``state_unit``.
        center: ``(core_dim,)`` median of the held-out data.
        reach: ``(core_dim,)`` distance from ``center`` that held-out states keep with probability ``level``;
            no bound is wider than this marginal state range.
        fingerprints: content hashes of the episodes used.
    """

    level: Annotated[float, Field(gt=0, lt=1)]
    std_scale: np.ndarray
    half_width: dict[Propagation, np.ndarray]
    per_disagreement: dict[Propagation, np.ndarray]
    power: dict[Propagation, np.ndarray]
    tube: dict[Propagation, np.ndarray]
    distrust: dict[Propagation, np.ndarray]
    windows: np.ndarray
    episodes: Annotated[int, Field(ge=1, le=2**53)]
    coverage: dict[Propagation, np.ndarray]
    data_std: np.ndarray
    center: np.ndarray
    reach: np.ndarray
    fingerprints: tuple[Fingerprint, ...]

    def __repr__(self) -> str:
        """One line."""
        return f"Calibration(level={self.level:g}, horizon={self.horizon}, episodes={self.episodes})"

    def specs(self, core_dim: int, target_dim: int) -> dict[str, ArraySpec]:
        """What the arrays of a task's calibration are like, by field and propagation."""
        steps = self.horizon
        plain = {"std_scale": ArraySpec((target_dim,), low=0)}
        plain["windows"] = ArraySpec((steps,), "int64", low=0)
        plain |= dict.fromkeys(("data_std", "reach"), ArraySpec((core_dim,), low=0))
        plain["center"] = ArraySpec((core_dim,))
        bounds, factors = (ArraySpec(shape, low=0, high=np.inf) for shape in ((steps, core_dim), (steps,)))
        each = dict.fromkeys(("half_width", "per_disagreement"), bounds)
        each |= dict.fromkeys(("tube", "distrust"), factors)
        each["power"] = ArraySpec((steps,), low=0, high=1)
        each["coverage"] = ArraySpec((2, steps), low=0, high=1, nan=True)
        return plain | {f"{name}.{how}": spec for name, spec in each.items() for how in PROPAGATIONS}

    @property
    def horizon(self) -> int:
        """Steps from an episode's start that held-out windows looked at."""
        return len(self.windows)

    @renamed(mode="propagation", doubt="disagreement")
    def error_bound(
        self,
        elapsed: np.ndarray,
        propagation: Propagation,
        core: np.ndarray,
        disagreement: np.ndarray | None = None,
    ) -> np.ndarray:
        """Half-widths ``(n, core_dim)`` float32 of predictions.

        Args:
            elapsed: ``(n,)`` steps since each episode's start.
            propagation: how the episodes were imagined.
            core: ``(n, core_dim)`` predictions. A bound reaches no farther than the range of held-out states,
                and is that range past the calibrated horizon.
            disagreement: ``(n, core_dim)``, see ``WorldModel.disagreement``; None bounds by the step alone.
        """
        rows = np.minimum(elapsed, self.horizon + 1)
        if disagreement is None:
            bound = self.tables["half_width"][propagation].take(rows, 0)
        else:
            power = self.power[propagation][np.clip(elapsed, 1, self.horizon) - 1]
            scale = np.maximum(disagreement, SMALLEST_DISAGREEMENT) ** power[:, None]
            bound = self.tables["per_disagreement"][propagation].take(rows, 0) * scale
        return self.saturated(bound, core).astype(np.float32, copy=False)

    @cached_property
    def tables(self) -> dict[str, dict[Propagation, np.ndarray]]:
        """Bounds by step, after zero for the start and before infinity for past the horizon."""
        ends = (0, np.inf), (0, 0)
        return {
            name: {
                how: np.pad(rows.astype(np.float32), ((1, 1), (0, 0)), constant_values=ends)
                for how, rows in each.items()
            }
            for name, each in (("half_width", self.half_width), ("per_disagreement", self.per_disagreement))
        }

    def saturated(self, bound: np.ndarray, core: np.ndarray) -> np.ndarray:
        """Bounds ``(n, core_dim)`` of predictions, cut off at the marginal range of held-out states."""
        center, reach = self._range
        cut: np.ndarray = np.minimum(bound, reach + np.abs(core - center))
        return cut

    @cached_property
    def _range(self) -> tuple[np.ndarray, np.ndarray]:
        return self.center.astype(np.float32), self.reach.astype(np.float32)

    @renamed(mode="propagation")
    def trust_horizon(self, tolerance: float, propagation: Propagation = "member") -> int:
        """Steps for which the median bound stays within ``tolerance``, in units of the data's std."""
        past = self.distrust[propagation] > tolerance
        return int(past.argmax()) if past.any() else self.horizon


def disagreement(distance: np.ndarray, lasting: np.ndarray, elapsed: np.ndarray) -> np.ndarray:
    """How far two members' own paths of each episode have come apart ``(batch, core_dim)``.

    Per dimension the root mean square of their ``distance`` now and of the ``lasting`` one after ``elapsed``
    ``(batch,)`` steps, shrunk towards the geometric mean over dimensions: one other member is a small sample
    of what the model does not know, and its past and its other dimensions steady the estimate.
    """
    now, lasting = (np.fmin(np.abs(each), _LOST) for each in (distance, lasting))  # so that NaN is lost too
    past = lasting / weight_so_far(elapsed)[:, None]
    own = np.sqrt((now**2 + past**2) / 2)
    rest = np.exp(np.log(np.maximum(past, SMALLEST_DISAGREEMENT)).mean(1, keepdims=True))
    found: np.ndarray = own**0.4 * rest**0.6
    return found


def weight_so_far(elapsed: np.ndarray) -> np.ndarray:
    """The sum ``(batch,)`` of the weights in a mean that follows at ``LASTING_RATE`` and began at 0."""
    weight: np.ndarray = 1 - np.exp(np.maximum(elapsed, 1).astype(np.float32) * np.log1p(-LASTING_RATE))
    return weight


LASTING_RATE = np.float32(0.1)
"""With which the lasting disagreement of two members follows their distance, while it rises."""

_LOST = 1e9  # disagreement where a path is no longer finite

SMALLEST_DISAGREEMENT = 1e-6
"""Disagreement counts as no less, not even that of a single member, which always agrees with itself."""
