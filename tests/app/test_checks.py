"""What a run refuses before its first real step, and which settings of a run may still be corrected."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import wmgym
from wmgym.app import run as run_module
from wmgym.app.checks import changed_settings
from wmgym.io import artifacts
from wmgym.io.artifacts import StoreError

ENV = "InvertedPendulum-v5"
PPO = {"n_steps": 16, "batch_size": 64, "n_epochs": 1}


def config(**changes: Any) -> wmgym.RunConfig:
    settings: dict[str, Any] = {
        "rounds": [{"real_steps": 100, "fit_updates": 5, "imagined_steps": 128}],
        "collect": {"calibration_steps": 50, "max_episode_steps": 25},
        "fit": {"members": 2, "width": 8, "depth": 1},
        "train": {"algorithm": "PPO", "num_envs": 8, "hyperparameters": PPO},
        "evaluate": {"episodes": 2},
    }
    return wmgym.RunConfig(ENV, **(settings | changes))


def hyperparameters(algorithm: str, **given: Any) -> dict[str, Any]:
    return {"train": {"algorithm": algorithm, "num_envs": 8, "hyperparameters": given}}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (hyperparameters("SAC", gamma="high"), "SAC cannot train with these: "),
        (hyperparameters("SAC", train_freq=0), "train_freq has to be a whole number above 0, got 0"),
        (hyperparameters("SAC", batch_size=0), "batch_size has to be a whole number above 0, got 0"),
        (hyperparameters("SAC", tau="soft"), "SAC cannot train with these: "),
        (hyperparameters("TD3", policy_delay=0), "TD3 cannot train with these: "),
        (
            hyperparameters("SAC", buffer_size=-1),
            "SAC refuses: buffer_size has to be a whole",
        ),
        (hyperparameters("SAC", buffer_size=3), "buffer_size has to be a whole number of at least 10, got 3"),
        (hyperparameters("SAC", _init_setup_model=False), "SAC refuses: "),
        (hyperparameters("PPO", n_steps="many"), "PPO refuses: |n_steps has to be a whole number"),
        (hyperparameters("PPO", n_epochs="two"), "n_epochs has to be a whole number above 0, got 'two'"),
        (
            {"rounds": [{"real_steps": 9, "fit_updates": 5, "imagined_steps": 128}]},
            "real_steps=9 are too few",
        ),
    ],
)
def test_what_a_later_stage_would_refuse_is_known_before_any_step(
    changes: dict[str, Any], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "collect", lambda *args, **kwargs: pytest.fail("it stepped"))
    with pytest.raises(ValueError, match=why) as caught:
        wmgym.run(config(**changes), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def online(**given: Any) -> wmgym.RunConfig:
    return wmgym.RunConfig(ENV, train={"algorithm": "DynaSAC", "steps": 250, "hyperparameters": given})


@pytest.fixture
def unmoved(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real env takes no step."""
    kind = type(gym.make(ENV).unwrapped)
    monkeypatch.setattr(kind, "step", lambda *args: pytest.fail("it stepped"))


@pytest.mark.usefixtures("unmoved")
@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"gamma": "high"}, "gamma has to be above 0 and below 1, got 'high'"),
        ({"tau": "soft"}, "tau has to be above 0 and at most 1, got 'soft'"),
        ({"gradient_steps": "two"}, "gradient_steps has to be a whole number of at least -1, got 'two'"),
        ({"target_entropy": "low"}, "DynaSAC refuses: could not convert"),
        ({"learning_starts": "late"}, "learning_starts has to be a whole number of at least 0, got 'late'"),
        ({"train_freq": 0}, "train_freq has to be a whole number above 0, got 0"),
        ({"train_freq": [0, "episode"]}, "train_freq has to be a whole number above 0, got 0"),
        ({"batch_size": 0}, "batch_size has to be a whole number above 0, got 0"),
        ({"buffer_size": 3}, "buffer_size has to be a whole number of at least 10, got 3"),
        ({"episode_steps": 0}, "episode_steps has to be a whole number above 0, got 0"),
        ({"imagination_kwargs": {"rollout_steps": 0}}, r"imagination_kwargs\.rollout_steps: "),
        ({"imagination_kwargs": {"recent_share": 2}}, r"imagination_kwargs\.recent_share: "),
        ({"world_kwargs": {"width": "wide"}}, r"world_kwargs\.width: Input should be a valid integer"),
        ({"world_kwargs": {"updates": -1}}, "world_kwargs: first_updates, updates, .* at least 0"),
    ],
)
def test_what_dyna_sac_would_refuse_is_known_before_any_step(
    given: dict[str, Any], why: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        wmgym.run(online(**given), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("unmoved")
@pytest.mark.parametrize("given", [{}, {"train_freq": [3, "episode"], "learning_starts": None}])
def test_what_dyna_sac_takes_is_tried_without_a_step(given: dict[str, Any]) -> None:
    from wmgym.agents.sb3 import online as module

    module.check(wmgym.make_task(ENV), online(**given).train)


@pytest.mark.parametrize("seed", [-1, 4_000_001, 2**70])
def test_a_seed_that_a_later_stage_could_not_count_on_from_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match=r"seed must lie in 0\.\.4000000|seed"):
        wmgym.RunConfig(ENV, seed)


def test_a_full_disk_and_a_place_that_is_none_are_known_before_any_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="is no writable directory"):
        wmgym.run(config(), tmp_path / "file" / "out")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 10**6))  # type: ignore[attr-defined]
    with pytest.raises(StoreError, match=r"the run will take up to [0-9]+ MB and 1 MB are free; make room"):
        wmgym.run(config(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_space_that_is_asked_for_is_enough(tmp_path: Path) -> None:
    from wmgym.app.checks import _bytes

    wmgym.run(config(), tmp_path / "out")
    written = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert written < _bytes(config(), wmgym.make_task(ENV))


def test_the_extremes_that_are_taken_end_with_a_report(tmp_path: Path) -> None:
    least = config(
        rounds=[{"real_steps": 10, "fit_updates": 1, "imagined_steps": 1}],
        collect={"calibration_steps": 1, "max_episode_steps": 1},
        fit={"members": 1, "width": 1, "depth": 1, "validation": 0.999},
    )
    assert wmgym.run(least, tmp_path / "out").report.episodes == 2


def test_settings_of_stages_to_come_may_be_corrected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "score", stop)
        with pytest.raises(KeyboardInterrupt):
            wmgym.run(config(), out)
    monkeypatch.setattr(run_module, "collect", stop)  # all of that is done
    for name, changes in {
        "seed": {"seed": 1}, "collect.calibration_steps": {"collect": {"calibration_steps": 60}},
        "train.hyperparameters.n_epochs": hyperparameters("PPO", **(PPO | {"n_epochs": 2})),
        "rounds.1": {"rounds": [*config().to_dict()["rounds"]] * 2},
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=f"holds a run with other settings: .*{name}"):
            wmgym.run(config(**changes), out)
    done = wmgym.run(config(evaluate={"episodes": 3}), out, page=False)
    assert done.report.episodes == 3
    assert artifacts.read_json(out / "config.json")["evaluate"] == {"episodes": 3}
    with pytest.raises(ValueError, match=r"other settings: evaluate\.episodes; choose"):
        wmgym.run(config(), out)


@pytest.mark.parametrize(
    ("done", "changes", "refused"),
    [
        ((), {"seed": 3, "fit": {"width": 4}}, []),
        (("round-00/collect.json",), {"fit": {"width": 4}, "branch": False}, []),
        (("round-00/collect.json",), {"seed": 3}, ["seed"]),
        (("round-00/fit.json",), {"fit": {"width": 4}}, ["fit.width"]),
        (("round-00/train.json",), {"collect": {"calibration_steps": 9}}, []),
        (("calibrate.json",), {"evaluate": {"episodes": 9}}, []),
        (("online",), {"evaluate": {"episodes": 9}, "collect": {"calibration_steps": 9}}, []),
        (("online",), {"train": {"num_envs": 3}}, ["train.num_envs"]),
    ],
)
def test_a_setting_is_fixed_once_a_stage_has_read_it(
    done: tuple[str, ...], changes: dict[str, Any], refused: list[str], tmp_path: Path
) -> None:
    for record in done:
        (tmp_path / record).parent.mkdir(exist_ok=True)
        (tmp_path / record).touch()
    before = config().to_dict()
    now = {**before, **{k: {**before[k], **v} if isinstance(v, dict) else v for k, v in changes.items()}}
    assert changed_settings(tmp_path, before, now) == refused
