"""The README's example, run as printed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_the_example_runs_as_printed(tmp_path: Path) -> None:
    (code,) = re.findall(r"<!-- example -->\n```python\n(.*?)```", README, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    line = r"^mine: real [\d,.]+ \[.*\], imagined [\d,.]+ \[.*\], gap [+-]"
    assert re.search(line, done.stdout, re.MULTILINE)
