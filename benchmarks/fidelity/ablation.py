"""What makes a world good: one change at a time, judged open loop on policies that no fit saw.

Every unit fits one small world (4 members, 60,000 transitions, 3,000 updates, no symmetry
augmentation, unless the change says otherwise) and replays the actions of held-out policies. The error is the
normalised one of ``open_loop``.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import re
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import wmgym
from benchmarks.harness.metrics import spread, window_error
from benchmarks.harness.results import Row, target
from benchmarks.harness.runner import Benchmark, Work
from benchmarks.harness.variants import in_world_axes, seen_as, with_core, without_symmetries
from benchmarks.harness.worlds import Setup, policies, pool_data
from wmgym.data.joining import concat
from wmgym.data.transitions import Transitions
from wmgym.models.batching import library
from wmgym.models.coordinates import Coordinates
from wmgym.models.ensemble import EnsembleMLP
from wmgym.tasks.geometry import Geometry

ENVS = ("HalfCheetah-v5", "Hopper-v5", "Ant-v5", "Walker2d-v5")
HORIZONS = (1, 8, 32, 128)
MUON: dict[str, Any] = {"optimizer": "Muon", "precision": "float32", "layer_norm": False}
BASE = wmgym.FitConfig(members=4, eval_every=500, patience=100, precision="bfloat16")


@dataclasses.dataclass(frozen=True)
class Lab:
    """Fits of one task; ``size`` scales transitions and updates."""

    env_id: str
    size: float = 1.0

    def data(self, steps: int = 60_000, with_copies: bool = False) -> Transitions:
        """Of the pool's own policies; their parameter-noise copies are a change."""
        return pool_data(self.env_id, int(steps * self.size), with_copies=with_copies)

    def fit(
        self, data: Transitions | None = None, dynamics: type[EnsembleMLP] | None = None,
        symmetries: bool = False, updates: int = 3_000, **changes: Any,
    ) -> wmgym.WorldModel:  # fmt: skip
        """The base but for what is given."""
        data = self.data() if data is None else data
        config = dataclasses.replace(BASE, max_updates=int(updates * self.size), **changes)
        return wmgym.fit(data if symmetries else without_symmetries(data), config, dynamics=dynamics)

    def mix(self, kind: str) -> Transitions:
        """The base's number of steps from other sources."""
        steps, task = int(60_000 * self.size), wmgym.make_task(self.env_id)
        pool = policies(self.env_id, "fit")
        if kind == "random":
            return wmgym.collect(task, steps=steps, seed=1)
        if kind == "on-policy":
            return wmgym.collect(task, policies(self.env_id, "held-out"), steps=steps, seed=2)
        if kind == "switching":
            return wmgym.collect(task, pool, steps=steps, seed=0, noise=0.1, switch_every=40)
        names = list(pool)[: len(pool) // 2] if kind == "weaker half" else list(pool)  # by return
        noise, each = 0.3 if kind == "noisy" else 0.0, steps // len(names)
        return concat(
            [
                wmgym.collect(task, {name: pool[name]}, steps=each, seed=i, noise=noise)
                for i, name in enumerate(names)
            ]
        )


class Relu(EnsembleMLP):
    """ReLU in place of SiLU."""

    def activate(self, hidden: Tensor) -> Tensor:
        return functional.relu(torch.layer_norm(hidden, hidden.shape[-1:]))


class Tanh(EnsembleMLP):
    """Tanh in place of SiLU."""

    def activate(self, hidden: Tensor) -> Tensor:
        return torch.tanh(torch.layer_norm(hidden, hidden.shape[-1:]))


class Spectral(EnsembleMLP):
    """Every weight matrix divided by its largest singular value over 3, where that is above 1."""

    def layers(self) -> tuple[tuple[Tensor, Tensor], ...]:
        def bounded(weight: Tensor) -> Tensor:
            norm = torch.linalg.matrix_norm(weight.detach(), 2)[:, None, None]
            return weight / (norm / 3).clamp(min=1)

        return tuple((bounded(weight), bias) for weight, bias in super().layers())


class SquaredError(EnsembleMLP):
    """In place of the likelihood; the deviation is left as it starts."""

    def loss(self, outputs: Tensor, labels: Tensor, ends: Tensor) -> Tensor:
        mean, _, _ = self.split(outputs)
        return (labels - mean).square().mean((1, 2)).sum()


class Likelihood(EnsembleMLP):
    """Plain Gaussian likelihood, beta = 0."""

    def loss(self, outputs: Tensor, labels: Tensor, ends: Tensor) -> Tensor:
        mean, log_std, _ = self.split(outputs)
        return (0.5 * ((labels - mean) * (-log_std).exp()).square() + log_std).mean((1, 2)).sum()


class Whitened(EnsembleMLP):
    """The usual loss on changes rotated and scaled so that the first batch's are uncorrelated."""

    whitener: Tensor | None = None

    def loss(self, outputs: Tensor, labels: Tensor, ends: Tensor) -> Tensor:
        if self.whitener is None:
            flat = labels.detach().flatten(0, 1)
            values, vectors = torch.linalg.eigh(torch.cov(flat.T))
            self.whitener = vectors / values.clamp(min=1e-4).sqrt()
        mean, log_std, _ = self.split(outputs)
        nll = 0.5 * ((labels - mean) @ self.whitener * (-log_std).exp()).square() + log_std
        return (nll * log_std.detach().exp()).mean((1, 2)).sum()


class EnergyScore(EnsembleMLP):
    """Of two draws (Gneiting and Raftery 2007), over all dimensions together."""

    def loss(self, outputs: Tensor, labels: Tensor, ends: Tensor) -> Tensor:
        mean, log_std, _ = self.split(outputs)
        one, two = (mean + log_std.exp() * torch.randn_like(mean) for _ in range(2))
        pairs = ((one, labels), (two, labels), (one, two))
        apart = [torch.linalg.vector_norm(a - b, dim=-1) for a, b in pairs]
        return (0.5 * (apart[0] + apart[1] - apart[2])).mean(1).sum()


class WithPast(Coordinates):
    """Of a core and the one before it: the network sees both, and the present becomes the past."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(dataclasses.replace(geometry, dim=geometry.dim // 2))
        self.now = self.geometry.dim
        self.feature_dim *= 2

    def features(self, core: Any) -> Any:
        now, past = super().features(core[:, : self.now]), super().features(core[:, self.now :])
        return library(core).concatenate([now, now - past], 1)

    def difference(self, core: Any, next_core: Any, displacement: Any) -> Any:
        return super().difference(core[:, : self.now], next_core[:, : self.now], displacement)

    def move(self, core: Any, change: Any) -> tuple[Any, Any]:
        moved, displacement = super().move(core[:, : self.now], change)
        return library(core).concatenate([moved, core[:, : self.now]], 1), displacement


class Past(EnsembleMLP):
    """Sees the state before this one too."""

    coordinates_type = WithPast


def without_feet(data: Transitions) -> Transitions:
    return seen_as(data, dataclasses.replace(data.task.core.geometry, root=None, feet=()))


def other_frame(data: Transitions) -> Transitions:
    """World axes where the body's are usual, and the other way round."""
    g = data.task.core.geometry
    if g.quaternion is not None or g.pitch is not None:
        return in_world_axes(data)
    at = g.dim // 2  # first velocity of a planar robot, whose x is not in its core
    return seen_as(
        data,
        dataclasses.replace(g, pitch=(1, -1), velocities=((at, at + 1),), positions=((g.dim, 0),)),
    )


def with_past(data: Transitions) -> Transitions:
    """Cores with the ones before them; an episode's first was before itself."""
    last = np.maximum(np.arange(len(data)) - 1, data.first[data.episode])
    core = data.task.core
    core = dataclasses.replace(
        core,
        geometry=dataclasses.replace(core.geometry, dim=2 * core.dim),
        names=(*core.names, *(f"{name}_before" for name in core.names)),
    )
    return dataclasses.replace(
        data,
        task=dataclasses.replace(data.task, core=core),
        core=np.concatenate([data.core, data.core[last]], 1),
        next_core=np.concatenate([data.next_core, data.core], 1),
    )


def with_joint_limits(data: Transitions) -> Transitions:
    """Imagined joints are put back at their limits where a step takes them past."""
    core, env = data.task.core, data.task.make()
    assert core.to_mujoco is not None
    model = env.unwrapped.model  # type: ignore[attr-defined]
    place, _ = core.to_mujoco(np.arange(1, core.dim + 1)[None])  # core dimensions, counted from 1, in qpos
    joint_limits = []
    for joint in np.flatnonzero(model.jnt_limited):
        at = int(place[0, model.jnt_qposadr[joint]])
        if at:
            low, high = model.jnt_range[joint]
            joint_limits.append((at - 1, float(low), float(high)))
    env.close()
    return with_core(data, joint_limits=tuple(joint_limits))


def clipped(data: Transitions) -> Transitions:
    """Velocities as the observation shows them."""
    shown, then = (data.task.core.from_obs(x)[:, : data.task.core.dim] for x in (data.obs, data.next_obs))
    return dataclasses.replace(data, core=shown.astype(np.float32), next_core=then.astype(np.float32))


CHANGES: dict[str, Callable[[Lab], wmgym.WorldModel]] = {
    "base": lambda lab: lab.fit(),
    "no LayerNorm": lambda lab: lab.fit(layer_norm=False),
    "ReLU": lambda lab: lab.fit(dynamics=Relu),
    "tanh": lambda lab: lab.fit(dynamics=Tanh),
    "spectral norm": lambda lab: lab.fit(dynamics=Spectral),
    "squared error": lambda lab: lab.fit(dynamics=SquaredError),
    "likelihood, beta = 0": lambda lab: lab.fit(dynamics=Likelihood),
    "energy score": lambda lab: lab.fit(dynamics=EnergyScore),
    "delta whitening": lambda lab: lab.fit(dynamics=Whitened),
    "other reference frame": lambda lab: lab.fit(other_frame(lab.data())),
    "no foot features": lambda lab: lab.fit(without_feet(lab.data())),
    "symmetry augmentation": lambda lab: lab.fit(symmetries=True),
    "symmetry augmentation, no LayerNorm": lambda lab: lab.fit(symmetries=True, layer_norm=False),
    "clipped velocities": lambda lab: lab.fit(clipped(lab.data())),
    "weight decay 0": lambda lab: lab.fit(weight_decay=0.0),
    "weight decay 0.01": lambda lab: lab.fit(weight_decay=0.01),
    "learning rate 1e-3": lambda lab: lab.fit(learning_rate=1e-3),
    "learning rate 1e-2": lambda lab: lab.fit(learning_rate=1e-2),
    "Muon in float32, no LayerNorm": lambda lab: lab.fit(**MUON),
    "Muon in float32, no LayerNorm, width 128": lambda lab: lab.fit(**MUON, width=128),
    "fine-tune, 8 steps": lambda lab: lab.fit(finetune_updates=600),
    "fine-tune, 16 steps": lambda lab: lab.fit(finetune_updates=600, finetune_steps=16),
    "fine-tune, 4 steps": lambda lab: lab.fit(finetune_updates=600, finetune_steps=4),
    "states not clamped": lambda lab: lab.fit(margin=1e6),
    "states clamped to the range of the data": lambda lab: lab.fit(margin=0.0),
    "joints clamped to their limits": lambda lab: lab.fit(with_joint_limits(lab.data())),
    "two-step history": lambda lab: lab.fit(with_past(lab.data()), Past),
    "fine-tune, 32 steps": lambda lab: lab.fit(finetune_updates=600, finetune_steps=32),
    "training in float32": lambda lab: lab.fit(precision="float32"),
    "bfloat16 at inference only": lambda lab: lab.fit().to("cpu", "bfloat16"),
    "width 128": lambda lab: lab.fit(width=128),
    "width 512": lambda lab: lab.fit(width=512),
    "depth 2": lambda lab: lab.fit(depth=2),
    "depth 4": lambda lab: lab.fit(depth=4),
    "1 member": lambda lab: lab.fit(members=1),
    "8 members": lambda lab: lab.fit(members=8),
    "batch 64": lambda lab: lab.fit(batch_size=64),
    "batch 1,024": lambda lab: lab.fit(batch_size=1_024),
    "1,000 updates": lambda lab: lab.fit(updates=1_000),
    "10,000 updates": lambda lab: lab.fit(updates=10_000),
    "10k transitions": lambda lab: lab.fit(lab.data(10_000)),
    "300k transitions": lambda lab: lab.fit(lab.data(300_000)),
    "300k transitions, 10,000 updates": lambda lab: lab.fit(lab.data(300_000), updates=10_000),
    "1M transitions, 10,000 updates": lambda lab: lab.fit(lab.data(1_000_000), updates=10_000),
    "parameter-noise copies of the policies": lambda lab: lab.fit(lab.data(with_copies=True)),
    "parameter-noise copies, 300k transitions, 10,000 updates": lambda lab: lab.fit(
        lab.data(300_000, with_copies=True), updates=10_000
    ),
    "on-policy data of the evaluated policies": lambda lab: lab.fit(lab.mix("on-policy")),
    "random actions only": lambda lab: lab.fit(lab.mix("random")),
    "policy pool, no action noise": lambda lab: lab.fit(lab.mix("clean")),
    "policy pool, action noise 0.3": lambda lab: lab.fit(lab.mix("noisy")),
    "policy pool, switching every 40 steps, action noise 0.1": lambda lab: lab.fit(lab.mix("switching")),
    "weaker half of the policy pool": lambda lab: lab.fit(lab.mix("weaker half")),
}
QUICK = ("base", "no LayerNorm", "1 member")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", nargs="+", choices=tuple(CHANGES), metavar="CHANGE",
                        help="some changes; all of them by default")  # fmt: skip


def units(setup: Setup, args: argparse.Namespace) -> dict[str, Work]:
    found: dict[str, Work] = {}
    for change in args.only or (QUICK if setup.quick else CHANGES):
        for env_id in args.env:
            # What Ant's observation shows beside the core has no past.
            if (change, env_id) != ("two-step history", "Ant-v5"):
                name = re.sub(r"[^A-Za-z0-9.-]+", "_", f"{env_id}-{change}").strip("_")
                found[name] = functools.partial(measure, env_id, change, setup)
    return found


def measure(env_id: str, change: str, setup: Setup) -> list[Row]:
    lab, test = Lab(env_id, setup.size(10, 1) / 10), setup.held_out(env_id)
    std = spread(lab.data())
    began = time.perf_counter()
    model = CHANGES[change](lab)
    minutes = (time.perf_counter() - began) / 60
    rng, share = np.random.default_rng(0), 1.0
    if model.task.core.dim > test.task.core.dim:  # the past is given and not judged
        test, std, share = with_past(test), np.concatenate([std, np.full_like(std, np.inf)]), 0.5
    found = {f"error_{h}": window_error(model, test, std, h, rng) / share**0.5 for h in HORIZONS}
    return [{"env": env_id, "change": change, "minutes": round(minutes, 2), **found}]


def goals(rows: list[Row]) -> list[Row]:
    """No target of its own: the best change of each env at h = 32."""
    found = []
    for env_id in dict.fromkeys(r["env"] for r in rows):
        mine = {r["change"]: r["error_32"] for r in rows if r["env"] == env_id}
        best, base = min(mine, key=lambda change: mine[change]), mine.get("base", float("nan"))
        said = f"{best}: {mine[best]:.3f}, base {base:.3f}"
        found.append(
            target(f"{env_id}: best single change at h = 32", "below base", said, mine[best] <= base)
        )
    return found


BENCHMARK = Benchmark(
    units,
    goals,
    collects="collects 60,000 transitions of the policy pool for each task and fits one small world a change"
    " (--quick: a tenth of both, three changes)",
    envs=ENVS,
    arguments=arguments,
)
