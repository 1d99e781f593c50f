"""The manifest of an artifact directory: which payload files belong to it, and their SHA-256."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from wmgym.io import files
from wmgym.io.files import StoreError
from wmgym.io.schema import Record

MANIFEST = "manifest.json"
PAYLOAD = re.compile(r"arrays\.[0-9a-f]{16}\.safetensors|document\.[0-9a-f]{16}\.json")
"""Names of payload files."""


class File(Record):
    """A payload file, as the manifest describes it."""

    name: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0)]


class Files(Record):
    """The two payload files of an artifact."""

    arrays: File
    document: File


class Manifest(Record):
    """The commit point of an artifact directory."""

    format: Literal["wmgym-store"]
    version: Literal[1]
    kind: Annotated[str, Field(pattern="^[a-z][a-z0-9_-]{0,63}$")]
    files: Files


def describe(directory: Path, kind: str, payloads: Mapping[str, bytes]) -> Manifest:
    """The manifest of an artifact's payloads, by role.

    Raises:
        StoreError: the kind is no lower-case word.
    """
    hashes = {role: hashlib.sha256(payload).hexdigest() for role, payload in payloads.items()}
    described = {
        role: {"name": _payload_name(role, hashes[role]), "sha256": hashes[role], "size": len(payload)}
        for role, payload in payloads.items()
    }
    try:
        return Manifest.model_validate(
            {"format": "wmgym-store", "version": 1, "kind": kind, "files": described}
        )
    except ValidationError as error:
        raise StoreError(
            f"{directory}: cannot store kind {kind!r}; pass a lower-case word such as 'world'"
        ) from error


def _payload_name(role: str, sha256: str) -> str:
    extension = {"arrays": "safetensors", "document": "json"}[role]
    return f"{role}.{sha256[:16]}.{extension}"


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a directory; any byte that a save would not have written is refused.

    Raises:
        StoreError: there is none, it is damaged, or of another version.
    """
    path = directory / MANIFEST
    try:
        payload = files.read_bytes(path)
        manifest = Manifest.model_validate(parse(path, payload))
    except files.MissingError as error:
        raise StoreError(f"{directory} holds no wmgym artifact; check the path or write it first") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if where == "version":
            raise StoreError(f"{path} is of another wmgym version; install the one that wrote it") from error
        raise damaged(path, f"{where}: {first['msg']}") from error
    if files.encode_json(path, manifest.model_dump()) != payload:
        raise damaged(path, "it is not in canonical form")
    for role, file in (("arrays", manifest.files.arrays), ("document", manifest.files.document)):
        if file.name != _payload_name(role, file.sha256):
            raise damaged(path, f"files.{role}.name does not follow from its SHA-256")
    return manifest


def read_payload(directory: Path, file: File) -> bytes:
    """The bytes of a payload file, once they are verified.

    Raises:
        MissingError: there is none.
        StoreError: its bytes are not those that the manifest describes.
    """
    path = directory / file.name
    payload = files.read_bytes(path)
    if len(payload) != file.size:
        raise damaged(path, f"it has {len(payload)} bytes instead of {file.size}")
    if hashlib.sha256(payload).hexdigest() != file.sha256:
        raise damaged(path, "its SHA-256 differs from the manifest's")
    return payload


def damaged(path: Path, why: str) -> StoreError:
    """The error of a file whose bytes are wrong."""
    return StoreError(f"{path} is damaged ({why}); delete it and write it again")


def parse(path: Path, payload: bytes) -> dict[str, Any]:
    """The JSON object in a file's bytes."""
    try:
        return files.decode_json(payload)
    except ValueError as error:
        raise damaged(path, f"no JSON object: {error}") from error
