"""An ensemble of networks that predicts one step.

A Gaussian over the *target*: the change of the core and the root's displacement in the coordinates of a
``Coordinates``, then the reward where no formula for it is known; and the logit of termination where that is
learned. Time, sampling and trust are not its business; see ``world.py``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from wmgym.io.schema import ArraySpec, check_arrays, from_json, to_json
from wmgym.models.batching import MemberPacking, Packings, alike, as_tensor, library, padded, widened
from wmgym.models.config import EnsembleConfig
from wmgym.models.coordinates import Coordinates
from wmgym.models.dynamics import Carry, Precision, Prediction, register_dynamics
from wmgym.models.layers import Layer, Layers, init, through
from wmgym.tasks.layout import Array

IN_TURN = 512
"""From this many rows on, members of unequal shares are asked one after the other, without empty places."""

VECTOR = 32
"""Rows are padded to this where torch takes an exp, which rounds differently in a vector's tail."""


@register_dynamics("ensemble")
class EnsembleMLP(nn.Module):
    """Probabilistic ensemble (Chua et al. 2018, arXiv:1805.12114) with stacked weights: no loop over members.

    Layers are Linear, LayerNorm (without gain and bias, or none), SiLU. Inputs and targets are normalised by
    buffers that travel with the weights. Differentiable in core and action.

    A subclass may define ``activate``, ``layers``, ``loss`` or ``coordinates_type`` otherwise and be passed
    to ``fit(dynamics=...)``; to save its worlds, give it a name of its own with ``register_dynamics``.
    """

    coordinates_type: ClassVar[type[Coordinates]] = Coordinates

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
        self._packings = Packings(config.members)
        outputs = 2 * config.target_dim + int(config.learns_termination)
        self.coordinates = self.coordinates_type(config.geometry)
        self.input_dim = self.coordinates.feature_dim + config.action_dim
        sizes = [self.input_dim, *[config.width] * config.depth, outputs]
        shapes = list(itertools.pairwise(sizes))
        self.weights = nn.ParameterList(init(config.members, a, b, generator) for a, b in shapes)
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
        self.precision: Precision = precision
        self._dtype = torch.bfloat16 if precision == "bfloat16" else None
        self._ready: tuple[Layers, ...] | None = None
        self._first = (self.weights[0],)  # a ParameterList is slow to index
        if not self._first[0].requires_grad:
            every = self.prepared()
            self._ready = (*(every.of(member) for member in range(self.num_members)), every)
            scales = self.input_mean, self.input_std, self.target_mean, self.target_std
            self._copied = [*self.weights, *self.biases, *scales]
            self._stamp = self.stamp()

    def stamp(self) -> int:
        """Grows when frozen weights are changed in place, as ``load_state_dict`` does."""
        if self._first[0].is_inference():  # has no version
            return 0
        return sum([tensor._version for tensor in self._copied])

    def layers(self) -> tuple[Layer, ...]:
        """Weight and bias of each layer, as they are used."""
        return tuple(zip(self.weights, self.biases, strict=True))

    def activate(self, hidden: Tensor) -> Tensor:
        """Normalisation and nonlinearity of a hidden layer, of all members or one ``(..., rows, width)``."""
        if self.config.layer_norm:
            hidden = torch.layer_norm(hidden, hidden.shape[-1:])
        return functional.silu(hidden, inplace=not torch.is_grad_enabled())  # else a gradient needs it

    def loss(self, outputs: Tensor, labels: Tensor, ends: Tensor) -> Tensor:
        """What a fit minimises, summed over members.

        Args:
            outputs: ``(members, batch, outputs)`` of ``network``.
            labels: ``(members, batch, target_dim)`` targets, normalised.
            ends: ``(members, batch)`` of 0 and 1, whether the episode terminated.
        """
        mean, log_std, end_logit = self.split(outputs)
        loss = beta_nll(mean, log_std, labels)
        if end_logit is not None:
            entropy = functional.binary_cross_entropy_with_logits(end_logit, ends)
            loss = loss + entropy * self.num_members
        return loss

    def predict(self, core: Tensor, action: Tensor, carry: Carry = None) -> Prediction:
        """All members for all rows: leading shape ``(members, batch)``; there is no carry."""
        layers = self._layers_of(None)
        inputs = as_tensor(padded(self._inputs(core, action, layers.scale)))
        hidden = self._hidden(inputs.expand(self.num_members, *inputs.shape), layers.hidden)
        return self._predict(hidden, layers, lambda outputs, columns: outputs[:, : len(core), :columns])

    def predict_assigned(self, core: Tensor, action: Tensor, member: Tensor) -> Prediction:
        """Each row by its own member ``(batch,)``, paying for that one: leading shape ``(batch,)``."""
        in_turn = self._ready is not None and not torch.is_grad_enabled()
        plan = self._packings.of(member, IN_TURN if in_turn else None)
        layers = self._layers_of(plan.only)
        inputs = plan.pack(self._inputs(core, action, layers.scale))
        if plan.ends:
            return self._predict_in_turn(inputs, plan)
        return self._predict(self._hidden(inputs, layers.hidden), layers, plan.unpack)

    def _predict_in_turn(self, inputs: Tensor, plan: MemberPacking) -> Prediction:
        """The same with the members one after the other, from packed inputs ``(places, input_dim)``."""
        d, ends = self.target_dim, self.config.learns_termination
        each = [self._layers_of(member).matrices for member in range(self.num_members)]
        hidden = []
        for rows, ((first, *middle), _, _) in zip(plan.of_members(inputs), each, strict=True):
            at = self.activate(torch.addmm(first[1], rows, first[0]))
            for weight, bias in middle:
                at = self.activate(torch.addmm(bias, at.to(weight.dtype), weight))
            hidden.append(at.to(inputs.dtype))

        def said(layers: list[Layer], columns: int) -> Tensor:
            parts = [torch.addmm(layer[1], at, layer[0]) for at, layer in zip(hidden, layers, strict=True)]
            return plan.unpack(torch.cat(parts), columns)

        mean = said([of for _, of, _ in each], d + ends)

        def std() -> Tensor:
            return self._std(said([of for _, _, of in each], d))

        return Prediction(mean[..., :d], std, mean[..., d]) if ends else Prediction(mean, std, None)

    def predict_pair(
        self, core: Tensor, companion: Tensor, action: Tensor, member: Tensor
    ) -> tuple[Prediction, Prediction]:
        """``predict_assigned`` of both, companions ``(batch, core_dim)`` by the next member, in one pass."""
        plan = self._packings.of(member)
        layers = self._layers_of(plan.only)
        inputs = self._inputs(torch.cat([core, companion]), torch.cat([action, action]), layers.scale)
        mine, its = plan.pack(inputs[: len(core)]), plan.pack(inputs[len(core) :])
        if plan.only is None:  # companions of each member's rows go through the next one's weights
            hidden = self._hidden(torch.cat([mine, its.roll(1, 0)], 1), layers.hidden)
            own, other = hidden[:, : plan.room], hidden[:, plan.room :]
            following, turn = layers, -1
        else:
            own, turn = self._hidden(mine, layers.hidden), 0
            following = self._layers_of((plan.only + 1) % self.num_members)
            other = self._hidden(its, following.hidden)

        def unpack_other(packed: Tensor, columns: int) -> Tensor:
            return plan.unpack(packed.roll(turn, 0) if turn else packed, columns)

        return self._predict(own, layers, plan.unpack), self._predict(other, following, unpack_other)

    def _layers_of(self, only: int | None) -> Layers:
        """Of all members, or of one."""
        if self._ready is not None and not self._first[0].requires_grad:  # nor has it thawed since
            if self._stamp != self.stamp():
                self.use_precision(self.precision)
            return self._ready[-1 if only is None else only]
        every = self.prepared()
        return every if only is None else every.of(only)

    def prepared(self) -> Layers:
        """The layers as predictions take them."""
        d, dtype = self.target_dim, self._dtype
        first, *middle, (weight, bias) = self.layers()
        if dtype is not None:
            middle = [(w.to(dtype), b.to(dtype)) for w, b in middle]
        mean_weight, mean_bias = weight[..., :d] * self.target_std, bias[..., :d] * self.target_std
        mean = (
            torch.cat([mean_weight, weight[..., 2 * d :]], -1),
            torch.cat([mean_bias + self.target_mean, bias[..., 2 * d :]], -1),
        )
        std = weight[..., d : 2 * d], bias[..., d : 2 * d]
        scale = alike(self.input_mean, self.input_std)
        last = [(widened(w), widened(b)) for w, b in (mean, std)]
        return Layers((scale[0], scale[1]), (first, *middle), *last)

    def encode(self, core: Tensor, action: Tensor) -> Tensor:
        """Normalised network input ``(batch, input_dim)``."""
        return as_tensor(self._inputs(core, action, alike(self.input_mean, self.input_std)))

    def _inputs(self, core: Tensor, action: Tensor, scale: tuple[Array, ...]) -> Array:
        seen, done, mean, std = alike(core, action, *scale)
        found = self.features(seen, done)
        if isinstance(found, np.ndarray) and found.dtype == mean.dtype == std.dtype:
            found -= mean  # nobody else has it
            found /= std
            return found
        return (found - mean) / std

    def features(self, core: Array, action: Array) -> Array:
        """Input before normalisation ``(batch, input_dim)``: the core in its coordinates, action."""
        found: Array = library(core).concatenate([self.coordinates.features(core), action], 1)
        return found

    def network(self, inputs: Tensor) -> Tensor:
        """Raw outputs ``(members, rows, outputs)``."""
        *hidden, last = self.layers()
        return through(last, self._hidden(inputs, hidden))

    def _hidden(self, inputs: Tensor, layers: Iterable[Layer]) -> Tensor:
        """What the last layer sees ``(members, rows, width)``."""
        first, *middle = layers
        hidden = through(first, inputs)
        for weight, bias in middle:
            hidden = self.activate(hidden if self._dtype is None else hidden.to(self._dtype))
            hidden = through((weight.to(hidden.dtype), bias.to(hidden.dtype)), hidden)
        return self.activate(hidden).to(inputs.dtype)

    def pack(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Weights and normalisers, and the architecture as JSON values."""
        arrays = {name: value.cpu().numpy() for name, value in self.state_dict().items()}
        return arrays, to_json(self.config)

    @classmethod
    def unpack(cls, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> EnsembleMLP:
        """Rebuild what ``pack`` took apart, frozen."""
        config = from_json(EnsembleConfig, settings)
        config.check_sizes({name: array.shape for name, array in arrays.items()})
        model = cls(config)
        specs = {name: ArraySpec(tuple(value.shape)) for name, value in model.state_dict().items()}
        tiny = float(np.finfo(np.float32).tiny)
        specs |= {name: replace(specs[name], low=tiny) for name in ("input_std", "target_std")}
        check_arrays(arrays, specs)
        if (arrays["log_std_low"] > arrays["log_std_high"]).any():
            raise ValueError("log_std_low exceeds log_std_high")
        model.load_state_dict({name: torch.tensor(value) for name, value in arrays.items()})
        return model.finished()

    def finished(self) -> EnsembleMLP:
        """The same network, its weights frozen and in float32."""
        self.requires_grad_(False).eval().use_precision("float32")
        return self

    def split(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Normalised mean, log std softly bounded on both sides, and the termination logit."""
        d = self.target_dim
        mean, raw = outputs[..., :d], outputs[..., d : 2 * d]
        log_std = self.log_std_high - functional.softplus(self.log_std_high - raw)
        log_std = self.log_std_low + functional.softplus(log_std - self.log_std_low)
        return mean, log_std, outputs[..., 2 * d] if self.config.learns_termination else None

    def _predict(self, hidden: Tensor, layers: Layers, pick: Callable[[Tensor, int], Tensor]) -> Prediction:
        """What the last layer makes of ``hidden``: ``pick`` takes rows and first columns of its outputs."""
        d, ends = self.target_dim, self.config.learns_termination
        said = pick(through(layers.mean, hidden), d + ends)

        def std() -> Tensor:
            return self._std(pick(through(layers.std, hidden), d))

        return Prediction(said[..., :d], std, said[..., d]) if ends else Prediction(said, std, None)

    def _std(self, raw: Tensor) -> Tensor:
        """The exponential of ``split``'s bounded log std, without its two softplus, in raw units."""
        rows = raw.shape[-2]
        bounded = torch.sigmoid(as_tensor(padded(raw, VECTOR)) - self.log_std_high)
        low, high = self.log_std_low.exp() * self.target_std, self.log_std_high.exp() * self.target_std
        return torch.addcmul(low, bounded, high)[..., :rows, :]


def beta_nll(mean: Tensor, log_std: Tensor, labels: Tensor) -> Tensor:
    """Likelihood weighted by its own deviation (Seitzer et al. 2022, arXiv:2203.09168, beta = 1/2).

    All ``(members, batch, target_dim)``, normalised; mean over rows and dimensions, summed over members.
    """
    nll = 0.5 * ((labels - mean) * (-log_std).exp()).square() + log_std
    return (nll * log_std.detach().exp()).mean((1, 2)).sum()
