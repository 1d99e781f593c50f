"""Exact resume: what ``DynaSAC`` saves beside SB3's own, and how a run goes on from there."""

from __future__ import annotations

import io
import random
import time
import warnings
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import ActionNoise, VectorizedActionNoise
from stable_baselines3.common.save_util import open_path
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, RolloutReturn, TrainFreq
from stable_baselines3.common.utils import should_collect_more_steps
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from wmgym.agents.sb3.dyna_sac_data import StateBuffer
from wmgym.agents.sb3.dyna_sac_file import Run, append_run, read_run
from wmgym.agents.sb3.dyna_sac_offline import check_same_kind, task_of
from wmgym.agents.sb3.dyna_sac_policy import DynaSACPolicy
from wmgym.agents.sb3.dyna_sac_settings import check_settings
from wmgym.agents.sb3.dyna_sac_updates import ImaginedUpdates
from wmgym.io import files
from wmgym.io.files import StoreError
from wmgym.models.world import WorldModel

_MONITORED = ("rewards", "episode_returns", "episode_lengths", "episode_times", "total_steps")


class ResumableSAC(ImaginedUpdates):
    """The real steps of ``DynaSAC``, and files from which it goes on as if it had never stopped.

    A subclass names in ``_run_state`` what changes during a run and SB3 does not save. SB3 itself saves
    the state dicts that ``_get_torch_save_params`` names, and numbers; but ``_setup_model`` runs after these
    are loaded, so a number that it sets must be named as well.
    """

    _run_state: ClassVar[tuple[str, ...]] = ()
    """Attributes with numbers, tensors, arrays, generators, or lists, deques and dicts of them."""

    replay_buffer: StateBuffer
    _steps_collected = 0  # since the last training
    _episodes_collected = 0
    _kept_states: Tensor | None = None  # of the imagined env's world
    _loaded: Run | None = None  # what of a file has to wait for the next ``learn``

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """As SB3's; rewards and terminations that are known are those of the new env from now on."""
        super().set_env(env, force_reset)
        assert self.env is not None
        check_same_kind(self.task, task := task_of(self.env))
        self.task, self._kept_states = task, None
        if self.world is not None:
            self.world = replace(self.world, task=task)

    def save(
        self,
        path: str | Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """As SB3's, to one file from which ``load`` goes on exactly; a crash leaves the old file or the new.

        Args:
            path: the file; ".zip" is added where it has no suffix.
            exclude: attributes to leave out; without "replay_buffer" the file is smaller and good for acting,
                but a run goes on exactly only once ``load_replay_buffer`` has brought the real steps back.
            include: as SB3's.
        """
        exclude = set(exclude or ())
        file = io.BytesIO()
        super().save(file, exclude, set(include or ()) - {"replay_buffer"})
        append_run(file, self._read_run("replay_buffer" not in exclude))
        if not isinstance(path, (str, Path)):
            open_path(path, "w").write(file.getvalue())
            return
        target = Path(path) if Path(path).suffix else Path(f"{path}.zip")
        with files.write_errors(target), files.writing(target.parent) as write:
            write(target.name, file.getvalue())

    @classmethod
    def load(
        cls,
        path: str | Path | io.BufferedIOBase,
        env: GymEnv | None = None,
        device: torch.device | str = "cpu",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = False,
        **kwargs: Any,
    ) -> Self:
        """As SB3's; ``learn(steps, reset_num_timesteps=False)`` then goes on as if it had never stopped.

        Equal to the last bit on the same machine, wherever the file was saved, in a callback as well. The
        running episode goes on in MuJoCo tasks that ``make_task`` knows. The state of other envs cannot be
        read: their episode is abandoned and they are reset with a seed of the saved generator, so that two
        continuations are equal to each other. Python's, NumPy's and torch's global generators are set when
        ``learn`` begins. Callbacks begin anew, as in SB3. As SB3's, it runs code that a file may hold, so
        load your own files only; ``import_sb3`` takes the policy out of anyone's.

        Args:
            path: what ``save`` wrote.
            env: a new env of the same kind; None for a model that only predicts.
            device: the CPU.
            custom_objects: as SB3's.
            print_system_info: as SB3's.
            force_reset: begin with a new episode.
            kwargs: attributes to change.

        Raises:
            ValueError: a file that is damaged, or of another algorithm or version; other spaces.
        """
        check_settings(DynaSACPolicy, {"device": device})
        run = read_run(path)
        model = super().load(path, env, "cpu", custom_objects, print_system_info, force_reset, **kwargs)
        model._write_run(run)
        return model

    def _excluded_save_params(self) -> list[str]:
        kinds = (Tensor, torch.Generator, np.ndarray)  # made anew, or in _run_state, or SB3's _last_obs
        arrays = {name for name, value in vars(self).items() if isinstance(value, kinds)}
        arrays -= {"_last_obs", "_last_original_obs", "_last_episode_starts"}
        left = ["world", "penalty", "world_fit", "replay_buffer_kwargs", "_loaded"]
        return [*super()._excluded_save_params(), *arrays, *left, *self._run_state]

    def _read_run(self, with_buffer: bool) -> Run:
        """All that a run depends on and SB3 does not save."""
        waits = self._loaded
        if waits is None:
            running = self.env is not None and self._last_obs is not None
            waits = {
                "generators": {
                    "python": random.getstate(),
                    "numpy": np.random.get_state(legacy=False),  # noqa: NPY002 - SB3's action noise draws from it
                    "torch": torch.get_rng_state(),
                    "actions": self.action_space.np_random.bit_generator.state,
                },
                "episodes": _read_episodes(self.env) if running and self.env is not None else None,
            }
        return {
            "attributes": {name: getattr(self, name, None) for name in self._run_state},
            "world": None if self.world is None else self.world.pack(),
            "replay_buffer": self.replay_buffer.pack() if with_buffer else None,
            "n_envs": self.n_envs,
            "waits": waits,
        }

    def _write_run(self, run: Run) -> None:
        """Put back what ``_read_run`` read; generators that others share and the env wait for ``learn``."""
        if run["attributes"].keys() != set(self._run_state):
            raise StoreError("the file is of another version of wmgym; load it with the one that saved it")
        for name, value in run["attributes"].items():
            now = getattr(self, name, None)
            if isinstance(now, torch.Generator):
                now.set_state(value)
            elif isinstance(now, deque):
                now.extend(value)
            else:
                setattr(self, name, value)
        if run["world"] is not None:
            arrays, document = run["world"]
            self.world = WorldModel.unpack(arrays, document, self.task)
        if run["n_envs"] == self.n_envs:
            self._loaded = run["waits"]
            if run["replay_buffer"] is not None:
                self.replay_buffer.unpack(run["replay_buffer"])
        else:
            self._last_obs = None
            warnings.warn(
                f"the file holds the steps of {run['n_envs']} envs, and there are {self.n_envs} now: a run "
                "would go on with an empty replay buffer and new episodes",
                stacklevel=3,
            )

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        goes_on = not reset_num_timesteps and self._last_obs is not None
        if self._loaded is not None:
            self._resume(self._loaded, goes_on)
            self._loaded = None
        if not goes_on:
            self.replay_buffer.end_episodes()
        if not goes_on or not self.replay_buffer.size():
            self._steps_collected = self._episodes_collected = 0
        noise = self.action_noise
        if goes_on and (self.n_envs == 1 or isinstance(noise, VectorizedActionNoise)):
            self.action_noise = None  # which SB3 would reset in the middle of an episode
        found = super()._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        self.action_noise = self.action_noise or noise
        assert isinstance(self.train_freq, TrainFreq)
        steps, episodes = self._steps_collected, self._episodes_collected
        if not should_collect_more_steps(self.train_freq, steps, episodes):
            # The file was saved after the last of these steps and before the training that follows them.
            self._steps_collected = self._episodes_collected = 0
            updates = self.gradient_steps if self.gradient_steps >= 0 else steps * self.n_envs
            if self.num_timesteps > self.learning_starts and updates > 0:
                self.train(updates, self.batch_size)
        return found

    def _resume(self, run: Run, goes_on: bool) -> None:
        """Bring the env to where it was, and the generators that others share."""
        assert self.env is not None, "pass an env to load, or call set_env"
        if (episodes := run["episodes"]) is not None:
            self.env.reset()
            for at, episode in enumerate(episodes):
                _write_episode(self.env, at, episode)
            if any(episode["state"] is None for episode in episodes):
                self.env.seed(int(torch.randint(2**31, (), generator=self._generator)))
                if goes_on:
                    self._last_obs = self.env.reset()  # type: ignore[assignment]
                    self.replay_buffer.end_episodes()
                    warnings.warn(
                        f"the state of {self.task.env_id or 'this env'} cannot be read: the episode that was "
                        "running when the file was saved is abandoned, a new one begins",
                        stacklevel=4,
                    )
        generators = run["generators"]
        version, words, normal = generators["python"]
        random.setstate((version, tuple(words), normal))
        np.random.set_state(generators["numpy"])  # noqa: NPY002
        torch.set_rng_state(generators["torch"])
        self.action_space.np_random.bit_generator.state = generators["actions"]

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        train_freq: TrainFreq,
        replay_buffer: Any,
        action_noise: ActionNoise | None = None,
        learning_starts: int = 0,
        log_interval: int | None = None,
    ) -> RolloutReturn:
        """As SB3's, but a step is stored before callbacks see it.

        So whatever a callback saves is whole, and a run that one stopped goes on with the same step.
        """
        self.policy.set_training_mode(False)
        callback.on_rollout_start()
        while should_collect_more_steps(train_freq, self._steps_collected, self._episodes_collected):
            actions, buffer_actions = self._sample_action(learning_starts, action_noise, env.num_envs)
            new_obs, rewards, dones, infos = env.step(actions)
            self.num_timesteps += env.num_envs
            self._update_info_buffer(infos, dones)
            self._store_transition(replay_buffer, buffer_actions, new_obs, rewards, dones, infos)  # type: ignore[arg-type]
            self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
            ended = np.flatnonzero(dones)
            if action_noise is not None and len(ended):
                action_noise.reset(**({"indices": ended} if env.num_envs > 1 else {}))
            before = self._episode_num
            self._steps_collected += 1
            self._episodes_collected += len(ended)
            self._episode_num += len(ended)
            callback.update_locals(locals())
            goes_on = callback.on_step()
            if log_interval is not None and self._episode_num // log_interval > before // log_interval:
                self.dump_logs()
            if not goes_on:
                return RolloutReturn(self._steps_collected * env.num_envs, self._episodes_collected, False)
        callback.on_rollout_end()
        steps, episodes = self._steps_collected, self._episodes_collected
        self._steps_collected = self._episodes_collected = 0
        return RolloutReturn(steps * env.num_envs, episodes, True)


def _read_episodes(env: VecEnv) -> list[Run]:
    """The running episode of each env, its ``Monitor`` included."""
    episodes: list[Run] = env.env_method("read_episode")
    for at, monitored in enumerate(env.env_is_wrapped(Monitor)):
        if monitored:
            seen = {name: env.get_attr(name, at)[0] for name in _MONITORED}
            episodes[at]["monitor"] = seen, time.time() - env.get_attr("t_start", at)[0]
    return episodes


def _write_episode(env: VecEnv, at: int, episode: Run) -> None:
    env.env_method("resume_episode", episode, indices=at)
    if "monitor" in episode and env.env_is_wrapped(Monitor, at)[0]:
        seen, elapsed = episode["monitor"]
        if episode["state"] is None:
            del seen["rewards"]
        for name, value in (seen | {"t_start": time.time() - elapsed}).items():
            env.env_method("set_wrapper_attr", name, value, indices=at)
