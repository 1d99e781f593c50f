"""Most files are parsed in processes forked from one that is up already: a new one takes 0.4 s to start."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from wmgym.data.importers import read

SERVER = """
import json, os, sys
from wmgym.data.importers import child, csv, npz
for line in sys.stdin:
    asked = json.loads(line)
    pid = os.fork()
    if pid == 0:
        for number, path in enumerate((asked["task"], asked["stdout"], asked["stderr"])):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), number)
        sys.stdin = open(0)
        code = child.main()
        sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.fixture(scope="session")
def parser() -> Iterator[subprocess.Popen[str]]:
    """Forks a process for each line of its input, and answers with its exit status."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", SERVER], stdin=pipe, stdout=pipe, text=True) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(autouse=True)
def forked_parsers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests of formats and of limits start their own processes, as users do."""
    if request.path.name == "test_formats.py":
        return
    parse = read._parse

    def forked(task: Mapping[str, Any], max_seconds: float) -> subprocess.CompletedProcess[bytes]:
        if (task["gigabytes"], max_seconds) != (read.MAX_GIGABYTES, read.MAX_SECONDS):
            return parse(task, max_seconds)
        parser: subprocess.Popen[str] = request.getfixturevalue("parser")
        assert parser.stdin is not None
        assert parser.stdout is not None
        files = {name: tmp_path_factory.mktemp("parsed") / name for name in ("task", "stdout", "stderr")}
        files["task"].write_text(json.dumps({**task, "parent": parser.pid}))
        print(json.dumps({name: str(path) for name, path in files.items()}), file=parser.stdin, flush=True)
        code = int(parser.stdout.readline())
        stdout, stderr = (files[name].read_bytes() for name in ("stdout", "stderr"))
        return subprocess.CompletedProcess([], code, stdout, stderr)

    monkeypatch.setattr(read, "_parse", forked)
