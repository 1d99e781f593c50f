"""wmgym: a learned world model behind a Gymnasium Env, calibrated and checked against MuJoCo.

Importing this loads neither torch nor mujoco; names load what they need when first used.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

import gymnasium

from wmgym.envs.registration import register_ids, register_listed
from wmgym.io import deprecation
from wmgym.tasks.registry import TABLE

if TYPE_CHECKING:
    from wmgym import plan as plan
    from wmgym import sb3 as sb3
    from wmgym.agents.config import TrainConfig as TrainConfig
    from wmgym.agents.sb3 import train as train
    from wmgym.app.config import CollectConfig as CollectConfig
    from wmgym.app.config import EvaluateConfig as EvaluateConfig
    from wmgym.app.config import Round as Round
    from wmgym.app.improve import ImproveResult as ImproveResult
    from wmgym.app.improve import improve as improve
    from wmgym.app.recipes import RunConfig as RunConfig
    from wmgym.app.recipes import recipe as recipe
    from wmgym.app.run import RunResult as RunResult
    from wmgym.app.run import run as run
    from wmgym.app.sweep import SweepResult as SweepResult
    from wmgym.app.sweep import sweep as sweep
    from wmgym.app.sweep_config import SweepConfig as SweepConfig
    from wmgym.calibration.adapt import adapt as adapt
    from wmgym.calibration.calibrate import calibrate as calibrate
    from wmgym.calibration.watch import Change as Change
    from wmgym.calibration.watch import Watch as Watch
    from wmgym.calibration.watch import watch as watch
    from wmgym.data.collect import collect as collect
    from wmgym.data.executors import make_executor as make_executor
    from wmgym.data.importers.from_log import from_log as from_log
    from wmgym.data.joining import concat as concat
    from wmgym.data.logs import from_arrays as from_arrays
    from wmgym.data.policy import MLPPolicy as MLPPolicy
    from wmgym.data.policy import PolicyCard as PolicyCard
    from wmgym.data.policy import load_policy as load_policy
    from wmgym.data.pool import load_pool as load_pool
    from wmgym.data.rollout_worker import CollectError as CollectError
    from wmgym.data.transitions import Transitions as Transitions
    from wmgym.data.units import Executor as Executor
    from wmgym.data.units import Outcome as Outcome
    from wmgym.data.units import Unit as Unit
    from wmgym.envs.env import ImaginedEnv as ImaginedEnv
    from wmgym.envs.registration import register as register
    from wmgym.envs.registration import unregister as unregister
    from wmgym.envs.trust import Trust as Trust
    from wmgym.envs.vector_env import ImaginedVectorEnv as ImaginedVectorEnv
    from wmgym.evaluation.agreement import Agreement as Agreement
    from wmgym.evaluation.agreement import agreement as agreement
    from wmgym.evaluation.compare import Comparison as Comparison
    from wmgym.evaluation.compare import compare as compare
    from wmgym.evaluation.gap_report import GapReport as GapReport
    from wmgym.evaluation.identify import Identification as Identification
    from wmgym.evaluation.identify import identify as identify
    from wmgym.evaluation.intervals import prediction_powered as prediction_powered
    from wmgym.evaluation.open_loop import OpenLoopReport as OpenLoopReport
    from wmgym.evaluation.open_loop import score_open_loop as score_open_loop
    from wmgym.evaluation.ranking import Ranking as Ranking
    from wmgym.evaluation.ranking import rank as rank
    from wmgym.evaluation.reality import Diagnosis as Diagnosis
    from wmgym.evaluation.reality import RealityGap as RealityGap
    from wmgym.evaluation.reality_gap import diagnose as diagnose
    from wmgym.evaluation.reality_gap import gap as gap
    from wmgym.evaluation.report.page import write_report as write_report
    from wmgym.evaluation.score import score as score
    from wmgym.evaluation.select import Selection as Selection
    from wmgym.evaluation.select import select as select
    from wmgym.evaluation.what_if import WhatIf as WhatIf
    from wmgym.evaluation.what_if import counterfactual as counterfactual
    from wmgym.io.files import StoreError as StoreError
    from wmgym.models.config import FitConfig as FitConfig
    from wmgym.models.distill import distill as distill
    from wmgym.models.dynamics import Dynamics as Dynamics
    from wmgym.models.dynamics import Prediction as Prediction
    from wmgym.models.dynamics import register_dynamics as register_dynamics
    from wmgym.models.ensemble import EnsembleMLP as EnsembleMLP
    from wmgym.models.error_bounds import Calibration as Calibration
    from wmgym.models.fit import fit as fit
    from wmgym.models.residual import MujocoDynamics as MujocoDynamics
    from wmgym.models.residual import ResidualDynamics as ResidualDynamics
    from wmgym.models.residual_fit import residual as residual
    from wmgym.models.saving import load as load
    from wmgym.models.world import WorldModel as WorldModel
    from wmgym.tasks.shift import Shift as Shift
    from wmgym.tasks.shift import shift as shift
    from wmgym.tasks.shift import shifts as shifts
    from wmgym.tasks.task import Task as Task
    from wmgym.tasks.task import make_task as make_task

__version__ = "0.1.0"

_NAMES = {
    # Tasks and data
    "tasks.task": ("Task", "make_task"),
    "tasks.shift": ("Shift", "shift", "shifts"),
    "data.collect": ("collect",),
    "data.rollout_worker": ("CollectError",),
    "data.joining": ("concat",),
    "data.transitions": ("Transitions",),
    "data.logs": ("from_arrays",),
    "data.importers.from_log": ("from_log",),
    "data.policy": ("MLPPolicy", "PolicyCard", "load_policy"),
    "data.pool": ("load_pool",),
    "data.executors": ("make_executor",),
    "data.units": ("Executor", "Outcome", "Unit"),
    # Worlds and their error bounds
    "models.fit": ("fit",),
    "models.config": ("FitConfig",),
    "models.distill": ("distill",),
    "models.dynamics": ("Dynamics", "Prediction", "register_dynamics"),
    "models.ensemble": ("EnsembleMLP",),
    "models.residual": ("MujocoDynamics", "ResidualDynamics"),
    "models.residual_fit": ("residual",),
    "models.world": ("WorldModel",),
    "models.saving": ("load",),
    "models.error_bounds": ("Calibration",),
    "calibration.calibrate": ("calibrate",),
    "calibration.adapt": ("adapt",),
    "calibration.watch": ("Change", "Watch", "watch"),
    "io.files": ("StoreError",),
    # Imagined envs, agents, scores
    "envs.env": ("ImaginedEnv",),
    "envs.vector_env": ("ImaginedVectorEnv",),
    "envs.registration": ("register", "unregister"),
    "envs.trust": ("Trust",),
    "agents.config": ("TrainConfig",),
    "agents.sb3": ("train",),
    "evaluation.score": ("score",),
    "evaluation.open_loop": ("OpenLoopReport", "score_open_loop"),
    "evaluation.gap_report": ("GapReport",),
    "evaluation.agreement": ("Agreement", "agreement"),
    "evaluation.intervals": ("prediction_powered",),
    "evaluation.ranking": ("Ranking", "rank"),
    "evaluation.compare": ("Comparison", "compare"),
    "evaluation.select": ("Selection", "select"),
    "evaluation.identify": ("Identification", "identify"),
    "evaluation.what_if": ("WhatIf", "counterfactual"),
    "evaluation.reality": ("Diagnosis", "RealityGap"),
    "evaluation.reality_gap": ("diagnose", "gap"),
    "evaluation.report.page": ("write_report",),
    # The whole procedure
    "app.config": ("CollectConfig", "EvaluateConfig", "Round"),
    "app.improve": ("ImproveResult", "improve"),
    "app.recipes": ("RunConfig", "recipe"),
    "app.run": ("RunResult", "run"),
    "app.sweep": ("SweepResult", "sweep"),
    "app.sweep_config": ("SweepConfig",),
}
"""Each module that has public names, and these."""

_HOME = {name: module for module, names in _NAMES.items() for name in names}

_ALIASES = ("plan", "sb3")  # modules that name a package of agents

__all__ = sorted([*_HOME, *_ALIASES])

MUJOCO_IDS = tuple(env_id for env_id in TABLE if env_id in gymnasium.registry)
"""Gymnasium ids with an imagined twin ``wmgym/<id>``; give it a fitted world with ``world=``."""


def __getattr__(name: str) -> Any:
    if name in _ALIASES:
        return importlib.import_module(f"wmgym.{name}")
    if name in deprecation.OLD_MODULES:
        return sys.modules[f"wmgym.{name}"]
    if name not in _HOME:
        raise AttributeError(f"module 'wmgym' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"wmgym.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


deprecation.install()
register_ids(MUJOCO_IDS)
register_listed()
