"""A multi-layer perceptron that acts, as an ONNX file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from wmgym.io.files import StrPath
from wmgym.io.onnx_file import Graph

Activation: TypeAlias = Literal["relu", "tanh", "elu", "leaky_relu", "silu"]
Head: TypeAlias = Literal["squash", "clip", "argmax"]

_NAMES = {"relu": "Relu", "tanh": "Tanh", "elu": "Elu", "leaky_relu": "LeakyRelu"}  # ONNX's slope is 0.01 too


def write_mlp(
    path: StrPath,
    name: str,
    layers: Sequence[tuple[np.ndarray, np.ndarray]],
    activation: Activation,
    head: Head,
    bounds: tuple[np.ndarray, np.ndarray],
) -> Path:
    """Write what ``MLPPolicy`` computes without a generator: ``obs`` ``(n, obs_dim)`` to ``action``.

    Args:
        path: the file; its contract goes beside it.
        name: the policy's.
        layers: weight ``(inputs, outputs)`` and bias of each.
        activation: between layers.
        head: as for ``MLPPolicy``, likewise ``bounds``.
        bounds: lower and upper.
    """
    graph, (low, high) = Graph(), bounds
    hidden = graph.input("obs", np.dtype(np.float32), ("n", len(layers[0][0])))
    for i, layer in enumerate(layers):
        weight, bias = (graph.constant(array.astype(np.float32)) for array in layer)
        hidden = graph.add("Add", graph.add("MatMul", hidden, weight), bias)
        if i < len(layers) - 1:
            hidden = _activated(graph, activation, hidden)
    if head == "argmax":
        chosen = _chosen(graph, hidden, high - low + 1)
        action = graph.add("Add", chosen, graph.constant(np.asarray(low, np.int64)))
    else:
        action = _bounded(graph, head, hidden, low, high)
    kind = np.dtype(np.int64 if head == "argmax" else np.float32)
    graph.output("action", action, kind, ("n", *low.shape))
    return graph.write(path, {"kind": "wmgym policy", "name": name, **graph.arrays()})


def _activated(graph: Graph, activation: Activation, hidden: str) -> str:
    if activation == "silu":
        return graph.add("Mul", hidden, graph.add("Sigmoid", hidden))
    return graph.add(_NAMES[activation], hidden)


def _chosen(graph: Graph, hidden: str, sizes: np.ndarray) -> str:
    """The place of the largest output: ``(n,)`` of one choice, ``(n, parts)`` of several."""
    if not sizes.ndim:
        return graph.add("ArgMax", hidden, axis=1, keepdims=0)
    ends = np.cumsum(sizes)
    parts = [graph.constant(np.arange(end - size, end)) for size, end in zip(sizes, ends, strict=True)]
    best = [
        graph.add("ArgMax", graph.add("Gather", hidden, part, axis=1), axis=1, keepdims=1) for part in parts
    ]
    return graph.add("Concat", *best, axis=1)


def _bounded(graph: Graph, head: Head, hidden: str, low: np.ndarray, high: np.ndarray) -> str:
    """Actions ``(n, *shape)`` of outputs ``(n, size)``."""
    first, last, half = (graph.constant(side.reshape(-1)) for side in (low, high, (high - low) / 2))
    if head == "squash":
        one = graph.constant(np.ones(1, np.float32))
        hidden = graph.add(
            "Add", first, graph.add("Mul", graph.add("Add", graph.add("Tanh", hidden), one), half)
        )
    else:
        hidden = graph.add("Min", graph.add("Max", hidden, first), last)
    return graph.add("Reshape", hidden, graph.constant(np.array([-1, *low.shape])))
