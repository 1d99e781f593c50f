"""How many steps a second: MuJoCo by every usual way, and the shipped worlds, on the same cores in one run.

    python benchmarks/throughput.py                     # five tasks, then benchmarks/results/throughput.json
    python benchmarks/throughput.py --only Hopper-v5    # finished tasks are skipped
    python benchmarks/throughput.py --device cuda       # the imagined side on a GPU

Medians of interleaved repeats; run it on an idle machine. "network" is the floor: the matrix products and
activations of one ensemble member a row, and of the readouts where there are some, their inputs ready.
EnvPool runs the v4 tasks, the same physics.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import mujoco
import mujoco.rollout
import numpy as np
import torch
from common import Row, Units, break_even, target

import wmgym
from wmgym.agents.sb3.vec_env import ImaginedVecEnv
from wmgym.models.ensemble import EnsembleMLP

ENVS = ("Hopper-v5", "HalfCheetah-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5")
SIZES = (1, 16, 64, 256, 1_024, 4_096, 16_384, 65_536)
REPEATS = 5
SECONDS = 0.2  # of one repeat, about
Take = Callable[[], None]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=ENVS, default=ENVS, metavar="ENV")
    parser.add_argument("--device", default="cpu", help="of the imagined side")
    args = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    units = Units("throughput")
    for env_id in args.only:
        name = env_id if args.device == "cpu" else f"{env_id}-{args.device}"
        units.do(name, lambda: measure(env_id, args.device))  # noqa: B023  (called at once)
    print(units.write(goals, [0]))


def measure(env_id: str, device: str) -> list[Row]:
    contenders: dict[
        tuple[str, int, str], tuple[Take, int]
    ] = {}  # by name, envs, precision: one go, its steps
    for name, num_envs, take, steps in real(env_id):
        contenders[name, num_envs, "float64"] = (take, steps)
    for precision in ("float32", "bfloat16"):
        for num_envs in SIZES:
            for name, take in imagined(env_id, num_envs, precision, device).items():
                contenders[name, num_envs, precision] = (take, num_envs)
    goes = {key: calibrate(take) for key, (take, _) in contenders.items()}
    times: dict[tuple[str, int, str], list[float]] = {key: [] for key in contenders}
    for _ in range(REPEATS):
        for key, (take, _) in contenders.items():
            began = time.perf_counter()
            for _ in range(goes[key]):
                take()
            times[key].append((time.perf_counter() - began) / goes[key])
    dt = wmgym.make_task(env_id).dt
    rows: list[Row] = []
    for (name, num_envs, precision), seconds in times.items():
        rate = contenders[name, num_envs, precision][1] / float(np.median(seconds))
        rows.append(
            {
                "env": env_id, "device": device, "engine": name, "num_envs": num_envs, "precision": precision,
                "steps_per_s": round(rate, 1), "step_ms": float(np.median(seconds)) * 1e3,
                "robot_years_per_day": rate * dt / 365.25,
                "spread": float(np.ptp(seconds) / np.median(seconds)),
            }
        )  # fmt: skip
    return rows


def calibrate(take: Take) -> int:
    """How many goes fill a repeat; warms up on the way."""
    for _ in range(3):
        take()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS / 4:
        take()
        count += 1
    return max(1, round(4 * count))


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


def rollout(env_id: str, cores: int, copies: int = 64, steps: int = 20) -> tuple[str, int, Take, int]:
    """``mujoco.rollout`` from states met by random actions, since robots at rest are cheaper."""
    env: Any = gym.make(env_id).unwrapped
    model, skip, spec = env.model, env.frame_skip, mujoco.mjtState.mjSTATE_FULLPHYSICS
    initial = np.zeros((copies, mujoco.mj_stateSize(model, spec)))
    env.reset(seed=0)
    env.action_space.seed(0)
    for row in initial:
        for _ in range(5):
            if env.step(env.action_space.sample())[2]:
                env.reset()
        mujoco.mj_getState(model, env.data, row, spec)
    low, high = env.action_space.low, env.action_space.high
    control = np.random.default_rng(0).uniform(low, high, (copies, steps, len(low))).repeat(skip, axis=1)
    pool = mujoco.rollout.Rollout(nthread=cores)
    datas = [mujoco.MjData(model) for _ in range(cores)]
    return "mujoco.rollout", copies, lambda: pool.rollout(model, datas, initial, control), copies * steps


def imagined(env_id: str, num_envs: int, precision: Any, device: str) -> dict[str, Take]:
    """The learned simulator's contenders, from the network up."""
    world = wmgym.load(env_id)
    vector = wmgym.ImaginedVectorEnv(world, num_envs, device=device, precision=precision)
    sb3 = ImaginedVecEnv(world, num_envs, device=device, precision=precision)
    world = vector.world
    vector.reset(seed=0)
    sb3.seed(0)
    sb3.reset()
    space = world.task.action_space
    rng = np.random.default_rng(0)
    actions = rng.uniform(space.low, space.high, (num_envs, *(space.shape or ()))).astype(np.float32)
    given = torch.tensor(actions, device=device)
    state = world.init(vector._state.full, torch.Generator(device).manual_seed(0))  # type: ignore[union-attr]
    model = world.dynamics
    assert isinstance(model, EnsembleMLP)
    with torch.no_grad():
        plan = model._pack(state.member)
        packed = plan.pack(model.encode(state.core, world.encode_action(given)))
        readout = world.readout
        assert readout is None or isinstance(readout, EnsembleMLP)
        seen = None if readout is None else readout.encode(state.core, world.encode_action(given))[None]

    def wait() -> None:
        if device != "cpu":
            torch.cuda.synchronize()

    def network() -> None:
        with torch.no_grad():
            through(model, packed, plan.only)
            if readout is not None and seen is not None:
                through(readout, seen, None)
        wait()

    def step() -> None:
        with torch.no_grad():
            world.step(state, given)
        wait()

    takes: dict[str, Take] = {"network": network, "WorldModel.step": step}
    takes["ImaginedVectorEnv"] = lambda: vector.step(actions)
    if num_envs <= 4_096:  # SB3 makes a dictionary an env
        takes["ImaginedVecEnv"] = lambda: sb3.step(actions)
    if num_envs == 1:
        one = gym.make(f"wmgym/{env_id}", precision=precision, device=device)
        one.reset(seed=0)

        def step_one() -> None:
            _, _, terminated, truncated, _ = one.step(actions[0])
            if terminated or truncated:
                one.reset()

        takes["gym.make"] = step_one
    return takes


def through(model: EnsembleMLP, inputs: torch.Tensor, only: int | None) -> None:
    """The layers that the mean takes."""
    layers = model._layers_of(only)
    weight, bias = layers.mean
    torch.baddbmm(bias, model._hidden(inputs, layers.unobserved), weight)


def goals(rows: list[Row]) -> list[Row]:
    """The issue's targets beside what was measured, on the CPU."""
    mine = [r for r in rows if r["device"] == "cpu"]
    envs = [e for e in ENVS if any(r["env"] == e for r in mine)]
    whole = len(envs) == len(ENVS)

    def rate(env_id: str, engine: str, precision: str | None = None, num_envs: int | None = None) -> float:
        return max(
            r["steps_per_s"] for r in mine
            if r["env"] == env_id and r["engine"] == engine and precision in (None, r["precision"])
            and num_envs in (None, r["num_envs"])
        )  # fmt: skip

    def best(env_id: str) -> int:
        every = [r for r in mine if r["env"] == env_id and r["engine"] == "ImaginedVectorEnv"
                 and r["precision"] == "float32"]  # fmt: skip
        return int(max(every, key=lambda r: r["steps_per_s"])["num_envs"])

    def each(of: Callable[[str], float]) -> dict[str, float]:
        return {env_id: round(of(env_id), 2) for env_id in envs}

    least = dict(zip(ENVS, (12, 6, 15, 25, 20), strict=True))
    engine = "ImaginedVectorEnv"
    rollouts = each(lambda e: rate(e, engine, "float32") / rate(e, "mujoco.rollout"))
    asynchronous = each(lambda e: rate(e, engine, "float32") / rate(e, "AsyncVectorEnv"))
    floor = each(lambda e: rate(e, engine, "float32", best(e)) / rate(e, "network", "float32", best(e)))
    sb3 = each(lambda e: rate(e, "ImaginedVecEnv", "float32", 256) / rate(e, engine, "float32", 256))
    single = each(lambda e: rate(e, "Gymnasium env") / rate(e, "gym.make", "float32"))
    half = each(lambda e: rate(e, engine, "bfloat16") / rate(e, engine, "float32"))
    even = {e: break_even(mine, e) for e in envs}
    return [
        target("ImaginedVectorEnv at its best num_envs against mujoco.rollout on all cores",
               ", ".join(f"{e} >= {x}x" for e, x in least.items()), rollouts,
               whole and all(rollouts[e] >= least[e] for e in envs)),
        target("the same against Gymnasium's AsyncVectorEnv on all cores", ">= 60x", asynchronous,
               whole and min(asynchronous.values()) >= 60),
        target("ImaginedVectorEnv against the raw network at the same batch", ">= 70 %", floor,
               whole and min(floor.values()) >= 0.7),
        target("SB3 ImaginedVecEnv at 256 envs against ImaginedVectorEnv", ">= 80 %", sb3,
               whole and min(sb3.values()) >= 0.8),
        target("one env through gym.make, latency against MuJoCo's own step; Hopper, Walker2d, Ant, Humanoid",
               "<= 1x", single, whole and all(x <= 1 for e, x in single.items() if e != "HalfCheetah-v5")),
        target("bfloat16 against float32", ">= 1.6x", half, whole and min(half.values()) >= 1.6),
        target("break-even: imagined envs that outrun mujoco.rollout on all cores", "none set", even, True),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
