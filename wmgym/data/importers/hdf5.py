"""HDF5 files in D4RL's layout: arrays a row a step, at the top or in groups such as ``infos``."""

from __future__ import annotations

from typing import Any

import numpy as np

from wmgym.data.importers.npz import add_column
from wmgym.data.importers.table import Table

HINT = 'reading HDF5 takes h5py: pip install "wmgym[logs]"'


def read(path: str) -> list[Table]:
    """The one table of a file; ``infos/qpos`` names an array in a group. References are not followed.

    Raises:
        ImportError: h5py is missing.
        OSError: no HDF5 file.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError(HINT) from error
    columns: dict[str, np.ndarray] = {}
    facts: dict[str, Any] = {}

    def take(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            if item.dtype.kind in "fiub" and not item.external and not item.is_virtual:
                add_column(columns, facts, name, item[()])
            else:  # other files that it points at are not this one's data
                facts.setdefault("left_out", []).append(name)

    with h5py.File(path, "r") as file:
        file.visititems(take)  # follows no soft or external link
    return [Table(path, columns, facts)]
