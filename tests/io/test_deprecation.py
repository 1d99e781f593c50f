"""Every old public name works for one more release and says what it is called now."""

from __future__ import annotations

import functools
import importlib
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import wmgym
from tests import toy
from wmgym.calibration.calibrate import calibrate
from wmgym.envs.registration import make_env, make_vector_env
from wmgym.io import deprecation
from wmgym.models.dynamics import PROPAGATIONS
from wmgym.models.world import WorldModel
from wmgym.tasks.geometry import Geometry
from wmgym.tasks.layout import Core

MODULES = {
    # an old module: public names in it
    "archive": ("load",),
    "arrays": ("as_tensor",),
    "calibrating": ("calibrate",),
    "calibration": ("Calibration", "SMALLEST_DOUBT"),
    "chart": ("Chart", "rotation_matrix"),
    "cli": ("app", "main"),
    "collecting": ("collect",),
    "console": ("job",),
    "data": ("Transitions", "concat", "from_arrays"),
    "doctor": ("examine",),
    "drift": ("signs", "check"),
    "dynamics": ("Dynamics", "EnsembleMLP", "EnsembleConfig", "Prediction", "Mode", "MODES", "targets"),
    "env": ("ImaginedEnv", "make_env"),
    "files": ("StoreError", "read_json"),
    "fitting": ("fit",),
    "groundtruth": ("snapshot", "restore", "branch", "replay", "inspect", "Renderer"),
    "ledger": ("write_run_json", "cpu_seconds"),
    "optimising": ("FitConfig",),
    "pipeline": ("run", "RunResult"),
    "policy": ("MLPPolicy", "PolicyCard", "load_policy", "load_pool"),
    "progress": ("track",),
    "recipes": ("RunConfig", "Round", "recipe"),
    "records": ("TaskRecord", "Record", "library_versions"),
    "replaying": ("replay", "replay_errors", "spread_starts"),
    "rules": ("crps", "coverage"),
    "scoring": ("score", "GapReport", "PolicyScore", "mean_interval"),
    "store": ("write_directory", "read_directory", "StoreError"),
    "streams": ("CollectError", "PolicyFn", "apply_policy"),
    "support": ("Support",),
    "symmetry": ("views",),
    "task": ("Task", "make_task"),
    "tasks": ("Core", "Geometry", "lookup"),
    "vector_env": ("ImaginedVectorEnv", "EnvSnapshot", "OnDistrust"),
    "world": ("WorldModel", "WorldState", "WorldStep", "Provenance"),
}


def scored(**keywords: Any) -> wmgym.GapReport:
    return wmgym.score(toy.world(), {"still": lambda obs: obs[:, :2] * 0}, 2, workers=1, **keywords)


def stepped(**keywords: Any) -> Any:
    world = toy.world()
    state = world.init(torch.ones(2, 3), torch.Generator().manual_seed(0))
    return world.step(state, torch.ones(2, 2), **keywords).state.core.tolist()


def bounded(**keywords: Any) -> Any:
    rows = {propagation: np.full((1, 3), 0.5, np.float32) for propagation in PROPAGATIONS}
    power = {propagation: np.ones(1, np.float32) for propagation in PROPAGATIONS}
    table = replace(TABLE, windows=np.ones(1, np.int64), half_width=rows, per_disagreement=rows, power=power)
    return table.error_bound(np.array([1]), core=np.zeros((1, 3)), **keywords).tolist()


TABLE = toy.blank_calibration(3)
DATA = toy.episodes(6, 0)


def logged(**keywords: Any) -> tuple[float, ...]:
    """Of transitions, which NumPy does not compare as one."""
    rows = (DATA.obs, DATA.action, DATA.next_obs, DATA.episode, DATA.terminated, DATA.reward)
    return tuple(wmgym.from_arrays(DATA.task, *rows, **keywords).unobserved.ravel())


def described(**keywords: Any) -> Core:
    return Core(Geometry(1), observe=abs, from_obs=abs, **keywords)


KEYWORDS: list[tuple[Callable[..., Any], dict[str, Any], dict[str, Any]]] = [
    (wmgym.TrainConfig, {"horizon": 3}, {"max_episode_steps": 3}),
    (wmgym.TrainConfig, {"prefill": 3}, {"learning_starts": 3}),
    (wmgym.TrainConfig, {"mode": "mean"}, {"propagation": "mean"}),
    (wmgym.TrainConfig, {"halt": True}, {"divergence_is_terminal": True}),
    (
        wmgym.TrainConfig,
        {"on_distrust": "penalise", "tolerance": 0.5, "penalty": 2.0},
        {"trust": wmgym.Trust("penalise", 0.5, 2.0)},
    ),
    (scored, {"mode": "mean"}, {"propagation": "mean"}),
    (stepped, {"mode": "mean"}, {"propagation": "mean"}),
    (bounded, {"mode": "mean"}, {"propagation": "mean"}),
    (
        bounded,
        {"mode": "mean", "doubt": np.full((1, 3), 0.1)},
        {"propagation": "mean", "disagreement": np.full((1, 3), 0.1)},
    ),
    (functools.partial(TABLE.trust_horizon, 0.5), {"mode": "mean"}, {"propagation": "mean"}),
    (logged, {"hidden": DATA.unobserved}, {"unobserved": DATA.unobserved}),
    (described, {"hidden_dim": 2}, {"unobserved_dim": 2}),
    (described, {"read_hidden": repr}, {"read_unobserved": repr}),
    (described, {"stops": ((0, -1.0, 1.0),)}, {"joint_limits": ((0, -1.0, 1.0),)}),
]
"""Functions, old keywords, and the new ones that they stand for; each call gives the same."""

ATTRIBUTES = [
    (wmgym.TrainConfig(max_episode_steps=3), "horizon", "max_episode_steps"),
    (wmgym.TrainConfig(learning_starts=3), "prefill", "learning_starts"),
    (wmgym.TrainConfig(propagation="mean"), "mode", "propagation"),
    (wmgym.TrainConfig(divergence_is_terminal=True), "halt", "divergence_is_terminal"),
    (TABLE, "per_doubt", "per_disagreement"),
    (DATA, "hidden", "unobserved"),
    (described(unobserved_dim=2), "hidden_dim", "unobserved_dim"),
    (described(read_unobserved=repr), "read_hidden", "read_unobserved"),
    (described(joint_limits=((0, -1.0, 1.0),)), "stops", "joint_limits"),
]
"""Values, old names of their attributes, and the new ones."""


def test_every_old_module_is_listed() -> None:
    assert set(MODULES) == set(deprecation.OLD_MODULES)


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module in MODULES for name in MODULES[module]]
)
def test_old_modules_give_what_moved(module: str, name: str) -> None:
    for old in (importlib.import_module(f"wmgym.{module}"), getattr(wmgym, module)):
        with pytest.warns(DeprecationWarning, match=rf"^wmgym\.{module}\.{name} is wmgym\.") as seen:
            found = getattr(old, name)
        home, _, new = str(seen[0].message).split()[2].rpartition(".")
        assert found is getattr(importlib.import_module(home), new)  # as the warning says
        assert [Path(warning.filename) for warning in seen] == [Path(__file__)]  # where people see it
        with pytest.raises(AttributeError, match="nonsense"):
            old.nonsense  # noqa: B018


def test_importing_from_an_old_module_warns_where_it_is_imported() -> None:
    code = "import wmgym.groundtruth; from wmgym.rules import crps"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr
    assert shown.startswith("<string>:1: DeprecationWarning: wmgym.rules.crps is wmgym.calibration.scoring_")


@pytest.mark.parametrize(("function", "old", "new"), KEYWORDS)
def test_old_keywords_do_what_the_new_ones_do(
    function: Callable[..., Any], old: dict[str, Any], new: dict[str, Any]
) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        before = function(**old)
    said = [str(warning.message) for warning in seen if warning.category is DeprecationWarning]
    for name in set(new) - set(old):
        assert any(name in message.partition(" is ")[2] for message in said), (name, said)
    assert before == function(**new)


@pytest.mark.parametrize(("value", "old", "new"), ATTRIBUTES)
def test_old_attributes_are_the_new_ones(value: object, old: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=rf"{old} is {new} now") as seen:
        found = getattr(value, old)
    assert found is getattr(value, new) or found == getattr(value, new)
    assert [Path(warning.filename) for warning in seen] == [Path(__file__)]


# Trust


@pytest.fixture(scope="module")
def toy_world() -> WorldModel:
    return calibrate(toy.world(), toy.episodes(4, 0, steps=4), horizon=2)


MAKERS: list[Callable[..., Any]] = [
    wmgym.ImaginedVectorEnv,
    wmgym.ImaginedEnv,
    lambda world, **kwargs: make_env(world.task.env_id, world, **kwargs),
    lambda world, **kwargs: make_vector_env(world.task.env_id, world, **kwargs),
    lambda world, **kwargs: wmgym.sb3.ImaginedVecEnv(world, 2, **kwargs).venv,
]


@pytest.mark.parametrize("make", MAKERS)
def test_trust_was_four_keywords_of_an_env(make: Callable[..., Any], toy_world: WorldModel) -> None:
    old: dict[str, Any] = {"on_distrust": "truncate", "tolerance": 0.5}
    for trust in ({}, {"trust": True}):
        with (
            pytest.warns(DeprecationWarning, match=r"on_distrust is trust\.on_exceed now"),
            pytest.warns(DeprecationWarning, match=r"tolerance is trust\.threshold now"),
        ):
            assert make(toy_world, **old, **trust).trust == wmgym.Trust("truncate", 0.5)
    with pytest.raises(ValueError, match=r"tolerance is trust\.threshold now; pass that alone"):
        make(toy_world, tolerance=0.5, trust=wmgym.Trust())


def test_old_trust_keywords_that_ignore_ask_for_no_trust() -> None:
    for old in ({"on_distrust": "ignore"}, {"tolerance": 0.5}, {"penalty": 0.1}):
        with pytest.warns(DeprecationWarning, match=r"is trust\."):
            assert wmgym.ImaginedVectorEnv(toy.world(), **old).trust is None  # needs no calibration


@pytest.mark.parametrize("make", MAKERS)
def test_propagation_was_mode(make: Callable[..., Any], toy_world: WorldModel) -> None:
    with pytest.warns(DeprecationWarning, match="mode is propagation now"):
        env = make(toy_world, mode="mean")
    assert getattr(env, "_venv", env).propagation == "mean"
    with pytest.raises(ValueError, match="mode is propagation now; pass that alone"):
        make(toy_world, mode="mean", propagation="mean")


def test_a_warning_points_at_the_line_that_used_the_old_name() -> None:
    with pytest.warns(DeprecationWarning, match="mode is propagation now") as caught:
        gym.make("wmgym/InvertedPendulum-v5", mode="mean").close()
    assert [each.filename for each in caught if each.category is DeprecationWarning] == [__file__]


def test_an_env_still_has_its_old_attributes(toy_world: WorldModel) -> None:
    env = wmgym.ImaginedVectorEnv(toy_world, trust=wmgym.Trust("penalise", 0.5, 2.0))
    for old, value in {"mode": "member", "on_distrust": "penalise", "tolerance": 0.5, "penalty": 2.0}.items():
        with pytest.warns(DeprecationWarning, match=rf"ImaginedVectorEnv\.{old} is "):
            assert getattr(env, old) == value


def test_without_trust_its_old_attributes_have_their_old_defaults() -> None:
    for value in (wmgym.ImaginedVectorEnv(toy.world()), wmgym.TrainConfig()):
        assert value.trust is None
        for old, default in {"on_distrust": "ignore", "tolerance": 0.75, "penalty": 0.01}.items():
            with pytest.warns(DeprecationWarning, match=rf"\.{old} is trust\."):
                assert getattr(value, old) == default


def test_divergence_is_terminal_was_halt() -> None:
    with pytest.warns(DeprecationWarning, match="halt is divergence_is_terminal now"):
        env = wmgym.sb3.ImaginedVecEnv(toy.world(), 2, halt=True)
    assert env._divergence_is_terminal
