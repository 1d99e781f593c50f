"""Wrong logs are refused or named; right ones pass in silence."""

from __future__ import annotations

import re
import time
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import FlattenObservation

from tests import toy
from tests.data.importers.pendulums import run
from wmgym.data.checks import check
from wmgym.data.collect import collect
from wmgym.data.logs import assembled, from_arrays
from wmgym.data.transitions import Transitions
from wmgym.models.config import FitConfig
from wmgym.models.fit import fit
from wmgym.tasks.described import describe_task

NAMES = ("x", "y", "z")
COLUMNS = ("obs", "next_obs", "action", "episode", "terminated", "reward")


def bare(**about: Any) -> Any:
    """A task without an env, reward or termination."""
    box = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    return describe_task(box, spaces.Box(-1.0, 1.0, (2,)), dt=0.1, names=NAMES, **about)


def log(count: int = 20, described: Any = None, change: Any = None, **columns: Any) -> Transitions:
    """Episodes of the toy as a log; ``change`` edits a path ``(count, steps + 1, 3)`` of observations."""
    data = toy.episodes(count, seed=0, sigma=0.01)
    given: dict[str, Any] = {"obs": data.obs, "next_obs": data.next_obs, "action": data.action}
    if change is not None:
        last = data.next_obs.reshape(count, -1, 3)[:, -1:]
        path = change(np.concatenate([data.obs.reshape(count, -1, 3), last], 1, dtype=np.float64))
        given |= {"obs": path[:, :-1].reshape(-1, 3), "next_obs": path[:, 1:].reshape(-1, 3)}
    given |= {"episode": data.episode, "terminated": data.terminated, "reward": data.reward}
    return assembled(described or bare(terminated_fn=toy.never), **(given | columns))


def found(data: Transitions) -> dict[str, str]:
    """Findings by what they are about; each is one line."""
    named = {finding.about: finding.text for finding in check(data)}
    assert not any("\n" in text for text in named.values())
    return named


def test_right_data_pass() -> None:
    assert found(log()) == {}
    assert found(collect("Hopper-v5", steps=2_000, seed=0, workers=1)) == {}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda d: {"next_obs": np.roll(d.obs, -1, 0)}, "is the first obs of the next episode"),
        (lambda d: {"next_obs": d.next_obs[::-1]}, "not the obs of the next row"),
        (lambda d: {"next_obs": d.obs}, "not the obs of the next row"),
        (lambda d: {"episode": np.zeros(len(d), int)}, "row 59 .*, and so it is in 1.6%"),
        (lambda d: {"reward": d.reward[:, None]}, r"reward has shape \(1200, 1\), expected"),
        (lambda d: {"terminated": d.terminated[:, None]}, r"terminated has shape \(1200, 1\), expected"),
    ],
    ids=["rolled", "reversed", "off by one", "one episode", "reward (n, 1)", "terminated (n, 1)"],
)  # fmt: skip
def test_contradictions_are_refused(change: Any, match: str) -> None:
    data = toy.episodes(20, seed=0)
    columns = {name: getattr(data, name) for name in COLUMNS}
    with pytest.raises(ValueError, match=match) as caught:
        from_arrays(data.task, **(columns | change(data)))
    assert "\n" not in str(caught.value)


def test_next_obs_taken_from_the_row_after_a_reset_is_refused() -> None:
    """Case of D4RL: the first observation of the next episode as the last one of this."""
    data = collect("Hopper-v5", steps=1_000, seed=0, workers=1)
    cut = {name: getattr(data, name)[:-1] for name in (*COLUMNS, "unobserved")}
    with pytest.raises(ValueError, match="first obs of the next episode"):
        from_arrays(data.task, **(cut | {"next_obs": data.obs[1:]}))


def wrap(path: np.ndarray) -> np.ndarray:
    path[..., 0] = np.cumsum(np.full(path.shape[:2], 0.3), 1) % (2 * np.pi) - np.pi
    return path


def spike(path: np.ndarray) -> np.ndarray:
    path[3, 30, 1] += 500
    return path


def offset(path: np.ndarray) -> np.ndarray:
    path[..., 2] += 1e6
    return path


def constant(path: np.ndarray) -> np.ndarray:
    path[..., 1] = 0.25
    return path


def slow(path: np.ndarray) -> np.ndarray:
    return np.repeat(path[:, ::2], 2, 1)[:, : path.shape[1]]


@pytest.mark.parametrize(
    ("about", "match", "change"),
    [
        ("wrapped angles", "x jumps by 2 pi in .* rows", wrap),
        ("jumps", r"y jumps by .* in row 2\d\d", spike),
        ("float32 digits", "z is near 1e.06 .* subtract", offset),
        ("constant columns", "y never changes", constant),
        ("repeated rows", "does not change in 5.% of the steps", slow),
    ],
)
def test_odd_columns_are_named(about: str, match: str, change: Any) -> None:
    assert re.search(match, found(log(change=change))[about])


def test_one_far_reading_takes_no_digits_from_the_others() -> None:
    def tiny(path: np.ndarray) -> np.ndarray:
        path[..., 2] *= 1e-9
        path[3, 30, 2] = 1e6
        return path

    assert "float32 digits" not in found(log(change=tiny))


def swings(turn: float = 0.0) -> np.ndarray:
    """Runs ``(12, 120, 2)`` of a pendulum from other states, its angle wrapped where there is a turn."""
    paths = np.stack([run(seed)[:, 1:3] for seed in range(12)])
    if turn:
        paths[..., 0] = (paths[..., 0] * turn) % turn
    return paths


def rows_of(paths: np.ndarray, cuts: np.ndarray) -> Transitions:
    """Rows one after the other as a log that knows of these ``cuts``: last rows of episodes."""
    obs = paths.reshape(-1, paths.shape[-1])
    episode = np.cumsum(np.append(0, cuts[:-1]))
    keep = np.flatnonzero(np.diff(episode) == 0)
    box = spaces.Box(-np.inf, np.inf, obs.shape[1:], np.float32)
    described = describe_task(box, spaces.Box(-1.0, 1.0, (1,)), dt=0.02)
    action = np.random.default_rng(0).uniform(-1, 1, (len(keep), 1))
    numbers = np.unique(episode[keep], return_inverse=True)[1]
    ends = np.zeros(len(keep), bool)
    return assembled(described, obs[keep], action, obs[keep + 1], numbers, ends, reward=np.arange(len(keep)))


@pytest.mark.parametrize("turn", [0.0, 2 * np.pi, 360.0])
def test_resets_joined_into_one_episode_are_named(turn: float) -> None:
    paths = swings(turn=turn)
    ends = np.arange(1_440) % 120 == 119
    assert "resets" not in found(rows_of(paths, ends))
    said = found(rows_of(paths, np.zeros(1_440, bool)))["resets"]
    assert re.search(
        "leaps in at least [67] rows, first in row 239, .* name the column where episodes end", said
    )
    late = found(rows_of(paths, np.roll(ends, 1)))["resets"]
    assert re.search("in the last rows of episodes. Then mark their ends a row earlier", late)


@pytest.mark.parametrize(
    "env_id", ["HalfCheetah-v5", "Pusher-v5", "InvertedDoublePendulum-v5", "Pendulum-v1"]
)
def test_contacts_and_wrapped_angles_are_no_resets(env_id: str) -> None:
    assert not {"resets", "jumps"} & set(found(collect(env_id, steps=1_000, seed=0, workers=1)))


def test_a_robot_that_comes_to_rest_was_not_reset() -> None:
    """Its usual step is tiny beside its first ones."""
    t = np.arange(240)[:, None] * np.linspace(0.9, 1.1, 12)
    paths = np.stack([np.exp(-0.1 * t) * np.cos(0.3 * t), np.exp(-0.1 * t) * np.sin(0.3 * t)], -1).swapaxes(
        0, 1
    )
    assert "resets" not in found(rows_of(paths, np.arange(12 * 240) % 240 == 239))


def test_odd_actions_are_named() -> None:
    data = toy.episodes(20, seed=0, sigma=0.01)
    assert "outside action_space" in found(log(action=3 * data.action))["action space"]
    late, early = np.roll(data.action, 1, 0), np.roll(data.action, -1, 0)
    assert "the row after" in found(log(action=late))["action timing"]
    assert "the row before" in found(log(action=early))["action timing"]


def test_observations_outside_their_space_are_named() -> None:
    small = describe_task(
        spaces.Box(-0.5, 0.5, (3,)), spaces.Box(-1.0, 1.0, (2,)), dt=0.1, terminated_fn=toy.never, names=NAMES
    )
    assert "in x, y, z" in found(log(described=small))["observation space"]


def test_rewards_and_terminations_that_disagree_with_the_rules_are_named() -> None:
    ruled = bare(reward_fn=toy.paid, terminated_fn=toy.never)
    assert found(log(described=ruled)) == {}
    n = len(log())
    wrong = found(log(described=ruled, reward=np.ones(n), terminated=np.arange(n) % 60 == 59))
    assert "formula gives another reward in 100.0%" in wrong["rewards"]
    assert "disagrees with terminated in 20 of" in wrong["terminations"]
    assert "reward is 1 in every row" in found(log(reward=np.ones(n)))["rewards"]


def test_terminations_that_cannot_be_learned_are_named() -> None:
    n = len(log())
    assert "no episode terminates" in found(log(described=bare()))["terminations"]
    limited = log(described=bare(), terminated=np.arange(n) % 60 == 59)
    assert "all 20 terminated episodes have 60 steps" in found(limited)["terminations"]


def test_episodes_up_to_the_time_limit_of_an_env_are_not_odd() -> None:
    whole = collect("Pendulum-v1", steps=400, seed=0)
    assert "terminations" not in found(whole)
    assert "no episode terminates" in found(collect("Pendulum-v1", steps=300, seed=0))["terminations"]


def test_few_and_repeated_episodes_are_named() -> None:
    assert "only 2 episodes" in found(log(2))["number of episodes"]
    data = toy.episodes(6, seed=0)
    rows = np.concatenate([np.arange(len(data)), np.flatnonzero(data.episode == 2)])
    columns = {name: getattr(data, name)[rows] for name in COLUMNS}
    twice = assembled(data.task, **(columns | {"episode": np.repeat(np.arange(7), 60)}))
    assert "episode 6 repeats episode 2" in found(twice)["repeated episodes"]
    halves = np.concatenate([np.arange(360), np.arange(140, 180), np.arange(300, 320)])
    columns = {name: getattr(data, name)[halves] for name in COLUMNS}
    mixed = assembled(data.task, **(columns | {"episode": np.repeat(np.arange(7), 60)}))
    assert "40 of the 60 steps of episode 6 repeat those of episode 2" in found(mixed)["repeated episodes"]


def test_episodes_that_end_alike_are_no_repeats() -> None:
    rng, count, steps = np.random.default_rng(0), 8, 100
    path = (
        rng.normal(size=(count, steps + 1, 3)) * np.exp(-np.arange(steps + 1) / 2)[:, None]
    )  # comes to rest
    path[:, ::2, 1] += 1  # or goes to and fro
    action = np.tile([[1.0, -1.0], [0.0, 1.0]], (count * steps // 2, 1))
    episode = np.repeat(np.arange(count), steps)
    columns = {"obs": path[:, :-1].reshape(-1, 3), "next_obs": path[:, 1:].reshape(-1, 3)}
    data = assembled(bare(), **columns, action=action, episode=episode, terminated=episode < 0)
    assert "repeated episodes" not in found(data)


@pytest.mark.parametrize("about", [{}, {"terminated_fn": toy.never}])
def test_that_nothing_ends_an_episode_can_be_said(about: dict[str, Any]) -> None:
    data = toy.episodes(6, seed=0)
    columns = {name: getattr(data, name) for name in COLUMNS if name != "terminated"}
    with warnings.catch_warnings(action="error"):
        never = from_arrays(bare(**about), **columns, terminated=False)
    assert not never.terminated.any()
    assert never.truncated.sum() == 6
    for unsaid in (None, True):
        with pytest.raises(ValueError, match=f"or False where nothing ends .*got {unsaid}"):
            from_arrays(bare(), **columns, terminated=unsaid)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("env_id", "positions"),
    [
        ("Hopper-v5", [0, 1, 2, 3, 4]),
        ("Reacher-v5", [0, 1, 2, 3, 4, 5, 8, 9]),
        ("Pendulum-v1", [0, 1]),
        ("CartPole-v1", [0, 2]),
    ],
)
def test_positions_without_velocities_are_named(env_id: str, positions: list[int]) -> None:
    data = collect(env_id, steps=1_000)
    for columns in (slice(None), positions):
        obs, next_obs = data.obs[:, columns], data.next_obs[:, columns]
        space = spaces.Box(-np.inf, np.inf, obs.shape[1:])
        task = describe_task(space, data.task.action_space, dt=data.task.dt, max_episode_steps=100)
        found_in = found(assembled(task, obs, data.action, next_obs, data.episode, data.terminated))
        assert ("velocities" in found_in) == (columns != slice(None))
        assert "action timing" not in found_in


def test_a_one_hot_is_named_before_a_world_is_made_of_it() -> None:
    data = collect(lambda: FlattenObservation(gym.make("FrozenLake-v1")), steps=300, seed=0)
    assert "obs_0 to obs_15 are a one-hot" in found(data)["one-hot columns"]
    with pytest.warns(UserWarning, match="obs_0 to obs_15 are a one-hot: exactly one is 1 in every row"):
        fit(data, FitConfig(members=2, width=8, depth=1, max_updates=1))
    flags = (np.random.default_rng(0).random((20, 61, 3)) > 0.5).astype(float)  # which are independent
    assert "one-hot columns" not in found(log(change=lambda path: flags))
    pair = np.stack([flags[..., 0], 1 - flags[..., 0], flags[..., 1]], -1)
    assert "one-hot columns" not in found(log(change=lambda path: pair))


@pytest.mark.slow
def test_a_million_rows_take_two_seconds() -> None:
    n, rng = 1_000_000, np.random.default_rng(0)
    path = np.cumsum(rng.normal(size=(1_000, 1_001, 11)).astype(np.float32), 1) % 7
    obs, next_obs = path[:, :-1].reshape(n, 11), path[:, 1:].reshape(n, 11)
    action, episode = rng.uniform(-1, 1, (n, 3)), np.arange(n) // 1_000
    task = describe_task(spaces.Box(-np.inf, np.inf, (11,)), spaces.Box(-1.0, 1.0, (3,)), dt=0.1)
    data = assembled(task, obs, action, next_obs, episode, np.zeros(n, bool), rng.normal(size=n))
    begun = time.process_time()
    check(data)
    assert time.process_time() - begun < 2
