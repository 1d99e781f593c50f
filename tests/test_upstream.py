"""Gymnasium's own per-env tests, from the source distribution of the version that is installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest

import wmgym
from wmgym.archive import SHIPPED

FILES = (
    "envs/test_envs.py",
    "envs/test_action_dim_check.py",
    "envs/test_rendering.py",
    "envs/mujoco/test_mujoco_v3.py",
    "vector/test_sync_vector_env.py",
    "wrappers/test_passive_env_checker.py",
)
PLUGIN = Path(__file__).parent / "upstream"


@pytest.mark.slow
@pytest.mark.skipif(not SHIPPED.exists(), reason="no worlds ship yet; benchmarks/fit_worlds.py makes them")
def test_gymnasiums_own_tests_pass(tmp_path: Path) -> None:
    """Every one of them, over every id; what they skip, they skip for Gymnasium's own envs too."""
    wanted = f"gymnasium=={version('gymnasium')}"
    download = (
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-binary",
        ":all:",
    )
    fetched = subprocess.run(
        [sys.executable, *download, "--dest", str(tmp_path), wanted], capture_output=True, text=True
    )
    if fetched.returncode:
        pytest.skip(f"no network to fetch {wanted}: {fetched.stderr[-200:]}")
    (source,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        archive.extractall(tmp_path, filter="data")
    (root,) = (path for path in tmp_path.iterdir() if path.is_dir())
    paths = os.pathsep.join([str(PLUGIN), str(root), str(Path(wmgym.__file__).parent.parent)])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "wmgym_upstream", "-p", "no:cacheprovider",
         *(f"tests/{name}" for name in FILES)],
        cwd=root, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True,
    )  # fmt: skip
    last = done.stdout.strip().splitlines()[-1]
    print(last)
    assert done.returncode == 0, done.stdout[-4_000:]
    passed = re.search(r"(\d+) passed", last)
    assert passed is not None
    assert int(passed[1]) >= 8 * len(wmgym.MUJOCO_IDS)
