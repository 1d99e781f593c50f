"""Worlds and policies as ONNX files that run without wmgym."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import wmgym
from tests import toy
from wmgym.data.policy import MLPPolicy
from wmgym.models.export import _units
from wmgym.models.saving import SHIPPED
from wmgym.tasks.layout import identity_core

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

IDS = sorted(entry.name for entry in SHIPPED.iterdir() if entry.is_dir())


def session(path: Path) -> Any:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def follow(world: wmgym.WorldModel, path: Path, steps: int, propagation: Any, trust: bool) -> None:
    """A file's steps beside those of the world, from the same states."""
    run = session(world.export(path, propagation=propagation, trust=trust))
    contract = json.loads(path.with_suffix(".json").read_text())
    names = [each.name for each in run.get_outputs()]
    assert set(contract["outputs"]) == set(names)
    generator, space = torch.Generator().manual_seed(0), world.task.action_space
    state = world.init(torch.tensor(world.starts[:1]), generator)
    std = 1.0 if world.calibration is None else world.calibration.data_std
    rng, elapsed = np.random.default_rng(0), 0
    for _ in range(steps):
        elapsed += 1
        action = rng.uniform(space.low * 1.1, space.high * 1.1).astype(np.float32)[None]
        feed = {
            "core": state.core.numpy(), "shown": state.shown.numpy(), "action": action,
            "member": state.member.numpy(), "elapsed": np.array([elapsed]),
            "companion": state.companion.numpy(), "lasting": state.lasting_disagreement.numpy(),
        }  # fmt: skip
        given = {name: feed[name] for name in contract["inputs"]}
        said = dict(zip(names, run.run(None, given), strict=True))
        ours = world.step(state, torch.tensor(action), propagation, None, trust)
        assert (np.abs(said["next_core"] - ours.state.core.numpy()) / std).max() < 1e-4
        np.testing.assert_allclose(said["reward"], ours.reward.numpy(), rtol=1e-4, atol=1e-4)
        assert (said["terminated"], said["diverged"]) == (ours.terminated.numpy(), ours.diverged.numpy())
        obs = world.task.core.observe(ours.state.full.numpy())
        np.testing.assert_allclose(said["obs"], obs, rtol=1e-3, atol=2e-3)
        if world.calibration is not None:
            apart = world.disagreement(ours.state, np.array([elapsed])) if trust else None
            bound = world.calibration.error_bound(
                np.array([elapsed]), propagation, ours.state.core.numpy(), apart
            )
            np.testing.assert_allclose(said["error_bound"], bound, rtol=1e-2, atol=1e-5)
        state = ours.state
        if ours.terminated or ours.diverged:
            state, elapsed = world.init(torch.tensor(world.starts[-1:]), generator), 0


@pytest.mark.parametrize("env_id", IDS)
def test_a_file_of_each_shipped_world_steps_as_it_does(env_id: str, tmp_path: Path) -> None:
    follow(wmgym.load(env_id), tmp_path / "world.onnx", 25, "member", False)


@pytest.mark.parametrize("propagation", ["member", "mean"])
def test_a_file_with_a_companion(propagation: str, tmp_path: Path) -> None:
    follow(wmgym.load("Hopper-v5"), tmp_path / "world.onnx", 10, propagation, True)


def test_what_cannot_be_exported_is_said_in_one_line(tmp_path: Path) -> None:
    world = wmgym.load("Hopper-v5")
    with pytest.raises(ValueError, match=r"^dynamics of the class LinearGaussian cannot be exported"):
        toy.world().export(tmp_path / "a.onnx")
    with pytest.raises(wmgym.StoreError, match=r"must end in \.onnx"):
        world.export(tmp_path / "world.pt")
    task = wmgym.make_task("Hopper-v5", reward_fn=lambda obs, action, next_obs: obs[..., 0])
    with pytest.raises(ValueError, match="Python function, which ONNX cannot hold"):
        replace(world, task=task).export(tmp_path / "a.onnx")
    with pytest.raises(ValueError, match="trust needs a calibrated world"):
        replace(world, calibration=None).export(tmp_path / "a.onnx", trust=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("head", ["squash", "clip", "argmax"])
@pytest.mark.parametrize("activation", ["relu", "tanh", "elu", "leaky_relu", "silu"])
def test_a_file_of_a_policy_acts_as_it_does(head: Any, activation: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = tuple(rng.normal(size=shape).astype(np.float32) for shape in ((5, 8), (8, 8), (8, 3)))
    biases = tuple(rng.normal(size=weight.shape[1]).astype(np.float32) for weight in weights)
    ends = np.float32([-1, -2, 0]), np.float32([1, 3, 0.5])
    low, high = (np.array(4), np.array(6)) if head == "argmax" else ends
    policy = MLPPolicy("mine", weights, biases, activation, head, low, high)
    path = policy.export(tmp_path / "policy.onnx")
    obs = rng.normal(size=(17, 5)).astype(np.float32)
    (said,) = session(path).run(None, {"obs": obs})
    np.testing.assert_allclose(said, policy(obs), rtol=1e-5, atol=1e-6)
    assert json.loads((tmp_path / "policy.json").read_text())["outputs"]["action"]["shape"][0] == "n"


@pytest.mark.parametrize("text", ['{"n_steps": 32}', "[1]", "{", '{"kind": 3}'])
def test_a_json_file_that_is_no_contract_is_not_replaced(text: str, tmp_path: Path) -> None:
    policy = wmgym.load_policy("policies/Hopper-v5/ppo-200k")
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises(wmgym.StoreError, match="is no contract; export to another name"):
        policy.export(tmp_path / "mine.onnx")
    assert (tmp_path / "mine.json").read_text() == text
    assert not (tmp_path / "mine.onnx").exists()
    policy.export(tmp_path / "other.onnx")
    policy.export(tmp_path / "other.onnx")  # a contract is


def test_units_are_told_by_dimension(tmp_path: Path) -> None:
    contract = {}
    for env_id in ("Hopper-v5", "Humanoid-v5", "InvertedDoublePendulum-v5", "Pusher-v5"):
        path = wmgym.load(env_id).export(tmp_path / f"{env_id}.onnx")
        contract[env_id] = json.loads(path.with_suffix(".json").read_text())
        for name, shape in (("core", "core"), ("obs", "first_obs"), ("shown", "shown")):
            units = contract[env_id]["units"][name]
            if name == "core":
                assert len(units) == len(contract[env_id]["names"]["core"])
            elif name == "obs":
                assert len(units) == len(contract[env_id][shape][0])
            assert "unknown" not in units
    hopper = contract["Hopper-v5"]["units"]
    assert hopper["core"] == ["m", *["rad"] * 4, "m/s", "m/s", *["rad/s"] * 4] == hopper["obs"]
    assert (hopper["dt"], hopper["displacement"]) == ("s", ["m"])
    humanoid = contract["Humanoid-v5"]["units"]
    assert humanoid["core"][:6] == ["m", "1", "1", "1", "1", "rad"]
    assert humanoid["core"][22:29] == ["m/s"] * 3 + ["rad/s"] * 4
    assert humanoid["obs"][45:55] == ["kg m^2"] * 6 + ["kg m"] * 3 + ["kg"]
    assert humanoid["obs"][-6:] == ["N m"] * 3 + ["N"] * 3
    pendulum = contract["InvertedDoublePendulum-v5"]["units"]
    assert pendulum["obs"] == ["m", *["1"] * 4, "m/s", "rad/s", "rad/s", "N"]
    assert contract["Pusher-v5"]["units"]["core"][5:10] == ["rad", "rad", "m", "m", "rad/s"]


def test_units_of_a_robot_that_nobody_describes_are_unknown() -> None:
    assert _units(identity_core(2), 2)["obs"] == ["unknown"] * 2
