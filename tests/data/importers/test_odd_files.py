"""Files as loggers leave them: compressed, commented, cut, in other units of time, out of order."""

from __future__ import annotations

import gzip
import warnings
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces

from tests.data.importers.pendulums import HEADER, PERIOD, run, write_csv
from tests.data.importers.test_from_log import read, refused
from wmgym.calibration.adapt import adapt
from wmgym.calibration.calibrate import calibrate
from wmgym.data.importers import csv
from wmgym.data.importers.columns import find_roles
from wmgym.data.importers.from_log import from_log
from wmgym.data.importers.rows import usable_rows
from wmgym.data.importers.runs import cut
from wmgym.data.importers.table import Table
from wmgym.data.joining import concat
from wmgym.models.config import FitConfig
from wmgym.models.fit import fit

NAMES = HEADER.split(",")


def lines(seed: int = 0) -> list[str]:
    return write_lines(run(seed))


def write_lines(rows: np.ndarray) -> list[str]:
    return [",".join(f"{value:.9g}" for value in row) for row in rows]


def said_of(path: Path) -> str:
    """Why a file is not read."""
    with pytest.raises(ValueError, match=r".") as caught:
        csv.read(str(path))
    return str(caught.value)


def test_comments_above_the_header_compression_and_trailing_delimiters(tmp_path: Path) -> None:
    def q1(path: Path) -> np.ndarray:
        (table,) = csv.read(str(path))
        assert list(table.columns) == NAMES
        assert "text" not in table.facts
        return table.columns["q1"]

    plain, path, packed = lines(), tmp_path / "run.csv", tmp_path / "run.csv.gz"
    heads = ["# robot log", "# firmware 2.1, rev b", HEADER], ["# made by me", f"# {HEADER}"]
    for head in heads:
        path.write_text("\n".join([*head, *plain]) + "\n")
        np.testing.assert_allclose(q1(path), run(0)[:, 1], rtol=1e-6)
        broken = [*plain[:4], plain[4].replace(",", ",x", 1), *plain[5:]]
        path.write_text("\n".join([*head, *broken]) + "\n")
        (table,) = csv.read(str(path))
        assert table.facts["text"]["q1"]["line"] == len(head) + 5
    path.write_text("\r\n".join([HEADER, *(f"{line}," for line in plain)]))
    np.testing.assert_allclose(q1(path), run(0)[:, 1], rtol=1e-6)
    path.write_text("\n".join([HEADER, *(f"{line},1" for line in plain)]))
    assert said_of(path) == "line 2 has 6 cells, the header names 5 columns"
    packed.write_bytes(gzip.compress("\n".join([HEADER, *plain]).encode()))
    np.testing.assert_allclose(q1(packed), run(0)[:, 1], rtol=1e-6)
    packed.write_bytes(packed.read_bytes()[:500])
    assert said_of(packed).startswith("it cannot be decompressed")
    packed.write_text("no archive")
    assert said_of(packed).startswith("it cannot be decompressed")
    path.write_text("")
    assert said_of(path) == "it is empty; leave it out"
    path.write_text(HEADER + "\n")
    assert said_of(path) == "it has a header and no rows; leave it out"


@pytest.mark.parametrize("factor", [1, 10**3, 10**6, 10**9])
def test_stamps_since_1970_say_their_unit(
    tmp_path: Path, factor: int, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = run(0)
    stamps = [f"{1_700_000_000 * factor + round(t * factor)}" for t in rows[:, 0]]
    if factor == 1:
        stamps = [f"{1_700_000_000 + t:.3f}" for t in rows[:, 0]]
    body = [
        f"{stamp},{line.partition(',')[2]}" for stamp, line in zip(stamps, write_lines(rows), strict=True)
    ]
    (tmp_path / "run.csv").write_text("\n".join([HEADER, *body]) + "\n")
    with pytest.warns(UserWarning, match="no episode|there is only"):
        data = from_log(tmp_path)
    assert (data.task.dt, len(data)) == (PERIOD, 119)
    word = {10**3: "milliseconds", 10**6: "microseconds", 10**9: "nanoseconds"}.get(factor)
    assert (f"t ({word} since 1970, 50 Hz" in capsys.readouterr().out) == (word is not None)
    if factor == 10**6:
        assert read(tmp_path, scale={"t": 2.0 / factor}).task.dt == pytest.approx(2 * PERIOD)


def test_rows_out_of_order_are_refused(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(120)
    path = write_csv(tmp_path / "run.csv", run(0)[order])
    refused(r"run.csv: the clock goes back in \d+% of the rows; sort them", path)
    several = np.concatenate([run(seed)[:12] for seed in range(10)])  # which a logger that restarts explains
    assert read(write_csv(path, several)).num_episodes == 10


def test_rows_of_two_recordings_that_alternate(tmp_path: Path) -> None:
    def said(rows: np.ndarray, names: str) -> str:
        table = Table("run.csv", dict(zip(names.split(), rows.T, strict=True)))
        roles = find_roles([table], {})
        with pytest.raises(ValueError, match=r"^run\.csv: ") as caught:
            cut(usable_rows(table, roles, {}), PERIOD, {})
        return str(caught.value)

    both = np.stack([run(0), run(1)], 1)  # (120, 2, 5)
    named = np.concatenate([both, np.tile([[3], [8]], (120, 1, 1))], 2).reshape(240, 6)
    shuffled = named[np.random.default_rng(0).permutation(240)]
    for rows in (named, shuffled[np.argsort(shuffled[:, 0], kind="stable")]):
        for text in (said(rows, "t q1 dq1 u reward trial"), said(rows[:, [1, 2, 3, 5]], "q1 dq1 u trial")):
            assert text.endswith("episodes alternate; sort the rows by 'trial', and within each by time")
    turns = "rows of 2 recordings take turns"
    assert turns in said(both.reshape(240, 5), "t q1 dq1 u reward")
    after = np.concatenate([both[:-1, :, 1:4], both[1:, :, 1:3]], 2).reshape(238, 5)
    assert turns in said(after, "q1 dq1 u next_obs_1 next_obs_2")
    with pytest.warns(UserWarning, match=turns):
        read(write_csv(tmp_path / "run.csv", both[:, :, 1:].reshape(240, 4), "q1,dq1,u,reward"))
    again = named[np.argsort(named[:, 5], kind="stable")]  # ids that a logger uses again
    again = np.concatenate([again, again * [1, 1.1, 1, 1, 1, 1]])
    assert read(write_csv(tmp_path / "run.csv", again, f"{HEADER},trial")).num_episodes == 4


def test_quantities_with_units_are_no_labels_of_actions(tmp_path: Path) -> None:
    body = [
        ",".join([*cells[:3], f"{cells[3]} Nm", cells[4]]) for cells in (line.split(",") for line in lines())
    ]
    (tmp_path / "run.csv").write_text("\n".join([HEADER, *body]) + "\n")
    refused(f"column '{NAMES[3]}' holds '.* Nm', no number; write the number alone", tmp_path)


def test_a_recording_in_other_units_is_named(tmp_path: Path) -> None:
    for seed in range(5):
        write_csv(tmp_path / f"run{seed}.csv", run(0) * (1 + 0.1 * seed))
    write_csv(tmp_path / "run3.csv", run(0) * [1, 180 / np.pi, 180 / np.pi, 1, 1])
    with pytest.warns(UserWarning, match=r"^d?q1 is 47.7 times as large in .*run3.csv as in most recordings"):
        read(tmp_path)


def test_two_groups_of_units_and_recordings_of_one_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(6):
        factor = 180 / np.pi if seed < 3 else 1.0
        write_csv(tmp_path / f"run{seed}.csv", run(0) * [1, factor, 1, 1, 1])
    write_csv(tmp_path / "short.csv", run(0)[:1])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        from_log(tmp_path, time=[])
    (said,) = (text for each in caught if "times as large" in (text := str(each.message)))
    assert "q1 is 57.3 times as large in" in said
    assert "run0.csv and 2 more as in the others: the 6 recordings are of two groups" in said
    summary = capsys.readouterr().out
    assert "1 recording of one row: left out" in summary
    assert "dt= is the seconds a step takes" in summary


def test_infinite_values_are_refused_in_archives_too(tmp_path: Path) -> None:
    obs = run(0)[:, 1:3]
    obs[7, 1] = np.inf
    np.savez(tmp_path / "run.npz", obs=obs, action=run(0)[:, 3:4])
    refused("run.npz: column 'obs' is infinite in row 7; correct it, or store NaN", tmp_path / "run.npz")


def test_what_cannot_be_read_says_what_to_do(tmp_path: Path) -> None:
    refused("is an empty folder; check the path", tmp_path)
    (tmp_path / "a.jsonl").write_text("{}")
    refused(r"holds only .jsonl, none of .csv, .*; convert it to CSV, or .* wmgym.from_arrays", tmp_path)
    refused(r"a.jsonl has none of the suffixes .*; convert it to CSV", tmp_path / "a.jsonl")
    (tmp_path / "day1").mkdir()
    write_csv(tmp_path / "day1" / "run.csv", run(0))
    refused(r"in further folders, such as day1; pass '.*/\*'", tmp_path)
    assert len(read(f"{tmp_path}/day*")) == 119
    path = tmp_path / "objects.npz"
    np.savez(path, obs=np.array([{}], object), action=np.zeros((1, 1)))
    refused("array 'obs' holds Python objects, which are pickled", path)


def test_logs_of_one_robot_are_joined_by_the_first_ones_task(tmp_path: Path) -> None:
    paths = [write_csv(tmp_path / f"run{seed}.csv", run(seed)) for seed in range(3)]
    first, second = (read(path) for path in paths[:2])
    said = r"action_space Box\(.*\) and Box\(.*; read all logs .* from_log\(..., task=first.task\)"
    with pytest.raises(ValueError, match=rf"^cannot join data of {said}"):
        concat([first, second])
    world = fit(first, FitConfig(members=2, width=8, depth=1, max_updates=1))
    for use in (calibrate, adapt):
        with pytest.raises(ValueError, match=said):
            use(world, second)
    with pytest.raises(ValueError, match=said):
        fit(second, FitConfig(members=2, width=8, depth=1, max_updates=1), begin=world)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* of the actions are outside action_space")
        again = read(paths[1], task=first.task)
    assert len(concat([first, again])) == 238
    assert calibrate(world, again).calibration is not None


def test_fractions_are_no_discrete_actions(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "run.csv", run(0))
    refused(
        r"^actions must be whole numbers inside Discrete\(2\), one action a row, got -?0.\d+$",
        path,
        action_space=spaces.Discrete(2),
    )
