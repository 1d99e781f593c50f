"""DynaSAC: Soft Actor-Critic that learns inside a world model while it collects a tenth of the real steps."""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, RolloutReturn
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from wmgym.agents.sb3.dyna_sac_data import (
    StateBuffer,
    flat_observation,
    parts_shown,
    returns_ahead,
)
from wmgym.agents.sb3.dyna_sac_offline import (
    DisagreementPenalty,
    ImaginedReader,
    kept_states,
    readable_env,
    task_of,
)
from wmgym.agents.sb3.dyna_sac_path import Imagination
from wmgym.agents.sb3.dyna_sac_policy import DynaSACPolicy
from wmgym.agents.sb3.dyna_sac_saving import ResumableSAC
from wmgym.agents.sb3.dyna_sac_settings import BY_BUDGET, check_settings, follow_budget, spread_of
from wmgym.agents.sb3.take_over import alike, go_on_from, layers_of
from wmgym.data.transitions import Transitions
from wmgym.io.schema import read_settings
from wmgym.models.online_fit import OnlineFit, OnlineFitConfig
from wmgym.models.world import WorldModel
from wmgym.tasks.task import Task

_DEFAULTS: dict[str, Any] = {
    "learning_rate": 1e-3, "buffer_size": 200_000, "tau": 0.01, "gamma": 0.995, "ent_coef": "auto_0.1",
}  # fmt: skip
_EPISODES = 20  # shares of all steps, one of which an episode may last: some policies fall late
_PATIENCE = 6  # refits in a row that exploit the model before it warns: the first few always do a little


class DynaSAC(ResumableSAC):
    """Model-based SAC (Stable-Baselines3): from nothing, on a CPU, in a few thousand real steps.

    An ensemble is fitted to the real transitions and refitted, warm, after every ``train_freq`` steps. Actor
    and critic learn from the world model alone: rollouts of the current actor from real states say where
    updates start (distribution rollouts), and every update is a short rollout through which the actor is
    differentiated, with the critic's value at its end; the critic learns the expanded value of its first
    state. After DHMBPO (4kubo, erl_lib); MBPO (arXiv:1906.08253), value expansion (arXiv:1803.00101), SVG
    (arXiv:1510.09142).

    Every other real episode is driven by deterministic actions, as the policy will be used, with noise only
    in states of low value, from which many rollouts start too: they show where the policy fails and how to
    recover. A rollout ends where the ensemble's members disagree. ``predict(deterministic=True)`` is of the
    mean of its weights, or of another actor that is worth a tenth more in whole imagined episodes.

    Rewards and terminations that the task knows in code are used, others are learned; no gradient passes
    through a learned termination, which only ends imagined episodes. Nothing that follows an episode's end or
    a divergence of the model counts.

    Given an imagined env it learns offline, in that env's own world: nothing is fitted and no real step is
    taken. Rollouts start from the real states that the world keeps and from where the env's steps lead; where
    a calibrated world knows less than on its data, steps cost reward.

    Args:
        policy: "MlpPolicy", or a subclass of ``DynaSACPolicy``.
        env: id, Gymnasium env with Box actions, or a ``VecEnv`` of envs behind a ``StateReader`` each; or an
            imagined env, such as ``ImaginedVecEnv("Hopper-v5", 16)``.
        random_episode_steps: episodes of the first ``learning_starts`` random steps are cut here, so that a
            robot that fell does not fill the data.
        episode_steps: later ones are cut here, or after a twentieth of all steps where that is more.
        begin: a policy to go on from, such as the one that runs on the robot: an MLP whose outputs are
            squashed by tanh, as of SAC, TD3, TQC or DynaSAC: the model, an exported policy or its path. The
            actor gets its architecture and weights, takes the first steps in place of random ones, and stays
            for a fifth of the updates, 2,000 at most, while the world and critics learn what it is worth.
        imagination_kwargs: fields of ``Imagination``.
        world_kwargs: fields of ``OnlineFitConfig``.
        kwargs: SAC's keywords, with other defaults: learning rate 1e-3, gamma 0.995, tau 0.01,
            ``ent_coef="auto_0.1"``, ``buffer_size`` 200,000. Three of them follow the ``total_timesteps`` of
            the first ``learn`` where they are not given: ``learning_starts``, a tenth of it within 200 and
            1,000 random steps; ``train_freq``, refits of the world four times as often; ``gradient_steps``,
            one a step, but about 4,000 over a smaller budget. It runs on the CPU, which is faster than a GPU
            at these sizes.

    Attributes:
        world: the world model as of the last refit, or the imagined env's own; None before any training.
        imagined_steps: steps taken in it, one for each state of a batch.
        held_updates: of the first updates, how many leave the actor as it began.

    Raises:
        ValueError: actions that are not Box, ``VecNormalize``, a ``VecEnv`` without ``StateReader``, a
            keyword of SAC that has no meaning here, or a ``begin`` of another kind or for another env.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": DynaSACPolicy, "MultiInputPolicy": DynaSACPolicy,
    }  # fmt: skip
    _run_state = ("_generator", "_rollouts", "_exploited", "_episodes_begun", "_low_value")

    def __init__(
        self,
        policy: str | type[DynaSACPolicy],
        env: GymEnv | str,
        *,
        random_episode_steps: int = 125,
        episode_steps: int = 500,
        begin: Any = None,
        imagination_kwargs: dict[str, Any] | None = None,
        world_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self._by_budget = [name for name in BY_BUDGET if kwargs.get(name) is None]
        kwargs = {name: value for name, value in kwargs.items() if name not in self._by_budget}
        lengths = {"random_episode_steps": random_episode_steps, "episode_steps": episode_steps}
        check_settings(policy, kwargs | lengths)
        self.world: WorldModel | None = None
        self.imagination = read_settings(Imagination, imagination_kwargs or {}, "imagination_kwargs")
        self.world_config = read_settings(OnlineFitConfig, world_kwargs or {}, "world_kwargs")
        self.random_episode_steps, self.episode_steps = random_episode_steps, episode_steps
        self.imagined_steps = self.held_updates = 0
        layers = None if begin is None else layers_of(begin)
        kwargs = alike("DynaSAC", kwargs, layers)
        super().__init__(
            policy, env, replay_buffer_class=StateBuffer, **(_DEFAULTS | kwargs | {"device": "cpu"})
        )
        if begin is not None:
            go_on_from(self, layers)

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        return readable_env(env, verbose, monitor_wrapper)

    def _setup_model(self) -> None:
        if self.env is not None:
            self.offline = isinstance(self.env, ImaginedReader)
            self.task: Task = task_of(self.env)
            self.observation_parts = parts_shown(self.env)
        core = self.task.core
        self.replay_buffer_kwargs = {
            "core_dim": core.dim, "unobserved_dim": core.unobserved_dim, "seed": self.seed or 0,
        }  # fmt: skip
        super()._setup_model()
        seed = int(torch.randint(2**31, ()))  # of the generator that SB3 has just seeded
        self._generator = torch.Generator().manual_seed(seed)
        if not self.offline:
            self.world_fit = OnlineFit(self.task, self.world_config, self._generator)
        self._exploited = 0
        self._episodes_begun = np.arange(self.n_envs)
        self._rollouts: deque[Tensor] = deque(maxlen=self.imagination.rollouts_kept)
        space = self.task.action_space
        assert isinstance(space, spaces.Box)
        low, high = (torch.tensor(side.reshape(-1)).float() for side in (space.low, space.high))
        self._action_middle, self._action_scale = (high + low) / 2, (high - low) / 2

    def _setup_learn(self, total_timesteps: int, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        """As SB3's; the budget of the first call decides what was not given of ``BY_BUDGET``."""
        if total_timesteps > 0:
            follow_budget(self, total_timesteps, self._by_budget)
            self._by_budget = []
        return super()._setup_learn(total_timesteps, *args, **kwargs)

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        """As SB3's; also of dicts where the env shows these."""
        if isinstance(observation, Mapping):
            observation = flat_observation(observation, self.observation_parts)
        return super().predict(observation, state, episode_start, deterministic)

    # Real steps

    def collect_rollouts(self, env: VecEnv, *args: Any, **kwargs: Any) -> RolloutReturn:
        """As SB3's; the policy has learned from the random steps before it acts for the first time."""
        if self._steps_collected:
            pass  # goes on where a file was saved or a callback stopped
        elif self.num_timesteps < self.learning_starts:
            limit = self.episode_steps if self.held_updates else self.random_episode_steps
            env.env_method("limit_episodes", limit)
        else:
            longest = self.num_timesteps // (_EPISODES * self.n_envs)
            env.env_method("limit_episodes", max(self.episode_steps, longest))
            if self._n_updates == 0:
                self.train(0, self.batch_size)
        return super().collect_rollouts(env, *args, **kwargs)

    def _sample_action(
        self, learning_starts: int, action_noise: Any = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """As SB3's; every other episode is of deterministic actions, but where it gets stuck.

        Deterministic actions are what the policy is worth in the end, and they fail in other places than
        noisy ones do. Noise helps out of the states of least value, so that recoveries are seen too.
        """
        if self.held_updates:  # a policy that was begun with acts from the first step of any learn
            learning_starts = 0
        elif self._n_updates == 0:  # nothing was learned yet
            learning_starts = self.num_timesteps + 1
        action, scaled = super()._sample_action(learning_starts, action_noise, n_envs)
        self._deterministic = np.zeros(n_envs, bool)
        if self.num_timesteps >= learning_starts:
            assert isinstance(self._last_obs, np.ndarray)
            value = self._value(torch.tensor(self._last_obs).float().reshape(n_envs, -1))
            rows = self._deterministic = (self._episodes_begun % 2 == 0) & (value > self._low_value).numpy()
            action[rows] = self.policy.averaged_action(self._last_obs)[rows]
            scaled[rows] = self.policy.scale_action(action[rows])
        return action, scaled

    def _store_transition(
        self, replay_buffer: Any, buffer_action: Any, new_obs: Any, reward: Any, dones: Any, infos: Any
    ) -> None:
        for info, deterministic in zip(infos, self._deterministic, strict=True):
            info["deterministic"] = bool(deterministic)
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)
        self._episodes_begun = self._episodes_begun + dones

    def transitions(self, last: int | None = None) -> Transitions:
        """The steps so far, episode by episode; those of the ``last`` steps of every env if asked.

        Real ones, or those of an imagined env, without unobserved quantities.
        """
        return self.replay_buffer.transitions(self.task, last)

    # The world

    def _refit(self) -> None:
        """Fit the world to what has been collected; the observations' normaliser moves along."""
        if self.world is not None and not self.offline:
            self._measure_exploitation()
        data = self.transitions()
        taken = self.replay_buffer.taken
        states = torch.tensor(data.state[taken.argsort(kind="stable")])
        if self.offline:
            if self._kept_states is None:
                self._kept_states = self._enter_world()
            states = torch.cat([self._kept_states, states])
        else:
            for name, value in self.world_fit.refit(data, self.replay_buffer.held_out, taken).items():
                self.logger.record(f"world/{name}", value)
            self.world = replace(self.world_fit.world(data), task=self.task)
        self._real_states, self._first_states = states, torch.tensor(data.state[data.first])
        obs = self.task.core.observe(self._real_states)
        self.policy.set_normaliser(obs.mean(0), spread_of(obs))
        change = torch.tensor(data.next_core - data.core)
        self._change_std = spread_of(change)
        self._find_low_values()

    def _enter_world(self) -> Tensor:
        """Learn in the imagined env's world, as it is; the real states it keeps ``(n, state_dim)``."""
        assert isinstance(self.env, ImaginedReader)
        self.world = world = self.env.world
        if self.imagination.pessimism and world.calibration is not None and world.support is not None:
            self.penalty = DisagreementPenalty(world, self.imagination.pessimism, self._generator)
        return kept_states(world, self.env.get_attr("starts")[0], self._generator)

    @torch.no_grad()
    def _measure_exploitation(self) -> None:
        """Compare the rewards of the steps just taken with what the world, which has not seen them, imagines.

        From the same states, by the same policy: a policy that exploits the model is paid more in there.
        """
        last, steps = math.ceil(self._interval()), self.imagination.rollout_steps
        data = self.transitions(last)
        starts, real = returns_ahead(data, steps)
        if not len(starts):
            return
        quiet = torch.tensor(self.replay_buffer.deterministic_rows(last)[starts])[:, None]
        state, alive, imagined = torch.tensor(data.state[starts]), torch.ones(len(starts)), 0.0
        for _ in range(steps):
            obs = self.task.core.observe(state)
            action = self.policy.averaged_actor(obs, deterministic=True).where(quiet, self._act(obs)[0])
            step = self._step(state, action)
            imagined += float((step.reward * alive).mean())
            alive = alive * ~step.terminated
            state = step.state.full
        paid, said = real.mean() / steps, imagined / steps
        found = {"real_reward": paid, "imagined_reward": said, "exploitation": (excess := said - paid)}
        for name, value in found.items():
            self.logger.record(f"world/{name}", value)
        spread = float(self.replay_buffer.rewards[: self.replay_buffer.size()].std())
        self._exploited = self._exploited + 1 if excess > max(spread, 1e-3) else 0
        if self._exploited == _PATIENCE:
            warnings.warn(
                f"the policy exploits the model: the world imagined {excess:.3g} more reward a step than the "
                "env then paid; take more world_kwargs['updates']",
                stacklevel=2,
            )

    # Updates

    def train(self, gradient_steps: int, batch_size: int = 256) -> None:
        """Refit the world, then update actor, critics and entropy coefficient in it.

        The first time with as many updates as later ones will make for that many steps.
        """
        if (~self.replay_buffer.held_out).sum() < 2:
            return  # nothing has a standard deviation yet
        if self._n_updates == 0:
            interval = self._interval() * self.n_envs
            share = 1.0 if self.gradient_steps < 0 else self.gradient_steps / interval
            gradient_steps = max(gradient_steps, int(share * self.num_timesteps))
        before = self._n_updates
        self.policy.set_training_mode(True)
        optimizers = [self.actor.optimizer, self.critic.optimizer]
        if self.ent_coef_optimizer is not None:
            optimizers.append(self.ent_coef_optimizer)
        self._update_learning_rate(optimizers)
        self._refit()
        if self._rollouts:
            self._starts = torch.cat([*self._rollouts])
        sums: dict[str, float] = {}
        for _ in range(gradient_steps):
            if self._n_updates % self.imagination.rollout_every == 0 or not self._rollouts:
                self._rollouts.append(self._distribution_rollout())
                self._starts = torch.cat([*self._rollouts])
                self.logger.record_mean("world/rollouts_distrusted", float(self._distrusted))
            rows = torch.randint(len(self._starts), (batch_size,), generator=self._generator)
            for name, value in self._update(self._starts[rows]).items():
                sums[name] = sums.get(name, 0.0) + value
            self._n_updates += 1
        if self.penalty is not None and gradient_steps:
            for name, value in self.penalty.report().items():
                self.logger.record(f"world/{name}", value)
        for name, value in sums.items():
            self.logger.record(f"train/{name}", value / gradient_steps)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self._choose_actor(before)

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        modules, tensors = super()._get_torch_save_params()
        return modules if self.offline else [*modules, "world_fit", "world_fit.optimizer"], tensors
