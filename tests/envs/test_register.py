"""Ids of one's own for worlds, in this process and in later ones."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium as gym
import pytest
from typer.testing import CliRunner

import wmgym
from tests import toy
from wmgym.app.cli import app
from wmgym.io import artifacts, registered
from wmgym.io.registered import SHIPPED, SMALL
from wmgym.models.saving import MISSED_GATES


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


def test_an_own_id_makes_the_world_that_it_was_given() -> None:
    world = toy.world()
    wmgym.register("lab/Toy-v0", world)
    env = gym.make("wmgym/lab/Toy-v0", max_episode_steps=3)
    assert env.unwrapped.world.provenance == world.provenance  # type: ignore[attr-defined]
    envs = gym.make_vec("wmgym/lab/Toy-v0", num_envs=2)
    assert envs.reset(seed=0)[0].shape[0] == 2
    assert env.reset(seed=0)[0].shape == envs.single_observation_space.shape
    assert gym.make("CartPole-v1").spec is not None  # ids of others as before
    with pytest.raises(gym.error.Error, match=r"[Mm]alformed|Namespace"):
        gym.make("a//b-v0")


def test_an_own_id_is_loaded_in_this_process(home: Path) -> None:
    world = toy.world()
    wmgym.register("lab/Loaded-v0", world)
    assert wmgym.load("lab/Loaded-v0") is wmgym.load("wmgym/lab/Loaded-v0") is world
    wmgym.register("Loaded-v0", wmgym.load("Hopper-v5").save(home / "world"))
    assert wmgym.ImaginedEnv("Loaded-v0").world.task.env_id == "Hopper-v5"


def test_another_world_of_an_id_replaces_it() -> None:
    wmgym.register("Toy-v0", toy.world())
    wmgym.register("wmgym/Toy-v0", wmgym.load("Hopper-v5"))
    assert gym.make("wmgym/Toy-v0").observation_space.shape == (11,)


@pytest.mark.parametrize("env_id", ["", "a b", "module:Toy-v0", "/Toy-v0"])
def test_what_is_no_id_is_refused(env_id: str) -> None:
    with pytest.raises(ValueError, match="is no id"):
        wmgym.register(env_id, toy.world())


def test_a_kept_world_needs_a_directory() -> None:
    with pytest.raises(ValueError, match="needs a directory"):
        wmgym.register("lab/Toy-v0", toy.world(), keep=True)


def test_the_command_registers_for_later_processes(home: Path) -> None:
    done = CliRunner().invoke(app, ["register", "lab/Hop-v0", "Hopper-v5"])
    assert done.exit_code == 1  # the id of a world that ships is no directory
    world = wmgym.load("Hopper-v5")
    world.save(home / "world")
    done = CliRunner().invoke(app, ["register", "lab/Hop-v0", str(home / "world"), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["id"] == "wmgym/lab/Hop-v0"
    script = (
        "import gymnasium, wmgym\n"
        "env = gymnasium.make('wmgym/lab/Hop-v0')\n"
        "print(env.spec.max_episode_steps, wmgym.load('lab/Hop-v0').task.env_id)"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["1000", "Hopper-v5"]


def test_what_was_registered_is_taken_back(home: Path) -> None:
    world = wmgym.load("Hopper-v5").save(home / "world")
    for env_id in ("lab/Gone-v0", "lab/Left-v0"):
        wmgym.register(env_id, world, keep=True)
    done = CliRunner().invoke(app, ["unregister", "wmgym/lab/Gone-v0", "--json"])
    assert done.exit_code == 0, done.output
    assert list(registered.listed()) == ["lab/Left-v0"]
    with pytest.raises(gym.error.Error):
        gym.make("wmgym/lab/Gone-v0")
    with pytest.raises(wmgym.StoreError):
        wmgym.load("lab/Gone-v0")
    assert wmgym.load(world).task.env_id == "Hopper-v5"
    for env_id in ("lab/Gone-v0", "Hopper-v5"):
        with pytest.raises(ValueError, match=f"no world is registered as '{env_id}'; known: .*lab/Left-v0"):
            wmgym.unregister(env_id)


def test_a_broken_list_hinders_nobody(home: Path) -> None:
    path = registered.list_file()
    path.parent.mkdir(parents=True)
    path.write_text("{")
    assert registered.listed() == {}
    wmgym.load("Hopper-v5").save(home / "world")
    with pytest.raises(wmgym.StoreError, match="is not a JSON object"):  # what it held would be lost
        wmgym.register("lab/Toy-v0", home / "world", keep=True)
    assert path.read_text() == "{"


def test_an_id_that_gymnasium_refuses_is_not_kept(home: Path) -> None:
    world = wmgym.load("Hopper-v5")
    world.save(home / "world")
    wmgym.register("lab/Versioned-v0", home / "world", keep=True)
    before = registered.listed()
    with pytest.raises(ValueError, match="Gymnasium refuses the id 'lab/Versioned'"):
        wmgym.register("lab/Versioned", home / "world", keep=True)
    assert registered.listed() == before
    entries = {**before, "lab/Versioned": before["lab/Versioned-v0"]}  # as an older version kept it
    registered.list_file().write_text(json.dumps(entries))
    script = "import wmgym, gymnasium; print(gymnasium.spec('wmgym/lab/Versioned-v0').id)"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "wmgym/lab/Versioned-v0"
    assert "is left out" in found.stderr


def test_a_world_that_ships_keeps_its_id() -> None:
    with pytest.raises(ValueError, match=r"ships with wmgym; take another id, such as 'lab/Hopper-v5'"):
        wmgym.register("Hopper-v5", wmgym.load("Walker2d-v5"))


@pytest.mark.filterwarnings("ignore:the world of")
@pytest.mark.parametrize("name", sorted(path.name for path in SHIPPED.glob(f"*{SMALL}")))
def test_a_smaller_twin_that_ships_is_made_by_its_id(name: str) -> None:
    env_id = name.removesuffix(SMALL)
    env, large = gym.make(f"wmgym/{name}"), gym.make(f"wmgym/{env_id}")
    assert env.observation_space == large.observation_space
    assert env.spec is not None
    assert large.spec is not None
    assert env.spec.max_episode_steps == large.spec.max_episode_steps
    twin, teacher = wmgym.load(name), wmgym.load(env_id)
    assert sum(w.size for w in twin.dynamics.pack()[0].values()) < 0.5 * sum(
        w.size for w in teacher.dynamics.pack()[0].values()
    )
    assert twin.calibration is not None
    assert gym.make_vec(f"wmgym/{name}", num_envs=2).reset(seed=0)[0].shape[0] == 2
    with pytest.raises(ValueError, match=f"this world imagines 'Reacher-v5', not '{name}'"):
        gym.make(f"wmgym/{name}", world="Reacher-v5")
    with pytest.raises(ValueError, match=f"a world of {name} ships"):
        wmgym.register(name, teacher)


def test_a_shipped_world_that_falls_short_says_so_where_it_is_made_and_first_in_its_card() -> None:
    short = artifacts.read_json(MISSED_GATES)
    for env_id in ("HalfCheetah-v5", "Reacher-v5"):
        card = (SHIPPED / env_id / "README.md").read_text()
        assert ("**This world falls short: " in card) == (env_id in short)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            gym.make(f"wmgym/{env_id}").close()
        found = [str(each.message) for each in said if "falls short" in str(each.message)]
        assert len(found) == (env_id in short)
        assert all(short[env_id] in text and "\n" not in text for text in found)
