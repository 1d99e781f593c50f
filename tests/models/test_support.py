"""Support: real transitions kept with a world; scipy's tree is the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial import KDTree

from tests import toy
from wmgym.data.collect import collect
from wmgym.data.transitions import Transitions
from wmgym.envs.vector_env import ImaginedVectorEnv
from wmgym.models.config import FitConfig
from wmgym.models.coordinates import Coordinates
from wmgym.models.fit import fit
from wmgym.models.support import ROWS, SEARCHED, Search, sample_support
from wmgym.models.world import WorldModel

TINY = FitConfig(members=2, width=8, depth=1, max_updates=10, eval_every=5)


@pytest.fixture(scope="module")
def swimmer() -> Transitions:
    return collect("Swimmer-v5", steps=6_000, seed=0)


@pytest.fixture(scope="module")
def world(swimmer: Transitions) -> WorldModel:
    return fit(swimmer, TINY)


def test_rows_are_the_fits_own(swimmer: Transitions) -> None:
    support = sample_support(swimmer, 0)
    assert len(support.core) == ROWS
    rows = swimmer.first[support.episode] + support.step
    assert len(set(rows.tolist())) == ROWS
    for name in ("core", "action", "next_core", "episode"):
        np.testing.assert_array_equal(getattr(support, name), getattr(swimmer, name)[rows])
    np.testing.assert_array_equal(sample_support(swimmer, 0).core, support.core)
    small = toy.episodes(3, 0, steps=5)
    assert len(sample_support(small, 0).core) == 15


def test_nearest_are_scipys(swimmer: Transitions, world: WorldModel) -> None:
    test = collect("Swimmer-v5", steps=50, seed=1)
    assert world.support is not None
    coordinates = Coordinates(swimmer.task.core.geometry)
    bank, asked = (coordinates.features(torch.tensor(x)).numpy() for x in (world.support.core, test.core))
    unit = np.maximum(bank.std(0, ddof=1), 1e-3) * np.sqrt(bank.shape[1])
    expected, rows = KDTree(bank / unit).query(asked / unit, k=3)
    found = world.nearest_real(test.obs, k=3)
    np.testing.assert_allclose(found.distance, expected, atol=2e-3)
    same = np.abs(found.core - world.support.core[rows]).max(-1) < 1e-6
    assert same.mean() > 0.97  # but for ties
    assert found.action.shape == (50, 3, 2)
    assert (np.diff(found.distance, axis=1) >= 0).all()


def test_a_logged_state_supports_itself(swimmer: Transitions, world: WorldModel) -> None:
    assert world.support is not None
    logged = swimmer.task.core.observe(world.support.core[:20])
    found = world.nearest_real(logged)
    np.testing.assert_allclose(found.next_core[:, 0], world.support.next_core[:20], atol=1e-5)
    np.testing.assert_array_equal(found.episode[:, 0], world.support.episode[:20])


def test_novelty_is_one_where_real_states_are_and_grows_away_from_them(world: WorldModel) -> None:
    usual = torch.tensor(collect("Swimmer-v5", steps=400, seed=2).core)
    novelty = world.novelty(usual)
    assert novelty.shape == (400,)
    assert 0.6 < float(novelty.median()) < 1.6
    faster = usual.clone()
    faster[:, 3:] *= 4
    assert float(world.novelty(faster).median()) > 3 * float(novelty.median())
    turned = usual.clone()  # the network sees no heading: nor does novelty
    cos, sin = np.cos(2.0), np.sin(2.0)
    turned[:, 0] += 2.0
    turned[:, 3], turned[:, 4] = cos * usual[:, 3] - sin * usual[:, 4], sin * usual[:, 3] + cos * usual[:, 4]
    torch.testing.assert_close(world.novelty(turned), novelty, atol=2e-2, rtol=2e-2)


def test_a_single_episode_will_do() -> None:
    support = sample_support(toy.episodes(1, 0, steps=40), 0)
    assert support.typical > 1e-3
    assert Search(support, Coordinates(toy.task().core.geometry)).novelty(torch.zeros(2, 3)).shape == (2,)


def test_the_env_tells_novelty() -> None:
    from wmgym.calibration.calibrate import calibrate

    world = calibrate(fit(toy.episodes(20, 0, steps=30), TINY), toy.episodes(5, 1, steps=10))
    env = ImaginedVectorEnv(world, 3, trust=True)
    _, infos = env.reset(seed=0)
    np.testing.assert_allclose(infos["novelty"], world.novelty(torch.tensor(env.core())).numpy())
    infos = env.step(np.zeros((3, 2), np.float32))[4]
    np.testing.assert_allclose(infos["novelty"], world.novelty(torch.tensor(env.core())).numpy())
    assert "novelty" not in ImaginedVectorEnv(world, 3).reset(seed=0)[1]


def test_what_cannot_be_answered_is_refused(world: WorldModel) -> None:
    with pytest.raises(ValueError, match="k must lie in 1"):
        world.nearest_real(np.zeros((1, 8)), k=ROWS + 1)
    with pytest.raises(ValueError, match="no sample of its fit's data"):
        toy.world().nearest_real(np.zeros((1, 3)))
    assert SEARCHED < ROWS
