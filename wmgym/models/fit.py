"""Fit a world to real transitions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from wmgym.data.columns import refuse_overflow, state_rows
from wmgym.data.functions import try_functions
from wmgym.data.layouts import laid_out
from wmgym.data.traits import with_traits
from wmgym.data.transitions import Transitions, refuse_other
from wmgym.io.arguments import instance, seed_number, whole_number
from wmgym.io.provenance import Provenance, library_versions
from wmgym.models import warm_start
from wmgym.models.config import FitConfig, architecture
from wmgym.models.coordinates import Coordinates
from wmgym.models.dynamics import Dynamics, targets
from wmgym.models.ensemble import EnsembleMLP
from wmgym.models.fit_outcomes import fit_outcomes
from wmgym.models.flags import fit_flags
from wmgym.models.outcomes import find_outcomes
from wmgym.models.regression import fit_regression, normalise
from wmgym.models.rollout_error import RolloutError
from wmgym.models.support import sample_support
from wmgym.models.symmetry import expressible, views
from wmgym.models.training_loop import (
    FitState,
    data_range,
    encoded_actions,
    finetune,
    optimise,
)
from wmgym.models.world import WorldModel

FitDynamics: TypeAlias = Callable[[Transitions, FitConfig, int], Dynamics]
"""What fits a model of another kind: ``(train, config, seed) -> model``.

Errors of held-out rollouts that a model has as ``rollout_error`` go into the world's provenance.
"""


def fit(
    train: Transitions,
    config: FitConfig | None = None,
    seed: int = 0,
    *,
    dynamics: type[Any] | FitDynamics | None = None,
    begin: WorldModel | None = None,
    newest: int = 0,
    starts: np.ndarray | None = None,
    progress: bool = False,
) -> WorldModel:
    """Fit a world model; the same data, config and seed give the same weights on the same machine.

    Early stopping holds out whole episodes of ``train`` and looks at nothing else.

    Args:
        train: transitions to learn from.
        config: architecture and optimiser; None takes the defaults.
        seed: decides initial weights, batches and the held-out episodes.
        dynamics: the model to fit; None is ``EnsembleMLP``. A subclass of it is trained likewise. A model of
            another kind brings its own training: a class with a classmethod ``fit(train, config, seed)``, or
            a function like that, which returns the fitted model (see ``Dynamics``).
        begin: a world of the same task whose weights, units and range the fit goes on from, instead of
            fresh ones; its architecture stays. ``config`` then says how far to go, and its learning rate
            should be a tenth of a fresh fit's.
        newest: the last so many transitions are drawn for a third of every batch at least, and are half of
            what early stopping looks at, so that few new ones count beside many old ones.
        starts: ``(n, state_dim)`` start states for the bank; None takes the first state of every episode.
        progress: show a bar on a terminal.

    Raises:
        TypeError: ``train`` is a path, a list or something else that is no ``Transitions``.
        ValueError: the task has no reward formula and the data no reward, or too little data; numbers so
            large that float32 arithmetic overflows; a reward_fn or terminated_fn does not return one value a
            row; ``begin`` is of other states or actions, or has dynamics of another kind.
    """
    refuse_other("fit", train)
    if not isinstance(config, FitConfig | None):
        raise TypeError(f"config must be a FitConfig, such as wmgym.FitConfig(members=4), got {config!r:.80}")
    seed, config = seed_number(seed), config or FitConfig()
    task = train.task
    if task.reward is None and train.reward is None:
        raise ValueError(
            f"{task.env_id or 'this task'} has no known reward; "
            "pass make_task or from_log a reward_fn, or data with reward"
        )
    if len(train) < 10:
        raise ValueError(f"{len(train)} transitions are too few to fit to; collect more")
    refuse_overflow(train.arrays())
    try_functions(train)
    newest = whole_number("newest", newest, least=0)
    if begin is not None:
        instance("begin", begin, WorldModel, "read it with wmgym.load")
        if dynamics is not None:
            raise ValueError("pass dynamics= or begin=, whose dynamics the fit goes on from, not both")
        train = laid_out(train, begin.task)
    if newest > len(train) or (0 < newest < len(train) and len(train) - newest not in train.first):
        raise ValueError(
            f"newest must be the steps of the last whole episodes, and there are {len(train)}; got {newest}"
        )
    train = with_traits(train)
    task = train.task
    generator = torch.Generator().manual_seed(seed)
    rows, held = hold_out(train, config, seed, newest)
    rows = warm_start.emphasised(rows, len(train) - newest) if newest else rows
    dynamics = EnsembleMLP if dynamics is None else dynamics
    if begin is not None:
        dynamics = warm_start.kind(begin, task)
        config = dataclasses.replace(config, members=begin.dynamics.num_members)
    found = find_outcomes(train)
    model: Dynamics
    history: list[float] = []
    if isinstance(dynamics, type) and issubclass(dynamics, EnsembleMLP):
        error = RolloutError(train, held, config, seed, newest)
        model, history = _fit_ensemble(dynamics, train, rows, error, config, generator, progress, begin)
    else:
        made_by: Any = dynamics
        if not callable(getattr(made_by, "fit", made_by)):
            raise TypeError(
                f"dynamics= takes a class of dynamics or a function that fits them, such as "
                f"wmgym.residual(env) is; got {made_by!r}"
            )
        model = getattr(made_by, "fit", made_by)(train, config, seed)
        history = [round(float(error), 6) for error in getattr(model, "rollout_error", ())]
        if _knows_ends(model, train):
            found = None
    outcomes = None
    mine, before = train.fingerprints(), set() if begin is None else {*begin.provenance.fingerprints}
    whole = begin is not None and before <= {*mine}
    given = rows, held, config, generator, progress
    if found is not None:
        own = getattr(model, "coordinates", None) or Coordinates(task.core.geometry)
        predicted = model.target_dim > own.change_dim
        known = None if begin is None else begin.outcomes
        outcomes = fit_outcomes(
            train, *found, predicted, rows, held, config, generator, progress, known, whole
        )
    readout = _fit_readout(train, *given, begin) if task.core.readout_dim else None
    flags = fit_flags(train, *given, None if begin is None else begin.flags, whole)
    bank = train.state[train.first] if starts is None else state_rows("starts", starts, task.core.state_dim)
    low, high = data_range(train, config.margin, task.core.joint_limits)
    settings = {"config": dataclasses.asdict(config), "seed": seed, "rollout_error": history}
    if begin is not None:
        low, high = np.minimum(begin.low, low), np.maximum(begin.high, high)
        settings["begin"] = begin.provenance.fit
    provenance = Provenance(
        fingerprints=(*sorted(before - {*mine}), *mine),
        steps=len(train),
        source=train.source if begin is None or begin.provenance.source == "real" else "imagined",
        versions=library_versions(),
        fit=settings,
    )
    support = sample_support(train, seed, getattr(model, "coordinates", None))
    return WorldModel(
        task, model, bank, low, high, provenance, readout, support=support, outcomes=outcomes, flags=flags
    )


def _knows_ends(model: Dynamics, train: Transitions) -> bool:
    """Whether a model of the caller's predicts terminations itself."""
    with torch.no_grad():
        one = model.predict(torch.tensor(train.core[:1]), encoded_actions(train)[:1])
    return one.end_logit is not None


def _fit_ensemble(
    kind: type[EnsembleMLP],
    train: Transitions,
    rows: Tensor,
    validation_fn: RolloutError,
    config: FitConfig,
    generator: torch.Generator,
    progress: bool,
    begin: WorldModel | None,
) -> tuple[EnsembleMLP, list[float]]:
    """The fitted network and its validation errors."""
    task = train.task
    changes = kind.coordinates_type(task.core.geometry).change_dim
    if not changes and task.reward is not None:
        raise ValueError("no number of these states ever changes; there is nothing to fit to")
    # Where nothing changes, the reward is all there is to predict.
    shape = architecture(
        config, geometry=task.core.geometry, action_dim=task.action_dim, target_dim=max(changes, 1)
    )
    model = warm_start.continued(begin and begin.dynamics) or kind(shape, generator)
    model.use_precision(config.precision)
    # A learned reward may tell left from right: where it is all that is predicted, nothing is mirrored.
    symmetries = task.core.symmetries if changes else ()
    symmetries = expressible(symmetries, model.coordinates, task.action_dim)
    seen = views(symmetries, model.coordinates, task.action_dim)
    features = model.features(torch.tensor(train.core), encoded_actions(train))
    wanted = targets(train, model.coordinates, model.target_dim)
    inputs, labels = normalise(model, features, wanted, seen, model.coordinates.vectors, begin is not None)
    ends = torch.zeros(len(inputs))  # outcomes learn them, and rewards
    fitting = FitState(model, inputs, labels, ends, rows, config, generator, validation_fn, progress, seen)
    history = optimise(fitting, "fit")
    if config.finetune_updates:
        history += finetune(fitting, train)
    return model.finished(), history


def _fit_readout(
    train: Transitions,
    rows: Tensor,
    held: np.ndarray,
    config: FitConfig,
    generator: torch.Generator,
    progress: bool,
    begin: WorldModel | None,
) -> EnsembleMLP:
    """One network from the next core and the action to the readouts, which are given in world axes."""
    config, core = dataclasses.replace(config, members=1), train.task.core
    shape = architecture(
        config,
        geometry=core.geometry.in_world(),
        action_dim=train.task.action_dim,
        target_dim=core.readout_dim,
    )
    before = warm_start.continued(begin and begin.readout)
    model = before or EnsembleMLP(shape, generator)
    features = model.features(torch.tensor(train.next_core), encoded_actions(train))
    target, kept = torch.tensor(train.readout).float(), before is not None
    return fit_regression(
        model, features, target, rows, held, config, generator, progress, "fit readouts", kept
    )


def hold_out(train: Transitions, config: FitConfig, seed: int, newest: int = 0) -> tuple[Tensor, np.ndarray]:
    """Rows to train on, and rows of the held-out episodes: of the ``newest`` a share of their own.

    A fit that goes on from another's weights is judged by what neither has seen: with the same seed, old data
    are held out as before, and so are new ones where more have followed them.
    """
    old = len(train) - newest
    if newest > 1 and old > 1:
        held = np.concatenate(
            [
                _held(train.episode[:old], config.validation, seed),
                _every(train.episode[old:], config.validation),
            ]
        )
    else:
        held = _held(train.episode, config.validation, seed)
    return torch.tensor(np.flatnonzero(~held)), np.flatnonzero(held)


def _held(episode: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Which rows ``(n,)`` are held out: whole episodes, the tail where there is one alone."""
    want = min(max(1, round(share * len(episode))), len(episode) // 2)  # something is left to fit to
    number, lengths = np.unique(episode, return_counts=True)
    if len(number) == 1:
        return np.arange(len(episode)) >= len(episode) - want
    order = np.random.default_rng(seed).permutation(len(number))
    sizes = np.cumsum(lengths[order])
    count = min(int(np.searchsorted(sizes, want)) + 1, len(number) - 1)
    return np.isin(episode, number[order[:count]])


def _every(episode: np.ndarray, share: float) -> np.ndarray:
    """Likewise, but every tenth episode, say, which it remains when others follow."""
    if episode[0] == episode[-1]:
        return _held(episode, share, 0)
    held: np.ndarray = (episode - episode[0]) % max(2, round(1 / share)) == 0
    return held
