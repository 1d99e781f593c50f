"""The reference policies that come with the repository."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from wmgym.data.policy import load_policy

ROOT = Path(__file__).resolve().parents[2]
POLICIES = sorted(path.parent for path in ROOT.glob("policies/*/*/manifest.json"))


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_policy_is_whole_and_acts_in_its_env(path: Path) -> None:
    policy = load_policy(path)
    assert policy.card is not None
    assert (policy.card.env_id, policy.name) == (path.parent.name, path.name)
    assert policy.card.episodes >= 50
    assert np.isfinite([policy.card.return_mean, policy.card.return_std]).all()
    env = gym.make(policy.card.env_id)
    obs, _ = env.reset(seed=0)
    action = policy(obs)
    assert env.action_space.contains(np.asarray(action, env.action_space.dtype))
    env.step(action)
    env.close()


def test_every_learning_run_is_its_own() -> None:
    cards = [card for path in POLICIES if (card := load_policy(path).card) is not None]
    assert len({(card.env_id, card.algorithm, card.seed) for card in cards}) == len(cards)


@pytest.mark.parametrize(
    ("env_id", "least"),
    [
        *((env_id, 16) for env_id in ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5", "Swimmer-v5")),
        *((f"{name}-v5", 15) for name in ("InvertedPendulum", "InvertedDoublePendulum", "Reacher", "Pusher")),
        ("HumanoidStandup-v5", 15),
        ("Humanoid-v5", 8),
    ],
)
def test_there_are_enough_and_a_quarter_is_held_out(env_id: str, least: int) -> None:
    splits = [
        card.split for path in POLICIES if path.parent.name == env_id and (card := load_policy(path).card)
    ]
    assert len(splits) >= least
    assert splits.count("held-out") >= (len(splits) - splits.count("calibration")) / 4


def test_the_folder_is_small() -> None:
    assert sum(file.stat().st_size for file in (ROOT / "policies").rglob("*")) < 40e6


@pytest.mark.slow
def test_policies_are_worth_what_they_say() -> None:
    command = [sys.executable, "-m", "tools.train_policies", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-2_000:]
