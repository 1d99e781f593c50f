"""An arm with two servos that pushes a box over a table, towards a mark: an env as people write them."""

from pathlib import Path

import gymnasium as gym
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.spaces import Box

GOAL = np.array([0.0, 0.35])  # metres


class PushBot(MujocoEnv):
    """Rewarded for the box near the mark and the hand near the box; an episode is 200 steps of 0.02 s."""

    metadata = {"render_modes": ["human", "rgb_array"], "render_fps": 50}  # noqa: RUF012

    def __init__(self, **kwargs):
        xml = str(Path(__file__).with_name("push_bot.xml").resolve())
        space = Box(-np.inf, np.inf, (16,), np.float64)
        super().__init__(xml, 4, space, camera_name="top", width=320, height=240, **kwargs)

    def step(self, action):
        self.do_simulation(action, self.frame_skip)
        obs = self.look()
        hand, box = obs[5:7], obs[7:9]
        near, far = np.linalg.norm(box - hand), np.linalg.norm(box - GOAL)
        reward = -far - 0.2 * near - 0.01 * np.square(action).sum()
        return obs, float(reward), False, False, {}

    def reset_model(self):
        rng, qpos, qvel = self.np_random, self.init_qpos.copy(), self.init_qvel.copy()
        qpos[:2] = rng.uniform((-np.pi, -2), (np.pi, 2))
        angle, turn, distance = rng.uniform((-np.pi, -np.pi, 0.22), (np.pi, np.pi, 0.42))
        qpos[2:4] = distance * np.cos(angle), distance * np.sin(angle)
        qpos[5:9] = np.cos(turn / 2), 0, 0, np.sin(turn / 2)
        self.set_state(qpos, qvel)
        return self.look()

    def look(self):
        q, v = self.data.qpos, self.data.qvel
        turn = 2 * np.arctan2(q[8], q[5])
        hand = self.data.site("tip").xpos[:2]
        return np.array([
            np.cos(q[0]), np.sin(q[0]), q[1], *v[:2], *hand,
            *q[2:4], np.cos(turn), np.sin(turn), *v[2:4], v[7], *(GOAL - q[2:4]),
        ])  # fmt: skip


def chase(obs):
    """A simple controller, for a batch of observations ``(n, 16)``: turn the arm towards the box."""
    angle = np.arctan2(obs[:, 8], obs[:, 7]) - np.arctan2(obs[:, 1], obs[:, 0])
    bent = obs[:, 2]
    off = (angle - bent / 2 + np.pi) % (2 * np.pi) - np.pi
    reach = np.linalg.norm(obs[:, 7:9], axis=1)
    wanted = 2 * np.arccos(np.clip(reach / 0.5, 0, 1))
    return np.clip(np.stack([3 * off, 3 * (wanted - bent)], 1), (-2, -3), (2, 3))


gym.register("lab/PushBot-v0", PushBot, max_episode_steps=200)
