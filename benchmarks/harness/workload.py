"""One measurement of ``compare`` in a fresh process, by public names that earlier versions have as well.

Run as ``python -P benchmarks/harness/workload.py CHECKOUT KIND ARGUMENTS`` with ``PYTHONPATH=CHECKOUT``; KIND
is ``start``, ``steps``, ``fit`` or ``open_loop``, ARGUMENTS is JSON. The last line printed is JSON as well.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

began = time.perf_counter()
import wmgym  # noqa: E402

IMPORTED = time.perf_counter() - began


def start(env_id: str) -> dict[str, float]:
    """Seconds of the import and from the import to the first step."""
    import gymnasium as gym

    since = time.perf_counter()
    env = gym.make(f"wmgym/{env_id}")
    env.reset(seed=0)
    env.step(env.action_space.sample())
    return {"import": IMPORTED, "first step": time.perf_counter() - since}


def steps(env_id: str, sizes: list[int], seconds: float) -> dict[str, float]:
    """Steps per second of ``ImaginedVectorEnv``, with trust and without."""
    import numpy as np
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    world, found = wmgym.load(env_id), {}
    for num_envs in sizes:
        for trust in (False, True):
            env = wmgym.ImaginedVectorEnv(world, num_envs, trust=trust)
            low, high = env.action_space.low, env.action_space.high
            action = np.random.default_rng(0).uniform(low, high).astype(np.float32)
            env.reset(seed=0)
            for _ in range(10):
                env.step(action)
            since, count = time.perf_counter(), 0
            while time.perf_counter() - since < seconds:
                env.step(action)
                count += 1
            name = f"{num_envs} envs, trust {'on' if trust else 'off'}"
            found[name] = count * num_envs / (time.perf_counter() - since)
    return found


def fit(env_id: str, transitions: int, updates: int, horizon: int) -> dict[str, float]:
    """Seconds of a small fit and of its calibration, on one core."""
    import torch

    torch.set_num_threads(1)
    data = wmgym.collect(env_id, steps=transitions, seed=0)
    held = wmgym.collect(env_id, steps=transitions // 2, seed=1)
    config = wmgym.FitConfig(max_updates=updates, eval_every=updates // 2)
    times = [time.perf_counter()]
    world = wmgym.fit(data, config, seed=0)
    times.append(time.perf_counter())
    wmgym.calibrate(world, held, horizon=horizon, seed=0)
    times.append(time.perf_counter())
    return {"fit": times[1] - times[0], "calibrate": times[2] - times[1]}


def open_loop(env_id: str, episodes: str, out: str) -> dict[str, float]:
    """Replay saved actions in the shipped world from saved states; write the imagined cores."""
    import numpy as np
    import torch

    saved, world, path = np.load(episodes), wmgym.load(env_id), []
    with torch.no_grad():
        state = world.init(torch.tensor(saved["state"]), torch.Generator().manual_seed(0))
        for t in range(saved["action"].shape[1]):
            state = world.step(state, torch.tensor(saved["action"][:, t]), "mean").state
            path.append(state.core.numpy())
    np.save(out, np.stack(path, 1))
    return {}


def main() -> None:
    checkout, kind, arguments = sys.argv[1:]
    assert Path(wmgym.__file__).is_relative_to(Path(checkout).resolve()), (
        f"{wmgym.__file__} is another checkout's"
    )
    kinds: dict[str, Any] = {"start": start, "steps": steps, "fit": fit, "open_loop": open_loop}
    print(json.dumps(kinds[kind](**json.loads(arguments))))


if __name__ == "__main__":
    main()
