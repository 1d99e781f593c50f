"""Runs that learn online; those in rounds are tested where the command line is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import wmgym
from wmgym.agents.sb3 import online
from wmgym.app import run as run_module
from wmgym.io import artifacts

ENV = "InvertedPendulum-v5"
QUICK: dict[str, Any] = {
    "learning_starts": 100, "train_freq": 50, "batch_size": 16, "gradient_steps": 5,
    "imagination_kwargs": {"rollout_batch": 16, "rollout_steps": 3},
    "world_kwargs": {"members": 2, "width": 16, "depth": 1, "batch_size": 32, "first_updates": 20,
                     "updates": 5},
    "policy_kwargs": {"net_arch": [16]},
}  # fmt: skip


def config(env_id: str = ENV, **train: Any) -> wmgym.RunConfig:
    return wmgym.RunConfig(
        env_id,
        seed=1,
        train={"algorithm": "DynaSAC", "steps": 400, "hyperparameters": QUICK, **train},
        collect={"calibration_steps": 200, "max_episode_steps": 50},
        evaluate={"episodes": 2},
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, wmgym.RunResult, list[str]]:
    """An uninterrupted run: its folder, what it returned and said."""
    out, said = tmp_path_factory.mktemp("run") / "out", list[str]()
    return out, wmgym.run(config(), out, say=said.append), said


def test_it_leaves_a_calibrated_world_a_policy_and_a_report(
    finished: tuple[Path, wmgym.RunResult, list[str]],
) -> None:
    out, result, _ = finished
    world = wmgym.load(out / "world")
    assert world.calibration is not None
    assert world.provenance.steps == 400
    policy = wmgym.load_policy(out / "policy")
    assert (
        result.report[policy.name].real_mean
        == wmgym.GapReport.load(out / "report.json")[policy.name].real_mean
    )
    assert policy.name == result.policy.name == "DynaSAC after 400 real steps"
    ledger = artifacts.read_json(out / "run.json")["ledger"]
    assert ledger == result.ledger
    assert ledger["real_steps"] == 400 + 200
    updates = 7 * 5  # after 100, 150, ... 400 steps
    assert ledger["imagined_steps"] >= updates * 16 * 5
    assert min(ledger["wall_s"], ledger["cpu_s"]) > 0


def test_it_calibrates_on_fresh_episodes_of_several_policies(
    finished: tuple[Path, wmgym.RunResult, list[str]],
) -> None:
    out, result, _ = finished
    fresh = wmgym.Transitions.load(out / "calibration-data")
    expected = [f"DynaSAC after {steps} real steps" for steps in range(100, 401, 50)]
    assert len(fresh) == 200
    assert len(set(fresh.episode_policy)) > 1
    assert set(fresh.episode_policy) <= set(expected[::-2])
    kept = [wmgym.load_policy(path) for path in sorted((out / "online/policies").iterdir())]
    assert [policy.name for policy in kept] == expected
    assert result.world.calibration is not None
    assert not set(fresh.fingerprints()) & set(result.world.provenance.fingerprints)


def test_it_scores_every_policy_that_it_kept(
    finished: tuple[Path, wmgym.RunResult, list[str]],
) -> None:
    _, result, _ = finished
    scored = {entry.name: entry for entry in result.report.scores if entry.name != "random"}
    by_steps = sorted(scored, key=lambda name: int(name.split()[2]))
    assert by_steps == [f"DynaSAC after {steps} real steps" for steps in range(100, 401, 50)]
    assert [name for name in by_steps if scored[name].calibrated_on] == by_steps[::2]
    assert [name for name in by_steps if scored[name].trained_in_world] == by_steps[-1:]
    assert result.report.agreement is not None
    assert (result.report.agreement.policies, result.report.agreement.lineages) == (6, 1)
    assert result.page is not None
    text = result.page.read_text()
    for said in (*scored, "calibrated the bounds", "trained in this world"):
        assert said in text


def test_it_says_how_it_does(finished: tuple[Path, wmgym.RunResult, list[str]]) -> None:
    _, _, said = finished
    assert [line.partition(" of 400 real steps: ")[0] for line in said] == [
        str(steps) for steps in range(50, 401, 50)
    ]
    for part in ("return ", "reward a step ", " real, ", " imagined", "model error ", "minutes left"):
        assert part in said[-1]
    assert "imagined" not in said[0]


def test_killed_anywhere_it_ends_the_same(
    finished: tuple[Path, wmgym.RunResult, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, result, _ = finished

    def killed(watch: Any, *args: Any, **kwargs: Any) -> bool:
        if (
            getattr(watch, "num_timesteps", 230) == 230
        ):  # an episode is running, the agent has been saved twice
            raise KeyboardInterrupt
        return True

    for module, name in [(online._Watch, "_on_step"), (run_module, "calibrate"), (run_module, "score")]:
        with monkeypatch.context() as patch:
            patch.setattr(module, name, killed)
            with pytest.raises(KeyboardInterrupt):
                wmgym.run(config(), tmp_path / "out", page=False)
    again = wmgym.run(config(), tmp_path / "out", page=False)
    assert again.report == result.report == wmgym.GapReport.load(tmp_path / "out/report.json")
    for name in ("world/manifest.json", "policy/manifest.json"):
        assert (tmp_path / "out" / name).read_bytes() == (out / name).read_bytes()
    counted = ("real_steps", "imagined_steps")
    assert [again.ledger[key] for key in counted] == [result.ledger[key] for key in counted]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (config("Ant-v5"), "include_cfrc_ext_in_observation=False"),
        (config("CartPole-v1"), "DynaSAC takes no Discrete actions"),
        (config(steps=100), "learning_starts=100 random steps come first, so of 100 real steps none"),
        (config(hyperparameters={"hue": 1}), "hue"),
    ],
)
def test_what_cannot_learn_online_is_refused_before_any_work(
    settings: wmgym.RunConfig, match: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        wmgym.run(settings, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_it_ends_with_a_page_that_draws_how_it_learned(
    finished: tuple[Path, wmgym.RunResult, list[str]],
) -> None:
    out, result, said = finished
    rows = artifacts.read_json(out / "online/learning.json")["rows"]
    assert [row["real_steps"] for row in rows] == list(range(50, 401, 50))
    assert result.page == out / "report.html"
    page = result.page.read_text()
    assert "Learning curve" in page
    assert "data:video/mp4;base64," in page
    assert len(rows) == len(said)


def _changed(path: Path, **fields: Any) -> None:
    artifacts.write_json(path, artifacts.read_json(path) | fields)


def _swap(out: Path) -> None:
    """A world of the same run, but of another stage."""
    shutil.rmtree(out / "world")
    shutil.copytree(out / "online/world", out / "world")


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda out: (out / "config.json").unlink(), "config.json is missing"),
        (lambda out: (out / "report.json").unlink(), "report.json is missing"),
        (lambda out: _changed(out / "report.json", seed=8), "report.json is not what this run made"),
        (lambda out: shutil.rmtree(out / "online/policies/00000400"), "policies/00000400 is missing"),
        (lambda out: shutil.copytree(out / "policy", out / "online/policies/1"), "policies/1 is not what"),
        (lambda out: _changed(out / "score.json", noted={"wall_s": 0.0}), "score.json has changed"),
        (lambda out: _changed(out / "score.json", code="x"), "score.json.code"),
        (lambda out: (out / "score.json").write_text("{"), r"is not a JSON object \(.*\); delete .* again$"),
        (lambda out: (out / "score.json").write_text("[]"), r"is not a JSON object \(.*\); delete .* again$"),
        (lambda out: shutil.copy(out / "calibrate.json", out / "score.json"), "other settings"),
        (_swap, "world is not what this run made"),
    ],
)
def test_a_folder_that_was_edited_is_refused_by_name(
    finished: tuple[Path, wmgym.RunResult, list[str]],
    tmp_path: Path,
    edit: Callable[[Path], object],
    named: str,
) -> None:
    shutil.copytree(finished[0], tmp_path / "out")
    edit(tmp_path / "out")
    with pytest.raises(ValueError, match=named) as caught:
        wmgym.run(config(), tmp_path / "out", page=False)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "out") in str(caught.value)


def test_a_stage_whose_record_is_deleted_is_done_again_to_the_same_end(
    finished: tuple[Path, wmgym.RunResult, list[str]], tmp_path: Path
) -> None:
    shutil.copytree(finished[0], tmp_path / "out")
    (tmp_path / "out/calibrate.json").unlink()
    shutil.rmtree(tmp_path / "out/world")
    again = wmgym.run(config(), tmp_path / "out", page=False)
    assert again.report == finished[1].report
    for name in ("world/manifest.json", "calibration-data/manifest.json"):
        assert (tmp_path / "out" / name).read_bytes() == (finished[0] / name).read_bytes()


def test_an_agent_of_another_run_does_not_go_on(
    finished: tuple[Path, wmgym.RunResult, list[str]], tmp_path: Path
) -> None:
    def stopped(text: str) -> None:
        if text.startswith("200 "):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wmgym.run(config(), tmp_path / "out", say=stopped, page=False)
    shutil.copy(finished[0] / "online/agent.zip", tmp_path / "out/online/agent.zip")
    with pytest.raises(ValueError, match=r"agent\.zip is not what this run saved"):
        wmgym.run(config(), tmp_path / "out", page=False)
