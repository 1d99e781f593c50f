"""A robot that nothing drives: its world has actions without a number."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.mujoco import MujocoEnv

import wmgym
from wmgym.models.compiled import compiled_step

ID = "Passive-v0"
SWING = """
<mujoco><option timestep="0.01"/><worldbody><body pos="0 0 1">
  <joint name="swing" type="hinge" axis="0 1 0" damping=".01"/>
  <geom type="capsule" fromto="0 0 0 0 0 -.5" size=".03"/>
</body></worldbody></mujoco>
"""


class Passive(MujocoEnv):
    metadata = {"render_modes": ["human", "rgb_array", "depth_array"], "render_fps": 50}  # noqa: RUF012

    def __init__(self, path: str, **kwargs: Any) -> None:
        seen = spaces.Box(-np.inf, np.inf, (2,), np.float64)
        super().__init__(path, 2, observation_space=seen, **kwargs)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.do_simulation(action, self.frame_skip)
        return self._shown(), float(-(self.data.qpos[0] ** 2)), False, False, {}

    def reset_model(self) -> np.ndarray:
        self.set_state(self.init_qpos + self.np_random.uniform(-1, 1, 1), self.init_qvel)
        return self._shown()

    def _shown(self) -> np.ndarray:
        return np.concatenate([self.data.qpos, self.data.qvel])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[wmgym.Transitions]:
    path = tmp_path_factory.mktemp("passive") / "swing.xml"
    path.write_text(SWING)
    gym.register(ID, entry_point=Passive, kwargs={"path": str(path)}, max_episode_steps=20)
    yield wmgym.collect(ID, steps=200, seed=0, workers=1)
    gym.registry.pop(ID)


@pytest.fixture(scope="module")
def world(data: wmgym.Transitions) -> wmgym.WorldModel:
    train, calib = data.split((0.7, 0.3), seed=0)
    fitted = wmgym.fit(train, wmgym.FitConfig(members=2, width=8, max_updates=5))
    return wmgym.calibrate(fitted, calib, horizon=4)


def test_its_world_is_saved_loaded_and_stepped(world: wmgym.WorldModel, tmp_path: Path) -> None:
    world = wmgym.load(world.save(tmp_path / "world"))
    assert compiled_step(world, "member", True) is not None
    one, many = wmgym.ImaginedEnv(world, trust=True), wmgym.ImaginedVectorEnv(world, 3, trust=True)
    start = {"state": np.tile(world.starts[:1], (3, 1))}
    one.reset(seed=0, options={"state": world.starts[0]})
    many.reset(seed=0, options=start)
    obs, reward, *_, info = one.step(np.zeros(0, np.float32))
    together = many.step(np.zeros((3, 0), np.float32))
    np.testing.assert_allclose(obs, together[0][0], atol=1e-5)
    assert np.isfinite([reward, info["distrust"]]).all()
    assert world.nearest_real(obs[None], k=1).action.shape == (1, 1, 0)


def test_its_world_is_exported(world: wmgym.WorldModel, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    graph = runtime.InferenceSession(world.export(tmp_path / "world.onnx", trust=True))
    assert "action" not in {each.name for each in graph.get_inputs()}


def test_its_hybrid_is_saved_and_loaded(data: wmgym.Transitions, tmp_path: Path) -> None:
    config = wmgym.FitConfig(members=2, width=8, max_updates=5)
    hybrid = wmgym.fit(data, config, dynamics=wmgym.residual(ID))
    assert wmgym.load(hybrid.save(tmp_path / "hybrid")).dynamics.num_members == 2


def test_no_policy_is_trained_for_it(world: wmgym.WorldModel) -> None:
    with pytest.raises(ValueError, match="no action has a number"):
        wmgym.train(world, steps=10)
