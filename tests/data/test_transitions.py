"""Tests of wmgym.data."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from tests import toy
from wmgym.data.collect import collect
from wmgym.data.joining import concat
from wmgym.data.logs import assembled, from_arrays
from wmgym.data.transitions import Transitions
from wmgym.io import artifacts
from wmgym.io.artifacts import StoreError
from wmgym.tasks.task import Task, make_task

COLUMNS = (
    "obs", "action", "reward", "next_obs", "terminated", "truncated", "core", "next_core", "unobserved",
    "episode",
)  # fmt: skip


class SpacesEnv(gym.Env[Any, Any]):
    """Two spaces, nothing behind them."""

    def __init__(self, action_space: spaces.Space[Any]) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.action_space = action_space


def plain_task(action_space: spaces.Space[Any] | None = None) -> Task:
    return make_task(lambda: SpacesEnv(action_space or spaces.Box(-1.0, 1.0, (2,))))


TASK = plain_task()


def log(
    lengths: tuple[int, ...] = (4, 1, 3, 2), task: Task = TASK, seed: int = 0, **changes: Any
) -> Transitions:
    """A log with random values and episodes of the given lengths."""
    rng, n = np.random.default_rng(seed), sum(lengths)
    paths = [rng.normal(size=(steps + 1, 3)) for steps in lengths]
    arrays: dict[str, Any] = {
        "obs": np.concatenate([path[:-1] for path in paths]),
        "action": rng.uniform(-1, 1, (n, 2)),
        "next_obs": np.concatenate([path[1:] for path in paths]),
        "episode": np.repeat(np.arange(len(lengths)), lengths),
        "terminated": np.zeros(n, bool),
        "reward": rng.normal(size=n),
    }
    return assembled(task, **(arrays | changes))


@pytest.fixture(scope="module")
def hopper() -> Transitions:
    """Real data with many short episodes, some of a single step."""
    policies = {"random": None, "still": lambda obs: np.zeros((len(obs), 3))}
    return collect("Hopper-v5", policies, steps=3_000, seed=0, noise=0.3, max_episode_steps=40, workers=1)


def assert_refused(action: Callable[[], object], match: str) -> None:
    """Expect a ValueError whose message is one line."""
    with pytest.raises(ValueError, match=match) as caught:
        action()
    assert "\n" not in str(caught.value)


def assert_equal(one: Transitions, other: Transitions) -> None:
    """Bit for bit, dtypes included."""
    for name in COLUMNS:
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None)
        if a is not None:
            assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()), name
    for name in ("episode_seed", "episode_policy", "source", "versions"):
        assert getattr(one, name) == getattr(other, name), name


# Values


@pytest.mark.parametrize("name", COLUMNS)
def test_arrays_are_frozen(name: str) -> None:
    with pytest.raises(ValueError, match="read-only"):
        getattr(log(), name)[0] = 0


@pytest.mark.parametrize("name", COLUMNS)
def test_arrays_are_frozen_after_every_operation(hopper: Transitions, tmp_path: Path, name: str) -> None:
    hopper.select([0, 1]).save(tmp_path)
    for data in (hopper, *hopper.split((0.5, 0.5), 0), concat([hopper, hopper]), Transitions.load(tmp_path)):
        assert not getattr(data, name).flags.writeable


def test_attributes_cannot_be_replaced() -> None:
    with pytest.raises(AttributeError):
        log().reward = None  # type: ignore[misc]


@pytest.mark.parametrize("name", ["obs", "action", "reward", "next_obs", "unobserved"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_with_their_row(
    hopper: Transitions, name: str, bad: float
) -> None:
    array = getattr(hopper, name).copy()
    array[7] = bad
    array[9] = bad
    assert_refused(lambda: replace(hopper, **{name: array}), f"^{name} is not finite in row 7;")


@pytest.mark.parametrize("episode", [[1, 1, 2], [0, 2, 2], [0, 1, 0], [-1, 0, 1]])
def test_episode_gaps_are_refused(episode: list[int]) -> None:
    data = log((1, 1, 1))
    assert_refused(lambda: replace(data, episode=np.array(episode)), "without gaps")
    assert_refused(lambda: log((1, 1, 1), episode=np.array(episode)), "without gaps")


@pytest.mark.parametrize("name", ["terminated", "truncated"])
def test_an_episode_that_goes_on_after_its_end_is_refused(name: str) -> None:
    data = log((4, 4))
    ends = np.zeros(8, bool)
    ends[5] = True
    assert_refused(lambda: replace(data, **{name: ends}), "row 5 ends an episode that goes on")


@pytest.mark.parametrize("name", [name for name in COLUMNS if name != "episode"])
def test_columns_of_another_shape_are_refused(name: str) -> None:
    data = log()
    array = getattr(data, name)
    assert_refused(lambda: replace(data, **{name: array[:-1]}), f"^{name} has shape")
    wider = np.concatenate([array[:, None] if array.ndim == 1 else array, np.zeros((10, 1))], 1)
    assert_refused(lambda: replace(data, **{name: wider}), f"^{name} has shape")


def test_no_transitions_and_missing_seeds_are_refused() -> None:
    data = log()
    nothing = {name: getattr(data, name)[:0] for name in COLUMNS}
    assert_refused(lambda: replace(data, **nothing), "no transitions")
    assert_refused(lambda: replace(data, episode_seed=(1,)), "one entry an episode")


def test_summaries_of_episodes() -> None:
    data = log((4, 1, 3, 2))
    assert (len(data), data.num_episodes) == (10, 4)
    assert data.first.tolist() == [0, 4, 5, 8]
    assert data.lengths.tolist() == [4, 1, 3, 2]
    assert data.reward is not None
    np.testing.assert_allclose(data.returns, [part.sum() for part in np.split(data.reward, [4, 5, 8])])
    assert data.truncated.tolist() == [i in (3, 4, 7, 9) for i in range(10)]
    assert_refused(lambda: log(reward=None).returns, "pass reward=")


def test_describe_is_json(hopper: Transitions) -> None:
    for data in (hopper, log(), log(reward=None)):
        summary = json.loads(json.dumps(data.describe(), allow_nan=False))
        assert (summary["steps"], summary["episodes"]) == (len(data), data.num_episodes)
        assert ("mean_return" in summary) == (data.reward is not None)
    assert hopper.describe()["policies"] == ["random", "still"]
    assert hopper.describe()["seconds"] == pytest.approx(3_000 * 0.008)


# Windows


def test_no_window_crosses_an_episode(hopper: Transitions) -> None:
    rng = np.random.default_rng(0)
    lengths, drawn = rng.integers(1, hopper.lengths.max() + 1, size=100), 0
    for length in lengths:
        starts = rng.choice(hopper.window_starts(int(length)), size=100)
        drawn += len(starts)
        rows = starts[:, None] + np.arange(length)
        assert (hopper.episode[rows] == hopper.episode[starts][:, None]).all()
        assert (hopper.obs[rows[:, 1:]] == hopper.next_obs[rows[:, :-1]]).all()
        assert not (hopper.terminated | hopper.truncated)[rows[:, :-1]].any()
    assert drawn == 10_000


def test_every_window_is_found(hopper: Transitions) -> None:
    for length in (1, 2, 17, int(hopper.lengths.max())):
        expected = np.maximum(hopper.lengths - length + 1, 0).sum()
        assert len(hopper.window_starts(length)) == expected
    assert len(hopper.window_starts(int(hopper.lengths.max()) + 1)) == 0
    assert len(hopper.window_starts(10**9)) == 0
    assert_refused(lambda: hopper.window_starts(0), "length=0")


def test_next_obs_is_the_following_obs_inside_every_episode(hopper: Transitions) -> None:
    inside = np.diff(hopper.episode) == 0
    for now, after in (("obs", "next_obs"), ("core", "next_core")):
        following, reached = getattr(hopper, now)[1:], getattr(hopper, after)[:-1]
        np.testing.assert_array_equal(following[inside], reached[inside])
        assert (following[~inside] != reached[~inside]).any(1).all()  # a reset lies between
    assert ((hopper.terminated | hopper.truncated)[:-1] == ~inside).all()


# Select, split, join


def test_select_renumbers_in_ascending_order(hopper: Transitions) -> None:
    chosen = hopper.select([5, 2, 5])
    assert chosen.num_episodes == 2
    assert chosen.lengths.tolist() == hopper.lengths[[2, 5]].tolist()
    assert chosen.episode_seed == (hopper.episode_seed[2], hopper.episode_seed[5])
    assert chosen.episode_policy == (hopper.episode_policy[2], hopper.episode_policy[5])
    np.testing.assert_array_equal(chosen.core, hopper.core[np.isin(hopper.episode, [2, 5])])
    assert_equal(hopper.select(range(hopper.num_episodes)), hopper)


@pytest.mark.parametrize("episodes", [[], [-1], [4]])
def test_select_refuses_episodes_that_are_not_there(episodes: list[int]) -> None:
    assert_refused(lambda: log().select(episodes), "episodes must lie in 0..3")


@pytest.mark.parametrize("fractions", [(0.8, 0.1, 0.1), (0.5, 0.5), (0.01, 0.99), (1.0,)])
def test_split_is_by_episode_and_whole(hopper: Transitions, fractions: tuple[float, ...]) -> None:
    parts = hopper.split(fractions, seed=3)
    prints = [set(part.fingerprints()) for part in parts]
    assert len(parts) == len(fractions)
    assert all(prints)
    assert not any(a & b for a, b in itertools.combinations(prints, 2))
    assert sorted(f for part in parts for f in part.fingerprints()) == sorted(hopper.fingerprints())
    assert sum(map(len, parts)) == len(hopper)
    shares = [part.num_episodes / hopper.num_episodes for part in parts]
    np.testing.assert_allclose(shares, fractions, atol=len(parts) / hopper.num_episodes)


def test_copies_of_an_episode_stay_together(hopper: Transitions) -> None:
    twice = concat([hopper, hopper.select([0, 1])])
    assert twice.num_episodes == hopper.num_episodes + 2
    for seed in range(5):
        one, other = (set(part.fingerprints()) for part in twice.split((0.5, 0.5), seed))
        assert not one & other
    same = concat([hopper.select([0])] * 2)
    assert_refused(lambda: same.split((0.5, 0.5)), "of which 1 are different")


def test_split_depends_on_its_seed_only(hopper: Transitions) -> None:
    one, same, other = (hopper.split((0.5, 0.5), seed) for seed in (0, 0, 1))
    for a, b in zip(one, same, strict=True):
        assert_equal(a, b)
    assert one[0].fingerprints() != other[0].fingerprints()


def test_split_refuses_what_it_cannot_do() -> None:
    assert_refused(lambda: log().split((0.2,) * 5, 0), "4 episodes cannot be split 5 ways")
    assert all(part.num_episodes == 1 for part in log().split((0.25,) * 4, 0))
    for fractions in [(0.5, 0.6), (1.5, -0.5), (0.5, 0.5, 0.0), (float("nan"), 0.5)]:
        assert_refused(lambda fractions=fractions: log().split(fractions, 0), "sum to 1")  # type: ignore[misc]


def test_fingerprints_tell_episodes_apart(hopper: Transitions) -> None:
    prints = hopper.fingerprints()
    assert len(set(prints)) == hopper.num_episodes
    core = hopper.core.copy()
    core[0, 0] = np.nextafter(core[0, 0], np.float32(9))
    changed = replace(hopper, core=core).fingerprints()
    assert changed[0] != prints[0]
    assert changed[1:] == prints[1:]


def test_concat_undoes_split(hopper: Transitions) -> None:
    parts = [hopper.select([i]) for i in range(hopper.num_episodes)]
    assert_equal(concat(parts), hopper)
    without = log(reward=None)
    assert concat([without, without]).reward is None
    assert concat([without, without]).num_episodes == 8


@pytest.mark.parametrize(
    ("other", "match"),
    [
        (lambda data: collect("InvertedPendulum-v5", steps=5, seed=0), "cannot join"),
        (lambda data: collect(_heavier_hopper(), steps=5, seed=0), "cannot join"),
        (lambda data: replace(data, source="imagined"), "real with imagined"),
        (lambda data: replace(data, versions={**data.versions, "mujoco": "0"}), "versions"),
        (lambda data: replace(data, reward=None), "without reward"),
    ],
)
def test_concat_refuses_other_data(
    hopper: Transitions, other: Callable[[Transitions], Transitions], match: str
) -> None:
    assert_refused(lambda: concat([hopper, other(hopper)]), match)


def _heavier_hopper() -> Task:
    return make_task("Hopper-v5", env_kwargs={"ctrl_cost_weight": 0.5})


def test_concat_refuses_nothing_and_other_spaces() -> None:
    assert_refused(lambda: concat([]), "at least one")
    discrete = log(task=plain_task(spaces.Discrete(2)), action=np.zeros(10, np.int64))
    assert_refused(lambda: concat([log(), discrete]), "cannot join")


def test_concat_joins_stored_with_fresh_data(tmp_path: Path) -> None:
    task = make_task("Hopper-v5", env_kwargs={"healthy_z_range": (0.8, np.inf)})
    fresh = collect(task, steps=5, seed=0)
    fresh.save(tmp_path)
    assert len(concat([fresh, Transitions.load(tmp_path)])) == 10


# Storage


def test_transitions_survive_storage_bit_for_bit(hopper: Transitions, tmp_path: Path) -> None:
    discrete = log(
        task=plain_task(spaces.Discrete(4, start=2)), action=np.array([2, 3, 4, 5, 2, 3, 4, 5, 2, 2])
    )
    for i, data in enumerate([hopper, log(), log(reward=None), discrete]):
        data.save(tmp_path / str(i))
        again = Transitions.load(tmp_path / str(i))
        assert_equal(again, data)
        assert again.task.env_id == data.task.env_id
        assert again.fingerprints() == data.fingerprints()


def test_transitions_that_version_0_1_saved_load_for_one_release(hopper: Transitions, tmp_path: Path) -> None:
    hopper.save(tmp_path / "data")
    arrays, document = artifacts.read_directory(tmp_path / "data", kind="transitions")
    arrays["hidden"] = arrays.pop("unobserved")
    artifacts.write_directory(tmp_path / "data", kind="transitions", arrays=arrays, document=document)
    with pytest.warns(DeprecationWarning, match=r"data is from wmgym 0\.1, .*; save it again$") as seen:
        found = Transitions.load(tmp_path / "data")
    assert [warning.filename for warning in seen] == [__file__]
    assert found.arrays().keys() == hopper.arrays().keys()
    for name, array in hopper.arrays().items():
        np.testing.assert_array_equal(found.arrays()[name], array)
    found.save(tmp_path / "data")
    assert len(Transitions.load(tmp_path / "data")) == len(hopper)  # without a warning


def test_a_changed_byte_is_refused(tmp_path: Path) -> None:
    log().save(tmp_path)
    for file in sorted(tmp_path.iterdir()):
        content = file.read_bytes()
        for at in (0, len(content) // 2, len(content) - 1):
            file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
            with pytest.raises(StoreError):
                Transitions.load(tmp_path)
        file.write_bytes(content)
    assert_equal(Transitions.load(tmp_path), log())


def test_given_functions_are_asked_for_on_load(tmp_path: Path) -> None:
    task = make_task(lambda: SpacesEnv(spaces.Box(-1.0, 1.0, (2,))), reward_fn=lambda obs, action, after: 0)
    data = log(task=task)
    data.save(tmp_path)
    assert_refused(lambda: Transitions.load(tmp_path), "pass task=")
    assert Transitions.load(tmp_path, task).task is task


@pytest.mark.parametrize("missing", ["obs", "episode_seed"])
def test_a_store_that_lacks_an_array_is_refused(tmp_path: Path, missing: str) -> None:
    from wmgym.io import artifacts

    log().save(tmp_path)
    arrays, document = artifacts.read_directory(tmp_path, kind="transitions")
    del arrays[missing]
    artifacts.write_directory(tmp_path, kind="transitions", arrays=arrays, document=document)
    with pytest.raises(StoreError, match="not a transitions"):
        Transitions.load(tmp_path)


# Logs of one's own


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_from_arrays_neither_keeps_nor_changes_what_it_is_given() -> None:
    given = {
        "obs": np.zeros((2, 3), np.float32),
        "action": np.zeros((2, 2), np.float32),
        "next_obs": np.zeros((2, 3), np.float32),
        "episode": np.zeros(2, np.int64),
        "terminated": np.zeros(2, bool),
        "reward": np.zeros(2),
        "unobserved": np.zeros((2, 0)),
    }
    data = from_arrays(TASK, **given)
    for name, array in given.items():
        assert array.flags.writeable, name
        if array.size:
            array[:] = 1
            assert not getattr(data, name).any(), name
    assert not data.core.any()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_from_arrays_takes_lists_and_unflattened_arrays() -> None:
    task = make_task("Hopper-v5")
    data = from_arrays(
        task,
        obs=np.zeros((2, 11, 1)),
        action=np.zeros((2, 3, 1)),
        next_obs=np.zeros((2, 11)),
        episode=[0, 0],  # type: ignore[arg-type]
        terminated=[False, True],  # type: ignore[arg-type]
        unobserved=np.zeros((2, 1)),
        policy_name="mine",
    )
    assert (data.action.shape, data.action.dtype) == ((2, 3), np.float32)
    assert (data.terminated.tolist(), data.truncated.tolist()) == ([False, True], [False, False])
    assert (data.episode_seed, data.episode_policy, data.source) == ((-1,), ("mine",), "real")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"obs": np.zeros((10, 4))}, "obs"),
        ({"next_obs": np.zeros((10, 2))}, "obs"),
        ({"obs": np.zeros((9, 3))}, "obs"),
        ({"action": np.zeros((10, 5))}, "action"),
        ({"action": np.zeros((9, 2))}, "action"),
        ({"reward": np.zeros(9)}, "reward"),
        ({"terminated": np.zeros(9, bool)}, "terminated"),
        ({"unobserved": np.zeros((10, 1))}, "unobserved"),
        ({"episode": np.zeros(0, np.int64)}, "no transitions"),
        ({"obs": np.full((10, 3), np.nan)}, "obs is not finite in row 0"),
        ({"terminated": np.ones(10, bool)}, "row 0 ends an episode"),
    ],
)
def test_from_arrays_refuses_a_bad_log(changes: dict[str, np.ndarray], match: str) -> None:
    assert_refused(lambda: log(**changes), match)


def test_from_arrays_asks_for_a_displacement_that_is_paid_for() -> None:
    n = {"obs": np.zeros((1, 11)), "next_obs": np.zeros((1, 11)), "action": np.zeros((1, 3))}
    ends = {"episode": np.zeros(1, int), "terminated": np.zeros(1, bool)}
    task = make_task("Hopper-v5")
    assert_refused(lambda: from_arrays(task, **n, **ends), "pass unobserved=")
    assert_refused(lambda: from_arrays(task, **n, **ends, unobserved=np.zeros((1, 2))), "^unobserved has")


@pytest.mark.parametrize("shape", [(10,), (10, 1)])
def test_discrete_actions_are_counted_from_zero(shape: tuple[int, ...]) -> None:
    task = plain_task(spaces.Discrete(3, start=-1))
    data = log(task=task, action=np.tile([-1, 0, 1, 1, 0], 2).reshape(shape))
    assert (data.action.dtype, data.action.tolist()) == (np.int64, [0, 1, 2, 2, 1] * 2)


@pytest.mark.parametrize("bad", [2, -2, 0.5])
def test_discrete_actions_outside_their_space_are_refused(bad: float) -> None:
    action = np.array([bad] + [0] * 9)
    assert_refused(lambda: log(task=plain_task(spaces.Discrete(3, start=-1)), action=action), "Discrete")


def test_short_descriptions() -> None:
    data = collect("Hopper-v5", steps=30, max_episode_steps=10, workers=1)
    assert repr(data) == f"Transitions(Hopper-v5, real: 30 steps, {data.num_episodes} episodes)"
    assert repr(data.task) == "Task(Hopper-v5, obs 11, core 11, action 3, reward table, termination table)"
    pendulum = make_task("Pendulum-v1", reward_fn=lambda obs, action, next_obs: obs[..., 0])
    assert repr(pendulum) == ("Task(Pendulum-v1, obs 3, core 3, action 1, reward given, termination learned)")


def test_a_log_of_other_than_numbers_is_one_line() -> None:
    data = toy.episodes(10, 0, steps=5)
    columns = {name: getattr(data, name) for name in ("obs", "next_obs", "episode", "terminated", "reward")}
    action = np.clip(data.action, -1, 1)
    action[:20] = 50.0
    with pytest.warns(
        UserWarning, match=r"^40.0% of the actions are outside action_space \(up to 50 in size\)"
    ):
        from_arrays(data.task, action=action, **columns)
    from_arrays(data.task, action=action.clip(-1, 1) * 1.00001, **columns)  # rounding
