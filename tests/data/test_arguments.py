"""Arguments of wrong types are one line that names them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import wmgym
from tests import toy
from wmgym.data.checks import check

ID = "InvertedPendulum-v5"


@pytest.fixture(scope="module")
def data() -> wmgym.Transitions:
    return toy.episodes(4, 0, steps=10)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"steps": 1.5}, "steps must be a whole number of at least 1, got 1.5"),
        ({"steps": "100"}, "steps must be a whole number of at least 1, got '100'"),
        ({"steps": True}, "steps must be"),
        ({"steps": 0}, "steps must be"),
        ({"episodes": 0}, "episodes must be"),
        ({"steps": 9, "noise": "a"}, "noise must be a number, got 'a'"),
        ({"steps": 9, "seed": 1.5}, "seed must be a whole number of at least 0, got 1.5"),
        ({"steps": 9, "seed": -1}, "seed must be a whole number of at least 0, got -1"),
        ({"steps": 9, "step_timeout": "2"}, "step_timeout must be a number, got '2'"),
        ({"steps": 9, "workers": "2"}, "workers must be"),
        ({"steps": 10**400}, "steps must be a whole number"),
    ],
)
def test_collect_names_the_argument(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        wmgym.collect(ID, **given)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda data: wmgym.fit(data, {"max_updates": 2}), "config must be a FitConfig"),
        (lambda data: wmgym.fit(data, seed="a"), "seed must be a whole number"),
        (lambda data: wmgym.fit(data, seed=2**64), r"seed must be less than 2\*\*64"),
        (lambda data: data.split((0.5, 0.5), seed=1.5), "seed must be a whole number"),
        (lambda data: wmgym.agreement([1, 2, 3], [1, 2, 3], seed=-1), "seed must be a whole number"),
        (lambda data: wmgym.make_executor("serial", workers=1.5), "workers must be a whole number"),
        (lambda data: wmgym.make_task(ID, env_kwargs=0), "env_kwargs must be keywords"),
        (
            lambda data: wmgym.make_task(ID, env_kwargs={"frame_skip": 0}),
            "these env_kwargs: ZeroDivisionError",
        ),
        (lambda data: wmgym.score_open_loop(toy.world(), data, seed=1.5), "seed must be a whole number"),
        (
            lambda data: wmgym.distill(toy.world(), data, imagined_steps=0),
            "imagined_steps must be a whole number",
        ),
        (lambda data: wmgym.calibrate(toy.world(), data, level="90"), "level must be a number, got '90'"),
        (lambda data: wmgym.calibrate(toy.world(), data, horizon=2.5), "horizon must be a whole number"),
        (lambda data: wmgym.calibrate(toy.world(), data, seed=-1), "seed must be a whole number"),
        (lambda data: data.split("ab"), "fractions must be numbers"),
        (lambda data: data.split((0.5, None)), r"fractions\[1\] must be a number, got None"),
        (lambda data: data.split(0.5), "fractions must be numbers"),
        (lambda data: wmgym.concat(data), r"concat takes several Transitions, such as \[data, more\]"),
        (lambda data: wmgym.concat(["a", data]), "concat takes Transitions, got str"),
        (
            lambda data: wmgym.score_open_loop(toy.world(), "data"),
            "score_open_loop takes Transitions, got str",
        ),
        (lambda data: wmgym.Trust(threshold="a"), "threshold must be a number, got 'a'"),
        (lambda data: wmgym.Trust(penalty=None), "penalty must be a number, got None"),
        (
            lambda data: wmgym.make_task(lambda: None),
            "factory must return a Gymnasium env, and it returned None",
        ),
        (
            lambda data: wmgym.collect(lambda: 3, steps=5),
            "factory must return a Gymnasium env, and it returned 3",
        ),
        (lambda data: wmgym.make_task(lambda size: None), "a factory takes no arguments, and this one does"),
        (lambda data: wmgym.make_task("Pendulum-v1", angles="x"), r"angles\[0\] must be a whole number"),
        (lambda data: wmgym.make_task("Pendulum-v1", angles=(7,)), r"angles= must lie in 0 \.\. 2"),
        (lambda data: wmgym.make_task(ID, core=3), "core must be Core, got 3"),
        (lambda data: wmgym.make_task(ID, reward_fn=3), "reward_fn must be a function or None, got 3"),
        (lambda data: wmgym.from_log("x.csv", reward_fn=1), "reward_fn must be a function or None, got 1"),
        (lambda data: check(None), "check takes Transitions, got NoneType"),  # type: ignore[arg-type]
        (lambda data: check("data"), "check takes Transitions, got str"),  # type: ignore[arg-type]
        (lambda data: wmgym.register(None, toy.world()), "None is no id"),  # type: ignore[arg-type]
        (lambda data: wmgym.register("lab/Toy-v0", toy.world(), keep="no"), "keep must be True or False"),
        (lambda data: wmgym.calibrate(toy.world(), data, update="no"), "update must be True or False"),
    ],
)
def test_what_is_wrong_with_an_argument_is_one_line(
    data: wmgym.Transitions, call: Callable[[wmgym.Transitions], object], said: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=said) as caught:
        call(data)
    assert "\n" not in str(caught.value)


def test_numbers_of_other_libraries_are_numbers(data: wmgym.Transitions) -> None:
    kinds: tuple[Callable[[int], Any], ...] = (int, float, np.int64, np.array, torch.tensor)
    found = [wmgym.collect(ID, steps=kind(9), seed=kind(2), noise=kind(1), workers=1) for kind in kinds]
    for other in found[1:]:
        np.testing.assert_array_equal(other.obs, found[0].obs)
        assert other.episode_seed == found[0].episode_seed
    for share in (0.5, np.array(0.5), torch.tensor(0.5)):
        assert [len(part) for part in data.split([share, share])] == [20, 20]
    for kind in kinds[2:]:  # torch itself takes none of these as a seed
        level: Any = kind(1) * 0.8
        world = wmgym.calibrate(toy.world(), data, level=level, horizon=kind(3), seed=kind(1))
        assert world.calibration is not None
        assert (world.calibration.horizon, world.calibration.level) == (3, pytest.approx(0.8))


def test_a_column_is_named_once(tmp_path: Path) -> None:
    (tmp_path / "run.csv").write_text("t,q,u\n0,1,0\n1,2,0\n2,3,0\n")
    with pytest.raises(ValueError, match="obs names a column twice"):
        wmgym.from_log(tmp_path / "run.csv", obs=["q", "q"], action="u", quiet=True)


def test_a_reward_that_is_not_finite_is_known_before_a_fit(tmp_path: Path) -> None:
    rows = np.stack([0.1 * np.arange(300), np.sin(np.arange(300)), np.cos(np.arange(300))], 1)
    np.savetxt(tmp_path / "run.csv", rows, delimiter=",", header="t,q,u", comments="")
    read = partial(wmgym.from_log, tmp_path / "run.csv", obs=["q"], action="u", quiet=True)
    once = np.float32(rows[250, 1])
    with pytest.raises(ValueError, match=r"^reward_fn returned nan for row 250 of the data"):
        read(reward_fn=lambda obs, action, after: torch.where(obs[:, 0] == once, torch.nan, 1))
    with pytest.raises(ValueError, match=r"^terminated_fn raised IndexError"):
        read(terminated_fn=lambda obs, action, after: after[:, 3] > 0)
