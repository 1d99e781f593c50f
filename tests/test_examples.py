"""Every example runs as a user would run it, only shorter."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import wmgym

ROOT = Path(__file__).resolve().parents[1]
SHORT = {
    "cleanrl_ppo.py": ["--updates", "40"],
    "one_string.py": ["--steps", "8000"],
    "own_dynamics.py": [],
    "plan_by_gradient.py": ["--real-steps", "2000", "--updates", "400", "--starts", "4"],
    "reality_gap.py": [
        "--real-steps",
        "600",
        "--train-steps",
        "64",
        "--simulator-steps",
        "0",
        "--episodes",
        "2",
    ],
    "run_exported.py": [],
    "torchrl_env.py": ["--steps", "100"],
}


def run(name: str, *given: str) -> str:
    command = [sys.executable, str(ROOT / "examples" / name), *SHORT[name], *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr[-2_000:]
    return done.stdout


def test_every_example_is_run_here_and_short() -> None:
    scripts = sorted((ROOT / "examples").glob("*.py"))
    assert [path.name for path in scripts] == sorted(SHORT)
    for path in scripts:
        assert len(path.read_text().splitlines()) <= 60


@pytest.mark.slow
def test_one_string_changed_trains_an_agent_that_works_in_mujoco() -> None:
    returns = re.findall(r"real return: ([\d.]+)", run("one_string.py"))
    assert len(returns) == 2
    assert min(map(float, returns)) > 50  # random actions hold the pole for about 7 steps


def test_exported_files_run_without_wmgym_and_return_what_it_does(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(0)
    weight, ones = rng.normal(size=(11, 3)).astype(np.float32) / 3, np.ones(3, np.float32)
    policy = wmgym.MLPPolicy("mine", (weight,), (0 * ones,), "relu", "squash", -ones, ones)
    world = wmgym.load("Hopper-v5")
    files = world.export(tmp_path / "world.onnx"), policy.export(tmp_path / "policy.onnx")
    text = (ROOT / "examples" / "run_exported.py").read_text()
    assert not {"wmgym", "torch"} & set(re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE))
    said = run("run_exported.py", *map(str, files))
    found = re.match(r"return ([-\d.]+) in (\d+) steps of 0.008 s", said)
    assert found is not None
    env = wmgym.ImaginedEnv(world, starts=world.starts[:1])
    for seed in range(100):
        obs, _ = env.reset(seed=seed)
        if env.snapshot().state.member.item() == 0:
            break
    total, steps, over = 0.0, 0, False
    while not over:
        obs, reward, terminated, truncated, _ = env.step(policy(obs))
        total, steps, over = total + float(reward), steps + 1, terminated or truncated
    assert steps == int(found[2])
    assert total == pytest.approx(float(found[1]), rel=1e-2)


@pytest.mark.slow
def test_cleanrl_learns_in_imagination() -> None:
    (found,) = re.findall(r"imagined return: ([\d.]+)", run("cleanrl_ppo.py"))
    assert float(found) > 30


@pytest.mark.slow
def test_torchrl_takes_the_id_like_any_other() -> None:
    said = run("torchrl_env.py")
    assert "steps: 100" in said
    assert int(re.findall(r"episodes ended: (\d+)", said)[0]) > 2


@pytest.mark.timeout(300)
@pytest.mark.slow
def test_planning_by_gradient_beats_doing_nothing_in_mujoco() -> None:
    said = {
        name.strip(): float(value)
        for name, value in re.findall(r"(.*):\s+(-?[\d.]+)", run("plan_by_gradient.py"))
    }
    assert said["real return of the plans"] > said["real return of no action"] + 1
    assert abs(said["imagined return of the plans"] - said["real return of the plans"]) < 0.5


@pytest.mark.slow
def test_a_model_of_ones_own_goes_the_whole_way_and_is_scored() -> None:
    said = run("own_dynamics.py")
    assert "observation: [" in said
    (real, imagined), (least, _) = re.findall(r"real ([\d.]+) \[.*imagined ([\d.]+) \[", said)
    assert float(real) > 100  # the policy balances for longer than any episode that the model was fitted to
    assert float(imagined) > 10 * float(least)  # and the model knows it from a random one
    assert abs(float(imagined) - float(real)) < 0.4 * float(real)


@pytest.mark.timeout(300)
@pytest.mark.slow
def test_a_gap_is_measured_and_closed_and_a_policy_gated() -> None:
    said = run("reality_gap.py")
    error = {name: float(value) for name, value in re.findall(r"error of (\w+): ([\d.]+)", said)}
    assert min(error["adapted"], error["hybrid"]) < error["nominal"]
    assert "real steps: 1400" in said
    assert "to deploy: " in said
    assert {"deployed", "retrained"} <= set(re.findall(r"^(\w+): real", said, re.MULTILINE))


@pytest.mark.slow
def test_an_own_robot_goes_the_whole_way(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples" / "own_robot", tmp_path / "own_robot")
    short = "learn.main(1_500, wmgym.FitConfig(members=2, width=32, max_updates=50))"
    command = [sys.executable, "-c", f"import learn, wmgym; {short}"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=250, check=False, cwd=tmp_path / "own_robot"
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    assert "6 numbers of state: shoulder, elbow, box" in done.stdout
    assert "after 20 imagined steps" in done.stdout
    assert (tmp_path / "own_robot" / "imagined.npy").exists()
