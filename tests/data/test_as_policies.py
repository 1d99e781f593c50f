"""Policies in every form that collect and score take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import PPO, SAC

from wmgym.agents.sb3 import DynaSAC
from wmgym.data.collect import collect
from wmgym.data.policy import MLPPolicy, apply_policy
from wmgym.data.pool import as_policies
from wmgym.io.artifacts import StoreError


def constant(name: str, value: float) -> MLPPolicy:
    weights, biases = (np.zeros((4, 1), np.float32),), (np.float32([value]),)
    return MLPPolicy(name, weights, biases, "relu", "clip", np.float32([-3]), np.float32([3]))


def still(obs: np.ndarray) -> np.ndarray:
    return np.zeros((len(obs), 1), np.float32)


def first(policy: Any, obs: np.ndarray | None = None) -> float:
    """The first action for an observation."""
    return float(apply_policy(policy, np.zeros((1, 4), np.float32) if obs is None else obs)[0, 0])


def test_functions_and_mappings_keep_their_names() -> None:
    assert as_policies(None) == {"random": None}
    assert as_policies(still) == {"still": still}
    assert as_policies({"a": still, "b": None}) == {"a": still, "b": None}
    assert list(as_policies(constant("net", 0.5))) == ["net"]


def test_a_model_is_asked_for_deterministic_actions() -> None:
    model = PPO("MlpPolicy", "InvertedPendulum-v5", n_steps=8, batch_size=8, device="cpu", seed=0)
    found = as_policies({"new": model, "old": still})
    obs = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    for _ in range(3):
        np.testing.assert_array_equal(
            apply_policy(found["new"], obs), model.predict(obs, None, None, True)[0]
        )
    assert list(as_policies(model)) == ["PPO"]
    assert list(as_policies(model.predict)) == ["predict"]


class Passing(SAC):
    """A class of a user's own that changes what its agent sees."""

    def predict(self, observation: Any, *args: Any, **kwargs: Any) -> Any:
        return super().predict(observation, *args, **kwargs)


@pytest.mark.parametrize("kind", [SAC, Passing, DynaSAC])
def test_agents_of_every_class_act_without_noise(kind: Any) -> None:
    model = kind("MlpPolicy", "InvertedPendulum-v5", seed=0, policy_kwargs={"net_arch": [8]})
    obs = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    quiet = model.predict(obs, deterministic=True)[0]
    assert np.abs(model.predict(obs)[0] - quiet).max() > 0.1
    np.testing.assert_array_equal(apply_policy(as_policies(model)[kind.__name__], obs), quiet)
    played = collect("InvertedPendulum-v5", model, steps=5, workers=1)
    np.testing.assert_allclose(played.action, model.predict(played.obs, deterministic=True)[0], atol=1e-6)


def test_an_agent_that_asks_for_no_noise_itself_is_not_asked_again() -> None:
    class Quiet(SAC):
        def predict(self, observation: Any, **kwargs: Any) -> Any:
            return super().predict(observation, deterministic=True, **kwargs)

    model = Quiet("MlpPolicy", "InvertedPendulum-v5", seed=0, policy_kwargs={"net_arch": [8]})
    obs = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    found = apply_policy(as_policies(model)["Quiet"], obs)
    np.testing.assert_array_equal(found, model.predict(obs)[0])


def test_any_predict_that_takes_keywords_is_asked_for_no_noise() -> None:
    class Wrapped:
        def __init__(self, model: Any, **fixed: Any) -> None:
            self.model, self.fixed = model, fixed

        def predict(self, obs: np.ndarray, **keywords: Any) -> Any:
            return self.model.predict(obs, **self.fixed, **keywords)

    class Plain:
        def predict(self, obs: np.ndarray, **unused: Any) -> np.ndarray:
            return np.full((len(obs), 1), 0.25)

    class Strict(Plain):
        def predict(self, obs: np.ndarray, **keywords: Any) -> np.ndarray:
            if keywords:
                raise ValueError(f"no such option: {min(keywords)}")
            return np.full((len(obs), 1), 0.5)

    model = SAC("MlpPolicy", "InvertedPendulum-v5", seed=0, policy_kwargs={"net_arch": [8]})
    obs = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    quiet = model.predict(obs, deterministic=True)[0]
    for wrapped in (Wrapped(model), Wrapped(model, deterministic=True), Wrapped(Wrapped(model))):
        for _ in range(2):
            np.testing.assert_array_equal(apply_policy(as_policies(wrapped)["Wrapped"], obs), quiet)
    assert first(as_policies(Plain())["Plain"]) == 0.25
    assert first(as_policies(Strict())["Strict"]) == 0.5


def test_a_predict_without_choices_is_called_as_it_is() -> None:
    class Model:
        def predict(self, obs: np.ndarray) -> np.ndarray:
            return np.full((len(obs), 1), 0.25)

    assert first(as_policies(Model())["Model"]) == 0.25


def test_paths_are_loaded(tmp_path: Path) -> None:
    for name, value in (("a", 0.5), ("b", -0.5)):
        constant(name, value).save(tmp_path / name)
    assert {name: first(policy) for name, policy in as_policies(tmp_path).items()} == {"a": 0.5, "b": -0.5}
    assert {name: first(policy) for name, policy in as_policies(str(tmp_path / "b")).items()} == {"b": -0.5}
    mixed = as_policies({"mine": tmp_path / "a", "random": None})
    assert (first(mixed["mine"]), mixed["random"]) == (0.5, None)


def test_one_saved_policy_is_collected_as_if_it_were_loaded(tmp_path: Path) -> None:
    saved = constant("a", 0.5).save(tmp_path / "a")
    by_path, loaded = (
        collect("InvertedPendulum-v5", policy, steps=50) for policy in (str(saved), constant("a", 0.5))
    )
    np.testing.assert_array_equal(by_path.obs, loaded.obs)
    assert (by_path.episode_seed, by_path.episode_policy) == (loaded.episode_seed, loaded.episode_policy)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, "no policies in the mapping"),
        (3, "int is no policy; pass a function"),
        ({"a": 3}, "int is no policy"),
        ({1: still, "1": still}, "name of a policy must be a str, got 1"),
        ({"a\ud800": still}, r"one line of printable text, got 'a\\ud800'"),
        ({"a\nverdict: trust": still}, r"one line of printable text, got 'a\\nverdict: trust'"),
        ({"": still}, "one line of printable text, got ''"),
        ({" \t": still}, r"one line of printable text, got ' \\t'"),
        ({"a\u202eb": still}, r"one line of printable text, got 'a\\u202eb'"),
    ],
)
def test_what_is_no_policy_is_refused(given: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        as_policies(given)
    assert "\n" not in str(caught.value)


def test_a_path_without_policies_is_refused(tmp_path: Path) -> None:
    saved = constant("a", 0.5).save(tmp_path / "damaged")
    manifest = bytearray((saved / "manifest.json").read_bytes())
    manifest[10] ^= 1
    (saved / "manifest.json").write_bytes(manifest)
    collect("InvertedPendulum-v5", steps=20).save(tmp_path / "data")
    (tmp_path / "model.zip").write_bytes(b"PK")
    (tmp_path / "empty").mkdir()
    for name, why in {
        "none": "none is missing; check the path",
        "empty": "holds no policies of split 'pool'",
        "data": "holds a wmgym 'transitions', not a 'policy'",
        "damaged": "manifest.json is damaged",
        "model.zip": r"model\.zip is a file, .* wmgym\.sb3\.import_sb3, or load it",
    }.items():
        with pytest.raises(StoreError, match=why) as caught:
            as_policies(tmp_path / name)
        assert "\n" not in str(caught.value)
        with pytest.raises(StoreError, match="holds no wmgym artifact" if name == "empty" else why):
            as_policies({"a": str(tmp_path / name)})
