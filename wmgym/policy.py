"""A policy as plain arrays: saved without pickle, called without torch or SB3."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from gymnasium import spaces

from wmgym import store
from wmgym.records import Record

Activation = Literal["relu", "tanh", "elu", "leaky_relu"]
Head = Literal["squash", "clip", "argmax"]


@dataclass(frozen=True)
class MLPPolicy:
    """A deterministic multi-layer perceptron.

    Attributes:
        name: what reports call it.
        weights: one ``(inputs, outputs)`` float32 array a layer.
        biases: one ``(outputs,)`` array a layer.
        activation: between layers.
        head: "squash" maps tanh of the output to the action bounds (SAC, TD3), "clip" clips it to them (PPO,
            A2C), "argmax" picks a Discrete action.
        low: ``action_shape`` lower bounds; for "argmax" the first action.
        high: upper bounds; for "argmax" the last action.
    """

    name: str
    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    activation: Activation
    head: Head
    low: np.ndarray
    high: np.ndarray

    def __post_init__(self) -> None:
        """Refuse layers that do not fit each other or the actions."""
        inner = [(weight.shape[-1],) for weight in self.weights]
        fits = (
            len(inner) > 0
            and inner == [bias.shape for bias in self.biases]
            and self.low.shape == self.high.shape
        )
        fits = fits and all(
            weight.shape[:-1] == size for weight, size in zip(self.weights[1:], inner, strict=False)
        )
        if not (fits and self.weights[0].ndim == 2 and inner[-1] == (self._outputs,)):
            raise ValueError(f"policy {self.name!r}: weights, biases and action bounds do not fit each other")

    @property
    def _outputs(self) -> int:
        return int(self.high - self.low) + 1 if self.head == "argmax" and not self.low.ndim else self.low.size

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        """Actions ``(n, *action_shape)`` for observations ``(n, *obs_shape)``; one alone gives one action."""
        inputs = self.weights[0].shape[0]
        array = np.asarray(obs, np.float32)
        single = array.size == inputs and (array.ndim == 1 or len(array) != 1)
        hidden: np.ndarray = array.reshape(1 if single else len(array), -1)
        if hidden.shape[1] != inputs:
            raise ValueError(
                f"policy {self.name!r} takes observations of {inputs} values, got shape {array.shape}"
            )
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            hidden = _ACTIVATIONS[self.activation](hidden @ weight + bias)
        action = self._head(hidden @ self.weights[-1] + self.biases[-1])
        return np.asarray(action[0]) if single else action

    def _head(self, output: np.ndarray) -> np.ndarray:
        if self.head == "argmax":
            return np.asarray(output.argmax(1) + int(self.low))
        shaped = output.reshape(len(output), *self.low.shape)
        if self.head == "clip":
            return np.asarray(np.clip(shaped, self.low, self.high))
        return np.asarray(self.low + (np.tanh(shaped) + 1) / 2 * (self.high - self.low))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to a directory."""
        arrays = {f"weight.{i}": weight for i, weight in enumerate(self.weights)}
        arrays |= {f"bias.{i}": bias for i, bias in enumerate(self.biases)}
        arrays |= {"low": self.low, "high": self.high}
        record = _PolicyRecord(
            name=self.name, layers=len(self.weights), activation=self.activation, head=self.head
        )
        return store.write_directory(
            path, kind="policy", arrays=arrays, document=record.model_dump(mode="json")
        )


def load_policy(path: str | os.PathLike[str]) -> MLPPolicy:
    """Read what ``MLPPolicy.save`` wrote; a changed byte is refused."""
    arrays, document = store.read_directory(path, kind="policy")
    try:
        record = _PolicyRecord.model_validate(document)
        return MLPPolicy(
            name=record.name,
            weights=tuple(arrays[f"weight.{i}"] for i in range(record.layers)),
            biases=tuple(arrays[f"bias.{i}"] for i in range(record.layers)),
            activation=record.activation,
            head=record.head,
            low=arrays["low"],
            high=arrays["high"],
        )
    except (ValueError, KeyError) as error:
        raise store.StoreError(f"{path}: not a policy of this version of wmgym; export it again") from error


def action_bounds(space: spaces.Box | spaces.Discrete) -> tuple[np.ndarray, np.ndarray]:
    """Bounds as ``MLPPolicy`` keeps them."""
    if isinstance(space, spaces.Discrete):
        return np.array(space.start), np.array(space.start + space.n - 1)
    return np.array(space.low, np.float32), np.array(space.high, np.float32)


class _PolicyRecord(Record):
    name: str
    layers: int
    activation: Activation
    head: Head


_ACTIVATIONS: Mapping[Activation, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
}
