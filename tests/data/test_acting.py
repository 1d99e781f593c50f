"""Policies as people have them are called as they want to be."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

import wmgym
from tests.families import Line, Reach, Rover
from wmgym.agents.config import TrainConfig
from wmgym.agents.sb3.train import check_agent
from wmgym.agents.sb3.trial import try_training
from wmgym.data.acting import Actor, PolicyError
from wmgym.data.collect import collect
from wmgym.data.pool import as_policies
from wmgym.tasks.task import make_task

PENDULUM = make_task("Pendulum-v1")
ROWS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def act(policy: Any, obs: np.ndarray = ROWS, task: Any = PENDULUM) -> np.ndarray:
    """Actions of a policy in any form."""
    (only,) = as_policies(policy).values()
    assert only is not None
    return Actor(only, task)(obs, range(len(obs)))


@pytest.fixture(scope="module")
def rover_world() -> Any:
    data = collect(Rover, steps=80, seed=0)
    return wmgym.fit(data, wmgym.FitConfig(members=2, width=8, depth=1, max_updates=1))


class Counting:
    """A recurrent policy: acts by how many steps of its episode it has seen."""

    def predict(self, obs: np.ndarray, state: Any = None) -> tuple[np.ndarray, Any]:
        steps = np.zeros(len(obs), int) if state is None else state
        return np.minimum(steps, 2)[:, None].astype(np.float32) / 2, steps + 1


class Marking:
    """Likewise, with a state of Stable-Baselines3's form, whose second axis counts episodes."""

    def predict(
        self, obs: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        steps = np.zeros((1, len(obs), 1)) if state is None else state[0]
        steps = np.where(episode_start[None, :, None], 0, steps)
        return np.minimum(steps[0], 2).astype(np.float32) / 2, (steps + 1,)


@pytest.mark.parametrize("policy", [Counting(), Counting().predict, Marking()])
def test_each_episode_keeps_the_memory_of_a_recurrent_policy(policy: Any) -> None:
    data = collect(lambda: Rover(5), policy, steps=90, seed=0, workers=1)
    for k in range(data.num_episodes):
        own = data.action[data.episode == k, 0]
        np.testing.assert_allclose(own, [0, 0.5, 1, 1, 1][: len(own)])


def test_a_recurrent_policy_is_scored_with_its_memory() -> None:
    world = wmgym.load("InvertedPendulum-v5")
    alone = gym.make("InvertedPendulum-v5")
    report = wmgym.score(world, {"r": Counting().predict}, real_episodes=3, workers=1)
    lengths = []
    for seed in collect(PENDULUM, steps=1).episode_seed * 3:
        alone.reset(seed=int(seed))
        ended, steps = False, 0
        while not ended:
            ended = alone.step(np.float32([min(steps, 2) / 2]))[2]
            steps += 1
        lengths.append(steps)
    assert report["r"].real_length == pytest.approx(np.mean(lengths), abs=1.5)


def test_a_second_value_is_never_dropped() -> None:
    with pytest.raises(ValueError, match="second value beside its actions and takes no state="):
        act(lambda obs: (np.zeros((len(obs), 1)), np.ones(3)))


def test_a_function_of_one_observation() -> None:
    def one(obs: np.ndarray) -> list[float]:
        assert obs.shape == (3,)
        return [float(obs[0]) + 1]

    np.testing.assert_allclose(act(one), ROWS[:, :1] + 1)
    np.testing.assert_allclose(act(one, ROWS[:1]), ROWS[:1, :1] + 1)
    cart = make_task("CartPole-v1")
    chosen = act(lambda obs: int(obs[0] > 0), np.array([[1.0, 0, 0, 0], [-1, 0, 0, 0]]), cart)
    assert chosen.tolist() == [1, 0]


@pytest.mark.parametrize(
    "one",
    [
        lambda obs: float(-obs[1]),
        lambda obs: -obs[1],
        lambda obs: np.array([[-obs[1]]]),
        lambda obs: -obs[1].item(),
    ],
)
@pytest.mark.parametrize("rows", [1, 3, 5])
def test_a_function_of_one_observation_may_return_one_number(one: Any, rows: int) -> None:
    np.testing.assert_allclose(act(one, ROWS[:rows]), -ROWS[:rows, 1:2])
    reacher = make_task("Reacher-v5")
    obs = np.zeros((2, reacher.obs_dim), np.float32)
    with pytest.raises(PolicyError, match="raised TypeError"):  # which has two joints
        act(lambda obs: float(-obs[1]), obs, reacher)


def test_a_mistake_in_a_policy_stays_the_error() -> None:
    def wrong(obs: np.ndarray) -> Any:
        raise KeyError("mine")

    with pytest.raises(PolicyError, match=r"^raised KeyError: 'mine'$") as caught:
        act(wrong)
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize(
    ("policy", "what"),
    [
        (lambda obs: None, "of type object, not real numbers"),
        (lambda obs: "left", "of type <U4, not real numbers"),
        (lambda obs: {"u": 1.0}, "of type object, not real numbers"),
        (lambda obs: np.zeros((len(obs), 1), complex), "of type complex128, not real numbers"),
        (lambda obs: np.zeros((1, len(obs))), r"of shape \(1, 5\), expected \(5, 1\)"),
        (lambda obs: np.full((len(obs), 1), np.nan), "that are not finite"),
    ],
)
def test_what_is_no_action_is_said_in_reality_and_in_imagination(policy: Any, what: str) -> None:
    with pytest.raises(PolicyError, match=f"^gave actions {what}$"):
        act(policy)


def test_a_policy_that_fails_later_is_named_with_its_step(rover_world: Any) -> None:
    def failing(after: int) -> Any:
        calls = itertools.count()
        return lambda obs: np.zeros((len(obs), 1 // (next(calls) < after)))

    for after, where in ((12, r"episode 0 \(reset seed \d+\), step 12"), (85, "imagined step 5")):
        with pytest.raises(PolicyError, match=rf"^policy 'late' raised ZeroDivisionError: .*; {where}"):
            wmgym.score(rover_world, {"late": failing(after)}, real_episodes=2, workers=1)


def test_tensors_of_any_kind_are_actions() -> None:
    for answer in (torch.ones(5, 1, requires_grad=True), [[torch.tensor(1.0)]] * 5):
        assert (act(lambda obs, answer=answer: answer) == 1).all()
    for dtype in (torch.float64, torch.bfloat16):
        found = act(torch.nn.Linear(3, 1).to(dtype))
        assert found.dtype.kind == "f"


def test_models_for_other_actions_are_refused() -> None:
    cart = DQN("MlpPolicy", "CartPole-v1", device="cpu", buffer_size=10)
    with pytest.raises(PolicyError, match=r"^acts in Discrete\(2\), and this env takes Box\("):
        act(cart)
    with pytest.raises(PolicyError, match=r"^gave action 2, which is outside Discrete\(2\)"):
        act(lambda obs: np.full(len(obs), 2), np.zeros((2, 4)), make_task("CartPole-v1"))
    with pytest.raises(PolicyError, match=r"^policy 'cart' acts in"):
        collect(PENDULUM, {"cart": cart}, steps=3)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3, start=1),
        spaces.Discrete(3, start=-1),
        spaces.MultiDiscrete([3, 2], start=[1, -2]),
        spaces.MultiBinary(3),
    ],
)
def test_sb3_trains_where_actions_do_not_count_from_zero(space: Any, tmp_path: Path) -> None:
    data = collect(lambda: Line(space), steps=100, seed=0, max_episode_steps=20)
    world = wmgym.fit(data, wmgym.FitConfig(members=2, width=8, depth=1, max_updates=1))
    venv = wmgym.sb3.ImaginedVecEnv(world, 2)
    model = PPO("MlpPolicy", venv, n_steps=4, batch_size=8, device="cpu", seed=0).learn(8)
    policies = {"model": model}
    if isinstance(space, spaces.Discrete):
        model.save(tmp_path / "model.zip")
        read = wmgym.sb3.import_sb3(tmp_path / "model.zip", world.task)
        assert (int(read.low), int(read.high)) == (space.start, space.start + 2)
        policies |= {"saved": wmgym.sb3.export_policy(model, tmp_path / "saved"), "read": read}
        model = DQN("MlpPolicy", venv, device="cpu", learning_starts=4, batch_size=4).learn(8)
        policies |= {"dqn": model}
    report = wmgym.score(world, policies, real_episodes=2)
    if "saved" in policies:
        returns = [report[name].real_returns for name in ("model", "saved", "read")]
        assert returns[0] == returns[1] == returns[2]
    try_training(world.task, TrainConfig(num_envs=2))
    if isinstance(space, spaces.Discrete):
        check_agent(Line(space), TrainConfig())
        real = PPO("MlpPolicy", Line(space), n_steps=4, batch_size=4, device="cpu")  # not trained
        assert set(act(real, np.zeros((4, 1)), world.task).tolist()) <= {*range(space.start, space.start + 3)}
    with pytest.raises(ValueError, match=f"SAC takes no {type(space).__name__} actions; .*: PPO, A2C"):
        wmgym.train(world, algorithm="SAC", steps=8)


def test_a_torch_module_acts_in_evaluation_mode() -> None:
    module = torch.nn.Sequential(torch.nn.Dropout(0.9), torch.nn.Linear(3, 1), torch.nn.Tanh())
    module.train()
    with torch.no_grad():
        expected = torch.tanh(module[1](torch.tensor(ROWS))).numpy()
    np.testing.assert_allclose(act(module), expected, rtol=1e-6)
    assert module.training  # the caller's stays as it was
    scores = torch.nn.Linear(4, 2)
    obs = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    best = scores(torch.tensor(obs)).argmax(1).numpy()
    np.testing.assert_array_equal(act(scores, obs, make_task("CartPole-v1")), best)


@pytest.mark.parametrize("rows", [1, 2, None])
def test_an_onnx_file(rows: int | None, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    weight = onnx.numpy_helper.from_array(np.float32([[1.0], [2.0], [-1.0]]), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["obs", "w"], ["act"])],
        "policy",
        [helper.make_tensor_value_info("obs", kind, [rows or "n", 3])],
        [helper.make_tensor_value_info("act", kind, [rows or "n", 1])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "mine.onnx")
    assert list(as_policies(tmp_path / "mine.onnx")) == ["mine"]
    np.testing.assert_allclose(
        act(str(tmp_path / "mine.onnx")), ROWS @ np.float32([[1], [2], [-1]]), rtol=1e-5
    )


def test_without_onnx_runtime_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(ImportError, match="pip install 'wmgym"):
        as_policies(tmp_path / "mine.onnx")


def test_a_model_brings_its_vec_normalize(tmp_path: Path) -> None:
    venv = VecNormalize(make_vec_env("Pendulum-v1", 2))
    model = PPO("MlpPolicy", venv, n_steps=32, batch_size=16, device="cpu", seed=0).learn(128)
    expected = model.predict(venv.normalize_obs(ROWS), deterministic=True)[0]
    np.testing.assert_allclose(act(model), expected)
    np.testing.assert_allclose(wmgym.sb3.to_policy(model)(ROWS), expected, atol=1e-4)
    model.save(tmp_path / "model.zip")
    loaded = PPO.load(tmp_path / "model.zip", device="cpu")
    for use in (as_policies, wmgym.sb3.to_policy):
        with pytest.raises(ValueError, match=r"trained behind a VecNormalize.*set_env\(VecNormalize.load"):
            use(loaded)
    venv.save(str(tmp_path / "stats"))
    loaded.set_env(VecNormalize.load(str(tmp_path / "stats"), make_vec_env("Pendulum-v1", 2)))
    np.testing.assert_allclose(act(loaded), expected)
    with pytest.raises(ValueError, match="trained behind a VecNormalize"):
        wmgym.sb3.import_sb3(tmp_path / "model.zip", PENDULUM)


def test_a_model_of_dict_observations_gets_dicts() -> None:
    task = make_task(lambda: Reach())
    model = SAC("MultiInputPolicy", Reach(), device="cpu", seed=0)
    flat = np.random.default_rng(0).normal(size=(4, task.obs_dim))
    expected = model.predict(task.as_dict(flat), deterministic=True)[0]
    np.testing.assert_allclose(act(model, flat, task), expected, atol=1e-6)
    data = collect(task, {"model": model, "method": model.predict}, steps=60, seed=0, workers=1)
    assert data.obs.shape == (60, task.obs_dim)
