"""Fitting: it learns, it repeats, and it says what is missing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from tests import toy
from wmgym.calibration.calibrate import calibrate
from wmgym.calibration.open_loop import open_loop_errors
from wmgym.data.collect import collect
from wmgym.data.logs import assembled
from wmgym.data.transitions import Transitions
from wmgym.envs.vector_env import ImaginedVectorEnv
from wmgym.models.config import FitConfig
from wmgym.models.dynamics import PROPAGATIONS
from wmgym.models.ensemble import EnsembleMLP
from wmgym.models.fit import fit
from wmgym.models.world import WorldModel
from wmgym.tasks.task import make_task

SMALL = FitConfig(members=2, width=32, depth=2, max_updates=300, eval_every=50, learning_rate=0.01)
TINY = FitConfig(members=2, width=8, depth=1, max_updates=10, eval_every=5)


@pytest.fixture(scope="module")
def train() -> Transitions:
    return toy.episodes(20, 0, sigma=0.02, steps=30)


def weights(world: WorldModel) -> dict[str, torch.Tensor]:
    assert isinstance(world.dynamics, EnsembleMLP)
    return dict(world.dynamics.state_dict())


def equal(first: WorldModel, second: WorldModel) -> bool:
    a, b = weights(first), weights(second)
    return all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(
    ("functions", "match"),
    [
        (
            {"reward_fn": lambda obs, action, after: after[..., :1]},
            r"^reward_fn returned shape \(7, 1\), exp",
        ),
        ({"reward_fn": lambda obs, action, after: obs[:, 9]}, r"^reward_fn raised IndexError: index 9"),
        (
            {"reward_fn": lambda obs, action, after: obs[:, 0] / 0},
            "returned .*inf for row 0",
        ),
        ({"reward_fn": lambda obs, action, after: 1.0}, r"^reward_fn returned shape \(\), expected \(7,\)"),
        ({"terminated_fn": lambda obs, action, after: after[..., :1] > 0}, r"^terminated_fn .*\(7, 1\)"),
        (
            {"terminated_fn": lambda obs, action, after: after[..., 0]},
            r"^terminated_fn .*float32 .*\(7,\), exp",
        ),
    ],
)
def test_functions_that_return_something_else_are_refused_before_the_fit(
    functions: dict[str, Any], match: str
) -> None:
    described = toy.task(**functions)
    with pytest.raises(ValueError, match=match):
        fit(toy.episodes(2, 0, described=described), TINY)


# It learns


def test_joints_are_held_near_their_stops(train: Transitions) -> None:
    joint_limits = ((0, -9.0, 9.0), (2, -0.01, 0.01))  # one that no data reached, one that gave way
    core = replace(train.task.core, joint_limits=joint_limits)
    world = fit(replace(train, task=replace(train.task, core=core)), TINY)
    seen = np.abs(np.concatenate([train.core, train.next_core])[:, 2]).max()
    np.testing.assert_allclose([world.low[0], world.high[0]], [-9.36, 9.36], rtol=1e-6)
    assert max(-world.low[2], world.high[2]) == pytest.approx(seen + 0.02 * 0.02, rel=1e-5)
    free = fit(train, TINY)
    np.testing.assert_array_equal(world.low[1], free.low[1])


def test_rollout_error_falls_well_below_standing_still(train: Transitions) -> None:
    world = fit(train, SMALL)
    test = toy.episodes(50, 1, sigma=0.02, steps=30)
    for h, error in enumerate(open_loop_errors(world, test, test.first, 16, "mean"), start=1):
        if h in (1, 8, 16):
            still = np.abs(test.core[test.first] - test.next_core[test.first + h - 1])
            assert error.mean() < 0.3 * still.mean()
    history = world.provenance.fit["rollout_error"]
    assert len(history) == 6
    assert history[-1] < history[0]


def test_a_fit_in_bfloat16_is_no_worse_and_is_used_in_float32(train: Transitions) -> None:
    exact, rough = fit(train, SMALL), fit(train, replace(SMALL, precision="bfloat16"))
    assert not equal(exact, rough)
    assert all(tensor.dtype == torch.float32 for tensor in weights(rough).values())
    last = [world.provenance.fit["rollout_error"][-1] for world in (exact, rough)]
    assert last[1] < 1.2 * last[0]
    core, action = torch.tensor(train.core[:64]), torch.tensor(train.action[:64])
    lower = rough.to("cpu", "bfloat16").dynamics.predict(core, action).mean
    assert not torch.equal(rough.dynamics.predict(core, action).mean, lower)


def test_fine_tuning_makes_rollouts_better() -> None:
    data = collect("InvertedDoublePendulum-v5", steps=1_500, seed=0, workers=1)
    test = collect("InvertedDoublePendulum-v5", steps=600, seed=1, workers=1)
    starts, found = test.window_starts(6), []
    for finetune_updates in (0, 80):
        config = replace(SMALL, finetune_updates=finetune_updates, finetune_steps=4, rollout=4)
        world = fit(data, config)
        *_, error = open_loop_errors(world, test, starts, 4, "member")
        found.append((error / data.core.std(0)).mean())
    assert found[1] < 0.95 * found[0]


def test_fine_tuning_takes_learned_heads_and_short_episodes() -> None:
    data = collect("CartPole-v1", steps=200, seed=0, workers=1)
    config = replace(TINY, finetune_updates=5)
    world = fit(data, config)
    assert len(world.provenance.fit["rollout_error"]) > len(fit(data, TINY).provenance.fit["rollout_error"])
    assert equal(world, fit(data, config))
    fit(data, replace(config, finetune_steps=500))  # no episode is that long: nothing to roll out


def test_noise_is_learned(train: Transitions) -> None:
    world = fit(toy.episodes(100, 0), SMALL)
    scale = calibrate(world, toy.episodes(20, 1), horizon=1).calibration.std_scale  # type: ignore[union-attr]
    np.testing.assert_allclose(scale, 1.0, atol=0.1)


def test_learned_reward_follows_the_true_one() -> None:
    described = toy.task(0.02, reward_fn=None)
    world = fit(toy.episodes(40, 0, sigma=0.02, described=described), SMALL)
    test = toy.episodes(5, 1, sigma=0.02, described=described)
    state = world.init(torch.tensor(test.core), torch.Generator())
    reward = world.step(state, torch.tensor(test.action), "mean").reward.numpy()
    assert np.corrcoef(reward, test.reward)[0, 1] > 0.85


def test_learned_termination_of_cartpole(cartpole_world: WorldModel) -> None:
    env = ImaginedVectorEnv(cartpole_world, 64)
    env.reset(seed=0)
    env.action_space.seed(0)
    right, over, lengths = [], [], []
    age = np.zeros(64, int)
    for _ in range(60):
        _, reward, terminated, truncated, infos = env.step(env.action_space.sample())
        age += 1
        ended = terminated | truncated
        last = env.core()
        for i in np.flatnonzero(ended):
            last[i] = infos["final_obs"][i]
        truly = (np.abs(last[:, 0]) > 2.4) | (np.abs(last[:, 2]) > 0.2095)
        right.extend(truly == terminated)
        over.extend(terminated[truly])
        lengths.extend(age[ended])
        age[ended] = 0
        np.testing.assert_allclose(reward, 1.0, atol=1e-3)
    assert np.mean(right) > 0.95
    assert np.mean(over) > 0.5
    assert 12 < np.mean(lengths) < 40  # a random policy's episodes last 22 steps


# It repeats


def test_the_seed_decides_everything(train: Transitions) -> None:
    first, again, other = (fit(train, TINY, seed) for seed in (0, 0, 1))
    assert equal(first, again)
    assert first.provenance == again.provenance
    assert not equal(first, other)


def test_global_random_state_is_neither_used_nor_touched(train: Transitions) -> None:
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    first = fit(train, TINY)
    left = (torch.rand(1).item(), np.random.rand())  # noqa: NPY002
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    assert left == (torch.rand(1).item(), np.random.rand())  # noqa: NPY002
    assert equal(first, fit(train, TINY))


def test_the_data_is_left_alone(train: Transitions) -> None:
    before = train.fingerprints()
    fit(train, TINY)
    assert train.fingerprints() == before


# What comes out


def test_bank_range_and_provenance(train: Transitions) -> None:
    world = fit(train, TINY, seed=3)
    np.testing.assert_array_equal(world.starts, train.core[train.first])
    seen = np.concatenate([train.core, train.next_core])
    assert (world.low < seen.min(0)).all()
    assert (world.high > seen.max(0)).all()
    origin = world.provenance
    assert origin.fingerprints == train.fingerprints()
    assert (origin.steps, origin.source, origin.fit["seed"]) == (len(train), "real", 3)
    assert origin.fit["config"]["width"] == 8
    assert world.calibration is None
    assert not any(parameter.requires_grad for parameter in world.dynamics.parameters())  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="were used by fit"):
        calibrate(world, train.select([0]))


def test_given_starts_make_the_bank(train: Transitions) -> None:
    starts = np.ones((2, 3))
    world = fit(train, TINY, starts=starts)
    assert world.starts.tolist() == starts.tolist()
    starts[:] = 0.0
    assert (world.starts == 1.0).all()


def test_a_dimension_that_never_moves_is_no_trouble() -> None:
    data = toy.episodes(10, 0)
    still = [np.concatenate([x[:, :2], np.full((len(x), 1), 4.0)], 1) for x in (data.obs, data.next_obs)]
    world = fit(assembled(data.task, still[0], data.action, still[1], data.episode, data.terminated), TINY)
    generator = torch.Generator().manual_seed(0)
    after = world.step(world.init(torch.tensor(world.starts), generator), torch.zeros(10, 2), "mean")
    np.testing.assert_allclose(after.state.core[:, 2], 4.0, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 4.0])
def test_a_core_dimension_that_never_moves_does_not_drift(value: float) -> None:
    data = toy.episodes(10, 0)
    still = [np.concatenate([x[:, :2], np.full((len(x), 1), value)], 1) for x in (data.obs, data.next_obs)]
    world = fit(assembled(data.task, still[0], data.action, still[1], data.episode, data.terminated), SMALL)
    generator = torch.Generator().manual_seed(0)
    state = world.init(torch.tensor(world.starts), generator)
    for _ in range(300):
        state = world.step(state, torch.zeros(10, 2), "sample", generator).state
    np.testing.assert_allclose(state.core[:, 2], value, atol=1e-4)


def rewarded(reward: np.ndarray, seed: int = 0) -> Transitions:
    """Episodes of the toy whose reward is to be learned."""
    return replace(toy.episodes(10, seed, described=toy.task(reward_fn=None)), reward=reward)


@pytest.mark.parametrize("value", [1.0, -0.3, 0.0, 1_000.1])
def test_a_constant_reward_is_learned_all_but_exactly(value: float) -> None:
    world = fit(rewarded(np.full(600, value)), SMALL)
    generator = torch.Generator().manual_seed(0)
    core = torch.randn(100, 3, generator=generator)
    for propagation in PROPAGATIONS:
        reward = world.step(world.init(core, generator), torch.zeros(100, 2), propagation, generator).reward
        np.testing.assert_allclose(reward, value, rtol=1e-3, atol=1e-5)


# Refusals


def test_no_reward_anywhere() -> None:
    data = toy.episodes(3, 0, described=make_task(lambda: gym.make(toy.ENV_ID)))
    with pytest.raises(ValueError, match="reward_fn") as caught:
        fit(replace(data, reward=None), TINY)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("steps", [1, 9])
def test_too_little_data(steps: int) -> None:
    with pytest.raises(ValueError, match="too few"):
        fit(toy.episodes(1, 0, steps=steps), TINY)


@pytest.mark.parametrize(("episodes", "steps"), [(1, 10), (10, 1), (2, 5), (3, 40), (1, 200)])
def test_short_or_few_episodes_are_enough(episodes: int, steps: int) -> None:
    world = fit(toy.episodes(episodes, 0, steps=steps), TINY)
    assert np.isfinite(world.provenance.fit["rollout_error"]).all()


def test_only_transitions_are_fitted() -> None:
    data = toy.episodes(2, 0)
    for given, kind in (("data", "str"), ([data, data], "list"), (data.task, "Task")):
        with pytest.raises(TypeError, match=rf"got {kind}; .*wmgym\.Transitions\.load .* wmgym\.concat$"):
            fit(given)  # type: ignore[arg-type]


def test_unknown_setting() -> None:
    with pytest.raises(TypeError, match="widht"):
        FitConfig(widht=3)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "bad",
    [
        {"members": 0},
        {"max_updates": 1.5},
        {"width": "64"},
        {"depth": True},
        {"finetune_updates": 2.0},
        {"learning_rate": "fast"},
        {"patience": -1},
        {"validation": 1.0},
        {"validation": 0.0},
        {"learning_rate": 0.0},
        {"precision": "float16"},
    ],
)
def test_bad_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        FitConfig(**bad)


# Finite is not yet sane


@pytest.mark.parametrize("column", ["obs", "next_obs", "core", "next_core", "reward"])
@pytest.mark.parametrize("value", [1e19, -2e15])
def test_numbers_on_which_float32_overflows_are_refused_with_the_row(
    train: Transitions, column: str, value: float
) -> None:
    changed = getattr(train, column).copy()
    changed.reshape(len(train), -1)[17, -1] = value
    data = replace(train, **{column: changed})
    for use in (lambda: fit(data, TINY), lambda: calibrate(fit(train, TINY), data)):
        with pytest.raises(ValueError, match=rf"^{column} is beyond 1e\+15 in row 17, which") as caught:
            use()
        assert "\n" not in str(caught.value)


def test_the_largest_numbers_that_are_taken_give_a_finite_world(train: Transitions) -> None:
    columns = {
        name: getattr(train, name).copy() for name in ("obs", "next_obs", "core", "next_core", "reward")
    }
    for array in columns.values():
        array[::2] = 1e15
        array[1::2] = -1e15
    data = replace(train, **columns, task=replace(train.task, reward=None))
    world = fit(data, TINY)
    assert all(value.isfinite().all() for value in weights(world).values())
    env = ImaginedVectorEnv(world, 4)
    env.reset(seed=0)
    assert np.isfinite(env.step(np.zeros((4, 2)))[1]).all()


def test_starts_have_to_be_numbers(train: Transitions) -> None:
    for starts in (np.full((2, 3), 1e300), np.full((2, 3), np.nan), np.full((2, 3), None, object)):
        with pytest.raises(ValueError, match=r"^starts must be ") as caught:
            fit(train, TINY, starts=starts)
        assert "\n" not in str(caught.value)
