"""A Ray cluster on one machine: a head without CPUs and worker nodes, each a raylet of its own."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

SMALL_RUN: dict[str, Any] = {
    "rounds": [{"real_steps": 200, "fit_updates": 20, "imagined_steps": 512}],
    "collect": {"calibration_steps": 100, "max_episode_steps": 50},
    "fit": {"members": 2, "width": 32, "eval_every": 10},
    "train": {"num_envs": 8, "max_episode_steps": 10,
              "hyperparameters": {"n_steps": 64, "batch_size": 64, "n_epochs": 1}},
    "evaluate": {"episodes": 2},
}  # fmt: skip
"""Settings of a run that takes seconds, for sweeps of many."""

STORE = 100_000_000  # bytes of a node's object store


@dataclass
class Nodes:
    """The cluster and its worker nodes."""

    cluster: Any
    workers: list[Any]

    def kill(self, index: int) -> None:
        """End a node as a power cut does."""
        self.cluster.remove_node(self.workers.pop(index), allow_graceful=False)

    def add(self, cpus: int = 1) -> None:
        """One more."""
        node = self.cluster.add_node(num_cpus=cpus, object_store_memory=STORE, include_dashboard=False)
        self.workers.append(node)

    def alive(self) -> int:
        """How many worker nodes live, as the head knows."""
        import ray

        return sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes())

    def bytes_created(self) -> list[int]:
        """Bytes ever written to each worker node's object store, copies from other nodes included."""
        stats = importlib.import_module("ray._private.internal_api").node_stats
        found = []
        for node in self.workers:
            reply = stats(node.node_ip_address, int(node.node_manager_port), include_memory_info=False)
            found.append(int(reply.store_stats.cumulative_created_bytes))
        return found


@contextlib.contextmanager
def cluster(nodes: int = 2, cpus: int = 1) -> Iterator[Nodes]:
    """A head and so many worker nodes, joined by this process; nothing of it is left."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False}
    made = Nodes(Cluster(initialize_head=True, head_node_args=head), [])
    try:
        for _ in range(nodes):
            made.add(cpus)
        ray.init(made.cluster.address, log_to_driver=False, logging_level="ERROR")
        made.cluster.wait_for_nodes()
        yield made
    finally:
        ray.shutdown()
        made.cluster.shutdown()
