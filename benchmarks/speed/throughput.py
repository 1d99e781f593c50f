"""How many steps a second do MuJoCo and the shipped worlds make, on the same cores in one run?

Medians of interleaved repeats; run it on an idle machine. "network" is the least that a step can cost: the
matrix products and activations of one ensemble member a row, and of the readouts where there are some.
EnvPool runs the v4 tasks, the same physics.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch.nn import functional

import wmgym
from benchmarks.harness.metrics import break_even
from benchmarks.harness.results import Row, target
from benchmarks.harness.runner import Benchmark, per_env
from benchmarks.harness.timing import Take, in_turns, rollout
from benchmarks.harness.worlds import Setup
from wmgym.agents.sb3.vec_env import ImaginedVecEnv
from wmgym.models.ensemble import EnsembleMLP

ENVS = ("Hopper-v5", "HalfCheetah-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5")
SIZES = (1, 16, 64, 256, 1_024, 4_096, 16_384, 65_536)
QUICK_SIZES = (1, 64, 1_024)


def measure(env_id: str, setup: Setup) -> list[Row]:
    torch.set_num_threads(os.cpu_count() or 1)
    contenders: dict[
        tuple[str, int, str], tuple[Take, int]
    ] = {}  # by name, envs, precision: one go, its steps
    for name, num_envs, take, steps in real(env_id):
        contenders[name, num_envs, "float64"] = (take, steps)
    for precision in ("float32", "bfloat16"):
        for num_envs in QUICK_SIZES if setup.quick else SIZES:
            for name, take in imagined(env_id, num_envs, precision).items():
                contenders[name, num_envs, precision] = (take, num_envs)
    times = in_turns({key: take for key, (take, _) in contenders.items()}, setup.size(5, 3))
    dt = wmgym.make_task(env_id).dt
    rows: list[Row] = []
    for (name, num_envs, precision), seconds in times.items():
        rate = contenders[name, num_envs, precision][1] / float(np.median(seconds))
        rows.append(
            {
                "env": env_id, "engine": name, "num_envs": num_envs, "precision": precision,
                "steps_per_s": round(rate, 1), "step_ms": float(np.median(seconds)) * 1e3,
                "robot_years_per_day": rate * dt / 365.25,
                "spread": float(np.ptp(seconds) / np.median(seconds)),
            }
        )  # fmt: skip
    return rows


def real(env_id: str) -> list[tuple[str, int, Take, int]]:
    """MuJoCo's contenders: name, envs, one go and the steps in it."""
    import warnings

    cores, rng = os.cpu_count() or 1, np.random.default_rng(0)
    single = gym.make(env_id)
    single.reset(seed=0)
    low, high = single.action_space.low, single.action_space.high  # type: ignore[attr-defined]

    def step_single() -> None:
        _, _, terminated, truncated, _ = single.step(rng.uniform(low, high))
        if terminated or truncated:
            single.reset()

    found: list[tuple[str, int, Take, int]] = [("Gymnasium env", 1, step_single, 1)]
    vector: Any
    for kind, name in (("sync", "SyncVectorEnv"), ("async", "AsyncVectorEnv")):
        for num_envs in (cores, 8 * cores):
            vector = gym.make_vec(env_id, num_envs=num_envs, vectorization_mode=kind)
            vector.reset(seed=0)
            actions = rng.uniform(low, high, (num_envs, len(low)))
            found.append((name, num_envs, lambda v=vector, a=actions: v.step(a), num_envs))  # type: ignore[misc]
    try:
        import envpool
    except ImportError:
        print("envpool is not installed; left out")
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            num_envs = 32 * cores
            pool = envpool.make(
                env_id.replace("v5", "v4"), env_type="gymnasium", num_envs=num_envs, num_threads=cores
            )
        pool.reset()
        actions = rng.uniform(low, high, (num_envs, len(low)))
        found.append(("EnvPool", num_envs, lambda: pool.step(actions), num_envs))
    return [*found, rollout(env_id, cores)]


def imagined(env_id: str, num_envs: int, precision: Any) -> dict[str, Take]:
    """The learned simulator's contenders, from the network up."""
    world = wmgym.load(env_id)
    vector = wmgym.ImaginedVectorEnv(world, num_envs, precision=precision)
    sb3 = ImaginedVecEnv(world, num_envs, precision=precision)
    world = vector.world
    vector.reset(seed=0)
    sb3.seed(0)
    sb3.reset()
    space = world.task.action_space
    rng = np.random.default_rng(0)
    actions = rng.uniform(space.low, space.high, (num_envs, *(space.shape or ()))).astype(np.float32)
    given = torch.tensor(actions)
    starts = torch.tensor(world.starts[rng.integers(len(world.starts), size=num_envs)])
    state = world.init(starts, torch.Generator().manual_seed(0))
    assert isinstance(world.dynamics, EnsembleMLP)
    members = np.bincount(rng.integers(world.dynamics.num_members, size=num_envs))
    floor = [Network(world.dynamics, int(members.max()), precision)]
    if world.readout is not None:
        assert isinstance(world.readout, EnsembleMLP)
        floor.append(Network(world.readout, num_envs, precision))

    def network() -> None:
        for part in floor:
            part()

    def step() -> None:
        with torch.no_grad():
            world.step(state, given)

    takes: dict[str, Take] = {"network": network, "WorldModel.step": step}
    takes["ImaginedVectorEnv"] = lambda: vector.step(actions)
    if num_envs <= 4_096:  # SB3 makes a dictionary an env
        takes["ImaginedVecEnv"] = lambda: sb3.step(actions)
    if num_envs == 1:
        one = gym.make(f"wmgym/{env_id}", precision=precision)
        one.reset(seed=0)

        def step_one() -> None:
            _, _, terminated, truncated, _ = one.step(actions[0])
            if terminated or truncated:
                one.reset()

        takes["gym.make"] = step_one
    return takes


class Network:
    """Matrix products and activations of a model's size up to its mean, on ``rows`` rows a member."""

    def __init__(self, model: EnsembleMLP, rows: int, precision: str) -> None:
        config, rows = model.config, -(-rows // 4) * 4
        members = model.num_members
        sizes = [model.input_dim, *[config.width] * config.depth, -(-config.target_dim // 16) * 16]
        self.dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self.layer_norm = config.layer_norm
        self.inputs = torch.randn(members, rows, sizes[0])
        self.layers = [
            (torch.randn(members, a, b) / a**0.5, torch.zeros(members, 1, b))
            for a, b in itertools.pairwise(sizes)
        ]
        middle = [(weight.to(self.dtype), bias.to(self.dtype)) for weight, bias in self.layers[1:-1]]
        self.layers = [self.layers[0], *middle, self.layers[-1]]

    @torch.no_grad()
    def __call__(self) -> torch.Tensor:
        (weight, bias), *middle, last = self.layers
        hidden = self.activate(torch.baddbmm(bias, self.inputs, weight).to(self.dtype))
        for weight, bias in middle:
            hidden = self.activate(torch.baddbmm(bias, hidden, weight))
        return torch.baddbmm(last[1], hidden.float(), last[0])

    def activate(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.layer_norm:
            hidden = torch.layer_norm(hidden, hidden.shape[-1:])
        return functional.silu(hidden, inplace=True)


def goals(rows: list[Row]) -> list[Row]:
    """The targets beside what was measured."""
    envs = [e for e in ENVS if any(r["env"] == e for r in rows)]
    whole = len(envs) == len(ENVS)

    def rate(env_id: str, engine: str, precision: str | None = None, num_envs: int | None = None) -> float:
        return max(
            r["steps_per_s"] for r in rows
            if r["env"] == env_id and r["engine"] == engine and precision in (None, r["precision"])
            and num_envs in (None, r["num_envs"])
        )  # fmt: skip

    def best(env_id: str) -> int:
        every = [r for r in rows if r["env"] == env_id and r["engine"] == "ImaginedVectorEnv"
                 and r["precision"] == "float32"]  # fmt: skip
        return int(max(every, key=lambda r: r["steps_per_s"])["num_envs"])

    def each(of: Callable[[str], float]) -> dict[str, float]:
        return {env_id: round(of(env_id), 2) for env_id in envs}

    least = dict(zip(ENVS, (20, 9, 22, 25, 20), strict=True))
    engine = "ImaginedVectorEnv"
    rollouts = each(lambda e: rate(e, engine, "float32") / rate(e, "mujoco.rollout"))
    asynchronous = each(lambda e: rate(e, engine, "float32") / rate(e, "AsyncVectorEnv"))
    floor = each(lambda e: rate(e, engine, "float32", best(e)) / rate(e, "network", "float32", best(e)))
    sb3_envs = 256 if any(r["num_envs"] == 256 for r in rows) else 64
    sb3 = each(
        lambda e: rate(e, "ImaginedVecEnv", "float32", sb3_envs) / rate(e, engine, "float32", sb3_envs)
    )
    half = each(lambda e: rate(e, engine, "bfloat16") / rate(e, engine, "float32"))
    of_network = each(lambda e: rate(e, "network", "bfloat16") / rate(e, "network", "float32"))
    even = {e: break_even(rows, e) for e in envs}
    return [
        target("ImaginedVectorEnv at its best num_envs against mujoco.rollout on all cores",
               ", ".join(f"{e} >= {x}x" for e, x in least.items()), rollouts,
               whole and all(rollouts[e] >= least[e] for e in envs)),
        target("ImaginedVectorEnv at its best num_envs against Gymnasium's AsyncVectorEnv on all cores",
               ">= 60x", asynchronous, whole and min(asynchronous.values()) >= 60),
        target("ImaginedVectorEnv against its network alone at the same batch", ">= 70 %", floor,
               whole and min(floor.values()) >= 0.7),
        target("SB3 ImaginedVecEnv at 256 envs against ImaginedVectorEnv", ">= 80 %", sb3,
               whole and min(sb3.values()) >= 0.8),
        target("bfloat16 against float32", ">= 1.6x", half, whole and min(half.values()) >= 1.6),
        target("bfloat16 against float32, the network alone, which bounds the line above", "none set",
               of_network, True),
        target("break-even: number of imagined envs that outruns mujoco.rollout on all cores", "none set",
               even, True),
    ]  # fmt: skip


BENCHMARK = Benchmark(
    per_env(measure),
    goals,
    collects="times every engine at eight numbers of envs, in five interleaved repeats, and fits nothing",
    envs=ENVS,
    threads=None,
)
