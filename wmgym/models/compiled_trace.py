"""Recording what NumPy code does to one row, so that it can be done again without the code.

``Traced`` stands in for an array: functions of coordinates, rewards and observations take it as they take any
array, and every operation leaves a ``Node``. ``compiled_program`` makes a list of NumPy calls of the nodes,
``compiled_onnx`` an ONNX graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin


class RecordingError(TypeError):
    """An operation whose result cannot be recorded, such as a branch on a value."""


@dataclass(frozen=True, eq=False)
class Node:
    """An array that a step makes.

    Attributes:
        op: a NumPy ufunc's name; or "input", "constant", "index", "take", "reshape", "swapaxes", "join",
            "put", "where", "cast", "sum", "all", "any", "min", "max", "lookup", "dense".
        inputs: what it is made of.
        detail: what else: a constant's value, an input's name, an index, an axis, a ``Dense``.
        value: what it is for the example row; its shape and type are those of every row.
    """

    op: str
    inputs: tuple[Node, ...]
    detail: Any
    value: np.ndarray


@dataclass(frozen=True, eq=False)
class Dense:
    """A linear layer of an ensemble.

    Attributes:
        weight: ``(members, inputs, outputs)``.
        bias: ``(members, 1, outputs)``.
        shift: which member: this many after the episode's; None for all of them.
    """

    weight: np.ndarray
    bias: np.ndarray
    shift: int | None


class Recorder:
    """Makes nodes, each distinct one once."""

    def __init__(self) -> None:
        self._made: dict[Any, Node] = {}

    def input(self, name: str, example: np.ndarray) -> Traced:
        """An array that differs from step to step."""
        return Traced(self, Node("input", (), name, example))

    def node(self, op: str, inputs: Sequence[Node], detail: Any, value: Any) -> Traced:
        """The array that an operation gives."""
        key = op, tuple(map(id, inputs)), _key(detail)
        if key not in self._made:
            self._made[key] = Node(op, tuple(inputs), detail, np.asarray(value))
        return Traced(self, self._made[key])

    def constant(self, value: Any) -> Node:
        """A number or an array that is the same in every step."""
        array = np.asarray(value)
        return self.node("constant", (), array, array).node


class Traced(NDArrayOperatorsMixin):
    """What a recorder takes for an array; see the module."""

    def __init__(self, recorder: Recorder, node: Node) -> None:
        self.recorder, self.node = recorder, node

    @property
    def shape(self) -> tuple[int, ...]:  # noqa: D102
        return self.node.value.shape

    @property
    def ndim(self) -> int:  # noqa: D102
        return self.node.value.ndim

    @property
    def dtype(self) -> np.dtype[Any]:  # noqa: D102
        return self.node.value.dtype

    @property
    def T(self) -> Traced:  # noqa: D102, N802
        return self.swapaxes(0, 1)

    def __len__(self) -> int:
        return len(self.node.value)

    def __iter__(self) -> Iterator[Traced]:
        return (self[i] for i in range(len(self)))

    def __bool__(self) -> bool:
        raise RecordingError("a step that branches on a value cannot be recorded")

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise RecordingError("a step that leaves NumPy's operations cannot be recorded")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Traced:
        if method != "__call__" or kwargs:
            raise RecordingError(f"np.{ufunc.__name__}.{method} cannot be recorded")
        name = _SAME.get(ufunc.__name__, ufunc.__name__)
        kind = np.result_type(*(x.dtype if isinstance(x, Traced) else x for x in inputs))
        nodes = [self._node(x, kind) for x in inputs]
        return self.recorder.node(name, nodes, None, getattr(np, name)(*(node.value for node in nodes)))

    def __array_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        own = _FUNCTIONS.get(function.__name__)
        if own is None:
            raise RecordingError(f"np.{function.__name__} cannot be recorded")
        return own(self, *args, **kwargs)

    def _node(self, given: Any, kind: np.dtype[Any] | None = None) -> Node:
        if isinstance(given, Traced):
            return given.node
        # A Python number takes the type of the arrays beside it, which is the result's.
        plain = isinstance(given, int | float) and not isinstance(given, bool)
        return self.recorder.constant(np.asarray(given, kind if plain else None))

    def __pow__(self, exponent: Any) -> Any:
        """As NumPy takes squares and roots."""
        if isinstance(exponent, int | float) and exponent in _POWERS:
            return _POWERS[exponent](self)
        return np.power(self, exponent)

    def __getitem__(self, index: Any) -> Traced:
        return self.recorder.node("index", [self.node], _index(index), self.node.value[_index(index)])

    def __setitem__(self, index: Any, given: Any) -> None:
        value = self.node.value.copy()
        node = self._node(given, self.dtype)
        value[_index(index)] = node.value
        self.node = self.recorder.node("put", [self.node, node], _index(index), value).node

    def take(self, index: Any, axis: int) -> Traced:  # noqa: D102
        index = np.asarray(index)
        return self.recorder.node("take", [self.node], (index, axis), self.node.value.take(index, axis))

    def reshape(self, *shape: Any) -> Traced:  # noqa: D102
        value = self.node.value.reshape(*shape)
        return self.recorder.node("reshape", [self.node], value.shape, value)

    def swapaxes(self, one: int, other: int) -> Traced:  # noqa: D102
        return self.recorder.node("swapaxes", [self.node], (one, other), self.node.value.swapaxes(one, other))

    def copy(self) -> Traced:  # noqa: D102
        return Traced(self.recorder, self.node)

    def astype(self, kind: Any) -> Traced:  # noqa: D102
        kind = np.dtype(kind)
        return (
            self
            if kind == self.dtype
            else self.recorder.node("cast", [self.node], kind, self.node.value.astype(kind))
        )

    def round(self) -> Any:  # noqa: D102
        return np.rint(self)

    def clip(self, low: Any, high: Any) -> Any:  # noqa: D102
        above: Any = self if np.all(np.isneginf(low)) else np.maximum(self, low)
        return above if np.all(np.isposinf(high)) else np.minimum(above, high)

    def sum(self, axis: int, keepdims: bool = False) -> Traced:  # noqa: D102
        found = self._reduced("sum", axis)
        return found[(slice(None),) * (axis % self.ndim) + (None,)] if keepdims else found

    def all(self, axis: int) -> Traced:  # noqa: D102
        return self._reduced("all", axis)

    def any(self, axis: int) -> Traced:  # noqa: D102
        return self._reduced("any", axis)

    def mean(self, axis: int, keepdims: bool = False) -> Any:  # noqa: D102
        return self.sum(axis, keepdims) / self.shape[axis]

    def min(self, axis: int) -> Traced:  # noqa: D102
        return self._reduced("min", axis)

    def max(self, axis: int) -> Traced:  # noqa: D102
        return self._reduced("max", axis)

    def _reduced(self, op: str, axis: int) -> Traced:
        axis %= self.ndim
        return self.recorder.node(op, [self.node], axis, getattr(self.node.value, op)(axis))

    def looked_up(self, table: np.ndarray) -> Traced:
        """Rows of a table at these whole numbers; beyond its ends the first or the last."""
        rows = self.recorder.constant(table)
        return self.recorder.node(
            "lookup", [rows, self.node], None, table.take(self.node.value, 0, mode="clip")
        )

    def dense(self, layer: Dense) -> Traced:
        """Through a linear layer: ``(1, outputs)``, or ``(members, 1, outputs)``."""
        at = slice(None) if layer.shift is None else layer.shift % len(layer.weight)
        value = self.node.value @ layer.weight[at] + layer.bias[at]
        return self.recorder.node("dense", [self.node], layer, value)


def _join(any_: Traced, parts: Sequence[Any], axis: int = 0) -> Traced:
    nodes = [any_._node(part) for part in parts]
    if len({node.value.dtype for node in nodes}) > 1:
        kind = np.result_type(*(node.value for node in nodes))
        nodes = [Traced(any_.recorder, node).astype(kind).node for node in nodes]
    axis %= nodes[0].value.ndim
    nodes = [node for node in nodes if node.value.shape[axis]] or nodes[:1]
    if len(nodes) == 1:
        return Traced(any_.recorder, nodes[0])
    return any_.recorder.node("join", nodes, axis, np.concatenate([node.value for node in nodes], axis))


def _stack(any_: Traced, parts: Sequence[Any], axis: int = 0) -> Traced:
    index = (slice(None),) * axis + (None,)
    return _join(any_, [part[index] for part in parts], axis)


def _where(any_: Traced, condition: Any, yes: Any, no: Any) -> Traced:
    kind = np.result_type(*(x.dtype if isinstance(x, Traced) else x for x in (yes, no)))
    nodes = [any_._node(condition), any_._node(yes, kind), any_._node(no, kind)]
    return any_.recorder.node("where", nodes, None, np.where(*(node.value for node in nodes)))


_POWERS: dict[float, Any] = {2: np.square, 0.5: np.sqrt}
_SAME = {"invert": "logical_not", "bitwise_and": "logical_and", "bitwise_or": "logical_or"}  # of bools
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "concatenate": _join,
    "stack": _stack,
    "where": _where,
    "round": lambda any_, values: values.round(),
    "clip": lambda any_, values, low, high: values.clip(low, high),
    "zeros_like": lambda any_, like: Traced(
        any_.recorder, any_.recorder.constant(np.zeros_like(like.node.value))
    ),
}


def _index(index: Any) -> Any:
    """An index with arrays for lists, as they can be compared."""
    if isinstance(index, tuple):
        return tuple(_index(part) for part in index)
    return np.asarray(index) if isinstance(index, list) else index


def _key(detail: Any) -> Any:
    """What two details share if they are the same."""
    if isinstance(detail, tuple):
        return tuple(_key(part) for part in detail)
    if isinstance(detail, np.ndarray):
        return detail.shape, detail.dtype.str, detail.tobytes()
    if isinstance(detail, slice):
        return "slice", detail.start, detail.stop, detail.step
    return detail


def order(outputs: Sequence[Node]) -> list[Node]:
    """The nodes that outputs need, each after what it is made of."""
    found: dict[int, Node] = {}

    def visit(node: Node) -> None:
        if id(node) not in found:
            for each in node.inputs:
                visit(each)
            found[id(node)] = node

    for node in outputs:
        visit(node)
    return list(found.values())
