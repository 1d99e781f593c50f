"""The imagined env: a Gymnasium VectorEnv over a WorldModel."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from wmgym.envs import conventions
from wmgym.envs.episodes import EnvSnapshot, Episodes
from wmgym.envs.torch_episodes import TorchEpisodes
from wmgym.envs.trust import OLD_TRUST, Trust
from wmgym.io.arguments import whole_number
from wmgym.io.deprecation import renamed
from wmgym.models.dynamics import PROPAGATIONS, Precision, Propagation
from wmgym.models.fallback import FallbackDynamics, with_fallback
from wmgym.models.saving import load
from wmgym.models.world import WorldModel
from wmgym.tasks.goals import GoalReward

if TYPE_CHECKING:
    from wmgym.tasks.rendering import Renderer

if hasattr(os, "register_at_fork"):
    # A forked child, as AsyncVectorEnv makes them, has none of its parent's threads and would wait for them.
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


ComputeReward: TypeAlias = Callable[[np.ndarray, np.ndarray, Any], Any]
Source: TypeAlias = WorldModel | str | os.PathLike[str]
"""A world, the directory of a saved one, or the id of an env whose world ships, ``"Hopper-v5"``."""


@renamed(mode="propagation", **OLD_TRUST)
class ImaginedVectorEnv(VectorEnv[Any, np.ndarray, np.ndarray]):
    """``num_envs`` imagined episodes side by side: same spaces and time limit as the real env.

    Autoreset is Gymnasium's, SAME_STEP by default: an ending step returns the next episode's first
    observation and puts the last one in ``infos["final_obs"]`` and its info in ``infos["final_info"]``.
    With NEXT_STEP the next step, whose action is ignored, returns that observation with reward 0; with
    DISABLED ended episodes wait for ``reset(options={"reset_mask": ended})``. Infos of every step:

    - ``error_bound`` ``(num_envs, core_dim)``, raw units, once the world is calibrated: with probability
      ``world.calibration.level`` the real simulator, started where this episode started and given the same
      actions, is within this half-width of each core dimension of the prediction. ``world.core_names`` names
      the dimensions. Past the calibrated horizon it falls back to the marginal state range.
    - ``distrust`` ``(num_envs,)``, with ``trust``: the bound in units of the data's standard deviation, mean
      over dimensions.
    - ``novelty`` ``(num_envs,)``, with ``trust``: distance from the real states of the fit; 1 is usual.
    - ``fallback`` ``(num_envs,)`` bool, with ``fallback="mujoco"``: MuJoCo took this step.
    - ``diverged`` ``(num_envs,)`` bool: the prediction left the range of the data or was not finite; the
      episode is truncated at the nearest state allowed.

    The time limit is ``truncated``, never ``terminated``. ``render`` draws the imagined states with MuJoCo.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012
        "autoreset_mode": AutoresetMode.SAME_STEP,
        "render_modes": ["human", "rgb_array"],
    }

    def __init__(
        self,
        world: Source,
        num_envs: int = 1,
        *,
        max_episode_steps: int | None = None,
        propagation: Propagation = "member",
        starts: np.ndarray | None = None,
        device: str = "cpu",
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        precision: Precision = "float32",
        trust: Trust | Mapping[str, Any] | bool | None = None,
        fallback: Literal["mujoco"] | None = None,
        render_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Make the env.

        Args:
            world: a world, the directory of a saved one, or the id of an env whose world ships.
            num_envs: episodes side by side.
            max_episode_steps: time limit; None takes the real env's.
            propagation: "member" for episodes that each follow one ensemble member, "sample" with the model's
                own noise, "mean" for the mean of all members; see ``WorldModel.step``.
            starts: ``(n, state_dim)`` start states to draw from; None takes the world's bank.
            device: torch device that the model runs on.
            render_mode: "rgb_array" to draw imagined states in the real env's model, "human" to show a single
                env's in a window at every step; known MuJoCo tasks only.
            autoreset_mode: what follows an episode's end; a ``gymnasium.vector.AutoresetMode``.
            precision: of the networks' hidden layers; "bfloat16" is faster where the processor multiplies it
                faster than float32: with AMX, or AMD's from Zen 4 on.
            trust: ask a second ensemble member at every step, for about twice the cost: the bound is then
                made for this episode and not for any that lasted as long, infos hold ``distrust``, and a
                ``Trust`` says what becomes of steps above its threshold; True is ``Trust()``.
            fallback: "mujoco" leaves the steps on which the world's members disagree most, up to one in five
                of an episode, to the env's own MuJoCo model; ``infos["fallback"]`` says which. Envs whose
                step is their model's only.
            render_options: keywords of the real env for pictures, such as ``width`` and ``height``.

        Raises:
            ValueError: an argument out of range, or trust in a world without calibration.
            StoreError: a path without a world, or with a damaged one.
        """
        self.trust = Trust.of(trust)
        conventions.one_of("precision", precision, get_args(Precision))
        conventions.one_of("propagation", propagation, PROPAGATIONS)
        conventions.one_of(
            "autoreset_mode", autoreset_mode, [*AutoresetMode, *(mode.value for mode in AutoresetMode)]
        )
        conventions.one_of("render_mode", render_mode, (*self.metadata["render_modes"], None))
        num_envs = whole_number("num_envs", num_envs)
        if max_episode_steps is not None:
            max_episode_steps = whole_number("max_episode_steps", max_episode_steps)
        if render_mode == "human" and num_envs > 1:
            raise ValueError("render_mode='human' shows one env; use 'rgb_array' for several")
        self.world = (world if isinstance(world, WorldModel) else load(world)).to(device, precision)
        conventions.one_of("fallback", fallback, ("mujoco", None))
        if fallback is not None:
            self.world = with_fallback(self.world)
        if self.trust is not None and self.world.calibration is None:
            raise ValueError("trust needs a calibrated world; see wmgym.calibrate")
        task = self.world.task
        bank = conventions.start_bank(starts, self.world)
        self.num_envs, self.propagation, self.precision = num_envs, propagation, precision
        self.render_mode, self.autoreset_mode = render_mode, AutoresetMode(autoreset_mode)
        fps = max(1, round(1 / task.dt))
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode, "render_fps": fps}
        self.single_observation_space, self.single_action_space = task.env_space, task.action_space
        self.observation_space = batch_space(task.env_space, num_envs)
        self.action_space = batch_space(task.action_space, num_envs)
        self.max_episode_steps = task.max_episode_steps if max_episode_steps is None else max_episode_steps
        self._episodes = Episodes(self.world, num_envs, bank, propagation, self.trust is not None)
        self._renderer: Renderer | None = None
        self._render_options = dict(render_options or {})

    def __repr__(self) -> str:
        env_id = self.world.task.env_id if self.spec is None else self.spec.id
        return f"ImaginedVectorEnv({env_id!r}, num_envs={self.num_envs}, propagation={self.propagation!r})"

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start all episodes, or those of a mask; observations ``(num_envs, *obs_shape)`` and infos.

        Args:
            seed: decides everything random from here on; ``num_envs`` seeds do so together, None left out.
            options: ``{"obs": ...}`` starts from one observation or ``num_envs`` of them, ``{"state": ...}``
                from one core ``(core_dim,)``, one state ``(state_dim,)`` with the shown readouts, or
                ``num_envs`` of either; without these the bank decides. ``{"reset_mask": ...}``, bool of shape
                ``(num_envs,)``, leaves the other episodes as they are.

        Raises:
            ValueError: other options, of other shapes, not finite, or far from the world's data.
            ResetNeeded: before the first reset, a mask that leaves episodes out.
        """
        options = conventions.reset_options(options)
        mask = conventions.reset_mask(options.pop("reset_mask", None), self.num_envs)
        given = conventions.start_states(options, self.world, self.num_envs) if options else None
        if (seed := conventions.joint_seed(seed, self.num_envs)) is not None:
            self._episodes.generator.manual_seed(seed)
        self._episodes.begin(mask, given)
        if self.render_mode == "human":
            self._draw()
        return self._observe(), conventions.masked(self._episodes.infos(np.zeros(self.num_envs, bool)), mask)

    def step(self, actions: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Advance every episode by one step; all that is returned has ``num_envs`` rows.

        Args:
            actions: ``(num_envs, *action_shape)``, clipped to the action space; of a Discrete one, integers.

        Raises:
            ValueError: actions of another shape, not finite, or outside a Discrete space.
            ResetNeeded: before the first reset, or with DISABLED autoreset after an end.
        """
        waiting = self._episodes.ended.any()
        if waiting and self.autoreset_mode is AutoresetMode.DISABLED:
            raise gym.error.ResetNeeded(
                f"episodes {np.flatnonzero(self._episodes.ended).tolist()} are over; reset them with "
                "options={'reset_mask': ended}"
            )
        action = conventions.action_tensor(
            actions, self.single_action_space, self.num_envs, self._episodes.starts.device
        )
        outcome = self._episodes.step(action)
        reward, terminated, infos, obs = outcome.reward, outcome.terminated, outcome.infos, outcome.obs
        if self.render_mode is not None:
            self._episodes.place += outcome.displacement
        if waiting:  # NEXT_STEP: in this step they start anew, whatever their actions
            over = self._episodes.ended.copy()
            reward[over], terminated[over] = 0.0, False
            self._begin(over, obs, infos)
        truncated = infos["diverged"]
        if self.max_episode_steps is not None:
            truncated = truncated | (self._episodes.elapsed >= self.max_episode_steps)
        if self.trust is not None:
            reward, terminated, truncated = self.trust.apply(infos["distrust"], reward, terminated, truncated)
        truncated, infos = truncated & ~terminated, conventions.masked(infos, np.ones(self.num_envs, bool))
        ended = terminated | truncated
        as_dict = self.world.task.as_dict
        if self.autoreset_mode is not AutoresetMode.SAME_STEP:
            self._episodes.ended = ended
        elif ended.any():  # it starts anew at once, and infos tell of both episodes
            final = conventions.final_infos(as_dict(obs[ended]), infos, ended)
            self._begin(ended, obs, infos)
            infos |= final
        if self.render_mode == "human":
            self._draw()
        return as_dict(obs), reward, terminated, truncated, infos

    def _begin(self, mask: np.ndarray, obs: np.ndarray, infos: dict[str, Any]) -> None:
        """Start the episodes of a mask; what a step tells of them becomes what is known of a start."""
        self._episodes.begin(mask)
        rows = np.flatnonzero(mask)
        obs[rows] = self._episodes.observed(rows)
        for _, value in conventions.named(infos):
            value[rows] = 0  # a start is known without error
        if "novelty" in infos:
            start = self._episodes.state.core[torch.as_tensor(rows, device=self._episodes.starts.device)]
            infos["novelty"][rows] = self.world.novelty(start).cpu().numpy()

    def _observe(self) -> Any:
        return self.world.task.as_dict(self._episodes.observed())

    @property
    def compute_reward(self) -> ComputeReward:
        """The real env's own reward ``(achieved_goal, desired_goal, info)``, as HER calls it.

        Goals are ``(n, goal_dim)``, or one ``(goal_dim,)``.

        Raises:
            AttributeError: the env has no goals, or pays by more than them; ``hasattr`` tells, as of a real
                env.
        """
        function = getattr(self.world.task.reward, "function", None)
        if not isinstance(function, GoalReward):
            raise AttributeError(f"{self.world.task.env_id or 'this env'} has no reward by goals")
        goals = function

        def reward(achieved_goal: np.ndarray, desired_goal: np.ndarray, info: Any) -> Any:
            if np.ndim(achieved_goal) == 1:
                return float(goals.compute(np.array([achieved_goal]), np.array([desired_goal]), [info])[0])
            return goals.compute(achieved_goal, desired_goal, info)

        return reward

    def render(self) -> tuple[np.ndarray, ...] | None:
        """One picture ``(height, width, 3)`` uint8 an env; None unless ``render_mode`` is "rgb_array"."""
        return self._draw() if self.render_mode == "rgb_array" else None

    def _draw(self) -> tuple[np.ndarray, ...]:
        if self._renderer is None:
            from wmgym.tasks.rendering import Renderer

            assert self.render_mode is not None
            self._renderer = Renderer(self.world.task, self.render_mode, **self._render_options)
        draw = self._renderer.frame
        return tuple(draw(core, place) for core, place in zip(self.core(), self._episodes.place, strict=True))

    def to_torch(self) -> TorchEpisodes:
        """Episodes like these, not yet started, whose tensors stay on the world's device.

        Raises:
            ValueError: an env with ``trust``, ``fallback`` or pictures, or one whose observations are a Dict.
        """
        fallback = isinstance(self.world.dynamics, FallbackDynamics)
        if self.trust is not None or fallback or self.render_mode or self.world.task.dict_space is not None:
            raise ValueError("to_torch() is for envs without trust, fallback, render_mode and Dict spaces")
        made = self.world, self.num_envs, self.starts, self.propagation, self.max_episode_steps
        return TorchEpisodes(*made)

    def close_extras(self, **kwargs: Any) -> None:
        """Release the drawing context."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def __getstate__(self) -> dict[str, Any]:
        """All but the drawing context, which is opened again where it is needed."""
        return {**self.__dict__, "_renderer": None}

    def core(self) -> np.ndarray:
        """Current core state ``(num_envs, core_dim)`` float32, raw units, named by ``world.core_names``.

        Raises:
            ResetNeeded: before the first reset.
        """
        return self._episodes.state.core.cpu().numpy().copy()

    @property
    def starts(self) -> np.ndarray:
        """The bank that episodes start from ``(n, state_dim)`` float32."""
        return self._episodes.starts.cpu().numpy().copy()

    def snapshot(self) -> EnvSnapshot:
        """Where all episodes are, draws to come included; ``restore`` goes on from there to the last bit.

        Raises:
            ResetNeeded: before the first reset.
        """
        return self._episodes.snapshot()

    def restore(self, snapshot: EnvSnapshot) -> None:
        """Go back to a snapshot of this env, or of one like it.

        Raises:
            ValueError: the snapshot is of another number of envs, of another core, or of a larger ensemble.
        """
        self._episodes.restore(snapshot)

    def fork(
        self, n: int, autoreset_mode: AutoresetMode | None = None, max_episode_steps: int | None = None
    ) -> ImaginedVectorEnv:
        """An env with ``n`` copies of every episode, side by side, each to be driven its own way.

        Their draws start where this env's stand, so a fork of one copy in propagation "mean" or "member" does
        what this env would have done. Autoreset and time limit are this env's unless others are given.

        Raises:
            ResetNeeded: before the first reset.
            ValueError: less than one copy.
        """
        here = self.snapshot().repeated(n)
        other = ImaginedVectorEnv(
            self.world,
            self.num_envs * n,
            max_episode_steps=self.max_episode_steps if max_episode_steps is None else max_episode_steps,
            propagation=self.propagation,
            starts=self.starts,
            device=str(self.world.device),
            render_mode=self.render_mode,
            autoreset_mode=autoreset_mode or self.autoreset_mode,
            precision=self.precision,
            trust=self.trust,
            render_options=self._render_options,
        )
        other.restore(here)
        return other
