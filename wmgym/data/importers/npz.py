"""NumPy archives: an array a column, without pickle."""

from __future__ import annotations

import math
import zipfile
from typing import Any

import numpy as np

from wmgym.data.importers.table import Table


def read(path: str) -> list[Table]:
    """The one table of an archive; numbers that stand alone are its facts.

    Raises:
        ValueError: no archive, or an array of Python objects.
    """
    columns: dict[str, np.ndarray] = {}
    facts: dict[str, Any] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                if member.endswith(".npy"):
                    with archive.open(member) as file:
                        try:
                            array = np.lib.format.read_array(file)  # refuses pickled objects
                        except ValueError as error:
                            if "Object arrays" not in str(error):
                                raise
                            raise ValueError(
                                f"array {member.removesuffix('.npy')!r} holds Python objects, which are "
                                "pickled and could run code; store arrays of numbers"
                            ) from error
                    add_column(columns, facts, member.removesuffix(".npy"), array)
    except zipfile.BadZipFile as error:
        raise ValueError(f"it is no NumPy archive ({error})") from error
    return [Table(path, columns, facts)]


def add_column(columns: dict[str, np.ndarray], facts: dict[str, Any], name: str, array: np.ndarray) -> None:
    """Take an array as a column ``(n,)`` or ``(n, k)``, or a single number as a fact; leave others out."""
    if array.dtype.kind not in "fiub":
        facts.setdefault("left_out", []).append(name)
    elif array.ndim == 0:
        facts[name] = array.item()
    else:
        if array.ndim > 2:
            facts.setdefault("shapes", {})[name] = array.shape
        flat = array.reshape(len(array), math.prod(array.shape[1:])) if array.ndim > 1 else array
        columns[name] = flat.astype(np.float32) if flat.dtype == np.float16 else flat
