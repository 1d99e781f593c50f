"""Go on training the networks beside the dynamics on transitions of a robot that has changed."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from wmgym.data.transitions import Transitions
from wmgym.models.config import FitConfig
from wmgym.models.dynamics import Dynamics
from wmgym.models.ensemble import EnsembleMLP
from wmgym.models.outcomes import Outcomes
from wmgym.models.pairs import outcome_features
from wmgym.models.regression import fit_regression
from wmgym.models.training_loop import encoded_actions

_ENOUGH = 10  # rows that a network learns from, and that judge it


def tuned_readout(
    readout: Dynamics | None,
    data: Transitions,
    rows: Tensor,
    held: np.ndarray,
    config: FitConfig,
    generator: torch.Generator,
) -> Dynamics | None:
    """Readouts that have learned from the ``rows`` of ``data``, where that helps on those ``held``."""
    if not isinstance(readout, EnsembleMLP):
        return readout
    model = copy.deepcopy(readout).requires_grad_(True)
    features = model.features(torch.tensor(data.next_core), encoded_actions(data))
    target = torch.tensor(data.readout).float()
    config = replace(config, members=model.num_members)
    return fit_regression(
        model, features, target, rows, held, config, generator, False, "fine-tune readouts", keep=True
    )


def tuned_outcomes(
    outcomes: Outcomes | None,
    data: Transitions,
    rows: Tensor,
    held: np.ndarray,
    config: FitConfig,
    generator: torch.Generator,
) -> Outcomes | None:
    """Outcomes whose regressed rewards have learned likewise; their classes stay as they are."""
    if outcomes is None or outcomes.rewards is None or data.reward is None:
        return outcomes
    regressed = ~(np.isin(data.reward, outcomes.values) | data.terminated)
    learn, judged = rows[torch.tensor(regressed)[rows]], held[regressed[held]]
    if min(len(learn), len(judged)) < _ENOUGH:
        return outcomes
    model = copy.deepcopy(outcomes.rewards).requires_grad_(True)
    features = outcome_features(model, data)
    target = torch.tensor(data.reward).float()[:, None]
    config = replace(config, members=model.num_members)
    tuned = fit_regression(
        model, features, target, learn, judged, config, generator, False, "fine-tune rewards", keep=True
    )
    return replace(outcomes, rewards=tuned)
