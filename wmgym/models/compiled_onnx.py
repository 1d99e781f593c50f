"""A recorded step as an ONNX graph.

Every array is flat in the graph: reshaping is then nothing at all, and whatever picks, turns or repeats
numbers is one ``Gather``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from wmgym.io.onnx_file import Graph
from wmgym.models.compiled_trace import Dense, Node, order


def onnx_graph(outputs: Mapping[str, Node], inputs: Mapping[str, np.ndarray]) -> Graph:
    """The graph of outputs; those of its inputs that they need, with ``member`` ``(1,)`` int64 among them.

    Raises:
        ValueError: an operation that ONNX has no name for.
    """
    writer = _Writer(Graph(), inputs)
    for node in order(list(outputs.values())):
        writer.write(node)
    for name, node in outputs.items():
        writer.graph.output(name, writer.shaped(node), node.value.dtype, node.value.shape)
    return writer.graph


class _Writer:
    def __init__(self, graph: Graph, inputs: Mapping[str, np.ndarray]) -> None:
        self.graph, self._inputs = graph, inputs
        self._flat: dict[int, str] = {}  # by node, the name of its flat array
        self._members: dict[tuple[int, int], str] = {}

    def shaped(self, node: Node) -> str:
        """The name of a node's array in its own shape."""
        flat = self._flat[id(node)]
        return flat if node.value.ndim == 1 else self._reshaped(flat, node.value.shape)

    def write(self, node: Node) -> None:
        """Add what makes a node."""
        self._flat[id(node)] = self._made(node)

    def _made(self, node: Node) -> str:
        graph, value = self.graph, node.value
        if node.op == "input":
            name = self._input(node.detail, value)
            return name if value.ndim == 1 else self._reshaped(name, (value.size,))
        if node.op == "constant":
            return graph.constant(value.reshape(-1))
        if node.op == "dense":
            return self._dense(node)
        if node.op == "lookup":
            return self._lookup(*node.inputs)
        names = [self._flat[id(each)] for each in node.inputs]
        if node.op == "reshape":
            return names[0]
        if node.op in _PICKING:
            source = np.arange(node.inputs[0].value.size).reshape(node.inputs[0].value.shape)
            picked = source[node.detail] if node.op == "index" else getattr(source, node.op)(*node.detail)
            return self._picked(names[0], np.asarray(picked).reshape(-1), source.size)
        if node.op == "put":
            return self._put(node, names)
        if node.op == "join":
            return self._join(node, names)
        if node.op == "cast":
            return graph.cast(names[0], value.dtype)
        if node.op in _REDUCTIONS:
            return self._reduced(node, names[0])
        return self._elementwise(node, names)

    def _input(self, name: str, value: np.ndarray) -> str:
        return self.graph.input(name, value.dtype, value.shape)

    def _reshaped(self, name: str, shape: tuple[int, ...]) -> str:
        return self.graph.add("Reshape", name, self.graph.constant(np.array(shape, np.int64)))

    def _picked(self, name: str, index: np.ndarray, size: int) -> str:
        if np.array_equal(index, np.arange(size)):
            return name
        return self.graph.add("Gather", name, self.graph.constant(index.astype(np.int64)))

    def _put(self, node: Node, names: list[str]) -> str:
        base = node.inputs[0].value
        at = np.arange(base.size).reshape(base.shape)[node.detail]
        values = self._spread(names[1], node.inputs[1].value, at.shape)
        where = self.graph.constant(np.asarray(at).reshape(-1).astype(np.int64))
        return self.graph.add("ScatterElements", names[0], where, values)

    def _join(self, node: Node, names: list[str]) -> str:
        joined = self.graph.add("Concat", *names, axis=0)
        starts = np.cumsum([0, *(each.value.size for each in node.inputs)])
        parts = [
            start + np.arange(each.value.size).reshape(each.value.shape)
            for start, each in zip(starts[:-1], node.inputs, strict=True)
        ]
        return self._picked(joined, np.concatenate(parts, node.detail).reshape(-1), node.value.size)

    def _spread(self, name: str, value: np.ndarray, shape: tuple[int, ...]) -> str:
        """A flat array repeated as NumPy would for a shape."""
        if value.shape == shape:
            return name
        index = np.broadcast_to(np.arange(value.size).reshape(value.shape), shape)
        return self._picked(name, index.reshape(-1), value.size)

    def _elementwise(self, node: Node, names: list[str]) -> str:
        add, out = self.graph.add, node.value
        values = [each.value for each in node.inputs]
        if node.op == "matmul":
            shaped = [self._reshaped(name, value.shape) for name, value in zip(names, values, strict=True)]
            return self._reshaped(add("MatMul", *shaped), (out.size,))
        kind = out.dtype if out.dtype != bool else np.result_type(*values)
        kinds = [np.dtype(bool), kind, kind] if node.op == "where" else [kind] * len(values)
        given = []
        for name, value, each in zip(names, values, kinds, strict=True):
            if value.size > 1:  # a single number ONNX repeats itself
                name = self._spread(name, value, out.shape)
            given.append(name if value.dtype == each else self.graph.cast(name, each))
        if node.op in _DIRECT:
            return add(_DIRECT[node.op], *given)
        if node.op == "square":
            return add("Mul", given[0], given[0])
        if node.op == "not_equal":
            return add("Not", add("Equal", *given))
        if node.op == "arctan2":
            return self._angle(given[0], given[1], kind)
        if node.op == "isfinite":
            return add("Not", add("Or", add("IsInf", given[0]), add("IsNaN", given[0])))
        if node.op == "fmin":
            return add("Where", add("IsNaN", given[0]), given[1], add("Min", *given))
        if node.op == "remainder":
            return add("Sub", given[0], add("Mul", given[1], add("Floor", add("Div", *given))))
        raise ValueError(f"a step that takes np.{node.op} cannot be written as ONNX")

    def _angle(self, y: str, x: str, kind: np.dtype[Any]) -> str:
        """That of a point, of which ONNX knows the tangent alone."""
        add = self.graph.add
        zero, half, tiny = (
            self.graph.constant(np.array([each], kind)) for each in (0, np.pi, np.finfo(kind).tiny)
        )
        least = add("Where", add("Less", add("Abs", x), tiny), tiny, x)  # 0 would divide 0
        side = add("Where", add("Less", y, zero), add("Neg", half), half)
        return add("Add", add("Atan", add("Div", y, least)), add("Where", add("Less", x, zero), side, zero))

    def _reduced(self, node: Node, name: str) -> str:
        graph, source = self.graph, node.inputs[0].value
        logical = node.value.dtype == bool
        if logical:
            name = graph.cast(name, np.dtype(np.int32))
        if source.ndim > 1:
            name = self._reshaped(name, source.shape)
        name = graph.add(_REDUCTIONS[node.op], name, graph.constant(np.array([node.detail])), keepdims=0)
        name = self._reshaped(name, (node.value.size,))
        return graph.cast(name, np.dtype(bool)) if logical else name

    def _lookup(self, table: Node, index: Node) -> str:
        last = self.graph.constant(np.array(len(table.value) - 1))
        at = self.graph.add(
            "Max", self.graph.constant(np.array(0)), self.graph.add("Min", self._flat[id(index)], last)
        )
        rows = self.graph.add("Gather", self.graph.constant(table.value), at, axis=0)
        return self._reshaped(rows, (table.value[0].size * index.value.size,))

    def _dense(self, node: Node) -> str:
        graph, layer, name = self.graph, node.detail, self._flat[id(node.inputs[0])]
        members, inputs, outputs = layer.weight.shape
        if layer.shift is None:
            rows = self._reshaped(name, (-1, 1, inputs))
            said = graph.add(
                "Add", graph.add("MatMul", rows, graph.constant(layer.weight)), graph.constant(layer.bias)
            )
            return self._reshaped(said, (node.value.size,))
        weight, bias = graph.constant(layer.weight), graph.constant(layer.bias.reshape(members, outputs))
        if members == 1:
            weight, bias = (
                graph.constant(x.reshape(x.shape[1:])) for x in (layer.weight, layer.bias.reshape(1, -1))
            )
        else:
            weight, bias = (
                graph.add("Gather", x, self._member(layer, members), axis=0) for x in (weight, bias)
            )
        return graph.add("Add", graph.add("MatMul", name, weight), bias)

    def _member(self, layer: Dense, members: int) -> str:
        """The number of a layer's member, a scalar."""
        key = members, layer.shift or 0
        if key not in self._members:
            graph = self.graph
            name = graph.input("member", np.dtype(np.int64), (1,))
            if layer.shift:
                shifted = graph.add("Add", name, graph.constant(np.array([layer.shift])))
                name = graph.add("Mod", shifted, graph.constant(np.array([members])))
            self._members[key] = graph.add("Reshape", name, graph.constant(np.zeros(0, np.int64)))
        return self._members[key]


_PICKING = frozenset({"index", "take", "swapaxes"})
_REDUCTIONS = {
    "sum": "ReduceSum",
    "all": "ReduceMin",
    "any": "ReduceMax",
    "min": "ReduceMin",
    "max": "ReduceMax",
}
_DIRECT = {
    "add": "Add", "subtract": "Sub", "multiply": "Mul", "divide": "Div", "negative": "Neg", "absolute": "Abs",
    "sin": "Sin", "cos": "Cos", "tanh": "Tanh", "sqrt": "Sqrt", "exp": "Exp", "log": "Log", "power": "Pow",
    "maximum": "Max", "minimum": "Min", "floor": "Floor", "rint": "Round", "less": "Less",
    "less_equal": "LessOrEqual", "greater": "Greater", "greater_equal": "GreaterOrEqual", "equal": "Equal",
    "logical_and": "And", "logical_or": "Or", "logical_not": "Not", "isnan": "IsNaN", "where": "Where",
}  # fmt: skip
