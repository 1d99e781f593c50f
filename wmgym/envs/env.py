"""One imagined episode at a time."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from wmgym.envs.conventions import named, row_of
from wmgym.envs.episodes import EnvSnapshot
from wmgym.envs.single import SingleEpisode
from wmgym.envs.vector_env import ComputeReward, ImaginedVectorEnv, Source

LIMITED_OUTSIDE = 2**62
"""``max_episode_steps`` of an env that ``gym.make`` makes, which puts a ``TimeLimit`` around it."""


class ImaginedEnv(gym.Env[Any, Any]):
    """One imagined episode at a time: an ``ImaginedVectorEnv`` of one env, without its leading dimension.

    The first step compiles the world's to NumPy calls, see ``wmgym.models.compiled``, which agree with the
    vector env to rounding; weights that are changed in place count from the next ``reset`` on. Dynamics of
    your own, ``fallback``, ``precision="bfloat16"``, another device and ``render_mode="human"`` step as a
    batch of one.

    Infos hold ``error_bound`` ``(core_dim,)``, whose dimensions ``world.core_names`` names, ``diverged`` and,
    with ``trust``, ``distrust`` and ``novelty``.
    """

    imagined = True  # so that what ``collect`` records of it is not taken for real
    metadata: dict[str, Any] = {"render_modes": ["human", "rgb_array"]}  # noqa: RUF012

    def __init__(self, world: Source, **kwargs: Any) -> None:
        """Make the env; keywords as for ``ImaginedVectorEnv``."""
        if "num_envs" in kwargs:
            raise ValueError("this is a single env; for several take gym.make_vec or ImaginedVectorEnv")
        after = AutoresetMode.NEXT_STEP  # so that an end costs no start before ``reset`` draws one
        self._venv = ImaginedVectorEnv(world, 1, autoreset_mode=after, **kwargs)
        self._single: SingleEpisode | None = None
        self.world, self.trust, self.starts = self._venv.world, self._venv.trust, self._venv.starts
        self.observation_space = self._venv.single_observation_space
        self.action_space = self._venv.single_action_space
        self.render_mode = self._venv.render_mode
        self.metadata = {key: self._venv.metadata[key] for key in ("render_modes", "render_fps")}

    def __getstate__(self) -> dict[str, Any]:
        """All but what the first step makes."""
        return {**self.__dict__, "_single": None}

    def __repr__(self) -> str:
        return repr(self._venv).replace("VectorEnv", "Env").replace("num_envs=1, ", "")

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode: its first observation ``(*obs_shape,)`` and infos.

        Args:
            seed: decides everything random from here on.
            options: ``{"obs": ...}`` or ``{"state": ...}`` to start from; without them the bank decides.
        """
        super().reset(seed=seed)
        if self._single is not None:
            self._single.renew()
        if not options and (begun := self._episode().reset(seed)) is not None:
            return begun
        obs, infos = self._venv.reset(seed=seed, options=options)
        return row_of(obs, 0), _first(infos)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Advance by one step; arguments and errors as for the vector env.

        ResetNeeded after an end: Gymnasium leaves open what an env does then, and a world knows of nothing.
        """
        if self._venv._episodes.ended[0]:
            raise gym.error.ResetNeeded("this imagined episode is over; call reset() before the next step")
        if (stepped := self._episode().step(action)) is not None:
            return stepped
        obs, reward, terminated, truncated, infos = self._venv.step(np.asarray(action)[None])
        return row_of(obs, 0), reward.item(), terminated.item(), truncated.item(), _first(infos)

    def _episode(self) -> SingleEpisode:
        if self._single is None:
            self._single = SingleEpisode(self._venv)
        return self._single

    def render(self) -> np.ndarray | None:
        """A picture ``(height, width, 3)`` uint8 of the imagined state, in mode "rgb_array"."""
        frames = self._venv.render()
        return None if frames is None else frames[0]

    @property
    def compute_reward(self) -> ComputeReward:
        """The real env's own reward of goals; see ``ImaginedVectorEnv.compute_reward``."""
        return self._venv.compute_reward

    def close(self) -> None:
        """Release the drawing context."""
        self._venv.close()

    def snapshot(self) -> EnvSnapshot:
        """Where the episode is; see ``ImaginedVectorEnv.snapshot``."""
        return self._venv.snapshot()

    def restore(self, snapshot: EnvSnapshot) -> None:
        """Go back to a snapshot."""
        self._venv.restore(snapshot)

    def fork(self, n: int, max_episode_steps: int | None = None) -> ImaginedVectorEnv:
        """A vector env of ``n`` copies of this episode, SAME_STEP; see ``ImaginedVectorEnv.fork``.

        The copies step as a batch, which rounds otherwise than this env's compiled step.

        Args:
            n: number of copies.
            max_episode_steps: time limit; None takes this env's, or the real env's where ``gym.make`` made
                this one. A ``TimeLimit`` with another limit around this env, as ``gym.make`` with
                ``max_episode_steps=`` puts there, cannot be seen from here: pass that limit.
        """
        if max_episode_steps is None and self._venv.max_episode_steps == LIMITED_OUTSIDE:
            max_episode_steps = self.world.task.max_episode_steps
        return self._venv.fork(n, AutoresetMode.SAME_STEP, max_episode_steps)


def _first(infos: dict[str, Any]) -> dict[str, Any]:
    return {key: value[0].copy() if value.ndim > 1 else value.item() for key, value in named(infos)}
