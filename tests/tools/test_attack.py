"""A small part of ``tools.attack``: nothing goes wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tools import attack
from tools.attacks import harness

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own counts of memory")


@pytest.mark.parametrize("name", ["artifacts", "zips"])
def test_nothing_goes_wrong(name: str, tmp_path: Path) -> None:
    tried, findings = harness.watch(attack.attack(name), 1, tmp_path / name, attack.ATTACKS[name][0])
    assert sum(tried.values()) >= attack.ATTACKS[name][0]
    assert not findings


def test_whatever_goes_wrong_is_found(tmp_path: Path) -> None:
    tried, findings = harness.watch(_wrong, 0, tmp_path, 0)
    assert tried == {"toy": 8}
    found = {finding.name: finding.wrong for finding in findings}
    assert found == {
        "raises": "exception", "two lines": "exception", "no name": "exception", "ends": "exception",
        "spins": "hang", "eats": "memory", "takes it": "accepted",
    }  # fmt: skip


def _wrong(rng: object, folder: Path, count: int):  # type: ignore[no-untyped-def]
    def raises(error: Exception) -> object:
        raise error

    yield harness.Attempt("toy", "sound", lambda: None, sound=True)
    for name, act in {
        "raises": lambda: raises(KeyError("x")),
        "two lines": lambda: raises(ValueError("a file\nand more")),
        "no name": lambda: raises(ValueError("something")),
        "ends": lambda: harness.os._exit(3),
        "spins": lambda: sum(range(10_000_000)) and None,
        "eats": lambda: (b"x" * 200_000_000)[:0] or None,
        "takes it": lambda: ("accepted", "nonsense"),
    }.items():
        yield harness.Attempt("toy", name, act, named="a file", seconds=0.05 if name == "spins" else 2.0)
