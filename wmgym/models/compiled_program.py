"""A recorded step as a list of NumPy calls on buffers that are laid out once.

A call on a row of ten numbers costs what NumPy's own book-keeping costs, so there is as little of that as
possible: no array is allocated, parts of arrays are views made once, and what is put beside each other is
written there in the first place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from wmgym.models.compiled_trace import Dense, Node, order

Call: TypeAlias = Callable[[], Any]

_VIEWS = frozenset({"index", "take", "reshape", "swapaxes"})
_HELD = frozenset({"input", "constant"})


class Program:
    """The calls that make outputs of inputs, for each member of an ensemble.

    Attributes:
        buffers: by name, inputs and outputs.
    """

    def __init__(self, outputs: Mapping[str, Node], inputs: Mapping[str, np.ndarray]) -> None:
        """Lay out buffers; ``inputs`` are those that the inputs of these names are read from."""
        self._inputs = inputs
        nodes = order(list(outputs.values()))
        self._place = _places(nodes)
        self._template: list[Callable[..., Any]] = []  # those of layers give a call for a member
        self._by_member: dict[int, tuple[Call, ...]] = {}
        self._arrays: dict[int, np.ndarray] = {}
        self._dense: set[int] = set()
        for node in nodes:
            self._arrays[id(node)] = self._lay(node)
        self._nodes = nodes  # their ids are the keys
        self.buffers = {**inputs, **{name: self._arrays[id(node)] for name, node in outputs.items()}}

    def calls(self, member: int) -> tuple[Call, ...]:
        """What to call, in order, in an episode of this member."""
        if member not in self._by_member:
            made = (call(member) if i in self._dense else call for i, call in enumerate(self._template))
            self._by_member[member] = tuple(made)
        return self._by_member[member]

    def _lay(self, node: Node) -> np.ndarray:
        """The buffer of a node, once there are those of its inputs; adds the calls that fill it."""
        given = [self._arrays[id(each)] for each in node.inputs]
        if node.op == "input":
            return self._inputs[node.detail]
        if node.op == "constant":
            return node.value
        view = _view(node, given[0]) if node.op in _VIEWS else None
        if view is not None:
            return view
        out = self._place.get(id(node))
        if out is None:
            out = np.empty(node.value.shape, node.value.dtype)
        self._fill(node, given, out)
        return out

    def _fill(self, node: Node, given: list[np.ndarray], out: np.ndarray) -> None:
        add = self._template.append
        if node.op == "dense":
            self._dense.add(len(self._template))
            add(partial(_through, node.detail, given[0], out))
            biases = node.detail.bias
            self._dense.add(len(self._template))
            add(partial(_biased, node.detail, out, biases))
        elif node.op == "join":
            at = 0
            for each, part in zip(node.inputs, given, strict=True):
                where = (slice(None),) * node.detail + (slice(at, at + part.shape[node.detail]),)
                at += part.shape[node.detail]
                if id(each) not in self._place or part.ctypes.data != out[where].ctypes.data:
                    add(partial(np.copyto, out[where], part))
        elif node.op == "put":
            add(partial(np.copyto, out, given[0]))
            add(partial(out.__setitem__, node.detail, given[1]))
        elif node.op == "take":
            add(partial(given[0].take, *node.detail, out, "clip"))
        elif node.op == "lookup":
            add(partial(given[0].take, given[1], 0, out, "clip"))
        elif node.op == "index":
            add(partial(_indexed, out, given[0], node.detail))
        elif node.op in ("reshape", "swapaxes", "cast"):
            source = given[0].swapaxes(*node.detail) if node.op == "swapaxes" else given[0]
            if node.op == "reshape":
                out = out.reshape(source.shape)
            add(partial(np.copyto, out, source, "unsafe"))
        elif node.op == "where":
            condition, yes, no = (np.broadcast_to(each, out.shape) for each in given)
            add(partial(np.copyto, out, no))
            add(partial(np.copyto, out, yes, "same_kind", condition))
        elif node.op in _REDUCTIONS:
            add(partial(_REDUCTIONS[node.op], given[0], node.detail, None, out))
        else:
            self._elementwise(getattr(np, node.op), node, given, out)

    def _elementwise(self, ufunc: np.ufunc, node: Node, given: list[np.ndarray], out: np.ndarray) -> None:
        if ufunc is not np.matmul:
            given = [
                np.ascontiguousarray(np.broadcast_to(array, out.shape)) if each.op == "constant" else array
                for each, array in zip(node.inputs, given, strict=True)
            ]
            every = [*given, out]
            if all(array.shape == out.shape and array.flags.c_contiguous for array in every):
                *given, out = (array.reshape(-1) for array in every)  # the shape that costs least
        self._template.append(partial(ufunc, *given, out=out))


def _places(nodes: list[Node]) -> dict[int, np.ndarray]:
    """Where nodes are to be written that a later one puts beside each other."""
    place: dict[int, np.ndarray] = {}
    for node in reversed(nodes):
        if node.op != "join":
            continue
        out = place.setdefault(id(node), np.empty(node.value.shape, node.value.dtype))
        at = 0
        for part in node.inputs:
            size = part.value.shape[node.detail]
            if part.op not in _VIEWS and part.op not in _HELD:
                place.setdefault(id(part), out[(slice(None),) * node.detail + (slice(at, at + size),)])
            at += size
    return place


def _view(node: Node, source: np.ndarray) -> np.ndarray | None:
    """The node as another look at its source; None where its numbers lie elsewhere."""
    if node.op == "take":
        index, axis = node.detail
        run = _run(index)
        return None if run is None else source[(slice(None),) * (axis % source.ndim) + (run,)]
    if node.op == "index":
        parts = node.detail if isinstance(node.detail, tuple) else (node.detail,)
        runs = [_run(part) if isinstance(part, np.ndarray) else part for part in parts]
        if any(isinstance(part, np.ndarray) and run is None for part, run in zip(parts, runs, strict=True)):
            return None
        found = source[tuple(runs)]
        # A single number as an array of no axes, that it stays a view.
        return found if isinstance(found, np.ndarray) else source[(*runs, ...)]
    made: np.ndarray = getattr(source, node.op)(*(node.detail if node.op == "swapaxes" else (node.detail,)))
    return made if np.shares_memory(made, source) or not made.size else None


def _run(index: np.ndarray) -> slice | None:
    """Whole numbers that follow each other as a slice."""
    if index.ndim != 1 or index.dtype.kind not in "iu" or not len(index):
        return None
    steps = np.diff(index)
    step = int(steps[0]) if len(steps) else 1
    if step < 1 or index[0] < 0 or (steps != step).any():
        return None
    return slice(int(index[0]), int(index[-1]) + 1, step)


def _through(layer: Dense, rows: np.ndarray, out: np.ndarray, member: int) -> Call:
    if layer.shift is None:
        rows = np.broadcast_to(rows, (len(layer.weight), *rows.shape[-2:]))
        return partial(np.matmul, rows, layer.weight, out)
    weight = layer.weight[(member + layer.shift) % len(layer.weight)]
    return partial(np.dot, rows.reshape(-1), weight, out.reshape(-1))


def _biased(layer: Dense, out: np.ndarray, biases: np.ndarray, member: int) -> Call:
    if layer.shift is None:
        return partial(np.add, out, layer.bias, out)
    bias, flat = layer.bias[(member + layer.shift) % len(layer.bias)].reshape(-1), out.reshape(-1)
    return partial(np.add, flat, bias, flat)


def _indexed(out: np.ndarray, source: np.ndarray, index: Any) -> None:
    out[...] = source[index]


_REDUCTIONS: dict[str, Any] = {
    "sum": np.add.reduce,
    "all": np.logical_and.reduce,
    "any": np.logical_or.reduce,
    "min": np.minimum.reduce,
    "max": np.maximum.reduce,
}
