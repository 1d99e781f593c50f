"""DynaSAC's files: a run goes on from them as if it had never stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import zipfile
from collections import deque
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, CheckpointCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv

import wmgym
from tests.agents.test_dyna_sac import SMALL, small, toy_env, vec
from wmgym.agents.sb3.dyna_sac import DynaSAC
from wmgym.agents.sb3.dyna_sac_data import StateReader
from wmgym.tasks import registry

pytestmark = pytest.mark.filterwarnings("ignore:the policy exploits the model")  # as small networks will

HOPPER: dict[str, Any] = SMALL | {
    "random_episode_steps": 20,
    "learning_starts": 50,
    "train_freq": 25,
    "buffer_size": 500,
}
SAVED = (20, 50, 75, 85)  # a random step, the last of them, the last and one in the middle of an interval
STEPS = 125

MADE_ANEW = {"start_time", "_num_timesteps_at_start", "_total_timesteps"}  # by learn
MADE_ANEW |= {"_deterministic"}  # by every step
MADE_ANEW |= {
    "_starts",
    "_real_states",
    "_first_states",
    "_change_std",
    "_low_value_rows",
    "_distrusted",
}  # by every training
"""Attributes that are made anew before they are used. All others that change belong in ``_run_state``."""


def hopper(**changes: Any) -> DynaSAC:
    return DynaSAC("MlpPolicy", "Hopper-v5", **(HOPPER | changes))


def reload(path: Any, **changes: Any) -> DynaSAC:
    return DynaSAC.load(path, env=gym.make("Hopper-v5"), **changes)


def go_on(model: DynaSAC, steps: int = STEPS) -> DynaSAC:
    return model.learn(steps - model.num_timesteps, reset_num_timesteps=False)


class Save(BaseCallback):
    """Saves after some steps, and stops after the last of them if asked."""

    def __init__(self, folder: Path, at: tuple[int, ...], stop: bool = False) -> None:
        super().__init__()
        self.folder, self.at, self.stop = folder, at, stop

    def _on_rollout_start(self) -> None:
        self.model.save(self.folder / f"before_{self.model.num_timesteps}")

    def _on_step(self) -> bool:
        if self.num_timesteps in self.at:
            self.model.save(self.folder / f"at_{self.num_timesteps}")
        return not (self.stop and self.num_timesteps == self.at[-1])

    def _on_rollout_end(self) -> None:
        self.model.save(self.folder / f"after_{self.model.num_timesteps}")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of a run, saved in callbacks."""
    folder = tmp_path_factory.mktemp("files")
    hopper().learn(STEPS, callback=Save(folder, SAVED))
    return folder


@pytest.fixture(scope="module")
def uninterrupted() -> DynaSAC:
    return hopper().learn(STEPS)


def state(model: DynaSAC) -> dict[str, Any]:
    """All that decides how a model goes on, but for the env and what others share."""
    assert model.world is not None
    found: dict[str, Any] = {
        name: value
        for name, value in vars(model).items()
        if isinstance(value, int | float | str | torch.Tensor | np.ndarray | deque | torch.Generator)
    }
    found["ep_info_buffer"] = [(info["r"], info["l"]) for info in found["ep_info_buffer"]]  # not the time
    found = {name: value for name, value in found.items() if name not in MADE_ANEW}
    found["buffer"] = model.replay_buffer.pack()
    return found | model.get_parameters() | {"world": model.world.pack()}


def assert_equal(one: Any, two: Any, name: str = "") -> None:
    if isinstance(one, dict):
        assert one.keys() ^ two.keys() == set(), name
        for key in one:
            assert_equal(one[key], two[key], f"{name}.{key}")
    elif isinstance(one, list | tuple | deque):
        assert len(one) == len(two), name
        for at, pair in enumerate(zip(one, two, strict=True)):
            assert_equal(*pair, f"{name}[{at}]")
    elif isinstance(one, torch.Generator):
        assert torch.equal(one.get_state(), two.get_state()), name
    elif isinstance(one, torch.Tensor):
        np.testing.assert_array_equal(one.detach(), two.detach(), name)
    elif isinstance(one, np.ndarray):
        np.testing.assert_array_equal(one, two, name)
    else:
        assert one == two or (one != one and two != two), name


# Exact


@pytest.mark.parametrize(
    "name",
    [
        *(f"at_{k}" for k in SAVED),
        "after_50",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("before_0", "before_50", "after_125")),
    ],
)
def test_a_run_goes_on_from_a_callback_as_if_it_had_never_stopped(
    name: str, files: Path, uninterrupted: DynaSAC
) -> None:
    torch.manual_seed(99)  # whatever else draws meanwhile
    model = reload(files / name)
    np.random.seed(99)  # noqa: NPY002
    assert_equal(state(go_on(model)), state(uninterrupted))


def test_a_run_goes_on_from_where_learn_ended(tmp_path: Path, uninterrupted: DynaSAC) -> None:
    hopper().learn(75).save(tmp_path / "a")
    model = reload(tmp_path / "a")
    go_on(model, 100).save(tmp_path / "b")
    assert_equal(state(go_on(reload(tmp_path / "b"))), state(uninterrupted))


def test_a_run_that_a_callback_stopped_goes_on(tmp_path: Path, uninterrupted: DynaSAC) -> None:
    model = hopper()
    model.learn(STEPS, callback=Save(tmp_path, (83,), stop=True))
    assert model.num_timesteps == 83
    model.save(tmp_path / "stopped")
    expected = state(uninterrupted)
    assert_equal(state(go_on(model)), expected)
    assert_equal(state(go_on(reload(tmp_path / "stopped"))), expected)


def test_nothing_that_changes_is_forgotten(files: Path) -> None:
    """A model is what was saved before it has learned anything more."""
    model = hopper()
    model.learn(STEPS, callback=Save(files, (83,), stop=True))
    assert_equal(state(model), state(reload(files / "at_83")))


def test_several_envs_a_schedule_and_noise_go_on(tmp_path: Path) -> None:
    def model() -> DynaSAC:
        env = DummyVecEnv([lambda: Monitor(StateReader(gym.make("Hopper-v5")))] * 2)
        noise = OrnsteinUhlenbeckActionNoise(np.zeros(3), np.full(3, 0.1))
        changes = {"action_noise": noise, "learning_rate": schedule, "ent_coef": 0.1, "learning_starts": 60}
        return DynaSAC("MlpPolicy", env, **(HOPPER | changes))

    expected = state(model().learn(150, callback=Save(tmp_path, (80, 100, 124))))
    for name in ("at_80", "at_100", "at_124"):
        again = DynaSAC.load(tmp_path / name, env=model().get_env())
        assert_equal(state(go_on(again, 150)), expected)


def schedule(left: float) -> float:
    return 1e-3 * left


def test_a_second_run_with_new_counters_is_that_of_the_same_process(tmp_path: Path) -> None:
    model = hopper().learn(75)
    model.save(tmp_path / "agent")
    expected = state(model.learn(75))
    assert_equal(state(reload(tmp_path / "agent").learn(75)), expected)
    data = model.transitions()
    inside = np.flatnonzero(np.diff(data.episode) == 0)
    np.testing.assert_array_equal(data.next_core[inside], data.core[inside + 1])


@pytest.mark.parametrize("changes", [{"delay": 2}, {"backlash": 0.3}, {"delay": 1, "backlash": 0.2}])
def test_commands_under_way_in_a_robots_drive_go_on(changes: dict[str, Any]) -> None:
    env, other = (StateReader(wmgym.shift("InvertedPendulum-v5", **changes)) for _ in range(2))
    env.reset(seed=0)
    for command in (3, -2, 1):
        env.step(np.float32([command]))
    other.reset(seed=1)
    other.resume_episode(env.read_episode())
    for command in (0, -1, 2):
        found, expected = (each.step(np.float32([command])) for each in (other, env))
        assert_equal(list(found[:4]), list(expected[:4]))


@pytest.mark.parametrize("env_id", sorted({spec for spec in registry.TABLE if spec.endswith("-v5")}))
def test_the_running_episode_of_a_known_task_goes_on(env_id: str) -> None:
    env, other = (StateReader(gym.make(env_id)) for _ in range(2))
    env.action_space.seed(0)
    env.reset(seed=0)
    for _ in range(5):
        env.step(env.action_space.sample())
    env.limit_episodes(9)
    other.reset()
    other.resume_episode(env.read_episode())
    for _ in range(4):
        action = env.action_space.sample()
        found, expected = other.step(action), env.step(action)
        assert_equal(list(found[:4]), list(expected[:4]))
        assert_equal(found[4]["transition"], expected[4]["transition"])
    np.testing.assert_array_equal(env.reset()[0], other.reset()[0])


TRAIN = """
import sys
from pathlib import Path
from tests.agents.test_dyna_sac_saving import *
file = Path(sys.argv[1])
model = reload(file) if file.exists() else hopper()
class Often(BaseCallback):
    def _on_step(self):
        if self.n_calls % 7 == 0:
            self.model.save(file)
        return True
model.learn(200 - model.num_timesteps, callback=Often(), reset_num_timesteps=not model.num_timesteps)
model.save(file)
"""


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    file, command = tmp_path / "run.zip", [sys.executable, "-c", TRAIN, str(tmp_path / "run.zip")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    rng = np.random.default_rng(0)
    for _ in range(3):
        seen = file.stat().st_mtime_ns if file.exists() else None
        process = subprocess.Popen(command, env=environment)
        while process.poll() is None and (not file.exists() or file.stat().st_mtime_ns == seen):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.2))
        process.kill()  # perhaps in the middle of a save
        assert process.wait() == -signal.SIGKILL
    assert 0 < reload(file).num_timesteps < 200
    subprocess.run(command, env=environment, check=True)
    hopper().learn(200).save(tmp_path / "whole")
    assert_equal(state(reload(file)), state(reload(tmp_path / "whole")))


# Where the env's state cannot be read


def test_an_episode_that_cannot_be_read_is_abandoned_with_a_word(tmp_path: Path) -> None:
    small().learn(130, callback=Save(tmp_path, (130,), stop=True))
    runs = []
    for _ in range(2):
        model = DynaSAC.load(tmp_path / "at_130", env=vec(toy_env()))
        with pytest.warns(
            UserWarning, match=r"^the state of toy/LinearGaussian-v0 cannot be read: .* begins$"
        ):
            runs.append(go_on(model, 200))
    assert_equal(*map(state, runs))
    data = runs[0].transitions()
    assert data.lengths.tolist() == [60, 60, 10, 60, 10]
    inside = np.flatnonzero(np.diff(data.episode) == 0)
    np.testing.assert_array_equal(data.next_core[inside], data.core[inside + 1])


def test_an_unknown_wrapper_hides_the_state() -> None:
    known = StateReader(gym.wrappers.RescaleAction(gym.make("Hopper-v5"), -np.ones(3, "f"), np.ones(3, "f")))
    hidden = StateReader(gym.wrappers.DelayObservation(gym.make("Hopper-v5"), delay=2))
    for env in (known, hidden):
        env.reset()
    assert known.read_episode()["state"] is not None
    assert hidden.read_episode()["state"] is None


# Files


def test_a_model_without_an_env_predicts_and_can_be_saved_again(files: Path, tmp_path: Path) -> None:
    expected = state(go_on(reload(files / "at_85")))
    bare = DynaSAC.load(files / "at_85")
    assert bare.world is not None
    obs = np.zeros((2, 11))
    actions = reload(files / "at_85").predict(obs, deterministic=True)[0]
    np.testing.assert_array_equal(bare.predict(obs, deterministic=True)[0], actions)
    bare.save(tmp_path / "again")
    assert_equal(state(go_on(reload(tmp_path / "again"))), expected)
    with (tmp_path / "file.zip").open("wb") as stream:
        bare.save(stream)
    with (tmp_path / "file.zip").open("rb") as stream:
        assert_equal(state(go_on(reload(stream))), expected)


def test_the_replay_buffer_can_stay_out_and_come_back(tmp_path: Path, uninterrupted: DynaSAC) -> None:
    model = hopper().learn(75)
    model.save(tmp_path / "whole")
    model.save(tmp_path / "small", exclude=["replay_buffer"])
    model.save_replay_buffer(tmp_path / "buffer")
    sizes = [(tmp_path / f"{name}.zip").stat().st_size for name in ("small", "whole")]
    assert sizes[0] < sizes[1] - 75 * 11 * 16
    again = reload(tmp_path / "small")
    again.load_replay_buffer(tmp_path / "buffer")
    assert_equal(state(go_on(again)), state(uninterrupted))
    assert go_on(reload(tmp_path / "small"), 100).replay_buffer.size() == 25


def test_sb3s_checkpoints_and_parameters_are_as_ever(tmp_path: Path, uninterrupted: DynaSAC) -> None:
    checkpoints = CheckpointCallback(40, str(tmp_path), save_replay_buffer=True)
    model = hopper().learn(100, callback=CallbackList([checkpoints]))
    again = reload(tmp_path / "rl_model_80_steps.zip")
    again.load_replay_buffer(tmp_path / "rl_model_replay_buffer_80_steps.pkl")
    assert_equal(state(go_on(again)), state(uninterrupted))
    model.save(tmp_path / "agent")
    fresh = hopper(seed=7)
    fresh.set_parameters(tmp_path / "agent")
    assert_equal(fresh.get_parameters(), model.get_parameters())


def test_another_number_of_envs_starts_with_an_empty_buffer(files: Path) -> None:
    env = DummyVecEnv([lambda: Monitor(StateReader(gym.make("Hopper-v5")))] * 2)
    with pytest.warns(UserWarning, match="holds the steps of 1 envs, and there are 2 now"):
        model = DynaSAC.load(files / "at_85", env=env)
    assert model.replay_buffer.size() == 0
    assert go_on(model, 125).replay_buffer.size() == 25


def test_a_damaged_file_is_refused_in_a_line(files: Path, tmp_path: Path) -> None:
    payload = (files / "at_85.zip").read_bytes()
    path = tmp_path / "damaged.zip"
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(files / "at_85.zip") as archive:
        ends = [info.header_offset + 30 + len(info.filename) + info.file_size for info in archive.infolist()]
        large = [(end, info.file_size) for end, info in zip(ends, archive.infolist(), strict=True)]
    # Contents, stored as they are; a header says little that the directory at the end does not.
    inside = [end - rng.integers(1, size) for end, size in large if size > 200 for _ in range(4)]
    for at in inside:
        spoilt = bytearray(payload)
        spoilt[at] ^= 0xFF
        path.write_bytes(spoilt)
        with pytest.raises(ValueError, match=r"^\S+damaged\.zip is damaged or no zip file; .*$"):
            DynaSAC.load(path)
    for count in (0, 10, len(payload) // 2, len(payload) - 1):
        path.write_bytes(payload[:count])
        with pytest.raises(ValueError, match="is damaged or no zip file"):
            DynaSAC.load(path)
    with pytest.raises(FileNotFoundError):
        DynaSAC.load(tmp_path / "none")


def test_files_of_others_are_refused(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SAC("MlpPolicy", "Hopper-v5", buffer_size=10).save(tmp_path / "sac")
    with pytest.raises(ValueError, match=r"sac was not saved by DynaSAC of this version"):
        reload(tmp_path / "sac")
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        DynaSAC.load(files / "at_85", env=vec(toy_env()))
    with pytest.raises(ValueError, match=r"buffer is not of size 100; leave buffer_size out"):
        reload(files / "at_85", buffer_size=100)
    monkeypatch.setattr(DynaSAC, "_run_state", ("_generator", "_rollouts", "_exploited", "_new"))
    with pytest.raises(ValueError, match="of another version of wmgym"):
        reload(files / "at_85")


def test_a_save_that_fails_leaves_the_file_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small()
    model.save(tmp_path / "agent")
    before = (tmp_path / "agent.zip").read_bytes()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(ValueError, match=r"agent\.zip cannot be written \(No space left on device\)"):
        model.save(tmp_path / "agent")
    assert (tmp_path / "agent.zip").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["agent.zip"]
