"""What a step pays and whether it ends the episode, where that is one of a few things.

A regression blurs a reward that is 0 or 1, a bonus that is paid at the end alone, and a threshold at which
episodes end. Where the data show few values, a network names one of them instead; rewards of many values are
regressed. Both see where a step led: a reward is often paid for a change, and in imagination it is then that
of the imagined change.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from wmgym.data.columns import LARGEST
from wmgym.data.transitions import Transitions
from wmgym.io.schema import ArraySpec, Record, check_arrays
from wmgym.models.batching import constant
from wmgym.models.dynamics import register_dynamics
from wmgym.models.ensemble import EnsembleMLP
from wmgym.models.pairs import outcome_pair
from wmgym.tasks.layout import Array, Core

MOST_VALUES = 16
"""A reward of more values than this is regressed."""

_ROWS_A_VALUE = 20  # rows that a value must have on average to be no chance agreement
_CLOSE = 0.05  # terminal rewards this close together, as a share of the range of all, are one value
_FOUND = 0.8  # share of each class's rows, and of those named so, that must be right, or outcomes are drawn
_LEAST = 0.1  # probability below this share of how often a class is, at which it is never drawn
_MOST_WEIGHT = 50.0


@register_dynamics("classifier")
class Classifier(EnsembleMLP):
    """An ensemble whose targets are one-hot classes, and whose means are their logits."""

    def loss(self, outputs: Tensor, labels: Tensor, ends: Tensor) -> Tensor:
        """Cross-entropy, mean over rows, summed over members; shapes as for ``EnsembleMLP.loss``."""
        logits = functional.log_softmax(outputs[..., : self.target_dim], -1)
        return -(logits * labels).sum(-1).mean(1).sum()


@dataclass(frozen=True, repr=False)
class Outcomes:
    """What a step pays and whether it ends the episode.

    Attributes:
        values: ``(classes,)`` float64, the reward that each pays; NaN where the regressed one stands.
        ends: ``(classes,)`` bool, whether it ends the episode.
        drawn: whether a step's outcome is drawn by its probability where there is a generator; false where
            the likeliest one is right, and draws would only add noise.
        rates: ``(classes,)`` float64, how often each is in the data.
        network: logits of the classes, from a state and the next one side by side, see ``outcome_pair``, and
            the action; None where there is a single class.
        rewards: regresses what is paid where ``values`` is NaN, from the same; None where nothing is left to
            regress, or the dynamics predict it.
    """

    values: np.ndarray
    ends: np.ndarray
    rates: np.ndarray
    drawn: bool = False
    network: EnsembleMLP | None = None
    rewards: EnsembleMLP | None = None

    def __repr__(self) -> str:
        """One line."""
        paid = ", ".join(
            f"{value:g}{' at an end' if end else ''}" if not math.isnan(value) else "an end"
            for value, end in zip(self.values, self.ends, strict=True)
            if end or not math.isnan(value)
        )
        return f"Outcomes({paid or 'none'}{', drawn' if self.drawn else ''})"

    @property
    def knows_reward(self) -> bool:
        """Whether it says what every step pays, whatever the dynamics predict."""
        return self.rewards is not None or not np.isnan(self.values).any()

    def pair(self, core: Core, before: Array, after: Array) -> Array:
        """What the networks take of states ``(batch, state_dim)`` and the next ones."""
        model = self.network if self.rewards is None else self.rewards
        return before[:, :0] if model is None else outcome_pair(core, model, before, after)

    def of(
        self,
        pair: Tensor,
        action: Tensor,
        terminated: Tensor | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Logits ``(batch, classes)``, of which the largest is the outcome.

        Args:
            pair: what ``pair`` gives.
            action: ``(batch, action_dim)``, encoded.
            terminated: ``(batch,)`` where that is known, so that classes which contradict it are ruled out.
            generator: draws outcomes where these are to be drawn; None takes the likeliest.
        """
        if self.network is None:
            return pair.new_zeros(len(pair), 1)
        logits = self.network.predict(pair, action).mean[0]
        if self.drawn and generator is not None:  # the largest of logits with Gumbel noise is a draw
            logits = _without_traces(logits, constant(self.rates, logits.device))
            uniform = torch.rand(logits.shape, generator=generator, device=logits.device)
            logits = logits - (-uniform.clamp(1e-12, 1 - 1e-7).log()).log()
        if terminated is not None and self.ends.any() and not self.ends.all():
            ends = constant(self.ends, logits.device)
            logits = logits.masked_fill(ends != terminated[:, None], -math.inf)
        return logits

    def reward(self, logits: Tensor, regressed: Tensor) -> Tensor:
        """Rewards ``(batch,)`` of the outcomes; float64, so that they are those of the data to the last bit.

        Where gradients flow, they are those of the expected reward.
        """
        values = constant(self.values, logits.device)
        every = torch.where(values.isnan(), regressed.double()[:, None], values)  # (batch, classes)
        paid = every.gather(1, logits.argmax(1, keepdim=True))[:, 0]
        if logits.requires_grad:
            expected = (logits.double().softmax(1) * every).sum(1)
            paid = paid.detach() + expected - expected.detach()
        return paid

    def regressed(self, pair: Tensor, action: Tensor, predicted: Tensor) -> Tensor:
        """Rewards ``(batch,)`` where these are not one of a few values.

        Args:
            pair: as for ``of``.
            action: ``(batch, action_dim)``, encoded.
            predicted: ``(batch, 1)`` reward that the dynamics predicted, or ``(batch, 0)``.
        """
        if self.rewards is not None:
            predicted = self.rewards.predict(pair, action).mean[0]
        if not predicted.shape[1]:
            return pair.new_zeros(len(pair))
        return torch.nan_to_num(predicted[:, 0], 0.0, 0.0, 0.0)

    def terminated(self, logits: Tensor) -> Tensor:
        """Whether the outcomes end the episode ``(batch,)`` bool."""
        return constant(self.ends, logits.device)[logits.argmax(1)]

    def document(self) -> dict[str, Any]:
        """All but the networks as JSON values."""
        values = [None if math.isnan(value) else value for value in self.values.tolist()]
        shares = {"ends": self.ends.tolist(), "rates": self.rates.tolist()}
        return {"values": values, **shares, "drawn": self.drawn}

    @classmethod
    def from_document(
        cls, document: Mapping[str, Any], network: EnsembleMLP | None, rewards: EnsembleMLP | None
    ) -> Outcomes:
        """Rebuild what ``document`` gave.

        Raises:
            ValueError: its parts do not belong together.
        """
        record = _OutcomesRecord.model_validate(document)
        values = np.array([math.nan if x is None else x for x in record.values], np.float64)
        ends, rates = np.array(record.ends, bool), np.array(record.rates, np.float64)
        count = max(len(values), 1)
        check_arrays(
            {"values": np.nan_to_num(values), "ends": ends, "rates": rates},
            {
                "values": ArraySpec((count,), "float64", low=-LARGEST, high=LARGEST),
                "ends": ArraySpec((count,), "bool"),
                "rates": ArraySpec((count,), "float64", low=0, high=1),
            },
        )
        if abs(rates.sum() - 1) > 1e-6:
            raise ValueError(f"rates of outcomes add up to {rates.sum():g}, not to 1")
        if (network is None) != (count == 1) or (network is not None and network.target_dim != count):
            raise ValueError("outcomes and their network differ in number")
        if rewards is not None and rewards.target_dim != 1:
            raise ValueError(f"a reward is one number, not {rewards.target_dim}")
        return cls(values, ends, rates, record.drawn, network, rewards)


class _OutcomesRecord(Record):
    """What ``Outcomes.document`` gives."""

    values: list[float | None]
    ends: list[bool]
    rates: list[float]
    drawn: bool


def among(known: Outcomes, shown: Outcomes) -> np.ndarray | None:
    """Which of ``known`` each of the ``shown`` classes is ``(classes,)``; None where one is new.

    A value that ``known`` regresses is one of those.
    """
    places = []
    for value, end in zip(shown.values, shown.ends, strict=True):
        alike = known.ends == end
        same = alike & (known.values == value)
        found = np.flatnonzero(same if same.any() else alike & np.isnan(known.values))
        if not len(found):
            return None
        places.append(found[0])
    return np.array(places)


def find_outcomes(train: Transitions) -> tuple[Outcomes, np.ndarray] | None:
    """The outcomes that data show, without a network, and the class ``(n,)`` of each row.

    None where the task's own functions say all.
    """
    task, ended = train.task, train.terminated
    reward = None if task.reward is not None else train.reward
    value = np.full(len(train), np.nan)
    if reward is not None:
        distinct = np.unique(reward)
        if len(distinct) <= min(MOST_VALUES, len(train) // _ROWS_A_VALUE):
            value = reward.copy()
        else:
            value[ended] = _terminal_values(reward, ended)
    if task.terminated is not None and reward is None:
        return None
    pairs = np.stack([np.nan_to_num(value, nan=np.inf), ended], 1)
    if task.terminated is not None and (np.isnan(value).all() or not np.isnan(value).any()):
        pairs[:, 1] = 0  # the reward does not need to know of ends
    found, label = np.unique(pairs, axis=0, return_inverse=True)
    values, ends = np.where(np.isinf(found[:, 0]), np.nan, found[:, 0]), found[:, 1] == 1
    label = label.reshape(-1)
    return Outcomes(values, ends, np.bincount(label) / len(label)), label


def class_weights(label: np.ndarray) -> np.ndarray:
    """What a row of each class counts for while fitting ``(classes,)``: the rare ones more."""
    counts = np.bincount(label)
    return np.asarray(np.minimum(counts.max() / counts, _MOST_WEIGHT))


def as_often(logits: Tensor, rates: Tensor) -> Tensor:
    """What to add to logits ``(n, classes)`` so that draws are of each class as often as ``rates`` say."""
    shift = torch.zeros_like(rates)
    for _ in range(30):
        drawn = _without_traces(logits + shift, rates).softmax(1).mean(0)
        shift = shift + 0.7 * (rates / drawn.clamp(min=1e-9)).log().clamp(-1, 1)
    return shift - shift[rates.argmax()]


def _without_traces(logits: Tensor, rates: Tensor) -> Tensor:
    """Logits without traces of a class where it never was, which would add up over many steps."""
    traces = (logits.softmax(1) < _LEAST * rates) & (rates < rates.max())
    return logits.masked_fill(traces, -math.inf)


def told_apart(logits: np.ndarray, label: np.ndarray) -> bool:
    """Whether the likeliest by ``logits`` ``(n, classes)`` is most often right, for each class."""
    named = logits.argmax(1)
    right = np.bincount(label[named == label], minlength=logits.shape[1])
    most = np.maximum(*(np.bincount(each, minlength=logits.shape[1]) for each in (named, label)))
    return bool((right >= _FOUND * most).all())


def _terminal_values(reward: np.ndarray, ended: np.ndarray) -> np.ndarray:
    """The value that each terminal row pays; NaN where it looks like any other reward."""
    last = reward[ended]
    value = np.full(len(last), np.nan)
    usual = reward[~ended]
    if not len(last) or not len(usual):
        return value
    low, high = np.quantile(usual, (0.005, 0.995))
    span = float(np.ptp(reward))
    order = np.argsort(last)
    for group in np.split(order, np.flatnonzero(np.diff(last[order]) > _CLOSE * span) + 1):
        paid = last[group]
        if np.ptp(paid) <= _CLOSE * span and (paid.min() > high or paid.max() < low):
            value[group] = paid[0] if np.ptp(paid) == 0 else paid.mean()
    return value
