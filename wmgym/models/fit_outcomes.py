"""Fit the networks that say what a step pays and whether it ends the episode."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from wmgym.data.transitions import Transitions
from wmgym.models import warm_start
from wmgym.models.config import FitConfig
from wmgym.models.ensemble import EnsembleMLP
from wmgym.models.outcomes import Classifier, Outcomes, among, as_often, class_weights, told_apart
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
    before: Outcomes | None = None,
    whole: bool = False,
) -> Outcomes:
    """Networks from a core, the action and the next core to the classes ``label`` ``(n,)`` and the reward.

    Args:
        train: what to fit to.
        outcomes: those that it shows.
        label: the class of each row.
        predicted: the dynamics predict the reward themselves.
        rows: to train on.
        held: to stop by.
        config: of the optimiser.
        generator: of all draws.
        progress: show a bar.
        before: what the world knew that the fit goes on from. Classes that are not in ``train`` stay known.
        whole: ``train`` holds all that was learned before; else classes stay as they are.
    """
    config = dataclasses.replace(config, members=1)
    given = rows, held, config, generator, progress
    places = None if before is None else among(before, outcomes)
    if before is not None and places is not None and not (whole and len({*places}) == len(before.values)):
        outcomes, label = before, places[label]
    elif len(outcomes.values) > 1:
        outcomes = _with_classes(train, outcomes, label, *given)
    left = np.isnan(outcomes.values)[label]
    if train.task.reward is None and left.any() and not predicted:
        network = None if before is None else before.rewards
        outcomes = dataclasses.replace(outcomes, rewards=_fit_rewards(train, left, *given, network))
    return outcomes


def _fit_rewards(
    train: Transitions,
    left: np.ndarray,
    rows: Tensor,
    held: np.ndarray,
    config: FitConfig,
    generator: torch.Generator,
    progress: bool,
    before: EnsembleMLP | None,
) -> EnsembleMLP:
    """Regresses the reward of the rows ``left`` ``(n,)`` bool, on from the network ``before``."""
    assert train.reward is not None
    shape = pair_shape(train, config, 1, outcome_geometry(train.task.core))
    model = warm_start.continued(before) or RewardNetwork(shape, generator)
    learn, judged = rows.numpy()[left[rows.numpy()]], held[left[held]]
    every = np.flatnonzero(left)  # where few are left, all of them learn and judge
    learn, judged = (part if len(part) else every for part in (learn, judged))
    paid = train.reward.copy()
    paid[~left] = np.median(paid[left])  # the units are those of what is left
    features, target = outcome_features(model, train), torch.tensor(paid).float()[:, None]
    given = torch.tensor(learn), judged, config, generator, progress, "fit rewards", before is not None
    return fit_regression(model, features, target, *given)


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
