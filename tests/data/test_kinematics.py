"""Columns in other units or another order than those of the robot's model are named."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
import pytest

from wmgym.data.checks import check
from wmgym.data.collect import collect
from wmgym.data.logs import from_arrays
from wmgym.data.transitions import Transitions

ABOUT = ("joint limits", "quaternions", "joint velocities")


@pytest.fixture(scope="module")
def hopper() -> Transitions:
    return collect("Hopper-v5", steps=600, seed=0, workers=1)


@pytest.fixture(scope="module")
def ant() -> Transitions:
    return collect("Ant-v5", steps=600, seed=0, workers=1)


def named(data: Transitions, change: Any) -> dict[str, str]:
    """What is found, and warned of by ``from_arrays``, when observations are changed."""
    columns = {name: getattr(data, name) for name in ("action", "episode", "terminated", "unobserved")}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        changed = from_arrays(data.task, obs=change(data.obs), next_obs=change(data.next_obs), **columns)
    found = {finding.about: finding.text for finding in check(changed)}
    assert [str(each.message) for each in caught] == list(found.values())
    return {about: text for about, text in found.items() if about in ABOUT}


def times(factor: float, *columns: int) -> Any:
    return lambda obs: obs * np.where(np.isin(np.arange(obs.shape[1]), columns), factor, 1.0)


def order(*columns: int) -> Any:
    return lambda obs: np.concatenate([obs[:, columns], obs[:, len(columns) :]], 1)


def test_right_columns_pass(hopper: Transitions, ant: Transitions) -> None:
    assert not named(hopper, times(1.0)) | named(ant, times(1.0))


@pytest.mark.parametrize(
    ("change", "about", "match"),
    [
        (times(180 / np.pi, 2), "joint limits", r"thigh_joint is as far as .* in degrees"),
        (times(180 / np.pi, 1), "joint velocities", r"rooty moves 5\d.* times as far .* degrees"),
        (times(1_000, 0), "joint velocities", r"rootz moves .*e\+03 times as far .* millimetres"),
        (
            order(6, 7, 8, 9, 10, 5, 0, 1, 2, 3, 4),
            "joint velocities",
            "stand in each other's columns",
        ),
    ],
)
def test_units_and_order_of_joints(hopper: Transitions, change: Any, about: str, match: str) -> None:
    assert re.search(match, named(hopper, change)[about])


def test_joints_in_another_order(ant: Transitions) -> None:
    """One leg's joints stand in the columns of the next."""
    said = named(ant, order(0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 5))["joint velocities"]
    assert "are the columns in the order of the model, root_z, " in said


def test_quaternions(ant: Transitions) -> None:
    assert "have length 2 in the middle row" in named(ant, times(2.0, 1, 2, 3, 4))["quaternions"]
    assert "only if they are (x, y, z, w)" in named(ant, order(0, 2, 3, 4, 1))["quaternions"]
