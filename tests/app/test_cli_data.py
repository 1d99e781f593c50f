"""``import`` and ``check``, and ``fit`` with episodes held out: from files to a judged world."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces

import wmgym
from tests.app.test_cli import answer, call
from tests.data.importers.pendulums import run, write_csv

pytestmark = pytest.mark.filterwarnings("default:no episode terminates")


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    folder = tmp_path / "logs"
    folder.mkdir()
    for seed in range(8):
        write_csv(folder / f"run{seed}.csv", run(seed, rows=60))
    return folder


def test_two_commands_from_a_folder_to_a_calibrated_world(logs: Path, tmp_path: Path) -> None:
    config = tmp_path / "fit.json"
    config.write_text(json.dumps({"members": 2, "width": 16, "depth": 2, "eval_every": 10}))
    data, world = tmp_path / "data", tmp_path / "world"
    made = answer("import", logs, "--obs", "*q1", "--out", data)
    assert made["result"]["episodes"] == 8
    fitted = answer("fit", data, "--hold-out", 0.5, "--config", config, "--updates", 10, "--out", world)
    assert fitted["result"]["report"]["episodes"] == 2
    assert json.loads((world / "report.json").read_text())["level"] == 0.9
    shown = call("check", data)
    assert shown.exit_code == 0
    assert "no episode terminates" in shown.output
    listed = json.loads(call("check", data, "--json").stdout)
    assert [finding["about"] for finding in listed["findings"]] == ["terminations"]
    refused = call("score", world, "--out", tmp_path / "score")
    assert refused.exit_code == 1
    assert "no env to score policies against" in refused.stderr
    refused = call("report", world, "--out", tmp_path / "page.html")  # it holds an open-loop report
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
    assert "no env to score policies against" in refused.stderr


def test_import_says_what_it_found_and_what_is_wrong(logs: Path, tmp_path: Path) -> None:
    said = call("import", logs, "--out", tmp_path / "data")
    assert "8 recordings, 480 rows: 472 steps of 0.02 s in 8 episodes" in said.stderr
    assert "warning: no episode terminates" in said.stderr
    wrong = call("import", logs, "--obs", "q7", "--out", tmp_path / "data")
    assert (wrong.exit_code, wrong.stderr.count("\n")) == (1, 1)
    assert "there is no column 'q7'" in wrong.stderr


def test_import_takes_a_space_of_actions(tmp_path: Path) -> None:
    rows = np.stack([run(seed) for seed in range(6)])
    rows = np.concatenate([rows[..., :3], np.random.default_rng(0).integers(0, 3, (6, 120, 2))], 2)
    (tmp_path / "logs").mkdir()
    for seed in range(6):
        write_csv(tmp_path / "logs" / f"run{seed}.csv", rows[seed], header="t,q1,dq1,u1,u2")
    given = ("import", tmp_path / "logs", "--out", tmp_path / "data", "--action-space")
    assert call(*given, "MultiDiscrete([3, 3], start=[0, 0])").exit_code == 0
    space = wmgym.Transitions.load(tmp_path / "data").task.action_space
    assert space == spaces.MultiDiscrete([3, 3])
    for wrong in ("MultiDiscrete(3", "print(1)", "Discrete(__import__('os'))", "3"):
        refused = call(*given[:-3], "--out", tmp_path / "more", "--action-space", wrong)
        assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1), refused.output
        assert "--action-space takes a space such as 'Box(-1, 1, (2,))'" in refused.stderr


@pytest.mark.parametrize("command", ["improve x", "fit x", "collect x --steps 10", "run x"])
def test_an_empty_out_is_not_the_current_directory(command: str) -> None:
    result = call(*command.split(), "--out", "")
    assert result.exit_code == 2
    assert "the name is empty" in result.output
