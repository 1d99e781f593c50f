"""Adding a robot: one file that describes it and one line in the table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from wmgym.data.collect import collect
from wmgym.data.transitions import Transitions
from wmgym.tasks.registry import TABLE
from wmgym.tasks.schema import TaskRecord, rebuild_task, record_task
from wmgym.tasks.task import make_task

PENDULUM = '''
"""Pendulum-v1: swing up and stay there."""

import math

from wmgym.tasks.geometry import Geometry
from wmgym.tasks.layout import Core, arctan2, cos, sin, with_velocities
from wmgym.tasks.spec import Known, never


def pendulum(*, g=10.0):
    def observe(state):
        obs = state[..., [0, 0, 1]]
        obs[..., 0], obs[..., 1] = cos(state[..., 0]), sin(state[..., 0])
        return obs

    def from_obs(obs):
        state = obs[..., [0, 2]]
        state[..., 0] = arctan2(obs[..., 1], obs[..., 0])
        return state

    def reward(state, action, next_state, unobserved):
        angle = (state[..., 0] + math.pi) % (2 * math.pi) - math.pi
        return -(angle**2 + 0.1 * state[..., 1] ** 2 + 0.001 * action[..., 0] ** 2)

    core = Core(Geometry(2, angles=(0,)), observe, from_obs, names=with_velocities(["hinge"]))
    return Known(core, dt=0.05, reward=reward, terminated=never)
'''


@pytest.fixture
def pendulum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pendulum_task.py").write_text(PENDULUM)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(TABLE, "Pendulum-v1", "pendulum_task:pendulum")  # the line


@pytest.mark.usefixtures("pendulum")
def test_a_new_robot_is_a_file_and_a_line(tmp_path: Path) -> None:
    task = make_task("Pendulum-v1")
    assert (task.from_table, task.dt, task.core.names) == (True, 0.05, ("hinge", "hinge_velocity"))
    data = collect(task, steps=300)
    assert task.reward is not None
    assert data.reward is not None
    np.testing.assert_allclose(
        task.reward(data.core, data.action, data.next_core, data.unobserved), data.reward, atol=1e-5
    )
    np.testing.assert_allclose(task.core.observe(data.state), data.obs, atol=1e-6)
    np.testing.assert_allclose(
        task.core.from_obs(torch.tensor(data.obs)).numpy(), task.core.from_obs(data.obs), atol=1e-6
    )
    data.save(tmp_path / "data")
    assert Transitions.load(tmp_path / "data").task.from_table


@pytest.mark.usefixtures("pendulum")
def test_its_keywords_are_those_that_its_function_has() -> None:
    assert make_task("Pendulum-v1", env_kwargs={"g": 5.0}).from_table
    text = json.dumps(record_task(make_task("Pendulum-v1", env_kwargs={"g": 5.0})).model_dump(mode="json"))
    assert rebuild_task(TaskRecord.model_validate(json.loads(text)), None).env_kwargs == {"g": 5.0}


def test_every_line_names_a_function_that_describes_its_env() -> None:
    for env_id in TABLE:
        assert make_task(env_id).from_table, env_id


@pytest.mark.usefixtures("pendulum")
def test_an_id_with_its_module_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task("pendulum_task:Pendulum-v1")
    assert (task.env_id, task.from_table) == ("pendulum_task:Pendulum-v1", True)
    saved = tmp_path / "data"
    collect(task, steps=10).save(saved)
    assert Transitions.load(saved).task.from_table
    monkeypatch.delitem(TABLE, "Pendulum-v1")
    with pytest.raises(ValueError, match=r"line that sets wmgym\.tasks\.registry\.TABLE") as caught:
        Transitions.load(saved)
    assert "\n" not in str(caught.value)
