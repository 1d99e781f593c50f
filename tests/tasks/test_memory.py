"""What an env remembers joins the state where no rule says it; rules know limits; later data tell more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

import wmgym
from tests.tasks.test_rules import CONFIG, Remembers
from wmgym.data.checks import check
from wmgym.data.traits import with_traits
from wmgym.data.transitions import Transitions
from wmgym.tasks.geometry import Geometry, Rule
from wmgym.tasks.mjcf.layout import robot_of
from wmgym.tasks.mjcf.memory import Recorded, remembered
from wmgym.tasks.mjcf.rules import find_remembered


class Keeps(Remembers):
    """Remembers four numbers of a kind; those of ``Remembers`` about time are left out."""

    def __init__(self, kind: str, model: bool = True, every: int = 10) -> None:
        super().__init__(model)
        self.kind, self.every = kind, every
        self.observation_space = spaces.Box(-np.inf, np.inf, (8,), np.float64)

    def look(self) -> np.ndarray:
        return super().look()[:8]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.t, self.memory = 0, np.zeros(4)
        if self.kind == "held":
            self.memory[:3] = self.np_random.uniform(-1, 1, 3)
        return self.look(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        kept, u = self.memory.copy(), float(action[0])
        super().step(action)
        if self.kind == "clipped":  # a command with a limit, a target that is moved to its limits, and both
            kept[:2] = np.clip(u, -0.5, 0.5), np.clip(kept[1] + 0.2 * u, -0.3, 0.3)
            kept[2:] = np.clip(u, -0.5, 1.0), max(0.8 * kept[2] + 0.5 * u, -0.2)
        elif self.kind == "applied":
            kept[:] = np.tanh(2 * u), np.round(u, 1), u * (abs(u) > 0.3), u + 1e-4 * self.np_random.normal()
        elif self.kind == "ramp":
            kept[:2] += np.clip([u - kept[0], -u - kept[1]], -0.2, 0.2)
            kept[2:] = u if self.t % 4 == 0 else kept[2], self.t % 4
        else:  # commands that are drawn anew, one alone and two together, and a clock between
            kept[:3] = self.np_random.uniform(-1, 1, 3) if self.t % self.every == 0 else kept[:3]
            kept[3] = self.t % self.every
        self.memory = kept
        return self.look(), -u * u, False, False, {}


def _collected(kind: str, steps: int = 1_500, seed: int = 0, **given: Any) -> Transitions:
    return wmgym.collect(
        lambda: Keeps(kind, **given), steps=steps, max_episode_steps=50, seed=seed, workers=1
    )


def test_rules_know_the_limits_of_what_they_give() -> None:
    data = _collected("clipped")
    layout, rules = data.task.core.layout, data.task.core.geometry.rules
    assert layout is not None
    assert layout.columns()["exact"] == list(range(8))
    assert [(rule.low, rule.high) for rule in rules] == [(-0.5, 0.5), (-0.3, 0.3), (-0.5, None), (-0.2, None)]
    env, imagined = Keeps("clipped"), wmgym.ImaginedEnv(wmgym.fit(data, CONFIG))
    env.reset(seed=0)
    imagined.reset(seed=0)
    for u in (1, 1, 1, 0.2, -1, -1, -1, -1, 0.6):
        action = np.array([u], np.float32)
        np.testing.assert_allclose(imagined.step(action)[0][4:], env.step(action)[0][4:], atol=1e-6)


@pytest.mark.parametrize(("kind", "whole"), [("held", [7]), ("applied", []), ("ramp", [7])])
@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_remembered_joins_the_state(kind: str, whole: list[int], seed: int) -> None:
    data = _collected(kind, seed=seed)
    layout, geometry = data.task.core.layout, data.task.core.geometry
    assert layout is not None
    assert layout.columns() == {"exact": [0, 1, 2, 3], "predicted": [], "remembered": [4, 5, 6, 7]}
    first = sum(layout.sizes)
    assert [layout.kept[i - first] for i in geometry.whole] == whole
    if whole:
        env = wmgym.ImaginedVectorEnv(wmgym.fit(data, CONFIG), 8)
        env.reset(seed=0)
        shown = np.concatenate([env.step(env.action_space.sample())[0] for _ in range(5)])
        np.testing.assert_array_equal(shown[:, 7], np.rint(shown[:, 7]))


def test_rules_ask_the_actions_before_the_velocities_that_follow_from_them() -> None:
    rng = np.random.default_rng(0)
    action, speed = rng.uniform(-1, 1, (400, 2)), rng.normal(size=(400, 1))
    after = 0.9 * speed + action @ [[0.2], [-0.2]]
    shown = np.concatenate([action @ [[1.0], [-0.5]], 0.5 * speed], 1)
    before = np.concatenate([np.roll(shown[:, :1], 1), np.roll(shown[:, 1:], 1)], 1)
    steps = Recorded(speed, after, before, shown, action, np.zeros(400, np.int64))
    found = find_remembered(steps, [0, 1], [])
    assert found.columns[0].terms == ((4, 1.0), (5, -0.5))
    assert found.columns[1].terms == ((0, 0.5),)


def test_later_data_that_contradict_a_rule_are_named() -> None:
    class Gentle(Keeps):
        def step(self, action: Any) -> Any:
            return super().step(0.1 * action)

    def gentle() -> Keeps:
        return Gentle("clipped")

    timid = wmgym.collect(gentle, steps=300, max_episode_steps=6, workers=1)
    assert {rule.low for rule in timid.task.core.geometry.rules} == {None}
    bold = _collected("clipped", 600)
    with pytest.warns(UserWarning, match="have a next obs_4.* otherwise than the data in which it was found"):
        wmgym.concat([timid, replace(bold, task=replace(timid.task, max_episode_steps=None))])


def test_a_command_that_later_changes_does_not_stay() -> None:
    short = wmgym.collect(lambda: Keeps("held", every=30), steps=600, max_episode_steps=20, workers=1)
    long = wmgym.collect(lambda: Keeps("held", every=30), steps=600, max_episode_steps=60, workers=1)
    stays = [short.task.core.names[i] for i in short.task.core.geometry.fixed]
    assert {"obs_4", "obs_5", "obs_6"} <= set(stays)
    for parts in ([short, long], [long, short]):
        moving = wmgym.concat(parts).task.core
        assert not {"obs_4", "obs_5", "obs_6"} & {moving.names[i] for i in moving.geometry.fixed}


def test_what_actions_tell_may_be_all_that_they_may_be() -> None:
    rules = (Rule(1, ((6, 2.0), (7, -1.0)), 0.5), Rule(2, ((1, 1.0),)), Rule(0, ((0, 0.9), (6, 0.1))))
    told = Geometry(3, rules=rules).told_by_actions([(-1, 1), (0, 3)])
    assert told == {1: (-4.5, 2.5), 2: (-4.5, 2.5)}  # a filter has no end that rules say
    clipped = (Rule(1, ((6, 2.0),), low=-0.5),)
    assert Geometry(3, rules=clipped).told_by_actions([(-1, 1)]) == {1: (-0.5, 2.0)}

    def timid(obs: np.ndarray) -> np.ndarray:
        return (0.05 * np.sin(30 * obs[:, :1])).astype(np.float32)

    data = wmgym.collect(lambda: Remembers(model=False), timid, steps=300, max_episode_steps=50, workers=1)
    world = wmgym.fit(data, CONFIG)
    assert world.high[4] == 1
    assert world.low[4] == -1


def test_a_command_that_is_drawn_anew_is_no_angle() -> None:
    for model in (True, False):
        data = _collected("held", model=model)
        assert not with_traits(data).task.core.geometry.wrapped
        assert not [finding for finding in check(data) if finding.about == "wrapped angles"]


class Modes(Keeps):
    """Modes that actions beyond limits choose."""

    def __init__(self) -> None:
        super().__init__("modes")

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        (grip, gear), u, (_, *rest) = self.memory[:2], float(action[0]), super().step(action)
        grip = 1.0 if u > 0.7 else -1.0 if u < -0.6 else grip
        gear = np.clip(gear + (u > 0.5) - (u < -0.5), 0, 4)
        self.memory = np.array([grip, gear, 0, 0])
        return self.look(), *rest


@pytest.mark.parametrize("seed", [0, 1])
def test_modes_that_actions_choose_are_remembered(seed: int) -> None:
    data = wmgym.collect(Modes, steps=1_500, max_episode_steps=50, seed=seed, workers=1)
    layout = data.task.core.layout
    assert layout is not None
    assert layout.columns()["remembered"] == [4, 5]
    assert [layout.kept[i - sum(layout.sizes)] for i in data.task.core.geometry.whole] == [4, 5]


def test_what_the_state_tells_is_no_memory_though_rows_like_no_other_mislead() -> None:
    rng, n = np.random.default_rng(0), 2_000
    speed = np.concatenate([rng.normal(size=(n, 1)), 30 * rng.normal(size=(20, 1))])
    after = 0.9 * speed + 0.1 * rng.normal(size=speed.shape)
    touch = np.where(after > np.sort(after[:, 0])[-8], after, 0)
    shown = np.concatenate([np.abs(after), np.tanh(after) + 0.01 * after**2, touch], 1)
    before = np.concatenate([np.abs(speed), np.tanh(speed) + 0.01 * speed**2, np.roll(touch, 1)], 1)
    action, episode = rng.uniform(-1, 1, (len(speed), 1)), np.arange(len(speed)) // 50
    robot = robot_of(Remembers())
    assert robot is not None
    alone = replace(robot, sums=(), rotations=())
    steps = Recorded(speed, after, before, shown, action, episode)
    assert not remembered(alone, steps, [0, 1, 2])
    held = np.repeat(rng.normal(size=(len(speed) // 20 + 1, 1)), 20, 0)[: len(speed) + 1]
    steps = replace(steps, obs=np.hstack([before, held[:-1]]), next_obs=np.hstack([shown, held[1:]]))
    assert remembered(alone, steps, [0, 1, 2, 3]) == [3]
