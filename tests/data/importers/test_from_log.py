"""CSV files and NumPy archives become transitions, and what is wrong with them is said."""

from __future__ import annotations

import errno
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

import wmgym
from tests.data.importers.pendulums import PERIOD, run, swing, write_csv
from wmgym.data.importers import child, csv
from wmgym.data.importers.columns import find_roles
from wmgym.data.importers.from_log import from_log
from wmgym.data.importers.table import Table
from wmgym.data.transitions import Transitions


def read(*args: Any, **kwargs: Any) -> Transitions:
    """Without the summary and the warnings of small clean logs."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "no episode terminates|there (is|are) only")
        return from_log(*args, quiet=True, **kwargs)


def refused(match: str, *args: Any, **kwargs: Any) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        read(*args, **kwargs)
    assert "\n" not in str(caught.value)


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    """A regular run in a folder of its own."""
    return write_csv(tmp_path / "run.csv", run(0))


def test_a_csv_gives_every_step_as_it_is(clean: Path) -> None:
    data, rows = read(clean), run(0)
    assert (len(data), data.num_episodes, data.task.dt) == (119, 1, PERIOD)
    assert data.task.core.names == ("q1", "dq1")
    np.testing.assert_allclose(data.obs, rows[:-1, 1:3], rtol=1e-6)
    np.testing.assert_allclose(data.next_obs, rows[1:, 1:3], rtol=1e-6)
    np.testing.assert_allclose(data.action[:, 0], rows[:-1, 3], rtol=1e-6)
    np.testing.assert_allclose(data.reward, rows[:-1, 4])
    assert data.task.action_space == spaces.Box(*(np.float32([f(rows[:-1, 3])]) for f in (np.min, np.max)))
    assert not data.terminated.any()


def test_the_summary_says_what_is_what(clean: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(UserWarning, match="no episode terminates"), pytest.warns(UserWarning, match="only 1"):
        from_log(clean, obs="*q1")
    said = capsys.readouterr().out
    assert "1 recording, 120 rows: 119 steps of 0.02 s in 1 episode" in said
    assert "obs        q1, dq1" in said
    assert "time       t (50 Hz)" in said


def test_gaps_and_a_clock_that_is_set_split_episodes(tmp_path: Path) -> None:
    rows = run(1)
    rows[40:, 0] += 3.0  # a gap
    rows[80:, 0] -= 60.0  # the clock is set back
    rows = np.delete(rows, 100, 0)  # a lost row
    data = read(write_csv(tmp_path / "run.csv", rows))
    assert data.lengths.tolist() == [39, 39, 19, 18]


def test_late_and_repeated_rows_are_left_out(tmp_path: Path) -> None:
    rows = run(1)
    late = rows.copy()
    late[[50, 51]] = late[[51, 50]]
    assert read(write_csv(tmp_path / "late.csv", late)).lengths.sum() >= 116
    data = read(write_csv(tmp_path / "twice.csv", np.insert(rows, 50, rows[50], 0)))
    np.testing.assert_allclose(data.obs, rows[:-1, 1:3], rtol=1e-6)
    refused(
        "too coarse", write_csv(tmp_path / "coarse.csv", np.column_stack([rows[:, 0].round(1), rows[:, 1:]]))
    )


def test_jittered_sampling_is_interpolated(tmp_path: Path) -> None:
    data = read(write_csv(tmp_path / "run.csv", run(2, jitter=0.1)))
    assert data.task.dt == PERIOD
    for row in range(len(data)):  # the pendulum itself says where each step leads
        expected = swing(data.obs[row].astype(float), float(data.action[row, 0]), PERIOD)
        np.testing.assert_allclose(data.next_obs[row], expected, atol=1e-3)


def test_jitter_of_stamps_alone_is_no_jitter_of_the_data(tmp_path: Path) -> None:
    rows, rng = run(3), np.random.default_rng(0)
    rows[:, 0] += rng.uniform(-0.1, 0.1, len(rows)) * PERIOD
    data = read(write_csv(tmp_path / "run.csv", rows), dt=PERIOD)
    np.testing.assert_allclose(data.obs, rows[:-1, 1:3], rtol=1e-6)


def test_another_dt_keeps_time_and_reward(clean: Path) -> None:
    data, rows = read(clean, dt=0.04), run(0)
    assert len(data) == 59
    np.testing.assert_allclose(data.obs, rows[0:118:2, 1:3], rtol=1e-5)
    np.testing.assert_allclose(data.reward, rows[0:118, 4].reshape(-1, 2).sum(1), rtol=1e-5)


def test_recordings_of_other_rates(tmp_path: Path) -> None:
    """Every second row of one of them is left."""
    for k in range(3):
        write_csv(tmp_path / f"{k}.csv", run(k)[:: 1 + (k == 1)])
    refused("1.csv: recorded every 0.04 s, others every 0.02 s; pass dt=0.04, .* or leave it out", tmp_path)
    refused(
        "1.csv: recorded every 0.04 s, so that max_gap=0.02 .*; pass max_gap=0.06", tmp_path, max_gap=0.02
    )
    data = read(tmp_path, dt=0.04)
    assert data.lengths.tolist() == [59, 59, 59]
    np.testing.assert_allclose(data.obs[59:118], run(1)[0:118:2, 1:3], rtol=1e-5)
    np.testing.assert_allclose(data.reward[59:118], run(1)[0:118:2, 4], rtol=1e-5)
    np.testing.assert_allclose(data.reward[:59], run(0)[0:118, 4].reshape(-1, 2).sum(1), rtol=1e-5)
    write_csv(tmp_path / "0.csv", run(0, rows=90))
    write_csv(tmp_path / "2.csv", run(2)[::2])
    np.testing.assert_allclose(read(tmp_path).reward, read(tmp_path, dt=0.04).reward)  # most are slow now


def test_steps_of_another_length_than_the_tasks(clean: Path, tmp_path: Path) -> None:
    task, slow = read(clean).task, write_csv(tmp_path / "slow.csv", run(0)[::2])
    refused("steps take 0.04 s and those of task= 0.02 s; pass dt=0.02", slow, task=task)
    refused("steps take 0.04 s and those of task= 0.02 s", slow, task=task, time=[], dt=0.04)
    with pytest.warns(
        UserWarning, match=r"recorded every 0.04 s, so that 50% .* interpolated, .* pass dt=0.04"
    ):
        assert read(slow, task=task, dt=0.02).task.dt == 0.02


def test_words_dates_and_empty_cells(tmp_path: Path) -> None:
    rows = [
        (
            f"2026-01-01T00:00:{i * PERIOD:06.3f}Z",
            0.01 * i,
            "" if i == 5 else 0.5 + 0.1 * (i % 3),
            "b" if i < 8 else "a",
        )
        for i in range(16)
    ]
    data = read(write_csv(tmp_path / "run.csv", rows, "time,q,u,trial"))
    assert data.lengths.tolist() == [5, 1, 7]  # no step from the row without an action
    assert data.task.dt == pytest.approx(PERIOD)


def test_units(clean: Path) -> None:
    data = read(clean, scale={"q1": 180 / np.pi, "dq1": (1.0, 3.0)})
    np.testing.assert_allclose(data.obs, run(0)[:-1, 1:3] * [180 / np.pi, 1] + [0, 3], rtol=1e-5)
    refused("scale names 'q9'", clean, scale={"q9": 1.0})


@pytest.mark.parametrize(
    ("columns", "given", "match"),
    [
        ("q1 dq1 u", {"obs": ["q1", "dqq1"]}, "there is no column 'dqq1'. Did you mean 'dq1'"),
        ("a b c", {}, "which columns are the obs"),
        ("q1 u", {"obs": ["q1"], "action": ["q1"]}, "two roles"),
        ("q1 u a b", {"reward": ["a", "b"]}, "reward is one column"),
    ],
)
def test_columns_that_do_not_fit_are_refused(columns: str, given: dict[str, Any], match: str) -> None:
    table = Table("run.csv", {name: np.zeros(3) for name in columns.split()})
    with pytest.raises(ValueError, match=match):
        find_roles([table], given)


@pytest.mark.parametrize(
    ("role", "column", "given"),
    [
        ("reward", "reward", {}),
        ("obs", "q2", {}),
        ("obs", "q2", {"obs": "q*"}),
        ("obs", "q2", {"obs": ["q1", "q2"]}),
        ("action", "u_2", {}),
        ("next_obs", "next_obs", {}),
        ("terminated", "terminal", {}),
        ("time", "t", {}),
        ("episode", "run", {}),
        ("reward", "r", {"reward": "r"}),
    ],
)
@pytest.mark.parametrize("lacking", [0, 1])
def test_a_column_that_one_recording_lacks(
    role: str, column: str, given: dict[str, Any], lacking: int
) -> None:
    few = dict.fromkeys(("q1", "u"), np.zeros(3))
    tables = [Table(f"{k}.csv", few if k == lacking else few | {column: np.zeros(3)}) for k in range(3)]
    said = f"^{role}: {lacking}.csv has no column '{column}', and {int(not lacking)}.csv has; add it"
    with pytest.raises(ValueError, match=said):
        find_roles(tables, given)
    without = {role: {"obs": ["q1"], "action": ["u"]}.get(role, [])}
    assert column not in find_roles(tables, without).used()
    tables[lacking] = Table("text.npz", few, {"left_out": [column]})
    with pytest.raises(ValueError, match=f"{role}: column '{column}' holds no numbers in text.npz"):
        find_roles(tables, given)


@pytest.mark.parametrize(
    ("header", "match"),
    [
        ("t,q,q,u,r", "two columns are called 'q'"),
        ("0,1,2,3,4", "must name the columns"),
        ("t,q,u", "line 2 has 5"),
    ],
)
def test_headers_that_do_not_fit_are_refused(tmp_path: Path, header: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        csv.read(str(write_csv(tmp_path / "run.csv", run(0, rows=9), header)))


def test_spaces_that_do_not_fit_are_refused(clean: Path) -> None:
    refused("has 3 numbers, the data 2", clean, observation_space=spaces.Box(-1, 1, (3,)))
    refused("must be bounded", clean, action_space=spaces.Box(-np.inf, np.inf, (1,)))


def test_a_log_without_a_clock(clean: Path) -> None:
    assert read(clean, time=[]).task.dt == 1.0
    assert read(clean, time=[], dt=0.5).task.dt == 0.5
    refused("max_gap needs a time column", clean, time=[], max_gap=1.0)


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (MemoryError(), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (ImportError("_csv.so: failed to map segment from shared object"), True),
        (ImportError("libarrow.so: cannot open shared object file: Cannot allocate memory"), True),
        (ImportError("No module named 'h5py'"), False),
        (OSError(errno.ENOENT, "No such file"), False),
        (ValueError("memory"), False),
    ],
)
def test_memory_that_ran_out_is_known_wherever_it_did(error: Exception, short: bool) -> None:
    assert child._short_of_memory(error) == short


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    refused("no file matches", tmp_path / "*.csv")
    refused("is no file or folder", tmp_path / "nothing")
    (tmp_path / "bad.npz").write_bytes(b"PK nonsense")
    refused("bad.npz: it is no NumPy archive", tmp_path / "bad.npz")
    np.savez(tmp_path / "objects.npz", obs=np.array([{}], object))
    refused("objects.npz: array '.*' holds Python objects", tmp_path / "objects.npz")
    refused("more memory than max_gigabytes", write_csv(tmp_path / "a.csv", run(0)), max_gigabytes=0.05)


def test_an_archive_of_arrays(tmp_path: Path) -> None:
    rows = run(4)
    actions = (rows[:-1, 3] > 0).astype(np.int64)
    np.savez(tmp_path / "run.npz", observations=rows[:, 1:3], actions=actions, dt=0.05)
    data = read(tmp_path / "run.npz")
    assert (len(data), data.task.dt, data.task.action_space) == (119, 0.05, spaces.Discrete(2))
    np.testing.assert_allclose(data.next_obs[-1], rows[-1, 1:3], rtol=1e-6)
    assert data.task.core.names == ("observations_0", "observations_1")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            lambda o, a: (o.reshape(2, 60, 2), a.reshape(2, 60, 1)),
            "store a row a step, and an episode column",
        ),
        (lambda o, a: (o.T, a.T), r"obs \(2, 120\) and action \(1, 120\) have a column a step; transpose"),
        (lambda o, a: (o.reshape(120, 2, 1)[:0], a[:0]), "it has no rows"),
        (lambda o, a: (o.astype(str), a), "which columns are the obs.*'obs' hold no numbers"),
    ],
)
def test_arrays_that_hold_no_row_a_step(tmp_path: Path, change: Any, match: str) -> None:
    obs, action = change(run(4)[:, 1:3], run(4)[:, 3:4])
    np.savez(tmp_path / "run.npz", obs=obs, action=action)
    refused(match, tmp_path / "run.npz")


def test_a_column_of_text_that_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "run.npz", q=run(4)[:, 1].astype(str), u=run(4)[:, 3])
    refused("obs: column 'q' holds no numbers", tmp_path / "run.npz", obs="q")


def test_matrices_in_a_row_are_flat(tmp_path: Path) -> None:
    np.savez(tmp_path / "run.npz", obs=run(4)[:, [1, 2, 1, 4]].reshape(120, 2, 2), action=run(4)[:, 3])
    with warnings.catch_warnings(action="ignore"):  # of columns that are equal
        assert from_log(tmp_path / "run.npz", quiet=True).obs.shape == (119, 4)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"scale": {"q1": "deg"}}, "scale of 'q1' must be a number that is not 0.*'deg'"),
        ({"scale": {"q1": 0}}, "scale of 'q1' must be"),
        ({"scale": {"q1": (1.0, 2.0, 3.0)}}, "scale of 'q1' must be"),
        ({"scale": {"q1": float("nan")}}, "scale of 'q1' must be"),
        ({"dt": -1}, "dt must be a number of seconds above 0, or None, got -1"),
        ({"dt": "20ms"}, "dt must be"),
        ({"max_gap": 0}, "max_gap must be a number of seconds above 0"),
    ],
)
def test_settings_that_cannot_be(clean: Path, given: dict[str, Any], match: str) -> None:
    refused(match, clean, **given)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_text_in_another_encoding_is_refused(clean: Path, encoding: str) -> None:
    clean.write_text(clean.read_text(encoding="utf-8").replace("q1", "q1°"), encoding=encoding)
    refused("run.csv: it is no UTF-8 text .* in UTF-8", clean)


def test_clocks_of_another_unit_and_tiny_steps_are_named(tmp_path: Path) -> None:
    rows = run(0)
    with pytest.warns(
        UserWarning, match=r"every 0.02 s, so that 95% of the steps of dt=0.001 are interp.*; pass dt=0.02"
    ):
        read(write_csv(tmp_path / "run.csv", rows), dt=0.001)
    rows[:, 0] *= 1000
    with pytest.warns(UserWarning, match="there are 20 s between rows; is the time column in milliseconds"):
        read(write_csv(tmp_path / "run.csv", rows))
    assert read(tmp_path / "run.csv", scale={"t": 1e-3}).task.dt == pytest.approx(PERIOD)


def test_from_a_folder_to_an_imagined_env(tmp_path: Path) -> None:
    """Fit, calibrate, save, load and imagine; no env anywhere."""
    for seed in range(6):
        write_csv(tmp_path / f"run{seed}.csv", run(seed, jitter=0.05))
    log = read(tmp_path)
    train, calib = log.split((0.7, 0.3))
    config = wmgym.FitConfig(members=2, width=16, depth=2, max_updates=20, eval_every=20)
    world = wmgym.calibrate(wmgym.fit(train, config), calib)
    world.save(tmp_path / "world")
    loaded = wmgym.load(tmp_path / "world")
    assert loaded.core_names == ("q1", "dq1")
    env = wmgym.ImaginedEnv(loaded)
    env.reset(seed=0)
    assert env.step(env.action_space.sample())[0].shape == (2,)
    assert loaded.task.max_episode_steps == log.lengths.max()


@pytest.mark.parametrize("name", ["from_log", "from_arrays"])
def test_it_can_be_the_first_name_that_is_used(name: str) -> None:
    subprocess.run([sys.executable, "-c", f"import wmgym; wmgym.{name}"], check=True)


@pytest.mark.parametrize("name", ["Zeit", "clock [s]"])
def test_a_clock_of_another_name_is_named(tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(50, 3)).cumsum(0)
    stamp = 7.0 + 0.02 * np.arange(50)
    for column, heard in ((stamp, True), (np.arange(50.0), False), (rows[:, 2], False)):
        table = np.column_stack([column, rows[:, :2]])
        np.savetxt(tmp_path / "log.csv", table, delimiter=",", header=f"{name},q,u", comments="")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            wmgym.from_log(tmp_path / "log.csv", obs=["q"], action=["u"], quiet=True)
        assert any("rises from row to row" in str(each.message) for each in caught) == heard
    np.savetxt(
        tmp_path / "log.csv",
        np.column_stack([stamp, rows[:, :2]]),
        delimiter=",",
        header="c,q,u",
        comments="",
    )
    for how in ({"dt": 0.02}, {"time": "c"}, {"time": []}):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            wmgym.from_log(tmp_path / "log.csv", obs=["q"], action=["u"], quiet=True, **how)
        assert not any("rises from row to row" in str(each.message) for each in caught)
