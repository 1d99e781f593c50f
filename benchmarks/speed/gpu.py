"""How many steps a second do the shipped worlds make on a GPU, beside MuJoCo on all cores of its machine?

``to_torch`` keeps all numbers on the device; "with a policy" is the loop of a trainer there: a network of two
hidden layers of 256 units, as Stable-Baselines3's SAC has, sees the observations and its actions are stepped.
"launched one by one" is the same without the recorded graph. Medians of interleaved repeats; run it on an
idle machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

import wmgym
from benchmarks.harness.results import Row, target
from benchmarks.harness.runner import Benchmark, per_env
from benchmarks.harness.timing import Take, in_turns, rollout
from benchmarks.harness.worlds import Setup
from wmgym.envs.torch_episodes import TorchEpisodes

ENVS = ("Hopper-v5", "HalfCheetah-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5")
SIZES = (1_024, 8_192, 65_536, 262_144)
SECONDS = 0.1  # of one repeat
STEPS = 4
"""In one go, after which the host waits for the device."""


class LaunchedOneByOne(TorchEpisodes):
    """Episodes whose steps are not recorded."""

    recordable = False


def measure(env_id: str, setup: Setup) -> list[Row]:
    if not torch.cuda.is_available():
        raise SystemExit("this benchmark needs a CUDA device")
    contenders: dict[tuple[str, int, str], tuple[Take, int]] = {}
    for precision in ("float32", "bfloat16"):
        for num_envs in SIZES[: setup.size(len(SIZES), 2)]:
            for name, take, steps in imagined(env_id, num_envs, precision):
                contenders[name, num_envs, precision] = take, steps * num_envs
    cores = os.cpu_count() or 1
    name, count, take, steps = rollout(env_id, cores)
    contenders[name, count, "float64"] = take, steps
    times = in_turns({key: take for key, (take, _) in contenders.items()}, setup.size(5, 3), SECONDS)
    found = []
    for (name, num_envs, precision), seconds in times.items():
        rate = contenders[name, num_envs, precision][1] / float(np.median(seconds))
        found.append(
            {"env": env_id, "device": torch.cuda.get_device_name(), "cores": cores, "engine": name,
             "num_envs": num_envs, "precision": precision, "steps_per_s": round(rate, 1),
             "spread": float(np.ptp(seconds) / np.median(seconds))}
        )  # fmt: skip
    return found


def imagined(env_id: str, num_envs: int, precision: Any) -> list[tuple[str, Take, int]]:
    """The contenders: name, one go, and its steps of every env."""
    vector = wmgym.ImaginedVectorEnv(env_id, num_envs, device="cuda", precision=precision)
    vector.reset(seed=0)
    vector.action_space.seed(0)
    actions = vector.action_space.sample()
    given, policy = torch.tensor(actions, device="cuda"), _policy(vector)

    def stepping(episodes: TorchEpisodes, acting: bool) -> Callable[[], None]:
        obs = [episodes.reset(seed=0)]

        @torch.no_grad()
        def go() -> None:
            for _ in range(STEPS):
                obs[0] = episodes.step(policy(obs[0]) if acting else given).obs
            torch.cuda.synchronize()

        return go

    made = vector.world, num_envs, vector.starts, vector.propagation, vector.max_episode_steps
    return [
        ("ImaginedVectorEnv", lambda: vector.step(actions), 1),
        ("to_torch", stepping(vector.to_torch(), False), STEPS),
        ("to_torch, launched one by one", stepping(LaunchedOneByOne(*made), False), STEPS),
        ("to_torch with a policy", stepping(vector.to_torch(), True), STEPS),
    ]


def _policy(vector: wmgym.ImaginedVectorEnv) -> nn.Module:
    obs_dim, action_dim = vector.single_observation_space.shape, vector.single_action_space.shape
    assert obs_dim is not None
    assert action_dim is not None
    torch.manual_seed(0)
    layers = [nn.Linear(*obs_dim, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(256, *action_dim), nn.Tanh()).to("cuda")


def goals(rows: list[Row]) -> list[Row]:
    """The targets beside what was measured."""
    envs = list(dict.fromkeys(r["env"] for r in rows))

    def best(env_id: str, engine: str, precision: str = "float32", num_envs: int | None = None) -> float:
        return max(
            r["steps_per_s"] for r in rows
            if (r["env"], r["engine"], r["precision"]) == (env_id, engine, precision)
            and num_envs in (None, r["num_envs"])
        )  # fmt: skip

    with_policy = {e: round(best(e, "to_torch with a policy") / 1e6, 1) for e in envs}
    half = {e: round(best(e, "to_torch with a policy", "bfloat16") / 1e6, 1) for e in envs}
    beside = {e: round(best(e, "to_torch") / best(e, "mujoco.rollout", "float64")) for e in envs}
    graph = {
        e: round(best(e, "to_torch", num_envs=SIZES[0])
                 / best(e, "to_torch, launched one by one", num_envs=SIZES[0]), 1)
        for e in envs
    }  # fmt: skip
    there = with_policy.get("HalfCheetah-v5")
    return [
        target("on one H100-class GPU, policy included, float32: million steps/s", "HalfCheetah >= 20",
               with_policy, None if there is None else there >= 20),
        target("on one H100-class GPU, policy included, hidden layers in bfloat16: million steps/s",
               "none set", half, True),
        target("without a policy, against mujoco.rollout on all cores of that machine", "none set", beside,
               True),
        target(f"a recorded graph against launching one by one, {SIZES[0]:,} envs", "none set", graph, True),
    ]  # fmt: skip


BENCHMARK = Benchmark(
    per_env(measure),
    goals,
    collects="times the shipped worlds on a CUDA device in five interleaved repeats, and fits nothing",
    envs=ENVS,
)
