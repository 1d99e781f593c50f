"""How training went, as a small JSON file and, where it is installed, for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wmgym.io import files

_FILE = "learning.json"


class LearningLog:
    """Rows of numbers by steps, in ``folder/learning.json`` and in TensorBoard's event files there."""

    def __init__(self, folder: Path, axis: str, begun_at: float = 0) -> None:
        """Go on with what the folder holds.

        Args:
            folder: the directory; it is made.
            axis: name of the number that counts, "real_steps" or "imagined_steps".
            begun_at: rows from later than this are of a run that was killed, and go.
        """
        self.folder, self.axis = folder, axis
        self.rows = [row for row in read_log(folder) if row.get(axis, 0) <= begun_at]
        self._writer: Any = None

    def add(self, row: Mapping[str, float]) -> None:
        """Write one more row; it holds the axis."""
        self.rows.append(dict(row))
        files.write_json(self.folder / _FILE, {"rows": self.rows})
        if self._writer is None:
            self._writer = _tensorboard(self.folder)
        for name, value in row.items():
            if self._writer and name != self.axis:
                self._writer.add_scalar(name, value, int(row[self.axis]))

    def close(self) -> None:
        """Flush what TensorBoard reads."""
        if self._writer:
            self._writer.close()
            self._writer = None


def read_log(folder: Path) -> list[dict[str, float]]:
    """The rows of a folder; none where nothing was logged.

    Raises:
        StoreError: the file is damaged.
    """
    try:
        rows: Any = files.read_json(folder / _FILE).get("rows", [])
    except files.MissingError:
        return []
    numbers = isinstance(rows, list) and all(
        isinstance(row, dict) and all(isinstance(value, (int, float)) for value in row.values())
        for row in rows
    )
    if not numbers:
        raise files.StoreError(f"{folder / _FILE} holds no rows of numbers; delete it")
    return list(rows)


def _tensorboard(folder: Path) -> Any:
    """A writer of events, or False where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return False
    return SummaryWriter(str(folder))
