"""Calibration: how far off a world may be, as held-out real episodes said."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from wmgym.models.dynamics import Propagation


@dataclass(frozen=True)
class Calibration:
    """What held-out real episodes say of the model, and the evidence for it.

    Attributes:
        level: probability that a half-width is promised to hold with, marginally per dimension and step.
        std_scale: ``(target_dim,)`` factor for the one-step noise, with which many sampled episodes from one
            start cover one sigma of the truth as they should.
        half_width: for each mode ``(horizon, core_dim)`` in raw units; row ``h - 1`` bounds the error after
            ``h`` steps from an episode's start, where nothing else is known of the episode.
        per_disagreement: likewise, the half-width at a ``disagreement`` of 1, to be multiplied by ``disagreement ** power``:
            narrower where two members' paths stay together.
        power: for each mode ``(horizon,)``, the exponent between 0.25 and 1 with which held-out bounds
            were narrowest.
        tube: for each mode ``(horizon,)`` factor by which all bounds of the first ``h`` steps are widened so
            that they hold at once, in all dimensions.
        distrust: for each mode ``(horizon,)`` median over held-out windows of the bound given disagreement, in units
            of ``data_std``, mean over dimensions.
        windows: ``(horizon,)`` number of held-out windows behind each row.
        episodes: number of held-out episodes behind all of it.
        coverage: for each mode ``(2, horizon)`` share of held-out errors inside the bound, by the step and
            given disagreement, when each policy (each episode, where one policy made all) is judged by a bound made
            from the others; NaN where nobody looked.
        data_std: ``(core_dim,)`` of the held-out data, the unit of normalised errors.
        center: ``(core_dim,)`` median of the held-out data.
        reach: ``(core_dim,)`` distance from ``center`` that held-out states keep with probability ``level``;
            no bound is wider than knowing just this.
        fingerprints: content hashes of the episodes used.
    """

    level: float
    std_scale: np.ndarray
    half_width: dict[Propagation, np.ndarray]
    per_disagreement: dict[Propagation, np.ndarray]
    power: dict[Propagation, np.ndarray]
    tube: dict[Propagation, np.ndarray]
    distrust: dict[Propagation, np.ndarray]
    windows: np.ndarray
    episodes: int
    coverage: dict[Propagation, np.ndarray]
    data_std: np.ndarray
    center: np.ndarray
    reach: np.ndarray
    fingerprints: tuple[str, ...]

    @property
    def horizon(self) -> int:
        """Steps from an episode's start that held-out windows looked at."""
        return len(self.windows)

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
            core: ``(n, core_dim)`` predictions. Wherever they are, a bound reaches no farther than to where
                held-out states were; past the calibrated horizon nothing more than that is claimed.
            disagreement: ``(n, core_dim)``, see ``WorldModel.doubt``; None bounds by the step alone.
        """
        rows = np.minimum(elapsed, self.horizon + 1)
        if disagreement is None:
            bound = self._by_step[propagation].take(rows, 0)
        else:
            power = self.power[propagation][np.clip(elapsed, 1, self.horizon) - 1]
            scale = np.maximum(disagreement, SMALLEST_DISAGREEMENT) ** power[:, None]
            bound = self._by_doubt[propagation].take(rows, 0) * scale
        return self.saturated(bound, core).astype(np.float32)

    @cached_property
    def _by_step(self) -> dict[Propagation, np.ndarray]:
        return {propagation: _with_ends(rows) for propagation, rows in self.half_width.items()}

    @cached_property
    def _by_doubt(self) -> dict[Propagation, np.ndarray]:
        return {propagation: _with_ends(rows) for propagation, rows in self.per_disagreement.items()}

    def saturated(self, bound: np.ndarray, core: np.ndarray) -> np.ndarray:
        """Bounds ``(n, core_dim)`` of predictions, none wider than where held-out states were at all."""
        return np.asarray(np.minimum(bound, self.reach + np.abs(core - self.center)))

    def trust_horizon(self, tolerance: float, propagation: Propagation = "member") -> int:
        """Steps for which the median bound stays within ``tolerance``, in units of the data's std."""
        past = self.distrust[propagation] > tolerance
        return int(past.argmax()) if past.any() else self.horizon


SMALLEST_DISAGREEMENT = 1e-6
"""Doubt is never less, not even of a single member, which always agrees with itself."""


def _with_ends(rows: np.ndarray) -> np.ndarray:
    """Bounds by step, with what is known at the start before them, and what past the horizon after them."""
    return np.concatenate(
        [
            np.zeros_like(rows, shape=(1, rows.shape[1])),
            rows,
            np.full_like(rows, np.inf, shape=(1, rows.shape[1])),
        ]
    )
