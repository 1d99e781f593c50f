"""Files as other libraries write them: HDF5 in D4RL's layout, Minari, LeRobot, MCAP."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import minari
import numpy as np
import pyarrow as pa
import pytest
from gymnasium import spaces
from mcap.writer import Writer
from mcap_ros2.writer import Writer as RosWriter
from minari.data_collector import EpisodeBuffer
from pyarrow import parquet

from tests.data.importers.pendulums import PERIOD, run
from tests.data.importers.test_from_log import read, refused
from wmgym.data.collect import collect
from wmgym.data.importers.read import read_tables
from wmgym.data.transitions import Transitions

JOINT_STATE = """std_msgs/Header header
string[] name
float64[] position
float64[] velocity
float64[] effort
================================================================================
MSG: std_msgs/Header
builtin_interfaces/Time stamp
string frame_id
"""


@pytest.fixture(scope="module")
def hopper() -> Transitions:
    return collect("Hopper-v5", steps=300, seed=0, workers=1)


def d4rl(path: Path, data: Transitions, **changes: Any) -> Path:
    """A file in D4RL's layout."""
    ends = np.append(np.diff(data.episode) != 0, True)
    columns = {
        "observations": data.obs, "actions": data.action, "next_observations": data.next_obs,
        "rewards": data.reward, "terminals": data.terminated, "timeouts": ends & ~data.terminated,
        "infos/qpos": data.core[:, :6],
    }  # fmt: skip
    with h5py.File(path, "w") as file:
        for name, values in (columns | changes).items():
            if values is not None:
                file[name] = values
    return path


def test_d4rl(hopper: Transitions, tmp_path: Path) -> None:
    data = read(d4rl(tmp_path / "hopper.hdf5", hopper))
    for name in ("obs", "action", "next_obs", "terminated", "episode", "reward"):
        np.testing.assert_array_equal(getattr(data, name), getattr(hopper, name))


def test_d4rl_without_next_observations_has_no_last_steps(
    hopper: Transitions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = read(d4rl(tmp_path / "hopper.hdf5", hopper, next_observations=None))
    assert len(data) == len(hopper) - hopper.num_episodes
    assert not data.terminated.any()


def test_d4rl_with_the_next_episodes_first_observation(hopper: Transitions, tmp_path: Path) -> None:
    """Neither learned from, nor taken for a termination."""
    data = read(d4rl(tmp_path / "rolled.hdf5", hopper, next_observations=np.roll(hopper.obs, -1, 0)))
    assert len(data) == len(hopper) - hopper.num_episodes + 1  # the very last step leads to the first row
    shuffled = np.random.default_rng(0).permutation(len(hopper))
    path = d4rl(tmp_path / "shuffled.hdf5", hopper, next_observations=hopper.next_obs[shuffled])
    refused("next_obs is not the next row's obs", path)


def test_a_damaged_file_is_named_in_time(hopper: Transitions, tmp_path: Path) -> None:
    path = d4rl(tmp_path / "hopper.h5", hopper)
    path.write_bytes(path.read_bytes()[:5_000])
    refused("hopper.h5: .*truncated", path)
    refused("took more than 0.05 s", path, max_seconds=0.05)


def test_other_files_are_not_followed(hopper: Transitions, tmp_path: Path) -> None:
    secret = d4rl(tmp_path / "secret.hdf5", hopper)
    path = d4rl(tmp_path / "log.hdf5", hopper)
    with h5py.File(path, "a") as file:
        file["outside"] = h5py.ExternalLink(str(secret), "/observations")
        layout = h5py.VirtualLayout(shape=(len(hopper), 11), dtype="f4")
        layout[:] = h5py.VirtualSource(str(secret), "observations", shape=(len(hopper), 11))
        file.create_virtual_dataset("virtual", layout)
    (table,) = read_tables(path)
    assert not {"outside", "virtual"} & set(table.columns)


class Elsewhere(gym.Env[Any, Any]):
    """An env that nobody but Minari may make."""

    allowed = False
    observation_space = spaces.Dict({"b": spaces.Box(-9, 9, (2,)), "a": spaces.Box(-9, 9, (1,))})
    action_space = spaces.Box(-1, 1, (1,))

    def __init__(self) -> None:
        assert self.allowed


def buffers(data: Transitions, infos: bool = True) -> list[EpisodeBuffer]:
    """Episodes as Minari takes them."""
    found = []
    for k in range(data.num_episodes):
        rows = np.flatnonzero(data.episode == k)
        path = np.concatenate([[0.0], np.cumsum(data.unobserved[rows, 0])])
        found.append(
            EpisodeBuffer(
                id=k,
                observations=np.concatenate([data.obs[rows], data.next_obs[rows[-1:]]]),
                actions=data.action[rows],
                rewards=list(data.reward[rows]),
                terminations=list(data.terminated[rows]),
                truncations=list(~data.terminated[rows] & (rows == rows[-1])),
                infos={"x_position": path} if infos else None,
            )
        )
    return found


@pytest.fixture
def minari_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return tmp_path


def create(name: str, episodes: list[EpisodeBuffer], **about: Any) -> None:
    with warnings.catch_warnings(action="ignore"):  # its advice on descriptions
        minari.create_dataset_from_buffers(name, episodes, data_format="hdf5", **about)


@pytest.mark.parametrize("infos", [True, False])
def test_minari_gives_what_collect_gave(hopper: Transitions, minari_home: Path, infos: bool) -> None:
    create("test/hopper-v0", buffers(hopper, infos), env="Hopper-v5")
    data = read(minari_home / "test" / "hopper-v0")
    for name in ("obs", "action", "next_obs", "terminated", "episode", "reward"):
        np.testing.assert_array_equal(getattr(data, name), getattr(hopper, name))
    if infos:  # all that the task's own reward takes
        assert "reward table, termination table" in repr(data.task)
        np.testing.assert_allclose(data.unobserved, hopper.unobserved, atol=1e-12)
    else:  # its layout and termination are known all the same
        assert "reward learned, termination table" in repr(data.task)
        assert data.core.shape == hopper.core.shape
        data.save(minari_home / "saved")
        assert repr(Transitions.load(minari_home / "saved").task) == repr(data.task)
    assert data.task.action_space == hopper.task.action_space
    assert data.task.max_episode_steps == 1_000


def test_minari_never_makes_the_env(minari_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    obs = {"b": rng.normal(size=(41, 2)).astype(np.float32), "a": np.zeros((41, 1), np.float32)}
    obs["a"][:, 0] = np.arange(41) / 100
    episode = EpisodeBuffer(
        id=0, observations=obs, actions=rng.uniform(-1, 1, (40, 1)).astype(np.float32),
        rewards=[0.5 * k for k in range(40)], terminations=[False] * 40, truncations=[False] * 39 + [True],
    )  # fmt: skip
    monkeypatch.setattr(Elsewhere, "allowed", True)
    spec = gym.envs.registration.EnvSpec("Elsewhere-v0", entry_point=f"{__name__}:Elsewhere")
    create(
        "test/elsewhere-v0", [episode], env=spec,
        observation_space=Elsewhere.observation_space, action_space=Elsewhere.action_space,
    )  # fmt: skip
    monkeypatch.setattr(Elsewhere, "allowed", False)
    data = read(minari_home / "test" / "elsewhere-v0")
    np.testing.assert_array_equal(data.obs, np.concatenate([obs["a"], obs["b"]], 1)[:-1])
    assert data.task.observation_space == spaces.Box(-9, 9, (3,))


def lerobot(path: Path, version: str = "v3.0") -> list[np.ndarray]:
    """Two episodes in LeRobot's layout; what they hold."""
    runs = [run(seed, rows=60) for seed in range(2)]
    features = {
        "observation.state": {"dtype": "float32", "shape": [2], "names": ["shoulder.pos", "shoulder.vel"]},
        "action": {"dtype": "float32", "shape": [1], "names": ["shoulder.torque"]},
        "observation.images.top": {"dtype": "video", "shape": [3, 8, 8], "names": ["c", "h", "w"]},
    }
    about = {"codebase_version": version, "fps": 50, "total_episodes": 2, "features": features,
             "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"}  # fmt: skip
    (path / "meta").mkdir(parents=True)
    (path / "meta" / "info.json").write_text(json.dumps(about))
    (path / "data" / "chunk-000").mkdir(parents=True)
    for k, rows in enumerate(runs):
        state = pa.FixedSizeListArray.from_arrays(pa.array(rows[:, 1:3].ravel(), pa.float32()), 2)
        action = pa.FixedSizeListArray.from_arrays(pa.array(rows[:, 3], pa.float32()), 1)
        table = pa.table(
            {
                "observation.state": state,
                "action": action,
                "timestamp": pa.array(np.arange(60) / 50, pa.float32()),
                "frame_index": pa.array(range(60)),
                "episode_index": pa.array([k] * 60),
                "index": pa.array(range(60 * k, 60 * k + 60)),
                "task_index": pa.array([0] * 60),
            }
        )
        parquet.write_table(table, path / "data" / "chunk-000" / f"file-{k:03d}.parquet")
    return runs


def test_lerobot(tmp_path: Path) -> None:
    runs = lerobot(tmp_path / "set")
    data = read(tmp_path / "set")
    assert data.lengths.tolist() == [59, 59]
    assert data.task.core.names == ("shoulder.pos", "shoulder.vel")
    assert (data.task.dt, data.reward) == (PERIOD, None)
    np.testing.assert_allclose(data.next_obs[59:], runs[1][1:, 1:3], rtol=1e-6)
    np.testing.assert_allclose(data.action[:59], runs[0][:-1, 3:4], rtol=1e-6)
    lerobot(tmp_path / "old", "v1.6")
    refused("codebase_version is 'v1.6'", tmp_path / "old")


def test_mcap_of_json(tmp_path: Path) -> None:
    rows = run(5, rows=80)
    with (tmp_path / "log.mcap").open("wb") as file:
        writer = Writer(file)
        writer.start()
        schema = writer.register_schema("State", "jsonschema", b'{"type": "object"}')
        channel = writer.register_channel("/arm", "json", schema)
        for t, q, dq, u, _ in rows:
            said = json.dumps({"q": [q], "dq": [dq], "u": u, "mode": "run"}).encode()
            stamp = round(1_700_000_000e9) + round(t * 1e9)
            writer.add_message(channel, stamp, said, stamp)
        writer.finish()
    data = read(tmp_path / "log.mcap")
    assert (len(data), data.task.dt) == (79, PERIOD)
    assert data.task.core.names == ("q_0", "dq_0")
    np.testing.assert_allclose(data.obs, rows[:-1, 1:3], rtol=1e-6)
    np.testing.assert_allclose(data.action, rows[:-1, 3:4], rtol=1e-6)


def test_mcap_of_ros_2_joint_states(tmp_path: Path) -> None:
    rows, start = run(6, rows=80), 1_700_000_000
    with (tmp_path / "bag.mcap").open("wb") as file:
        writer = RosWriter(file)
        joints = writer.register_msgdef("sensor_msgs/msg/JointState", JOINT_STATE)
        number = writer.register_msgdef("std_msgs/msg/Float64", "float64 data")
        for t, q, dq, u, _ in rows:
            seconds, rest = divmod(round(t * 1e9), 10**9)
            stamp = {"sec": start + seconds, "nanosec": rest}
            state = {"header": {"stamp": stamp, "frame_id": ""}, "name": ["b", "a"],
                     "position": [7.0 + q, q], "velocity": [1.0 - dq, dq], "effort": []}  # fmt: skip
            when = start * 10**9 + round(t * 1e9)
            writer.write_message("/arm/command", number, {"data": u}, when, when)
            writer.write_message("/joint_states", joints, state, when + 1_000_000, when + 1_000_000)
        writer.finish()
    data = read(tmp_path / "bag.mcap", obs=["*position.a", "*velocity.a"])
    assert data.task.core.names == ("joint_states.position.a", "joint_states.velocity.a")
    np.testing.assert_allclose(data.obs, rows[:-1, 1:3], rtol=1e-6)
    np.testing.assert_allclose(data.action, rows[:-1, 3:4], rtol=1e-6)
    assert len(read(tmp_path / "bag.mcap").task.core.names) == 4


@pytest.mark.parametrize("library", ["h5py", "pyarrow", "mcap"])
def test_a_missing_library_is_named(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from wmgym.data.importers import hdf5, lerobot, mcap

    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.setitem(sys.modules, f"{library}.reader", None)
    with pytest.raises(ImportError, match=r"pip install \"wmgym\[logs\]\""):
        {"h5py": hdf5, "pyarrow": lerobot, "mcap": mcap}[library].read("x")
