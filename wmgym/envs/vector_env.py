"""The imagined env: a Gymnasium VectorEnv over a WorldModel."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from wmgym.envs.snapshot import EnvSnapshot
from wmgym.envs.trust import Trust, old_trust_keywords
from wmgym.io.deprecation import renamed_keywords
from wmgym.models.dynamics import PROPAGATIONS, Precision, Propagation
from wmgym.models.state import WorldState
from wmgym.models.world import WorldModel

if TYPE_CHECKING:
    from wmgym.tasks.rendering import Renderer

if hasattr(os, "register_at_fork"):
    # A forked child, as AsyncVectorEnv makes them, has none of its parent's threads and would wait for them.
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


Source: TypeAlias = WorldModel | str | os.PathLike[str]
"""A world, or the directory of a saved one."""


class ImaginedVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """``num_envs`` imagined episodes side by side: same spaces and time limit as the real env.

    Autoreset is Gymnasium's, SAME_STEP unless asked for otherwise: an ending step returns the next episode's
    first observation and puts the last one in ``infos["final_obs"]`` and its info in ``infos["final_info"]``.
    With NEXT_STEP the next step, whose action is ignored, returns that observation with reward 0; with
    DISABLED ended envs wait for ``reset(options={"reset_mask": ended})``. Infos of every step:

    - ``error_bound`` ``(num_envs, core_dim)``, once the world is calibrated: with probability
      ``world.calibration.level`` the real simulator, started where this episode started and given the same
      actions, is within this half-width of each core dimension of the prediction. Past the calibrated horizon
      it says no more than where real states are at all.
    - ``distrust`` ``(num_envs,)``, with ``trust``: the bound in units of the data's standard deviation, mean
      over dimensions.
    - ``novelty`` ``(num_envs,)``, with ``trust``: distance from the real states of the fit; 1 is usual.
    - ``diverged`` ``(num_envs,)``: the model left the range of its data or was not finite; the episode is
      truncated at the nearest state allowed.

    The time limit is ``truncated``, never ``terminated``. ``render`` draws the imagined states with MuJoCo.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012
        "autoreset_mode": AutoresetMode.SAME_STEP,
        "render_modes": ["human", "rgb_array"],
    }

    @renamed_keywords(mode="propagation")
    @old_trust_keywords
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
    ) -> None:
        """Make the env.

        Args:
            world: a world or the directory of a saved one.
            num_envs: episodes side by side.
            max_episode_steps: time limit; None takes the real env's.
            propagation: "member" for episodes that each follow one ensemble member, "sample" with the model's own
                noise, "mean" for the mean of all members; see ``WorldModel.step``.
            starts: ``(n, state_dim)`` start states to draw from; None takes the world's bank.
            device: torch device that the model runs on.
            render_mode: "rgb_array" to draw imagined states in the real env's model, "human" to show a single
                env's in a window at every step; known MuJoCo tasks only.
            autoreset_mode: what follows an episode's end; a ``gymnasium.vector.AutoresetMode``.
            precision: of the networks' hidden layers; "bfloat16" is faster where the processor has it.
            trust: ask a second ensemble member at every step, for about twice the cost: the bound is then
                made for this episode and not for any that lasted as long, infos hold ``distrust``, and a
                ``Trust`` says what becomes of steps above its threshold; True is ``Trust()``.
        """
        from wmgym.models.saving import load

        self.trust = Trust.of(trust)
        if precision not in get_args(Precision):
            raise ValueError(f"precision must be float32 or bfloat16, got {precision!r}")
        self.world = (world if isinstance(world, WorldModel) else load(world)).to(device, precision)
        if self.trust is not None and self.world.calibration is None:
            raise ValueError("trust needs a calibrated world; see wmgym.calibrate")
        self.precision = precision
        if propagation not in PROPAGATIONS:
            raise ValueError(f"propagation must be one of {', '.join(PROPAGATIONS)}, got {propagation!r}")
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        if max_episode_steps is not None and max_episode_steps < 1:
            raise ValueError(f"max_episode_steps must be at least 1, got {max_episode_steps}")
        task = self.world.task
        bank = self.world.starts if starts is None else np.asarray(starts, np.float32)
        if bank.ndim != 2 or bank.shape[1] != task.core.state_dim or len(bank) == 0:
            raise ValueError(f"starts must have shape (n, {task.core.state_dim}), n >= 1, got {bank.shape}")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode must be 'human', 'rgb_array' or None, got {render_mode!r}")
        if render_mode == "human" and num_envs > 1:
            raise ValueError("render_mode='human' shows one env; use 'rgb_array' for several")
        self.num_envs, self.propagation, self.render_mode = num_envs, propagation, render_mode
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        fps = max(1, round(1 / task.dt))
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode, "render_fps": fps}
        self.single_observation_space, self.single_action_space = task.observation_space, task.action_space
        self.observation_space = batch_space(task.observation_space, num_envs)
        self.action_space = batch_space(task.action_space, num_envs)
        self.max_episode_steps = task.max_episode_steps if max_episode_steps is None else max_episode_steps
        self._starts = torch.tensor(bank, device=self.world.device)
        self._elapsed = np.zeros(num_envs, np.int64)
        self._ended = np.zeros(num_envs, bool)  # episodes over and not yet started anew
        self._place = np.zeros((num_envs, task.core.displacement_dim))  # of the root, kept for pictures
        self._renderer: Renderer | None = None
        self._state: WorldState | None = None
        self._generator = torch.Generator(self.world.device)
        self._generator.seed()
        self._closed = False

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start all episodes, or those of a mask.

        Args:
            seed: decides everything random from here on; ``num_envs`` seeds do so together, None left out.
            options: ``{"obs": ...}`` starts from one observation or ``num_envs`` of them, ``{"state": ...}``
                from one core ``(core_dim,)``, one state ``(state_dim,)`` with the shown readouts, or
                ``num_envs`` of either; without these the bank decides. ``{"reset_mask": ...}``, bool of shape
                ``(num_envs,)``, leaves the other episodes as they are.
        """
        options = dict(options or {})
        mask = self._mask(options.pop("reset_mask", None))
        if isinstance(seed, list):
            seed = self._combine(seed)
        if seed is not None:
            self._generator.manual_seed(seed)
        with torch.no_grad():
            fresh = self.world.init(self._start_from(options), self._generator)
        self._state = fresh if self._state is None or mask.all() else _merge(self._state, fresh, mask)
        self._elapsed[mask], self._place[mask], self._ended[mask] = 0, 0, False
        if self.render_mode == "human":
            self._draw()
        return self._observe(self._state), self._infos(self._state, np.zeros(self.num_envs, bool), mask)

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Advance every episode by one step."""
        if self._state is None:
            raise gym.error.ResetNeeded("call reset() before step()")
        waiting = self._ended if self._ended.any() else None
        if waiting is not None and self.autoreset_mode is AutoresetMode.DISABLED:
            raise gym.error.ResetNeeded(
                f"episodes {np.flatnonzero(waiting).tolist()} are over; reset them with "
                "options={'reset_mask': ended}"
            )
        with torch.no_grad():
            outcome = self.world.step(
                self._state, self._check(actions), self.propagation, self._generator, self.trust is not None
            )
        self._elapsed += 1
        if self.render_mode is not None:
            self._place += outcome.displacement.cpu().numpy()
        terminated, diverged = outcome.terminated.cpu().numpy().copy(), outcome.diverged.cpu().numpy()
        reward = outcome.reward.cpu().numpy().astype(np.float64)
        state = outcome.state
        if waiting is not None:  # NEXT_STEP: this step starts them anew, whatever the action
            state = self._begin(state, waiting)
            reward = np.where(waiting, 0.0, reward)
            terminated, diverged = terminated & ~waiting, diverged & ~waiting
        infos = self._infos(state, diverged)
        late = diverged
        if self.max_episode_steps is not None:
            late = late | (self._elapsed >= self.max_episode_steps)
        trust = self.trust or Trust()
        if trust.on_exceed == "penalise":
            reward = reward - trust.penalty * infos["distrust"]
        elif trust.on_exceed == "terminate":
            terminated = terminated | (infos["distrust"] > trust.threshold)
        elif trust.on_exceed == "truncate":
            late = late | (infos["distrust"] > trust.threshold)
        truncated = late & ~terminated
        ended = terminated | truncated
        if self.autoreset_mode is not AutoresetMode.SAME_STEP:
            self._ended = ended
        elif ended.any():
            state = self._restart(state, ended, infos)
        self._state, obs = state, self._observe(state)
        if self.render_mode == "human":
            self._draw()
        return obs, reward, terminated, truncated, infos

    def render(self) -> tuple[np.ndarray, ...] | None:
        """One picture ``(height, width, 3)`` uint8 an env; None unless ``render_mode`` is "rgb_array"."""
        return self._draw() if self.render_mode == "rgb_array" else None

    def _draw(self) -> tuple[np.ndarray, ...]:
        if self._renderer is None:
            from wmgym.tasks.rendering import Renderer

            assert self.render_mode is not None
            self._renderer = Renderer(self.world.task, self.render_mode)
        draw = self._renderer.frame
        return tuple(draw(core, place) for core, place in zip(self.core(), self._place, strict=True))

    def close_extras(self, **kwargs: Any) -> None:
        """Release the drawing context."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def __getstate__(self) -> dict[str, Any]:
        """All but the drawing context, which is opened again where it is needed."""
        return {**self.__dict__, "_renderer": None}

    def core(self) -> np.ndarray:
        """Current core state ``(num_envs, core_dim)`` float32, raw units."""
        if self._state is None:
            raise gym.error.ResetNeeded("call reset() before core()")
        return self._state.core.cpu().numpy().copy()

    def snapshot(self) -> EnvSnapshot:
        """Where all episodes are, draws to come included; ``restore`` goes on from there to the last bit."""
        if self._state is None:
            raise gym.error.ResetNeeded("call reset() before snapshot()")
        return EnvSnapshot(
            self._state.map(torch.Tensor.clone),
            self._elapsed.copy(),
            self._ended.copy(),
            self._place.copy(),
            self._generator.get_state(),
        )

    def restore(self, snapshot: EnvSnapshot) -> None:
        """Go back to a snapshot of this env, or of one like it."""
        shape = (self.num_envs, self.world.task.core.dim)
        if tuple(snapshot.state.core.shape) != shape:
            raise ValueError(f"the snapshot is of shape {tuple(snapshot.state.core.shape)}, need {shape}")
        self._state = snapshot.state.map(torch.Tensor.clone)
        self._elapsed, self._ended = snapshot.elapsed.copy(), snapshot.ended.copy()
        self._place = snapshot.place.copy()
        self._generator.set_state(snapshot.generator)

    def fork(self, n: int, autoreset_mode: AutoresetMode | None = None) -> ImaginedVectorEnv:
        """An env with ``n`` copies of every episode, side by side, each to be driven its own way.

        The copies share the world. Their draws start where this env's stand, so a fork of one copy in mode
        "mean" or "member" does what this env would have done.
        """
        here = self.snapshot()
        if n < 1:
            raise ValueError(f"fork into at least 1 copy, got n={n}")
        other = ImaginedVectorEnv(
            self.world,
            self.num_envs * n,
            max_episode_steps=self.max_episode_steps,
            propagation=self.propagation,
            starts=self._starts.cpu().numpy(),
            device=str(self.world.device),
            render_mode=self.render_mode,
            autoreset_mode=autoreset_mode or self.autoreset_mode,
            precision=self.precision,
            trust=self.trust,
        )
        other.restore(
            EnvSnapshot(
                here.state.map(lambda rows: rows.repeat_interleave(n, 0)),
                here.elapsed.repeat(n),
                here.ended.repeat(n),
                here.place.repeat(n, 0),
                here.generator,
            )
        )
        return other

    def _restart(self, state: WorldState, ended: np.ndarray, infos: dict[str, Any]) -> WorldState:
        """Put ``ended`` rows at new starts; their last observation and info go into ``infos``."""
        final = self._observe(state)
        last = np.full(self.num_envs, None, dtype=object)
        for i in np.flatnonzero(ended):
            last[i] = final[i]
        final_info = {
            key: np.where(_as_rows(ended, value), value, np.zeros_like(value)) for key, value in named(infos)
        }
        infos |= {"final_obs": last, "_final_obs": ended.copy(), "final_info": _masked(final_info, ended)}
        infos["_final_info"] = ended.copy()
        state = self._begin(state, ended)
        rows = torch.as_tensor(ended, device=state.core.device)
        count = int(ended.sum())
        new = self._told(state.map(lambda part: part[rows]), np.zeros(count, np.int64), np.zeros(count, bool))
        for key, value in new.items():
            infos[key] = infos[key].copy()  # the final info holds the old one
            infos[key][ended] = value
        return state

    def _begin(self, state: WorldState, mask: np.ndarray) -> WorldState:
        """The state with ``mask`` rows at new starts of the bank."""
        rows = torch.as_tensor(mask, device=state.core.device)
        fresh = state.map(torch.Tensor.clone)
        count, dim = int(mask.sum()), fresh.core.shape[1]
        start = self._draw_starts(count)
        fresh.core[rows] = fresh.companion[rows] = start[:, :dim]
        fresh.shown[rows], fresh.cumulative_disagreement[rows] = start[:, dim:], 0
        fresh.member[rows] = self.world.deal_members(fresh.member[~rows], count, self._generator)
        self._elapsed[mask], self._place[mask] = 0, 0
        return fresh

    def _mask(self, given: Any) -> np.ndarray:
        """Episodes to start: those asked for, or all."""
        if given is None:
            return np.ones(self.num_envs, bool)
        mask = np.asarray(given)
        if mask.shape != (self.num_envs,) or mask.dtype != bool or not mask.any():
            raise ValueError(
                f"options['reset_mask'] must be bool, of shape ({self.num_envs},), and true somewhere"
            )
        if self._state is None:
            raise gym.error.ResetNeeded("call reset() once without a reset_mask")
        return mask

    def _combine(self, seeds: list[int | None]) -> int | None:
        """One seed made of one for each env, since all share a generator."""
        if len(seeds) != self.num_envs:
            raise ValueError(f"seed has {len(seeds)} entries for {self.num_envs} envs; pass an int")
        given = [seed for seed in seeds if seed is not None]
        return int(np.random.SeedSequence(given).generate_state(1, np.uint64)[0]) if given else None

    def _draw_starts(self, count: int) -> torch.Tensor:
        device = self._starts.device
        rows = torch.randint(len(self._starts), (count,), generator=self._generator, device=device)
        return self._starts[rows]

    def _start_from(self, options: dict[str, Any]) -> torch.Tensor:
        if not options:
            return self._draw_starts(self.num_envs)
        layout = self.world.task.core
        if set(options) not in ({"obs"}, {"state"}):
            raise ValueError(f"reset options are {{'obs': ...}} or {{'state': ...}}, got {sorted(options)}")
        ((name, given),) = options.items()
        array = np.asarray(given, np.float64)
        shape: tuple[int, ...] = self.single_observation_space.shape or ()
        if name == "state":
            shape = (layout.dim,) if array.shape[-1:] == (layout.dim,) else (layout.state_dim,)
        if array.shape == shape:
            array = np.broadcast_to(array, (self.num_envs, *shape))
        if array.shape != (self.num_envs, *shape) or not np.isfinite(array).all():
            raise ValueError(
                f"options[{name!r}] must be finite, of shape {shape} or {(self.num_envs, *shape)}"
            )
        flat = array.reshape(self.num_envs, -1)
        state = flat if name == "state" else layout.from_obs(flat)
        return torch.tensor(np.array(state, np.float32), device=self.world.device)

    def _check(self, actions: Any) -> torch.Tensor:
        space = self.single_action_space
        array = np.asarray(actions)
        need = self.action_space.shape
        if array.shape != need:
            raise ValueError(f"Action dimension mismatch: actions have shape {array.shape}, need {need}")
        if isinstance(space, spaces.Discrete):
            if (
                array.dtype.kind not in "iu"
                or ((array < space.start) | (array >= space.start + space.n)).any()
            ):
                raise ValueError(f"actions must be integers of {space}")
            return torch.as_tensor(array.astype(np.int64), device=self._starts.device)
        if not np.isfinite(array).all():
            raise ValueError("actions are not finite; check the policy that made them")
        return torch.from_numpy(array.astype(np.float32)).to(self._starts.device)

    def _observe(self, state: WorldState) -> np.ndarray:
        flat = self.world.task.core.observe(state.full.cpu().numpy())
        return np.array(flat, self.observation_space.dtype).reshape(self.observation_space.shape)

    def _infos(
        self, state: WorldState, diverged: np.ndarray, mask: np.ndarray | None = None
    ) -> dict[str, Any]:
        told = self._told(state, self._elapsed, diverged)
        return _masked(told, np.ones(self.num_envs, bool) if mask is None else mask)

    def _told(self, state: WorldState, elapsed: np.ndarray, diverged: np.ndarray) -> dict[str, Any]:
        """What infos say of some episodes, ``elapsed`` steps old."""
        infos: dict[str, Any] = {"diverged": diverged}
        calibration = self.world.calibration
        if calibration is not None:
            disagreement = self.world.disagreement(state, elapsed) if self.trust else None
            core = state.core.cpu().numpy()
            infos["error_bound"] = calibration.error_bound(elapsed, self.propagation, core, disagreement)
            if self.trust:
                infos["distrust"] = (infos["error_bound"] / calibration.data_std).mean(1)
        if self.trust and self.world.support is not None:
            infos["novelty"] = self.world.novelty(state.core).cpu().numpy()
        return infos


def _merge(old: WorldState, new: WorldState, mask: np.ndarray) -> WorldState:
    """Rows of ``new`` where the mask is true, of ``old`` elsewhere."""
    rows = torch.as_tensor(mask, device=old.core.device)
    parts = ((getattr(new, part.name), getattr(old, part.name)) for part in fields(old))
    return WorldState(*(torch.where(_as_rows(rows, there), here, there) for here, there in parts))


def _as_rows(mask: Any, like: Any) -> Any:
    """A mask of rows ``(n,)``, array or tensor, in the shape that broadcasts over ``like`` ``(n, ...)``."""
    return mask.reshape(-1, *[1] * (like.ndim - 1))


def named(infos: dict[str, Any]) -> list[tuple[str, np.ndarray]]:
    """Entries of infos without their masks."""
    return [(key, value) for key, value in infos.items() if not key.startswith("_")]


def _masked(infos: dict[str, Any], mask: np.ndarray) -> dict[str, Any]:
    """Gymnasium's form: each key beside a mask of the envs that it speaks of."""
    return {**infos, **{f"_{key}": mask.copy() for key in infos}}
