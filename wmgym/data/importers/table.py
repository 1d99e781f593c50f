"""What every file format becomes: named columns of numbers, which cross from the parsing process as bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import safetensors.numpy


@dataclass(frozen=True)
class Table:
    """One recording: a file, or a part of one that stands for itself.

    Attributes:
        name: for messages: the file's path.
        columns: arrays ``(n,)`` or ``(n, k)`` of numbers or bools by name, one row a step or sample. Text has
            become numbers: dates seconds since 1970, labels their place in the alphabet; see ``labels``.
        facts: what the file says of itself, JSON values: ``dt``, ``env_id``, ``env_kwargs``,
            ``observation_space`` and ``action_space`` as Minari writes them, ``left_out`` columns, which
            hold no numbers, ``shapes`` of columns that had more than two dimensions, and columns of
            ``text``, see ``cells.column``.
    """

    name: str
    columns: Mapping[str, np.ndarray]
    facts: Mapping[str, Any] = field(default_factory=dict)


def pack(tables: Sequence[Table]) -> bytes:
    """Tables as bytes that hold nothing but numbers and JSON."""
    arrays = {
        f"{k}/{column}": np.ascontiguousarray(array)
        for k, table in enumerate(tables)
        for column, array in table.columns.items()
    }
    facts = [
        {"name": table.name, "facts": dict(table.facts), "columns": list(table.columns)} for table in tables
    ]
    return safetensors.numpy.save(arrays, metadata={"tables": json.dumps(facts)})


def unpack(payload: bytes) -> list[Table]:
    """What ``pack`` made of them.

    Raises:
        ValueError: the bytes are something else.
    """
    try:
        arrays = safetensors.numpy.load(payload)
        size = int.from_bytes(payload[:8], "little")
        facts = json.loads(json.loads(payload[8 : 8 + size])["__metadata__"]["tables"])
        return [
            Table(each["name"], {name: arrays[f"{k}/{name}"] for name in each["columns"]}, each["facts"])
            for k, each in enumerate(facts)
        ]
    except (safetensors.SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"the parsing process answered with something else ({error})") from error
