"""Fit the networks that say what a step pays and whether it ends the episode."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from wmgym.data.transitions import Transitions
from wmgym.models.config import FitConfig
from wmgym.models.ensemble import EnsembleMLP
from wmgym.models.outcomes import Classifier, Outcomes, as_often, class_weights, told_apart
from wmgym.models.pairs import RewardNetwork, outcome_features, outcome_geometry, pair_shape
from wmgym.models.regression import fit_logits, fit_regression

_SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)


def fit_outcomes(
    train: Transitions,
    outcomes: Outcomes,
    label: np.ndarray,
    predicted: bool,
    rows: Tensor,
    held: np.ndarray,
    config: FitConfig,
    generator: torch.Generator,
    progress: bool,
) -> Outcomes:
    """Networks from a core, the action and the next core to the classes ``label`` ``(n,)`` and the reward.

    ``predicted`` says that the dynamics predict the reward themselves.
    """
    config = dataclasses.replace(config, members=1)
    given = rows, held, config, generator, progress
    if len(outcomes.values) > 1:
        outcomes = _with_classes(train, outcomes, label, *given)
    left = np.isnan(outcomes.values)[label]
    if train.task.reward is None and left.any() and not predicted:
        outcomes = dataclasses.replace(outcomes, rewards=_fit_rewards(train, left, *given))
    return outcomes


def _fit_rewards(
    train: Transitions,
    left: np.ndarray,
    rows: Tensor,
    held: np.ndarray,
    config: FitConfig,
    generator: torch.Generator,
    progress: bool,
) -> EnsembleMLP:
    """Regresses the reward of the rows ``left`` ``(n,)`` bool."""
    assert train.reward is not None
    model = RewardNetwork(pair_shape(train, config, 1, outcome_geometry(train.task.core)), generator)
    learn, judged = rows.numpy()[left[rows.numpy()]], held[left[held]]
    every = np.flatnonzero(left)  # where few are left, all of them learn and judge
    learn, judged = (part if len(part) else every for part in (learn, judged))
    paid = train.reward.copy()
    paid[~left] = np.median(paid[left])  # the units are those of what is left
    features, target = outcome_features(model, train), torch.tensor(paid).float()[:, None]
    return fit_regression(
        model, features, target, torch.tensor(learn), judged, config, generator, progress, "fit rewards"
    )


def _with_classes(
    train: Transitions,
    outcomes: Outcomes,
    label: np.ndarray,
    rows: Tensor,
    held: np.ndarray,
    config: FitConfig,
    generator: torch.Generator,
    progress: bool,
) -> Outcomes:
    classes = len(outcomes.values)
    model = Classifier(pair_shape(train, config, classes, outcome_geometry(train.task.core)), generator)
    features = outcome_features(model, train)
    weight = torch.tensor(class_weights(label)).float()
    labels = functional.one_hot(torch.tensor(label), classes) * weight
    # Without the rare rows among those that decide when to stop, the best network would be one that never
    # names them.
    judged = np.union1d(held, np.flatnonzero(label != np.bincount(label).argmax()))
    logits = fit_logits(model, features, labels, rows, judged, config, generator, progress, "fit outcomes")
    with torch.no_grad():
        # Weighted, the network names rare classes too readily; how far to go back, the data say.
        shares = (share for share in _SHARES if told_apart((logits - share * weight.log()).numpy(), label))
        share = next(shares, None)
        model.biases[-1][..., :classes] -= (1.0 if share is None else share) * weight.log()
        if share is None:
            logits = logits - weight.log()
            model.biases[-1][..., :classes] += as_often(logits, torch.tensor(outcomes.rates).float())
    return dataclasses.replace(outcomes, drawn=share is None, network=model.finished())
