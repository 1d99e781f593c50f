"""Tasks: formulas, layouts and names against the real envs, and their records."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import ClipReward, TimeLimit
from pydantic import ValidationError

from wmgym.data.collect import collect
from wmgym.data.transitions import Transitions
from wmgym.tasks.geometry import Geometry
from wmgym.tasks.layout import Core, identity_core
from wmgym.tasks.registry import TABLE
from wmgym.tasks.schema import TaskRecord, rebuild_task, record_task
from wmgym.tasks.task import Task, make_task

INF = float("inf")
BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)
STEPS = 400
KNOWN: list[tuple[str, dict[str, Any]]] = [
    ("InvertedPendulum-v5", {}),
    ("InvertedPendulum-v5", {"frame_skip": 5, "reset_noise_scale": 0.1}),
    ("HalfCheetah-v5", {}),
    (
        "HalfCheetah-v5",
        {"frame_skip": 3, "forward_reward_weight": 2.5, "ctrl_cost_weight": 0.7, "reset_noise_scale": 0.3},
    ),
    ("Hopper-v5", {}),
    ("Hopper-v5", {"frame_skip": 2, "forward_reward_weight": 3.0, "ctrl_cost_weight": 0.5}),
    ("Hopper-v5", {"terminate_when_unhealthy": False, "healthy_reward": 0.3}),
    (
        "Hopper-v5",
        {
            "healthy_z_range": [1.0, 1.3],
            "healthy_angle_range": [-0.1, 0.05],
            "healthy_state_range": [-5.0, 4.0],
        },
    ),
    ("Hopper-v5", {"exclude_current_positions_from_observation": False}),
    ("HalfCheetah-v5", {"exclude_current_positions_from_observation": False}),
    ("Walker2d-v5", {}),
    ("Walker2d-v5", {"frame_skip": 2, "healthy_z_range": [1.0, 1.3], "healthy_angle_range": [-0.3, 0.2]}),
    ("Walker2d-v5", {"exclude_current_positions_from_observation": False, "ctrl_cost_weight": 0.3}),
    ("Swimmer-v5", {}),
    ("Swimmer-v5", {"exclude_current_positions_from_observation": False, "forward_reward_weight": 3.0}),
    ("InvertedDoublePendulum-v5", {}),
    ("InvertedDoublePendulum-v5", {"healthy_reward": 3.0, "frame_skip": 2}),
    ("Reacher-v5", {}),
    ("Reacher-v5", {"reward_dist_weight": 2.0, "reward_control_weight": 0.3}),
    ("Pusher-v5", {}),
    ("Pusher-v5", {"reward_near_weight": 0.1, "reward_dist_weight": 2.0, "reward_control_weight": 0.3}),
    ("Ant-v5", {}),
    ("Ant-v5", {"exclude_current_positions_from_observation": False, "healthy_z_range": [0.5, 0.9]}),
    (
        "Ant-v5",
        {"include_cfrc_ext_in_observation": False, "contact_force_range": [-2.0, 3.0], "main_body": 2},
    ),
    ("Ant-v5", {"include_cfrc_ext_in_observation": False, "contact_cost_weight": 0}),
    ("Humanoid-v5", {}),
    ("Humanoid-v5", {"contact_cost_weight": 0}),
    ("Humanoid-v5", {"exclude_current_positions_from_observation": False, "contact_cost_weight": 1e-3}),
    ("Humanoid-v5", {"include_cinert_in_observation": False, "include_cfrc_ext_in_observation": False}),
    ("HumanoidStandup-v5", {}),
    ("HumanoidStandup-v5", {"include_cvel_in_observation": False, "impact_cost_range": [0.0, 0.1]}),
]
LIMITS = {"Reacher-v5": 50, "Pusher-v5": 100}
NEVER_END = ("HalfCheetah", "Swimmer", "Reacher", "Pusher", "HumanoidStandup")


class SpacesEnv(gym.Env[Any, Any]):
    """Whatever spaces one asks for, sampled."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.0, False, False, {}


DICT = spaces.Dict(a=BOX, b=spaces.Box(0.0, 1.0, (2, 2), np.float32))
if "task-test/Dict-v0" not in gym.registry:
    gym.register("task-test/Dict-v0", entry_point=lambda: SpacesEnv(DICT, BOX), max_episode_steps=9)


def factory(
    observation_space: spaces.Space[Any], action_space: spaces.Space[Any] = BOX
) -> Callable[[], gym.Env[Any, Any]]:
    return lambda: SpacesEnv(observation_space, action_space)


def paid(obs: Any, action: Any, next_obs: Any) -> Any:
    return next_obs[..., 0] - obs[..., 0]


def live_steps(task: Task, steps: int, seed: int) -> dict[str, np.ndarray]:
    """Columns of real steps under random actions, read in float64 from the live env."""
    env, rng = task.make(), np.random.default_rng(seed)
    rows: list[tuple[Any, ...]] = []
    obs, _ = env.reset(seed=seed)
    moved = task.core.displacement_dim

    def look() -> tuple[np.ndarray, np.ndarray]:
        core = task.read_core(env, obs)
        return task.state(core[None], obs[None])[0], task.read_unobserved(env)

    state, before = look()
    while len(rows) < steps:
        action = rng.uniform(env.action_space.low, env.action_space.high).astype(np.float32)
        obs, reward, terminated, truncated, _ = env.step(action)
        next_state, after = look()
        unobserved = np.concatenate([after[:moved] - before[:moved], after[moved:]])
        rows.append((state, action, next_state, unobserved, reward, terminated, obs))
        state, before = next_state, after
        if terminated or truncated:
            obs, _ = env.reset()
            state, before = look()
    env.close()
    names = ("state", "action", "next_state", "unobserved", "reward", "terminated", "next_obs")
    return {name: np.array(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


def columns_of(data: Transitions) -> dict[str, np.ndarray]:
    names = ("state", "action", "next_state", "unobserved", "reward", "terminated", "next_obs")
    return {name: getattr(data, name) for name in names}


def assert_formulas_hold(task: Task, real: Mapping[str, Any]) -> None:
    assert task.reward is not None
    assert task.terminated is not None
    step = [real[name] for name in ("state", "action", "next_state", "unobserved")]
    known = task.reward(*step)
    error = np.abs(known - real["reward"]) / np.maximum(1, np.abs(real["reward"]))
    assert known.shape == real["reward"].shape
    assert error.max() <= 1e-6
    ends = task.terminated(*step)
    assert ends.dtype == bool
    assert (ends == real["terminated"]).all()


# Known tasks against the real env


@pytest.mark.parametrize(("env_id", "kwargs"), KNOWN)
def test_reward_termination_and_observation_equal_the_real_env(env_id: str, kwargs: dict[str, Any]) -> None:
    task = make_task(env_id, env_kwargs=kwargs)
    real = live_steps(task, STEPS, seed=1)
    assert_formulas_hold(task, real)
    ends = not env_id.startswith(NEVER_END) and kwargs.get("terminate_when_unhealthy", True)
    assert real["terminated"].any() == ends
    np.testing.assert_array_equal(task.core.observe(real["next_state"]), real["next_obs"])
    env = gym.make(env_id, **kwargs)
    assert task.dt == pytest.approx(env.unwrapped.dt, rel=1e-12)  # type: ignore[attr-defined]
    assert (task.from_table, task.max_episode_steps) == (True, LIMITS.get(env_id, 1000))
    assert real["state"].shape == (STEPS, task.core.state_dim)
    assert real["unobserved"].shape == (STEPS, task.core.unobserved_dim)


@pytest.mark.parametrize(("env_id", "kwargs"), [KNOWN[0], KNOWN[3], KNOWN[4], KNOWN[7]])
def test_formulas_hold_on_stored_transitions(env_id: str, kwargs: dict[str, Any]) -> None:
    task = make_task(env_id, env_kwargs=kwargs)
    stored = collect(task, steps=STEPS, seed=2, workers=1)
    assert_formulas_hold(task, columns_of(stored))
    np.testing.assert_array_equal(task.core.observe(stored.state), stored.obs)
    np.testing.assert_array_equal(task.core.from_obs(stored.obs), stored.obs)


@pytest.mark.parametrize(("env_id", "kwargs"), [KNOWN[6], *((k, v) for k, v in KNOWN if not v)])
def test_torch_and_numpy_agree(env_id: str, kwargs: dict[str, Any]) -> None:
    task = make_task(env_id, env_kwargs=kwargs)
    real = live_steps(task, 200, seed=3)
    columns = [real[name] for name in ("state", "action", "next_state", "unobserved")]
    tensors = [torch.tensor(column, dtype=torch.float64) for column in columns]
    assert task.reward is not None
    assert task.terminated is not None
    reward = task.reward(*tensors)
    np.testing.assert_allclose(reward.numpy(), task.reward(*columns), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(task.terminated(*tensors).numpy(), task.terminated(*columns))
    shown = task.core.observe(columns[0])
    np.testing.assert_allclose(task.core.observe(tensors[0]).numpy(), shown, rtol=1e-12, atol=1e-12)
    back = task.core.from_obs(torch.tensor(shown)).numpy()
    np.testing.assert_allclose(back, task.core.from_obs(shown), rtol=1e-12, atol=1e-12)
    assert task.terminated(*tensors).dtype == torch.bool


def test_hopper_core_is_unclipped_where_the_observation_is_clipped() -> None:
    task = make_task("Hopper-v5")
    env = task.make()
    env.reset(seed=0)
    hopper: Any = env.unwrapped
    hopper.set_state(hopper.init_qpos, np.array([1.0, -25.0, 0.5, 10.5, -9.5, 14.0]))
    core, shown = task.read_core(env, np.zeros(11)), hopper._get_obs()
    before = core.copy()
    assert shown[6] == -10
    assert shown[8] == 10
    assert (core[6], core[8], core[10]) == (-25.0, 10.5, 14.0)
    np.testing.assert_array_equal(task.core.observe(core), shown)
    np.testing.assert_array_equal(task.core.observe(torch.tensor(core)[None]).numpy(), shown[None])
    np.testing.assert_array_equal(core, before)
    obs = env.step(np.zeros(3, np.float32))[0]
    core = task.read_core(env, obs)
    assert np.abs(core[5:]).max() > 10
    np.testing.assert_array_equal(task.core.observe(core), obs)
    env.close()


@pytest.mark.parametrize("env_id", ["Hopper-v5", "Walker2d-v5"])
def test_gradients_pass_through_a_clipped_observation(env_id: str) -> None:
    task = make_task(env_id)
    velocities = task.core.dim // 2
    state = torch.full((2, task.core.dim), 0.1, dtype=torch.float64)
    state[1, velocities:] = 11.0  # beyond the clip
    state.requires_grad_()
    gradient = torch.autograd.grad(task.core.observe(state).sum(), state)[0]
    expected = torch.ones_like(state)
    expected[1, velocities:] = 0
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("env_id", ["InvertedPendulum-v5", "Hopper-v5"])
def test_a_state_that_is_not_finite_terminates(env_id: str) -> None:
    task = make_task(env_id)
    core = np.full((1, task.core.dim), np.nan)
    assert task.terminated is not None
    assert task.terminated(core, np.zeros((1, task.action_dim)), core, np.zeros((1, 1))).all()


# make_task


def test_dict_observations_are_flattened() -> None:
    for described in ("task-test/Dict-v0", gym.make("task-test/Dict-v0"), factory(DICT)):
        task = make_task(described)  # type: ignore[arg-type]
        assert task.observation_space.shape == (6,)
        assert task.core == identity_core(6)
        env = task.make()
        assert env.reset(seed=0)[0].shape == (6,)


def test_arrays_of_several_dimensions_are_counted_flat() -> None:
    task = make_task(factory(spaces.Box(-2.0, 2.0, (4, 3, 2)), spaces.Box(-1.0, 1.0, (2, 3))))
    assert (task.obs_dim, task.action_dim, task.core.dim) == (24, 6, 24)
    assert task.read_core(task.make(), np.zeros((4, 3, 2))).shape == (24,)


def test_discrete_actions_are_one_hot() -> None:
    task = make_task("CartPole-v1")
    assert (task.action_dim, task.max_episode_steps, task.dt) == (2, 500, 1.0)
    assert (task.reward, task.terminated, task.from_table) == (None, None, False)


def test_a_live_env_is_described_and_stays_open() -> None:
    env = gym.make("Hopper-v5", ctrl_cost_weight=0.5, max_episode_steps=50, render_mode=None)
    task = make_task(env)
    assert (task.env_id, task.env_kwargs, task.from_table) == ("Hopper-v5", {"ctrl_cost_weight": 0.5}, True)
    env.reset(seed=0)
    remade = task.make()
    assert remade.spec is not None
    assert (task.max_episode_steps, remade.spec.max_episode_steps) == (50, 50)


def test_a_time_limit_leaves_a_known_task_known() -> None:
    task = make_task("Hopper-v5", env_kwargs={"max_episode_steps": 50})
    assert (task.from_table, task.max_episode_steps) == (True, 50)
    spec = task.make().spec
    assert spec is not None
    assert spec.max_episode_steps == 50


@pytest.mark.parametrize(
    ("build", "limit"),
    [
        (lambda: SpacesEnv(BOX, BOX), None),
        (lambda: TimeLimit(SpacesEnv(BOX, BOX), 60), 60),
        (lambda: ClipReward(TimeLimit(SpacesEnv(spaces.Dict(a=BOX), BOX), 60), -1, 1), 60),
        (lambda: TimeLimit(TimeLimit(SpacesEnv(BOX, BOX), 60), 90), 60),
        (lambda: TimeLimit(gym.make("CartPole-v1"), 60), 60),
        (lambda: TimeLimit(gym.make("CartPole-v1"), 900), 500),
    ],
)
def test_a_factorys_time_limit_is_found_without_a_spec(
    build: Callable[[], gym.Env[Any, Any]], limit: int | None
) -> None:
    assert make_task(build).max_episode_steps == limit


def test_a_factorys_time_limit_ends_its_episodes() -> None:
    data = collect(lambda: TimeLimit(SpacesEnv(BOX, BOX), 6), episodes=2, seed=0)
    assert data.lengths.tolist() == [6, 6]
    assert data.truncated[data.first + 5].all()


def test_a_factory_of_a_plain_known_env_is_known_and_of_a_wrapped_one_is_not() -> None:
    plain = make_task(lambda: gym.make("Hopper-v5", healthy_reward=2.0))
    assert plain.from_table
    wrapped = make_task(lambda: ClipReward(gym.make("Hopper-v5"), -1, 1))
    assert (wrapped.reward, wrapped.terminated, wrapped.from_table) == (None, None, False)
    assert isinstance(wrapped.make(), ClipReward)


def test_given_functions_see_flat_observations_and_replace_the_table() -> None:
    task = make_task("Hopper-v5", reward_fn=paid)
    assert task.reward is not None
    assert task.terminated is not None
    assert not task.from_table
    core = np.random.default_rng(0).normal(size=(2, 5, 11))
    np.testing.assert_array_equal(
        task.reward(core[0], np.zeros((5, 3)), core[1], np.zeros((5, 1))), core[1, :, 0] - core[0, :, 0]
    )
    clipped = make_task("Hopper-v5", terminated_fn=lambda obs, action, next_obs: next_obs[..., 10] > 10)
    assert clipped.terminated is not None
    assert not clipped.terminated(core[0] + 20, np.zeros((5, 3)), core[1] + 20, np.zeros((5, 1))).any()


@pytest.mark.parametrize(
    ("observation_space", "action_space", "match"),
    [
        (
            spaces.Discrete(3),
            BOX,
            r"observation space must be Box .*; show its state as numbers",
        ),
        (spaces.Box(-1, 1, (0,)), BOX, "the observation has no numbers"),
        (spaces.Tuple([BOX, BOX]), BOX, "observation space must be Box"),
        (spaces.Dict(a=spaces.Sequence(BOX)), BOX, "observation space must be Box"),
        (BOX, spaces.Box(-np.inf, np.inf, (2,)), "bounded; give the env finite limits"),
        (BOX, spaces.Box(-1.0, 1.0, ()), r"needs an axis: make it Box\(low, high, \(1,\)\)"),
        (BOX, spaces.Box(0.0, np.inf, (2,)), "bounded; give the env finite limits"),
        (BOX, spaces.MultiDiscrete([[2, 2], [2, 2]]), "MultiDiscrete or MultiBinary of one axis"),
        (BOX, spaces.Tuple([BOX, BOX]), "MultiDiscrete or MultiBinary of one axis"),
        (BOX, spaces.Discrete(10**10), "65,536 choices, got 10,000,000,000 of .* a Box"),
        (BOX, spaces.MultiDiscrete([60_000, 60_000]), "got 120,000"),
        (BOX, spaces.MultiBinary(10**6), "got 2,000,000"),
    ],
)
def test_unsupported_spaces_are_refused(
    observation_space: spaces.Space[Any], action_space: spaces.Space[Any], match: str
) -> None:
    assert_refused(lambda: make_task(factory(observation_space, action_space)), match)


@pytest.mark.parametrize(
    ("env", "kwargs", "match"),
    [
        ("Nope-v0", None, "cannot make 'Nope-v0'"),
        ("Hopper-v77", None, "cannot make 'Hopper-v77'"),
        ("no such id", None, "cannot make"),
        ("FetchNope-v4", None, "cannot make 'FetchNope-v4'"),
        ("no_such_module:Nope-v0", None, "no_such_module"),
        ("Hopper-v5", {"no_such_option": 1}, "no_such_option"),
        (3, None, "expected an env id"),
        (factory(BOX), {"a": 1}, "env_kwargs goes with an env id"),
        (SpacesEnv(BOX, BOX), None, "factory"),
        (ClipReward(SpacesEnv(BOX, BOX), -1, 1), None, "factory"),
    ],
)
def test_bad_arguments_are_refused(env: Any, kwargs: dict[str, Any] | None, match: str) -> None:
    assert_refused(lambda: make_task(env, env_kwargs=kwargs), match)


def test_a_wrapped_live_env_is_refused() -> None:
    env = ClipReward(gym.make("Hopper-v5"), -1, 1)
    assert_refused(lambda: make_task(env), "factory")


def test_keywords_for_a_factory_are_refused() -> None:
    assert_refused(lambda: make_task(factory(BOX)).make(render_mode="rgb_array"), "factory")


@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [
        ("Hopper-v5", {"xml_file": "walker2d_v5.xml"}),
        ("HalfCheetah-v5", {"xml_file": "swimmer.xml"}),
    ],
)
def test_options_outside_the_table_fall_back_to_learned_heads(env_id: str, kwargs: dict[str, Any]) -> None:
    with pytest.warns(UserWarning, match=f"{env_id} is known, but not with .*{next(iter(kwargs))}"):
        task = make_task(env_id, env_kwargs=kwargs)
    assert (task.reward, task.terminated, task.from_table) == (None, None, False)
    assert task.core == identity_core(task.obs_dim)


# Records


def stored_again(task: Task, given: Task | None = None) -> Task:
    """Through strict JSON text and back."""
    text = json.dumps(record_task(task).model_dump(mode="json"), allow_nan=False)
    return rebuild_task(TaskRecord.model_validate(json.loads(text)), given)


def assert_same_description(task: Task, again: Task) -> None:
    for name in ("env_id", "dt", "max_episode_steps", "from_table", "observation_space", "action_space"):
        assert getattr(again, name) == getattr(task, name), name
    for space, other in (
        (task.observation_space, again.observation_space),
        (task.action_space, again.action_space),
    ):
        if isinstance(space, spaces.Box):
            assert isinstance(other, spaces.Box)
            assert (other.dtype, other.shape) == (space.dtype, space.shape)
            np.testing.assert_array_equal(other.low, space.low)
            np.testing.assert_array_equal(other.high, space.high)
    assert again.core.dim == task.core.dim
    assert (again.reward is None) == (task.reward is None)


@pytest.mark.parametrize(
    "space",
    [
        BOX,
        spaces.Box(-np.inf, np.inf, (11,), np.float64),
        spaces.Box(np.float32([0.1, -np.inf]), np.float32([np.inf, 1 / 3])),
        spaces.Box(-1.0, 1.0, (2, 3, 1), np.float64),
        spaces.Box(-1.0, 1.0, (), np.float32),
        spaces.Box(0, 255, (2, 2), np.uint8),
        spaces.Box(-(2**63), 2**63 - 1, (2,), np.int64),
        spaces.Box(0, 2**64 - 1, (1,), np.uint64),
        spaces.Box(0, 1, (2,), np.dtype(bool)),  # type: ignore[arg-type]
        spaces.Box(-2.0, 2.0, (2,), np.float16),
    ],
    ids=str,
)
def test_observation_spaces_survive_storage(space: spaces.Box) -> None:
    task = make_task(factory(space))
    assert_same_description(task, stored_again(task))


@pytest.mark.parametrize(
    "space",
    [
        BOX,
        spaces.Box(np.array([-0.1, 0.0]), np.array([0.3, 7.0]), dtype=np.float64),
        spaces.Box(-1.0, 1.0, (2, 3)),
        spaces.Discrete(3),
        spaces.Discrete(5, start=-2),
    ],
    ids=str,
)
def test_action_spaces_survive_storage(space: spaces.Box | spaces.Discrete) -> None:
    task = make_task(factory(BOX, space))
    assert_same_description(task, stored_again(task))


@pytest.mark.parametrize(("env_id", "kwargs"), [*KNOWN, ("CartPole-v1", {"sutton_barto_reward": True})])
def test_tasks_survive_storage(env_id: str, kwargs: dict[str, Any]) -> None:
    task = make_task(env_id, env_kwargs=kwargs)
    again = stored_again(task)
    assert_same_description(task, again)
    assert again.env_kwargs == kwargs
    assert again.core.geometry == task.core.geometry


def test_ranges_that_are_tuples_or_infinite_survive_storage() -> None:
    kwargs = {"healthy_z_range": (0.9, INF), "healthy_angle_range": (-INF, 0.1)}
    task = make_task("Hopper-v5", env_kwargs=kwargs)
    again = stored_again(task)
    assert again.env_kwargs == {"healthy_z_range": [0.9, INF], "healthy_angle_range": [-INF, 0.1]}
    assert_formulas_hold(again, live_steps(again, 50, seed=0))


def test_keywords_that_are_no_json_are_refused_by_name() -> None:
    task = make_task("Hopper-v5", env_kwargs={"healthy_z_range": np.array([0.7, 2.0])})
    assert_refused(lambda: record_task(task), "healthy_z_range")


def _shifted_core() -> Core:
    return Core(Geometry(4), observe=lambda core: core + 1, from_obs=lambda obs: obs - 1)


@pytest.mark.parametrize(
    "build",
    [
        lambda: make_task("Hopper-v5", reward_fn=paid),
        lambda: make_task("Hopper-v5", terminated_fn=lambda obs, action, next_obs: obs[..., 0] < 0),
        lambda: make_task("CartPole-v1", reward_fn=paid),
        lambda: make_task("CartPole-v1", core=_shifted_core()),
        lambda: make_task("InvertedPendulum-v5", core=_shifted_core()),
    ],
)
def test_given_functions_are_asked_for_again(build: Callable[[], Task]) -> None:
    task = build()
    assert_refused(lambda: stored_again(task), "pass task=")
    assert stored_again(task, given=task) is task


def test_a_wrapped_known_env_does_not_turn_into_the_table_entry() -> None:
    again = stored_again(make_task(lambda: ClipReward(gym.make("Hopper-v5"), -1, 1)))
    assert (again.reward, again.terminated, again.from_table) == (None, None, False)
    assert again.core == identity_core(11)


def test_a_given_task_with_other_spaces_is_refused() -> None:
    assert_refused(lambda: stored_again(make_task("Hopper-v5"), make_task("CartPole-v1")), "other spaces")


def test_a_task_rebuilt_without_an_id_cannot_make_its_env() -> None:
    assert_refused(stored_again(make_task(factory(BOX))).make, "factory")


def assert_refused(action: Callable[[], object], match: str) -> None:
    """Expect a ValueError whose message is one line."""
    with pytest.raises(ValueError, match=match) as caught:
        action()
    assert "\n" not in str(caught.value)


def test_stored_transitions_rebuild_their_task(tmp_path: Any) -> None:
    data = collect(make_task("InvertedPendulum-v5", env_kwargs={"frame_skip": 5}), steps=20, seed=0)
    data.save(tmp_path)
    assert_formulas_hold(Transitions.load(tmp_path).task, columns_of(data))


def test_every_registered_task_is_known() -> None:
    import wmgym

    assert set(wmgym.MUJOCO_IDS) == set(TABLE)


@pytest.mark.parametrize("env_id", ["Reacher-v5", "Pusher-v5"])
def test_stops_are_those_of_the_model(env_id: str) -> None:
    core, model = make_task(env_id).core, gym.make(env_id).unwrapped.model  # type: ignore[attr-defined]
    arm = [j for j in range(model.njnt) if model.joint(j).name.startswith(("joint", "r_"))]
    expected = [(int(model.jnt_qposadr[j]), *model.jnt_range[j]) for j in arm if model.jnt_limited[j]]
    np.testing.assert_allclose(core.joint_limits, expected, atol=1e-6)  # qpos leads the core


@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [
        *((env_id, {}) for env_id in TABLE),
        *(
            (env_id, kwargs)
            for env_id, kwargs in KNOWN
            if "exclude_current_positions_from_observation" in kwargs
        ),
    ],
)
def test_core_dimensions_are_named_as_mujocos_joints(env_id: str, kwargs: dict[str, Any]) -> None:
    core, model = make_task(env_id, env_kwargs=kwargs).core, gym.make(env_id).unwrapped.model  # type: ignore[attr-defined]
    assert core.from_mujoco is not None
    positions, velocities = [""] * model.nq, [""] * model.nv
    for joint in map(model.joint, range(model.njnt)):
        at, rate = int(joint.qposadr[0]), int(joint.dofadr[0])
        if joint.type[0] == mujoco.mjtJoint.mjJNT_FREE:
            parts = ("x", "y", "z", "quat_w", "quat_x", "quat_y", "quat_z")
            positions[at : at + 7] = [f"{joint.name}_{part}" for part in parts]
            turns = [f"{axis}{kind}" for kind in ("", "_angular") for axis in "xyz"]
            velocities[rate : rate + 6] = [f"{joint.name}_{part}_velocity" for part in turns]
        else:
            positions[at], velocities[rate] = joint.name, f"{joint.name}_velocity"
    addresses = core.from_mujoco(np.arange(model.nq), model.nq + np.arange(model.nv))
    assert core.names == tuple((positions + velocities)[address] for address in addresses)


def test_core_dimensions_of_other_tasks_are_named_as_observations() -> None:
    assert make_task("CartPole-v1").core.names == ("obs_0", "obs_1", "obs_2", "obs_3")
    assert_refused(lambda: Core(Geometry(2), abs, abs, names=("only",)), "2 dimensions and 1 names")


@pytest.mark.parametrize(
    ("env_id", "shown"),
    [("Ant-v5", ("cfrc_ext",)), ("Humanoid-v5", ("cinert", "cvel", "qfrc_actuator", "cfrc_ext"))],
)
def test_without_contact_cost_nothing_is_beside_the_state(env_id: str, shown: tuple[str, ...]) -> None:
    kwargs = {"contact_cost_weight": 0} | {f"include_{name}_in_observation": False for name in shown}
    assert make_task(env_id, env_kwargs=kwargs).core.readout_dim == 0


def test_an_id_from_a_file_imports_no_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hostile_module.py").write_text("raise SystemExit('code ran')")
    monkeypatch.syspath_prepend(str(tmp_path))
    stored = replace(make_task("CartPole-v1"), env_id="hostile_module:CartPole-v1")
    with pytest.raises(ValueError, match=r"import it first .*if you trust it") as caught:
        rebuild_task(record_task(stored), None).make()
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "hostile_module", types.ModuleType("hostile_module"))
    rebuild_task(record_task(stored), None).make().close()


@pytest.mark.parametrize(
    "changes",
    [
        {"dt": 0.0}, {"dt": float("nan")}, {"max_episode_steps": 0}, {"env_id": 3},
        {"action_space": {"type": "discrete", "n": 0, "start": 0}}, {"names": ["a"]},
        {"action_space": {"type": "discrete", "n": 10**10, "start": 0}},
        {"action_space": {"type": "multi_discrete", "nvec": [60_000, 60_000], "start": [0, 0]}},
        {"action_space": {"type": "multi_discrete", "nvec": [2, 2], "start": [0]}},
        {"action_space": {"type": "multi_binary", "n": 10**6}},
        {"action_space": {"type": "box", "shape": [1], "dtype": "float32", "low": [None], "high": [1.0]}},
        {"action_space": {"type": "box", "shape": [1], "dtype": "float32", "low": [2.0], "high": [1.0]}},
        {"action_space": {"type": "box", "shape": [10**12], "dtype": "float32", "low": [0.0], "high": [1.0]}},
        {"observation_space": {"type": "box", "shape": [1], "dtype": "uint8", "low": [0], "high": [256]}},
        {"observation_space": {"type": "box", "shape": [1], "dtype": "float32", "low": [10**400],
                               "high": [None]}},
    ],
)  # fmt: skip
def test_values_that_no_task_has_are_refused(changes: dict[str, Any]) -> None:
    record = record_task(make_task("CartPole-v1")).model_dump()
    with pytest.raises(ValidationError):
        TaskRecord.model_validate(record | changes)


def test_spaces_and_keywords_of_another_env_are_refused() -> None:
    record = record_task(make_task("InvertedPendulum-v5")).model_dump()
    box = {"type": "box", "dtype": "float32", "shape": [5], "low": [None] * 5, "high": [None] * 5}
    for changes in (
        {"observation_space": box},
        {"dt": 1.0},
        {"env_kwargs": {"reset_noise_scale": 0, "x": 1}},
    ):
        stored = TaskRecord.model_validate(record | changes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(ValueError, match="the-file"):
                rebuild_task(stored, None, "the-file")


@pytest.mark.parametrize(
    ("back_end", "use"),
    [
        ("osmesa", "wmgym.make_task('Hopper-v5')"),
        ("nonsense", "wmgym.load('Hopper-v5').task.make()"),
        ("osmesa", "sys.argv[1:] = ['collect', 'Hopper-v5', '--steps', '9', '--out', 'x']; cli.main()"),
    ],
)
def test_a_gl_back_end_that_is_not_there_is_one_line(back_end: str, use: str, tmp_path: Path) -> None:
    (tmp_path / "OpenGL").mkdir()  # as PyOpenGL fails without the library of the back end
    (tmp_path / "OpenGL" / "__init__.py").write_text("")
    (tmp_path / "OpenGL" / "GL.py").write_text("None.glGetError")
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import wmgym; from wmgym.app import cli; {use}"
    )
    environ = {**os.environ, "MUJOCO_GL": back_end, "PYOPENGL_PLATFORM": ""}
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)
    assert f"rror: MUJOCO_GL={back_end} does not work on this machine" in done.stderr.splitlines()[-1]
    assert "unset it where nothing is drawn, or see `wmgym doctor`" in done.stderr


def test_a_stored_task_whose_library_is_missing_says_what_to_import() -> None:
    gym.register("lab/Gone-v0", "tests.families:Rover")
    task = make_task("lab/Gone-v0")
    del gym.registry["lab/Gone-v0"]
    with pytest.raises(ValueError, match=r"^cannot make 'lab/Gone-v0': .*import that module first") as said:
        task.make()
    assert "\n" not in str(said.value)


def test_known_libraries_are_imported_by_their_ids() -> None:
    pytest.importorskip("gymnasium_robotics")
    code = "import wmgym; print(wmgym.make_task('FetchReach-v4').obs_dim)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "16", done.stderr


def test_a_smaller_world_is_no_task_and_names_its_own() -> None:
    with pytest.raises(ValueError, match=r"names a world, and this takes the task of one: 'Hopper-v5'\.$"):
        make_task("Hopper-v5-small")
    with pytest.raises(ValueError, match="goes with the module that registers it"):
        make_task("Hoppar-v5-small")
