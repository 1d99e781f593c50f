"""MLPPolicy: arrays in, actions out."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from torch import nn, tensor

from wmgym.data.policy import MLPPolicy, PolicyCard, action_bounds, load_policy
from wmgym.data.policy_onnx import Activation, Head
from wmgym.data.pool import load_pool
from wmgym.io import artifacts

ROOT = Path(__file__).resolve().parents[2]
ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU, "leaky_relu": nn.LeakyReLU,
               "silu": nn.SiLU}  # fmt: skip


def policy(head: Head = "squash", activation: Activation = "relu", inputs: int = 3) -> MLPPolicy:
    rng = np.random.default_rng(0)
    sizes = [inputs, 8, 2]
    bounds = (np.array(5), np.array(6)) if head == "argmax" else (np.float32([-1, 0]), np.float32([1, 4]))
    return MLPPolicy(
        name="mine",
        weights=tuple(rng.normal(size=(a, b)).astype(np.float32) for a, b in pairwise(sizes)),
        biases=tuple(rng.normal(size=b).astype(np.float32) for b in sizes[1:]),
        activation=activation,
        head=head,
        low=bounds[0],
        high=bounds[1],
    )


OBS = np.random.default_rng(1).normal(size=(50, 3)) * 2


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_layers_are_torchs(activation: Activation) -> None:
    wide = replace(policy("clip", activation), low=np.full(2, -np.inf), high=np.full(2, np.inf))
    hidden = ACTIVATIONS[activation]()(tensor(OBS @ wide.weights[0] + wide.biases[0])).numpy()
    np.testing.assert_allclose(wide(OBS), hidden @ wide.weights[1] + wide.biases[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", ["squash", "clip"])
def test_box_actions_stay_in_bounds(head: Head) -> None:
    action = policy(head)(1e4 * OBS)
    assert action.shape == (50, 2)
    assert (action >= [-1, 0]).all()
    assert (action <= [1, 4]).all()
    assert np.ptp(action, 0) == pytest.approx([2, 4], abs=1e-3)


def test_argmax_counts_from_the_first_action() -> None:
    action = policy("argmax")(OBS)
    assert action.shape == (50,)
    assert set(action) == {5, 6}
    assert int(policy("argmax")(OBS[0])) == action[0]


@pytest.mark.parametrize("head", ["squash", "clip", "argmax"])
def test_one_observation_gives_one_action(head: Head) -> None:
    mine = policy(head)
    batch = mine(OBS)
    np.testing.assert_allclose(mine(OBS[4]), batch[4], rtol=1e-5, atol=1e-6)
    assert mine(OBS[4]).shape == batch.shape[1:]
    assert mine(OBS[:1]).shape == batch[:1].shape


def test_observations_of_several_axes_are_flattened() -> None:
    mine = policy(inputs=6)
    obs = np.random.default_rng(0).normal(size=(5, 2, 3))
    np.testing.assert_allclose(mine(obs), mine(obs.reshape(5, 6)))
    np.testing.assert_allclose(mine(obs[0]), mine(obs)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("inputs", [1, 3])
def test_a_batch_of_one_stays_a_batch(inputs: int) -> None:
    assert policy(inputs=inputs)(np.zeros((1, inputs))).shape == (1, 2)
    assert policy(inputs=inputs)(np.zeros(inputs)).shape == (2,)


@pytest.mark.parametrize("shape", [(4,), (2,), (7, 4), (7, 2)])
def test_wrong_width(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"'mine' takes observations of 3 values"):
        policy()(np.zeros(shape))


@pytest.mark.parametrize("head", ["squash", "clip", "argmax"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_saved_policy_acts_the_same(tmp_path: Path, head: Head, activation: Activation) -> None:
    mine = policy(head, activation)
    found = load_policy(mine.save(tmp_path / "mine"))
    np.testing.assert_array_equal(found(OBS), mine(OBS))
    assert (found.name, found.head, found.activation) == ("mine", head, activation)


CARD = PolicyCard(
    algorithm="SAC", hyperparameters={"tau": 0.1}, seed=3, real_steps=10, versions={"numpy": "2"},
    env_id="Hopper-v5", return_mean=1.5, return_std=0.5, episodes=50, score_seed=1, split="held-out",
)  # fmt: skip


@pytest.mark.parametrize("weight", [None, np.full((8, 2), 0.1, np.float32)])
def test_a_stochastic_policy_draws_around_its_mean_and_is_saved(
    tmp_path: Path, weight: np.ndarray | None
) -> None:
    bias = np.float32([-1, -2])
    mine = replace(policy("clip"), stochastic=True, log_std_bias=bias, log_std_weight=weight, card=CARD)
    mine = replace(mine, low=np.full(2, -np.inf), high=np.full(2, np.inf))
    obs = np.tile(OBS[:1], (20_000, 1))
    drawn = mine(obs, np.random.default_rng(0))
    hidden = np.maximum(OBS[:1].astype(np.float32) @ mine.weights[0] + mine.biases[0], 0)
    std = np.exp(bias + (0 if weight is None else (hidden @ weight)[0]))
    np.testing.assert_allclose(drawn.std(0), std, rtol=0.03)
    np.testing.assert_allclose(drawn.mean(0), mine(OBS[0]), atol=4 * std.max() / np.sqrt(len(obs)))
    found = load_policy(mine.save(tmp_path / "mine"))
    np.testing.assert_array_equal(found(obs, np.random.default_rng(0)), drawn)
    assert found.card == CARD


def test_argmax_draws_from_the_softmax() -> None:
    mine = replace(policy("argmax"), stochastic=True)
    logits = np.log([0.2, 0.8])
    mine = replace(mine, weights=(np.zeros((3, 2), np.float32),), biases=(logits.astype(np.float32),))
    drawn = mine(np.zeros((20_000, 3)), np.random.default_rng(0))
    assert (drawn == 6).mean() == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize(
    "change",
    [
        {"stochastic": True}, {"log_std_bias": np.zeros(2)},
        {"stochastic": True, "log_std_bias": np.zeros(3)},
        {"stochastic": True, "log_std_bias": np.zeros(2), "log_std_weight": np.zeros((3, 2))},
        {"log_std_weight": np.zeros((8, 2))},
    ],
)  # fmt: skip
def test_a_deviation_that_does_not_fit_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"'mine' does not fit together: .*log_std"):
        replace(policy(), **change)


def test_a_changed_byte_is_refused(tmp_path: Path) -> None:
    path = policy().save(tmp_path / "mine")
    for file in path.iterdir():
        kept = file.read_bytes()
        for at in range(0, len(kept), 7):
            file.write_bytes(kept[:at] + bytes([kept[at] ^ 1]) + kept[at + 1 :])
            with pytest.raises(artifacts.StoreError):
                load_policy(path)
        file.write_bytes(kept)
    load_policy(path)


def test_a_pool_is_read_by_split(tmp_path: Path) -> None:
    replace(policy(), name="b").save(tmp_path / "1")
    replace(policy(), name="a", card=CARD).save(tmp_path / "2")
    (tmp_path / "README.md").write_text("not a policy")
    assert list(load_pool(tmp_path)) == ["b"]
    assert list(load_pool(tmp_path, "held-out")) == ["a"]
    assert list(load_pool(tmp_path, None)) == ["b", "a"]
    replace(policy(), name="b").save(tmp_path / "3")
    with pytest.raises(artifacts.StoreError, match="two policies are named 'b'"):
        load_pool(tmp_path)


def test_an_empty_pool_is_refused(tmp_path: Path) -> None:
    policy().save(tmp_path / "1")
    with pytest.raises(artifacts.StoreError, match="no policies of split 'held-out'"):
        load_pool(tmp_path, "held-out")
    (tmp_path / "none").mkdir()
    with pytest.raises(artifacts.StoreError, match="none holds no policies of split 'pool'"):
        load_pool(tmp_path / "none")


@pytest.mark.parametrize(
    "change",
    [
        {"layers": 3},
        {"layers": -1},
        {"layers": 0},
        {"inputs": 2},
        {"inputs": 4},
        {"head": "softmax"},
        {"code": "print()"},
    ],
)
def test_a_document_that_does_not_fit_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    arrays, document = artifacts.read_directory(policy().save(tmp_path / "mine"), kind="policy")
    artifacts.write_directory(tmp_path / "x", kind="policy", arrays=arrays, document=document | change)
    with pytest.raises(artifacts.StoreError, match="not a policy of this version"):
        load_policy(tmp_path / "x")


def test_the_size_of_an_observation_need_not_be_written_down(tmp_path: Path) -> None:
    arrays, document = artifacts.read_directory(policy().save(tmp_path / "mine"), kind="policy")
    assert document.pop("inputs") == len(arrays["weight.0"]) == 3
    artifacts.write_directory(tmp_path / "x", kind="policy", arrays=arrays, document=document)
    assert load_policy(tmp_path / "x").name == "mine"


@pytest.mark.parametrize(("name", "shape"), [("weight.1", (7, 2)), ("bias.0", (3,)), ("low", (5,))])
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    arrays, document = artifacts.read_directory(policy().save(tmp_path / "mine"), kind="policy")
    arrays[name] = np.zeros(shape, np.float32)
    artifacts.write_directory(tmp_path / "x", kind="policy", arrays=arrays, document=document)
    with pytest.raises(artifacts.StoreError, match="not a policy of this version"):
        load_policy(tmp_path / "x")


@pytest.mark.parametrize(
    "change",
    [
        {"weights": ()},
        {"weights": (np.zeros((3, 2)),)},
        {"biases": (np.zeros(8), np.zeros(3))},
        {"low": np.zeros(3)},
    ],
)
def test_layers_that_do_not_fit_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="'mine' does not fit together"):
        replace(policy(), **change)


def test_bounds_of_spaces() -> None:
    low, high = action_bounds(spaces.Discrete(3, start=2))
    assert (int(low), int(high)) == (2, 4)
    low, high = action_bounds(spaces.Box(-2, 3, (2,), np.float64))
    assert (low.tolist(), high.tolist(), low.dtype) == ([-2, -2], [3, 3], np.float32)


def test_a_policy_needs_neither_torch_nor_sb3(tmp_path: Path) -> None:
    path = policy().save(tmp_path / "mine")
    code = (
        "import sys, numpy, wmgym; wmgym.load_policy(sys.argv[1])(numpy.zeros(3))\n"
        "print({'torch', 'stable_baselines3', 'mujoco'} & set(sys.modules))"
    )
    child = subprocess.run(
        [sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert child.stdout.strip() == "set()"


def test_a_short_description() -> None:
    weights, biases = (np.zeros((4, 8)), np.zeros((8, 2))), (np.zeros(8), np.zeros(2))
    net = MLPPolicy("net", weights, biases, "relu", "clip", -np.ones(2), np.ones(2))
    assert repr(net) == "MLPPolicy('net', 4-8-2, relu, clip, deterministic)"
