"""Tests of the command line: the whole line on a tiny task, resumption, and what a mistake leaves behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from typer.testing import CliRunner, Result

import wmgym
from tests.toy import LinearGaussianEnv
from wmgym.agents import sb3
from wmgym.app import cli, doctor
from wmgym.app import run as run_module
from wmgym.data import collect as collect_module
from wmgym.data import rollout_worker
from wmgym.io import artifacts

ROOT = Path(__file__).resolve().parents[2]
ENV = "InvertedPendulum-v5"
FIT = {"members": 2, "width": 32, "eval_every": 10}
PPO = {"n_steps": 64, "batch_size": 64, "n_epochs": 1}
RUN = {
    "rounds": [
        {"real_steps": 200, "fit_updates": 20, "imagined_steps": 512},
        {"real_steps": 100, "fit_updates": 20, "imagined_steps": 512},
    ],
    "collect": {"calibration_steps": 100, "max_episode_steps": 50}, "fit": FIT,
    "train": {"algorithm": "PPO", "num_envs": 8, "max_episode_steps": 10, "hyperparameters": PPO},
    "evaluate": {"episodes": 2},
}  # fmt: skip


def call(*args: object) -> Result:
    return CliRunner().invoke(cli.app, [str(arg) for arg in args])


def answer(*args: object) -> dict[str, Any]:
    """The one JSON object that a command prints."""
    result = call(*args, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def write(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document))
    return path


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder, and every file's bytes."""
    found = sorted(folder.rglob("*"))
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in found}


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where every command of the line has been run once; ``answers.json`` is what they printed."""
    home = tmp_path_factory.mktemp("line")
    config, keywords = write(home / "fit.json", FIT), write(home / "ppo.json", PPO)
    train = ("--algorithm", "PPO", "--steps", 500, "--envs", 8, "--max-episode-steps", 10,
             "--hyperparameters", keywords)  # fmt: skip
    answers = [
        answer("collect", ENV, "--steps", 200, "--out", home / "data"),
        answer("collect", ENV, "--steps", 200, "--seed", 1, "--out", home / "held-out"),
        answer("fit", home / "data", "--config", config, "--updates", 10, "--out", home / "raw"),
        answer("calibrate", home / "raw", home / "held-out", "--horizon", 4, "--out", home / "world"),
        answer("train", home / "world", "--data", home / "data", *train, "--out", home / "trained"),
        answer("score", home / "world", "--policy", home / "trained/policy", "--episodes", 2,
               "--out", home / "scored"),
    ]  # fmt: skip
    write(home / "answers.json", answers)
    return home


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``config.json`` and a finished, uninterrupted run in ``out``."""
    home = tmp_path_factory.mktemp("run")
    answer("run", ENV, "--config", write(home / "config.json", RUN), "--out", home / "out")
    return home


# The line


def test_every_command_prints_its_result_and_leaves_run_json(line: Path) -> None:
    answers = json.loads((line / "answers.json").read_text())
    assert [a["command"] for a in answers] == ["collect", "collect", "fit", "calibrate", "train", "score"]
    for spoken in answers:
        assert set(spoken) == {"command", "out", "result", "ledger"}
        left = artifacts.read_json(Path(spoken["out"]) / "run.json")
        assert set(left) == {"command", "config", "versions", "ledger"}
        assert left["command"] == spoken["command"]
        assert left["ledger"] == spoken["ledger"]
        assert set(left["ledger"]) == {"wall_s", "cpu_s", "real_steps", "imagined_steps"}
        assert left["ledger"]["wall_s"] > 0


def test_the_ledger_counts_steps(line: Path) -> None:
    real = [a["ledger"]["real_steps"] for a in json.loads((line / "answers.json").read_text())]
    imagined = [a["ledger"]["imagined_steps"] for a in json.loads((line / "answers.json").read_text())]
    assert real[:5] == [200, 200, 0, 0, 0]
    assert imagined[:3] == [0, 0, 0]
    assert imagined[4] == 512  # SB3 finishes the rollout it is in
    assert min(imagined[3], imagined[5], real[5]) > 0


def test_artifacts_load_through_the_api(line: Path) -> None:
    world = wmgym.load(line / "world")
    assert world.calibration is not None
    assert world.calibration.horizon == 4
    assert world.provenance.fit["config"]["max_updates"] == 10  # --updates goes over --config
    assert wmgym.load(line / "raw").calibration is None
    report = wmgym.GapReport.load(line / "scored/report.json")
    assert report["PPO in imagination"].name == wmgym.load_policy(line / "trained/policy").name


def test_people_get_a_table(line: Path, tmp_path: Path) -> None:
    policy = line / "trained/policy"
    scored = call("score", line / "world", "--policy", policy, "--episodes", 2, "--out", tmp_path / "s")
    assert scored.exit_code == 0
    for text in (
        "PPO in imagination",
        "random",
        "real return",
        "gap %",
        "diverged",
        "verdict: do not trust",
        "There is too little evidence: 1 policy",
        "real_steps",
        str(tmp_path),
    ):
        assert text in scored.stdout
    same = wmgym.GapReport.load(line / "scored/report.json")
    assert f"{same['random'].real_mean:.1f} [" in scored.stdout
    bounds = call("calibrate", line / "raw", line / "held-out", "--horizon", 3, "--out", tmp_path / "w")
    rows = [row.split()[0] for row in bounds.stdout.splitlines() if row[:1].isdigit()]
    assert rows == ["1", "2", "3"]


def test_bounds_can_be_updated(line: Path, tmp_path: Path) -> None:
    answer("collect", ENV, "--steps", 60, "--seed", 9, "--out", tmp_path / "new")
    update = ("calibrate", line / "world", tmp_path / "new", "--update")
    result = answer(*update, "--out", tmp_path / "adapted")["result"]
    old = wmgym.load(line / "world").calibration
    assert old is not None
    assert (result["level"], result["horizon"]) == (old.level, old.horizon)
    assert result["before"]["episodes"] == result["episodes"] - old.episodes > 0
    table = wmgym.load(tmp_path / "adapted").calibration
    assert table is not None
    assert len(table.fingerprints) == result["episodes"]
    assert "new episodes" in call(*update, "--out", tmp_path / "again").stdout


def test_policies_drive_collecting(line: Path, tmp_path: Path) -> None:
    policy, copy = line / "trained/policy", tmp_path / "copy"
    shutil.copytree(policy, copy)
    collect = ("collect", ENV, "--steps", 60, "--noise", 0.1)
    one = answer(*collect, "--policy", policy, "--out", tmp_path / "one")
    assert one["result"]["policies"] == ["PPO in imagination"]
    two = answer(*collect, "--policy", policy, "--policy", copy, "--out", tmp_path / "two")
    assert two["result"]["policies"] == sorted([str(policy), str(copy)])  # they share a name


def test_collecting_again_leaves_foreign_files_alone(tmp_path: Path) -> None:
    out = tmp_path / "data"
    answer("collect", ENV, "--steps", 20, "--out", out)
    (out / "notes.txt").write_text("mine")
    answer("collect", ENV, "--steps", 30, "--out", out)
    assert (out / "notes.txt").read_text() == "mine"
    assert (
        len(wmgym.Transitions.load(out))
        == artifacts.read_json(out / "run.json")["ledger"]["real_steps"]
        == 30
    )


# run


def test_run_again_does_nothing_and_prints_the_same(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tree(finished / "out")
    forbid = _raises(AssertionError("a finished stage ran again"))
    for module, name in [*STAGES, (run_module, "write_page")]:
        monkeypatch.setattr(module, name, forbid)
    run = ("run", ENV, "--config", finished / "config.json", "--out", finished / "out")
    first, second = call(*run), call(*run)
    assert first.exit_code == 0, first.output
    assert first.stdout == second.stdout
    assert "PPO after 300 real steps" in first.stdout
    assert "imagined_steps" in first.stdout
    assert tree(finished / "out") == before
    spoken = answer(*run)
    assert spoken["ledger"] == artifacts.read_json(finished / "out/run.json")["ledger"]
    assert (spoken["ledger"]["real_steps"], spoken["ledger"]["imagined_steps"]) == (400, 1024)
    assert spoken["result"] == artifacts.read_json(finished / "out/report.json")


def test_a_run_interrupted_in_every_stage_ends_like_an_uninterrupted_one(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in STAGES:
        monkeypatch.setattr(module, name, _interrupted_once(getattr(module, name)))
    run = ("run", ENV, "--config", finished / "config.json", "--out", tmp_path / "out", "--json")
    codes = [call(*run).exit_code for _ in range(len(STAGES) + 1)]
    assert codes == [130] * len(STAGES) + [0]
    for name in ("world/manifest.json", "policy/manifest.json"):
        assert (tmp_path / "out" / name).read_bytes() == (finished / "out" / name).read_bytes()
    reports = [wmgym.GapReport.load(place / "report.json") for place in (tmp_path / "out", finished / "out")]
    assert reports[0] == reports[1]  # but for the time that it took


def test_steps_go_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[wmgym.RunConfig] = []
    monkeypatch.setattr(run_module, "run", lambda config, *rest, **more: seen.append(config) or 1 / 0)
    config = write(tmp_path / "c.json", RUN)
    for steps in ((), ("--steps", 350), ("--steps", 650)):
        assert isinstance(
            call("run", ENV, "--config", config, "--out", tmp_path / "r", *steps).exception, ZeroDivisionError
        )
    assert [c.real_steps for c in seen] == [400, 350, 650]
    assert [[each.real_steps for each in c.rounds] for c in seen] == [
        [200, 100],
        [200, 50],
        [200, 100, 100, 100, 50],
    ]
    assert seen[0].fit == replace(wmgym.recipe(ENV).fit, **FIT)


def test_the_algorithm_goes_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[wmgym.RunConfig] = []
    monkeypatch.setattr(run_module, "run", lambda config, *rest, **more: seen.append(config) or 1 / 0)
    config = write(tmp_path / "c.json", {"train": {"algorithm": "PPO", "num_envs": 8}})
    for arguments in ((), ("--algorithm", "SAC"), ("--algorithm", "SAC", "--config", config)):
        call("run", "HalfCheetah-v5", "--out", tmp_path / "r", *arguments)
    assert [each.train.algorithm for each in seen] == ["DynaSAC", "SAC", "SAC"]
    assert [each.train.num_envs for each in seen] == [64, 128, 8]
    assert seen[1] == wmgym.recipe("HalfCheetah-v5", train={"algorithm": "SAC"})
    assert seen[1].rounds


def test_flat_settings_of_version_0_1_run(finished: Path, tmp_path: Path) -> None:
    flat = {
        "rounds": RUN["rounds"], "calibration_steps": 100, "collect_limit": 50, "fit": FIT,
        "algorithm": "PPO", "num_envs": 8, "horizon": 10, "hyperparameters": PPO, "score_episodes": 2,
    }  # fmt: skip
    before = tree(finished / "out")
    result = call(
        "run", ENV, "--config", write(tmp_path / "flat.json", flat), "--out", finished / "out", "--json"
    )
    assert result.exit_code == 0, result.output
    assert "warning: horizon is train.max_episode_steps now" in result.stderr
    assert result.stderr.count("\n") == len(flat) - 2
    assert json.loads(result.stdout)["result"] == artifacts.read_json(finished / "out/report.json")
    assert tree(finished / "out") == before


def test_run_in_python_takes_an_env_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[wmgym.RunConfig] = []

    class Stop:
        def __init__(self, config: wmgym.RunConfig, *rest: Any) -> None:
            seen.append(config)
            raise ZeroDivisionError

    monkeypatch.setattr(run_module, "_Run", Stop)
    for config in (ENV, wmgym.RunConfig(ENV)):
        with pytest.raises(ZeroDivisionError):
            wmgym.run(config, tmp_path)
    assert isinstance(call("run", ENV, "--out", tmp_path / "o").exception, ZeroDivisionError)
    assert seen[0] == seen[1] == seen[2] == wmgym.recipe(ENV)  # the same from Python and here


# Envs of one's own

OWN = """
import gymnasium, numpy
class Drift(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-numpy.inf, numpy.inf, (2,), numpy.float64)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), numpy.float32)
    def __init__(self, speed=1.0, render_mode=None):
        self.speed = speed
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.normal(size=2)
        return self.x.copy(), {}
    def step(self, action):
        self.x = 0.9 * self.x + 0.1 * self.speed * action[0]
        return self.x.copy(), -abs(self.x).sum(), False, False, {}
gymnasium.register("Drift-v0", entry_point=Drift)
"""


def test_modules_of_the_working_directory_are_found(tmp_path: Path) -> None:
    (tmp_path / "drifting.py").write_text(OWN)
    (tmp_path / "bin").mkdir()
    script = (
        tmp_path / "bin/wmgym"
    )  # as pip installs it: its own folder comes first, not the working directory
    script.write_text("from wmgym.app.cli import main\nmain()\n")
    collect = ("collect", "drifting:Drift-v0", "--steps", "40", "--max-episode-steps", "10", "--json")
    for i, command in enumerate([(str(script),), ("-m", "wmgym")]):
        kwargs = ("--env-kwargs", '{"speed": 0.0}')
        done = _python(*command, *collect, *kwargs, "--out", f"data-{i}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["result"]["episodes"] == 4
        left = artifacts.read_json(tmp_path / f"data-{i}/run.json")["config"]
        assert (left["env_kwargs"], left["max_episode_steps"]) == ({"speed": 0.0}, 10)
    for name in ("queue", "torch", "colorsys"):  # the script looks into the working directory last
        (tmp_path / f"{name}.py").write_text("raise SystemExit(9)")
    refused = _python(str(script), "score", "world", "--out", "o", cwd=tmp_path)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1), refused.stderr
    data = wmgym.Transitions.load(tmp_path / "data-0")
    assert data.task.env_kwargs == {"speed": 0.0}
    assert abs(data.next_obs - 0.9 * data.obs).max() < 1e-6  # nothing moves it


def test_an_env_without_a_time_limit_can_be_run_with_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        gym.registry, "Endless-v0", gym.envs.registration.EnvSpec("Endless-v0", LinearGaussianEnv)
    )
    config = write(tmp_path / "c.json", RUN | {"rounds": RUN["rounds"][:1]})
    run = ("run", "Endless-v0", "--config", config, "--out", tmp_path / "o")
    refused = call(*run)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "has no time limit; set max_episode_steps" in refused.stderr
    report = answer(*run, "--max-episode-steps", 20)["result"]
    assert {entry["real_length"] for entry in report["scores"]} == {20.0}
    assert wmgym.load(tmp_path / "o/world").task.max_episode_steps == 20


@pytest.mark.parametrize("text", ["speed", "[1]", "{'a': 1}"])
def test_env_kwargs_must_be_a_json_object(text: str, tmp_path: Path) -> None:
    result = call("collect", ENV, "--steps", 10, "--env-kwargs", text, "--out", tmp_path / "o")
    assert result.exit_code == 2
    assert "is not" in result.stderr


def test_shipped_worlds_and_directories_of_policies_are_scored(line: Path, tmp_path: Path) -> None:
    short = ("--episodes", 2, "--max-episode-steps", 5, "--out", tmp_path / "o")
    report = answer("score", ENV, "--policy", line / "trained", *short)["result"]
    assert {entry["name"] for entry in report["scores"]} == {"PPO in imagination", "random"}
    assert report["max_episode_steps"] == 5


def test_a_score_and_a_world_become_a_page(line: Path, tmp_path: Path) -> None:
    out = tmp_path / "a <b> & ü.html"
    assert answer("report", line / "scored", "--out", out)["page"] == str(out)
    page = out.read_text()
    assert f"wmgym score {line / 'world'} --policy {line / 'trained/policy'} --episodes 2" in page
    assert "data:video/mp4;base64," in page  # the world and the policy are still where they were
    short = ("--episodes", 2, "--max-episode-steps", 5)
    said = call("report", line / "world", "--policy", line / "trained", *short, "--out", tmp_path / "w.html")
    assert said.exit_code == 0
    assert said.stdout.splitlines()[-1] == f"open {tmp_path / 'w.html'}"
    assert artifacts.read_json(tmp_path / "w.json")["episodes"] == 2


def test_a_policy_is_filmed(line: Path, tmp_path: Path) -> None:
    policy = line / "trained/policy"
    answer("video", line / "world", "--policy", policy, "--seconds", 0.2, "--out", tmp_path / "v.mp4")
    assert (tmp_path / "v.mp4").read_bytes()[4:8] == b"ftyp"
    refused = call("video", line / "world", "--seconds", 0.2, "--out", tmp_path / "v.gif")
    assert refused.exit_code == 1
    assert "must end in .mp4" in refused.stderr


def test_training_is_logged(line: Path) -> None:
    rows = artifacts.read_json(line / "trained/learning.json")["rows"]
    assert rows[-1]["imagined_steps"] >= 500
    assert {"return", "length"} <= rows[-1].keys()
    assert list((line / "trained").glob("events.*"))


def test_without_policies_random_actions_are_scored(line: Path, tmp_path: Path) -> None:
    report = answer("score", line / "world", "--episodes", 2, "--out", tmp_path / "o")["result"]
    assert [entry["name"] for entry in report["scores"]] == ["random"]


@pytest.mark.filterwarnings("ignore:the agent does not act as", "ignore:the training made")  # so short
def test_a_training_goes_on_from_a_policy(line: Path, tmp_path: Path) -> None:
    few = ("--algorithm", "SAC", "--steps", 8, "--envs", 2, "--policy", line / "trained/policy")
    answer("train", line / "world", *few, "--out", tmp_path / "o")
    assert artifacts.read_json(tmp_path / "o/run.json")["config"]["policy"].endswith("trained/policy")
    missing = call("train", line / "world", "--policy", tmp_path / "none", "--out", tmp_path / "p")
    assert missing.exit_code != 0
    assert not (tmp_path / "p").exists()


def test_a_training_without_a_finished_episode_says_so(line: Path, tmp_path: Path) -> None:
    few = ("--algorithm", "SAC", "--steps", 2, "--envs", 2)
    shown = call("train", line / "world", *few, "--out", tmp_path / "o").stdout
    assert "no episode ended" in shown
    assert "None" not in shown


def test_infinite_keywords_are_stored(tmp_path: Path) -> None:
    hopper = ("Hopper-v5", "--env-kwargs", '{"healthy_z_range": [0.7, Infinity]}')
    answer("collect", *hopper, "--steps", 20, "--out", tmp_path / "data")
    stored = {"healthy_z_range": [0.7, {"float": "inf"}]}
    assert artifacts.read_json(tmp_path / "data/run.json")["config"]["env_kwargs"] == stored
    config = wmgym.RunConfig("Hopper-v5", env_kwargs={"healthy_z_range": (0.7, float("inf"))})
    assert config.to_dict()["env_kwargs"] == stored
    assert wmgym.RunConfig(**json.loads(json.dumps(config.to_dict(), allow_nan=False))) == config


def test_old_flags_work_and_say_so(line: Path, tmp_path: Path) -> None:
    keywords = ("--algorithm", "PPO", "--steps", 64, "--hyperparameters", line / "ppo.json")
    result = call("train", line / "world", *keywords, "--horizon=3", "--out", tmp_path / "o")
    assert result.exit_code == 0, result.output
    assert "warning: --horizon is --max-episode-steps now; " in result.stderr
    left = artifacts.read_json(tmp_path / "o/run.json")
    assert left["config"]["train"]["max_episode_steps"] == 3
    apart = call("train", tmp_path / "no-world", "--horizon", 3, "--out", tmp_path / "p")
    assert (apart.exit_code, apart.stderr.count("--max-episode-steps now")) == (1, 1)
    assert "--horizon" not in call("train", "--help").stdout


# Mistakes: exit 1, one line on stderr, nothing on stdout, nothing left behind


def _damage(file: Path) -> None:
    payload = bytearray(file.read_bytes())
    payload[len(payload) // 2] ^= 1
    file.write_bytes(payload)


def _score(world: object, policy: str = "{line}/trained/policy", out: str = "{tmp}/o") -> str:
    return f"score {world} --policy {policy} --out {out}"


MISTAKES = {
    "collect: unknown env": ("collect Foo-v0 --steps 10 --out {tmp}/o", "registers it: 'my_module:Foo-v0'"),
    "collect: out is under a file": ("collect " + ENV + " --steps 1 --out {tmp}/file/o", "cannot be written"),
    "collect: out is a file": ("collect " + ENV + " --steps 10 --out {tmp}/file", "cannot be written"),
    "collect: out is foreign": ("collect " + ENV + " --steps 10 --out {tmp}/foreign", "another --out"),
    "collect: out is a world": ("collect " + ENV + " --steps 10 --out {line}/world", "another --out"),
    "collect: no policy": ("collect " + ENV + " --steps 9 --policy {tmp}/x --out {tmp}/o", "x is missing"),
    "collect: policy is of another env": (
        "collect Hopper-v5 --steps 9 --policy {line}/trained/policy --out {tmp}/o",
        "acts in Box(-3.0, 3.0, (1,), float32)",
    ),
    "fit: no data": ("fit {tmp}/x --out {tmp}/o", "x is missing"),
    "fit: data is a world": ("fit {line}/world --out {tmp}/o", "not a 'transitions'"),
    "fit: unknown key": ("fit {line}/data --config {tmp}/unknown.json --out {tmp}/o", "json.hue: Unexp"),
    "fit: wrong type": ("fit {line}/data --config {tmp}/typed.json --out {tmp}/o", "json.members: Inp"),
    "fit: no JSON": ("fit {line}/data --config {tmp}/file --out {tmp}/o", "is not a JSON object"),
    "fit: no config": ("fit {line}/data --config {tmp}/x.json --out {tmp}/o", "is missing"),
    "calibrate: no world": ("calibrate {tmp}/x {line}/held-out --out {tmp}/o", "x is missing"),
    "calibrate: seen data": ("calibrate {line}/raw {line}/data --out {tmp}/o", "never saw"),
    "calibrate: bad level": ("calibrate {line}/raw {line}/held-out --level 2 --out {tmp}/o", "level"),
    "score: a policy": (
        "score {line}/trained/policy --out {tmp}/o", "world --policy {line}/trained/policy --out DIR",
    ),
    "score: where a policy is": ("score {line}/trained --out {tmp}/o", "trained/policy --out DIR"),
    "score: where a world is": ("score {finished}/out --out {tmp}/o", "its world in {finished}/out/world"),
    "train: out is data": ("train {line}/world --out {line}/data", "holds a wmgym 'transitions'"),
    "run: out is data": ("run " + ENV + " --steps 5000 --out {line}/data", "holds a wmgym 'transitions'"),
    "train: no world": ("train {tmp}/x --out {tmp}/o", "x is missing"),
    "train: unknown algorithm": ("train {line}/world --algorithm FOO --out {tmp}/o", "algorithm must be"),
    "train: wrong algorithm": ("train {line}/world --algorithm DQN --out {tmp}/o", "DQN refuses"),
    "train: unknown keyword": (
        "train {line}/world --hyperparameters {tmp}/unknown.json --out {tmp}/o", "'hue'",
    ),
    "train: agent cannot be saved": (
        "train {line}/world --algorithm SAC --hyperparameters {tmp}/sde.json --out {tmp}/o", "not supported",
    ),
    "train: out is under a file": ("train {line}/world --out {tmp}/file/o", "cannot be written"),
    "score: no world": (_score("{tmp}/x"), "x is missing"),
    "score: no policy": (_score("{line}/world", "{tmp}/x"), "x is missing"),
    "score: same policy twice": (
        _score("{line}/world", "{line}/trained/policy --policy {line}/trained/policy"), "given twice",
    ),
    "score: damaged arrays": (_score("{tmp}/damaged-arrays"), "is damaged"),
    "score: damaged document": (_score("{tmp}/damaged-document"), "is damaged"),
    "score: damaged manifest": (_score("{tmp}/damaged-manifest"), "is damaged"),
    "report: no world": ("report {tmp}/x --out {tmp}/o.html", "x is missing"),
    "report: of a world, without a name": ("report {line}/world", "pass --out FILE.html"),
    "report: scored already": (
        "report {line}/scored --policy {line}/trained/policy --out {tmp}/o.html", "goes with a world",
    ),
    "video: no world": ("video {tmp}/x --out {tmp}/o.mp4", "x is missing"),
    "video: of several policies": (
        "video {line}/world --policy policies/InvertedPendulum-v5 --out {tmp}/o.mp4", "name one",
    ),
    "run: unknown env": ("run Foo-v0 --out {tmp}/o", "Foo"),
    "run: unknown key": ("run " + ENV + " --config {tmp}/unknown.json --out {tmp}/o", "settings ['hue']"),
    "run: unknown nested key": ("run " + ENV + " --config {tmp}/nested.json --out {tmp}/o", "fit.hue: "),
    "run: unknown budget": ("run " + ENV + " --config {tmp}/budget.json --out {tmp}/o", "hue"),
    "run: empty round": ("run " + ENV + " --config {tmp}/round.json --out {tmp}/o", "at least 1"),
    "run: no rounds": ("run " + ENV + " --config {tmp}/rounds.json --out {tmp}/o", "at least one"),
    "run: no such schedule": ("run " + ENV + " --config {tmp}/schedule.json --out {tmp}/o", "lin_"),
    "run: unknown keyword": ("run " + ENV + " --config {tmp}/keyword.json --out {tmp}/o", "'hue'"),
    "run: trust": ("run " + ENV + " --config {tmp}/trust.json --out {tmp}/o", "leave it out"),
    "run: no such trust": ("run " + ENV + " --config {tmp}/no-trust.json --out {tmp}/o", "trust.on_exceed"),
    "run: misspelt trust": ("run " + ENV + " --config {tmp}/typo.json --out {tmp}/o", "trust.hue: Unexp"),
    "run: missing budgets": (
        "run " + ENV + " --config {tmp}/part.json --out {tmp}/o",
        "rounds.0.fit_updates: Field required; rounds.0.imagined_steps: Field required",
    ),
    "run: DynaSAC without its readouts": (
        "run Ant-v5 --out {tmp}/o", "contact_cost_weight=0",
    ),
    "run: too few steps": ("run " + ENV + " --steps 10 --out {tmp}/o", "real_steps=10"),
    "run: out is under a file": ("run " + ENV + " --out {tmp}/file/o", "cannot be written"),
    "run: other settings": (
        "run " + ENV + " --seed 5 --config {finished}/config.json --out {finished}/out",
        "holds a run with other settings: seed; choose",
    ),
    "run: other nested settings": (
        "run " + ENV + " --config {tmp}/fewer.json --out {finished}/out",
        "other settings: evaluate.episodes, train.hyperparameters.n_epochs; choose",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(
    mistake: str, line: Path, finished: Path, tmp_path: Path
) -> None:
    command, reason = MISTAKES[mistake]
    reason = reason.replace("{line}", str(line)).replace("{finished}", str(finished))
    (tmp_path / "file").write_text("text")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/notes.txt").write_text("mine")
    write(tmp_path / "unknown.json", {"hue": 1})
    write(tmp_path / "typed.json", {"members": "two"})
    write(tmp_path / "nested.json", {"fit": {"hue": 1}})
    budgets = {"real_steps": 1, "fit_updates": 1, "imagined_steps": 1}
    write(tmp_path / "budget.json", {"rounds": [budgets | {"hue": 1}]})
    write(tmp_path / "round.json", {"rounds": [budgets | {"real_steps": 0}]})
    write(tmp_path / "rounds.json", {"rounds": []})
    write(tmp_path / "schedule.json", {"train": {"hyperparameters": {"learning_rate": "fast"}}})
    write(tmp_path / "keyword.json", {"train": {"hyperparameters": {"hue": 1}}})
    write(tmp_path / "trust.json", {"train": {"trust": {"on_exceed": "truncate"}}})
    write(tmp_path / "no-trust.json", {"train": {"trust": {"on_exceed": "panic"}}})
    write(tmp_path / "typo.json", {"train": {"trust": {"hue": 1}}})
    write(tmp_path / "part.json", {"rounds": [{"real_steps": 1}]})
    fewer = RUN["train"] | {"hyperparameters": PPO | {"n_epochs": 2}}
    write(tmp_path / "fewer.json", RUN | {"evaluate": {"episodes": 3}, "train": fewer})
    write(tmp_path / "sde.json", {"use_sde": True})
    if "{tmp}/damaged-" in command:
        part = mistake.split()[-1]
        shutil.copytree(line / "world", tmp_path / f"damaged-{part}")
        _damage(next((tmp_path / f"damaged-{part}").glob(f"{part}*")))
    before = [tree(folder) for folder in (tmp_path, line, finished)]
    result = call(*command.format(tmp=tmp_path, line=line, finished=finished).split(), "--json")
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert reason in result.stderr
    assert [tree(folder) for folder in (tmp_path, line, finished)] == before


@pytest.mark.parametrize(
    "command",
    ["", "nonsense", "collect", f"collect {ENV} --steps 10", f"collect {ENV} --steps 0 --out {{tmp}}/o",
     f"collect {ENV} --steps 10 --seed -1 --out {{tmp}}/o", "score {tmp}/w",
     f"collect {ENV} --steps 10 --steps=20 --out {{tmp}}/o", "train w --policy a --policy b --out {tmp}/o"],
)  # fmt: skip
def test_wrong_usage_exits_2(command: str, tmp_path: Path) -> None:
    assert call(*command.format(tmp=tmp_path).split()).exit_code == 2
    assert tree(tmp_path) == {}


# What a command does around its work


def test_an_env_that_misbehaves_is_the_users_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect_module, "collect", _raises(rollout_worker.CollectError("step 3: not finite")))
    result = call("collect", ENV, "--steps", 10, "--out", tmp_path / "o")
    assert (result.exit_code, result.stderr) == (1, "error: step 3: not finite\n")


def test_ctrl_c_exits_130(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect_module, "collect", _raises(KeyboardInterrupt()))
    result = call("collect", ENV, "--steps", 10, "--out", tmp_path / "o")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "interrupted\n")
    assert tree(tmp_path) == {}


def test_a_bug_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect_module, "collect", _raises(ZeroDivisionError()))
    result = call("collect", ENV, "--steps", 10, "--out", tmp_path / "o")
    assert isinstance(result.exception, ZeroDivisionError)


def test_warnings_and_stray_prints_go_to_stderr_as_plain_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = collect_module.collect

    def noisy(*args: Any, **kwargs: Any) -> Any:
        print("stray")
        warnings.warn("\x1b[33mone\ntwo\x1b[0m", stacklevel=1)
        return real(*args, **kwargs)

    monkeypatch.setattr(collect_module, "collect", noisy)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        result = call("collect", ENV, "--steps", 10, "--out", tmp_path / "o", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["result"]["steps"] == 10
    assert result.stderr == "stray\nwarning: one two\n"


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    source = (
        "import sys; from typer.testing import CliRunner; from wmgym.app import cli\n"
        "for args in ([], ['collect'], ['run'], ['doctor']):\n"
        "    result = CliRunner().invoke(cli.app, [*args, '--help']); assert result.exit_code == 0\n"
        "    assert not args or 'Example: wmgym ' + args[0] in result.stdout, result.stdout\n"
        "print(sorted({'torch', 'mujoco', 'stable_baselines3', 'scipy'} & set(sys.modules)))"
    )
    assert _python("-c", source).stdout == "[]\n"


def test_the_process_itself_says_one_line(tmp_path: Path) -> None:
    done = _python("-m", "wmgym.app.cli", "collect", "Foo-v0", "--steps", "10", "--out", str(tmp_path / "o"))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert tree(tmp_path) == {}


def test_version() -> None:
    assert call("--version").stdout == f"wmgym {wmgym.__version__}\n"


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("warn", 0), ("fail", 1)])
def test_doctor_fails_on_a_failed_finding_only(
    status: doctor.Status, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = (doctor.Finding("python", "ok", "3.11"), doctor.Finding("GL", status, "none", "do [this]"))
    monkeypatch.setattr(doctor, "examine", lambda: found)
    shown = call("doctor")
    assert shown.exit_code == code
    assert "do [this]" in shown.stdout
    spoken = call("doctor", "--json")
    assert spoken.exit_code == code
    assert json.loads(spoken.stdout)["ok"] is (code == 0)
    assert json.loads(spoken.stdout)["findings"][1]["status"] == status


STAGES: list[tuple[Any, str]] = [
    (run_module, "collect"), (run_module, "fit"), (sb3, "train"), (run_module, "calibrate"),
    (run_module, "score"),
]  # fmt: skip


def _raises(error: BaseException) -> Callable[..., Any]:
    def function(*args: Any, **kwargs: Any) -> Any:
        raise error

    return function


def _interrupted_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose first call is interrupted after its work, before anything is recorded."""
    calls: list[int] = []

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return result

    return wrapped


def _python(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *args], env=env, cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )
