"""How far the feet of a walking robot are from the ground, and how fast they move."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from wmgym.models.batching import Tables, library
from wmgym.tasks.geometry import Geometry, Link
from wmgym.tasks.layout import Array

_NEAR, _SLOW = 0.005, 0.1  # metres and metres a second: the finest scale of a foot's distance and velocity


class Feet(Tables):
    """Of a robot whose geometry has feet."""

    def __init__(self, geometry: Geometry) -> None:
        """Which sums give the links' angles and rates, and which sums of their sines give the feet."""
        super().__init__()
        g, count = geometry, len(geometry.feet)
        self.scales = g.foot_scales
        chains = dict.fromkeys(
            _hinges(foot.links[: k + 1]) for foot in g.feet for k in range(len(foot.links))
        )
        angles = [[(angle, float(sign)) for angle, _, sign in hinges] for hinges in chains]
        rates = [[(velocity, float(sign)) for _, velocity, sign in hinges] for hinges in chains]
        self._keep_sums("turns", angles + rates)
        # Cosines, sines, both times the rate, and the core stand side by side; see forward.
        cos, sin, sin_rate, cos_rate, core = (k * len(chains) for k in range(5))
        rows = {hinges: k for k, hinges in enumerate(chains)}
        sums = []
        for foot in g.feet:
            assert g.root is not None
            height, forward, upward = ([(core + i, 1.0)] for i in g.root)
            for depth, link in enumerate(foot.links, start=1):
                k = rows[_hinges(foot.links[:depth])]
                height += [(cos + k, link.up), (sin + k, -link.along)]
                forward += [(sin_rate + k, -link.along), (cos_rate + k, link.up)]
                upward += [(sin_rate + k, -link.up), (cos_rate + k, -link.along)]
            sums.append((height, forward, upward))
        self._keep_sums("feet", [of_foot for kind in zip(*sums, strict=True) for of_foot in kind])
        radii = [foot.radius for foot in g.feet]
        self._keep("radii", np.array([*radii, *[0.0] * 2 * count], np.float32)[:, None])
        self._keep("units", np.repeat(np.array([_NEAR, _SLOW, _SLOW], np.float32), count)[:, None])

    def _keep_sums(self, name: str, sums: list[list[tuple[int, float]]]) -> None:
        """Tables for ``_sum``: of each sum the rows and their factors."""
        terms = [[term for term in each if term[1]] for each in sums]
        depth = max((len(each) for each in terms), default=0)
        full = np.zeros((depth, len(terms), 2), np.float32)
        for k, each in enumerate(terms):
            full[: len(each), k] = each
        self._keep(f"{name}_rows", full[..., 0].reshape(-1).astype(np.int64))
        self._keep(f"{name}_factors", full[..., 1:])

    def _sum(self, values: Array, name: str) -> Array:
        """Sums of a few of ``(k, batch)`` each; a matrix product would round by the size of the batch."""
        index, factors = self._table(f"{name}_rows", values), self._table(f"{name}_factors", values)
        taken = values.index_select(0, index) if isinstance(values, Tensor) else values.take(index, 0)
        total, *terms = taken.reshape(*factors.shape[:2], -1) * factors
        for term in terms:
            total = total + term
        return total

    def forward(self, core: Array) -> Array:
        """Distances ``(3 * feet, batch)`` of the feet to the ground, then forward, then upward velocities.

        Rows are faster to pick from than columns.
        """
        lib, turns = library(core), self._sum(core.T, "turns")
        half = len(turns) // 2
        angle, rate = turns[:half], turns[half:]
        cos, sin = lib.cos(angle), lib.sin(angle)
        known = lib.concatenate([cos, sin, sin * rate, cos * rate, core.T], 0)
        return self._sum(known, "feet") - self._table("radii", core)

    def features(self, core: Array) -> list[Array]:
        """What the network sees of them, ``(batch, 3 * feet)`` a scale."""
        near, lib = self(core) / self._table("units", core), library(core)
        return [lib.tanh(near if scale == 1.0 else near / scale).T for scale in self.scales]


def _hinges(links: tuple[Link, ...]) -> tuple[tuple[int, int, int], ...]:
    """What adds up to the angle of the last link; two feet of one leg share it."""
    return tuple((link.angle, link.velocity, link.sign) for link in links)
