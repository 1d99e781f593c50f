"""A policy as plain arrays: saved without pickle, called without torch or SB3."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from gymnasium import spaces
from pydantic import Field, JsonValue

from wmgym.data.policy_onnx import Activation, Head, write_mlp
from wmgym.io import artifacts
from wmgym.io.files import as_path
from wmgym.io.schema import ArraySpec, Count, Record, check_arrays, refusing
from wmgym.tasks.actions import ActionSpace, choices, first


class PolicyCard(Record):
    """Where a policy comes from and what it is worth in the real env.

    Attributes:
        algorithm: that trained it, or how it was made by hand.
        hyperparameters: as JSON; what is not named was the library's default.
        seed: of the training.
        real_steps: real env steps it learned from.
        versions: of the libraries that made it.
        env_id: the real env.
        return_mean: mean return over whole real episodes, deterministic actions.
        return_std: their standard deviation.
        episodes: how many.
        score_seed: ``collect``'s seed of those episodes.
        split: "held-out" policies are never used to fit or calibrate anything that they are scored on; those
            for "calibration" are never used to fit.
    """

    algorithm: str
    hyperparameters: dict[str, JsonValue]
    seed: int
    real_steps: Count
    versions: dict[str, str]
    env_id: str
    return_mean: float
    return_std: Annotated[float, Field(ge=0)]
    episodes: Count
    score_seed: int
    split: Literal["pool", "calibration", "held-out"]


@dataclass(frozen=True, repr=False)
class MLPPolicy:
    """A multi-layer perceptron: deterministic, and stochastic where its algorithm was.

    Attributes:
        name: what reports call it.
        weights: one ``(inputs, outputs)`` float32 array a layer.
        biases: one ``(outputs,)`` array a layer.
        activation: between layers.
        head: "squash" maps tanh of the output to the action bounds (SAC, TD3), "clip" clips it to them (PPO,
            A2C), "argmax" picks a Discrete action, or one for each part of a MultiDiscrete or MultiBinary.
        low: ``action_shape`` lower bounds; for "argmax" the first action.
        high: upper bounds; for "argmax" the last action.
        stochastic: whether a generator draws actions: Gaussian before the head, softmax for "argmax".
        log_std_bias: ``(outputs,)`` log standard deviation of that Gaussian; for Box actions only.
        log_std_weight: ``(hidden, outputs)`` its dependence on the last hidden layer (SAC); None is none.
        card: origin and worth, where it is known.
    """

    name: str
    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    activation: Activation
    head: Head
    low: np.ndarray
    high: np.ndarray
    stochastic: bool = False
    log_std_bias: np.ndarray | None = None
    log_std_weight: np.ndarray | None = None
    card: PolicyCard | None = None

    def __post_init__(self) -> None:
        """Refuse layers that do not fit each other or the actions, and numbers that are not finite."""
        try:
            arrays = self._arrays()
            check_arrays(arrays, self._specs(arrays))
            if not (self.low <= self.high).all():
                raise ValueError("low exceeds high")
        except (ValueError, IndexError) as error:
            raise ValueError(f"policy {self.name!r} does not fit together: {error}") from error

    @property
    def obs_dim(self) -> int:
        """Length of the flat observation that it takes."""
        return len(self.weights[0])

    @property
    def action_space(self) -> ActionSpace:
        """What it acts in."""
        if self.head == "argmax" and self.low.ndim:
            return spaces.MultiDiscrete(self.high - self.low + 1, start=self.low)
        if self.head == "argmax":
            return spaces.Discrete(int(self.high) - int(self.low) + 1, start=int(self.low))
        low, high = (np.asarray(side, np.float32) for side in (self.low, self.high))
        return spaces.Box(low, high)

    def _arrays(self) -> dict[str, np.ndarray]:
        """All arrays by the names under which they are stored."""
        arrays = {f"weight.{i}": weight for i, weight in enumerate(self.weights)}
        arrays |= {f"bias.{i}": bias for i, bias in enumerate(self.biases)}
        return arrays | {key: getattr(self, key) for key in _ARRAYS if getattr(self, key) is not None}

    def _specs(self, arrays: Mapping[str, np.ndarray]) -> dict[str, ArraySpec]:
        """What they must be like; each layer takes what the one before gives."""
        discrete = self.head == "argmax"
        low, high = self.low, self.high
        whole = low.dtype.kind + high.dtype.kind == "ii" and low.ndim < 2 and low.shape == high.shape
        if discrete and not (whole and (high >= low).all()):
            raise ValueError("an argmax policy has integers as bounds, the first not above the second")
        outputs = int((high - low + 1).sum()) if discrete else low.size
        sizes = [len(self.weights[0]), *(weight.shape[-1] for weight in self.weights[:-1]), outputs]
        if self.obs_dim < 1:
            raise ValueError("weight.0 takes no observation")
        shapes: dict[str, tuple[int, ...]] = {"low": low.shape, "high": low.shape}
        shapes |= {f"weight.{i}": pair for i, pair in enumerate(itertools.pairwise(sizes))}
        shapes |= {f"bias.{i}": (size,) for i, size in enumerate(sizes[1:])}
        if self.stochastic and not discrete:
            shapes["log_std_bias"] = (outputs,)
            if self.log_std_weight is not None:
                shapes["log_std_weight"] = (sizes[-2], outputs)
        own = {name: array.dtype for name, array in arrays.items() if array.dtype.kind == "f"}  # of any width
        if discrete:
            own |= {"low": low.dtype, "high": high.dtype}
        specs = {name: ArraySpec(shape, str(own.get(name, "float32"))) for name, shape in shapes.items()}
        if self.head == "clip":  # there may be nothing to clip to
            specs |= {name: replace(specs[name], low=-np.inf, high=np.inf) for name in ("low", "high")}
        return specs

    def __repr__(self) -> str:
        """Name, layer sizes and head."""
        sizes = "-".join(str(size) for size in (len(self.weights[0]), *(len(bias) for bias in self.biases)))
        kind = "stochastic" if self.stochastic else "deterministic"
        return f"MLPPolicy({self.name!r}, {sizes}, {self.activation}, {self.head}, {kind})"

    def __call__(self, obs: np.ndarray, generator: np.random.Generator | None = None) -> np.ndarray:
        """Actions for observations, drawn from ``generator`` where one is given.

        Args:
            obs: ``(n, *obs_shape)``, or one observation alone.
            generator: source of a stochastic policy's noise; None takes the most likely action.

        Returns:
            ``(n, *action_shape)``, or one action alone.

        Raises:
            ValueError: observations of another size, or a generator for a policy that has no distribution.
        """
        if generator is not None and not self.stochastic:
            raise ValueError(f"policy {self.name!r} is deterministic; leave the generator out")
        inputs = self.obs_dim
        array = np.asarray(obs, np.float32)
        single = array.size == inputs and (array.ndim == 1 or len(array) != 1)
        hidden: np.ndarray = array.reshape(1 if single else len(array), -1)
        if hidden.shape[1] != inputs:
            raise ValueError(
                f"policy {self.name!r} takes observations of {inputs} values, got shape {array.shape}"
            )
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            hidden = _ACTIVATIONS[self.activation](hidden @ weight + bias)
        output = hidden @ self.weights[-1] + self.biases[-1]
        if generator is not None:
            output = output + self._noise(hidden, output.shape, generator)
        action = self._head(output)
        return np.asarray(action[0]) if single else action

    def _noise(
        self, hidden: np.ndarray, shape: tuple[int, ...], generator: np.random.Generator
    ) -> np.ndarray:
        if self.head == "argmax":  # the largest of logits with Gumbel noise is a draw from their softmax
            return generator.gumbel(size=shape)
        assert self.log_std_bias is not None
        log_std = self.log_std_bias
        if self.log_std_weight is not None:
            log_std = np.clip(hidden @ self.log_std_weight + log_std, *_LOG_STD_RANGE)
        return np.asarray(np.exp(log_std) * generator.standard_normal(shape))

    def _head(self, output: np.ndarray) -> np.ndarray:
        if self.head == "argmax":
            ends = np.cumsum(np.atleast_1d(self.high - self.low + 1))[:-1]
            best = [part.argmax(1) for part in np.split(output, ends, 1)]
            return np.asarray((np.stack(best, 1) if self.low.ndim else best[0]) + self.low)
        shaped = output.reshape(len(output), *self.low.shape)
        if self.head == "clip":
            return np.asarray(np.clip(shaped, self.low, self.high))
        return np.asarray(self.low + (np.tanh(shaped) + 1) / 2 * (self.high - self.low))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to a directory."""
        sizes = {"layers": len(self.weights), "inputs": self.obs_dim}
        values = {key: getattr(self, key) for key in _PolicyRecord.model_fields if key not in sizes}
        record = _PolicyRecord(**sizes, **values)
        return artifacts.write_directory(
            path, kind="policy", arrays=self._arrays(), document=record.model_dump(mode="json")
        )

    def export(self, path: str | os.PathLike[str]) -> Path:
        """Write the most likely actions of observations as ONNX, and a JSON contract beside it.

        Raises:
            StoreError: ``path`` does not end in ``.onnx`` or cannot be written.
            ImportError: ``onnx`` is not installed.
        """
        layers = tuple(zip(self.weights, self.biases, strict=True))
        return write_mlp(path, self.name, layers, self.activation, self.head, (self.low, self.high))


def load_policy(path: str | os.PathLike[str]) -> MLPPolicy:
    """Read what ``MLPPolicy.save`` wrote to the directory ``path``.

    Raises:
        StoreError: no policy, or a byte of it has changed.
    """
    if os.path.isfile(as_path(path)):
        raise artifacts.StoreError(
            f"{path} is a file, not a policy that wmgym saved; read a Stable-Baselines3 zip with "
            "wmgym.sb3.import_sb3, or load it with Stable-Baselines3 and pass the model"
        )
    arrays, document = artifacts.read_directory(path, kind="policy")
    with refusing(os.fspath(path), "a policy", "export it again"):
        fields: dict[str, Any] = dict(_PolicyRecord.model_validate(document))
        layers, inputs = range(fields.pop("layers")), fields.pop("inputs")
        for name, key in (("weights", "weight"), ("biases", "bias")):
            fields[name] = tuple(arrays.pop(f"{key}.{i}") for i in layers)
        policy = MLPPolicy(**{**arrays, **fields})
        if inputs not in (None, policy.obs_dim):
            raise ValueError(f"weight.0 takes {policy.obs_dim} numbers, expected {inputs}")
        return policy


def action_bounds(space: ActionSpace) -> tuple[np.ndarray, np.ndarray]:
    """Bounds as ``MLPPolicy`` keeps them."""
    if isinstance(space, spaces.Discrete):
        return np.array(space.start), np.array(space.start + space.n - 1)
    if not isinstance(space, spaces.Box):
        low = np.zeros(space.shape, np.int64) + first(space)
        return low, low + choices(space) - 1
    return np.array(space.low, np.float32), np.array(space.high, np.float32)


class _PolicyRecord(Record):
    """What a policy's document holds.

    Attributes:
        layers: how many there are.
        inputs: numbers of an observation; None in policies that were saved before it was written down.
    """

    name: str
    layers: Annotated[int, Field(ge=1)]
    inputs: Annotated[int, Field(ge=1)] | None = None
    activation: Activation
    head: Head
    stochastic: bool = False
    card: PolicyCard | None = None


_ARRAYS = ("low", "high", "log_std_bias", "log_std_weight")
_LOG_STD_RANGE = (-20.0, 2.0)  # SAC's own limits, in SB3 and in the paper's code
_ACTIVATIONS: Mapping[Activation, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "silu": lambda x: x * (0.5 + 0.5 * np.tanh(0.5 * x)),  # x times its sigmoid, which never overflows so
}
PolicyFn: TypeAlias = Callable[[np.ndarray], Any]
"""Batch of observations ``(n, *obs_shape)`` to actions ``(n, ...)``; SB3's ``model.predict`` will do."""


def apply_policy(policy: PolicyFn, obs: np.ndarray) -> np.ndarray:
    """Actions of a policy that returns them bare or, as SB3's ``predict``, beside a recurrent state."""
    answer = policy(obs)
    return np.asarray(answer[0] if isinstance(answer, tuple) else answer)
