"""DynaSAC: what it records, how its world is refitted, its gradients, and that SB3 takes it for its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import scipy.linalg
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.type_aliases import TrainFreq
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize
from stable_baselines3.sac.policies import SACPolicy

import wmgym
from tests import toy
from wmgym.agents.sb3.dyna_sac import DynaSAC
from wmgym.agents.sb3.dyna_sac_data import StateBuffer, StateReader
from wmgym.agents.sb3.dyna_sac_settings import spread_of
from wmgym.agents.sb3.dyna_sac_updates import _expected_length
from wmgym.models.dynamics import Prediction
from wmgym.models.online_fit import OnlineFit, OnlineFitConfig

SMALL: dict[str, Any] = {
    "learning_starts": 100,
    "train_freq": 50,
    "batch_size": 16,
    "gradient_steps": 5,
    "imagination_kwargs": {"rollout_batch": 16, "rollout_steps": 3, "choice_steps": 3, "choice_episodes": 8},
    "world_kwargs": {
        "members": 2,
        "width": 16,
        "depth": 1,
        "batch_size": 32,
        "first_updates": 20,
        "updates": 5,
    },
    "policy_kwargs": {"net_arch": [16]},
    "seed": 0,
}


def toy_env(sigma: float = toy.SIGMA, **heads: Any) -> gym.Env[Any, Any]:
    return StateReader(gym.make(toy.ENV_ID, sigma=sigma), toy.task(sigma, **heads))


def vec(env: gym.Env[Any, Any]) -> DummyVecEnv:
    return DummyVecEnv([lambda: Monitor(env)])


def small(env: Any = None, **changes: Any) -> DynaSAC:
    return DynaSAC("MlpPolicy", vec(toy_env()) if env is None else env, **(SMALL | changes))


def imagining(dynamics: Any, seed: int = 0, **heads: Any) -> DynaSAC:
    """An agent that has not learned yet, in a world of given dynamics."""
    model = small(vec(toy_env(**heads)), seed=seed)
    model.world = toy.world(dynamics, model.task)
    return model


# What is recorded


def test_transitions_are_those_of_the_env() -> None:
    model = small("Hopper-v5", learning_starts=300, random_episode_steps=20).learn(250)
    data = model.transitions()
    core = model.task.core
    assert len(data) == 250
    np.testing.assert_array_equal(core.observe(data.core), data.obs)
    np.testing.assert_array_equal(core.observe(data.next_core), data.next_obs)
    inside = np.flatnonzero(np.diff(data.episode) == 0)
    np.testing.assert_array_equal(data.next_core[inside], data.core[inside + 1])
    known = [data.core, data.action, data.next_core, data.unobserved]
    assert model.task.reward is not None
    assert model.task.terminated is not None
    np.testing.assert_allclose(model.task.reward(*known), data.reward, atol=1e-4)
    np.testing.assert_array_equal(model.task.terminated(*known), data.terminated)
    assert data.terminated.any()
    assert data.lengths.max() == 20
    last = np.append(data.first[1:], 250) - 1
    np.testing.assert_array_equal(data.truncated[last], ~data.terminated[last])


def test_a_full_buffer_keeps_the_newest_in_order_and_what_is_held_out() -> None:
    task = toy.task()
    box = task.observation_space
    buffer = StateBuffer(40, box, task.action_space, "cpu", core_dim=3, unobserved_dim=0, held_out=0.5)
    places = buffer._held_out[:, 0].copy()
    for t in range(100):
        core = np.full(3, float(t))
        infos = [{"transition": (core, core + 1, np.zeros(0)), "terminated": t % 10 == 9}]
        buffer.add(core[None], core[None] + 1, np.zeros((1, 2)), np.zeros(1), np.array([t % 10 == 9]), infos)
    data = buffer.transitions(task)
    np.testing.assert_array_equal(data.core[:, 0], np.arange(60, 100))
    assert data.lengths.tolist() == [10] * 4
    np.testing.assert_array_equal(buffer.held_out, places[np.arange(60, 100) % 40])
    np.testing.assert_array_equal(buffer.transitions(task, 15).core, data.core[-15:])


def test_of_several_envs_every_step_is_recorded_and_none_is_torn_from_its_episode() -> None:
    env = DummyVecEnv([lambda: Monitor(toy_env())] * 3)
    model = small(env, learning_starts=60, train_freq=20, buffer_size=900).learn(240)
    data, taken = model.transitions(), model.replay_buffer.taken
    assert len(data) == 240
    assert data.lengths.tolist() == [60, 20] * 3
    assert taken[data.first].tolist() == [0, 60] * 3
    inside = np.flatnonzero(np.diff(data.episode) == 0)
    np.testing.assert_array_equal(data.next_core[inside], data.core[inside + 1])
    np.testing.assert_array_equal(np.diff(taken)[inside], 1)
    recent = model.transitions(25)
    assert recent.lengths.tolist() == [5, 20] * 3
    assert model._n_updates == 5 * (3 + 1)  # the random steps' updates, then one train after each 20 steps
    newest = model._real_states[-3:].numpy()
    np.testing.assert_array_equal(newest, np.stack([data.state[79], data.state[159], data.state[239]]))


# Refits


def test_refits_follow_the_data_and_do_not_see_what_is_held_out() -> None:
    data = toy.episodes(10, 0)
    held = np.random.default_rng(0).random(len(data)) < 0.1
    lies = data.next_core.copy()
    lies[held] += 100.0
    spoilt = replace(data, next_core=lies, next_obs=lies)
    weights = []
    for source in (data, spoilt):
        fit = fresh_fit(first_updates=50, updates=300)
        first, later = fit.refit(source, held), fit.refit(source, held)
        assert later["train_error"] < first["train_error"]
        weights.append(fit.state_dict())
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=0, atol=0)
    fit.config = replace(fit.config, updates=0)
    assert fit.refit(data, held)["held_out_error"] == pytest.approx(later["train_error"], rel=0.2)


def fresh_fit(**changes: Any) -> OnlineFit:
    config = OnlineFitConfig(members=2, width=32, depth=2, **changes)
    return OnlineFit(toy.task(), config, torch.Generator().manual_seed(0))


def test_moving_normalisers_leave_every_prediction_what_it_was() -> None:
    early, late = toy.episodes(2, 0), toy.episodes(20, 1, sigma=0.5)
    fit = fresh_fit(first_updates=100, updates=0)
    fit.refit(early, np.zeros(len(early), bool))
    core, action = torch.randn(50, 3), torch.rand(50, 2)
    world = fit.world(early)
    before = fit.averaged.predict(core, action).mean
    fit.refit(late, np.zeros(len(late), bool))
    assert not torch.equal(fit.averaged.input_mean, world.dynamics.input_mean)  # type: ignore[attr-defined]
    torch.testing.assert_close(fit.averaged.predict(core, action).mean, before, rtol=1e-4, atol=1e-4)
    fit.config = replace(fit.config, updates=10)
    fit.refit(late, np.zeros(len(late), bool))
    torch.testing.assert_close(world.dynamics.predict(core, action).mean, before, rtol=0, atol=0)


def test_the_observation_normaliser_moves_and_the_policy_stays() -> None:
    model = small()
    obs, actions = torch.randn(20, 3), torch.rand(20, 2)
    before = [
        *model.actor.get_action_dist_params(obs)[:2],
        *model.critic(obs, actions),
        model.policy(obs, True),
    ]
    model.policy.set_normaliser(torch.tensor([1.0, -2.0, 0.5]), torch.tensor([3.0, 0.1, 2.0]))
    after = [
        *model.actor.get_action_dist_params(obs)[:2],
        *model.critic(obs, actions),
        model.policy(obs, True),
    ]
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, old, rtol=1e-4, atol=1e-4)


def test_the_world_inside_is_a_world_like_any_other(tmp_path: Path) -> None:
    model = small("InvertedPendulum-v5").learn(150)
    assert model.world is not None
    model.world.save(tmp_path / "world")
    loaded = wmgym.load(tmp_path / "world")
    core, action = torch.tensor(model.transitions(8).core), torch.zeros(8, 1)
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    steps = [
        world.step(world.init(core, generator), action).state.core
        for world, generator in zip((model.world, loaded), generators, strict=True)
    ]
    torch.testing.assert_close(*steps, rtol=0, atol=0)
    calib = wmgym.collect("InvertedPendulum-v5", model, steps=300, seed=9, workers=1)
    assert wmgym.calibrate(model.world, calib).calibration is not None
    env = wmgym.sb3.ImaginedVecEnv(model.world, num_envs=4)
    env.reset()
    assert env.step(np.zeros((4, 1), np.float32))[0].shape == (4, 4)


# Gradients and values


@pytest.mark.parametrize("ends", [False, True])
def test_the_actors_gradient_is_that_of_finite_differences(ends: bool) -> None:
    heads = {"terminated_fn": lambda obs, action, next_obs: next_obs[..., 0] > 0.8} if ends else {}
    model = imagining(toy.LinearGaussian(offset=(0.0, 0.02)), **heads)
    with torch.no_grad():
        for parameter in model.critic.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=model._generator))
    states = torch.randn(512, 3, generator=model._generator)
    drawn = model._generator.get_state()

    def gain() -> torch.Tensor:
        model._generator.set_state(drawn)
        return model._gain(model._imagine(states), torch.tensor(0.2))

    parameters = [*model.actor.parameters()]
    gradient = torch.autograd.grad(gain(), parameters)
    step = 1e-2 / torch.cat([g.flatten() for g in gradient]).norm()
    sides = []
    with torch.no_grad():
        for sign in (1, -2):
            torch._foreach_add_(parameters, [sign * step * g for g in gradient])
            sides.append(float(gain()))
    slope = (sides[0] - sides[1]) / (2 * float(step))
    # An episode that ends a step sooner is a jump that no gradient sees; few do.
    expected = float(torch.cat([g.flatten() for g in gradient]).square().sum())
    assert slope == pytest.approx(expected, rel=0.2 if ends else 0.01)


def test_values_are_the_discounted_sum_of_what_counts() -> None:
    ends = {"terminated_fn": lambda obs, action, next_obs: next_obs[..., 0] > 0.5}
    model = imagining(toy.Stub([0.1, 0.0, 0.0]), **ends)
    start = torch.tensor([[-9.0, 0, 0], [0.25, 0, 0], [0.45, 0, 0]])
    path = model._imagine(start)
    assert path.counts.T.tolist() == [[1] * 6, [1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]]
    value = model._critic_target(path, torch.tensor(0.0))
    paid = -((start[:, 0] + 0.1) ** 2)
    assert value[2] == pytest.approx(float(paid[2]))
    x = start[1, 0] + 0.1 * torch.arange(1, 4)
    assert value[1] == pytest.approx(float(-(x**2 * model.gamma ** torch.arange(3)).sum()), rel=1e-5)
    assert model.critic.low < 0 <= model.critic.high


def test_a_diverged_rollout_teaches_the_critic_nothing() -> None:
    model = imagining(toy.Stub([0.1, 0.0, 0.0]))
    assert model.world is not None
    model.world = toy.world(model.world.dynamics, model.task, low=-1.0, high=1.0)
    path = model._imagine(torch.tensor([[0.0, 0, 0], [0.75, 0, 0]]))
    assert path.sound.tolist() == [True, False]
    assert path.counts[:, 1].tolist() == [1, 1, 1, 0, 0, 0]
    start, model._change_std = torch.tensor([[0.95, 0, 0]]), torch.ones(3)
    assert torch.equal(model._reached_from(start), start)


def test_a_rollout_ends_where_the_members_disagree() -> None:
    model = imagining(Parting(offset=(0.0, 0.01)))
    model._change_std = torch.ones(3)
    start = torch.cat([torch.linspace(-1.0, 0.5, 40)[:, None], torch.zeros(40, 2)], 1)
    reached = model._reached_from(start)[:, 0]
    # After one sound step those beyond 0.75 part, where the two members drawn are not the same one.
    assert (reached[40:80] < 2).all()
    gone = 40 - (len(reached) - 80)
    assert 3 < gone < 20
    assert float(model._distrusted) == pytest.approx(gone / 40)


class Parting(toy.LinearGaussian):
    """Moves by one; beyond 0.75 the second member moves by ten."""

    def _predict(self, core: torch.Tensor, action: torch.Tensor, member: torch.Tensor) -> Prediction:
        change = torch.zeros(*member.shape, 3)
        change[..., 0] = 1 + 0.01 * member + 9.0 * member * (core[:, 0] > 0.75)
        return Prediction(change, torch.zeros_like(change), None)


def test_an_optimistic_world_is_caught() -> None:
    """The env is paid -|x|^2; one world is the env, the other brings every state to rest by itself."""
    model = small(vec(toy_env(0.0)), train_freq=200).learn(200)
    said = {}
    assert model.world is not None
    for name, dynamics in (("honest", toy.LinearGaussian()), ("liar", Halving())):
        model.world = replace(model.world, dynamics=dynamics)
        model._measure_exploitation()
        named = model.logger.name_to_value
        said[name] = named["world/imagined_reward"] - named["world/real_reward"]
    assert abs(said["honest"]) < 0.1 < said["liar"]
    assert said["liar"] == pytest.approx(named["world/exploitation"])
    model._exploited = 0
    model.world = toy.world(
        Halving(), toy.task(reward_fn=lambda obs, action, next_obs: 0 * obs[..., 0] + 9.0)
    )
    for _ in range(5):
        model._measure_exploitation()
    with pytest.warns(UserWarning, match="the policy exploits the model"):
        model._measure_exploitation()


class Halving(toy.LinearGaussian):
    def _predict(self, core: torch.Tensor, action: torch.Tensor, member: torch.Tensor) -> Prediction:
        return Prediction(-0.5 * core, torch.zeros_like(core), None)


def test_every_other_episode_is_deterministic_where_values_are_not_low() -> None:
    model = small(train_freq=60, learning_starts=60).learn(300)  # episodes of 60 steps
    rows, data = model.replay_buffer.deterministic_rows(), model.transitions()
    assert not rows[:60].any()  # random steps
    shares = [rows[data.episode == k].mean() for k in range(5)]
    assert [share > 0 for share in shares] == [False, False, True, False, True]
    model._low_value, model._episodes_begun = torch.tensor(-torch.inf), np.array([0])
    model._last_obs = np.array([[0.3, -0.2, 0.1]], np.float32)
    action, scaled = model._sample_action(0, n_envs=1)
    np.testing.assert_array_equal(action, model.policy.averaged_action(model._last_obs))
    np.testing.assert_allclose(model.policy.unscale_action(scaled), action, rtol=1e-6)
    model._low_value = torch.tensor(torch.inf)
    assert not np.array_equal(model._sample_action(0, n_envs=1)[0], action)


def test_rollouts_start_from_states_of_low_value_too() -> None:
    model = small(imagination_kwargs={"rollout_batch": 100, "rollout_steps": 1}).learn(149)
    model._find_low_values()
    low = {tuple(state) for state in model._real_states[model._low_value_rows].tolist()}
    value = model._value(model._real_states)
    assert (value[model._low_value_rows] <= value.quantile(0.2)).all()
    started = model._distribution_rollout()
    assert sum(tuple(state) in low for state in started.tolist()) >= 20


@pytest.mark.parametrize(
    ("budget", "given", "expected"),
    [
        (500, {}, (200, 50, 400)),
        (1_000, {}, (200, 50, 200)),
        (10_000, {}, (1_000, 250, 250)),
        (50_000, {"train_freq": 100}, (1_000, 100, 100)),
        (50_000, {"learning_starts": 400, "gradient_steps": 7}, (400, 100, 7)),
        (100, {}, (50, 12, 480)),
    ],
)
def test_random_steps_refits_and_updates_follow_the_budget(
    budget: int, given: dict[str, int], expected: tuple[int, int, int]
) -> None:
    rest = {k: v for k, v in SMALL.items() if k not in ("learning_starts", "train_freq", "gradient_steps")}
    model = DynaSAC("MlpPolicy", vec(toy_env()), **rest, **given)

    class Stop(BaseCallback):
        def _on_step(self) -> bool:
            return False

    model.learn(0)  # decides nothing
    for total in (budget, 9_000):  # the first budget decides
        model.learn(total, callback=Stop())
        assert isinstance(model.train_freq, TrainFreq)
        assert (model.learning_starts, model.train_freq.frequency, model.gradient_steps) == expected


@pytest.mark.parametrize("starts", [70, 100])
def test_nothing_acts_before_it_has_learned_from_the_random_steps(starts: int) -> None:
    model = small(learning_starts=starts).learn(150)  # trained after 100 steps and after 150
    assert model._n_updates == 10 + 5
    assert not model.replay_buffer.deterministic_rows()[:100].any()
    random = small(learning_starts=200).learn(150).transitions()
    np.testing.assert_array_equal(model.transitions().action[:100], random.action[:100])
    assert not np.array_equal(model.transitions().action[100:], random.action[100:])


def test_the_first_refit_waits_for_a_second_transition() -> None:
    model = small(learning_starts=1, train_freq=1, gradient_steps=1).learn(4)
    assert model._n_updates == 4
    assert all(value.isfinite().all() for value in model.policy.state_dict().values())


def test_a_new_env_brings_its_own_reward() -> None:
    model = small().learn(150)
    doubled = {"reward_fn": lambda obs, action, next_obs: 2 * toy.paid(obs, action, next_obs)}
    model.set_env(vec(toy_env(**doubled)))
    state, action = torch.randn(8, 3), torch.zeros(8, 2)
    for _ in range(5):
        step = model._step(state, action)
        torch.testing.assert_close(step.reward, 2 * toy.paid(state, action, step.state.core))
        model.learn(50, reset_num_timesteps=False)
    with pytest.raises(ValueError, match="does not fit"):
        model.set_env(vec(StateReader(gym.make(toy.ENV_ID))))


# Stable-Baselines3


@pytest.mark.slow
def test_the_toys_optimum_is_reached() -> None:
    """The best linear policy is known in closed form; actions are clipped for both."""
    world = {"members": 2, "width": 32, "depth": 1, "batch_size": 64, "learning_rate": 1e-2}
    world |= {"updates": 50, "first_updates": 200}
    changes: dict[str, Any] = {"batch_size": 64, "gradient_steps": 40}
    changes |= {"gamma": 0.97, "learning_rate": 3e-3, "world_kwargs": world, "learning_starts": 200}
    changes |= {"policy_kwargs": {"net_arch": [32, 32]}}
    model = small(vec(toy_env(0.02)), **changes).learn(400)
    cost = scipy.linalg.solve_discrete_are(toy.A, toy.B, np.eye(3), 1e-6 * np.eye(2))
    gain = np.linalg.solve(1e-6 * np.eye(2) + toy.B.T @ cost @ toy.B, toy.B.T @ cost @ toy.A)

    class Optimal:
        def predict(self, obs: np.ndarray, *args: Any, **kwargs: Any) -> tuple[np.ndarray, None]:
            return np.clip(-obs @ gain.T, -1, 1).astype(np.float32), None

    class Still:
        def predict(self, obs: np.ndarray, *args: Any, **kwargs: Any) -> tuple[np.ndarray, None]:
            return np.zeros((len(obs), 2), np.float32), None

    learned, best, still = (returns(policy) for policy in (model, Optimal(), Still()))
    assert learned > best + 0.03 * (still - best)


def returns(policy: Any) -> float:
    env = vec(gym.make(toy.ENV_ID, sigma=0.02))
    env.seed(3)
    return float(evaluate_policy(policy, env, n_eval_episodes=20)[0])


class Steps(BaseCallback):
    def __init__(self) -> None:
        super().__init__()
        self.rollouts = 0

    def _on_rollout_start(self) -> None:
        self.rollouts += 1

    def _on_step(self) -> bool:
        return self.num_timesteps < 220


def test_callbacks_run_and_can_stop_it(tmp_path: Path) -> None:
    steps, held = (
        Steps(),
        EvalCallback(vec(toy_env()), n_eval_episodes=2, eval_freq=100, log_path=str(tmp_path)),
    )
    held.verbose = 0
    model = small().learn(1_000, callback=CallbackList([steps, held]))
    assert (model.num_timesteps, steps.rollouts) == (220, 5)
    assert np.load(tmp_path / "evaluations.npz")["timesteps"].tolist() == [100, 200]


def test_the_log_says_how_the_world_and_the_agent_do() -> None:
    model = small()
    model.learn(200)
    expected = {
        *(
            "train/actor_loss",
            "train/critic_loss",
            "train/ent_coef",
            "train/n_updates",
            "train/learning_rate",
        ),
        *("world/held_out_error", "world/train_error", "world/real_reward", "world/imagined_reward"),
    }
    assert expected <= set(model.logger.name_to_value)


def test_two_runs_are_equal_and_another_seed_is_not() -> None:
    one, two, other = (small(seed=seed).learn(200) for seed in (1, 1, 2))
    for name, value in one.policy.state_dict().items():
        torch.testing.assert_close(two.policy.state_dict()[name], value, rtol=0, atol=0)
    assert not torch.equal(one.actor.mu.weight, other.actor.mu.weight)


def test_the_averaged_actor_is_a_running_mean_of_the_actor() -> None:
    model = small(imagination_kwargs=SMALL["imagination_kwargs"] | {"averaging_rate": 0.1}, gradient_steps=0)
    model.learn(150)
    mean, state = model.policy.averaged_actor.mu.weight.clone(), torch.randn(16, 3)
    model._starts = state
    for _ in range(3):
        model._n_updates = 100
        model._update(state)
        mean = 0.9 * mean + 0.1 * model.actor.mu.weight
    torch.testing.assert_close(model.policy.averaged_actor.mu.weight, mean)


@pytest.mark.parametrize("good", ["chosen_actor", "averaged_actor", "actor"])
def test_deterministic_actions_are_those_of_the_actor_that_did_best_in_imagined_episodes(good: str) -> None:
    model = small(
        imagination_kwargs=SMALL["imagination_kwargs"] | {"choice_steps": 20, "choice_episodes": 64}
    ).learn(200)
    model.world = toy.world()
    policy, obs = model.policy, np.random.default_rng(0).normal(size=(5, 3))
    actors = {name: getattr(policy, name) for name in ("chosen_actor", "averaged_actor", "actor")}
    with torch.no_grad():
        for name, actor in actors.items():  # of the same weights, but the others push to one side for ever
            actor.load_state_dict(policy.averaged_actor.state_dict())
            actor.mu.bias.fill_(0.0 if name == good else 10.0)
            actor.mu.weight.mul_(0.0)
    drawn, common = model._generator.get_state(), torch.get_rng_state()
    model._choose_actor(0)
    assert model.predict(obs, deterministic=True)[0] == pytest.approx(0.0, abs=1e-6)
    assert torch.equal(model._generator.get_state(), drawn)
    assert torch.equal(torch.get_rng_state(), common)
    policy.averaged_actor.mu.bias.data.fill_(10.0)  # goes on, and nobody is asked yet
    assert model.predict(obs, deterministic=True)[0] == pytest.approx(0.0, abs=1e-6)
    model.imagination = replace(model.imagination, choice_margin=1e6)  # nobody is worth so much more
    model._choose_actor(0)
    assert model.predict(obs, deterministic=True)[0] == pytest.approx(1.0, abs=1e-6)


def test_later_episodes_may_last_a_twentieth_of_all_steps() -> None:
    lengths = small(episode_steps=7, random_episode_steps=7).learn(400).transitions().lengths.tolist()
    assert lengths[:15] == [7] * 15
    assert max(lengths) == 350 // 20  # as of the last refit


def test_of_a_file_without_a_chosen_actor_the_averaged_one_acts() -> None:
    model, obs = small(), np.random.default_rng(0).normal(size=(5, 3))
    old = {k: v.clone() for k, v in model.policy.state_dict().items() if not k.startswith("chosen_actor.")}
    old["averaged_actor.mu.bias"] += 0.5
    model.policy.load_state_dict(old)
    np.testing.assert_array_equal(
        model.predict(obs, deterministic=True)[0], model.policy.averaged_action(obs)
    )
    assert not torch.equal(model.policy.chosen_actor.mu.bias, model.actor.mu.bias)
    with pytest.raises(RuntimeError, match=r"actor\.mu\.bias"):
        model.policy.load_state_dict({k: v for k, v in old.items() if k != "averaged_actor.mu.bias"})


def test_actors_are_compared_after_so_many_updates_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DynaSAC, "_update", lambda self, state: {})
    model = small(gradient_steps=100)
    at, observe = list[int](), type(model.policy.chosen_actor).load_state_dict

    def noted(actor: Any, state: Any) -> Any:
        if actor is model.policy.chosen_actor:
            at.append(model.num_timesteps)
        return observe(actor, state)

    monkeypatch.setattr(type(model.policy.chosen_actor), "load_state_dict", noted)
    model.learn(450)
    assert at == [150, 250, 400, 450]  # after 300, 500 and 800 updates, and at the end
    model.learn(50, reset_num_timesteps=False)
    assert at[4:] == [500]


def test_what_is_saved_is_loaded_and_goes_on(tmp_path: Path) -> None:
    model = small().learn(150)
    model.save(tmp_path / "agent")
    model.save_replay_buffer(tmp_path / "buffer")
    obs = np.random.default_rng(0).normal(size=(20, 3))
    bare = DynaSAC.load(tmp_path / "agent")
    np.testing.assert_array_equal(
        bare.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0]
    )
    again = DynaSAC.load(tmp_path / "agent", env=vec(toy_env()))
    for name, parameters in model.get_parameters().items():
        if "optimizer" not in name:
            for key, value in parameters.items():
                torch.testing.assert_close(again.get_parameters()[name][key], value, rtol=0, atol=0)
    again.load_replay_buffer(tmp_path / "buffer")
    with pytest.warns(UserWarning, match=r"the state of toy/LinearGaussian-v0 cannot be read"):
        again.learn(100, reset_num_timesteps=False)
    assert again.num_timesteps == 250
    assert again.replay_buffer.size() == 250
    assert again._n_updates == model._n_updates + 10
    assert again.world_fit.updates == model.world_fit.updates + 10
    fresh = small(seed=5)
    fresh.set_parameters(model.get_parameters())
    np.testing.assert_array_equal(
        fresh.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0]
    )


def test_reward_and_termination_are_learned_where_nobody_knows_them() -> None:
    gym.register("toy/Ending-v0", entry_point=lambda: Ending(), max_episode_steps=20)
    try:
        model = small("toy/Ending-v0").learn(200)
    finally:
        del gym.registry["toy/Ending-v0"]
    assert model.task.reward is None
    assert model.task.terminated is None
    assert model.world is not None
    assert model.world_fit.ensemble.target_dim == 3
    assert model.world_fit.rewards is not None
    state = torch.zeros(1, 3, requires_grad=True)
    reward = model._step(state, torch.zeros(1, 2)).reward
    assert torch.autograd.grad(reward.sum(), state)[0].abs().max() > 0


class Ending(toy.LinearGaussianEnv):
    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        obs, reward, _, truncated, info = super().step(action)
        return obs, reward, bool(obs[0] > 1.0), truncated, info


@pytest.mark.parametrize(
    ("env", "match"),
    [
        ("CartPole-v1", "Box actions.*PPO"),
        (lambda: vec(gym.make(toy.ENV_ID)), "StateReader"),
        (lambda: DummyVecEnv([toy_env, lambda: gym.make(toy.ENV_ID)]), "StateReader"),
        (lambda: VecNormalize(vec(toy_env())), "without VecNormalize"),
        (lambda: VecFrameStack(vec(toy_env()), 3), "inside each StateReader"),
        ("Reacher-v5", "include"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(env: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        small(env if isinstance(env, str) else env())


def test_settings_that_cannot_train_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        small(world_kwargs={"members": 0})
    with pytest.raises(ValueError, match=r"imagination_kwargs\.horizont: Unexpected keyword"):
        small(imagination_kwargs={"horizont": 3})
    with pytest.raises(ValueError, match="n_steps: DynaSAC has no such setting"):
        small(n_steps=3)
    with pytest.raises(ValueError, match="runs on the CPU"):
        small(device="cuda")
    with pytest.raises(ValueError, match="subclass of DynaSACPolicy"):
        DynaSAC(SACPolicy, toy_env())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [{"gamma": 1.0}, {"gamma": None}, {"tau": -1}, {"buffer_size": -1}, {"batch_size": 12.5},
     {"train_freq": 0}, {"train_freq": (0, "episode")}, {"gradient_steps": -2},
     {"policy_kwargs": {"net_arch": [0]}}, {"policy_kwargs": {"activation_fn": "relu"}}],
)  # fmt: skip
def test_settings_that_sb3_would_fail_at_later_are_refused_at_once(change: dict[str, Any]) -> None:
    name = next(iter(change.get("policy_kwargs", change)))
    with pytest.raises(ValueError, match=f"{name} has to be"):
        small(**change)


def test_refits_may_count_episodes() -> None:
    """Updates as many as SB3 makes, and the meter of exploitation looks at the episodes just played."""
    model = small(train_freq=(1, "episode"), gradient_steps=2, random_episode_steps=25, episode_steps=25)
    model.learn(200)
    assert model._n_updates == 2 * 4 + 2 * 4  # of four random episodes at once, and after each of the others
    assert np.isfinite(model.logger.name_to_value["world/exploitation"])


class Dictionary(gym.ObservationWrapper[Any, Any, Any]):
    """Shows the first number apart from the others."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        low = env.observation_space.low  # type: ignore[attr-defined]
        box = spaces.Box(-np.inf, np.inf, (1, 1)), spaces.Box(-np.inf, np.inf, (len(low) - 1,))
        self.observation_space = spaces.Dict({"z": box[0], "a": box[1]})

    def observation(self, observation: np.ndarray) -> dict[str, np.ndarray]:
        obs = observation.astype(np.float32)
        return {"z": obs[:1, None], "a": obs[1:]}


@pytest.mark.parametrize("policy", ["MlpPolicy", "MultiInputPolicy"])
def test_dicts_are_learned_from_and_acted_on(policy: str, tmp_path: Path) -> None:
    env = Dictionary(gym.make("Pendulum-v1"))
    model = DynaSAC(policy, env, **SMALL).learn(120)
    model.save(tmp_path / "agent")
    again = DynaSAC.load(tmp_path / "agent")
    shown = [env.reset(seed=seed)[0] for seed in range(3)]
    batch = {name: np.stack([each[name] for each in shown]) for name in shown[0]}
    one, several = again.predict(shown[1], deterministic=True)[0], again.predict(batch, deterministic=True)[0]
    assert one.shape == (1,)
    assert several.shape == (3, 1)
    np.testing.assert_allclose(several[1], one, rtol=1e-5)
    flat = np.concatenate([shown[1]["a"], shown[1]["z"].ravel()])  # a Dict space sorts its parts
    np.testing.assert_array_equal(model.predict(flat, deterministic=True)[0], one)
    assert np.isfinite(evaluate_policy(model, Monitor(env), 1, warn=False)[0])
    with pytest.raises(ValueError, match="learned from dicts of a, z"):
        model.predict({"z": shown[0]["z"]})
    with pytest.raises(ValueError, match="learned from arrays"):
        small().predict(batch)


@pytest.mark.parametrize("unit", [1e6, 1e-6])
def test_observations_are_normalised_in_whatever_unit_they_are(unit: float) -> None:
    env = gym.wrappers.TransformObservation(
        gym.make("Pendulum-v1"), lambda obs: unit * obs, spaces.Box(-np.inf, np.inf, (3,))
    )
    model = DynaSAC("MlpPolicy", env, **SMALL).learn(120)
    seen: Any = model.actor.features_extractor
    np.testing.assert_allclose(seen.std, model.transitions().obs.std(0), rtol=0.3)


def test_a_constant_observation_has_no_spread() -> None:
    values = torch.stack([torch.full((1_000,), 0.3), torch.full((1_000,), 1e5), torch.zeros(1_000)], 1)
    assert spread_of(values).tolist() == [1.0, 1.0, 1.0]


def test_the_length_of_episodes_that_end_at_some_rate() -> None:
    rate = torch.tensor([0.0, 1e-3, 0.5, 1.0])
    drawn = np.random.default_rng(0).geometric(1e-3, 200_000).clip(max=1_000).mean()
    found = _expected_length(rate, 1_000.0)
    torch.testing.assert_close(found, torch.tensor([1_000.0, float(drawn), 2.0, 1.0]), rtol=3e-3, atol=0)
