"""A step of a single imagined episode, by the world's compiled step."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from wmgym.data.columns import LARGEST
from wmgym.envs import conventions
from wmgym.envs.vector_env import ImaginedVectorEnv
from wmgym.models.compiled import CompiledStep, compiled_step
from wmgym.tasks import actions

Stepped: TypeAlias = tuple[Any, float, bool, bool, dict[str, Any]]
"""What ``gym.Env.step`` returns."""


class SingleEpisode:
    """Steps the only episode of a vector env, with the same outcome to rounding.

    The episode stays the vector env's: either may step it, in any order.
    """

    def __init__(self, venv: ImaginedVectorEnv) -> None:
        self._venv, self._episodes = venv, venv._episodes
        self._space, self._task = venv.single_action_space, venv.world.task
        self._step = None if venv.render_mode == "human" else self._compiled()
        self._limit = 2**62 if venv.max_episode_steps is None else venv.max_episode_steps

    def _compiled(self) -> CompiledStep | None:
        return compiled_step(self._venv.world, self._venv.propagation, self._venv.trust is not None)

    def renew(self) -> None:
        """Record the step anew where weights were changed in place since."""
        if self._step is not None and not self._step.current:
            self._step = self._compiled()

    def reset(self, seed: int | None) -> tuple[Any, dict[str, Any]] | None:
        """Start at a drawn state, with the draws of the vector env; None leaves it to that."""
        step, episodes = self._step, self._episodes
        if step is None or "first_obs" not in step.buffers:
            return None
        if seed is not None:
            episodes.generator.manual_seed(seed)
        episodes.begin_lent(step)
        infos = self._infos(step, diverged=False)
        if "error_bound" in infos:  # a start is known without error
            infos["error_bound"][...] = 0
        if "distrust" in infos:
            infos["distrust"] = 0.0
        return self._shown(step.buffers["first_obs"]), infos

    def step(self, given: Any) -> Stepped | None:
        """Advance by one step; None leaves it to the vector env, which says what is wrong."""
        step, episodes = self._step, self._episodes
        if step is None or episodes.ended[0]:
            return None
        action = self._action(given)
        if action is None:
            return None
        episodes.lend(step)
        episodes.elapsed[0] += 1
        elapsed = int(episodes.elapsed[0])
        outcome = step.step(action, elapsed, episodes.generator)
        reward, terminated, diverged = outcome.reward, outcome.terminated, outcome.diverged
        truncated, buffers = diverged or elapsed >= self._limit, step.buffers
        infos = self._infos(step, diverged)
        if self._venv.trust is not None:
            said = np.array([reward]), np.array([terminated]), np.array([truncated])
            said = self._venv.trust.apply(buffers["distrust"], *said)
            reward, terminated, truncated = (each.item() for each in said)
        if self._venv.render_mode is not None:
            episodes.place += buffers["displacement"]
        truncated = truncated and not terminated
        episodes.ended[0] = terminated or truncated
        return self._obs(buffers), reward, terminated, truncated, infos

    def _infos(self, step: CompiledStep, diverged: bool) -> dict[str, Any]:
        infos: dict[str, Any] = {"diverged": diverged}
        if "error_bound" in step.buffers:
            infos["error_bound"] = step.buffers["error_bound"][0].copy()
        if self._venv.trust is not None:
            infos["distrust"] = step.buffers["distrust"].item()
            if self._venv.world.support is not None:
                infos["novelty"] = self._venv.world.novelty(step.state.core).item()
        return infos

    def _action(self, given: Any) -> np.ndarray | None:
        """As the step takes it; None where it is not what the space asks for."""
        action = np.asarray(given)
        if actions.whole(self._space):
            counted = conventions.action_tensor(action[None], self._space, 1, self._episodes.starts.device)
            return np.asarray(counted.numpy()[0])
        if action.dtype.kind != "f" or action.shape != self._space.shape:
            return None
        flat: np.ndarray = action.reshape(-1)
        return flat if float(flat.dot(flat)) <= LARGEST else None  # false of NaN

    def _obs(self, buffers: dict[str, np.ndarray]) -> Any:
        if "obs" not in buffers:
            return conventions.row_of(self._venv._observe(), 0)
        return self._shown(buffers["obs"])

    def _shown(self, obs: np.ndarray) -> Any:
        return self._task.as_dict(obs.copy().reshape(self._task.observation_space.shape))
