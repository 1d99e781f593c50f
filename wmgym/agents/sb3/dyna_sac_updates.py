"""How ``DynaSAC`` updates its networks: rollouts in a world model, and what is learned from them."""

from __future__ import annotations

from collections import deque

import numpy as np
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import polyak_update
from torch import Tensor
from torch.nn import functional

from wmgym.agents.sb3.dyna_sac_offline import DisagreementPenalty
from wmgym.agents.sb3.dyna_sac_path import Imagination, Path, imagine
from wmgym.agents.sb3.dyna_sac_policy import BoundedCritic, DynaSACPolicy, most_likely
from wmgym.models.state import WorldStep
from wmgym.models.world import WorldModel
from wmgym.tasks.task import Task

_COMPARED = 250  # updates
_LOG_SQRT_2PI, _LOG_2 = 0.5 * np.log(2 * np.pi), np.log(2.0)


class ImaginedUpdates(SAC):
    """The updates of ``DynaSAC``, in a world model that it is given, from real states that it is given.

    Attributes:
        world: where it imagines; None before there is one.
        task: its task.
        offline: whether the world stays as it was given.
        imagination: how it imagines.
        penalty: of steps that the world is unsure of; None for none.
        imagined_steps: steps of the world so far, one for each state of a batch.
        held_updates: of the first updates, how many leave the actor and the entropy coefficient as they are.
    """

    policy: DynaSACPolicy
    critic: BoundedCritic
    critic_target: BoundedCritic
    world: WorldModel | None
    task: Task
    offline = False
    imagination: Imagination
    penalty: DisagreementPenalty | None = None
    imagined_steps: int
    held_updates: int
    _generator: torch.Generator
    _rollouts: deque[Tensor]
    _starts: Tensor
    _real_states: Tensor
    _first_states: Tensor
    _low_value: Tensor
    _change_std: Tensor
    _distrusted: Tensor
    _low_value_rows: Tensor
    _action_middle: Tensor
    _action_scale: Tensor

    # The model and the policy

    def _step(self, state: Tensor, action: Tensor) -> WorldStep:
        """One step of the world from states ``(batch, state_dim)``, every row by a member drawn anew.

        With the noise that the member states, which is most of all how wrong it expects to be: a policy that
        falls at the smallest error of the model falls in the env.
        """
        assert self.world is not None
        self.imagined_steps += len(state)
        start = self.world.init(state, self._generator)
        action = torch.addcmul(self._action_middle, action, self._action_scale)
        if self.penalty is not None:
            return self.penalty(self.world.step(start, action, trust=True))
        return self.world.step(start, action, "sample", self._generator)

    def _act(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Actions in [-1, 1] ``(batch, action_dim)`` and their log probability ``(batch,)``."""
        mean, log_std, _ = self.actor.get_action_dist_params(obs)
        noise = torch.randn(mean.shape, generator=self._generator)
        raw = torch.addcmul(mean, log_std.exp(), noise)
        squash = 2 * (_LOG_2 - raw - functional.softplus(-2 * raw))
        return torch.tanh(raw), (-0.5 * noise * noise - log_std - _LOG_SQRT_2PI - squash).sum(1)

    # Where updates start

    def _distribution_rollout(self) -> Tensor:
        """States that the current actor reaches from real ones."""
        config, size = self.imagination, len(self._real_states)
        rows = torch.randint(size, (config.rollout_batch,), generator=self._generator)
        recent = round(config.recent_share * config.rollout_batch)
        newest = torch.randint(min(config.recent_steps, size), (recent,), generator=self._generator)
        rows[:recent] = size - 1 - newest
        low = round(config.low_value_share * config.rollout_batch)
        place = torch.randint(len(self._low_value_rows), (low,), generator=self._generator)
        rows[config.rollout_batch - low :] = self._low_value_rows[place]
        return self._reached_from(self._real_states[rows])

    @torch.no_grad()
    def _find_low_values(self) -> None:
        """The real states from which the policy is worth least, as the critics see it."""
        size = len(self._real_states)
        rows = torch.randint(size, (min(size, 4_096),), generator=self._generator)
        value = self._value(self.task.core.observe(self._real_states[rows]))
        self._low_value = torch.quantile(value, 0.1)
        self._low_value_rows = rows[value <= self._low_value]

    @torch.no_grad()
    def _value(self, obs: Tensor) -> Tensor:
        """What the critics say of deterministic actions ``(batch,)``."""
        action = self.policy.averaged_actor(obs, deterministic=True)
        return torch.cat(self.critic(obs, action), 1).mean(1)

    @torch.no_grad()
    def _reached_from(self, state: Tensor) -> Tensor:
        """States of a rollout of the current actor, these included, as far as the model can be trusted.

        That is until the episode ends, leaves the range of the data, or two members disagree about a step
        much more than they do about steps from real states (as in arXiv:2405.19014).
        """
        found, alive = [state], torch.ones(len(state), dtype=torch.bool)
        limit, self._distrusted = torch.tensor(torch.inf), torch.tensor(0.0)
        for t in range(self.imagination.rollout_steps - 1):
            action = self._act(self.task.core.observe(state))[0]
            step, other = self._step(state, action), self._step(state, action)
            apart = ((step.state.core - other.state.core) / self._change_std).square().mean(1)
            if t == 0:
                limit = torch.quantile(apart, 0.95) * self.imagination.disagreement_ratio**2
            alive = alive & ~step.terminated & ~step.diverged
            self._distrusted += (alive & (apart > limit)).float().mean()
            alive = alive & (apart <= limit)
            state = step.state.full
            found.append(state[alive])
        return torch.cat(found)

    # The actor that acts deterministically

    @torch.no_grad()
    def _choose_actor(self, before: int) -> None:
        """Take the averaged actor, or where it is worth much less in the world the best one.

        That is of the one chosen so far and the two of now, after every so many updates, of which there were
        ``before`` at the last call, and at the end. A few per cent decide nothing: of HalfCheetah the actor
        that imagined episodes had 3 % faster was the one that fell on its back in real ones.
        Whole episodes show what the short rollouts of updates do not, a fall after a hundred steps say. All
        start from the same first states of real episodes, by the same members and with the noise that these
        state: who runs fastest may be who falls at the smallest error. They are cut before the env's time
        limit, until which rewards and ends are taken to go on at the rate that was seen; to diverge is never
        better than not to. Nothing of the training changes by it, not even what generators draw. In a world
        that is not refitted the averaged actor is taken: it would judge how it is exploited itself.
        """
        assert self.world is not None
        config, policy = self.imagination, self.policy
        if self.offline:
            policy.chosen_actor.load_state_dict(policy.averaged_actor.state_dict())
            return
        if before // _COMPARED == self._n_updates // _COMPARED and self.num_timesteps < self._total_timesteps:
            return
        actors = policy.chosen_actor, policy.averaged_actor, policy.actor
        generator = torch.Generator().manual_seed(self._n_updates)
        rows = torch.randint(len(self._first_states), (config.choice_episodes,), generator=generator)
        state = self.world.init(self._first_states[rows], generator).map(
            lambda tensor: torch.cat([tensor] * len(actors))
        )
        returns, lengths, ends, diverged = torch.zeros(4, len(state.core))
        alive = torch.ones(len(state.core), dtype=torch.bool)
        for _ in range(config.choice_steps):
            obs = self.task.core.observe(state.full).chunk(len(actors))
            action = torch.cat([most_likely(actor, seen) for actor, seen in zip(actors, obs, strict=True)])
            action = torch.addcmul(self._action_middle, action, self._action_scale)
            step = self.world.step(state, action, "sample", generator)
            returns += step.reward * alive
            lengths += alive
            ends += alive & step.terminated
            diverged += alive & step.diverged & ~step.terminated
            alive &= ~(step.terminated | step.diverged)
            state = step.state
            if not alive.any():
                break
        every = (each.reshape(len(actors), -1).sum(1) for each in (returns, lengths, ends, diverged))
        paid, steps, ended, lost = every
        limit = float(max(self.task.max_episode_steps or 0, config.choice_steps))
        worth = torch.minimum(
            *(paid / steps * _expected_length(count / steps, limit) for count in (ended, ended + lost))
        )
        averaged, best = worth[1], int(worth.argmax())
        best = best if worth[best] > averaged + config.choice_margin * averaged.abs() else 1
        policy.chosen_actor.load_state_dict(actors[best].state_dict())
        self.logger.record("world/imagined_return", float(worth[best]))

    # Updates

    def _interval(self) -> float:
        """Steps of every env between two refits; where these count episodes, as long as those so far."""
        assert isinstance(self.train_freq, TrainFreq)
        every = self.train_freq.frequency
        if self.train_freq.unit == TrainFrequencyUnit.STEP:
            return every
        return every * self.num_timesteps / self.n_envs / max(1, self._episode_num)

    def _update(self, state: Tensor) -> dict[str, float]:
        """One step of every optimiser, from imagined states ``(batch, state_dim)``."""
        path = self._imagine(state)
        ent_coef = self._entropy_coefficient()
        target = self._critic_target(path, ent_coef)
        scale = self.critic.scale
        values = torch.cat(self.critic(path.obs[0].detach(), path.actions[0].detach()), 1)
        error = ((values - target[:, None]) / scale).square() * path.sound[:, None]
        critic_loss = error.mean(0).sum()
        self.critic.optimizer.zero_grad()
        critic_loss.backward()  # type: ignore[no-untyped-call]
        self.critic.optimizer.step()
        polyak_update(self.critic.parameters(), self.critic_target.parameters(), self.tau)

        actor_loss = -self._gain(path, ent_coef) / scale
        if self._n_updates >= self.held_updates:
            actor = [*self.actor.parameters()]
            for parameter, gradient in zip(actor, torch.autograd.grad(actor_loss, actor), strict=True):
                parameter.grad = gradient
            self.actor.optimizer.step()
            rate = max(self.imagination.averaging_rate, 10 / (10 + self._n_updates))
            polyak_update(actor, self.policy.averaged_actor.parameters(), rate)
            self._update_entropy_coefficient(path.log_probs[0])
        return {
            "actor_loss": (actor_loss * scale).item(),
            "critic_loss": (critic_loss * scale * scale).item(),
            "ent_coef": ent_coef.item(),
            "value": values.mean().item(),
            "entropy": -path.log_probs[0].mean().item(),
        }

    def _imagine(self, state: Tensor) -> Path:
        """A rollout of the actor, differentiable in its parameters."""
        return imagine(state, self.imagination.training_steps, self.task.core.observe, self._act, self._step)

    def _gain(self, path: Path, ent_coef: Tensor) -> Tensor:
        """What the actor ascends, with the mean of the critics at the end."""
        return path.gain(torch.cat(self.critic(*path.last()), 1).mean(1), ent_coef, self.gamma)

    @torch.no_grad()
    def _critic_target(self, path: Path, ent_coef: Tensor) -> Tensor:
        """What the critics should say of the first states and actions ``(batch,)``."""
        gains = path.rewards - ent_coef * path.log_probs[:-1]
        low, high = self._range_of_values(gains, path.counts)
        rate = self.imagination.range_rate if self._n_updates else 1.0
        low, high = self.critic.low.lerp(low, rate), self.critic.high.lerp(high, rate)
        self.policy.bound_values(low, high)
        end_values = torch.cat(self.critic_target(path.obs[-1], path.actions[-1]), 1)
        return path.expanded_value(end_values.amin(1).clamp(low, high), ent_coef, self.gamma)

    def _range_of_values(self, gains: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """The least and the most that gains ``(steps, batch)`` of every step can add up to; see ``Path``.

        What an end pays, a penalty for a fall say, is paid once, and is not among the quantiles of what is
        paid at every step. Where a formula says what is paid the two are hardly apart in any task known, and
        ends, and what is imagined after them, count like other steps: every published number was measured so.
        """
        share = torch.tensor([0.01, 0.99])
        goes_on, ends = counts[1:] > 0, counts[:-1] > counts[1:]
        usual = gains[goes_on] if self.task.reward is None and goes_on.any() else gains.flatten()
        low, high = torch.quantile(usual, share) / (1 - self.gamma)
        low, high = low.clamp(max=0.0), high.clamp(min=0.0)  # an episode that is over is worth nothing
        if self.task.reward is None and ends.any():
            least, most = torch.quantile(gains[ends], share)
            low, high = low + least.clamp(max=0.0), high + most.clamp(min=0.0)
        return low, high

    def _entropy_coefficient(self) -> Tensor:
        return self.ent_coef_tensor if self.log_ent_coef is None else self.log_ent_coef.detach().exp()

    def _update_entropy_coefficient(self, log_prob: Tensor) -> None:
        if self.log_ent_coef is not None and self.ent_coef_optimizer is not None:
            loss = -(self.log_ent_coef * (log_prob.detach() + float(self.target_entropy))).mean()
            self.ent_coef_optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.ent_coef_optimizer.step()


def _expected_length(rate: Tensor, limit: float) -> Tensor:
    """Steps of an episode that ends at a ``rate`` a step, or at its time limit."""
    return torch.where(rate > 0, (1 - (1 - rate) ** limit) / rate.clamp(min=1e-9), limit)
