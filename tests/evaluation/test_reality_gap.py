"""The reality gap: nothing changed is no gap, a change is found, where it is and in what."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import wmgym
from wmgym.data.policy import MLPPolicy
from wmgym.data.transitions import Transitions
from wmgym.evaluation.reality import Diagnosis, RealityGap
from wmgym.evaluation.report.gap_page import write_gap
from wmgym.io import artifacts
from wmgym.models.world import WorldModel

POOL = Path(__file__).resolve().parents[2] / "policies" / "Hopper-v5"
ID = "InvertedPendulum-v5"


@pytest.fixture(scope="module")
def policies() -> dict[str, MLPPolicy]:
    return {name: wmgym.load_policy(POOL / name) for name in ("ppo-50k", "sac-25k", "noise-white")}


@pytest.fixture(scope="module")
def slippery(policies: dict[str, MLPPolicy]) -> RealityGap:
    robot = wmgym.shift("Hopper-v5", friction=0.3)
    return wmgym.gap(robot, "Hopper-v5", policies, episodes=2, max_episode_steps=150, workers=1)


def test_a_shift_of_nothing_is_a_gap_of_nothing(policies: dict[str, MLPPolicy]) -> None:
    robot = wmgym.shift("Hopper-v5")
    found = wmgym.gap(robot, "Hopper-v5", policies, episodes=2, max_episode_steps=100, workers=1)
    assert found.open_loop < 1e-3
    assert found.return_gap == 0
    assert found.agreement is not None
    assert found.agreement.spearman.value == 1
    assert found.diagnosis.parted == 0
    assert "do not part" in str(found)


def test_less_friction_shows_where_the_foot_stands(slippery: RealityGap) -> None:
    by_contact = {row.contact: row.one_step for row in slippery.contacts}
    assert by_contact["foot_geom"] > 10 * by_contact["free"]
    assert slippery.open_loop > 0.02
    assert slippery.by_steps[0].error < slippery.by_steps[-1].error
    assert [row.open_loop for row in slippery.dimensions] == sorted(
        (row.open_loop for row in slippery.dimensions), reverse=True
    )
    assert slippery.diagnosis.steps is not None
    assert {row.policy for row in slippery.returns} == {"ppo-50k", "sac-25k", "noise-white"}
    assert slippery.reality == "Hopper-v5 (friction=0.3)"
    assert sum(share for _, share in slippery.diagnosis.dimensions) <= 1 + 1e-9


def test_steps_are_counted_in_words() -> None:
    one = Diagnosis(0.25, 1.0, 1.0, 0.04, (("hip", 1.0),), (), ())
    assert "after 1 step (" in str(one)
    assert "after 2 steps (" in str(replace(one, steps=2.0))


@pytest.mark.parametrize("change", [{"by_steps": ()}, {"diagnosis": {"seconds": None}}, {"horizon": -1}])
def test_a_gap_that_cannot_be_is_refused(
    slippery: RealityGap, tmp_path: Path, change: dict[str, Any]
) -> None:
    values = slippery.to_dict()
    for name, value in change.items():
        values[name] = {**values[name], **value} if isinstance(value, dict) else value
    artifacts.write_json(tmp_path / "gap.json", values)
    with pytest.raises(artifacts.StoreError, match="not a reality gap"):
        RealityGap.load(tmp_path / "gap.json")


def test_a_gap_comes_back_from_a_file(slippery: RealityGap, tmp_path: Path) -> None:
    assert RealityGap.load(slippery.save(tmp_path / "gap.json")) == slippery
    page = write_gap(slippery, tmp_path / "gap.html").read_text("utf-8")
    assert "Hopper-v5 (friction=0.3)" in page
    assert "<video" not in page


@pytest.mark.slow
def test_the_page_films_the_robot_beside_the_simulator(
    slippery: RealityGap, policies: dict[str, MLPPolicy], tmp_path: Path
) -> None:
    robot = wmgym.shift("Hopper-v5", friction=0.3)
    path = tmp_path / "gap.html"
    both = {"reality": robot, "simulator": "Hopper-v5", "policies": policies}
    page = write_gap(slippery, path, **both).read_text("utf-8")  # type: ignore[arg-type]
    assert "<video" in page or "image/webp" in page


def test_a_log_is_a_robot(pendulum_world: WorldModel) -> None:
    robot = wmgym.make_task(wmgym.shift(ID, mass=4.0))
    log = wmgym.collect(robot, steps=200, seed=1, workers=1)
    found = wmgym.gap(log, ID, horizon=4)
    same = wmgym.gap(wmgym.collect(ID, steps=200, seed=1, workers=1), ID, horizon=4)
    assert found.open_loop > 20 * same.open_loop
    assert (found.real_steps, found.returns, found.transitions) == (0, (), 200)
    learned = wmgym.gap(log, pendulum_world, horizon=4)
    assert learned.by_steps[0].coverage is not None
    assert wmgym.gap(log, pendulum_world, {"random": None}, horizon=4).returns[0].policy == "random"


def test_a_hybrid_is_a_simulator_too() -> None:
    robot = wmgym.make_task(wmgym.shift(ID, gear=0.5))
    log = wmgym.collect(robot, steps=400, seed=1, workers=1)
    config = wmgym.FitConfig(members=2, width=32, depth=1, max_updates=200, learning_rate=2e-3)
    hybrid = wmgym.fit(log, config, dynamics=wmgym.residual(ID))
    test = wmgym.collect(robot, steps=200, seed=5, workers=1)
    assert wmgym.gap(test, hybrid, horizon=4).open_loop < wmgym.gap(test, ID, horizon=4).open_loop


def test_diagnose_is_the_gaps_diagnosis(pendulum_world: WorldModel) -> None:
    robot = wmgym.make_task(wmgym.shift(ID, mass=4.0, gear=0.5))
    data = wmgym.collect(robot, steps=200, seed=1, workers=1)
    found = wmgym.diagnose(data, pendulum_world, horizon=8)
    assert found == wmgym.gap(data, pendulum_world, horizon=8).diagnosis
    assert found.worst
    assert all(each.nearest is not None and each.nearest >= 0 for each in found.worst)


def test_other_robots_are_refused() -> None:
    with pytest.raises(ValueError, match="changed robot's observation_space"):
        wmgym.gap("HalfCheetah-v5", "Hopper-v5")


def read(path: Path, width: int, period: float) -> Transitions:
    """A log in a file, of a robot that nobody knows."""
    rng = np.random.default_rng(0)
    rows = np.column_stack(
        [period * np.arange(40), rng.normal(size=(40, width)).cumsum(0), rng.normal(size=40)]
    )
    names = [f"x{i}" for i in range(width)]
    np.savetxt(path, rows, delimiter=",", header=",".join(["t", *names, "u"]), comments="")
    return wmgym.from_log(path, obs=names, action="u", reward=[], terminated=[], quiet=True)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_file_of_another_robot_is_refused(pendulum_world: WorldModel, tmp_path: Path) -> None:
    other, slow = read(tmp_path / "other.csv", 3, 0.04), read(tmp_path / "slow.csv", 4, 0.08)
    for simulator in (ID, pendulum_world):
        with pytest.raises(ValueError, match=r"different robots.*from_log\(\.\.\., task="):
            wmgym.gap(other, simulator, horizon=4)
        with pytest.raises(ValueError, match=r"takes 0\.08 s and one of the simulator 0\.04 s"):
            wmgym.gap(slow, simulator, horizon=4)
    with pytest.raises(ValueError, match="different robots"):
        wmgym.counterfactual(other, 2, np.zeros((3, 1)), pendulum_world)
    with pytest.raises(ValueError, match="different robots"):
        wmgym.watch(pendulum_world, other)
    assert wmgym.gap(read(tmp_path / "own.csv", 4, 0.04), ID, horizon=4).open_loop > 0


def test_returns_take_two_episodes(pendulum_world: WorldModel) -> None:
    with pytest.raises(ValueError, match="at least 2 episodes of each policy, got 1"):
        wmgym.gap(ID, pendulum_world, episodes=1)
    log = wmgym.collect(ID, episodes=3, seed=1, workers=1)
    with pytest.warns(UserWarning, match="fewer than two episodes of other, so .* has episodes of random"):
        found = wmgym.gap(log, pendulum_world, {"random": None, "other": lambda obs: obs[:, :1]}, horizon=2)
    assert [row.policy for row in found.returns] == ["random"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("horizon", value) for value in (0, 1.5, None, float("inf"), float("nan"))],
        *[("episodes", value) for value in (float("nan"), 2.5, "3", True)],
        *[("seed", value) for value in (1.5, -1, None, 2**64)],
        *[("max_episode_steps", value) for value in (0, -1, float("nan"))],
        *[("workers", value) for value in (0, 2.5, "2")],
    ],
)
def test_numbers_are_whole_before_any_work(name: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wmgym.evaluation.reality_gap.sides", None)
    for verb in (wmgym.gap, wmgym.diagnose):
        with pytest.raises(ValueError, match=f"{name} must be (a whole number|less than)") as caught:
            verb(ID, ID, **{name: value})
        assert "\n" not in str(caught.value)


def test_whole_numbers_may_be_floats(pendulum_world: WorldModel) -> None:
    log = wmgym.collect(ID, steps=60, seed=1, workers=1)
    assert wmgym.gap(log, pendulum_world, horizon=4.0).horizon == 4  # type: ignore[arg-type]


def test_nothing_known_of_contacts_is_nothing_said() -> None:
    from tests import toy

    data = toy.episodes(4, 0, sigma=0.0)
    found = wmgym.gap(data, toy.world(toy.LinearGaussian(sigma=0.0), toy.task(0.0)), horizon=8)
    assert found.contacts == ()
    np.testing.assert_allclose(found.open_loop, 0, atol=1e-5)
