"""Dynamics: the protocol a learned model implements, and an ensemble of networks that implements it.

A dynamics model predicts a Gaussian over the *target* of one step: the change of the core and the hidden
displacement in the coordinates of a ``Chart``, then the reward where no formula for it is known; and the
logit of termination where that is learned. It says nothing of time, sampling or trust, which live in
``world.py``.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from wmgym.chart import Chart
from wmgym.data import Transitions
from wmgym.tasks import Geometry

Mode: TypeAlias = Literal["mean", "member", "sample"]
"""Mean of all members; one member an episode; one member an episode and its noise at every step."""
MODES: tuple[Mode, ...] = get_args(Mode)
Precision: TypeAlias = Literal["float32", "bfloat16"]

MULTIPLE = 8
"""Rows a member are padded to this, since CPU matrix products of odd sizes differ in the last bit."""
VECTOR = 32
"""Rows are padded to this where exp, cos and sin are taken, which round differently in a vector's tail."""


@dataclass(frozen=True)
class Prediction:
    """What ensemble members say of one step, in raw units.

    Attributes:
        mean: ``(..., target_dim)``, the change first.
        std: ``(..., target_dim)``, of the target's own noise; > 0.
        end_logit: ``(...)`` logit of termination, or None where the task's formula decides.
    """

    mean: Tensor
    std: Tensor
    end_logit: Tensor | None


class Dynamics(Protocol):
    """A one-step model of ``num_members`` members."""

    num_members: int
    target_dim: int

    def predict(self, core: Tensor, action: Tensor) -> Prediction:
        """All members for all rows: leading shape ``(num_members, batch)``. Actions are encoded floats."""
        ...

    def predict_assigned(self, core: Tensor, action: Tensor, member: Tensor) -> Prediction:
        """Each row by its own member ``(batch,)`` int64, paying for that one: leading shape ``(batch,)``."""
        ...

    def predict_pair(
        self, core: Tensor, shadow: Tensor, action: Tensor, member: Tensor
    ) -> tuple[Prediction, Tensor]:
        """``predict_assigned``, and the next member's mean for ``shadow`` cores ``(batch, target_dim)``."""
        ...


@dataclass(frozen=True)
class EnsembleConfig:
    """Architecture of ``EnsembleMLP``; stored with a world."""

    geometry: Geometry
    action_dim: int
    target_dim: int
    learns_termination: bool = False
    members: int = 8
    width: int = 256
    depth: int = 3
    layer_norm: bool = True


@dataclass(frozen=True)
class _Packing:
    """Rows sorted by member, for one ``member`` tensor as it was at ``version``.

    Attributes:
        source: ``(members * room,)`` row that each place takes.
        back: ``(batch,)`` place of each row.
        room: places a member.
        only: the one member that all rows have, if so.
    """

    member: Tensor
    version: int
    source: Tensor
    back: Tensor
    room: int
    only: int | None


class EnsembleMLP(nn.Module):
    """Probabilistic ensemble (Chua et al. 2018, arXiv:1805.12114) with stacked weights: no loop over members.

    Layers are Linear, LayerNorm (without gain and bias, or none), SiLU. Inputs and targets are normalised by
    buffers that travel with the weights. Differentiable in core and action.
    """

    input_mean: Tensor
    input_std: Tensor
    target_mean: Tensor
    target_std: Tensor
    log_std_low: Tensor
    log_std_high: Tensor

    def __init__(self, config: EnsembleConfig, generator: torch.Generator | None = None) -> None:
        """Fresh weights drawn from ``generator``; None leaves them to be loaded."""
        super().__init__()
        self.config = config
        self.num_members, self.target_dim = config.members, config.target_dim
        self._packing: _Packing | None = None
        outputs = 2 * config.target_dim + int(config.learns_termination)
        self.chart = Chart(config.geometry)
        self.input_dim = self.chart.feature_dim + config.action_dim
        sizes = [self.input_dim, *[config.width] * config.depth, outputs]
        shapes = list(itertools.pairwise(sizes))
        self.weights = nn.ParameterList(_init(config.members, a, b, generator) for a, b in shapes)
        self.biases = nn.ParameterList(torch.zeros(config.members, 1, b) for _, b in shapes)
        self.use_precision("float32")
        self.register_buffer("input_mean", torch.zeros(self.input_dim))
        self.register_buffer("input_std", torch.ones(self.input_dim))
        self.register_buffer("target_mean", torch.zeros(config.target_dim))
        self.register_buffer("target_std", torch.ones(config.target_dim))
        self.register_buffer("log_std_low", torch.full((config.target_dim,), math.log(1e-3)))
        self.register_buffer("log_std_high", torch.full((config.target_dim,), math.log(2.0)))

    def use_precision(self, precision: Precision) -> None:
        """Run the hidden layers in float32 or bfloat16; the first and the last stay in float32.

        Frozen weights are copied now, weights that train are rounded at every use.
        """
        layers = list(zip(self.weights, self.biases, strict=True))  # a ParameterList is slow to index
        self._hidden = torch.bfloat16 if precision == "bfloat16" else None  # None: as the weights are
        if self._hidden is not None and not self.weights[0].requires_grad:
            layers[1:-1] = [(w.to(self._hidden), b.to(self._hidden)) for w, b in layers[1:-1]]
        self._layers: tuple[tuple[Tensor, Tensor], ...] = tuple(layers)

    def predict(self, core: Tensor, action: Tensor) -> Prediction:
        """All members for all rows: leading shape ``(members, batch)``."""
        batch = core.shape[0]
        inputs = _pad(self.encode(core, action), -batch % MULTIPLE)
        inputs = inputs.expand(self.num_members, *inputs.shape)
        return self._in_raw_units(self.network(inputs)[:, :batch])

    def predict_assigned(self, core: Tensor, action: Tensor, member: Tensor) -> Prediction:
        """Each row by its own member: leading shape ``(batch,)``."""
        plan = self._pack(member)
        packed = self.encode(core, action)[plan.source].view(-1, plan.room, self.input_dim)
        outputs = self.network(packed, plan.only).flatten(0, 1)
        return self._in_raw_units(outputs[plan.back])

    def predict_pair(
        self, core: Tensor, shadow: Tensor, action: Tensor, member: Tensor
    ) -> tuple[Prediction, Tensor]:
        """``predict_assigned``, and the next member's mean for ``shadow`` cores ``(batch, target_dim)``."""
        plan, members = self._pack(member), self.num_members
        inputs = self.encode(torch.cat([core, shadow]), torch.cat([action, action]))
        mine, its = (
            rows[plan.source].view(-1, plan.room, self.input_dim)
            for rows in (inputs[: len(core)], inputs[len(core) :])
        )
        if plan.only is None:  # shadows of each member's rows go through the next one's weights
            outputs = self.network(torch.cat([mine, its.roll(1, 0)], 1))
            own, other = outputs[:, : plan.room], outputs[:, plan.room :].roll(-1, 0)
        else:
            own = self.network(mine, plan.only)
            other = self.network(its, (plan.only + 1) % members)
        prediction = self._in_raw_units(own.flatten(0, 1)[plan.back])
        return prediction, self._in_raw_units(other.flatten(0, 1)[plan.back]).mean

    def _pack(self, member: Tensor) -> _Packing:
        """Where each row goes; the same episodes keep their members for many steps."""
        last = self._packing
        if last is not None and last.member is member and last.version == member._version:
            return last
        order = torch.argsort(member, stable=True)
        counts = torch.bincount(member, minlength=self.num_members)
        most = int(counts.max())
        room = most + -most % MULTIPLE
        first = torch.cumsum(counts, 0) - counts
        sorted_member = member[order]
        slot = torch.arange(len(order), device=order.device) - first[sorted_member]
        only = int(sorted_member[0]) if bool(sorted_member[0] == sorted_member[-1]) else None
        place = slot if only is not None else sorted_member * room + slot
        members = 1 if only is not None else self.num_members
        # Empty places repeat the first row, whose outputs there nobody reads.
        source = torch.zeros(members * room, dtype=torch.int64, device=order.device)
        source = source.index_copy(0, place, order)
        back = torch.empty_like(place).index_copy_(0, order, place)
        if member.is_inference():  # keeps no version, so a change in place would go unnoticed
            return _Packing(member, -1, source, back, room, only)
        self._packing = _Packing(member, member._version, source, back, room, only)
        return self._packing

    def encode(self, core: Tensor, action: Tensor) -> Tensor:
        """Normalised network input ``(batch, input_dim)``."""
        rows = core.shape[0]
        spare = -rows % VECTOR
        inputs = (self.features(_pad(core, spare), _pad(action, spare)) - self.input_mean) / self.input_std
        return inputs[:rows]

    def features(self, core: Tensor, action: Tensor) -> Tensor:
        """Input before normalisation ``(batch, input_dim)``: the core in the chart's coordinates, action."""
        return torch.cat([self.chart.features(core), action], -1)

    def network(self, inputs: Tensor, only: int | None = None) -> Tensor:
        """Raw outputs ``(members, rows, outputs)``; ``only`` runs that one member's weights."""
        layers = self._layers
        if only is not None:
            layers = tuple((weight[only : only + 1], bias[only : only + 1]) for weight, bias in layers)
        (weight, bias), *middle, last = layers
        hidden = torch.baddbmm(bias, inputs, weight)
        for weight, bias in middle:
            dtype = self._hidden or weight.dtype
            hidden = torch.baddbmm(bias.to(dtype), self._activate(hidden.to(dtype)), weight.to(dtype))
        weight, bias = last
        return torch.baddbmm(bias, self._activate(hidden).to(weight.dtype), weight)

    def _activate(self, hidden: Tensor) -> Tensor:
        if self.config.layer_norm:
            hidden = functional.layer_norm(hidden, hidden.shape[-1:])
        # In place where no gradient needs what was there.
        return functional.silu(hidden, inplace=not torch.is_grad_enabled())

    def split(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Normalised mean, log std softly bounded on both sides, and the termination logit."""
        d = self.target_dim
        mean, raw = outputs[..., :d], outputs[..., d : 2 * d]
        log_std = self.log_std_high - functional.softplus(self.log_std_high - raw)
        log_std = self.log_std_low + functional.softplus(log_std - self.log_std_low)
        return mean, log_std, outputs[..., 2 * d] if self.config.learns_termination else None

    def _in_raw_units(self, outputs: Tensor) -> Prediction:
        rows, d = outputs.shape[-2], self.target_dim
        padded = _pad(outputs, -rows % VECTOR)
        # exp of ``split``'s bounded log std, without its two softplus.
        bounded = torch.sigmoid(padded[..., d : 2 * d] - self.log_std_high)
        low, high = self.log_std_low.exp() * self.target_std, self.log_std_high.exp() * self.target_std
        return Prediction(
            mean=torch.addcmul(self.target_mean, padded[..., :d], self.target_std)[..., :rows, :],
            std=torch.addcmul(low, bounded, high)[..., :rows, :],
            end_logit=padded[..., :rows, 2 * d] if self.config.learns_termination else None,
        )


def targets(data: Transitions) -> Tensor:
    """What a dynamics model should have predicted: ``(n, target_dim)`` float32, raw units.

    The reward is among it only where the task knows none and the data has it.
    """
    core, next_core = torch.tensor(data.core), torch.tensor(data.next_core)
    change = Chart(data.task.core.geometry).difference(
        core, next_core, torch.tensor(data.displacement).float()
    )
    if data.task.reward is not None or data.reward is None:
        return change
    return torch.cat([change, torch.tensor(data.reward).float()[:, None]], 1)


def _init(members: int, inputs: int, outputs: int, generator: torch.Generator | None) -> Tensor:
    weight = torch.empty(members, inputs, outputs)
    if generator is not None:
        nn.init.trunc_normal_(weight, std=1 / math.sqrt(inputs), a=-2, b=2, generator=generator)
    return weight


def _pad(rows: Tensor, count: int) -> Tensor:
    return functional.pad(rows, (0, 0, 0, count)) if count else rows
