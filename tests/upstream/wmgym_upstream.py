"""Pytest plugin: Gymnasium's own tests, unmodified, over wmgym's ids in place of Gymnasium's."""

from __future__ import annotations

import gymnasium as gym

import wmgym
from tests.envs import utils  # Gymnasium's, from its source distribution

specs = [gym.spec(f"wmgym/{env_id}") for env_id in wmgym.MUJOCO_IDS]
utils.all_testing_env_specs[:] = specs
utils.mujoco_testing_env_specs[:] = specs
utils.gym_testing_env_specs[:] = specs
utils.all_testing_initialised_envs[:] = [spec.make(disable_env_checker=True).unwrapped for spec in specs]
