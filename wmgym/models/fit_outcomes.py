"""Fit the network that names what a step pays and whether it ends the episode."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from wmgym.data.transitions import Transitions
from wmgym.models.config import FitConfig, architecture
from wmgym.models.ensemble import EnsembleMLP
from wmgym.models.outcomes import Classifier, Outcomes, as_often, class_weights, pair_geometry, told_apart
from wmgym.models.training_loop import FitState, encoded_actions, optimise, safe_std

_SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)


def fit_outcomes(
    train: Transitions,
    outcomes: Outcomes,
    label: np.ndarray,
    rows: Tensor,
    held: np.ndarray,
    config: FitConfig,
    generator: torch.Generator,
    progress: bool,
) -> Outcomes:
    """One network from a core, the action and the next core to the classes ``label`` ``(n,)``."""
    classes = len(outcomes.values)
    if classes == 1:
        return outcomes
    config = dataclasses.replace(config, members=1)
    shape = architecture(
        config,
        geometry=pair_geometry(train.task.core.geometry),
        action_dim=train.task.action_dim,
        target_dim=classes,
    )
    model = Classifier(shape, generator)
    model.use_precision(config.precision)
    features = model.features(
        torch.tensor(np.concatenate([train.core, train.next_core], 1)), encoded_actions(train)
    )
    with torch.no_grad():
        model.input_mean.copy_(features.mean(0))
        model.input_std.copy_(safe_std(features))
    inputs = (features - model.input_mean) / model.input_std
    weight = torch.tensor(class_weights(label)).float()
    labels = functional.one_hot(torch.tensor(label), classes) * weight
    none = torch.zeros(len(inputs))
    # Without the rare rows among those that decide when to stop, the best network would be one that never
    # names them.
    judged = np.union1d(held, np.flatnonzero(label != np.bincount(label).argmax()))

    def held_out_error(model: EnsembleMLP) -> float:
        with torch.no_grad():
            return float(model.loss(model.network(inputs[judged][None]), labels[judged][None], none))

    fitting = FitState(model, inputs, labels, none, rows, config, generator, held_out_error, progress)
    optimise(fitting, "fit outcomes")
    with torch.no_grad():
        logits = model.network(inputs[None])[0, :, :classes]
        # Weighted, the network names rare classes too readily; how far to go back, the data say.
        shares = (share for share in _SHARES if told_apart((logits - share * weight.log()).numpy(), label))
        share = next(shares, None)
        model.biases[-1][..., :classes] -= (1.0 if share is None else share) * weight.log()
        if share is None:
            logits = logits - weight.log()
            model.biases[-1][..., :classes] += as_often(logits, torch.tensor(outcomes.rates).float())
    return dataclasses.replace(outcomes, drawn=share is None, network=model.finished())
