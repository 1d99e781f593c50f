"""Ranking, comparing and selecting policies: on the toy, whose model is exact, and on drawn returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import toy
from tests.evaluation.test_score import damp, idle
from wmgym.evaluation import compare as compare_module
from wmgym.evaluation import select as select_module
from wmgym.evaluation.best_arm import posterior, spend
from wmgym.evaluation.compare import Comparison, compare
from wmgym.evaluation.imagined import divide, further_seeds, start_states
from wmgym.evaluation.ranking import Ranking, rank
from wmgym.evaluation.score import score
from wmgym.evaluation.select import Selection, select
from wmgym.models.world import WorldModel

HOSTILE = "<script>alert(1)</script> [bold]{0}%s'; -- \u00f6\u5b57/.."


def worse(obs: np.ndarray) -> np.ndarray:
    return np.sign(obs[:, :2]).astype(np.float32)


THREE = {"idle": idle, "damp": damp, HOSTILE: worse}


def exact() -> WorldModel:
    """The toy without noise, so that a policy and a start state decide the return."""
    return toy.world(toy.LinearGaussian(sigma=0.0), toy.task(0.0))


def forbid_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy.LinearGaussianEnv, "step", lambda *args: pytest.fail("a real step was taken"))


# Rank


def test_rank_takes_no_real_step(monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_steps(monkeypatch)
    found = rank(toy.world(), THREE, 20, workers=1)
    assert found.names == ("damp", "idle", HOSTILE)
    means = [entry.imagined_mean for entry in found.policies]
    assert means == sorted(means, reverse=True)
    assert found.imagined_steps == 3 * 20 * toy.LIMIT
    for entry in found.policies:
        assert entry.imagined_interval[0] < entry.imagined_mean < entry.imagined_interval[1]
        assert (entry.failed, entry.diverged) == (0, 0)
    assert f"3. {HOSTILE}: " in str(found)


def test_processes_do_not_change_a_ranking() -> None:
    one, two = (rank(exact(), THREE, 8, workers=workers) for workers in (1, 2))
    assert one == two


def test_rank_needs_policies_and_episodes() -> None:
    with pytest.raises(ValueError, match="at least 2 episodes"):
        rank(toy.world(), THREE, 1)
    with pytest.raises(ValueError, match="at least one"):
        rank(toy.world(), {})
    endless = toy.world(described=replace(toy.task(), max_episode_steps=None))
    with pytest.raises(ValueError, match="no time limit; pass max_episode_steps="):
        rank(endless, THREE)


def broken(obs: np.ndarray) -> np.ndarray:
    raise RuntimeError("battery is empty")


def unfinite(obs: np.ndarray) -> np.ndarray:
    return np.full((len(obs), 2), np.nan, np.float32)


VERBS: dict[str, Callable[..., Any]] = {
    "rank": lambda policies, **how: rank(toy.world(), policies, **how),
    "score": lambda policies, **how: score(toy.world(), policies, 2, **how),
    "compare": lambda policies, **how: compare(
        toy.world(), *policies.values(), 6, imagined_episodes=6, **how
    ),
    "select": lambda policies, **how: select(toy.world(), policies, 2, imagined_episodes=2, **how),
}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("verb", VERBS)
def test_a_policy_that_fails_is_named(verb: str, workers: int) -> None:
    name = "second" if verb == "compare" else "poor"  # compare's two may share a name
    with pytest.raises(ValueError, match=f"policy '{name}'.*finite"):
        VERBS[verb]({"idle": idle, "poor": unfinite}, workers=workers)
    with pytest.raises(ValueError, match=f"policy '{name}' raised RuntimeError: battery is empty"):
        VERBS[verb]({"idle": idle, "poor": broken}, workers=workers)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
        ({"seed": "1"}, "seed must be a whole number of at least 0, got '1'"),
        ({"seed": 2**64}, "seed must be less than"),
        ({"max_episode_steps": 2.5}, "max_episode_steps must be a whole number of at least 1, got 2.5"),
        ({"max_episode_steps": True}, "max_episode_steps must be a whole number"),
        ({"workers": 2.5}, "workers must be a whole number of at least 1, got 2.5"),
    ],
)
def test_numbers_that_count_are_whole(verb: str, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        VERBS[verb]({"idle": idle, "damp": damp}, **given)


def test_one_name_of_a_policy_trained_in_the_world_will_do() -> None:
    report = score(exact(), THREE, 2, trained_in_world="damp", calibrated_on="idle", workers=1)
    assert [entry.name for entry in report.scores if entry.trained_in_world] == ["damp"]
    assert [entry.name for entry in report.scores if entry.calibrated_on] == ["idle"]
    with pytest.raises(ValueError, match=r"calibrated_on names \['sac'\], which are none"):
        score(exact(), THREE, 2, calibrated_on="sac")


# Score with more imagined episodes


def test_further_start_states_are_those_of_resets(monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_steps(monkeypatch)
    found = start_states(toy.task(), further_seeds(0, 300))
    assert found.shape == (300, 3)
    assert np.abs(found.mean(0)).max() < 0.25  # resets are standard normal
    assert np.abs(found.std(0) - 1).max() < 0.2
    np.testing.assert_array_equal(found[:9], start_states(toy.task(), further_seeds(0, 9)))
    assert not (found[:9] == start_states(toy.task(), further_seeds(1, 9))).any()


def test_how_imagined_episodes_are_divided() -> None:
    assert divide(20, 20) == (1, 0)
    assert divide(10, 1_000) == (4, 960)
    assert divide(10, 50) == (2, 30)


def test_imagination_sharpens_scores() -> None:
    report = score(exact(), THREE, 10, imagined_episodes=200, workers=1)
    for entry in report.scores:
        assert len(entry.imagined_returns) == 10
        assert len(entry.more_imagined_returns) == 160
        assert entry.estimate is not None
        assert entry.estimate_interval is not None
        low, high = entry.estimate_interval
        assert low <= entry.estimate <= high
    entry = report["idle"]  # its return is a function of the start state that the world knows
    assert entry.estimate is not None
    assert entry.estimate_interval is not None
    truth = float(score(exact(), {"idle": idle}, 100, seed=9, workers=1)["idle"].real_mean)
    assert entry.estimate_interval[0] < truth < entry.estimate_interval[1]
    width = np.ptp(entry.estimate_interval)
    assert width < 0.5 * np.ptp(entry.real_interval)
    assert report.agreement is not None
    assert (report.agreement.policies, report.agreement.spearman.value) == (3, 1)
    assert "estimate from both" in str(report)
    assert report.origin is not None
    assert report.origin.cpu_s > 0
    speed = report.origin.speed
    assert speed is not None
    assert speed.physics is None  # the toy is none of MuJoCo's
    assert speed.many > speed.alone > 0
    assert min(speed.real, speed.imagined) > 0


def test_policies_trained_in_the_world_do_not_count_for_its_ranking() -> None:
    four = {**THREE, "exploiter": lambda obs: damp(obs) / 2}
    report = score(exact(), four, 2, trained_in_world=["exploiter"], workers=1)
    assert report["exploiter"].trained_in_world
    assert report.agreement is not None
    assert report.agreement.policies == 3
    with pytest.raises(ValueError, match=r"names \['x'\]"):
        score(exact(), THREE, 2, trained_in_world=["x"])
    with pytest.raises(ValueError, match="less than real_episodes"):
        score(exact(), THREE, 5, imagined_episodes=4)


# Compare


def test_compare_finds_the_better_one() -> None:
    for pair, better in (((idle, damp), "second"), ((damp, idle), "first")):
        found = compare(exact(), *pair, 20, imagined_episodes=300, workers=1)
        assert found.better == better
        assert found.interval[0] < found.difference < found.interval[1]
        assert found.real_steps == 2 * 20 * toy.LIMIT
        assert "is better than" in str(found)


def test_a_policy_is_not_better_than_its_copy() -> None:
    found = compare(exact(), damp, damp, 6, imagined_episodes=40, workers=1)
    assert found.names == ("damp (first)", "damp (second)")
    assert (found.difference, found.better) == (0, None)
    assert "do not tell" in str(found)


def test_noise_is_rarely_taken_for_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of one policy with episodes of their own: a false "better" in 5 % of comparisons at most."""
    rng, found = np.random.default_rng(0), []
    for _ in range(1_000):
        returns = rng.gamma(3, 100, size=(2, 20))
        one = compare_module.prediction_powered(
            returns[1] - returns[0], rng.normal(size=20), rng.normal(size=500)
        )
        found.append(one.interval[0] > 0 or one.interval[1] < 0)
    assert np.mean(found) <= 0.065  # 5 % and two standard errors


def test_compare_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 6 paired episodes"):
        compare(exact(), damp, idle, 5)
    with pytest.raises(ValueError, match="one policy on either side"):
        compare(exact(), damp, {"a": idle, "b": damp})


# Select


def arms(
    truth: list[float], noise: float, gap: float, seed: int
) -> tuple[dict[str, np.ndarray], Callable[[str, int], float]]:
    """Policies of known mean returns, and a world that is off by ``gap`` on each."""
    rng = np.random.default_rng(seed)
    names = [str(index) for index in range(len(truth))]
    imagined = {
        name: mean + gap * rng.normal() + noise * rng.normal(size=50)
        for name, mean in zip(names, truth, strict=True)
    }
    return imagined, lambda name, index: truth[int(name)] + noise * rng.normal()


@pytest.mark.parametrize(("noise", "gap"), [(30.0, 0.0), (30.0, 100.0), (60.0, 30.0)])
def test_the_best_is_found_and_the_confidence_holds(noise: float, gap: float) -> None:
    truth = [1_000.0, 900.0, *np.linspace(0, 800, 14)]
    right, sure = [], []
    for seed in range(20):
        pick, confidence, real = spend(*arms(truth, noise, gap, seed), 30, seed)
        assert sum(map(len, real.values())) == 30
        right.append(pick == "0")
        sure.append(confidence)
    assert np.mean(right) >= 0.9
    assert np.mean(sure) <= np.mean(right) + 0.05


def _of(played: np.ndarray, name: str, index: int) -> float:
    return float(played[int(name), index])


@pytest.mark.parametrize(("episodes", "budget"), [(4, 1), (10, 3)])
def test_few_imagined_episodes_make_nobody_sure(episodes: int, budget: int) -> None:
    """In an exact world whose mean returns are known from few noisy episodes alone."""
    right, sure = [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        truth = 0.3 * rng.permutation(4)
        imagined = {str(arm): mean + rng.normal(size=episodes) for arm, mean in enumerate(truth)}
        played = truth[:, None] + rng.normal(size=(4, budget))
        pick, confidence, _ = spend(imagined, partial(_of, played), budget, seed)
        right.append(truth[int(pick)] == truth.max())
        sure.append(confidence)
    assert np.mean(sure) <= np.mean(right) + 0.05


def test_episodes_go_where_they_decide() -> None:
    truth = [1_000.0, 950.0, *np.linspace(0, 500, 14)]
    spent = np.zeros(16)
    for seed in range(20):
        _, _, real = spend(*arms(truth, 50.0, 20.0, seed), 30, seed)
        spent += [len(real[str(index)]) for index in range(16)]
    assert spent[:2].sum() > 0.8 * spent.sum()


def test_a_wrong_world_is_outweighed() -> None:
    """Imagination has the order upside down; real episodes put it right."""
    imagined = {"good": np.linspace(0, 2, 10), "bad": np.linspace(10, 12, 10)}
    pick, _, real = spend(imagined, lambda name, index: 20.0 if name == "good" else 5.0, 10)
    assert pick == "good"
    assert len(real["good"]) >= 1


def test_shrinkage_is_as_strong_as_the_world_is_right() -> None:
    imagined = [mean + np.linspace(-10, 10, 9) for mean in (0.0, 100.0, 200.0, 300.0)]
    right = posterior(imagined, [[0.0], [100.0], [200.0], []])
    wrong = posterior(imagined, [[200.0], [0.0], [100.0], []])
    assert right.scale[3] < wrong.scale[3]
    assert abs(right.mean[3] - 300) < 10
    untouched = posterior(imagined, [[], [], [], []])
    np.testing.assert_allclose(untouched.mean, [0, 100, 200, 300])


def test_select_on_the_toy() -> None:
    found = select(exact(), THREE, 12, imagined_episodes=20, workers=1)
    assert found.pick == "damp"
    assert 0.5 < found.confidence <= 1
    assert sum(len(entry.real_returns) for entry in found.candidates) == found.real_episodes == 12
    assert found.real_steps == 12 * toy.LIMIT
    assert "damp is the best with" in str(found)
    again = select(exact(), THREE, 12, imagined_episodes=20, workers=1)
    assert again == found


def test_imagined_episodes_start_where_the_real_ones_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def paired(imagined: Any, play: Any, budget: int, seed: int) -> Any:
        for name, index in (("damp", 0), ("damp", 3), ("idle", 2)):
            assert play(name, index) == pytest.approx(imagined[name][index], rel=1e-4)
        return "damp", 1.0, {name: [] for name in imagined}

    monkeypatch.setattr(select_module, "spend", paired)
    select(exact(), THREE, 4, imagined_episodes=5, workers=1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"policies": damp}, "at least 2 policies"),
        ({"real_budget": 0}, "real_budget must be a whole number of at least 1"),
        ({"imagined_episodes": 1}, "at least 2"),
    ],
)
def test_select_says_what_it_needs(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        select(exact(), given.pop("policies", THREE), **given)


def test_results_are_values() -> None:
    for kind in (Ranking, Comparison, Selection):
        assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
