"""Rows of a training, in JSON and for TensorBoard."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from wmgym.io.files import StoreError
from wmgym.io.learning_log import LearningLog, read_log

ROWS = [{"real_steps": 10.0 * n, "return": float(n)} for n in (1, 2, 3)]


def test_rows_stand_in_json_and_in_tensorboard(tmp_path: Path) -> None:
    log = LearningLog(tmp_path, "real_steps")
    for row in ROWS:
        log.add(row)
    log.close()
    assert read_log(tmp_path) == ROWS
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("return")
    assert [(event.step, event.value) for event in events] == [(10, 1), (20, 2), (30, 3)]


def test_a_run_goes_on_from_where_its_agent_was_saved(tmp_path: Path) -> None:
    for row in ROWS:
        LearningLog(tmp_path, "real_steps", row["real_steps"] - 1).add(row)
    again = LearningLog(tmp_path, "real_steps", 20.0)
    again.add({"real_steps": 30.0, "return": 9.0})
    assert read_log(tmp_path) == [*ROWS[:2], {"real_steps": 30.0, "return": 9.0}]
    LearningLog(tmp_path, "real_steps").add(ROWS[0])
    assert read_log(tmp_path) == ROWS[:1]


def test_no_log_is_no_rows_and_a_foreign_one_is_refused(tmp_path: Path) -> None:
    assert read_log(tmp_path) == []
    (tmp_path / "learning.json").write_text('{"rows": [{"return": "<b>"}]}')
    with pytest.raises(StoreError, match="no rows of numbers"):
        read_log(tmp_path)
