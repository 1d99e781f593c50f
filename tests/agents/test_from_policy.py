"""Trainings that go on from a policy."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import ConvertCallback, EvalCallback
from stable_baselines3.common.monitor import Monitor

from wmgym.agents.config import TrainConfig
from wmgym.agents.sb3 import DynaSAC, ImaginedVecEnv, to_policy, train
from wmgym.agents.sb3.from_policy import actor_parameters, clone, held_actor, with_layers_of
from wmgym.agents.sb3.near_policy import NearPolicy, near_policy
from wmgym.agents.sb3.train import new_agent
from wmgym.data.policy import MLPPolicy
from wmgym.models.world import WorldModel

OFF_POLICY: dict[str, Any] = {"learning_starts": 16, "batch_size": 16, "policy_kwargs": {"net_arch": [16]}}
DYNA: dict[str, Any] = {
    "learning_starts": 16, "batch_size": 16, "train_freq": 4, "gradient_steps": 8,
    "imagination_kwargs": {"rollout_batch": 16, "rollout_steps": 3},
}  # fmt: skip


@pytest.fixture(scope="module")
def old(pendulum_world: WorldModel) -> MLPPolicy:
    """A policy of SAC's kind, of layers that no default has."""
    keywords = {"policy_kwargs": {"net_arch": [24, 16], "activation_fn": torch.nn.Tanh}}
    env = ImaginedVecEnv(pendulum_world, 4)
    return to_policy(new_agent(env, TrainConfig("SAC", hyperparameters=keywords), seed=5), "old")


def observations() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.3, (200, 4)).astype(np.float32)


@pytest.mark.parametrize("algorithm", ["DynaSAC", "SAC", "TQC"])
def test_layers_of_sacs_kind_are_taken_over_as_they_are(
    pendulum_world: WorldModel, old: MLPPolicy, algorithm: str
) -> None:
    venv, config = ImaginedVecEnv(pendulum_world, 4), TrainConfig(algorithm)
    model = new_agent(venv, with_layers_of(old, config))
    clone(model, old, venv, steps=8)
    again = to_policy(model)
    assert old.log_std_bias is not None
    np.testing.assert_array_equal(again.log_std_bias, old.log_std_bias)
    np.testing.assert_allclose(again(observations()), old(observations()), atol=1e-6)
    given = TrainConfig(algorithm, hyperparameters={"policy_kwargs": {"net_arch": [8]}})
    assert with_layers_of(old, given) == given


def test_a_policy_without_noise_gets_some(pendulum_world: WorldModel, old: MLPPolicy) -> None:
    plain = MLPPolicy("plain", old.weights, old.biases, old.activation, "squash", old.low, old.high)
    venv = ImaginedVecEnv(pendulum_world, 4)
    model = new_agent(venv, with_layers_of(plain, TrainConfig("DynaSAC")))
    clone(model, plain, venv, steps=8)
    again = to_policy(model)
    assert again.log_std_bias is not None
    assert 0.05 < math.exp(float(again.log_std_bias[0])) < 0.2


def test_what_keeps_an_actor_near_the_old_one_falls_from_infinity_to_nothing(
    pendulum_world: WorldModel, old: MLPPolicy
) -> None:
    venv = ImaginedVecEnv(pendulum_world, 4)
    model = new_agent(venv, with_layers_of(old, TrainConfig("DynaSAC")))
    obs = torch.tensor(observations())
    near = NearPolicy(model.actor, 100, 200)
    weights = [near.weight(steps) for steps in (100, 101, 150, 199, 200, 300)]
    assert weights == sorted(weights, reverse=True)
    assert weights[0] > 50 * weights[2]
    assert weights[3] > 0 == weights[4]
    with torch.no_grad():
        assert float(near(model.actor, obs, 150)) == 0
        model.actor.mu.bias += 0.5
        assert float(near(model.actor, obs, 110)) > float(near(model.actor, obs, 190)) > 0
        assert float(near(model.actor, obs, 200)) == 0


def test_an_actor_that_is_kept_near_moves_less(pendulum_world: WorldModel, old: MLPPolicy) -> None:
    def moved(steps: int | None) -> float:
        model = new_agent(venv := ImaginedVecEnv(pendulum_world, 4), with_layers_of(old, config), seed=1)
        assert isinstance(model, DynaSAC)
        clone(model, old, venv, steps=8)
        if steps is None:
            model.learn(80)
        else:
            with near_policy(model, steps):
                model.learn(80)
        assert model.near_policy is None
        return float(np.abs(to_policy(model)(observations()) - old(observations())).mean())

    config = TrainConfig("DynaSAC", hyperparameters=DYNA)
    assert moved(10**9) < 0.3 * moved(None)


def test_two_trainings_from_a_policy_are_equal_and_can_be_saved(
    pendulum_world: WorldModel, old: MLPPolicy, tmp_path: Path
) -> None:
    def run(seed: int) -> np.ndarray:
        model = train(
            pendulum_world, algorithm="DynaSAC", steps=80, num_envs=4, seed=seed, hyperparameters=DYNA,
            policy=old, callback=saved,
        )  # fmt: skip
        assert isinstance(model, DynaSAC)
        assert (model.near_policy, model.actor_held, model.tau) == (None, False, 0.01)
        return np.asarray(model.predict(observations(), deterministic=True)[0])

    def saved(found: dict[str, Any], _: Any) -> bool:
        if found["self"].num_timesteps == 40:  # while it is kept near
            found["self"].save(tmp_path / "agent")
        return True

    first = run(0)
    np.testing.assert_array_equal(first, run(0))
    again = DynaSAC.load(tmp_path / "agent")
    assert again.near_policy is None
    assert np.abs(again.predict(observations(), deterministic=True)[0] - first).mean() < 0.5


@pytest.mark.parametrize("algorithm", ["DynaSAC", "SAC", "TD3", "PPO"])
def test_a_training_goes_on_from_a_policy_of_any_architecture(
    pendulum_world: WorldModel, algorithm: str
) -> None:
    def lean(obs: np.ndarray) -> np.ndarray:
        return np.clip(obs @ np.array([[0.5], [-2.0], [0.1], [0.3]], np.float32), -3, 3)

    venv = ImaginedVecEnv(pendulum_world, 100)
    model = new_agent(venv, TrainConfig(algorithm, hyperparameters={"policy_kwargs": {"net_arch": [32]}}))
    obs = np.random.default_rng(0).normal(0, 0.1, (200, 4)).astype(np.float32)

    def apart() -> float:
        return float(np.abs(model.predict(obs, deterministic=True)[0] - lean(obs)).mean())

    before = apart()
    clone(model, lean, venv, steps=600)
    assert apart() < 0.4 * before
    noise = np.std([model.predict(obs[:1])[0] for _ in range(50)])
    assert noise < 0.6, "a new agent's actions would drown the policy's"


def test_the_actor_stays_while_critics_learn(pendulum_world: WorldModel) -> None:
    for algorithm in ("SAC", "PPO"):
        keywords = OFF_POLICY if algorithm == "SAC" else {"n_steps": 16, "batch_size": 32}
        config = TrainConfig(algorithm, hyperparameters=keywords)
        model = new_agent(ImaginedVecEnv(pendulum_world, 4), config)
        names = {id(value): name for name, value in model.policy.named_parameters()}
        acts = {names[id(value)] for value in actor_parameters(model)}
        before = {name: value.detach().clone() for name, value in model.policy.named_parameters()}
        with held_actor(model):
            model.learn(128)
        learned = {name for name, value in model.policy.named_parameters() if (value != before[name]).any()}
        assert learned
        assert not acts & learned
        model.learn(128)
        assert any(
            (value != before[name]).any() for name, value in model.policy.named_parameters() if name in acts
        )


def test_another_simulator_keeps_the_best_on_the_way(pendulum_world: WorldModel, tmp_path: Path) -> None:
    keep = EvalCallback(
        Monitor(gym.make("InvertedPendulum-v5")),
        n_eval_episodes=1,
        eval_freq=4,
        best_model_save_path=str(tmp_path),
        verbose=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        seen: list[int] = []
        train(
            pendulum_world,
            algorithm="SAC",
            steps=64,
            num_envs=4,
            hyperparameters=OFF_POLICY,
            policy=lambda obs: -obs[:, :1],
            callback=[
                keep,
                ConvertCallback(lambda found, _: seen.append(found["self"].num_timesteps) is None),
            ],
        )
    assert keep.best_mean_reward > 0
    assert (tmp_path / "best_model.zip").exists()
    assert seen[-1] >= 64


def test_a_callback_stops_the_training_once_and_for_all(pendulum_world: WorldModel) -> None:
    stopped = train(
        pendulum_world,
        algorithm="SAC",
        steps=64,
        num_envs=4,
        learning_starts=16,
        hyperparameters=OFF_POLICY,
        policy=lambda obs: -obs[:, :1],
        callback=lambda *_: False,
    )
    assert stopped.num_timesteps == 4


def test_a_policy_to_go_on_from_that_is_none_is_refused(
    pendulum_world: WorldModel, cartpole_world: WorldModel
) -> None:
    with pytest.raises(ValueError, match="DQN has no actor that could go on from a policy"):
        train(cartpole_world, algorithm="DQN", steps=10, policy=lambda obs: np.zeros(len(obs), int))
    with pytest.raises(ValueError, match="agent or policy to continue from, not both"):
        train(pendulum_world, steps=10, policy=len, agent={})
    with pytest.raises(ValueError, match="goes on from one policy, got a, b"):
        train(pendulum_world, steps=10, policy={"a": np.zeros_like, "b": np.zeros_like})
