"""Is a script slower once one string in it has changed to the imagined env, and which way to step is fastest?

A single env by ``gym.make`` beside the real id, both with the wrappers that ``gym.make`` adds, in turns on
the same cores; a PPO of Stable-Baselines3 on one env of either side, as a user would write it; the first step
of a fresh process. "ways" times one step of HalfCheetah's and Humanoid's worlds by NumPy, as the package does
it, by ONNX Runtime on the exported file, and by torch; of torch also the networks alone. Each on one thread.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

import wmgym
from benchmarks.harness.results import Row, target
from benchmarks.harness.runner import Benchmark, Work
from benchmarks.harness.worlds import Setup
from wmgym.models.compiled import CompiledStep
from wmgym.models.ensemble import EnsembleMLP

ENVS = ("Hopper-v5", "HalfCheetah-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5", "Swimmer-v5")
SLOWEST = dict(zip(ENVS, (1.0, 1.3, 1.0, 0.5, 0.5, 1.0), strict=True))
"""How long a step may take at most, as a share of the real env's."""

TRAINED = ENVS[:5]
COMPARED = ("HalfCheetah-v5", "Humanoid-v5")
STEPS = 1_000  # of one repeat
FIRST = """
import time
began = time.perf_counter()
import gymnasium as gym
import wmgym
env = gym.make("wmgym/{}")
env.reset(seed=0)
env.step(env.action_space.sample())
print(time.perf_counter() - began)
"""


def units(setup: Setup, args: argparse.Namespace) -> dict[str, Work]:
    works: dict[str, Work] = {}
    for env_id in args.env:
        works[f"step-{env_id}"] = functools.partial(steps, env_id, setup.size(9, 3))
        works[f"start-{env_id}"] = functools.partial(start, env_id, setup.size(5, 1))
        if env_id in COMPARED:
            works[f"ways-{env_id}"] = functools.partial(ways, env_id, setup.size(9, 3))
    for env_id in args.env:
        if env_id in TRAINED:
            works[f"ppo-{env_id}"] = functools.partial(
                train, env_id, setup.size(5, 1), setup.size(20_000, 2_048)
            )
    return works


def steps(env_id: str, repeats: int) -> list[Row]:
    """Microseconds of a step of either side, medians of repeats in turns."""
    sides = {"real": gym.make(env_id), "imagined": gym.make(f"wmgym/{env_id}")}
    sides["real"].action_space.seed(0)
    plan = [sides["real"].action_space.sample() for _ in range(STEPS)]
    times: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats + 1):  # the first warms up
        for name, env in sides.items():
            env.reset(seed=repeat)
            spent = 0.0
            for action in plan:
                began = time.perf_counter()
                _, _, terminated, truncated, _ = env.step(action)
                spent += time.perf_counter() - began
                if terminated or truncated:
                    env.reset()
            if repeat:
                times[name].append(spent / STEPS * 1e6)
    median = {name: float(np.median(found)) for name, found in times.items()}
    ratios = np.array(times["imagined"]) / np.array(times["real"])
    return [
        {"section": "step", "env": env_id, "real_us": median["real"], "imagined_us": median["imagined"],
         "ratio": float(np.median(ratios)), "ratios": ratios.round(3).tolist()}
    ]  # fmt: skip


def start(env_id: str, repeats: int) -> list[Row]:
    """Seconds from the first import to the first step of a fresh process."""
    script, seconds = FIRST.format(env_id), []
    for _ in range(repeats):
        said = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
        seconds.append(float(said.stdout.splitlines()[-1]))
    return [{"section": "start", "env": env_id, "seconds": float(np.median(seconds)), "all": seconds}]


def train(env_id: str, repeats: int, total: int) -> list[Row]:
    """Seconds that PPO of Stable-Baselines3 takes on one env of either side, in turns."""
    from stable_baselines3 import PPO

    times: dict[str, list[float]] = {"real": [], "imagined": []}
    for seed in range(repeats):
        for name, made in (("real", env_id), ("imagined", f"wmgym/{env_id}")):
            model = PPO("MlpPolicy", gym.make(made), seed=seed, device="cpu")
            began = time.perf_counter()
            model.learn(total)
            times[name].append(time.perf_counter() - began)
    ratios = np.array(times["imagined"]) / np.array(times["real"])
    median = {f"{name}_s": float(np.median(found)) for name, found in times.items()}
    return [
        {"section": "ppo", "env": env_id, "steps": total, **median, "ratio": float(np.median(ratios)),
         "ratios": ratios.round(3).tolist()}
    ]  # fmt: skip


def ways(env_id: str, repeats: int) -> list[Row]:
    """Microseconds of one step, and seconds until the first is possible, by each way to step."""
    world, threads = wmgym.load(env_id), torch.get_num_threads()
    torch.set_num_threads(1)
    made: dict[str, tuple[Callable[[], Any], float]] = {}
    for name, make in (("NumPy", numpy_step), ("ONNX Runtime", onnx_step), ("torch", torch_step)):
        began = time.perf_counter()
        take = make(world)
        made[name] = take, time.perf_counter() - began
    for name, take in torch_networks(world).items():
        began = time.perf_counter()
        take()
        made[name] = take, time.perf_counter() - began
    times: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(repeats):
        for name, (take, _) in made.items():
            take()
            began = time.perf_counter()
            for _ in range(STEPS // 4):
                take()
            times[name].append((time.perf_counter() - began) / (STEPS // 4) * 1e6)
    torch.set_num_threads(threads)
    return [
        {
            "section": "ways",
            "env": env_id,
            "way": name,
            "us": float(np.median(found)),
            "ready_s": made[name][1],
        }
        for name, found in times.items()
    ]


def numpy_step(world: wmgym.WorldModel) -> Callable[[], Any]:
    step, generator = CompiledStep(world, "member", False), torch.Generator()
    action, state = (
        np.zeros(world.task.action_dim, np.float32),
        world.init(torch.tensor(world.starts[:1]), generator),
    )

    def take() -> None:
        step.load(state)
        step.step(action, 1, generator)

    return take


def onnx_step(world: wmgym.WorldModel) -> Callable[[], Any]:
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = world.export(Path(folder) / "world.onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    dim = world.task.core.dim
    every = {
        "core": world.starts[:1, :dim], "shown": world.starts[:1, dim:], "member": np.array([0]),
        "action": np.zeros((1, world.task.action_dim), np.float32), "elapsed": np.array([1]),
    }  # fmt: skip
    given = {each.name: every[each.name] for each in session.get_inputs()}
    return lambda: session.run(None, given)


def torch_step(world: wmgym.WorldModel) -> Callable[[], Any]:
    state = world.init(torch.tensor(world.starts[:1]), torch.Generator())
    action = torch.zeros(1, world.task.action_dim)

    def take() -> None:
        with torch.no_grad():
            world.step(state, action)

    return take


def torch_networks(world: wmgym.WorldModel) -> dict[str, Callable[[], Any]]:
    """The networks of a step alone, on one row, eager and frozen."""
    models = [each for each in (world.dynamics, world.readout) if isinstance(each, EnsembleMLP)]
    nets, rows = [], []
    for model in models:
        sizes = [model.input_dim, *[model.config.width] * model.config.depth, model.target_dim]
        parts = [[torch.nn.Linear(a, b), torch.nn.SiLU()] for a, b in itertools.pairwise(sizes)]
        nets.append(
            torch.nn.Sequential(*itertools.chain(*parts[:-1]), parts[-1][0]).eval().requires_grad_(False)
        )
        rows.append(torch.zeros(1, model.input_dim))
    pairs = list(zip(nets, rows, strict=True))
    frozen = [(torch.jit.freeze(torch.jit.trace(net, row)), row) for net, row in pairs]

    def run(every: list[tuple[Any, torch.Tensor]]) -> None:
        with torch.inference_mode():
            for net, row in every:
                net(row)

    return {
        "networks alone, torch": functools.partial(run, pairs),
        "networks alone, torch.jit": functools.partial(run, frozen),
    }


def goals(rows: list[Row]) -> list[Row]:
    """The targets beside what was measured."""

    def of(section: str, value: str) -> dict[str, float]:
        return {r["env"]: round(r[value], 2) for r in rows if r["section"] == section}

    step, ppo, first = of("step", "ratio"), of("ppo", "ratio"), of("start", "seconds")
    whole = set(step) == set(ENVS) and set(ppo) == set(TRAINED)
    most = {e: 1.1 if e == "HalfCheetah-v5" else 1.0 for e in TRAINED}
    return [
        target("one env by gym.make against the real env's step",
               "<= 0.5x Ant, Humanoid; <= 1x Hopper, Walker2d, Swimmer; <= 1.3x HalfCheetah", step,
               whole and all(x <= SLOWEST[e] for e, x in step.items())),
        target("PPO of Stable-Baselines3 on one env, 20,000 steps, wall time against the real id",
               "<= 1.1x HalfCheetah; < 1x on the other four", ppo,
               whole and all(x <= most[e] for e, x in ppo.items())),
        target("import, gym.make and first step in a fresh process", "<= 2 s", first,
               whole and all(x <= 2 for x in first.values())),
    ]  # fmt: skip


BENCHMARK = Benchmark(
    units,
    goals,
    collects="steps and trains on single envs of either side, and fits no world",
    envs=ENVS,
    threads=None,
)
