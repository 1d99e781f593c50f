"""wmgym: a learned world model behind a Gymnasium Env, calibrated and checked against MuJoCo.

Importing this loads neither torch nor mujoco; names load what they need when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import gymnasium

if TYPE_CHECKING:
    from wmgym import drift, groundtruth, sb3
    from wmgym.archive import load
    from wmgym.calibrating import calibrate
    from wmgym.calibration import Calibration
    from wmgym.collecting import collect
    from wmgym.data import Transitions, concat, from_arrays
    from wmgym.dynamics import Dynamics, EnsembleMLP, Prediction
    from wmgym.env import ImaginedEnv
    from wmgym.files import StoreError
    from wmgym.fitting import fit
    from wmgym.optimising import FitConfig
    from wmgym.pipeline import run
    from wmgym.policy import MLPPolicy, PolicyCard, load_policy, load_pool
    from wmgym.recipes import Round, RunConfig
    from wmgym.sb3 import train
    from wmgym.scoring import GapReport, score
    from wmgym.streams import CollectError
    from wmgym.task import Task, make_task
    from wmgym.vector_env import ImaginedVectorEnv
    from wmgym.world import WorldModel

__version__ = "0.1.0"

_HOME = {
    "Calibration": "calibration",
    "CollectError": "streams",
    "Dynamics": "dynamics",
    "EnsembleMLP": "dynamics",
    "FitConfig": "optimising",
    "GapReport": "scoring",
    "ImaginedEnv": "env",
    "ImaginedVectorEnv": "vector_env",
    "MLPPolicy": "policy",
    "PolicyCard": "policy",
    "Prediction": "dynamics",
    "Round": "recipes",
    "RunConfig": "recipes",
    "StoreError": "files",
    "Task": "task",
    "Transitions": "data",
    "WorldModel": "world",
    "calibrate": "calibrating",
    "collect": "collecting",
    "concat": "data",
    "fit": "fitting",
    "from_arrays": "data",
    "load": "archive",
    "load_policy": "policy",
    "load_pool": "policy",
    "make_task": "task",
    "run": "pipeline",
    "score": "scoring",
    "train": "sb3",
}

__all__ = [
    "Calibration",
    "CollectError",
    "Dynamics",
    "EnsembleMLP",
    "FitConfig",
    "GapReport",
    "ImaginedEnv",
    "ImaginedVectorEnv",
    "MLPPolicy",
    "PolicyCard",
    "Prediction",
    "Round",
    "RunConfig",
    "StoreError",
    "Task",
    "Transitions",
    "WorldModel",
    "calibrate",
    "collect",
    "concat",
    "drift",
    "fit",
    "from_arrays",
    "groundtruth",
    "load",
    "load_policy",
    "load_pool",
    "make_task",
    "run",
    "sb3",
    "score",
    "train",
]

MUJOCO_IDS = (
    "InvertedPendulum-v5", "InvertedDoublePendulum-v5", "Reacher-v5", "Pusher-v5", "Swimmer-v5", "Hopper-v5",
    "HalfCheetah-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5", "HumanoidStandup-v5",
)  # fmt: skip
"""Gymnasium ids with an imagined twin ``wmgym/<id>``; give it a fitted world with ``world=``."""


def __getattr__(name: str) -> Any:
    if name in ("drift", "groundtruth", "sb3"):
        return importlib.import_module(f"wmgym.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'wmgym' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"wmgym.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def _register() -> None:
    for env_id in MUJOCO_IDS:
        limit = gymnasium.spec(env_id).max_episode_steps
        gymnasium.register(
            f"wmgym/{env_id}",
            entry_point="wmgym.env:make_env",
            vector_entry_point="wmgym.env:make_vector_env",
            max_episode_steps=limit,
            kwargs={"env_id": env_id},
        )


_register()
