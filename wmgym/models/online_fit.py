"""An ensemble that is refitted, warm, while its data grow: the model inside an online algorithm."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from wmgym.data.columns import refuse_overflow
from wmgym.data.transitions import Transitions
from wmgym.io.provenance import Provenance, library_versions
from wmgym.io.schema import STRICT
from wmgym.models.config import EnsembleConfig
from wmgym.models.coordinates import Coordinates
from wmgym.models.dynamics import targets
from wmgym.models.ensemble import EnsembleMLP
from wmgym.models.outcomes import Outcomes
from wmgym.models.pairs import RewardNetwork, outcome_features, outcome_geometry
from wmgym.models.training_loop import data_range, encoded_actions, safe_std, target_unit
from wmgym.models.world import WorldModel
from wmgym.tasks.task import Task


@dataclass(frozen=True)
class OnlineFitConfig:
    """How to refit.

    Attributes:
        first_updates: gradient steps of the first fit.
        updates: gradient steps of every refit.
        members: ensemble members.
        width: units a hidden layer.
        depth: hidden layers.
        layer_norm: normalise them.
        learning_rate: AdamW's, constant.
        weight_decay: AdamW's.
        batch_size: transitions a member and update.
        averaging: predictions use an exponential mean of the weights over updates, with this decay.
        recent_share: share of every batch that is drawn from the last ``recent_steps`` transitions, so that
            the model follows the policy to where it goes now.
        recent_steps: see ``recent_share``.
        margin: imagined states may leave the data's range by this share of it before they count as diverged.
    """

    __pydantic_config__ = STRICT

    first_updates: int = 1_000
    updates: int = 200
    members: int = 5
    width: int = 200
    depth: int = 3
    layer_norm: bool = True
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    batch_size: int = 128
    averaging: float = 0.99
    recent_share: float = 0.5
    recent_steps: int = 1_500
    margin: float = 0.5

    def __post_init__(self) -> None:
        """Refuse settings that cannot train."""
        counts = (self.members, self.width, self.depth, self.batch_size, self.recent_steps)
        if min(counts) < 1:
            raise ValueError(
                "members, width, depth, batch_size and recent_steps must be at least 1, "
                f"got {', '.join(map(str, counts))}"
            )
        if min(self.first_updates, self.updates, self.weight_decay, self.margin) < 0:
            raise ValueError("first_updates, updates, weight_decay and margin must be at least 0")
        if not (0 <= self.averaging < 1 and 0 <= self.recent_share <= 1 and self.learning_rate > 0):
            raise ValueError("need 0 <= averaging < 1, 0 <= recent_share <= 1 and learning_rate > 0")


class OnlineFit(nn.Module):
    """Refits an ensemble to growing data: same networks, same optimiser, same held-out transitions.

    A reward without a formula is regressed from where a step led, as ``fit`` does it.

    The normalisers of inputs and targets follow the data. The first and the last layers are re-expressed
    when they move, so that the mean that every member predicts stays the same function.

    Attributes:
        ensemble: the networks that learn.
        averaged: the mean of their weights over updates, which predicts.
        rewards: likewise of what a step pays; None where the task's formula says it.
        averaged_rewards: see ``averaged``.
        optimizer: of ``ensemble`` and ``rewards``, kept from refit to refit.
    """

    updates: Tensor
    rewards: RewardNetwork | None
    averaged_rewards: RewardNetwork | None

    def __init__(self, task: Task, config: OnlineFitConfig, generator: torch.Generator) -> None:
        """Fresh networks for a task; ``generator`` draws weights and batches."""
        super().__init__()
        if task.core.readout_dim:
            raise ValueError(
                f"{task.env_id or 'this task'} shows or rewards {task.core.readout_dim} quantities beside "
                "positions and velocities, such as contact forces, which are not learned online yet; leave "
                "them out, Ant-v5's by include_cfrc_ext_in_observation=False and contact_cost_weight=0, or "
                "train in a shipped world: wmgym.train(env_id, algorithm='DynaSAC')"
            )
        self.task, self.config, self.generator = task, config, generator
        geometry = task.core.geometry.coarser()  # how little data learns from more was not measured
        shape = EnsembleConfig(
            geometry=geometry,
            action_dim=task.action_dim,
            target_dim=Coordinates(geometry).change_dim,
            learns_termination=task.terminated is None,
            members=config.members,
            width=config.width,
            depth=config.depth,
            layer_norm=config.layer_norm,
        )
        self.ensemble = EnsembleMLP(shape, generator)
        self.averaged = copy.deepcopy(self.ensemble).requires_grad_(False)
        self.rewards = self.averaged_rewards = None
        if task.reward is None:
            pair = dataclasses.replace(
                shape,
                geometry=outcome_geometry(task.core),
                target_dim=1,
                learns_termination=False,
                members=1,
            )
            self.rewards = RewardNetwork(pair, generator)
            self.averaged_rewards = copy.deepcopy(self.rewards).requires_grad_(False)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.optimizer = torch.optim.AdamW(
            [weight for network, _ in self._networks() for weight in network.parameters()],
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=True,
        )

    def refit(
        self, data: Transitions, held_out: np.ndarray, taken: np.ndarray | None = None
    ) -> dict[str, float]:
        """Learn from all transitions so far.

        Args:
            data: all of them.
            held_out: ``(n,)`` bool, rows never to learn from; the same ones at every refit.
            taken: ``(n,)`` when each was; None where they are in the order of their collection.

        Returns:
            Root mean squared errors of the predicted mean, in units of the targets' standard deviation, as
            ``train_error`` and ``held_out_error`` (NaN where nothing is held out).

        Raises:
            ValueError: numbers so large that float32 arithmetic overflows.
        """
        refuse_overflow(data.arrays())
        rows = np.arange(len(data)) if taken is None else taken.argsort(kind="stable")
        learn = torch.tensor(rows[~held_out[rows]])
        examples = self._normalise(data, learn)
        ends = torch.tensor(data.terminated).float()
        for _ in range(self.config.updates if int(self.updates) else self.config.first_updates):
            batch = self._draw(learn)
            loss = torch.zeros(())
            for (network, _), (inputs, labels) in zip(self._networks(), examples, strict=True):
                own = batch[: network.num_members]
                loss = loss + network.loss(network.network(inputs[own]), labels[own], ends[own])
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self._average()
        for _, averaged in self._networks():
            averaged.finished()  # prepares the weights as they are now
        some = learn[torch.randint(len(learn), (512,), generator=self.generator)]
        held = torch.tensor(np.flatnonzero(held_out))
        return {
            "train_error": self._error(examples, some),
            "held_out_error": self._error(examples, held),
        }

    def world(self, data: Transitions) -> WorldModel:
        """The model as it is now, bounded by the range of ``data``; later refits do not change it."""
        low, high = data_range(data, self.config.margin)
        fit = {"config": dataclasses.asdict(self.config), "updates": int(self.updates)}
        provenance = Provenance(data.fingerprints(), len(data), data.source, library_versions(), fit)
        starts = data.state[data.first]
        outcomes = None
        if self.averaged_rewards is not None:
            paid = copy.deepcopy(self.averaged_rewards)
            outcomes = Outcomes(np.array([np.nan]), np.array([False]), np.array([1.0]), rewards=paid)
        dynamics = copy.deepcopy(self.averaged)
        return WorldModel(self.task, dynamics, starts, low, high, provenance, outcomes=outcomes)

    def _networks(self) -> list[tuple[EnsembleMLP, EnsembleMLP]]:
        """Those that learn, each with the mean of its weights."""
        found: list[tuple[EnsembleMLP, EnsembleMLP]] = [(self.ensemble, self.averaged)]
        if self.rewards is not None and self.averaged_rewards is not None:
            found.append((self.rewards, self.averaged_rewards))
        return found

    def _draw(self, learn: Tensor) -> Tensor:
        """Rows ``(members, batch)`` of those to ``learn``, oldest first; some of them are recent."""
        size = self.config.batch_size
        recent = round(self.config.recent_share * size)
        low = torch.zeros(size, dtype=torch.int64)
        low[:recent] = max(0, len(learn) - self.config.recent_steps)
        place = torch.rand(self.config.members, size, generator=self.generator, dtype=torch.float64)
        return learn[low + (place * (len(learn) - low)).long()]

    @torch.no_grad()
    def _average(self) -> None:
        self.updates += 1
        decay = min(self.config.averaging, 1 - 1 / (1 + int(self.updates)))
        for network, averaged in self._networks():
            parameters = [p.detach() for p in network.parameters()]
            torch._foreach_lerp_([*averaged.parameters()], parameters, 1 - decay)

    @torch.no_grad()
    def _error(self, examples: list[tuple[Tensor, Tensor]], rows: Tensor) -> float:
        wrong = []
        for (_, averaged), (inputs, labels) in zip(self._networks(), examples, strict=True):
            mean, _, _ = averaged.split(averaged.network(inputs[rows].expand(averaged.num_members, -1, -1)))
            wrong.append((mean - labels[rows]).square().mean(0))
        return float(torch.cat(wrong, 1).mean().sqrt())

    @torch.no_grad()
    def _normalise(self, data: Transitions, learn: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Normalised inputs and targets of each network; normalisers follow the rows to ``learn``."""
        change = targets(data, target_dim=self.ensemble.target_dim)
        raw = [(self.ensemble.features(torch.tensor(data.core), encoded_actions(data)), change)]
        if self.rewards is not None:
            assert data.reward is not None
            seen = outcome_features(self.rewards, data)
            raw.append((seen, torch.tensor(data.reward).float()[:, None]))
        found = []
        for pair, (features, target) in zip(self._networks(), raw, strict=True):
            seen, said = features[learn], target[learn]
            moments = {
                "input_mean": seen.mean(0), "input_std": safe_std(seen),
                "target_mean": said.mean(0), "target_std": target_unit(said),
            }  # fmt: skip
            for model in pair:
                if int(self.updates):
                    _re_express(model, moments)
                for name, value in moments.items():
                    getattr(model, name).copy_(value)
            inputs = (features - moments["input_mean"]) / moments["input_std"]
            found.append((inputs, (target - moments["target_mean"]) / moments["target_std"]))
        return found


def _re_express(model: EnsembleMLP, new: dict[str, Tensor]) -> None:
    """Change the first and last layer in place so that, under the ``new`` normalisers, means stay the same.

    Standard deviations stay the same where they are away from their soft bounds.
    """
    d = model.target_dim
    weight, bias = model.weights[0], model.biases[0]
    bias += (((new["input_mean"] - model.input_mean) / model.input_std) @ weight)[:, None]
    weight *= (new["input_std"] / model.input_std)[:, None]
    weight, bias = model.weights[-1], model.biases[-1]
    ratio = model.target_std / new["target_std"]
    weight[..., :d] *= ratio
    bias[..., :d] *= ratio
    bias[..., :d] += (model.target_mean - new["target_mean"]) / new["target_std"]
    bias[..., d : 2 * d] += ratio.log()
