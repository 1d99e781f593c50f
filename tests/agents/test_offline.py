"""Training in a fixed world alone: ``train``, and ``DynaSAC`` in an imagined env."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import scipy.linalg
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback, ConvertCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

import wmgym
from tests import toy
from wmgym.agents.config import TrainConfig
from wmgym.agents.sb3 import DynaSAC, ImaginedVecEnv, import_sb3, to_policy, train
from wmgym.agents.sb3.callbacks import HoldActor
from wmgym.agents.sb3.dyna_sac_offline import DisagreementPenalty
from wmgym.agents.sb3.from_policy import actor_parameters, clone
from wmgym.agents.sb3.train import new_agent
from wmgym.models.world import WorldModel

SMALL: dict[str, Any] = {
    "learning_starts": 100,
    "batch_size": 16,
    "train_freq": 50,
    "gradient_steps": 5,
    "imagination_kwargs": {"rollout_batch": 16, "rollout_steps": 3},
    "policy_kwargs": {"net_arch": [16]},
}
OFF_POLICY: dict[str, Any] = {"learning_starts": 16, "batch_size": 16, "policy_kwargs": {"net_arch": [16]}}


def returns(policy: Any) -> float:
    env = DummyVecEnv([lambda: Monitor(gym.make(toy.ENV_ID, sigma=0.02))])
    env.seed(3)
    return float(evaluate_policy(policy, env, n_eval_episodes=20)[0])


@pytest.mark.slow
def test_the_toys_optimum_is_reached_without_a_real_step() -> None:
    """The best linear policy is known in closed form; actions are clipped for both."""
    settings: dict[str, Any] = {"batch_size": 64, "gamma": 0.97, "learning_rate": 3e-3, "train_freq": 8}
    settings |= {"learning_starts": 64, "gradient_steps": -1, "policy_kwargs": {"net_arch": [32, 32]}}
    model = train(toy.world(), algorithm="DynaSAC", steps=256, num_envs=8, hyperparameters=settings)
    cost = scipy.linalg.solve_discrete_are(toy.A, toy.B, np.eye(3), 1e-6 * np.eye(2))
    gain = np.linalg.solve(1e-6 * np.eye(2) + toy.B.T @ cost @ toy.B, toy.B.T @ cost @ toy.A)

    class Linear:
        def __init__(self, gain: np.ndarray) -> None:
            self.gain = gain

        def predict(self, obs: np.ndarray, *args: Any, **kwargs: Any) -> tuple[np.ndarray, None]:
            return np.clip(-obs @ self.gain.T, -1, 1).astype(np.float32), None

    learned, best, still = (returns(policy) for policy in (model, Linear(gain), Linear(0 * gain)))
    assert learned > best + 0.03 * (still - best)


@pytest.mark.parametrize("algorithm", ["DynaSAC", "SAC", "TQC", "CrossQ", "TD3", "PPO"])
def test_no_real_env_is_stepped_and_the_world_stays_what_it_was(
    monkeypatch: pytest.MonkeyPatch, pendulum_world: WorldModel, algorithm: str
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a real env was made")

    monkeypatch.setattr(gym, "make", refuse)
    keywords = {"DynaSAC": SMALL, "PPO": {"n_steps": 16, "batch_size": 32, "n_epochs": 1}}
    before, _ = pendulum_world.pack()
    before = {name: value.copy() for name, value in before.items()}
    model = train(
        pendulum_world,
        algorithm=algorithm,
        steps=200,
        num_envs=4,
        seed=1,
        hyperparameters=keywords.get(algorithm, OFF_POLICY),
    )
    assert type(model).__name__ == algorithm
    assert model.num_timesteps >= 200
    after, _ = pendulum_world.pack()
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)


def test_keywords_are_changes_to_the_config(pendulum_world: WorldModel) -> None:
    config = TrainConfig("TQC", steps=9_999, num_envs=2, hyperparameters=OFF_POLICY)
    model = train(pendulum_world, config, steps=32)
    assert (type(model).__name__, model.num_timesteps, model.n_envs) == ("TQC", 32, 2)
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'updates'"):
        train(pendulum_world, config, updates=3)


def test_an_unknown_algorithm_and_the_wrong_actions_are_refused_with_what_works(
    pendulum_world: WorldModel, cartpole_world: WorldModel
) -> None:
    with pytest.raises(ValueError, match=r"algorithm must be one of DynaSAC, .*CrossQ.*got 'MBPO'"):
        train(pendulum_world, algorithm="MBPO", steps=10)
    for algorithm in ("DynaSAC", "CrossQ", "TD3"):
        with pytest.raises(ValueError, match=rf"{algorithm} takes no Discrete actions.*PPO, A2C, DQN"):
            train(cartpole_world, algorithm=algorithm, steps=10)
    with pytest.raises(ValueError, match=r"DQN takes no Box actions.*DynaSAC, SAC, TQC"):
        train(pendulum_world, algorithm="DQN", steps=10)
    with pytest.raises(ValueError, match="needs Box actions"):
        DynaSAC("MlpPolicy", ImaginedVecEnv(cartpole_world, 2))


# CrossQ and TQC


@pytest.mark.parametrize("algorithm", ["TQC", "CrossQ"])
def test_agents_of_sb3_contrib_are_exported_and_read_back(
    tmp_path: Path, pendulum_world: WorldModel, algorithm: str
) -> None:
    model = train(pendulum_world, algorithm=algorithm, steps=400, num_envs=4, hyperparameters=OFF_POLICY)
    obs = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)
    expected, _ = model.predict(obs, deterministic=True)
    model.save(tmp_path / "mine")
    policies = [to_policy(model)]
    for trust in (False, True):
        path = tmp_path / "mine.zip"
        policies.append(import_sb3(path, pendulum_world.task, activation="relu", trust_pickle=trust))
    for policy in policies:
        np.testing.assert_allclose(policy(obs), expected, atol=1e-4)
        assert policy.stochastic


def test_the_renormalisation_of_crossq_goes_into_its_layers(pendulum_world: WorldModel) -> None:
    hyperparameters = OFF_POLICY | {"policy_kwargs": {"net_arch": [16, 8]}}
    model = train(pendulum_world, algorithm="CrossQ", steps=8, num_envs=4, hyperparameters=hyperparameters)
    generator = torch.Generator().manual_seed(0)
    for name, value in model.policy.actor.state_dict().items():
        if value.is_floating_point() and value.ndim == 1:  # statistics as after a long training
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
            assert not name.startswith("mu.weight")
    obs = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)
    policy, state = to_policy(model), torch.get_rng_state()
    np.testing.assert_allclose(policy(obs), model.predict(obs, deterministic=True)[0], atol=1e-5)
    assert len(policy.weights) == 3
    to_policy(model)
    assert torch.equal(torch.get_rng_state(), state)


# DynaSAC in an imagined env


def test_it_takes_an_id_and_a_vec_env_of_single_imagined_envs() -> None:
    for env in (
        "wmgym/InvertedPendulum-v5",
        DummyVecEnv([lambda: gym.make("wmgym/InvertedPendulum-v5")] * 2),
    ):
        model = DynaSAC("MlpPolicy", env, seed=0, **SMALL).learn(200)
        assert model.offline
        assert model.world is not None
        assert model._n_updates > 0
        data = model.transitions()
        assert len(data) == 200
        inside = np.flatnonzero(np.diff(data.episode) == 0)
        np.testing.assert_array_equal(data.next_core[inside], data.core[inside + 1])


@pytest.mark.parametrize("env_id", ["Ant-v5", "Reacher-v5", "Hopper-v5"])
def test_it_learns_where_the_observation_shows_readouts_or_clips(env_id: str) -> None:
    settings = SMALL | {"learning_starts": 8, "train_freq": 2, "gradient_steps": 1}
    model = train(env_id, algorithm="DynaSAC", steps=24, num_envs=4, hyperparameters=settings)
    assert isinstance(model, DynaSAC)
    assert model._n_updates > 1
    assert model._real_states.shape[1] == model.task.core.state_dim
    assert all(bool(value.isfinite().all()) for value in model.policy.state_dict().values())


def test_two_runs_are_equal_and_a_saved_agent_goes_on(tmp_path: Path, pendulum_world: WorldModel) -> None:
    def run() -> DynaSAC:
        return DynaSAC("MlpPolicy", ImaginedVecEnv(pendulum_world, 4), seed=3, **SMALL).learn(200)

    first, second = run(), run()
    for name, value in first.policy.state_dict().items():
        assert torch.equal(value, second.policy.state_dict()[name]), name
    first.save(tmp_path / "agent")
    again = DynaSAC.load(tmp_path / "agent", env=ImaginedVecEnv(pendulum_world, 4))
    obs = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    np.testing.assert_array_equal(
        again.predict(obs, deterministic=True)[0], first.predict(obs, deterministic=True)[0]
    )
    with pytest.warns(UserWarning, match="a new one begins"):
        again.learn(100, reset_num_timesteps=False)
    assert again._n_updates > first._n_updates
    np.testing.assert_array_equal(
        DynaSAC.load(tmp_path / "agent").predict(obs, deterministic=True)[0],
        first.predict(obs, deterministic=True)[0],
    )


# What the world does not know


def test_steps_that_members_disagree_about_cost_reward(pendulum_world: WorldModel) -> None:
    generator = torch.Generator().manual_seed(0)
    penalty = DisagreementPenalty(pendulum_world, 1.0, generator)
    assert pendulum_world.support is not None
    known = torch.tensor(pendulum_world.support.core)
    action = torch.tensor(pendulum_world.support.action)
    paid, rewards = [], []
    for core in (known, 10 * known):
        start = pendulum_world.init(core, generator)
        step = pendulum_world.step(start, action, trust=True)
        left = penalty(step).reward
        paid.append(step.reward - left)
        rewards.append(float(step.reward.mean()))
        assert (left <= step.reward).all()
        excess = penalty.disagreement(step) - penalty.free
        assert ((paid[-1] > 0) == ((excess > 0) & (step.reward > penalty.least))).all()
        assert (left >= step.reward.minimum(penalty.least)).all()  # no policy would sooner end the episode
    assert paid[1].mean() > 1.5 * paid[0].mean() > 0
    report = penalty.report()
    assert report["disagreement"] > 1
    assert report["imagined_reward"] == pytest.approx(np.mean(rewards), rel=1e-5)  # before the penalty


def test_the_penalty_says_where_to_go(pendulum_world: WorldModel) -> None:
    """Its slope is that of finite differences, so that an actor learns to stay where the world knows."""
    penalty = DisagreementPenalty(pendulum_world, 0.02, torch.Generator().manual_seed(0))
    assert pendulum_world.support is not None
    core = torch.tensor(pendulum_world.support.core)
    action = torch.full((len(core), 1), 1.1)

    def rewards(action: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        step = pendulum_world.step(pendulum_world.init(core, generator), action, trust=True)
        return step.reward, penalty(step).reward

    paid, kept = rewards(action)
    core = core[(kept < paid) & (kept > penalty.least)][:1]  # neither free nor at the limit

    def left(action: torch.Tensor) -> torch.Tensor:
        return rewards(action)[1].sum()

    action = torch.tensor([[1.1]], requires_grad=True)
    (slope,) = torch.autograd.grad(left(action), action)
    with torch.no_grad():
        finite = (left(action + 1e-2) - left(action - 1e-2)) / 2e-2
    assert float(slope) == pytest.approx(float(finite), rel=0.05)
    assert float(slope) != 0


def test_only_a_calibrated_world_penalises_and_what_it_imagines_is_logged(pendulum_world: WorldModel) -> None:
    for world in (pendulum_world, replace(pendulum_world, calibration=None)):
        model = DynaSAC("MlpPolicy", ImaginedVecEnv(world, 4), seed=0, **SMALL)
        model.learn(200, log_interval=1_000)
        known = world.calibration is not None
        assert (model.penalty is not None) == known
        assert ("world/disagreement" in model.logger.name_to_value) == known
        assert ("world/imagined_reward" in model.logger.name_to_value) == known
    assert wmgym.load("HalfCheetah-v5").calibration is not None


# A policy to go on from


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
    clone(model, lean, venv, steps=3_000)
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
        model.learn(128, callback=HoldActor(128))
        assert algorithm == "PPO" or float(model.log_ent_coef.detach().exp()) == 1.0  # as it began
        learned = {name for name, value in model.policy.named_parameters() if (value != before[name]).any()}
        assert learned
        assert not acts & learned
        model.learn(128)
        assert any(
            (value != before[name]).any() for name, value in model.policy.named_parameters() if name in acts
        )


def test_crossq_acts_as_it_did_while_its_actor_stays(pendulum_world: WorldModel) -> None:
    keywords = OFF_POLICY | {"learning_starts": 8}
    model = new_agent(ImaginedVecEnv(pendulum_world, 4), TrainConfig("CrossQ", hyperparameters=keywords))
    obs = np.random.default_rng(0).normal(0, 0.1, (20, 4)).astype(np.float32)
    before, found = model.predict(obs, deterministic=True)[0], []
    watch = ConvertCallback(lambda *_: found.append(model.predict(obs, deterministic=True)[0]) is None)
    model.learn(200, callback=[HoldActor(200), watch])
    assert len(found) == 50
    assert model._n_updates > 20
    for each in found:
        np.testing.assert_array_equal(each, before)


def test_what_is_saved_while_nothing_learns_goes_on_learning(
    pendulum_world: WorldModel, tmp_path: Path
) -> None:
    class Save(BaseCallback):
        def _on_step(self) -> bool:
            self.model.save(tmp_path / "early")
            return self.num_timesteps < 64

    keywords = OFF_POLICY | {"learning_starts": 8}
    train(
        pendulum_world, algorithm="SAC", steps=200, num_envs=4, learning_starts=150, hyperparameters=keywords,
        callback=Save(),
    )  # fmt: skip
    model = SAC.load(tmp_path / "early", env=ImaginedVecEnv(pendulum_world, 4))
    assert model._n_updates == 0
    model.learn(64, reset_num_timesteps=False)
    assert model._n_updates > 0


def test_a_training_that_makes_a_policy_worse_is_warned_of(pendulum_world: WorldModel) -> None:
    stands = Path(__file__).parents[2] / "policies" / "InvertedPendulum-v5" / "ppo-10k"

    def said(rate: float) -> list[str]:
        keywords = {"n_steps": 16, "batch_size": 32, "learning_rate": rate}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            train(
                pendulum_world, algorithm="PPO", steps=256, num_envs=4, hyperparameters=keywords,
                policy=stands, max_episode_steps=50,
            )  # fmt: skip
        return [str(each.message) for each in caught]

    (line,) = said(1.0)  # steps that are too large
    assert re.search(r"made the policy worse: imagined episodes return .*, before it \d\d", line)
    assert not said(1e-9)


def test_what_an_end_pays_counts_once_in_the_range_of_values() -> None:
    model: Any = new_agent(ImaginedVecEnv(toy.world(), 2), TrainConfig("DynaSAC"))
    model.task = replace(model.task, reward=None)
    gains = torch.tensor([[0.5, -1.0, 0.5], [0.5, -10.0, 0.5], [0.5, -10.0, 0.5]])
    counts = torch.tensor([[1.0, 1, 1], [1, 1, 1], [1, 0, 1], [1, 0, 1]])  # the second ends, and pays on
    low, high = model._range_of_values(gains, counts)
    assert float(low) == pytest.approx(-1 / 0.005 - 10, rel=0.2)  # a hundredth of seven is between two
    assert float(high) == pytest.approx(0.5 / 0.005)
    low, _ = model._range_of_values(gains, torch.ones(4, 3))
    assert float(low) == pytest.approx(-10 / 0.005)


@pytest.mark.parametrize("algorithm", ["DynaSAC", "SAC"])
def test_a_world_whose_rewards_are_a_few_known_values_is_trained_in(algorithm: str) -> None:
    data = wmgym.collect(
        "MountainCarContinuous-v0", {"swing": lambda obs: np.sign(obs[:, 1:2])}, steps=800, workers=1
    )
    world = wmgym.fit(data, wmgym.FitConfig(members=2, width=16, depth=1, max_updates=20))
    assert world.outcomes is not None
    keywords = SMALL if algorithm == "DynaSAC" else OFF_POLICY
    model: Any = train(world, algorithm=algorithm, steps=128, num_envs=8, hyperparameters=keywords)
    assert model._n_updates > 0


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
        warnings.filterwarnings("ignore", message="the (agent does not act as|training made)")  # so short
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


@pytest.mark.filterwarnings("ignore:the agent does not act as", "ignore:the training made")  # so short
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
