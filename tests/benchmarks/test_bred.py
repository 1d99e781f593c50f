"""What worlds learn from trainings, and the policies that their bounds are made of."""

from __future__ import annotations

import numpy as np

import wmgym
from benchmarks.harness.bred import ENV_KWARGS, Snapshots, played_again
from benchmarks.harness.metrics import coverage_at


def test_what_is_played_again_goes_where_it_went_and_shows_all() -> None:
    named = wmgym.make_task("Ant-v5", env_kwargs=ENV_KWARGS["Ant-v5"])
    data = wmgym.collect(named, steps=120, seed=0, workers=1)
    again = played_again(data, "Ant-v5")
    assert named.observation_space.shape == (27,)
    assert again.task.observation_space.shape == (105,)
    assert len(again) > 0.9 * len(data)
    went = {row[0].astype(np.float32).tobytes(): at for at, row in enumerate(data.action[:, None])}
    at = np.array([went[action.astype(np.float32).tobytes()] for action in again.action])
    np.testing.assert_allclose(again.core, data.core[at], atol=1e-3)
    np.testing.assert_allclose(again.next_core, data.next_core[at], atol=2e-2)


def test_snapshots_are_of_their_time_and_bounds_of_what_they_do(pendulum_world: wmgym.WorldModel) -> None:
    keep = Snapshots("bred")
    keep.at = [100, 200]
    how = {"algorithm": "SAC", "steps": 200, "num_envs": 4, "learning_starts": 20}
    wmgym.train(pendulum_world, seed=0, callback=keep, **how)
    first, last = keep.policies.values()
    assert [*keep.policies] == ["bred after 100 steps", "bred after 200 steps"]
    for kind in ("weights", "biases"):
        pairs = zip(getattr(first, kind), getattr(last, kind), strict=True)
        assert all((one != other).any() for one, other in pairs)  # the first one has not learned on
    real = wmgym.collect("InvertedPendulum-v5", {"last": last}, episodes=2, seed=9, workers=1)
    found = coverage_at(pendulum_world, real, (1, 2, 900))
    assert {*found} <= {"1", "2", "900"}
    assert 0 <= found["1"] <= 1
