"""A Ray cluster: joins it, and checks its nodes before they get work."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from sam_diffsr import __version__
from sam_diffsr.errors import ArgumentError, ClusterError, MissingDependencyError

logger = logging.getLogger(__name__)

_JOIN_TIMEOUT, _NODE_TIMEOUT = 60, 120
"""Seconds that a cluster has to answer, and its nodes to start a process."""
_CONNECT_TIMEOUT = 10
"""Seconds until a connection to a cluster must be there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """Where the work is done, and what each worker takes of it.

    Raises:
        ArgumentError: a number is out of range.
    """

    address: str | None = None
    """``"auto"`` or ``"host:port"`` of a cluster that this machine is a node of. ``None`` takes the one that
    the process is connected to, or starts one that lives on this machine alone and listens to no other."""
    workers: int | None = None
    """Workers, each with a model of its own; ``None`` starts as many as the nodes have room for."""
    num_gpus: float | None = None
    """GPUs per worker: 0.5 lets two share one. ``None`` is 1 where a node has a GPU, else 0."""
    num_cpus: float = 1.0
    """CPU cores per worker; without a GPU, also the threads that it computes with."""

    def __post_init__(self) -> None:
        for name, least in (("workers", 1), ("num_gpus", 0), ("num_cpus", 0.01)):
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ArgumentError(f"{name} must be at least {least}, got {value!r}")


def import_ray(*, local: bool = False) -> Any:
    """Import Ray without its reports of usage; ``local`` is for clusters of this machine alone."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if local and "ray" not in sys.modules:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # on every system: listen on loopback
    try:
        import ray
        import ray.data  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise MissingDependencyError(
            f"work on a cluster needs Ray ({error}); run: pip install sam-diffsr[ray]"
        ) from error
    return ray


@contextmanager
def connected(cluster: Cluster) -> Generator[Any]:
    """Connect to a cluster, and give the module ``ray``; ``ClusterError`` where none answers."""
    address, place = cluster.address, cluster.address or "this machine"
    ray = import_ray(local=address is None)
    if address is not None:
        _check_address(address)
    if ray.is_initialized():
        yield ray
        return
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    logger.info("starting the workers on %s; this takes up to a minute", place)
    options: dict[str, Any] = {"include_dashboard": False} if address is None else {}
    try:
        ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **options)
    except Exception as error:  # Ray has many kinds
        raise ClusterError(f"cannot join the Ray cluster at {place}: {error}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Refuse an address that does not answer: Ray itself would wait for minutes, and then end the process."""
    host, _, port = address.rpartition(":")
    if address != "auto" and (not host or "/" in host or not port.isdecimal()):
        raise ArgumentError(f"a Ray address is auto or host:port of a cluster's head node, got {address!r}")
    join = "import ray, sys; ray.init(sys.argv[1], log_to_driver=False, logging_level='ERROR')"
    command = [sys.executable, "-c", join, address]
    env = {**os.environ, "RAY_gcs_rpc_server_reconnect_timeout_s": str(_CONNECT_TIMEOUT)}
    try:
        if host:
            socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT).close()
        subprocess.run(command, timeout=_JOIN_TIMEOUT, check=True, capture_output=True, text=True, env=env)
    except (OSError, OverflowError, subprocess.SubprocessError) as error:
        said = error.stderr if isinstance(error, subprocess.CalledProcessError) else ""
        lines: list[str] = [type(error).__name__, *said.strip().splitlines()]
        last = lines[-1].rpartition("] ")[2]  # without the date of a logged line
        reason = next((line for line in reversed(lines) if line.startswith("ray.exceptions.")), last)
        raise ClusterError(
            f"cannot join a Ray cluster at {address}; check the address, or start one with "
            f"ray start --head ({reason})"
        ) from error


def find_room(ray: Any, cluster: Cluster, *, marker: str | None = None) -> Cluster:
    """Check the nodes, and give the cluster with its numbers of workers and of GPUs.

    Every node must have this package and see the file ``marker``, in a folder in which it may write.
    """
    cpus, gpus = cluster.num_cpus, cluster.num_gpus
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if gpus is None:
        gpus = float(any(node["Resources"].get("GPU", 0) >= 1 for node in nodes))
    needs = {name: need for name, need in (("CPU", cpus), ("GPU", gpus)) if need}
    rooms = [int(min(node["Resources"].get(name, 0) / needs[name] for name in needs)) for node in nodes]
    workers = cluster.workers or sum(rooms)
    if not 0 < workers <= sum(rooms):
        raise ClusterError(
            f"the cluster has room for {sum(rooms)} workers of {cpus:g} CPUs and {gpus:g} GPUs, not "
            f"for {workers or 'one'}; ask for less, or start more nodes"
        )
    asked = [node for node, room in zip(nodes, rooms, strict=True) if room]
    for node, problem in zip(asked, _check_nodes(ray, asked, marker), strict=True):
        if problem is not None:
            raise ClusterError(f"the node {node['NodeManagerAddress']} {problem}")
    return replace(cluster, workers=workers, num_gpus=gpus)


def _check_nodes(ray: Any, nodes: Sequence[Mapping[str, Any]], marker: str | None) -> list[str | None]:
    """For each node, what is wrong with this package or the output folder there, or None."""

    def look(version: str, marker: str | None) -> str | None:  # nested: sent as code, not as an import
        import os

        try:
            import sam_diffsr
        except Exception as error:
            return f"cannot import sam_diffsr ({error}); install sam-diffsr=={version} there"
        if sam_diffsr.__version__ != version:
            return f"has sam-diffsr {sam_diffsr.__version__}; install {version}, which this machine has"
        folder = os.path.dirname(marker or "")
        if marker is not None and not os.path.exists(marker):
            return f"does not see {folder}; use a folder that all nodes share, or a store"
        if marker is not None and not os.access(folder, os.W_OK):
            return f"may not write into {folder}; check its permissions"
        return None

    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as Affinity

    remote = ray.remote(num_cpus=0, max_retries=0)(look)
    there = [remote.options(scheduling_strategy=Affinity(node["NodeID"], soft=False)) for node in nodes]
    try:
        return ray.get([each.remote(__version__, marker) for each in there], timeout=_NODE_TIMEOUT)
    except ray.exceptions.RayError as error:
        raise ClusterError(f"a node of the cluster cannot run a task: {error}") from error
