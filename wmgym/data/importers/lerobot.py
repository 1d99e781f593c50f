"""LeRobot data sets, version 3 and its predecessor: the parquet files, without video."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from wmgym.data.importers.npz import add_column
from wmgym.data.importers.table import Table


def read(path: str) -> list[Table]:
    """The one table of a data set: all of ``data/``, columns named as LeRobot does (``observation.state``).

    Raises:
        ImportError: pyarrow is missing.
        ValueError: another version, or no parquet file.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError('reading LeRobot data sets takes pyarrow: pip install "wmgym[logs]"') from error
    about = json.loads((Path(path) / "meta" / "info.json").read_text())
    version = str(about.get("codebase_version", ""))
    if not version.startswith(("v2.", "v3.")):
        raise ValueError(f"its codebase_version is {version!r}; v2 and v3 are read")
    files = sorted((Path(path) / "data").rglob("*.parquet"))
    if not files:
        raise ValueError("its folder data holds no parquet file")
    whole = pyarrow.concat_tables([parquet.read_table(file, use_threads=False) for file in files])
    columns: dict[str, np.ndarray] = {}
    facts: dict[str, Any] = {"dt": 1 / about["fps"], "names": {}}
    for name in whole.column_names:
        column = whole.column(name).combine_chunks()
        kind = column.type
        if pyarrow.types.is_list(kind) or pyarrow.types.is_fixed_size_list(kind):
            flat = column.flatten()
            if pyarrow.types.is_floating(flat.type) or pyarrow.types.is_integer(flat.type):
                columns[name] = flat.to_numpy(zero_copy_only=False).reshape(len(column), -1)
                labels = _labels(about.get("features", {}).get(name, {}).get("names"))
                if labels is not None:
                    facts["names"][name] = labels
                continue
        add_column(columns, facts, name, column.to_numpy(zero_copy_only=False))
    return [Table(path, columns, facts)]


def _labels(said: Any) -> list[str] | None:
    """Names of a feature's numbers; older data sets put them in a dict."""
    if isinstance(said, dict):
        said = next(iter(said.values()), None)
    return [str(name) for name in said] if isinstance(said, list) else None
