"""Training units: what is measured when, resumed, replaced, written side by side, and judged."""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rliable import library, metrics

from benchmarks.harness import learning_curves, learning_tables
from benchmarks.harness.results import Row, Units, by_unit, read
from benchmarks.harness.trainings import Checkpoints, Clock, summary
from benchmarks.training import sample_efficiency
from benchmarks.training.sample_efficiency import Run, configuration, settings_of, train
from wmgym.evaluation.intervals import interquartile_mean, stratified_interval
from wmgym.sb3 import DynaSAC

PENDULUM = "InvertedPendulum-v5"


def rows_of(
    means: dict[int, float],
    *,
    algorithm: str = "DynaSAC",
    env: str = "Hopper-v5",
    seed: int = 102,
    s: float = 1,
) -> list[Row]:
    """A unit with these means by step, ``s`` seconds every 100 real steps."""
    return [
        {"algorithm": algorithm, "env": env, "seed": seed, "step": step, "recipe": "x", "mean": mean,
         "min": mean, "median": mean, "under_half": 0.0, "returns": [mean] * 10,
         "wall_s": s * step / 100, "cpu_s": s * step / 100}
        for step, mean in means.items()
    ]  # fmt: skip


def on_every_seed(means: dict[int, float], **kwargs: Any) -> list[Row]:
    return [row for seed in learning_curves.SEEDS for row in rows_of(means, seed=seed, **kwargs)]


def goal(rows: list[Row], *words: str) -> Row:
    (found,) = (g for g in learning_curves.goals(rows) if all(word in g["what"] for word in words))
    return found


def test_iqm_and_interval_agree_with_rliable() -> None:
    scores = np.random.default_rng(1).normal(size=(5, 6)) + np.arange(6)  # runs, tasks
    assert interquartile_mean(scores) == pytest.approx(metrics.aggregate_iqm(scores), abs=1e-12)
    ours = stratified_interval(list(scores.T), resamples=10_000)
    _, theirs = library.get_interval_estimates(
        {"x": scores}, lambda x: np.array([metrics.aggregate_iqm(x)]), reps=2_000
    )
    np.testing.assert_allclose(ours, theirs["x"][:, 0], atol=0.06)
    uneven = [np.zeros(3), np.ones(5)]
    assert stratified_interval(uneven) == (interquartile_mean(np.concatenate(uneven)),) * 2


class _Collector:
    """What the callback is given of SB3: rollouts of ``every`` steps with updates between them."""

    def __init__(self, every: int, total: int) -> None:
        self.every, self.total, self.num_timesteps, self.updates = every, total, 0, 0

    def learn(self, callback: Checkpoints) -> None:
        callback.init_callback(self)  # type: ignore[arg-type]
        callback.on_training_start({}, {})
        while self.num_timesteps < self.total:
            callback.on_rollout_start()
            for _ in range(self.every):
                self.num_timesteps += 1
                callback.on_step()
            self.updates += self.every
        callback.on_training_end()

    logger = None

    def get_env(self) -> None:
        return None


@pytest.mark.parametrize(
    ("every", "expected"),
    [(1, [(3, 3), (4, 4), (6, 6)]), (2, [(3, 2), (4, 4), (6, 6)]), (6, [(3, 0), (4, 0), (6, 6)])],
)
def test_a_checkpoint_has_the_updates_that_are_due(every: int, expected: list[tuple[int, int]]) -> None:
    found, model = [], _Collector(every, 6)
    model.learn(Checkpoints([3, 4, 6], lambda step: found.append((step, model.updates)), Clock()))
    assert found == expected


def test_only_training_is_timed() -> None:
    clock = Clock()
    for training in (True, False, True):
        clock.resume(training)
        time.sleep(0.05 if training else 0.3)
    clock.pause()
    time.sleep(0.05)
    clock.pause()
    assert 0.1 <= clock.wall < 0.25
    assert 0.3 <= clock.other_wall < 0.5
    assert Clock(**dataclasses.asdict(clock)) == clock


def test_an_evaluation_says_how_many_episodes_fell_behind() -> None:
    found = summary(np.array([100.0] * 9 + [49.0]))
    assert (found["mean"], found["min"], found["median"], found["under_half"]) == (94.9, 49.0, 100.0, 0.1)
    assert summary(np.array([-5.0, -9.0]))["under_half"] is None


@pytest.fixture
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """SAC on the pendulum, stopped after a few steps."""
    monkeypatch.setitem(sample_efficiency.CHECKPOINTS_OF, PENDULUM, (10, 20, 30))


def run_unit(run: Run, kept: Row | None, kill_after: int | None = None) -> list[Row]:
    """Every state that a unit was kept in; ``kill_after`` so many steps by an exception."""
    states: list[Row] = []

    def keep(found: Row) -> None:
        states.append(json.loads(json.dumps(found)))
        if kill_after == found["rows"][len(states) - 1]["step"]:
            raise KeyboardInterrupt

    if kill_after is None:
        train(run, kept, keep)
    else:
        with pytest.raises(KeyboardInterrupt):
            train(run, kept, keep)
    return states


def returns(state: Row) -> dict[int, list[float]]:
    return {row["step"]: row["returns"] for row in state["rows"]}


@pytest.mark.usefixtures("short_runs")
def test_a_unit_is_skipped_extended_and_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(PENDULUM, "SAC", 3, budget=20, folder=tmp_path, episodes=2)
    states = run_unit(run, None)
    assert [list(returns(state)) for state in states] == [[10], [10, 20]]
    kept = states[-1]
    assert {row["recipe"] for row in kept["rows"]} == {kept["recipe"]}
    assert len(kept["rows"][0]["returns"]) == 2
    assert 0 <= kept["rows"][0]["wall_s"] <= kept["rows"][1]["wall_s"] <= kept["wall_s"] + 0.1  # rounded

    assert run_unit(run, kept) == []
    assert "finished by an earlier run" in capsys.readouterr().out

    larger = dataclasses.replace(run, budget=35)
    killed = run_unit(larger, kept, kill_after=10)[-1]
    assert returns(killed) == returns(kept)  # rows stand until the new run comes to their step
    longer = run_unit(larger, killed)[-1]
    assert list(returns(longer)) == [10, 20, 30, 35]
    assert {step: returns(longer)[step] for step in (10, 20)} == returns(kept)

    other = {**longer, "recipe": "another"}
    assert list(returns(run_unit(run, other)[0])) == [10]
    again = dataclasses.replace(run, restart=True)
    assert list(returns(run_unit(again, longer)[0])) == [10]


class Small(DynaSAC):
    """A cheap recipe that trains every ten steps."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        cheap = {"first_updates": 5, "updates": 2, "members": 2, "width": 16}
        settings = {"learning_starts": 10, "train_freq": 10, "gradient_steps": 2, "batch_size": 16}
        super().__init__(*args, **{"world_kwargs": cheap} | settings | kwargs)


@pytest.mark.usefixtures("short_runs")
@pytest.mark.parametrize("kill_after", [20, pytest.param(25, marks=pytest.mark.slow)])
def test_a_killed_unit_is_the_run_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kill_after: int
) -> None:
    """Killed after the rows of a checkpoint were written and before its model was."""
    monkeypatch.setattr(sample_efficiency, "kind_of", lambda name: Small)
    monkeypatch.setitem(sample_efficiency.CHECKPOINTS_OF, PENDULUM, (10, 15, 20, 25, 30))
    run = Run(PENDULUM, "DynaSAC", 3, budget=40, folder=tmp_path / "a", episodes=2)
    whole = run_unit(run, None)[-1]
    assert list(returns(whole)) == [10, 15, 20, 25, 30, 40]
    other = dataclasses.replace(run, folder=tmp_path / "b")
    killed = run_unit(other, None, kill_after=kill_after)[-1]
    (model,) = (other.folder / run.name).iterdir()
    last = kill_after - 5
    assert int(model.name.partition("-")[2]) in (last, last + 1)  # within a rollout, after the next step
    states = run_unit(other, killed)
    assert states[0]["rows"][:-1] == killed["rows"][: len(states[0]["rows"]) - 1]
    assert returns(states[-1]) == returns(whole)
    first, second = (
        DynaSAC.load(next((each.folder / run.name).iterdir()) / "model.zip").policy.state_dict()
        for each in (run, other)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_recipe_knows_every_setting_and_is_the_same_on_every_task() -> None:
    def of(env_id: str, budget: int, seed: int) -> Row:
        return settings_of(Run(env_id, "DynaSAC", seed, budget=budget, folder=Path()))

    first = of("Hopper-v5", 10_000, 0)
    assert first == of("HalfCheetah-v5", 75_000, 1) == json.loads(json.dumps(first))
    assert (first["gamma"], first["train_freq"]) == (0.995, "250 step")
    assert {"imagination.training_steps", "world_config.members"} <= set(first)
    assert first != of("Hopper-v5", 500, 0)  # some follow the budget
    changed = DynaSAC("MlpPolicy", PENDULUM, imagination_kwargs={"training_steps": 3})
    assert configuration(changed)["imagination.training_steps"] == 3


def grow(folder: Path, name: str) -> None:
    units, rows = Units("toy", folder / "toy", {}), []
    save = functools.partial(units.write, folder / "toy.json", "command", lambda rows: [], (0,))

    def work(kept: Row | None, keep: Any) -> None:
        for step in range(8):
            rows.append({"name": name, "step": step})
            keep({"wall_s": 1.0, "cpu_s": 1.0, "rows": rows})

    units.grow(name, work, None, save)


def test_units_are_written_side_by_side_and_each_row_once(tmp_path: Path) -> None:
    """Threads stand for processes: a file lock belongs to who opened the file."""
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(functools.partial(grow, tmp_path), "abc"))
    units = by_unit(read(tmp_path / "toy.json"))
    assert {name: [row["step"] for row in unit["rows"]] for name, unit in units.items()} == {
        name: list(range(8)) for name in "abc"
    }


def test_returns_are_met_missed_or_not_measured_yet() -> None:
    words = "HalfCheetah", "10,000"
    assert goal([], *words)["met"] is None
    assert learning_tables.verdict(goal([], *words)) == "not measured yet"
    cheetah = {"env": "HalfCheetah-v5"}
    assert goal(on_every_seed({10_000: 5_000}, **cheetah), *words)["met"] is True
    assert goal(rows_of({10_000: 5_000}, **cheetah), *words)["met"] is None  # one seed does not meet it
    assert "so far met" in learning_tables.verdict(goal(rows_of({10_000: 5_000}, **cheetah), *words))
    assert goal(rows_of({10_000: 4_999}, **cheetah), *words)["met"] is False
    fallen = on_every_seed({10_000: 9_000}, **cheetah)
    fallen[0]["mean"] = 3_499.0
    assert goal(fallen, *words)["met"] is False
    assert "102: 3,499" in goal(fallen, *words)["measured"]


def test_sooner_than_sac_counts_tasks() -> None:
    rows: list[Row] = []
    for at, env in enumerate(learning_curves.FIVE):
        rows += on_every_seed({50_000: 900, 75_000: 1_000, 100_000: 1_000}, algorithm="SAC", env=env, s=1)
        # Three times as slow a step: sooner after 20,000 steps, later after 50,000.
        rows += on_every_seed({20_000: 1_000 if at < 4 else 0, 50_000: 1_000}, env=env, s=3)
        assert goal(rows, "minutes of training to")["met"] is (None if at < 3 else True)
    measured = goal(rows, "minutes of training to")["measured"]
    assert measured["HalfCheetah-v5"] == "10.0 / 12.5 (return 1,000)"
    assert measured["Humanoid-v5"] == "25.0 / 12.5 (return 1,000)"
    never = [row for row in rows if row["algorithm"] == "SAC"] + on_every_seed({20_000: 1}, env="Hopper-v5")
    assert goal(never, "minutes of training to")["measured"]["Hopper-v5"].startswith("not reached / ")


def test_what_is_learned_has_to_last() -> None:
    words = ("1.5 times",)
    kept = [row for env in learning_curves.FIVE for row in on_every_seed({10_000: 100, 15_000: 85}, env=env)]
    assert goal(kept, *words)["met"] is True
    lost = kept + rows_of({10_000: 100, 15_000: 84}, seed=200)
    assert goal(lost, *words)["met"] is False
    assert "seed 200, 15,000 steps" in goal(lost, *words)["measured"]
    assert goal(rows_of({10_000: 100, 20_000: 1}), *words)["met"] is None  # no checkpoint at 1.5 times


def test_cost_and_single_episodes() -> None:
    rows = [row for env in learning_curves.FIVE for row in on_every_seed({10_000: 100}, env=env, s=2.5)]
    assert goal(rows, "CPU seconds", "HalfCheetah")["met"] is True  # 25 s every 1,000 steps
    assert goal(rows, "CPU seconds", "five")["met"] is True
    rows[-1]["cpu_s"] = 3_000
    assert goal(rows, "CPU seconds", "five")["met"] is False
    assert goal(rows, "under half")["met"] is True
    rows[0]["under_half"] = 0.6
    assert goal(rows, "under half")["measured"] == "2.4% of 250 episodes"
    assert goal(rows, "under half")["met"] is False


def test_published_curves_name_their_source_and_licence() -> None:
    for env in learning_curves.FIVE:
        curves = learning_curves.published(env)
        assert set(learning_tables.PUBLISHED) <= set(curves)
        assert max(row["step"] for rows in curves.values() for row in rows) == 100_000
    best = {(env, step): best for env, step, best, *_ in learning_curves.RETURNS if best}
    for (env, step), value in best.items():
        curves = learning_curves.published(env)
        found = max(row["mean"] for rows in curves.values() for row in rows if row["step"] == step)
        assert found == pytest.approx(value, abs=0.6)
    text = (Path(learning_curves.__file__).parents[1] / "references" / "sample_efficiency.csv").read_text()
    assert all("(MIT)" in line or "(Apache-2.0)" in line for line in text.splitlines()[1:])
