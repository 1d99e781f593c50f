"""An arm with two servos that pushes a box along a rail, to a mark: an env as people write them."""

from pathlib import Path

import gymnasium as gym
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.spaces import Box

RAIL, GOAL = 0.32, 0.25  # metres: where the rail crosses the x axis, and where on it the mark is


class PushBot(MujocoEnv):
    """Rewarded for the box near the mark and the hand near the box; an episode is 200 steps of 0.02 s."""

    metadata = {"render_modes": ["human", "rgb_array"], "render_fps": 50}  # noqa: RUF012

    def __init__(self, **kwargs):
        xml = str(Path(__file__).with_name("push_bot.xml").resolve())
        space = Box(-np.inf, np.inf, (11,), np.float64)
        super().__init__(xml, 4, space, camera_name="top", width=320, height=240, **kwargs)

    def step(self, action):
        self.do_simulation(action, self.frame_skip)
        obs = self.look()
        near = np.hypot(*(obs[5:7] - (RAIL, obs[7])))
        reward = -abs(obs[9]) - 0.2 * near - 0.002 * np.square(action).sum()
        return obs, float(reward), False, False, {}

    def reset_model(self):
        low, high = (-1.2, -1.5, -0.3), (1.2, 1.5, 0.3)
        self.set_state(self.np_random.uniform(low, high), self.init_qvel)
        return self.look()

    def look(self):
        q, v = self.data.qpos, self.data.qvel
        hand = self.data.site("tip").xpos[:2]
        pressed = float(self.data.sensor("pressed").data[0] > 0)
        return np.array([np.cos(q[0]), np.sin(q[0]), q[1], *v[:2], *hand, q[2], v[2], GOAL - q[2], pressed])


def chase(obs):
    """A controller for a batch of observations ``(n, 11)``: reach behind the box, then push."""
    x = np.full(len(obs), RAIL)
    y = obs[:, 7] - 0.09 * np.sign(obs[:, 9])
    reach = np.clip(np.hypot(x, y) / 0.47, 0, 1)
    bent = 2 * np.arccos(reach)
    off = np.arctan2(y, x) - bent / 2 - np.arctan2(obs[:, 1], obs[:, 0])
    return np.clip(np.stack([4 * off, 4 * (bent - obs[:, 2])], 1), (-2, -3), (2, 3))


gym.register("lab/PushBot-v0", PushBot, max_episode_steps=200)
