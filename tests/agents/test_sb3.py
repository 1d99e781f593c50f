"""Stable-Baselines3, unmodified, on imagined envs."""

from __future__ import annotations

import copy
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import sb3_contrib
import scipy.stats
import stable_baselines3
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from tests import toy
from wmgym.agents.sb3.dyna_sac import DynaSAC
from wmgym.agents.sb3.export import export_policy, to_policy
from wmgym.agents.sb3.train import TrainConfig, agent_arrays, load_agent, new_agent, train
from wmgym.agents.sb3.vec_env import ImaginedVecEnv
from wmgym.calibration.calibrate import calibrate
from wmgym.data.policy import load_policy
from wmgym.envs.env import ImaginedEnv
from wmgym.envs.trust import Trust
from wmgym.envs.vector_env import ImaginedVectorEnv
from wmgym.models.dynamics import PROPAGATIONS, Propagation
from wmgym.models.world import WorldModel

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"policy_kwargs": {"net_arch": [16, 16]}}
QUICK: dict[str, dict[str, Any]] = {
    "SAC": SMALL | {"learning_starts": 16, "batch_size": 16},
    "TD3": SMALL | {"learning_starts": 16, "batch_size": 16},
    "PPO": SMALL | {"n_steps": 16, "batch_size": 32, "n_epochs": 1},
    "A2C": SMALL,
    "DQN": SMALL | {"learning_starts": 16, "batch_size": 16},
}


@pytest.fixture(scope="module")
def ending_world() -> WorldModel:
    """The toy, but over once the first dimension passes 0.5; calibrated."""
    ends = toy.task(terminated_fn=lambda obs, action, next_obs: next_obs[..., 0] > 0.5)
    return calibrate(toy.world(described=ends), toy.episodes(10, 0), horizon=10)


def agent(world: WorldModel, algorithm: str, seed: int = 0, **changes: Any) -> BaseAlgorithm:
    config = TrainConfig(algorithm, num_envs=2, hyperparameters=QUICK[algorithm] | changes)
    return new_agent(ImaginedVecEnv(world, 2), config, seed)


# Conformance


def complaints(env: gym.Env[Any, Any]) -> set[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env)
    return {str(warning.message) for warning in caught}


def test_sb3_complains_of_nothing_that_the_real_env_lacks(
    pendulum_world: WorldModel, cartpole_world: WorldModel
) -> None:
    for env_id, world in (("InvertedPendulum-v5", pendulum_world), ("CartPole-v1", cartpole_world)):
        assert complaints(ImaginedEnv(world)) <= complaints(gym.make(env_id).unwrapped)


# Steps


def test_steps_are_the_vector_envs(ending_world: WorldModel) -> None:
    ours, venv = ImaginedVecEnv(ending_world, 3), ImaginedVectorEnv(ending_world, 3)
    ours.seed(7)
    np.testing.assert_array_equal(ours.reset(), venv.reset(seed=7)[0])
    for _ in range(30):
        action = np.zeros((3, 2), np.float32)
        (obs, reward, dones, _), (obs_, reward_, terminated, truncated, _) = (
            ours.step(action),
            venv.step(action),
        )
        np.testing.assert_array_equal(obs, obs_)
        np.testing.assert_array_equal(reward, reward_.astype(np.float32))
        np.testing.assert_array_equal(dones, terminated | truncated)


def test_infos_of_an_end(ending_world: WorldModel) -> None:
    env = ImaginedVecEnv(ending_world, 3, max_episode_steps=4)
    env.seed(0)
    env.reset()
    assert env.reset_infos[0]["error_bound"].tolist() == [0.0] * 3
    returns, lengths, kinds = np.zeros(3), np.zeros(3, int), set()
    bound = ending_world.calibration.half_width["member"]  # type: ignore[union-attr]
    for _ in range(40):
        obs, reward, dones, infos = env.step(np.zeros((3, 2), np.float32))
        returns += reward
        lengths += 1
        for i, info in enumerate(infos):
            if not dones[i]:
                assert sorted(info) == ["diverged", "error_bound"]
                np.testing.assert_array_equal(info["error_bound"], bound[lengths[i] - 1])
                continue
            last = info["terminal_observation"]
            assert not np.array_equal(last, obs[i])
            assert info["TimeLimit.truncated"] == (not last[0] > 0.5)
            assert info["TimeLimit.truncated"] <= (lengths[i] == 4)
            assert info["episode"]["r"] == pytest.approx(returns[i], rel=1e-5)
            assert info["episode"]["l"] == lengths[i]
            np.testing.assert_array_equal(info["error_bound"], bound[lengths[i] - 1])
            assert info["diverged"] is False or info["diverged"] == np.False_
            kinds.add(info["TimeLimit.truncated"])
            returns[i], lengths[i] = 0, 0
    assert kinds == {True, False}


@pytest.mark.parametrize("terminal", [False, True])
def test_divergence_is_truncation_unless_terminal(terminal: bool) -> None:
    env = ImaginedVecEnv(toy.world(toy.Stub([np.nan, 0.0, 0.0])), 2, divergence_is_terminal=terminal)
    env.reset()
    _, _, dones, infos = env.step(np.zeros((2, 2), np.float32))
    assert dones.all()
    for info in infos:
        assert info["TimeLimit.truncated"] is not terminal
        assert info["diverged"]
        assert np.isfinite(info["terminal_observation"]).all()


def test_reset_options_and_seed_are_used_once() -> None:
    env = ImaginedVecEnv(toy.world(), 2)
    env.set_options({"obs": np.ones(3)})
    np.testing.assert_array_equal(env.reset(), np.ones((2, 3)))
    assert not np.array_equal(env.reset(), np.ones((2, 3)))
    env.seed(3)
    first = env.reset()
    assert not np.array_equal(env.reset(), first)
    env.seed(3)
    np.testing.assert_array_equal(env.reset(), first)


def test_attributes_and_methods() -> None:
    env = ImaginedVecEnv(toy.world(), 3)
    assert env.get_attr("max_episode_steps") == [toy.LIMIT] * 3
    assert env.get_attr("render_mode", [0, 1]) == [None, None]
    env.set_attr("max_episode_steps", 5)
    assert env.get_attr("max_episode_steps", 0) == [5]
    with pytest.raises(ValueError, match="share"):
        env.set_attr("max_episode_steps", 7, indices=[0])
    env.reset()
    assert [core.shape for core in env.env_method("core")] == [(3, 3)] * 3
    assert env.env_is_wrapped(gym.Wrapper) == [False] * 3
    env.close()


def test_sb3_records_videos(pendulum_world: WorldModel) -> None:
    env = ImaginedVecEnv(pendulum_world, 2, render_mode="rgb_array")
    assert env.get_attr("render_mode") == ["rgb_array"] * 2
    env.reset()
    picture = env.render()
    assert picture is not None
    assert picture.shape == (960, 480, 3)  # SB3 tiles the envs
    env.close()


def test_sb3_evaluates_a_policy() -> None:
    env = ImaginedVecEnv(toy.world(), 2, max_episode_steps=5)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is not wrapped with a ``Monitor`` wrapper.*")
        _, lengths = evaluate_policy(agent(toy.world(), "PPO"), env, 4, return_episode_rewards=True)
    assert lengths == [5] * 4


# Training


@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_training_runs_and_repeats(ending_world: WorldModel, algorithm: str) -> None:
    config = TrainConfig(
        algorithm, steps=200, num_envs=4, max_episode_steps=10, hyperparameters=QUICK[algorithm]
    )
    first, again, other = (agent_arrays(train(ending_world, config, seed)) for seed in (0, 0, 1))
    assert all(np.array_equal(first[key], again[key]) for key in first)
    assert not all(np.array_equal(first[key], other[key]) for key in first)
    assert all(np.isfinite(array).all() for array in first.values())


@pytest.mark.parametrize(
    ("steps", "learning_starts", "taken", "updates"),
    [(64, 0, 64, 16), (64, 32, 64, 8), (10, 5, 12, 1), (64, 64, 64, 0), (10, 999, 12, 0)],
)
def test_learning_starts_puts_off_the_first_update(
    steps: int, learning_starts: int, taken: int, updates: int
) -> None:
    keywords = QUICK["SAC"] | {"learning_starts": 0}
    config = TrainConfig(
        "SAC", steps=steps, num_envs=4, learning_starts=learning_starts, hyperparameters=keywords
    )
    model = train(toy.world(), config)
    assert model.num_timesteps == taken  # SB3 takes four at a time
    assert model.replay_buffer.pos == taken // 4  # type: ignore[attr-defined]
    assert model._n_updates == updates  # type: ignore[attr-defined]
    assert model.gradient_steps == 1  # type: ignore[attr-defined]  # as it was


def test_until_learning_starts_the_agent_stays_as_it_was() -> None:
    keywords = QUICK["SAC"] | {"learning_starts": 0}
    kept = agent_arrays(agent(toy.world(), "SAC", seed=5))
    config = TrainConfig("SAC", steps=64, num_envs=2, learning_starts=64, hyperparameters=keywords)
    continued = agent_arrays(train(toy.world(), config, agent=kept))
    assert all(np.array_equal(kept[key], continued[key]) for key in kept)


def test_ppo_ignores_learning_starts(ending_world: WorldModel) -> None:
    config = TrainConfig("PPO", steps=100, num_envs=4, max_episode_steps=10, hyperparameters=QUICK["PPO"])
    plain, filled = (train(ending_world, replace(config, learning_starts=wait)) for wait in (0, 64))
    assert plain.num_timesteps == filled.num_timesteps == 128  # two rollouts of 4 * 16
    arrays = agent_arrays(filled)
    assert all(np.array_equal(array, arrays[key]) for key, array in agent_arrays(plain).items())


@pytest.mark.parametrize("propagation", [None, *PROPAGATIONS])
def test_training_happens_in_the_mode_asked_for(propagation: Propagation | None) -> None:
    chosen = {} if propagation is None else {"propagation": propagation}
    config = TrainConfig("SAC", steps=2, num_envs=2, hyperparameters=QUICK["SAC"], **chosen)
    venv = train(toy.world(), config).get_env()
    assert venv is not None
    assert venv.get_attr("propagation", 0) == [propagation or "member"]


def test_a_world_can_be_named_or_be_a_directory(pendulum_world: WorldModel, pendulum_dir: str) -> None:
    config = TrainConfig("PPO", steps=64, num_envs=4, hyperparameters=QUICK["PPO"])
    first, second = (agent_arrays(train(world, config)) for world in (pendulum_world, pendulum_dir))
    assert all(np.array_equal(first[key], second[key]) for key in first)
    for name in ("InvertedPendulum-v5", "wmgym/InvertedPendulum-v5"):
        assert train(name, config).num_timesteps == 64


@pytest.mark.parametrize("kind", ["discrete", "box"])
def test_default_algorithm(pendulum_world: WorldModel, cartpole_world: WorldModel, kind: str) -> None:
    world, name = {"discrete": (cartpole_world, "PPO"), "box": (pendulum_world, "SAC")}[kind]
    env = ImaginedVecEnv(world, 2)
    assert type(new_agent(env, TrainConfig(), 0)).__name__ == name


def test_a_linear_learning_rate_falls_to_zero_over_both_parts_of_a_training() -> None:
    keywords = QUICK["SAC"] | {"learning_rate": "lin_1e-3", "learning_starts": 0}
    model = train(
        toy.world(), TrainConfig("SAC", steps=64, num_envs=2, learning_starts=32, hyperparameters=keywords)
    )
    assert model.lr_schedule(1.0) == 1e-3
    assert model.actor.optimizer.param_groups[0]["lr"] < 1e-4


@pytest.mark.parametrize("value", ["fast", "lin_", "lin_x", "xlin_1"])
def test_what_is_no_schedule_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="lin_1e-3"):
        new_agent(
            ImaginedVecEnv(toy.world(), 2), TrainConfig("SAC", hyperparameters={"learning_rate": value}), 0
        )


def test_hyperparameters_are_left_alone() -> None:
    given = {"policy_kwargs": {"net_arch": [16]}, "learning_starts": 999}
    new_agent(ImaginedVecEnv(toy.world(), 2), TrainConfig("SAC", hyperparameters=given), 0)
    assert given == {"policy_kwargs": {"net_arch": [16]}, "learning_starts": 999}


def test_dqn_learns_on_discrete_actions(cartpole_world: WorldModel) -> None:
    train(cartpole_world, TrainConfig("DQN", steps=64, num_envs=2, hyperparameters=QUICK["DQN"]))


class Watch(BaseCallback):
    """Keeps every step's dones and infos."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[bool, bool, np.ndarray]] = []

    def _on_step(self) -> bool:
        for done, info, obs in zip(
            self.locals["dones"], self.locals["infos"], self.locals["new_obs"], strict=True
        ):
            self.seen.append(
                (bool(done), info.get("TimeLimit.truncated", False), info.get("terminal_observation", obs))
            )
        return True


def test_replay_bootstraps_at_time_limits_alone(ending_world: WorldModel) -> None:
    env = ImaginedVecEnv(ending_world, 2, max_episode_steps=5)
    model = stable_baselines3.SAC("MlpPolicy", env, seed=0, learning_starts=1_000)
    watch = Watch()
    model.learn(120, callback=watch)
    buffer = model.replay_buffer
    assert buffer is not None
    dones, timeouts = (array[: buffer.pos].reshape(-1) for array in (buffer.dones, buffer.timeouts))
    next_obs = buffer.next_observations[: buffer.pos].reshape(-1, 3)
    assert dones.astype(bool).tolist() == [done for done, _, _ in watch.seen]
    assert timeouts.astype(bool).tolist() == [late for _, late, _ in watch.seen]
    np.testing.assert_allclose(next_obs, [obs for *_, obs in watch.seen], rtol=1e-6)
    masked = (dones * (1 - timeouts)).astype(bool)
    np.testing.assert_array_equal(masked, next_obs[:, 0] > 0.5)
    assert 0 < masked.sum() < dones.sum()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"algorithm": "TRPO"}, "algorithm"),
        ({"steps": 0}, "steps"),
        ({"num_envs": 0}, "num_envs"),
        ({"learning_starts": -1}, "learning_starts"),
        ({"max_episode_steps": 0}, "max_episode_steps"),
        ({"propagation": "median"}, "propagation must be one of"),
    ],
)
def test_bad_train_config(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        TrainConfig(**options)


@pytest.mark.parametrize("algorithm", ["PPO", "SAC", "TD3", "TQC"])
def test_sb3_learns_over_a_shipped_world(algorithm: str) -> None:
    build = getattr(sb3_contrib if algorithm == "TQC" else stable_baselines3, algorithm)
    quick = copy.deepcopy(QUICK.get(algorithm, QUICK["SAC"]))  # SB3 writes into it
    model = build("MlpPolicy", ImaginedVecEnv("InvertedPendulum-v5", 8), seed=0, device="cpu", **quick)
    before = {key: value.clone() for key, value in model.policy.state_dict().items()}
    model.learn(512)
    assert model.num_timesteps >= 512
    after = model.policy.state_dict()
    assert all(value.isfinite().all() for value in after.values())
    assert any(not torch.equal(before[key], after[key]) for key in before)
    assert len(model.ep_info_buffer) > 10  # episodes ended and were recorded without a Monitor


# Agents as arrays


@pytest.mark.parametrize("algorithm", ["SAC", "PPO", "TD3"])
def test_agents_survive_as_arrays(algorithm: str) -> None:
    world = toy.world()
    first, second = agent(world, algorithm, 0), agent(world, algorithm, 1)
    first.learn(64)
    arrays = agent_arrays(first)
    load_agent(second, arrays)
    obs = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
    np.testing.assert_array_equal(
        first.predict(obs, deterministic=True)[0], second.predict(obs, deterministic=True)[0]
    )
    again = agent_arrays(second)
    assert set(again) == set(arrays)
    assert all(np.array_equal(arrays[key], again[key]) for key in arrays)


def test_training_on_does_not_change_arrays_taken_before() -> None:
    model = agent(toy.world(), "SAC")
    arrays = agent_arrays(model)
    kept = {key: array.copy() for key, array in arrays.items()}
    model.learn(64)
    assert all(np.array_equal(arrays[key], kept[key]) for key in kept)


def test_train_continues_from_arrays() -> None:
    config = TrainConfig("SAC", steps=32, num_envs=2, hyperparameters=QUICK["SAC"] | {"learning_starts": 999})
    model = agent(toy.world(), "SAC", seed=5)
    with torch.no_grad():
        model.log_ent_coef.fill_(-3.0)  # type: ignore[attr-defined]
    kept = agent_arrays(model)
    continued = agent_arrays(train(toy.world(), config, 0, agent=kept))
    assert all(np.array_equal(kept[key], continued[key]) for key in kept)


# Export


@pytest.mark.parametrize(
    ("algorithm", "discrete", "kwargs"),
    [
        ("SAC", False, {}),
        ("TD3", False, {}),
        ("PPO", False, {}),
        ("PPO", True, {}),
        ("A2C", True, {}),
        ("DQN", True, {}),
        ("SAC", False, {"activation_fn": nn.Tanh}),
        ("TD3", False, {"activation_fn": nn.Tanh}),
        ("PPO", False, {"activation_fn": nn.ELU}),
        ("DQN", True, {"activation_fn": nn.LeakyReLU}),
        ("SAC", False, {"activation_fn": nn.SiLU}),
        ("PPO", False, {"net_arch": []}),
        ("TD3", False, {"net_arch": []}),
    ],
)
def test_export_equals_predict(
    pendulum_world: WorldModel, cartpole_world: WorldModel, algorithm: str, discrete: bool, kwargs: Any
) -> None:
    world = cartpole_world if discrete else pendulum_world
    model = agent(world, algorithm, policy_kwargs={"net_arch": [16, 16]} | kwargs)
    policy = to_policy(model, "mine")
    obs = np.random.default_rng(0).normal(size=(1_000, 4)) * 3
    expected, _ = model.predict(obs, deterministic=True)
    found = policy(obs)
    assert policy.name == "mine"
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert len(np.unique(found.round(3))) > 1
    assert all(action in world.task.action_space for action in found[:20])


def test_export_is_a_copy() -> None:
    model = agent(toy.world(), "SAC")
    policy = to_policy(model)
    before = policy(np.ones(3))
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.zero_()
    np.testing.assert_array_equal(policy(np.ones(3)), before)


class Doubled(BaseFeaturesExtractor):
    def __init__(self, observation_space: gym.Space[Any]) -> None:
        super().__init__(observation_space, 3)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return 2 * observations


@pytest.mark.parametrize(
    ("algorithm", "changes"),
    [
        ("SAC", {"policy_kwargs": {"activation_fn": nn.GELU}}),
        ("SAC", {"use_sde": True}),
        ("SAC", {"policy_kwargs": {"features_extractor_class": Doubled}}),
        ("PPO", {"policy_kwargs": {"features_extractor_class": Doubled}}),
        ("PPO", {"use_sde": True, "policy_kwargs": {"squash_output": True}}),
        ("TD3", {"policy_kwargs": {"activation_fn": lambda: nn.LeakyReLU(0.3)}}),
    ],
)
def test_export_refuses_what_it_cannot_express(algorithm: str, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"no plain MLP|not supported"):
        to_policy(agent(toy.world(), algorithm, **changes))


@pytest.mark.parametrize(
    ("algorithm", "discrete"), [("SAC", False), ("PPO", False), ("PPO", True), ("A2C", False)]
)
def test_drawn_actions_have_sb3s_distribution(
    pendulum_world: WorldModel, cartpole_world: WorldModel, algorithm: str, discrete: bool
) -> None:
    model = agent(cartpole_world if discrete else pendulum_world, algorithm)
    obs = np.tile(np.float32([0.1, -0.05, 0.2, 0.4]), (4_000, 1))
    torch.manual_seed(0)
    expected, _ = model.predict(obs, deterministic=False)
    found = to_policy(model)(obs, np.random.default_rng(0))
    assert found.shape == expected.shape
    assert scipy.stats.ks_2samp(found.ravel(), expected.ravel()).pvalue > 0.01
    assert len(np.unique(found)) > 1


@pytest.mark.parametrize("algorithm", ["TD3", "DQN"])
def test_a_deterministic_agent_draws_nothing(
    pendulum_world: WorldModel, cartpole_world: WorldModel, algorithm: str
) -> None:
    policy = to_policy(agent(cartpole_world if algorithm == "DQN" else pendulum_world, algorithm))
    with pytest.raises(ValueError, match="is deterministic"):
        policy(np.zeros(4), np.random.default_rng(0))


def test_export_puts_the_normaliser_into_the_policy(tmp_path: Path) -> None:
    normalizer = VecNormalize(DummyVecEnv([lambda: gym.make("InvertedPendulum-v5")]), clip_obs=np.inf)
    model = stable_baselines3.PPO("MlpPolicy", normalizer, n_steps=64, batch_size=64, seed=0, device="cpu")
    model.learn(256)
    policy = export_policy(model, tmp_path / "p", name="mine", normalizer=normalizer)
    obs = np.random.default_rng(0).normal(size=(1_000, 4)) * 2
    expected, _ = model.predict(normalizer.normalize_obs(obs), deterministic=True)
    for each in (policy, load_policy(tmp_path / "p")):
        np.testing.assert_allclose(each(obs), expected, atol=1e-4)
    np.testing.assert_allclose(to_policy(model)(obs), expected, atol=1e-4)  # taken from the model's own env
    plain, _ = model.predict(obs, deterministic=True)
    assert np.abs(plain - expected).max() > 1e-2  # else there was nothing to put in


@pytest.mark.parametrize("env_id", ["InvertedPendulum-v5", "HalfCheetah-v5"])  # the latter has an angle
@pytest.mark.parametrize("layers", [[16, 16], []])
def test_export_of_dyna_sac_is_its_chosen_actor_behind_its_normaliser(
    tmp_path: Path, layers: list[int], env_id: str
) -> None:
    model = DynaSAC("MlpPolicy", env_id, seed=0, policy_kwargs={"net_arch": layers})
    generator = torch.Generator().manual_seed(0)
    dim, features = model.observation_space.shape[0], model.actor.features_extractor.features_dim
    mean, std = (
        torch.randn(features, generator=generator),
        20 * torch.rand(features, generator=generator) + 0.1,
    )
    model.policy.set_normaliser(mean, std)
    with torch.no_grad():  # as if it had learned, each of the actors for itself
        for parameter in (*model.policy.chosen_actor.parameters(), *model.actor.parameters()):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    policy = export_policy(model, tmp_path / "p")
    mean, std = mean[:dim], std[:dim]
    obs = (mean + std * torch.randn(1_000, dim, generator=generator)).numpy()
    expected, _ = model.predict(obs, deterministic=True)
    for each in (policy, load_policy(tmp_path / "p")):
        np.testing.assert_allclose(each(obs), expected, atol=1e-4)
    assert np.abs(model.predict(obs)[0] - expected).max() > 0.1
    same = np.tile(mean.numpy(), (4_000, 1))
    torch.manual_seed(0)
    with torch.no_grad():
        drawn = model.policy.unscale_action(model.policy.chosen_actor(torch.tensor(same)).numpy())
    found = policy(same, np.random.default_rng(0))
    assert scipy.stats.ks_2samp(found.ravel(), drawn.ravel()).pvalue > 0.01


# The optional dependency


def test_without_sb3_there_is_an_install_hint() -> None:
    code = (
        "import sys; sys.modules['stable_baselines3'] = None; import wmgym\n"
        "try: wmgym.train\nexcept ImportError as error: print(error)"
    )
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "wmgym.sb3 needs Stable-Baselines3: pip install 'wmgym[sb3]'"


def test_the_autoreset_mode_is_sb3s_own(pendulum_world: WorldModel) -> None:
    with pytest.raises(ValueError, match="leave autoreset_mode out"):
        ImaginedVecEnv(pendulum_world, 2, autoreset_mode="NextStep")


def test_training_can_be_told_to_stop_at_distrust(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    keep = ImaginedVecEnv.__init__

    def spy(self: Any, *args: Any, **kwargs: Any) -> None:
        keep(self, *args, **kwargs)
        made.append(self)

    monkeypatch.setattr(ImaginedVecEnv, "__init__", spy)
    world = calibrate(
        toy.world(toy.LinearGaussian(offset=(-0.3, 0.3))), toy.episodes(20, 0, steps=10), horizon=8
    )
    config = TrainConfig(
        "SAC", steps=16, num_envs=2, trust=Trust("truncate", 1e-6), hyperparameters=QUICK["SAC"]
    )
    train(world, config)
    assert made[0].venv.trust == Trust("truncate", 1e-6)
    made[0].reset()
    _, _, dones, infos = made[0].step(np.zeros((2, 2), np.float32))
    assert dones.all()  # nothing is that certain
    assert all(info["TimeLimit.truncated"] and info["distrust"] > 1e-6 for info in infos)
    with pytest.raises(ValueError, match="needs a calibrated world"):
        train(toy.world(), config)
