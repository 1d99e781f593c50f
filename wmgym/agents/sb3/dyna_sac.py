"""DynaSAC: Soft Actor-Critic that learns inside a world model while it collects a tenth of the real steps."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.wrappers import FlattenObservation
from stable_baselines3 import SAC
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, RolloutReturn, Schedule, TrainFreq
from stable_baselines3.common.utils import polyak_update
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import Tensor
from torch.nn import functional

from wmgym.agents.sb3.dyna_sac_data import StateBuffer, StateReader
from wmgym.agents.sb3.dyna_sac_policy import BoundedCritic, DynaSACPolicy
from wmgym.data.transitions import Transitions
from wmgym.models.online_fit import OnlineFit, OnlineFitConfig
from wmgym.models.state import WorldStep
from wmgym.models.world import WorldModel
from wmgym.tasks.task import Task

_LOG_SQRT_2PI, _LOG_2 = 0.5 * np.log(2 * np.pi), np.log(2.0)


@dataclass(frozen=True)
class Imagination:
    """How DynaSAC imagines.

    Attributes:
        training_steps: differentiable model steps of every update.
        rollout_steps: model steps of a distribution rollout, whose states are where updates start.
        rollout_every: updates from one distribution rollout to the next.
        rollout_batch: real states that each starts from.
        rollouts_kept: rollouts that updates draw from, the last ones.
        recent_share: share of these real states that is drawn from the last ``recent_steps``.
        recent_steps: see ``recent_share``.
        range_rate: how fast the range of values follows the quantiles of imagined rewards.
    """

    training_steps: int = 5
    rollout_steps: int = 20
    rollout_every: int = 40
    rollout_batch: int = 256
    rollouts_kept: int = 5
    recent_share: float = 0.3
    recent_steps: int = 2_000
    range_rate: float = 1e-3


class DynaSAC(SAC):
    """Model-based SAC (Stable-Baselines3): from nothing, on a CPU, in a few thousand real steps.

    An ensemble is fitted to the real transitions and refitted, warm, after every ``train_freq`` steps. Actor
    and critic learn from the world model alone: rollouts of the current actor from real states say where
    updates start (distribution rollouts), and every update is a short rollout through which the actor is
    differentiated, with the critic's value at its end; the critic learns the expanded value of its first
    state. After DHMBPO (4kubo, erl_lib); MBPO (arXiv:1906.08253), value expansion (arXiv:1803.00101), SVG
    (arXiv:1510.09142).

    Rewards and terminations that the task knows in code are used, others are learned; no gradient passes
    through a learned termination, which only ends imagined episodes. Nothing that follows an episode's end or
    a divergence of the model counts.

    Args:
        policy: "MlpPolicy", or a subclass of ``DynaSACPolicy``.
        env: id, Gymnasium env with Box actions, or a ``VecEnv`` of one env behind a ``StateReader``.
        learning_rate: of actor, critics and entropy coefficient.
        buffer_size: real transitions kept.
        learning_starts: random steps at first.
        batch_size: imagined rollouts an update.
        tau: of the critics' targets.
        gamma: discount.
        train_freq: real steps from refit to refit.
        gradient_steps: updates after these steps; -1 for one a real step.
        ent_coef: as SAC's.
        target_entropy: as SAC's.
        first_model_updates: gradient steps of the first fit.
        model_updates: gradient steps of every refit.
        random_episode_steps: random episodes are cut here, so that a robot that fell does not fill the data.
        episode_steps: episodes of the policy are cut here.
        imagination_kwargs: fields of ``Imagination``.
        world_kwargs: fields of ``OnlineFitConfig``.
        policy_kwargs: as SAC's.
        stats_window_size: as SAC's.
        tensorboard_log: as SAC's.
        verbose: as SAC's.
        seed: decides networks, actions and everything imagined.
        device: the CPU is faster at these sizes.

    Attributes:
        world: the world model as of the last refit; None before the first.

    Raises:
        ValueError: actions that are not Box, more envs than one, ``VecNormalize``, or a ``VecEnv`` without
            ``StateReader``.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": DynaSACPolicy}
    policy: DynaSACPolicy
    critic: BoundedCritic
    critic_target: BoundedCritic
    replay_buffer: StateBuffer

    def __init__(
        self,
        policy: str | type[DynaSACPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 1e-3,
        buffer_size: int = 200_000,
        learning_starts: int = 1_000,
        batch_size: int = 256,
        tau: float = 0.01,
        gamma: float = 0.995,
        train_freq: int = 250,
        gradient_steps: int = -1,
        ent_coef: str | float = "auto_0.1",
        target_entropy: str | float = "auto",
        first_model_updates: int = 500,
        model_updates: int = 100,
        random_episode_steps: int = 125,
        episode_steps: int = 500,
        imagination_kwargs: dict[str, Any] | None = None,
        world_kwargs: dict[str, Any] | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "cpu",
        _init_setup_model: bool = True,
    ) -> None:
        self.world: WorldModel | None = None
        self.imagination = Imagination(**(imagination_kwargs or {}))
        self.world_config = OnlineFitConfig(**(world_kwargs or {}))
        self.first_model_updates, self.model_updates = first_model_updates, model_updates
        self.random_episode_steps, self.episode_steps = random_episode_steps, episode_steps
        super().__init__(
            policy=policy,
            env=env,
            learning_rate=learning_rate,
            buffer_size=buffer_size,
            learning_starts=learning_starts,
            batch_size=batch_size,
            tau=tau,
            gamma=gamma,
            train_freq=train_freq,
            gradient_steps=gradient_steps,
            replay_buffer_class=StateBuffer,
            ent_coef=ent_coef,
            target_entropy=target_entropy,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
        )

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        if not isinstance(env.action_space, spaces.Box):
            raise ValueError(
                f"DynaSAC needs Box actions, got {env.action_space}; for Discrete ones take "
                "wmgym.sb3.train(world, wmgym.sb3.TrainConfig('PPO')) or 'DQN'"
            )
        if isinstance(env, VecEnv):
            if env.num_envs > 1 or not all(env.env_is_wrapped(StateReader)):
                raise ValueError(
                    "DynaSAC takes one env; in a VecEnv of your own put wmgym.sb3.StateReader around it"
                )
            if isinstance(env, VecNormalize):
                raise ValueError("DynaSAC normalises by itself; pass the env without VecNormalize")
            return env
        if isinstance(env.observation_space, spaces.Dict):
            env = FlattenObservation(env)
        return SAC._wrap_env(StateReader(env), verbose, monitor_wrapper)

    def _setup_model(self) -> None:
        if self.env is not None:
            self.task: Task = self.env.get_attr("task")[0]
        core = self.task.core
        self.replay_buffer_kwargs = {
            "core_dim": core.dim, "unobserved_dim": core.unobserved_dim, "seed": self.seed or 0,
        }  # fmt: skip
        super()._setup_model()
        seed = int(torch.randint(2**31, ()))  # of the generator that SB3 has just seeded
        self._generator = torch.Generator().manual_seed(seed)
        self.world_fit = OnlineFit(self.task, self.world_config, self._generator)
        self._rollouts: deque[Tensor] = deque(maxlen=self.imagination.rollouts_kept)
        space = self.task.action_space
        assert isinstance(space, spaces.Box)
        low, high = (torch.tensor(side.reshape(-1)).float() for side in (space.low, space.high))
        self._action_middle, self._action_scale = (high + low) / 2, (high - low) / 2

    # Real steps

    def collect_rollouts(self, env: VecEnv, *args: Any, **kwargs: Any) -> RolloutReturn:
        """As SB3's; the policy has learned from the random steps before it acts for the first time."""
        if self.num_timesteps < self.learning_starts:
            env.env_method("limit_episodes", self.random_episode_steps)
        else:
            env.env_method("limit_episodes", self.episode_steps)
            if self._n_updates == 0 and self.replay_buffer.size():
                assert isinstance(self.train_freq, TrainFreq)
                share = 1.0 if self.gradient_steps < 0 else self.gradient_steps / self.train_freq.frequency
                self.train(int(share * self.num_timesteps), self.batch_size)
        return super().collect_rollouts(env, *args, **kwargs)

    def transitions(self, last: int | None = None) -> Transitions:
        """The real steps so far, oldest first, to calibrate or score with; the ``last`` of them if asked."""
        return self.replay_buffer.transitions(self.task, last)

    # The world

    def _refit(self) -> None:
        """Fit the world to what has been collected; the observations' normaliser moves along."""
        data = self.transitions()
        if self.world is not None:
            self._measure_exploitation()
        first = int(self.world_fit.updates) == 0
        updates = self.first_model_updates if first else self.model_updates
        for name, value in self.world_fit.refit(data, self.replay_buffer.held_out, updates).items():
            self.logger.record(f"world/{name}", value)
        self.world = self.world_fit.world(data)
        obs = torch.tensor(self.task.core.observe(data.state))
        self.policy.set_normaliser(obs.mean(0), obs.std(0).clamp(min=1e-3))

    @torch.no_grad()
    def _measure_exploitation(self) -> None:
        """What the world said of the steps just taken before it saw them, from the same states."""
        assert isinstance(self.train_freq, TrainFreq)
        data = self.transitions(self.train_freq.frequency)
        assert data.reward is not None
        steps = self.imagination.rollout_steps
        last = (
            np.minimum(np.arange(len(data)) + steps, np.append(data.first[1:], len(data))[data.episode]) - 1
        )
        whole = (last - np.arange(len(data)) == steps - 1) | data.terminated[last]
        if not whole.any():
            return
        paid = np.concatenate([[0.0], np.cumsum(data.reward)])
        real = (paid[last + 1] - paid[:-1])[whole].mean() / steps
        rewards, alive = [], torch.ones(int(whole.sum()))
        state = torch.tensor(data.state[whole])
        for _ in range(steps):
            step = self._step(state, self._act(self.task.core.observe(state))[0])
            rewards.append(float((step.reward * alive).mean()))
            alive = alive * ~step.terminated
            state = step.state.full
        self.logger.record("world/real_reward", real)
        self.logger.record("world/imagined_reward", np.mean(rewards))

    def _step(self, state: Tensor, action: Tensor) -> WorldStep:
        """One step of the world from states ``(batch, state_dim)``, every row by a member drawn anew."""
        assert self.world is not None
        start = self.world.init(state, self._generator)
        return self.world.step(start, torch.addcmul(self._action_middle, action, self._action_scale))

    def _act(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Actions in [-1, 1] ``(batch, action_dim)`` and their log probability ``(batch,)``."""
        mean, log_std, _ = self.actor.get_action_dist_params(obs)
        noise = torch.randn(mean.shape, generator=self._generator)
        raw = torch.addcmul(mean, log_std.exp(), noise)
        squash = 2 * (_LOG_2 - raw - functional.softplus(-2 * raw))
        return torch.tanh(raw), (-0.5 * noise * noise - log_std - _LOG_SQRT_2PI - squash).sum(1)

    def _distribution_rollout(self) -> Tensor:
        """States that the current actor reaches from real ones."""
        config, buffer = self.imagination, self.replay_buffer
        data, size = self.transitions(), buffer.size()
        recent = round(config.recent_share * config.rollout_batch)
        rows = torch.randint(size, (config.rollout_batch,), generator=self._generator)
        newest = torch.randint(min(config.recent_steps, size), (recent,), generator=self._generator)
        rows[:recent] = size - 1 - newest
        return self._reached_from(torch.tensor(data.state)[rows])

    @torch.no_grad()
    def _reached_from(self, state: Tensor) -> Tensor:
        """States of a rollout of the current actor, these included, as far as the model is sound."""
        found, alive = [state], torch.ones(len(state), dtype=torch.bool)
        for _ in range(self.imagination.rollout_steps - 1):
            step = self._step(state, self._act(self.task.core.observe(state))[0])
            alive = alive & ~step.terminated & ~step.diverged
            state = step.state.full
            found.append(state[alive])
        return torch.cat(found)

    # Updates

    def train(self, gradient_steps: int, batch_size: int = 256) -> None:
        """Refit the world, then update actor, critics and entropy coefficient in it."""
        self.policy.set_training_mode(True)
        optimizers = [self.actor.optimizer, self.critic.optimizer]
        if self.ent_coef_optimizer is not None:
            optimizers.append(self.ent_coef_optimizer)
        self._update_learning_rate(optimizers)
        self._refit()
        sums: dict[str, float] = {}
        for _ in range(gradient_steps):
            if self._n_updates % self.imagination.rollout_every == 0 or not self._rollouts:
                self._rollouts.append(self._distribution_rollout())
                self._starts = torch.cat([*self._rollouts])
            rows = torch.randint(len(self._starts), (batch_size,), generator=self._generator)
            for name, value in self._update(self._starts[rows]).items():
                sums[name] = sums.get(name, 0.0) + value
            self._n_updates += 1
        for name, value in sums.items():
            self.logger.record(f"train/{name}", value / gradient_steps)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def _update(self, state: Tensor) -> dict[str, float]:
        """One step of every optimiser, from imagined states ``(batch, state_dim)``."""
        path = self._imagine(state)
        ent_coef = self._entropy_coefficient()
        target = self._expanded_value(path, ent_coef)
        scale = self.critic.scale
        values = torch.cat(self.critic(path.obs[0].detach(), path.actions[0].detach()), 1)
        error = ((values - target[:, None]) / scale).square() * path.sound[:, None]
        critic_loss = error.mean(0).sum()
        self.critic.optimizer.zero_grad()
        critic_loss.backward()  # type: ignore[no-untyped-call]
        self.critic.optimizer.step()
        polyak_update(self.critic.parameters(), self.critic_target.parameters(), self.tau)

        actor_loss = -self._actor_gain(path, ent_coef) / scale
        actor = [*self.actor.parameters()]
        for parameter, gradient in zip(actor, torch.autograd.grad(actor_loss, actor), strict=True):
            parameter.grad = gradient
        self.actor.optimizer.step()
        self._update_entropy_coefficient(path.log_probs[0])
        return {
            "actor_loss": (actor_loss * scale).item(),
            "critic_loss": (critic_loss * scale * scale).item(),
            "ent_coef": ent_coef.item(),
            "value": values.mean().item(),
            "entropy": -path.log_probs[0].mean().item(),
        }

    def _actor_gain(self, path: _Path, ent_coef: Tensor) -> Tensor:
        """Discounted imagined rewards, the value behind them, and entropy: what the actor ascends.

        A rollout that ended is cut before the action that ended it. Nothing can be differentiated through an
        end, but the critic's slope there says what the end cost.
        """
        counts, rows = path.counts, torch.arange(path.counts.shape[1])
        last = counts.sum(0).long() - 1  # (batch,), the last state that was alive
        obs, actions = torch.stack(path.obs)[last, rows], torch.stack(path.actions)[last, rows]
        value = torch.cat(self.critic(obs, actions), 1).mean(1)
        powers = torch.tensor(self.gamma) ** torch.arange(len(counts))
        gains = (powers[:-1, None] * path.rewards * counts[1:]).sum(0) + powers[last] * value
        return (gains - ent_coef * (powers[:, None] * path.log_probs * counts).sum(0)).mean()

    def _imagine(self, state: Tensor) -> _Path:
        """A rollout of the actor, differentiable in its parameters."""
        seen: list[tuple[Tensor, ...]] = []
        count, rewards, sound = torch.ones(len(state)), [], torch.ones(len(state), dtype=torch.bool)
        for _ in range(self.imagination.training_steps):
            obs = self.task.core.observe(state)
            seen.append((obs, *self._act(obs), count))
            step = self._step(state, seen[-1][1])
            rewards.append(step.reward)
            sound = sound & ~step.diverged
            count = count * ~(step.terminated | step.diverged)
            state = step.state.full
        obs = self.task.core.observe(state)
        seen.append((obs, *self._act(obs), count))
        every_obs, actions, log_probs, counts = zip(*seen, strict=True)
        return _Path(
            every_obs, actions, torch.stack(log_probs), torch.stack(rewards), torch.stack(counts), sound
        )

    @torch.no_grad()
    def _expanded_value(self, path: _Path, ent_coef: Tensor) -> Tensor:
        """What the critics should say of the first states and actions ``(batch,)``."""
        gains = path.rewards - ent_coef * path.log_probs[:-1]
        low, high = torch.quantile(gains, torch.tensor([0.01, 0.99])) / (1 - self.gamma)
        low, high = low.clamp(max=0.0), high.clamp(min=0.0)  # an episode that is over is worth nothing
        rate = self.imagination.range_rate if self._n_updates else 1.0
        low, high = self.critic.low.lerp(low, rate), self.critic.high.lerp(high, rate)
        self.policy.bound_values(low, high)
        value = torch.cat(self.critic_target(path.obs[-1], path.actions[-1]), 1).amin(1).clamp(low, high)
        for h in reversed(range(len(path.counts))):
            target = value if h == len(gains) else path.rewards[h] + self.gamma * value
            value = (target - ent_coef * path.log_probs[h]) * path.counts[h]
        return target

    def _entropy_coefficient(self) -> Tensor:
        if self.log_ent_coef is None:
            return self.ent_coef_tensor
        return self.log_ent_coef.detach().exp()

    def _update_entropy_coefficient(self, log_prob: Tensor) -> None:
        if self.log_ent_coef is not None and self.ent_coef_optimizer is not None:
            loss = -(self.log_ent_coef * (log_prob.detach() + float(self.target_entropy))).mean()
            self.ent_coef_optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.ent_coef_optimizer.step()

    # Stable-Baselines3

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "DynaSAC",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> DynaSAC:
        """As SB3's; ``total_timesteps`` are steps of the real env."""
        return super().learn(
            total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar
        )

    def _excluded_save_params(self) -> list[str]:
        left = ["world", "world_fit", "replay_buffer_kwargs", "_rollouts", "_starts", "_generator"]
        return [*super()._excluded_save_params(), *left]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        modules, tensors = super()._get_torch_save_params()
        return [*modules, "world_fit", "world_fit.optimizer"], tensors


@dataclass(frozen=True)
class _Path:
    """A batch of imagined rollouts of ``steps`` steps.

    Attributes:
        obs: ``steps + 1`` times ``(batch, obs_dim)``.
        actions: likewise ``(batch, action_dim)``, in [-1, 1].
        log_probs: ``(steps + 1, batch)``.
        rewards: ``(steps, batch)``.
        counts: ``(steps + 1, batch)``, 0 after an episode ended or the model diverged, else 1.
        sound: ``(batch,)`` bool, whether the model did not diverge.
    """

    obs: tuple[Tensor, ...]
    actions: tuple[Tensor, ...]
    log_probs: Tensor
    rewards: Tensor
    counts: Tensor
    sound: Tensor
