"""Fit a network to numbers or to classes: normalisers, early stopping, and the fit of a single one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from wmgym.models.config import FitConfig
from wmgym.models.ensemble import EnsembleMLP
from wmgym.models.symmetry import Views
from wmgym.models.training_loop import FitState, in_one_unit, optimise, safe_std, target_unit

_CONTACT_UNIT, _TURN_UNIT = 0.3, 1e-3
_DIRECTIONS = ("cos", "sin", "up", "axes")
_STD_FLOOR = 1e-3  # smallest std that a network may predict, as a share of the target's own


def fit_regression(
    model: EnsembleMLP,
    features: Tensor,
    target: Tensor,
    rows: Tensor,
    held: np.ndarray,
    config: FitConfig,
    generator: torch.Generator,
    progress: bool,
    name: str,
    keep: bool = False,
) -> EnsembleMLP:
    """Fit a network from ``features`` ``(n, inputs)`` to ``target`` ``(n, target_dim)``; returns it.

    ``keep`` goes on with one that is fitted, in the units that it has.
    """
    model.use_precision(config.precision)
    inputs, labels = normalise(model, features, target, keep=keep)
    none, validation_fn = torch.zeros(len(inputs)), held_out_error(inputs, labels, held)
    optimise(FitState(model, inputs, labels, none, rows, config, generator, validation_fn, progress), name)
    return model.finished()


def fit_logits(
    model: EnsembleMLP,
    features: Tensor,
    labels: Tensor,
    rows: Tensor,
    judged: np.ndarray,
    config: FitConfig,
    generator: torch.Generator,
    progress: bool,
    name: str,
) -> Tensor:
    """Fit a network of one member by its own loss, which ``judged`` rows stop; logits ``(n, target_dim)``."""
    model.use_precision(config.precision)
    with torch.no_grad():
        model.input_mean.copy_(features.mean(0))
        model.input_std.copy_(_input_unit(model, safe_std(features)))
    inputs = (features - model.input_mean) / model.input_std
    none = torch.zeros(len(inputs))

    def error(model: EnsembleMLP) -> float:
        here = model.input_mean.device
        seen, said, ends = (x.to(here)[None] for x in (inputs[judged], labels[judged], none[judged]))
        with torch.no_grad():
            return float(model.loss(model.network(seen), said, ends))

    optimise(FitState(model, inputs, labels, none, rows, config, generator, error, progress), name)
    with torch.no_grad():
        return model.network(inputs[None])[0, :, : model.target_dim]


def held_out_error(inputs: Tensor, labels: Tensor, held: np.ndarray) -> Callable[[EnsembleMLP], float]:
    """Root mean squared one-step error of the members on held-out rows."""

    def error(model: EnsembleMLP) -> float:
        seen, said = (x[held].to(model.input_mean.device) for x in (inputs, labels))
        with torch.no_grad():
            mean, _, _ = model.split(model.network(seen.expand(model.num_members, -1, -1)))
        return float((mean - said).square().mean().sqrt())

    return error


def normalise(
    model: EnsembleMLP,
    features: Tensor,
    target: Tensor,
    seen: Views | None = None,
    groups: Iterable[Sequence[int]] = (),
    keep: bool = False,
) -> tuple[Tensor, Tensor]:
    """Set the normalisers, those of all views where there are several; return both normalised.

    ``groups`` are targets that are components of one vector and share a unit. ``keep`` leaves the normalisers
    as they are, which the weights were learned with.
    """
    if not keep:
        _set_normalisers(model, features, target, seen, groups)
    return (features - model.input_mean) / model.input_std, (target - model.target_mean) / model.target_std


def _input_unit(model: EnsembleMLP, unit: Tensor) -> Tensor:
    """Deviations of what the network sees; contacts, which lie within -1 and 1, keep about that size.

    Else what was touched in a hundredth of the data would be seen as ten deviations whenever it is touched,
    and what float32 leaves of a direction that hardly turns as a turn.
    """
    least = torch.zeros(len(unit))
    for k, (kind, _) in enumerate(model.coordinates.feature_labels):
        least[k] = _CONTACT_UNIT if kind == "contact" else _TURN_UNIT if kind in _DIRECTIONS else 0.0
    return unit.maximum(least)


def _set_normalisers(
    model: EnsembleMLP,
    features: Tensor,
    target: Tensor,
    seen: Views | None,
    groups: Iterable[Sequence[int]],
) -> None:
    inputs = features.mean(0), safe_std(features)
    outputs = target.mean(0), target_unit(target)
    if seen is not None:
        inputs, outputs = seen.moments(*inputs, targets=False), seen.moments(*outputs, targets=True)
    inputs = inputs[0], _input_unit(model, inputs[1])
    if groups:
        outputs = outputs[0], in_one_unit(outputs[1], groups)
    with torch.no_grad():
        normalisers = model.input_mean, model.input_std, model.target_mean, model.target_std
        for held, value in zip(normalisers, (*inputs, *outputs), strict=True):
            held.copy_(value)
        model.log_std_low.fill_(float(np.log(_STD_FLOOR)))
