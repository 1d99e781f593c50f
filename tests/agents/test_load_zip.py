"""SB3 zips: read without running anything in them."""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sb3_contrib
import stable_baselines3
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import nn

from wmgym.agents import sb3
from wmgym.agents.sb3.load_zip import import_sb3
from wmgym.tasks.task import make_task

PENDULUM, CARTPOLE = make_task("InvertedPendulum-v5"), make_task("CartPole-v1")
OBS = np.random.default_rng(0).normal(size=(500, 4)) * 2


def saved(path: Path, algorithm: str, env_id: str = "InvertedPendulum-v5", **keywords: Any) -> BaseAlgorithm:
    build = getattr({"TQC": sb3_contrib, "DynaSAC": sb3}.get(algorithm, stable_baselines3), algorithm)
    model: BaseAlgorithm = build("MlpPolicy", env_id, seed=0, device="cpu", **keywords)
    model.save(path)
    return model


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize(
    ("algorithm", "env_id", "keywords"),
    [
        ("SAC", "InvertedPendulum-v5", {}),
        ("SAC", "InvertedPendulum-v5", {"activation_fn": nn.Tanh, "net_arch": [8, 8, 8]}),
        ("SAC", "InvertedPendulum-v5", {"net_arch": []}),
        ("TQC", "InvertedPendulum-v5", {}),
        ("TD3", "InvertedPendulum-v5", {"net_arch": [12] * 11}),  # ten sorts after nine
        ("DDPG", "InvertedPendulum-v5", {}),
        ("PPO", "InvertedPendulum-v5", {"activation_fn": nn.ELU}),
        ("PPO", "CartPole-v1", {}),
        ("A2C", "CartPole-v1", {}),
        ("DQN", "CartPole-v1", {"net_arch": []}),
        ("DynaSAC", "InvertedPendulum-v5", {}),
        ("DynaSAC", "InvertedPendulum-v5", {"activation_fn": nn.Tanh, "net_arch": [8]}),
    ],
)
def test_it_acts_like_sb3(
    tmp_path: Path, algorithm: str, env_id: str, keywords: dict[str, Any], trust: bool
) -> None:
    model = saved(tmp_path / "mine.zip", algorithm, env_id, policy_kwargs=keywords)
    policy = import_sb3(tmp_path / "mine.zip", make_task(env_id), trust_pickle=trust)
    assert policy.name == "mine"
    expected, _ = model.predict(OBS, deterministic=True)
    np.testing.assert_allclose(policy(OBS), expected, atol=1e-5)
    assert policy.stochastic == (algorithm in ("SAC", "TQC", "PPO", "A2C", "DynaSAC"))


def test_an_activation_given_goes_over_the_texts(tmp_path: Path) -> None:
    saved(tmp_path / "a.zip", "PPO", policy_kwargs={"activation_fn": nn.GELU})
    with pytest.raises(ValueError, match="pass activation="):
        import_sb3(tmp_path / "a.zip", PENDULUM)
    assert import_sb3(tmp_path / "a.zip", PENDULUM, activation="elu").activation == "elu"


def test_gsde_of_ppo_acts_by_its_mean(tmp_path: Path) -> None:
    model = saved(tmp_path / "a.zip", "PPO", use_sde=True)
    policy = import_sb3(tmp_path / "a.zip", PENDULUM)
    np.testing.assert_allclose(policy(OBS), model.predict(OBS, deterministic=True)[0], atol=1e-5)
    assert not policy.stochastic


def test_reading_draws_nothing(tmp_path: Path) -> None:
    saved(tmp_path / "a.zip", "SAC")
    before = torch.get_rng_state()
    import_sb3(tmp_path / "a.zip", PENDULUM)
    assert torch.equal(torch.get_rng_state(), before)


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.mark),)


def rewritten(path: Path, changes: dict[str, bytes | None]) -> Path:
    """The zip with some members replaced, or left out."""
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()} | changes
    with zipfile.ZipFile(path, "w") as new:
        for name, content in members.items():
            if content is not None:
                new.writestr(name, content)
    return path


def test_nothing_in_the_zip_runs(tmp_path: Path) -> None:
    saved(tmp_path / "a.zip", "SAC")
    bomb = pickle.dumps(Bomb(tmp_path / "mark"))
    data = json.loads(zipfile.ZipFile(tmp_path / "a.zip").read("data"))
    for key in ("policy_class", "policy_kwargs", "learning_rate"):
        data[key] = {":type:": "x", ":serialized:": base64.b64encode(bomb).decode()}
    import_sb3(rewritten(tmp_path / "a.zip", {"data": json.dumps(data).encode()}), PENDULUM)
    buffer = io.BytesIO()
    torch.save({"actor.mu.weight": Bomb(tmp_path / "mark")}, buffer)
    with pytest.raises(ValueError, match="no zip that Stable-Baselines3 saved"):
        import_sb3(rewritten(tmp_path / "a.zip", {"policy.pth": buffer.getvalue()}), PENDULUM)
    assert not (tmp_path / "mark").exists()


def tensors(**named: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(named, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy.pth": None}, "no zip that"), ({"policy.pth": b"junk"}, "no zip that"),
        ({"data": None}, "no zip that"), ({"data": b"junk"}, "no zip that"), ({"data": b"[]"}, "no zip that"),
        ({"data": b"\xff"}, "no zip that"), ({"policy.pth": tensors()}, "none of SB3's plain MLP"),
        ({"policy.pth": tensors(**{"actor.mu.weight": torch.zeros(1, 4)})}, "does not fit"),
        ({"data": b'{"policy_kwargs": {"features_extractor_class": 1}}'}, "features extractor"),
        ({"data": b'{"use_sde": true}'}, "gSDE"),
    ],
)  # fmt: skip
def test_other_content_is_refused(tmp_path: Path, changes: dict[str, bytes | None], message: str) -> None:
    saved(tmp_path / "a.zip", "SAC")
    with pytest.raises(ValueError, match=message) as caught:
        import_sb3(rewritten(tmp_path / "a.zip", changes), PENDULUM)
    assert "\n" not in str(caught.value)


def test_a_recurrent_policy_is_refused_as_one(tmp_path: Path) -> None:
    own = sb3_contrib.RecurrentPPO("MlpLstmPolicy", "InvertedPendulum-v5", n_steps=8, device="cpu")
    own.save(tmp_path / "own.zip")
    with pytest.raises(ValueError, match="holds a recurrent policy, and only plain MLPs can be read; load"):
        import_sb3(tmp_path / "own.zip", make_task("InvertedPendulum-v5"))


def test_other_files_and_other_envs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is missing"):
        import_sb3(tmp_path / "none.zip", PENDULUM)
    (tmp_path / "text.zip").write_text("text")
    with pytest.raises(ValueError, match="no zip that"):
        import_sb3(tmp_path / "text.zip", PENDULUM)
    saved(tmp_path / "a.zip", "SAC")
    for given, said in (
        ("Hopper-v5", r"got str; pass wmgym.make_task\('Hopper-v5'\)"),
        (None, "got NoneType"),
    ):
        with pytest.raises(ValueError, match=f"task must be a Task, {said}"):
            import_sb3(tmp_path / "a.zip", given)  # type: ignore[arg-type]
    for env_id in ("Hopper-v5", "CartPole-v1", "Pendulum-v1"):
        with pytest.raises(ValueError, match=r"other spaces|does not fit"):
            import_sb3(tmp_path / "a.zip", make_task(env_id))
