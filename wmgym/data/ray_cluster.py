"""Joining a Ray cluster, or starting Ray on this machine alone."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

try:
    import ray
    from ray import cloudpickle, exceptions
except ImportError as error:
    raise ImportError('executor="ray" needs Ray; install it with: pip install "wmgym[ray]"') from error

__all__ = ["cloudpickle", "connect", "exceptions", "probe", "ray"]

_ANSWER_SECONDS = 6.0  # that a cluster may take


def connect(address: str | None, workers: int | None = None) -> None:
    """Join a cluster, or start Ray on this machine; nothing where this process is part of one already.

    Raises:
        ConnectionError: no Ray answers, or one of another version.
    """
    if ray.is_initialized():
        return
    with _own_signals():
        _init(address, workers)


def _init(address: str | None, workers: int | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        ray.init("local", num_cpus=workers or os.cpu_count(), include_dashboard=False, **quiet)
        return
    _ask(address)
    try:
        ray.init(address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, AssertionError) as error:
        said = " ".join(str(error).split())[:300]
        raise ConnectionError(f"the Ray cluster at {address} cannot be joined: {said}") from error


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keep what SIGTERM does: Ray's handler would be that of forked processes, too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _ask(address: str) -> None:
    """Refuse, within seconds, an address at which no Ray answers; Ray itself tries for a minute."""
    if address != "auto":
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit() or "/" in host:
            raise ConnectionError(f"{address!r} is no address of a Ray cluster; pass 'auto' or HOST:PORT")
        try:
            socket.create_connection((host, int(port)), timeout=3).close()
        except (OSError, OverflowError) as error:
            raise ConnectionError(f"no Ray cluster answers at {address} ({error}); is it running?") from None
    # In a process of its own, for Ray's client neither has a time limit nor can be interrupted.
    code = f"from wmgym.data.ray_cluster import probe; probe({address!r})"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=_ANSWER_SECONDS, check=False
        )
        said = (done.stderr.strip().splitlines() or ["it gave no reason"])[-1] if done.returncode else ""
    except subprocess.TimeoutExpired:
        said = f"it has not answered for {_ANSWER_SECONDS:.0f} seconds"
    if said:
        where = "on this machine" if address == "auto" else f"at {address}"
        raise ConnectionError(f"no Ray cluster lets us in {where}: {said}")


def probe(address: str) -> None:
    """Exit with an error unless a Ray cluster answers."""
    services = importlib.import_module("ray._private.services")
    found = services.canonicalize_bootstrap_address(None if address == "auto" else address)
    if found is None:
        sys.exit("none is running; start one with `ray start --head`")
    try:
        importlib.import_module("ray._raylet").GcsClient(address=found)
    except getattr(exceptions, "AuthenticationError", ()):  # newer versions of Ray have it
        if address != "auto":  # of this machine's cluster ray.init finds the token by itself
            sys.exit("it asks for a token: set RAY_AUTH_MODE=token, and have its token in ~/.ray/auth_token")
