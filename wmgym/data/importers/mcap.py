"""MCAP files: JSON and ROS 2 messages of several topics, put on the clock of one of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from wmgym.data.importers.table import Table

_STALE = 5.0  # periods of a topic after which its last message says nothing any more
_JOINTS = ("position", "velocity", "effort")


@dataclass
class _Topic:
    """What has come on one topic: when it was logged and stamped, nanoseconds, and a row of numbers each."""

    schema: str
    logged: list[int] = field(default_factory=list)
    stamped: list[int] = field(default_factory=list)
    rows: list[dict[str, float]] = field(default_factory=list)


def read(path: str) -> list[Table]:
    """The one table of a file; its rows are the messages of one topic.

    That is the one of joint states, else the one with the most messages; of every other topic a row holds the
    last message before it, or nothing where that is long ago. Columns are ``topic.field``; joints go by name.

    Raises:
        ImportError: mcap or mcap-ros2-support is missing.
        ValueError: no message that can be read.
    """
    try:
        from mcap.reader import make_reader
        from mcap_ros2.decoder import DecoderFactory
    except ImportError as error:
        raise ImportError(
            'reading MCAP takes mcap and mcap-ros2-support: pip install "wmgym[logs]"'
        ) from error
    topics: dict[str, _Topic] = {}
    left_out: set[str] = set()
    ros = DecoderFactory()
    with open(path, "rb") as file:
        for schema, channel, message in make_reader(file).iter_messages():
            decode = ros.decoder_for(channel.message_encoding, schema)
            if channel.message_encoding == "json":
                decode = json.loads
            if decode is None:
                left_out.add(channel.topic)
                continue
            kind = schema.name if schema is not None else ""
            topic = topics.setdefault(channel.topic.strip("/").replace("/", "."), _Topic(kind))
            said = _plain(decode(message.data))
            topic.logged.append(message.log_time)
            topic.stamped.append(_stamp(said))
            topic.rows.append(dict(_numbers(said, "JointState" in kind)))
    topics = {name: topic for name, topic in topics.items() if len(topic.rows) > 1}
    if not topics:
        raise ValueError("it has no topic of JSON or ROS 2 messages with numbers")
    base = max(topics, key=lambda name: ("JointState" in topics[name].schema, len(topics[name].rows)))
    clock = topics[base]
    when = np.array(clock.logged)
    stamps = np.array(clock.stamped) if all(clock.stamped) else when
    columns: dict[str, np.ndarray] = {"time_ns": stamps}
    for name, topic in topics.items():
        prefix = f"{name}." if len(topics) > 1 else ""
        last = np.searchsorted(topic.logged, when, side="right") - 1
        age = when - np.array(topic.logged)[last]
        known = (last >= 0) & (age <= _STALE * np.median(np.diff(topic.logged)) + 1)
        if topic is clock:
            last, known = np.arange(len(when)), np.ones(len(when), bool)
        for label in dict.fromkeys(key for row in topic.rows for key in row):
            values = np.array([row.get(label, np.nan) for row in topic.rows])
            columns[prefix + label] = np.where(known, values[last], np.nan)
    return [Table(path, columns, {"left_out": sorted(left_out)})]


def _plain(said: Any) -> Any:
    """A ROS 2 message as what JSON has; raw bytes and long arrays, such as images, left out."""
    if isinstance(said, SimpleNamespace):  # what mcap_ros2 makes, with slots
        return {name: _plain(getattr(said, name)) for name in type(said).__slots__}  # type: ignore[attr-defined]
    if isinstance(said, dict):
        return {name: _plain(value) for name, value in said.items()}
    if isinstance(said, (list, tuple)) or type(said).__name__ == "array":
        return [_plain(value) for value in said] if len(said) <= 256 else []
    return said


def _stamp(said: Any) -> int:
    """Nanoseconds in the header of a ROS 2 message; 0 where there is none."""
    header = said.get("header") if isinstance(said, dict) else None
    stamp = header.get("stamp") if isinstance(header, dict) else None
    if not isinstance(stamp, dict):
        return 0
    return int(stamp.get("sec", 0)) * 1_000_000_000 + int(stamp.get("nanosec", 0))


def _numbers(said: Any, joints: bool, name: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a message under its path; of joint states under the joint's name."""
    if joints and isinstance(said, dict):
        for quantity in _JOINTS:
            values = said.get(quantity) or []
            if len(values) == len(said.get("name", [])):
                yield from (
                    (f"{quantity}.{joint}", value) for joint, value in zip(said["name"], values, strict=True)
                )
    elif isinstance(said, dict):
        for key, value in said.items():
            if key != "header":
                yield from _numbers(value, False, f"{name}.{key}" if name else key)
    elif isinstance(said, list):
        for k, value in enumerate(said):
            yield from _numbers(value, False, f"{name}_{k}" if name else str(k))
    elif isinstance(said, (int, float)):
        yield name, float(said)
