"""A training that goes on from a policy with the very weights of it."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO, SAC, TD3

from wmgym.agents.config import TrainConfig
from wmgym.agents.sb3 import DynaSAC, ImaginedVecEnv, to_policy, train
from wmgym.agents.sb3.take_over import alike, layers_of, take_over
from wmgym.agents.sb3.train import new_agent
from wmgym.data.policy import MLPPolicy
from wmgym.models.world import WorldModel

POLE = "InvertedPendulum-v5"
OBS = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
SMALL: dict[str, Any] = {
    "learning_starts": 40, "train_freq": 20, "gradient_steps": 5, "batch_size": 16,
    "imagination_kwargs": {"rollout_batch": 16, "rollout_steps": 3, "choice_steps": 3, "choice_episodes": 8},
    "world_kwargs": {"members": 2, "width": 16, "depth": 1, "batch_size": 32, "first_updates": 20,
                     "updates": 5},
}  # fmt: skip


def made(kind: type[Any] = SAC, widths: tuple[int, ...] = (24, 12), activation: Any = torch.nn.Tanh) -> Any:
    """A policy of a model that has learned nothing but is not the agent's own start."""
    networks = {"net_arch": [*widths], "activation_fn": activation}
    return to_policy(kind("MlpPolicy", gym.make(POLE), seed=7, policy_kwargs=networks), "old")


def acts_as(model: Any, old: MLPPolicy) -> None:
    np.testing.assert_allclose(model.predict(OBS, deterministic=True)[0], old(OBS), atol=1e-5)


@pytest.mark.parametrize(
    ("algorithm", "kind"),
    [("DynaSAC", SAC), ("SAC", SAC), ("TQC", SAC), ("TD3", SAC), ("SAC", TD3), ("DDPG", TD3),
     ("PPO", PPO), ("A2C", PPO)],
)  # fmt: skip
@pytest.mark.parametrize("widths", [(24, 12), (9,), ()])
def test_an_agent_begins_with_the_weights_of_a_policy(
    pendulum_world: WorldModel, algorithm: str, kind: type[Any], widths: tuple[int, ...]
) -> None:
    old = made(kind, widths)
    config = TrainConfig(algorithm, hyperparameters=alike(algorithm, {}, old))
    model: Any = new_agent(ImaginedVecEnv(pendulum_world, 2), config)
    assert take_over(model, old)
    acts_as(model, old)
    for name in ("actor_target", "averaged_actor", "chosen_actor"):
        if hasattr(model.policy, name):
            torch.testing.assert_close(
                getattr(model.policy, name).state_dict(), model.policy.actor.state_dict()
            )
    new = to_policy(model)
    if old.stochastic and new.stochastic:
        for mine, theirs in ((new.log_std_bias, old.log_std_bias), (new.log_std_weight, old.log_std_weight)):
            assert (mine is None) == (theirs is None)
            assert mine is None or np.allclose(mine, theirs, atol=1e-6)


def test_what_an_actor_cannot_have_leaves_it_as_it_is(pendulum_world: WorldModel) -> None:
    old = made()
    for given in (
        made(PPO),  # another kind of output
        replace(old, low=old.low * 2, high=old.high * 2),
        lambda obs: -obs[:, :1],
        {"one": old, "two": old},
    ):
        found = layers_of(given)
        config = TrainConfig("SAC", hyperparameters=alike("SAC", {}, found))
        model: Any = new_agent(ImaginedVecEnv(pendulum_world, 2), config)
        before = model.predict(OBS, deterministic=True)[0]
        assert not take_over(model, found)
        np.testing.assert_array_equal(model.predict(OBS, deterministic=True)[0], before)
    own = {"policy_kwargs": {"net_arch": [5]}}
    assert alike("SAC", own, old) == own
    assert not take_over(
        new_agent(ImaginedVecEnv(pendulum_world, 2), TrainConfig("SAC", hyperparameters=own)), old
    )


@pytest.mark.parametrize("algorithm", ["DynaSAC", "SAC", "PPO"])
def test_train_goes_on_from_a_policy_as_it_is(
    pendulum_world: WorldModel, tmp_path: Path, algorithm: str
) -> None:
    old = made(PPO if algorithm == "PPO" else SAC)
    old.save(tmp_path / "old")
    held = {"learning_starts": 100} if algorithm != "PPO" else {"n_steps": 64}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # nothing was cloned, so nothing is amiss
        model = train(
            pendulum_world, algorithm=algorithm, steps=64, num_envs=2, policy=tmp_path / "old",
            hyperparameters=held,
        )  # fmt: skip
    assert algorithm == "PPO" or model.predict(OBS, deterministic=True)[0] == pytest.approx(
        old(OBS), abs=1e-5
    )


def test_dyna_sac_begins_as_a_policy_is_and_takes_no_random_step(tmp_path: Path) -> None:
    old = made()
    model = DynaSAC("MlpPolicy", gym.make(POLE), seed=0, begin=old, **SMALL)
    acts_as(model, old)
    assert model.held_updates == 2_000
    actor = {name: value.clone() for name, value in model.actor.state_dict().items()}
    critic = [value.clone() for value in model.critic.parameters()]
    model.learn(40_000, callback=lambda found, _: found["self"].num_timesteps < 120)
    acts_as(model, old)  # the normaliser has moved, and nothing else
    assert any((new != was).any() for new, was in zip(model.critic.parameters(), critic, strict=True))
    assert float(model._entropy_coefficient()) == pytest.approx(0.1)
    data = model.transitions()
    quiet = model.replay_buffer.deterministic_rows(None)
    assert quiet[:40].any()
    np.testing.assert_allclose(data.action[:40][quiet[:40]], old(data.obs[:40][quiet[:40]]), atol=1e-4)
    model.save(tmp_path / "agent")
    again = DynaSAC.load(tmp_path / "agent", env=gym.make(POLE))
    acts_as(again, old)
    assert again.held_updates == 2_000
    again.held_updates = 0
    again.learn(40, reset_num_timesteps=False)
    assert any((value != actor[name]).any() for name, value in again.actor.state_dict().items())


def test_what_was_begun_with_stays_for_a_fifth_of_the_updates_and_acts_in_every_learn() -> None:
    old = made()
    old = replace(old, log_std_bias=np.full(1, -3, np.float32), log_std_weight=None)
    model = DynaSAC("MlpPolicy", gym.make(POLE), seed=0, begin=old, learning_rate=1e-9, **SMALL)
    model.learn(100)
    assert 1 <= model.held_updates == 100 * model.gradient_steps // model.train_freq.frequency // 5
    assert model._n_updates > model.held_updates
    before = len(model.transitions())
    model.learn(80)  # counts steps from 0 again, and none of them is random
    data = model.transitions()
    assert len(data) == before + 80
    np.testing.assert_allclose(data.action, old(data.obs), atol=0.6)  # of 3: four deviations of its noise


def test_noise_that_depends_on_the_state_stays_an_agents_own(pendulum_world: WorldModel) -> None:
    for full in (True, False):
        keywords = alike("PPO", {"use_sde": True}, old := made(PPO))
        keywords["policy_kwargs"] |= {"full_std": full}
        model: Any = new_agent(
            ImaginedVecEnv(pendulum_world, 2), TrainConfig("PPO", hyperparameters=keywords)
        )
        before = model.policy.log_std.detach().clone()
        assert take_over(model, old)
        acts_as(model, old)
        torch.testing.assert_close(model.policy.log_std.detach(), before)


def test_dyna_sac_refuses_to_begin_as_what_it_cannot_be() -> None:
    old = made()
    wide = replace(old, low=old.low * 2, high=old.high * 2)
    for given, env_id, networks, why in (
        (made(PPO), POLE, {}, "its outputs become actions by 'clip', the agent's by 'squash'"),
        (lambda obs: -obs[:, :1], POLE, {}, "it is no single MLP"),
        ({"one": old, "two": old}, POLE, {}, "it is no single MLP"),
        (old, POLE, {"net_arch": [8]}, r"its layers are \('tanh', 24, 12\), and .* are \('silu', 8\)"),
        (old, POLE, {"activation_fn": torch.nn.ReLU}, r".*\('tanh', 24, 12\), and .* \('relu', 24, 12\)"),
        (old, "Hopper-v5", {}, "it takes observations of 4 numbers, and this env shows 11"),
        (wide, POLE, {}, r"it acts in Box\(-6.0, 6.0.* and this env takes Box\(-3.0, 3.0"),
    ):
        with pytest.raises(
            ValueError, match=rf"begin takes an MLP of this env's .*; {why}.*; wmgym\.train\(world, policy"
        ):
            DynaSAC("MlpPolicy", gym.make(env_id), begin=given, policy_kwargs=networks)
    for given in ([24, 12], {"pi": [24, 12], "qf": [16]}):
        acts_as(DynaSAC("MlpPolicy", gym.make(POLE), begin=old, policy_kwargs={"net_arch": given}), old)


@pytest.mark.parametrize("use_sde", [False, True])
def test_a_policy_without_noise_gives_an_agent_the_usual_one(
    pendulum_world: WorldModel, use_sde: bool
) -> None:
    old = replace(made(PPO), stochastic=False, log_std_bias=None)
    keywords = alike("PPO", {"use_sde": use_sde}, old)
    model: Any = new_agent(ImaginedVecEnv(pendulum_world, 2), TrainConfig("PPO", hyperparameters=keywords))
    before = model.policy.log_std.detach().clone()
    assert take_over(model, old)
    acts_as(model, old)
    said = before if use_sde else torch.full((1,), np.log(0.1 * 3.0))  # of actions from -3 to 3
    torch.testing.assert_close(model.policy.log_std.detach(), said, check_dtype=False)


def test_whole_numbers_may_begin_anywhere(cartpole_world: WorldModel) -> None:
    old = to_policy(PPO("MlpPolicy", gym.make("CartPole-v1"), seed=7, policy_kwargs={"net_arch": [24, 12]}))
    moved = replace(old, low=old.low + 3, high=old.high + 3)
    last = np.zeros((12, 3), np.float32), np.zeros(3, np.float32)
    weights, biases = (*old.weights[:-1], last[0]), (*old.biases[:-1], last[1])
    more = replace(old, weights=weights, biases=biases, high=old.high + 1)
    for found in (moved, more):
        keywords = alike("PPO", {}, found)
        model = new_agent(ImaginedVecEnv(cartpole_world, 2), TrainConfig("PPO", hyperparameters=keywords))
        assert take_over(model, found) == (found is moved)
        if found is moved:
            np.testing.assert_array_equal(model.predict(OBS, deterministic=True)[0], old(OBS))
