"""What docs/guide/artifacts.md promises: which results are equal to the bit where."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

import wmgym
from wmgym.evaluation import speed


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    found = hashlib.sha256()
    for name in sorted(arrays):
        found.update(name.encode() + arrays[name].tobytes())
    return found.hexdigest()


def pipeline(workers: int, *algorithms: str) -> dict[str, str]:
    """Hashes of data, a calibrated world, a report and agents."""
    how: Any = {"max_episode_steps": 40, "workers": workers}
    speed._SECONDS = 0.002  # in a process of its own too; what it takes is left out below
    data = wmgym.collect("InvertedPendulum-v5", steps=320, seed=0, noise=0.1, **how)
    fresh = wmgym.collect("InvertedPendulum-v5", steps=80, seed=1, **how)
    config = wmgym.FitConfig(members=2, width=64, depth=2, max_updates=10, eval_every=5)
    world = wmgym.calibrate(wmgym.fit(data, config, 0), fresh, horizon=10)
    how["max_episode_steps"] = 10
    report = wmgym.score(world, {"still": lambda obs: 0 * obs[:, :1]}, 2, 0, **how).to_dict()
    for name in ("wall_s", "cpu_s", "speed"):  # what it took is all that may differ
        report["origin"].pop(name)
    found = {"data": digest(data.arrays()), "world": digest(world.pack()[0]), "report": json.dumps(report)}
    for name in algorithms:
        given = {"n_steps": 4, "batch_size": 64} if name == "PPO" else {}
        settings = wmgym.TrainConfig(name, steps=256, num_envs=32, hyperparameters=given)
        state = wmgym.train(world, settings, 0).policy.state_dict()
        found[name] = digest({key: value.numpy() for key, value in state.items()})
    return found


def elsewhere(threads: int, workers: int, hash_seed: str, *algorithms: str) -> dict[str, str]:
    """Likewise, from another process."""
    code = (
        "import json, torch; from tests.app.test_determinism import pipeline; "
        f"torch.set_num_threads({threads}); print(json.dumps(pipeline({workers}, *{algorithms})))"
    )
    env = {**os.environ, "PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, env=env, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_another_process_hash_seed_and_number_of_workers_change_nothing() -> None:
    assert elsewhere(torch.get_num_threads(), 2, "1") == pipeline(1)


@pytest.mark.slow
def test_threads_change_agents_alone() -> None:
    algorithms = ("SAC", "PPO", "DynaSAC")
    one = elsewhere(1, 1, "0", *algorithms)
    assert one == elsewhere(1, 2, "random", *algorithms)
    two = elsewhere(2, 1, "2")
    assert two == {name: one[name] for name in two}
