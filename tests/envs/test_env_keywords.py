"""One string changed, and a script runs: keywords, autoreset and pictures of the real env."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import NormalizeObservation

import wmgym
from wmgym.evaluation.score import gap_scale


def stepped(env_id: str, **kwargs: Any) -> float:
    """The reward of one action from one state."""
    env = gym.make(f"wmgym/{env_id}", **kwargs)
    start = {"state": wmgym.load(env_id).starts[0]}
    env.reset(seed=0, options=start)
    return float(env.step(np.full(env.action_space.shape, 0.5, np.float32))[1])


def test_reward_keywords_are_honoured() -> None:
    usual = stepped("HalfCheetah-v5")
    paid = -0.1 * 6 * 0.25  # of control
    twice = stepped("HalfCheetah-v5", forward_reward_weight=2.0)
    assert twice - paid == pytest.approx(2 * (usual - paid), rel=1e-4)
    assert stepped("HalfCheetah-v5", ctrl_cost_weight=0.0) == pytest.approx(usual - paid, rel=1e-4)


def test_termination_keywords_are_honoured() -> None:
    env = gym.make("wmgym/Hopper-v5", healthy_z_range=(5.0, 6.0))
    env.reset(seed=0)
    assert env.step(np.zeros(3, np.float32))[2]
    free = gym.make("wmgym/Hopper-v5", terminate_when_unhealthy=False)
    free.reset(seed=0)
    for _ in range(100):
        _, _, terminated, truncated, _ = free.step(np.ones(3, np.float32))
        assert not terminated
        if truncated:  # it left the range of the data
            break


@pytest.mark.parametrize(
    "changed", [{"frame_skip": 10}, {"exclude_current_positions_from_observation": False}]
)
@pytest.mark.parametrize("make", [gym.make, gym.make_vec])
def test_keywords_of_physics_need_a_world_of_their_own(make: Any, changed: dict[str, Any]) -> None:
    (name,) = changed
    with pytest.raises(TypeError, match=rf"{name}'.* changes physics or observations; fit a world of"):
        make("wmgym/HalfCheetah-v5", **changed)


def test_pictures_are_as_large_as_asked() -> None:
    env = gym.make("wmgym/HalfCheetah-v5", render_mode="rgb_array", width=64, height=48)
    env.reset(seed=0)
    assert env.render().shape == (48, 64, 3)


def test_make_vec_resets_as_the_real_id_does() -> None:
    for env_id in ("InvertedPendulum-v5", "wmgym/InvertedPendulum-v5"):
        env = gym.make_vec(env_id, num_envs=2)
        assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
        NormalizeObservation(env)


def test_without_opengl_one_line_says_what_to_do() -> None:
    code = (
        "import os; os.environ.pop('MUJOCO_GL', None); os.environ.pop('DISPLAY', None)\n"
        "import gymnasium as gym, wmgym\n"
        "env = gym.make('wmgym/Hopper-v5', render_mode='rgb_array'); env.reset()\n"
        "for _ in range(2):\n"
        "    try: env.render()\n"
        "    except RuntimeError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    if done.stdout:  # else this machine has a display
        assert [line[:40] for line in done.stdout.splitlines()] == [
            "there is no OpenGL to draw with; set MUJ"
        ] * 2
    assert done.returncode == 0


def test_what_an_imagined_env_shows_is_no_real_data() -> None:
    world = wmgym.load("InvertedPendulum-v5")
    for env in ("wmgym/InvertedPendulum-v5", lambda: wmgym.ImaginedEnv(world, max_episode_steps=9)):
        data = wmgym.collect(env, steps=30, seed=0, workers=1)
        assert data.source == "imagined"
        with pytest.raises(ValueError, match="calibration needs real episodes"):
            wmgym.calibrate(wmgym.fit(data, wmgym.FitConfig(max_updates=1, members=1, width=8)), data)


def test_the_unit_of_the_gap_does_not_vanish() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(2, 200))
    assert gap_scale({"random": noise[0], "mine": noise[1]}) == pytest.approx(1, abs=0.1)
    assert gap_scale({"random": noise[0], "mine": noise[1] + 50}) == pytest.approx(50, abs=0.5)
    assert gap_scale({"random": np.full(5, -3.0), "mine": np.full(5, -3.0)}) == 3
    assert gap_scale({"random": np.zeros(5)}) == 1
    assert gap_scale({"random": np.zeros(5), "mine": np.full(5, 1e-100)}) == 1  # a smooth reward's tail
