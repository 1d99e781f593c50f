"""The kills of ``tools.attack`` find what they look for, and find nothing."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tools.attacks import harness, kills
from wmgym.io import artifacts

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
AT_ONCE = np.zeros(6)  # SIGKILL of the process itself, right away
LATE = np.array([0.99, 0, 0.9, 0, 0, 0])


def verb(act: kills.Callable[[Path], object], **changes: object) -> kills.Verb:
    return kills.Verb(**{"act": act, "kept": ("*.json",), "seconds": 0.8, "whole": ("*.json",)} | changes)  # type: ignore[arg-type]


def test_a_process_that_is_left_is_found(tmp_path: Path) -> None:
    def leaves_one(place: Path) -> None:
        if not (place / "a.json").exists():
            artifacts.write_json(place / "a.json", {})
        elif not os.fork():
            time.sleep(20)
            os._exit(0)
        else:
            time.sleep(20)

    wrong, why = kills._attempt(verb(leaves_one), tmp_path / "a", {}, LATE) or ("", "")
    assert (wrong, why.split(",")[0]) == ("orphan", "1 after SIGKILL")


def test_a_file_that_is_lost_is_found(tmp_path: Path) -> None:
    def tears(place: Path) -> None:
        if (file := place / "a.json").exists():
            file.write_text("{")
            time.sleep(20)
        file.write_text("{}")

    wrong, why = kills._attempt(verb(tears), tmp_path / "a", {}, np.array([0.99, 0, 0.9, 0, 0, 0])) or (
        "",
        "",
    )
    assert wrong == "lost"
    assert "a.json is not a JSON object" in why


def test_a_result_that_differs_is_found_and_one_that_does_not_is_not(tmp_path: Path) -> None:
    def writes(place: Path) -> None:
        artifacts.write_json(place / "a.json", {"is": 1, "origin": {"wall_s": time.time()}})

    same = {"a.json": b'{"is": 1, "origin": {}}'}
    assert kills._attempt(verb(writes), tmp_path / "a", same, AT_ONCE) is None
    other = kills._attempt(verb(writes), tmp_path / "b", {"a.json": b"{}"}, AT_ONCE)
    assert other == ("differs", "a.json")


@pytest.mark.slow
def test_kills_during_every_verb(tmp_path: Path) -> None:
    tried, findings = harness.watch(kills.attempts, 2, tmp_path, 21)
    assert (sum(tried.values()), len(tried), findings) == (21, 7, [])
