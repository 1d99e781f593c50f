"""The commands that judge policies: what they print and leave behind, and the forms policies come in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from stable_baselines3 import PPO

from tests.app.test_cli import ENV, answer, call
from wmgym.data.policy import MLPPolicy, load_policy
from wmgym.io import artifacts

SHORT = ("--max-episode-steps", 5)
HOSTILE = "<b>[red]x[/red]</b>"


def saved(place: Path, name: str, gain: float) -> Path:
    """A linear policy on disk."""
    weight = np.full((4, 1), gain, np.float32)
    policy = MLPPolicy(
        name, (weight,), (np.zeros(1, np.float32),), "relu", "clip", np.float32([-3]), np.float32([3])
    )
    return policy.save(place)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("pool")
    for name, gain in (("still", 0.0), ("push", 1.0), (HOSTILE, -1.0)):
        saved(home / f"{gain}", name, gain)
    return home


def test_rank(pool: Path, tmp_path: Path) -> None:
    spoken = answer("rank", ENV, "--policy", pool, "--episodes", 3, *SHORT, "--out", tmp_path)
    assert artifacts.read_json(tmp_path / "ranking.json") == spoken["result"]
    assert {each["name"] for each in spoken["result"]["policies"]} == {"still", "push", HOSTILE}
    assert spoken["ledger"]["real_steps"] == 0
    assert spoken["ledger"]["imagined_steps"] > 0
    shown = call("rank", ENV, "--policy", pool, "--episodes", 3, *SHORT, "--out", tmp_path).stdout
    assert HOSTILE in shown


def test_compare(pool: Path, tmp_path: Path) -> None:
    few = ("--episodes", 6, "--imagined-episodes", 20, *SHORT, "--out", tmp_path)
    spoken = answer("compare", ENV, pool / "0.0", pool / "1.0", *few)
    assert artifacts.read_json(tmp_path / "comparison.json") == spoken["result"]
    assert spoken["result"]["names"] == ["still", "push"]
    assert call("compare", ENV, pool, pool / "1.0", *few).exit_code == 1


def test_select(pool: Path, tmp_path: Path) -> None:
    spoken = answer("select", ENV, "--policy", pool, "--budget", 4, "--imagined-episodes", 5, *SHORT,
                    "--out", tmp_path)  # fmt: skip
    assert artifacts.read_json(tmp_path / "selection.json") == spoken["result"]
    assert spoken["result"]["real_episodes"] == 4


def test_score_with_more_imagined_episodes(pool: Path, tmp_path: Path) -> None:
    few = ("--policy", pool, "--episodes", 3, "--imagined-episodes", 12, *SHORT, "--out", tmp_path)
    report = answer("score", ENV, *few)["result"]
    assert report["imagined_episodes"] == 12
    assert report["agreement"]["policies"] == 3
    assert "mmrv" in call("score", ENV, *few).stdout


def test_policies_of_every_form(pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    PPO("MlpPolicy", ENV, n_steps=8, batch_size=8, device="cpu").save(tmp_path / "agent.zip")
    (tmp_path / "my_policies.py").write_text("def nothing(obs):\n    return obs[:, :1] * 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    load_policy(pool / "1.0").export(tmp_path / "net.onnx")
    given = [pool / "0.0", tmp_path / "agent.zip", "my_policies:nothing", tmp_path / "net.onnx"]
    options = [part for each in given for part in ("--policy", each)]
    found = answer("rank", ENV, *options, "--episodes", 2, *SHORT, "--out", tmp_path / "o")["result"]
    assert {each["name"] for each in found["policies"]} == {"still", "agent", "my_policies:nothing", "net"}
    answer("collect", ENV, *options, "--steps", 20, *SHORT, "--out", tmp_path / "data")
    only = ("--policy", tmp_path / "net.onnx", "--episodes", 2, *SHORT)
    assert "net" in str(answer("score", ENV, *only, "--out", tmp_path / "score")["result"])


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("no_such_module:f", "cannot import no_such_module"),
        ("json:f", "json has no function 'f'"),
        ("missing.zip", "missing.zip"),
        ("missing.onnx", "missing.onnx is no ONNX file"),
    ],
)
def test_a_policy_that_is_none(policy: str, said: str, tmp_path: Path) -> None:
    result = call("rank", ENV, "--policy", policy, "--out", tmp_path / "o")
    assert result.exit_code == 1
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_gap(pool: Path, tmp_path: Path) -> None:
    robot = '{"env_id": "InvertedPendulum-v5", "mass": 3.0}'
    spoken = answer("gap", "wmgym/Shifted-v0", ENV, "--env-kwargs", robot, "--policy", pool, "--episodes", 2,
                    *SHORT, "--horizon", 2, "--no-page", "--out", tmp_path)  # fmt: skip
    assert artifacts.read_json(tmp_path / "gap.json") == spoken["result"]
    assert spoken["result"]["reality"] == "InvertedPendulum-v5 (mass=3.0)"
    assert spoken["ledger"]["real_steps"] == spoken["result"]["real_steps"] > 0


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (("score", ENV), "report.json"),
        (("rank", ENV), "ranking.json"),
        (("compare", ENV, "one", "two"), "comparison.json"),
        (("select", ENV), "selection.json"),
        (("gap", ENV, ENV), "gap.html"),
        (("collect", ENV, "--steps", 9), "run.json"),
        (("fit", "data", "--hold-out", 0.2), "report.json"),
        (("report", ENV), None),
        (("video", ENV), None),
    ],
)
def test_a_folder_where_a_file_belongs_is_known_before_any_work(
    command: tuple[object, ...], name: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wmgym.models.saving.load", lambda *args: pytest.fail("it worked"))
    monkeypatch.setattr("wmgym.tasks.task.make_task", lambda *args, **kwargs: pytest.fail("it worked"))
    taken = tmp_path / (name or "page.html")
    taken.mkdir()
    result = call(*command, "--out", tmp_path if name else taken)
    assert result.exit_code == 1
    assert f"error: {taken} cannot be written (it is a directory); choose another --out" in result.stderr


@pytest.mark.parametrize(
    ("command", "name"), [("report", "page.json"), ("video", "film.txt"), ("video", "film")]
)
def test_a_name_that_says_another_format_is_known_before_any_work(
    command: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wmgym.models.saving.load", lambda *args: pytest.fail("it worked"))
    result = call(command, ENV, "--out", tmp_path / name)
    assert result.exit_code == 1
    assert f"{tmp_path / name} must end in ." in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_policy_is_exported_too(tmp_path: Path) -> None:
    policy = saved(tmp_path / "policy", "linear", 1.0)
    assert call("export", policy, tmp_path / "policy.onnx").exit_code == 0
    assert {file.name for file in tmp_path.glob("policy.*")} == {"policy.onnx", "policy.json"}
    refused = call("export", policy, tmp_path / "policy.onnx", "--trust")
    assert (refused.exit_code, "are for worlds" in refused.output) == (1, True)
