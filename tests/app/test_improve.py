"""Rounds that train in a world, play in reality and fit on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import wmgym
from tests.families import Line
from wmgym.agents.config import TrainConfig
from wmgym.agents.sb3 import trial
from wmgym.agents.sb3.trial import try_in_world
from wmgym.app.improve import _check, _filled, training
from wmgym.app.improve_branches import with_noise
from wmgym.app.improve_conclusion import Bred, conclusion
from wmgym.app.improve_play import RealEnv, beats
from wmgym.app.improve_rounds import Rounds
from wmgym.data.policy import action_bounds
from wmgym.io import artifacts, locks
from wmgym.models.fit import hold_out
from wmgym.models.rollout_error import RolloutError
from wmgym.models.warm_start import emphasised
from wmgym.tasks.actions import from_zero

TRAIN = TrainConfig("PPO", steps=128, num_envs=4, max_episode_steps=20, hyperparameters={"n_steps": 32})
CONFIG = wmgym.FitConfig(max_updates=20, eval_every=10, learning_rate=5e-4)


def off(algorithm: str, **hyperparameters: Any) -> TrainConfig:
    return replace(TRAIN, algorithm=algorithm, hyperparameters=hyperparameters)


class StopError(Exception):
    """Where a run is killed."""


@pytest.fixture(scope="module")
def data() -> wmgym.Transitions:
    return wmgym.collect("Pendulum-v1", steps=400, seed=0, workers=1, max_episode_steps=20)


@pytest.fixture(scope="module")
def world(data: wmgym.Transitions) -> wmgym.WorldModel:
    return wmgym.fit(data, wmgym.FitConfig(members=2, width=16, depth=1, max_updates=40, eval_every=20))


def improved(world: wmgym.WorldModel, out: Path, data: wmgym.Transitions, **changes: Any) -> Any:
    settings = {"rounds": 1, "real_steps": 240, "max_gap": 1e-9, "train": TRAIN, "config": CONFIG, **changes}
    return wmgym.improve(world, out, data, **settings)


def test_rounds_go_on_after_a_kill_and_the_last_one_teaches_nothing(
    world: wmgym.WorldModel, data: wmgym.Transitions, tmp_path: Path
) -> None:
    def stop(text: str) -> None:
        raise StopError(text)

    with pytest.raises(StopError, match="round 0"):
        improved(world, tmp_path / "a", data, say=stop)
    first = improved(world, tmp_path / "a", data)
    whole = improved(world, tmp_path / "b", data)
    assert first.rounds == whole.rounds
    assert [bred.learned for bred in whole.rounds] == [True, False]
    assert whole.rounds[0].coverage is None  # the world had no bounds
    assert whole.rounds[1].coverage is not None
    assert whole.ledger["real_steps"] <= 240
    left = wmgym.Transitions.load(tmp_path / "b" / "data")
    assert whole.data is not None
    assert left.fingerprints() == whole.data.fingerprints()
    assert {*left.fingerprints()} == {*whole.world.provenance.fingerprints}
    weights = [found.world.dynamics.weights[0] for found in (first, whole)]
    assert torch.equal(*weights)
    assert not torch.equal(weights[0], world.dynamics.weights[0])  # type: ignore[attr-defined]
    known = {*whole.world.provenance.fingerprints}
    played = [wmgym.Transitions.load(tmp_path / "b" / f"round-0{i}" / "judged") for i in range(2)]
    assert {*data.fingerprints()} <= known
    assert {*played[0].fingerprints()} & known
    assert not {*played[1].fingerprints()} & known
    assert whole.world.calibration is not None
    assert not {*whole.world.calibration.fingerprints} & known
    assert wmgym.load_policy(tmp_path / "b" / "policy").name == whole.policy.name
    document = json.loads((tmp_path / "b" / "improve.json").read_text())
    assert [row["policy"] for row in document["rounds"]] == [bred.policy for bred in whole.rounds]
    wmgym.load(tmp_path / "b" / "world")

    with pytest.raises(ValueError, match="holds work with other settings: seed; choose another"):
        improved(world, tmp_path / "b", data, seed=1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"real_steps": 199}, "199 real steps are too few for 2 policies.*take at least 200"),
        ({"rounds": 0}, "rounds must be a whole number of at least 1"),
        ({"rounds": 1.5}, "rounds must be a whole number"),
        ({"seed": -1}, "seed must be a whole number of at least 0"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"max_gap": 0.0}, "max_gap must be above 0"),
        ({"max_gap": float("nan")}, "max_gap must be above 0"),
        ({"train": replace(TRAIN, hyperparameters={"nothing": 1})}, "PPO refuses"),
        ({"train": replace(TRAIN, hyperparameters={"n_epochs": 0})}, "n_epochs has to be .* got 0"),
        ({"train": replace(TRAIN, trust=wmgym.Trust(on_exceed="truncate"))}, "trust needs a calibrated"),
        ({"train": off("SAC", train_freq=(1, "episode"))}, "SAC cannot train with these: You must use only"),
        ({"train": off("SAC", train_freq=0)}, "train_freq has to be a whole number above 0, got 0"),
        ({"train": off("TD3", action_noise=3)}, "TD3 cannot train with these: .*ActionNoise"),
        ({"train": off("DynaSAC", action_noise=3)}, "DynaSAC cannot train with these: .*ActionNoise"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_work(
    world: wmgym.WorldModel, data: wmgym.Transitions, tmp_path: Path, changes: Any, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        improved(world, tmp_path / "out", data, **changes)
    assert not (tmp_path / "out").exists()


def test_settings_that_can_train_are_not_refused(world: wmgym.WorldModel) -> None:
    for train in (
        replace(TRAIN, hyperparameters={"n_steps": np.int64(32), "n_epochs": 1}),
        off("SAC", train_freq=[100_000, "step"], gradient_steps=-1),
        off("DynaSAC", train_freq=(1, "episode"), gradient_steps=-1),
        training(world),
    ):
        try_in_world(world, train)


def test_an_env_that_is_imagined_itself_is_no_judge(world: wmgym.WorldModel, tmp_path: Path) -> None:
    dream = wmgym.make_task(lambda: wmgym.ImaginedEnv(world, max_episode_steps=20))
    data = wmgym.collect(dream, steps=200, seed=0, workers=1)
    inner = wmgym.fit(data, wmgym.FitConfig(members=2, width=16, depth=1, max_updates=1))
    with pytest.raises(ValueError, match="is imagined itself"):
        wmgym.improve(inner, tmp_path / "out", rounds=1, real_steps=240, train=TRAIN)
    assert not (tmp_path / "out").exists()


def test_one_process_at_a_time_and_settings_count_once_a_stage_is_done(
    world: wmgym.WorldModel, data: wmgym.Transitions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        locks.alone(tmp_path, "improve"),
        pytest.raises(wmgym.StoreError, match="another improve is at work"),
    ):
        improved(world, tmp_path, data)
    assert [place.name for place in tmp_path.iterdir()] == [".lock"]

    def fails(*_: Any) -> Any:
        raise StopError

    with monkeypatch.context() as patched:
        patched.setattr(RealEnv, "episodes", fails)
        with pytest.raises(StopError):
            improved(world, tmp_path, data, seed=1)

    def meanwhile(*_: Any) -> None:  # another process, after this one has looked at OUT
        monkeypatch.undo()
        improved(world, tmp_path, data, seed=2**70)

    monkeypatch.setattr(trial, "try_in_world", meanwhile)
    with pytest.raises(ValueError, match="holds work with other settings: seed; choose another"):
        improved(world, tmp_path, data, seed=3)
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 2**70
    improved(world, tmp_path, data, seed=2**70)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(wmgym.StoreError, match=r"config.json is not a JSON .*\); choose another --out"):
        improved(world, tmp_path, data, seed=2**70)


@pytest.mark.parametrize(
    "changes",
    [{"train": {"steps": 5}}, {"config": {}}, {"calib": "data"}, {"say": None}],
    ids=lambda given: next(iter(given)),
)
def test_arguments_of_another_kind_are_named(
    world: wmgym.WorldModel, data: wmgym.Transitions, tmp_path: Path, changes: Any
) -> None:
    with pytest.raises(TypeError, match=f"{next(iter(changes))} must be"):
        improved(world, tmp_path / "out", data, **changes)
    assert not (tmp_path / "out").exists()


def test_an_episode_is_as_long_as_the_shorter_of_two_limits(world: wmgym.WorldModel) -> None:
    budget = world, None, None, 1, 10_000
    assert [_check(*budget, limit) for limit in (None, 20, 1_000)] == [200, 20, 200]


def test_other_contents_are_other_settings(
    world: wmgym.WorldModel, data: wmgym.Transitions, tmp_path: Path
) -> None:
    """Of the same episodes, as their states and actions tell: another reward, other weights, bounds."""
    improved(world, tmp_path, data)
    assert data.reward is not None
    paid = replace(data, reward=data.reward + 1)
    with pytest.raises(ValueError, match="holds work with other settings: data"):
        improved(world, tmp_path, paid)
    heavier = wmgym.fit(data, wmgym.FitConfig(members=2, width=16, depth=1, max_updates=41, eval_every=20))
    fresh = wmgym.collect("Pendulum-v1", steps=100, seed=9, workers=1, max_episode_steps=20)
    for other in (heavier, wmgym.calibrate(world, fresh)):
        with pytest.raises(ValueError, match="holds work with other settings: world"):
            improved(other, tmp_path, data)


def test_it_keeps_off_its_own_source_and_what_others_left(
    world: wmgym.WorldModel, data: wmgym.Transitions, tmp_path: Path
) -> None:
    world.save(tmp_path / "a" / "world")
    with pytest.raises(ValueError, match="lies in"):
        wmgym.improve(tmp_path / "a" / "world", tmp_path / "a", data, real_steps=240, train=TRAIN)
    with pytest.raises(ValueError, match="holds a world of something else"):
        improved(world, tmp_path / "a", data)
    (tmp_path / "b" / "policy").mkdir(parents=True)
    (tmp_path / "b" / "policy" / "notes").write_text("mine")
    with pytest.raises((ValueError, wmgym.StoreError), match="choose another --out"):
        improved(world, tmp_path / "b", data)
    with pytest.raises(wmgym.StoreError, match="a path is empty"):
        wmgym.improve(world, "", data)
    artifacts.write_json(tmp_path / "c" / "config.json", {"env_id": "Pendulum-v1"})  # of a run that was begun
    with pytest.raises(ValueError, match="other settings"):
        improved(world, tmp_path / "c", data)


class Upright(gym.Wrapper[Any, Any, Any, Any]):
    def step(self, action: Any) -> Any:
        obs, _, *rest = self.env.step(action)
        return obs, float(-((obs[0] - 1) ** 2)), *rest


def test_a_reward_of_the_callers_is_known_all_along(tmp_path: Path) -> None:
    task = wmgym.make_task(
        lambda: Upright(gym.make("Pendulum-v1")),
        reward_fn=lambda obs, action, after: -((after[:, 0] - 1) ** 2),
    )
    data = wmgym.collect(task, steps=400, seed=0, workers=1, max_episode_steps=20)
    small = wmgym.FitConfig(members=2, width=16, depth=1, max_updates=40, eval_every=20)
    world = wmgym.fit(data, small)
    found = improved(world, tmp_path, data, seed=5_000_000)
    assert len(found.rounds) == 2
    assert improved(world, tmp_path, data, seed=5_000_000).rounds == found.rounds


class Corridor(gym.Env[Any, Any]):
    """One start, no chance; the env cuts its episodes itself after seven steps."""

    observation_space = gym.spaces.Box(-10, 10, (1,), np.float32)
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.x, self.steps = 0.0, 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.x, self.steps = self.x + float(action) - 1, self.steps + 1
        return np.array([self.x], np.float32), self.x, False, self.steps == 7, {}


@pytest.fixture(scope="module")
def corridor() -> tuple[wmgym.Transitions, wmgym.WorldModel]:
    data = wmgym.collect(Corridor, steps=210, seed=0, workers=1)
    config = wmgym.FitConfig(members=2, width=16, depth=1, max_updates=200, eval_every=50)
    return data, wmgym.fit(data, config)


def test_it_stops_where_the_gap_is_small_and_leaves_the_world_as_it_was(
    corridor: Any, tmp_path: Path
) -> None:
    data, world = corridor
    train, lines = replace(TRAIN, steps=4_096), list[str]()
    found = improved(world, tmp_path, data, max_gap=0.5, train=train, say=lines.append)
    assert [bred.learned for bred in found.rounds] == [False]
    assert found.rounds[0].real == 21 + 7 > found.random  # 1, 2, ... 7 to the right
    assert found.world.dynamics is world.dynamics
    assert "is right about PPO round 0" in lines[-1]
    assert "no refit was made" in found.conclusion
    assert json.loads((tmp_path / "improve.json").read_text())["conclusion"] == found.conclusion
    assert not (tmp_path / "round-00" / "noisy").exists()  # steps that nothing would learn from


def test_a_policy_no_better_than_random_is_no_reason_to_stop(
    world: wmgym.WorldModel, data: wmgym.Transitions, tmp_path: Path
) -> None:
    found = improved(world, tmp_path, data, max_gap=1e9)
    assert [(bred.above_random, bred.learned) for bred in found.rounds] == [(False, True), (False, False)]
    assert "asks nothing of the world" in found.conclusion


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "the world is right about P within 5.0% of the range, in 4 real episodes"),
        ({"episodes": 1}, "in 1 real episode;"),
        ({"gap": -0.2}, "the gap of P is -20.0% after all rounds"),
        ({"diverged": 0.67}, "67% of the imagined episodes of P left the range of the data and were cut"),
        (
            {"above_random": False, "real": 9.0},
            "P earned 9.0 in 4 real episodes, no more than random actions do in 2 (10.0)",
        ),
        (
            {"above_random": False},
            "earned 50.0 in 4 real episodes, not clearly more than random actions do in 2",
        ),
        ({"coverage": 0.55}, "bounds held for 55% of its errors, not 90%: calibrate(world"),
        ({"coverage": 0.85}, "the world is right about P"),
    ],
)
def test_a_conclusion_says_what_was_seen(changes: dict[str, Any], said: str) -> None:
    plain: dict[str, Any] = {
        "policy": "P", "real": 50.0, "imagined": 51.0, "gap": 0.02, "diverged": 0.0, "coverage": None,
        "episodes": 4, "real_steps": 400, "above_random": True, "learned": False,
    }  # fmt: skip
    found = conclusion(Bred(**plain | changes), np.array([5.0, 15.0]), 0.05, [], 0.9)
    assert said in found
    assert ("is right about" in found) == (not {"gap", "diverged", "above_random"} & changes.keys())


def test_one_mean_is_above_another_by_a_t_test() -> None:
    rng = np.random.default_rng(0)
    alike = [beats(rng.normal(size=count), rng.normal(size=2)) for count in (2, 4, 40) for _ in range(2_000)]
    assert np.mean(alike) < 0.06  # of two episodes too, whose spread says little
    assert beats(rng.normal(5, 1, 20), rng.normal(0, 1, 20))
    assert beats(np.array([2.0]), np.array([1.0, 1.0]))  # without chance
    assert not beats(np.array([1.0, 1.0]), np.array([1.0]))


def test_random_actions_get_a_tenth_of_all_real_steps(
    world: wmgym.WorldModel, data: wmgym.Transitions, tmp_path: Path
) -> None:
    for steps, found in ((240, 2), (1_200, 6), (200, 2)):
        out = tmp_path / str(steps)
        made = Rounds(world, out, data, None, 1, steps, 0.05, TRAIN, CONFIG, 0, 20, False)
        made.begin()
        assert len(made.random) == found
        assert made.random_steps + 2 * made.steps <= steps
        assert made.steps >= 2 * 2 * 20


def test_what_a_training_leaves_open_is_as_usual(world: wmgym.WorldModel) -> None:
    found = _filled(TrainConfig(steps=20_000, max_episode_steps=50), world)
    usual = training(world)
    assert (found.algorithm, found.steps, found.max_episode_steps) == ("DynaSAC", 20_000, 50)
    assert (found.num_envs, found.hyperparameters) == (usual.num_envs, usual.hyperparameters)
    assert _filled(TRAIN, world) is TRAIN


def test_an_env_that_always_does_the_same_is_improved_too(corridor: Any, tmp_path: Path) -> None:
    data, world = corridor
    found = improved(world, tmp_path, data)
    noisy = wmgym.Transitions.load(tmp_path / "round-00" / "noisy", world.task)
    assert len({*noisy.fingerprints()}) > 1  # some actions are random, though no Gaussian noise can be added
    # Both returns are of seven steps, though twenty are allowed: they differ by less than one step pays.
    assert abs(found.rounds[0].imagined - found.rounds[0].real) < 7


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Discrete(3, start=1),
        gym.spaces.Discrete(3, start=-1),  # two of whose actions count from 0 as well
        gym.spaces.MultiDiscrete([3, 2], start=[1, 5]),
        gym.spaces.MultiBinary(3),
    ],
    ids=str,
)
def test_whole_numbers_with_noise_count_from_where_the_envs_do(space: Any) -> None:
    task = wmgym.make_task(lambda: Line(space))
    low, high = action_bounds(from_zero(space))
    bias = np.arange((high - low + 1).sum(), dtype=np.float32)  # the last of each part
    layer = (np.zeros((1, len(bias)), np.float32),), (bias,)
    policy = wmgym.MLPPolicy("last", *layer, "relu", "argmax", low, high)
    found = RealEnv(task, 20, False).noisy(policy, 0, 400)
    last = (found.action == high).reshape(len(found), -1).all(1)  # stored actions count from 0
    assert 0.75 < last.mean() < 0.97
    assert len(np.unique(found.action, axis=0)) == np.prod(high - low + 1)
    bare = with_noise(lambda obs: np.array([space.sample()] * len(obs)), space, 1.0, np.random.default_rng(0))
    assert all(each in space for each in bare(np.zeros((50, 1))).astype(space.dtype))


def test_it_writes_into_no_other_artifact(
    world: wmgym.WorldModel, data: wmgym.Transitions, tmp_path: Path
) -> None:
    data.save(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(wmgym.StoreError, match="holds a wmgym 'transitions'; choose another --out"):
        improved(world, tmp_path, data)
    assert sorted(tmp_path.iterdir()) == before


def test_a_hybrid_is_refused_before_any_work(tmp_path: Path) -> None:
    data = wmgym.collect("InvertedPendulum-v5", steps=100, workers=1, max_episode_steps=20)
    hybrid = wmgym.fit(data, CONFIG, dynamics=wmgym.residual("InvertedPendulum-v5"))
    with pytest.raises(ValueError, match="a fit goes on from an ensemble alone"):
        improved(hybrid, tmp_path / "out", data)
    assert not (tmp_path / "out").exists()


def test_data_that_a_world_must_not_learn_from_are_refused(
    world: wmgym.WorldModel, data: wmgym.Transitions, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="imagined"):
        improved(world, tmp_path, replace(data, source="imagined"))
    with pytest.raises(ValueError, match="among those that the world was fitted to"):
        improved(world, tmp_path, data, calib=data)
    heavy = wmgym.collect(
        wmgym.make_task("Pendulum-v1", env_kwargs={"g": 3.0}),
        steps=40,
        seed=0,
        workers=1,
        max_episode_steps=20,
    )
    with pytest.raises(ValueError, match="the world of one with"):
        improved(world, tmp_path, heavy)
    logged = replace(world, task=replace(world.task, env_id="", factory=None))
    if not logged.task.has_env:
        with pytest.raises(ValueError, match="no real env to play its policies in"):
            improved(logged, tmp_path, data)
    assert not list(tmp_path.iterdir())


def test_discrete_actions_train_ppo(cartpole_world: wmgym.WorldModel) -> None:
    assert training(cartpole_world).algorithm == "PPO"


def test_a_fit_goes_on_from_where_the_weights_are(data: wmgym.Transitions, world: wmgym.WorldModel) -> None:
    fresh = wmgym.collect("Pendulum-v1", steps=200, seed=5, workers=1, max_episode_steps=20)
    both = wmgym.concat([data, fresh])
    one = replace(CONFIG, max_updates=1, eval_every=1, learning_rate=1e-9)
    same = wmgym.fit(both, one, begin=world, newest=len(fresh))
    at = torch.tensor(fresh.core), torch.tensor(fresh.action)
    before, after = (each.dynamics.predict(*at).mean.numpy() for each in (world, same))
    np.testing.assert_allclose(before, after, atol=1e-5)
    assert {*data.fingerprints(), *fresh.fingerprints()} == {*same.provenance.fingerprints}
    assert same.provenance.fit["begin"] == world.provenance.fit
    other = wmgym.collect("InvertedPendulum-v5", steps=50, seed=0, workers=1)
    with pytest.raises(ValueError, match="other states or actions than the world: env_id InvertedPend"):
        wmgym.fit(other, one, begin=world)


def test_few_new_rows_make_up_a_third_of_all() -> None:
    rows = emphasised(torch.arange(1_000), 990)
    assert float((rows >= 990).float().mean()) == pytest.approx(1 / 3, abs=0.01)
    assert torch.equal(emphasised(torch.arange(100), 10), torch.arange(100))


def test_new_data_are_held_out_for_themselves(data: wmgym.Transitions) -> None:
    fresh = wmgym.collect("Pendulum-v1", steps=100, seed=5, workers=1, max_episode_steps=20)
    both = wmgym.concat([data, fresh])
    rows, held = hold_out(both, CONFIG, 0, len(fresh))
    assert 0 < (held >= len(data)).sum() <= len(fresh) // 4
    assert {*rows.tolist()} | {*held.tolist()} == {*range(len(both))}
    error = RolloutError(both, held, CONFIG, 0, len(fresh))
    assert (error.starts >= len(data)).mean() == 0.5
    np.testing.assert_array_equal(hold_out(data, CONFIG, 0)[1], hold_out(data, CONFIG, 0, len(data))[1])
    last = wmgym.collect("Pendulum-v1", steps=80, seed=6, workers=1, max_episode_steps=20)
    later = hold_out(wmgym.concat([both, last]), CONFIG, 0, len(fresh) + len(last))[1]
    np.testing.assert_array_equal(later[later < len(both)], held)  # the next fit does not learn these


def test_what_policies_imagine_is_tried_where_an_env_can_be_put_there(tmp_path: Path) -> None:
    data = wmgym.collect("InvertedPendulum-v5", steps=400, seed=0, workers=1)
    world = wmgym.fit(data, wmgym.FitConfig(members=2, width=16, depth=1, max_updates=40, eval_every=20))
    train = replace(TRAIN, max_episode_steps=30)
    found = improved(world, tmp_path, data, train=train, real_steps=1_000)
    short = wmgym.Transitions.load(tmp_path / "round-00" / "branched")
    assert {*short.fingerprints()} <= {*found.world.provenance.fingerprints}
    assert short.lengths.max() <= 20
    assert not (tmp_path / "round-01" / "branched").exists()  # nothing is learned from the last one
    assert found.rounds[0].real_steps > len(short)
    assert found.ledger["real_steps"] <= 1_000
    short.select([0]).save(tmp_path / "round-00" / "branched")
    with pytest.raises(wmgym.StoreError, match="branched"):
        improved(world, tmp_path, data, train=train, real_steps=1_000)
