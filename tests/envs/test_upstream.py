"""Gymnasium's own per-env tests, from the source of the version that is installed.

They are in its repository and not in its packages: WMGYM_GYMNASIUM names a checkout of that version, else the
tag is fetched from GitHub.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
from importlib.metadata import version
from pathlib import Path

import pytest

import wmgym
from wmgym.io.registered import SHIPPED, SMALL

FILES = (
    "envs/test_envs.py",
    "envs/test_action_dim_check.py",
    "envs/test_rendering.py",
    "envs/mujoco/test_mujoco_v3.py",
    "vector/test_sync_vector_env.py",
    "wrappers/test_passive_env_checker.py",
)
OTHERS = ("test_render_sync_vector", "test_call_sync_vector_env", "test_sync_vector_env_seed")
"""Of the vector env's tests, those of CartPole and LunarLander, which need pygame and Box2D."""
PLUGIN = Path(__file__).parents[1] / "upstream"
TAG = "https://github.com/Farama-Foundation/Gymnasium/archive/refs/tags/v{}.tar.gz"


def source(tmp_path: Path) -> Path:
    given = os.environ.get("WMGYM_GYMNASIUM")
    if given:
        return Path(given)
    url = TAG.format(version("gymnasium"))
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            packed = answer.read()
    except (urllib.error.URLError, TimeoutError) as error:
        pytest.skip(f"no network to fetch {url}: {error}")
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(tmp_path, filter="data")
    (root,) = (path for path in tmp_path.iterdir() if path.is_dir())
    return root


def test_every_task_ships_a_world() -> None:
    assert {path.name.removesuffix(SMALL) for path in SHIPPED.iterdir()} == set(wmgym.MUJOCO_IDS)
    assert all((SHIPPED / env_id).is_dir() for env_id in wmgym.MUJOCO_IDS)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("xvfb-run") is None, reason="windows need a screen: apt-get install xvfb")
def test_gymnasiums_own_tests_pass(tmp_path: Path) -> None:
    """Every one of them, over every id; what they skip, they skip for Gymnasium's own envs too."""
    root = source(tmp_path)
    paths = os.pathsep.join([str(PLUGIN), str(root), str(Path(wmgym.__file__).parent.parent)])
    done = subprocess.run(
        ["xvfb-run", "-a", sys.executable, "-m", "pytest", "-q", "-p", "wmgym_upstream", "-p",
         "no:cacheprovider", *(f"--deselect=tests/vector/test_sync_vector_env.py::{name}" for name in OTHERS),
         *(f"tests/{name}" for name in FILES)],
        cwd=root, env=os.environ | {"PYTHONPATH": paths, "MUJOCO_GL": "glfw"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4_000:] + done.stderr[-2_000:]
    last = done.stdout.strip().splitlines()[-1]
    print(last)
    passed = re.search(r"(\d+) passed", last)
    assert passed is not None
    assert int(passed[1]) >= 8 * len(wmgym.MUJOCO_IDS)
