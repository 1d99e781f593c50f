"""ONNX files, and the JSON contract beside each: what goes in and comes out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wmgym.io.files import StoreError, StrPath, read_json, write_bytes, write_json

OPSET = 20
_IR = 10  # what readers of that opset know


class Graph:
    """A graph that grows node by node; needs ``onnx``."""

    def __init__(self) -> None:
        """Import ``onnx``, or say how to get it."""
        try:
            import onnx
        except ImportError as error:
            raise ImportError("to write ONNX, pip install 'wmgym[onnx]'") from error
        self._onnx = onnx
        self._nodes: list[Any] = []
        self._constants: dict[Any, tuple[str, np.ndarray]] = {}
        self._inputs: dict[str, Any] = {}
        self._outputs: list[Any] = []

    def input(self, name: str, dtype: np.dtype[Any], shape: tuple[int | str, ...]) -> str:
        """An input of the graph; asked for twice, the same. An axis that is named may be of any length."""
        self._inputs[name] = self._info(name, dtype, shape)
        return name

    def output(self, name: str, source: str, dtype: np.dtype[Any], shape: tuple[int | str, ...]) -> None:
        """Call something an output of the graph."""
        self._nodes.append(self._onnx.helper.make_node("Identity", [source], [name]))
        self._outputs.append(self._info(name, dtype, shape))

    def constant(self, value: np.ndarray) -> str:
        """The name of an array."""
        key = value.shape, value.dtype.str, value.tobytes()
        return self._constants.setdefault(key, (f"c{len(self._constants)}", np.ascontiguousarray(value)))[0]

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """The name of what an operation gives."""
        name = f"x{len(self._nodes)}"
        self._nodes.append(self._onnx.helper.make_node(op, inputs, [name], **attributes))
        return name

    def cast(self, name: str, dtype: np.dtype[Any] | type) -> str:
        """The array in another type."""
        return self.add("Cast", name, to=self._kind(dtype))

    def write(self, path: StrPath, contract: Mapping[str, Any]) -> Path:
        """Check the graph, and replace ``path`` and the JSON file of the same name beside it.

        Raises:
            StoreError: another ending than ``.onnx``, a JSON file beside it that is no contract, or the files
                cannot be written.
        """
        path = Path(path)
        if path.suffix != ".onnx":
            raise StoreError(f"{path} must end in .onnx; its contract goes beside it, as {path.stem}.json")
        _refuse_foreign(path.with_suffix(".json"))
        onnx = self._onnx
        used = {name for node in self._nodes for name in node.input}
        held = [
            onnx.numpy_helper.from_array(value, name)
            for name, value in self._constants.values()
            if name in used
        ]
        graph = onnx.helper.make_graph(
            self._nodes, path.stem, list(self._inputs.values()), self._outputs, held
        )
        model = onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=_IR, producer_name="wmgym"
        )
        onnx.checker.check_model(model, full_check=True)
        write_bytes(path, model.SerializeToString())
        write_json(path.with_suffix(".json"), contract)
        return path

    def arrays(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Types and shapes of inputs and outputs, for a contract."""
        return {
            "inputs": {name: self._told(info) for name, info in self._inputs.items()},
            "outputs": {info.name: self._told(info) for info in self._outputs},
        }

    def _told(self, info: Any) -> dict[str, Any]:
        tensor = info.type.tensor_type
        kind = self._onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        return {"dtype": str(kind), "shape": [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]}

    def _info(self, name: str, dtype: np.dtype[Any], shape: tuple[int | str, ...]) -> Any:
        return self._onnx.helper.make_tensor_value_info(name, self._kind(dtype), shape)

    def _kind(self, dtype: np.dtype[Any] | type) -> int:
        found: int = self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return found


def _refuse_foreign(contract: Path) -> None:
    """Refuse to replace a JSON file that no export wrote."""
    if not contract.is_file():
        return
    try:
        kind = read_json(contract).get("kind")
    except StoreError:
        kind = None
    if not (isinstance(kind, str) and kind.startswith("wmgym ")):
        raise StoreError(f"{contract}, where the contract goes, is no contract; export to another name")
