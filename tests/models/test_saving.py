"""Saved worlds: whole or refused, and never executed."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from tests import toy
from wmgym.calibration.calibrate import calibrate
from wmgym.envs.vector_env import ImaginedVectorEnv
from wmgym.io import artifacts
from wmgym.models import saving
from wmgym.models.config import FitConfig
from wmgym.models.dynamics import PROPAGATIONS
from wmgym.models.ensemble import EnsembleMLP
from wmgym.models.fit import fit
from wmgym.models.world import WorldModel
from wmgym.tasks.task import make_task

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def toy_fit() -> WorldModel:
    """A fitted, calibrated world of the toy, whose formulas no file can hold."""
    config = FitConfig(members=2, width=8, depth=1, max_updates=5)
    return calibrate(fit(toy.episodes(5, 0), config), toy.episodes(2, 1), horizon=4)


@pytest.fixture(scope="module")
def toy_dir(toy_fit: WorldModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_fit.save(tmp_path_factory.mktemp("archive") / "toy")


def assert_equal(first: Any, second: Any) -> None:
    """Equal bit for bit, at any depth."""
    assert type(first) is type(second)
    if isinstance(first, np.ndarray):
        assert first.dtype == second.dtype
        np.testing.assert_array_equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_equal(first[key], second[key])
    elif hasattr(first, "__dataclass_fields__"):
        for name in first.__dataclass_fields__:
            assert_equal(getattr(first, name), getattr(second, name))
    else:
        assert first == second


# Round trips


def test_a_loaded_world_is_the_saved_one(toy_fit: WorldModel, toy_dir: Path) -> None:
    loaded = saving.load(toy_dir, task=toy.task())
    generator = torch.Generator().manual_seed(0)
    core, action = torch.randn(50, 3, generator=generator), torch.rand(50, 2, generator=generator)
    before, after = toy_fit.dynamics.predict(core, action), loaded.dynamics.predict(core, action)
    assert torch.equal(before.mean, after.mean)
    assert torch.equal(before.std, after.std)
    for name in ("starts", "low", "high", "provenance", "calibration", "support"):
        assert_equal(getattr(toy_fit, name), getattr(loaded, name))
    assert not any(parameter.requires_grad for parameter in loaded.dynamics.parameters())  # type: ignore[attr-defined]


def test_a_loaded_world_imagines_the_same(pendulum_world: WorldModel, pendulum_dir: str) -> None:
    loaded = saving.load(pendulum_dir)
    assert loaded.task.from_table
    assert_equal(pendulum_world.calibration, loaded.calibration)
    found = []
    for world in (pendulum_world, loaded):
        env = ImaginedVectorEnv(world, 5)
        obs = [env.reset(seed=0)[0]]
        for _ in range(30):
            obs.append(env.step(np.ones((5, 1), np.float32))[0])
        found.append(np.array(obs))
    np.testing.assert_array_equal(*found)


def test_every_modes_bounds_are_kept(toy_dir: Path) -> None:
    found = saving.load(toy_dir, task=toy.task()).calibration
    assert found is not None
    assert set(found.half_width) == set(found.coverage) == set(PROPAGATIONS) == {"mean", "member", "sample"}


def test_an_uncalibrated_world_stays_so(toy_fit: WorldModel, tmp_path: Path) -> None:
    path = toy.uncalibrated(toy_fit).save(tmp_path / "toy")
    assert saving.load(path, task=toy.task()).calibration is None


def test_learned_heads_need_no_task(cartpole_world: WorldModel, tmp_path: Path) -> None:
    loaded = saving.load(cartpole_world.save(tmp_path / "cartpole"))
    assert loaded.task.reward is loaded.task.terminated is None
    assert loaded.task.action_space == cartpole_world.task.action_space
    assert loaded.task.observation_space == cartpole_world.task.observation_space
    env = ImaginedVectorEnv(loaded, 2)
    env.reset(seed=0)
    env.step(np.array([0, 1]))


def test_saving_again_replaces(toy_fit: WorldModel, tmp_path: Path) -> None:
    toy_fit.save(tmp_path / "toy")
    toy.uncalibrated(toy_fit).save(tmp_path / "toy")
    assert saving.load(tmp_path / "toy", task=toy.task()).calibration is None
    assert len(list((tmp_path / "toy").iterdir())) == 3


def test_saving_leaves_the_world_alone(toy_fit: WorldModel, tmp_path: Path) -> None:
    toy_fit.save(tmp_path / "toy")
    loaded = saving.load(tmp_path / "toy", task=toy.task())
    with torch.no_grad():
        loaded.dynamics.weights[0].zero_()  # type: ignore[attr-defined]
    assert toy_fit.dynamics.weights[0].abs().sum() > 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("env_id", ["Hopper-v5", "Ant-v5"])  # one with feet, one with readouts
def test_worlds_that_version_0_1_saved_load_for_one_release(env_id: str, tmp_path: Path) -> None:
    world = saving.load(env_id)
    assert isinstance(world.dynamics, EnsembleMLP)
    config = replace(world.dynamics.config, geometry=world.task.core.geometry.coarser())
    network = EnsembleMLP(config, torch.Generator().manual_seed(0)).finished()
    world = replace(world, dynamics=network)
    arrays, document = world.pack()
    old = {key.replace(".per_disagreement.", ".per_doubt."): array for key, array in arrays.items()}
    geometry = document["dynamics"]["settings"]["geometry"]
    feet = [[foot["radius"], [[[[1, 2, 1]], 0.0, -0.2] for _ in foot["links"]]] for foot in geometry["feet"]]
    written = {key: document[key] for key in ("task", "provenance", "calibration")} | {
        "ensemble": {**document["dynamics"]["settings"], "geometry": {**geometry, "feet": feet}},
        "readout": document["readout"] and document["readout"]["settings"],
        "typical_distance": document["support"]["typical"],
    }
    artifacts.write_directory(tmp_path / "world", kind="world", arrays=old, document=written)
    with pytest.warns(DeprecationWarning, match=r"world is from wmgym 0\.1, .*; save it again$") as seen:
        found = saving.load(tmp_path / "world")
    assert [warning.filename for warning in seen] == [__file__]
    again, described = found.pack()
    assert described == document
    assert_equal(again, arrays)
    del written["typical_distance"]
    artifacts.write_directory(tmp_path / "world", kind="world", arrays=old, document=written)
    with pytest.raises(artifacts.StoreError, match=r"world: not a world of this version .*typical_distance"):
        saving.load(tmp_path / "world")


def test_given_formulas_must_be_given_again(toy_dir: Path) -> None:
    with pytest.raises(ValueError, match=r"pass task=wmgym.make_task\(.*reward_fn|reward_fn.*pass task="):
        saving.load(toy_dir)


def test_a_task_of_other_spaces_is_refused(toy_dir: Path) -> None:
    with pytest.raises(ValueError, match="other spaces"):
        saving.load(toy_dir, task=make_task("CartPole-v1"))


def test_a_class_without_a_name_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"LinearGaussian has no name.*register_dynamics"):
        toy.world().save(tmp_path / "toy")
    assert not (tmp_path / "toy").exists()


# Refusals


def test_a_damaged_byte_anywhere_is_refused(toy_fit: WorldModel, tmp_path: Path) -> None:
    path = toy_fit.save(tmp_path / "toy")
    rng = np.random.default_rng(0)
    for file in path.iterdir():
        kept = file.read_bytes()
        for at in rng.choice(len(kept), min(200, len(kept)), replace=False):
            file.write_bytes(kept[:at] + bytes([kept[at] ^ (1 << rng.integers(8))]) + kept[at + 1 :])
            with pytest.raises(artifacts.StoreError):
                saving.load(path, task=toy.task())
        for damaged in (kept[:-1], kept + b"\0", b""):
            file.write_bytes(damaged)
            with pytest.raises(artifacts.StoreError):
                saving.load(path, task=toy.task())
        file.write_bytes(kept)
    saving.load(path, task=toy.task())


def test_what_is_no_world_is_refused(tmp_path: Path) -> None:
    toy.episodes(1, 0).save(tmp_path / "data")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "model.zip").write_bytes(b"PK")
    (tmp_path / "file").write_text("{}")
    for name, why in {
        "data": "'transitions', not a 'world'",
        "foreign": "holds no wmgym artifact",
        "missing": "missing is missing; check the path",
        "file": "holds no wmgym artifact",
    }.items():
        with pytest.raises(artifacts.StoreError, match=why) as caught:
            saving.load(tmp_path / name)
        assert "\n" not in str(caught.value)


def rewritten(source: Path, target: Path, document: dict[str, Any], arrays: dict[str, np.ndarray]) -> Path:
    """The world at ``source``, properly hashed, with other contents."""
    old_arrays, old_document = artifacts.read_directory(source, kind="world")
    return artifacts.write_directory(
        target, kind="world", arrays=old_arrays | arrays, document=old_document | document
    )


@pytest.mark.parametrize(
    "document",
    [
        {"code": "import os"},
        {"calibration": {"level": 0.9}},
        {"calibration": {"level": "0.9", "episodes": 1, "fingerprints": []}},
        {"provenance": None},
        {"task": {}},
    ],
)
def test_a_document_that_does_not_fit_is_refused(
    toy_dir: Path, tmp_path: Path, document: dict[str, Any]
) -> None:
    path = rewritten(toy_dir, tmp_path / "x", document, {})
    with pytest.raises(artifacts.StoreError, match="not a world of this version") as caught:
        saving.load(path, task=toy.task())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change", [{"width": 9}, {"members": 3}, {"depth": 2}, {"members": -1}, {"action_dim": 4}, {"extra": 1}]
)
def test_an_architecture_that_does_not_fit_is_refused(
    toy_dir: Path, tmp_path: Path, change: dict[str, int]
) -> None:
    ensemble = artifacts.read_directory(toy_dir, kind="world")[1]["dynamics"]
    path = rewritten(
        toy_dir, tmp_path / "x", {"dynamics": ensemble | {"settings": ensemble["settings"] | change}}, {}
    )
    with pytest.raises(artifacts.StoreError, match="not a world of this version"):
        saving.load(path, task=toy.task())


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("dynamics.weights.0", (2, 5, 9)),
        ("dynamics.biases.1", (2, 1, 1)),
        ("dynamics.input_mean", (4,)),
        ("starts", (5, 2)),
        ("starts", (0, 3)),
        ("starts", (4, 3)),
        ("starts", (6, 3)),
        ("low", (2,)),
        ("high", (4,)),
        ("calibration.std_scale", (2,)),
        ("calibration.half_width.mean", (4, 2)),
        ("calibration.half_width.member", (5, 3)),
        ("calibration.half_width.sample", (3, 3)),
        ("calibration.coverage.member", (3,)),
        ("calibration.per_disagreement.mean", (4, 2)),
        ("calibration.tube.sample", (3, 2)),
        ("calibration.reach", (2,)),
        ("support.core", (5, 2)),
        ("support.step", (1, 1)),
        ("unknown", (1,)),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    toy_dir: Path, tmp_path: Path, name: str, shape: tuple[int, ...]
) -> None:
    path = rewritten(toy_dir, tmp_path / "x", {}, {name: np.zeros(shape, np.float32)})
    with pytest.raises(artifacts.StoreError, match="not a world of this version"):
        saving.load(path, task=toy.task())


def test_start_states_need_not_be_counted(toy_dir: Path, tmp_path: Path) -> None:
    arrays, document = artifacts.read_directory(toy_dir, kind="world")
    assert document.pop("start_states") == len(arrays["starts"]) == 5
    artifacts.write_directory(tmp_path / "x", kind="world", arrays=arrays, document=document)
    assert len(saving.load(tmp_path / "x", task=toy.task()).starts) == 5


def test_a_missing_array_is_refused(toy_dir: Path, tmp_path: Path) -> None:
    arrays, document = artifacts.read_directory(toy_dir, kind="world")
    for name in arrays:
        rest = {key: array for key, array in arrays.items() if key != name}
        artifacts.write_directory(tmp_path / "x", kind="world", arrays=rest, document=document)
        with pytest.raises(artifacts.StoreError, match="not a world of this version"):
            saving.load(tmp_path / "x", task=toy.task())


# Nothing runs

_AUDIT = """
import sys
from wmgym.models import saving
saving.load(sys.argv[1])  # the first load imports what it needs
seen = []
sys.addaudithook(lambda event, args: seen.append(event))
saving.load(sys.argv[1])
forbidden = ("exec", "compile", "import", "pickle.", "subprocess.", "os.system", "os.exec", "ctypes.")
print(sorted({event for event in seen if event.startswith(forbidden)}))
print(sorted({"stable_baselines3", "mujoco", "pickle5", "cloudpickle"} & set(sys.modules)))
"""


def test_loading_runs_nothing_and_imports_no_simulator(pendulum_dir: str) -> None:
    child = subprocess.run(
        [sys.executable, "-c", _AUDIT, pendulum_dir], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert child.stdout.splitlines() == ["[]", "[]"]


def test_half_precision_halves_the_file_and_rounds(pendulum_world: WorldModel, tmp_path: Path) -> None:
    pendulum_world.save(tmp_path / "whole")
    pendulum_world.save(tmp_path / "half", half=True)
    sizes = [next((tmp_path / name).glob("arrays.*")).stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.7 * sizes[0]
    half = saving.load(tmp_path / "half")
    core, action = torch.tensor(pendulum_world.starts), torch.zeros(len(pendulum_world.starts), 1)
    weights = [world.dynamics.state_dict() for world in (pendulum_world, half)]  # type: ignore[attr-defined]
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-6)
    a, b = (world.dynamics.predict(core, action).mean for world in (pendulum_world, half))
    torch.testing.assert_close(a, b, rtol=0, atol=0.01)
    np.testing.assert_array_equal(half.starts, pendulum_world.starts)
    half.save(tmp_path / "again", half=True)  # rounding once is enough
    manifests = [(tmp_path / name / "manifest.json").read_text() for name in ("half", "again")]
    assert manifests[0] == manifests[1]


def test_a_shipped_world_is_loaded_by_its_id(
    pendulum_world: WorldModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "SHIPPED", tmp_path / "worlds")
    monkeypatch.chdir(tmp_path)
    pendulum_world.save(tmp_path / "worlds" / "InvertedPendulum-v5")
    assert saving.load("InvertedPendulum-v5").task.env_id == "InvertedPendulum-v5"
    assert gym.make("wmgym/InvertedPendulum-v5").reset(seed=0)[0].shape == (4,)
    for name in ("Hopper-v5", "wmgym/InvertedPendulumm-v5"):
        with pytest.raises(artifacts.StoreError, match=f"^{name} is no .* these do: InvertedPendulum-v5$"):
            saving.load(name)
    with pytest.raises(artifacts.StoreError, match="is missing"):  # no id
        saving.load("runs/world")
    (tmp_path / "InvertedPendulum-v5").mkdir()  # a directory of the user's own comes first
    with pytest.raises(artifacts.StoreError, match="holds no wmgym"):
        saving.load("InvertedPendulum-v5")
