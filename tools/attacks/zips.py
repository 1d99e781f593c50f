"""Zips of Stable-Baselines3: changed bytes, members, settings, tensors and pickles, and bombs."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO, SAC

from tools.attacks import forge
from tools.attacks.harness import Attempt
from wmgym.agents.sb3.load_zip import import_sb3
from wmgym.tasks.task import Task, make_task

Members = dict[str, bytes]
ACTOR = {"SAC": "actor.mu.weight", "PPO": "action_net.weight"}


def attempts(rng: np.random.Generator, folder: Path, count: int) -> Iterator[Attempt]:
    """The sound ones, bombs, then changes in random order; each is loaded whole or refused."""
    task, every = make_task("InvertedPendulum-v5"), list[Attempt]()
    target = folder / "changed.zip"
    for algorithm, build in (("SAC", SAC), ("PPO", PPO)):
        sound = folder / f"{algorithm}.zip"
        if not sound.exists():
            build("MlpPolicy", "InvertedPendulum-v5", policy_kwargs={"net_arch": [8, 8]}, device="cpu").save(
                sound
            )
        yield Attempt(f"{algorithm}: unchanged", "unchanged", _act(sound, task), sound=True)
        for name, make, refused in _changes(rng, sound, algorithm, count):
            kind, _, what = name.partition(": ")
            act = _made(make, target, task, refused)
            every.append(Attempt(f"zip, {kind}", f"{algorithm}: {what}", act, named=str(target)))
    kinds: dict[str, list[Attempt]] = {}
    for index in rng.permutation(len(every)):
        kinds.setdefault(every[index].kind, []).append(every[index])
    share = -(-count // len(kinds))  # as many of each kind, bombs first
    for kind in sorted(kinds):
        yield from kinds[kind][:share]


def _act(path: Path, task: Task, refused: bool = False) -> Callable[[], tuple[str, str] | None]:
    def act() -> tuple[str, str] | None:
        policy = import_sb3(path, task)
        action = policy(np.ones((2, 4), np.float32))
        if refused or action.shape != (2, 1) or not np.isfinite(action).all():
            return "accepted", f"acts with {action.tolist()}"
        return None

    return act


def _made(
    make: Callable[[Path], object], target: Path, task: Task, refused: bool
) -> Callable[[], tuple[str, str] | None]:
    def act() -> tuple[str, str] | None:
        target.unlink(missing_ok=True)
        make(target)
        return _act(target, task, refused)()

    return act


Change = tuple[str, Callable[[Path], object], bool]
"""Kind and name, what writes the file, and whether it must be refused."""


def _changes(rng: np.random.Generator, sound: Path, algorithm: str, count: int) -> Iterator[Change]:
    whole = sound.read_bytes()
    with zipfile.ZipFile(sound) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for _ in range(count // 4):
        at, bit = int(rng.integers(len(whole))), int(rng.integers(8))
        flipped = whole[:at] + bytes([whole[at] ^ (1 << bit)]) + whole[at + 1 :]
        yield f"bytes: bit {bit} of {at}", _writer(flipped), False
        cut = int(rng.integers(len(whole)))
        yield f"bytes: cut at {cut}", _writer(whole[:cut]), True
    for name in ("data", "policy.pth"):
        for how, content in {"gone": None, "nothing": b"", "junk": rng.bytes(500), "itself": whole}.items():
            yield f"members: {name} {how}", _members({**members, name: content}), True
        for kind in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
            yield f"members: {name} compressed by {kind}", _members(members, {name: kind}), True
    document = json.loads(members["data"])
    for at_place in forge.places(document):
        for how, value in forge.mutations(forge.look(document, at_place)):
            if at_place or value is not forge.DELETE:
                text = forge.encode(forge.put(document, at_place, value))
                name = f"settings: {forge.dotted(at_place)}: {how}"
                yield name, _members({**members, "data": text}), False
    state = torch.load(io.BytesIO(members["policy.pth"]), weights_only=True)
    for name, tensor in state.items():
        used = algorithm == "PPO" and name.startswith(("action_net", "mlp_extractor.policy", "log_std"))
        used |= algorithm == "SAC" and name.startswith("actor.")
        for how, (changed, wrong) in _tensors(tensor).items():
            yield f"tensors: {name} {how}", _tensor_file(members, {**state, name: changed}), used and wrong
        if used:
            rest = {key: value for key, value in state.items() if key != name}
            yield f"tensors: {name} gone", _tensor_file(members, rest), True
    described, inner = _inner(members["policy.pth"])
    for _ in range(count // 4):
        at, byte = int(rng.integers(len(described))), int(rng.integers(256))
        changed = described[:at] + bytes([byte]) + described[at + 1 :]
        yield f"pickle: byte {byte} at {at}", _pickle(members, inner, changed), False
    for how, payload in _pickles().items():
        yield f"pickle: {how}", _pickle(members, inner, payload), True
    yield from _bombs(members, state, inner, ACTOR[algorithm])


def _tensors(tensor: torch.Tensor) -> dict[str, tuple[Any, bool]]:
    """Other values for a tensor of the state dict, and whether they are wrong where the actor uses it."""
    nan = tensor.float().clone()
    nan.view(-1)[-1] = torch.nan
    return {
        "NaN": (nan, True), "infinite": (torch.full_like(tensor, torch.inf), True),
        "zeros": (tensor * 0, False),
        "doubles": (tensor.double(), False), "integers": (tensor.long(), tensor.ndim == 2),
        "complex": (tensor.to(torch.complex64), True), "bfloat16": (tensor.bfloat16(), True),
        "0-d": (torch.zeros(()), True), "empty": (tensor[:0], True), "an axis more": (tensor[None], True),
        "a row more": (torch.cat([tensor, tensor[-1:]]), True), "sparse": (tensor.to_sparse(), True),
        "meta": (tensor.to("meta"), True), "a parameter": (torch.nn.Parameter(tensor), False),
        "expanded": (torch.zeros(1).expand(10**6, *tensor.shape[1:]), True), "a list": ([1.0], True),
        "nested": ({"a": tensor}, True), "text": ("x", True), "none": (None, True),
        "stored by columns": (tensor.mT.clone().mT if tensor.ndim > 1 else tensor, False),
    }  # fmt: skip


def _pickles() -> dict[str, bytes]:
    laughs: Any = ()
    for _ in range(60):
        laughs = (laughs, laughs)
    return {
        "code": b"cos\nsystem\n(S'false'\ntR.", "nothing": b"", "stop": b".", "a list": pickle.dumps([]),
        "laughs": pickle.dumps(laughs, 2), "laughs as a key": b"}" + pickle.dumps(laughs, 2)[2:-1] + b"Ns.",
        "deep": b"(" * 100_000 + b".", "long integer": b"\x80\x02\x8a\xff" + b"\x7f" * 255 + b".",
        "a large long": b"\x80\x02\x8b\xff\xff\xff\x7f" + b"\x7f" * 10_000 + b".",
        "gets what is not there": b"\x80\x02h\x05.", "frames": pickle.dumps({"a": 1}, 5),
    }  # fmt: skip


def _bombs(members: Members, state: dict[str, torch.Tensor], inner: Members, key: str) -> Iterator[Change]:
    zeros, layers = (
        bytes(60_000_000),
        {"actor.mu.weight": "actor.latent_pi."}.get(key, "mlp_extractor.policy_net."),
    )
    for name in ("data", "policy.pth"):
        yield (
            f"bomb: {name} of zeros, deflated",
            _members({**members, name: zeros}, {name: zipfile.ZIP_DEFLATED}),
            True,
        )
        yield (
            f"bomb: {name} of zeros, lzma",
            _members({**members, name: zeros[:30_000_000]}, {name: 14}),
            True,
        )
    big = {**inner, "archive/data/0": zeros}
    packed = _packed(big, {"archive/data/0": zipfile.ZIP_DEFLATED})
    yield "bomb: a storage of zeros, deflated", _members({**members, "policy.pth": packed}), True
    for exponent in (6, 9, 12, 15):
        shape = (10**exponent, 4)
        yield f"bomb: a shape of 1e{exponent} rows", _resized(members, inner, state, key, shape), True
    for exponent in (6, 9):
        wide = torch.zeros(1).expand(10**exponent, 10**exponent)
        yield f"bomb: 1e{exponent} squared, of one number", _tensor_file(members, {**state, key: wide}), True
    many = dict.fromkeys((f"{layers}{2 * k}.weight" for k in range(3_000)), torch.zeros(1, 1))
    yield "bomb: thousands of layers", _tensor_file(members, {**state, **many}), True
    shared = torch.zeros(1_000_000)
    views = {f"{layers}{2 * k}.weight": shared.view(1_000, 1_000) for k in range(2_000)}
    yield "bomb: one storage thousands of times", _tensor_file(members, {**state, **views}), True
    deep = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    yield "bomb: deep settings", _members({**members, "data": deep}), True
    yield (
        "bomb: settings of digits",
        _members({**members, "data": b'{"a": ' + b"9" * 10_000_000 + b"}"}),
        True,
    )
    yield "bomb: 60,000 members", _members({**members, **{str(k): b"" for k in range(60_000)}}), True
    yield "bomb: a sparse file of 1 TB", _sparse(1 << 40), True
    yield "bomb: a named pipe", os.mkfifo, True
    yield "bomb: /dev/zero", lambda path: path.symlink_to("/dev/zero"), True
    yield "bomb: a loop of links", lambda path: path.symlink_to(path), True
    yield (
        "bomb: a quine of zips",
        _members({**members, "policy.pth": _packed({"archive/data.pkl": _packed(members)})}),
        True,
    )


def _writer(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def _packed(members: dict[str, bytes | None], kinds: dict[str, int] | None = None) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            if content is not None:
                archive.writestr(name, content, (kinds or {}).get(name, zipfile.ZIP_STORED))
    return file.getvalue()


def _members(
    members: dict[str, bytes | None], kinds: dict[str, int] | None = None
) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(_packed(members, kinds))


def _tensor_file(members: Members, state: dict[str, Any]) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        file = io.BytesIO()
        torch.save(state, file)
        path.write_bytes(_packed({**members, "policy.pth": file.getvalue()}))

    return write


def _inner(payload: bytes) -> tuple[bytes, Members]:
    """The pickle of a torch file and all of its members."""
    with zipfile.ZipFile(io.BytesIO(payload)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    return members["archive/data.pkl"], members


def _pickle(members: Members, inner: Members, described: bytes) -> Callable[[Path], object]:
    return _members({**members, "policy.pth": _packed({**inner, "archive/data.pkl": described})})


def _resized(
    members: Members, inner: Members, state: dict[str, torch.Tensor], key: str, shape: tuple[int, int]
) -> Callable[[Path], object]:
    """The state dict, one of its tensors said to be of another shape than its bytes are."""

    def write(path: Path) -> None:
        file = io.BytesIO()
        torch.save({**state, key: torch.zeros(1).expand(shape)}, file)
        described, _ = _inner(file.getvalue())
        described = described.replace(b"K\x00K\x00\x86", b"K\x04K\x01\x86")  # strides of an expanded tensor
        path.write_bytes(
            _packed({**members, "policy.pth": _packed({**inner, "archive/data.pkl": described})})
        )

    return write


def _sparse(size: int) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(size)

    return write
