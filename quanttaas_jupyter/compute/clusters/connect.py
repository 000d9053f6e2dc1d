"""Operations on clusters of the configuration: start, connect, inspect and stop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from ...core.config import ClusterConfig, load_config, save_cluster
from ...core.errors import ClusterError, QuantTaaSError
from ...store import open_store
from . import local_head
from .ray import RayCluster


@dataclass(frozen=True)
class ClusterStatus:
    """Resources of a cluster and their price per hour; if it cannot be reached, ``trouble`` holds the reason."""

    nodes: int = 0
    cpus: float = 0.0
    gpus: float = 0.0
    kinds: tuple[str, ...] = ()
    price: float | None = None
    trouble: str = ""

    @property
    def words(self) -> str:
        """The resources as text, such as ``1 node with 8 CPUs and 0 GPUs``."""
        return f"{self.nodes} node{'s' * (self.nodes != 1)} with {self.cpus:g} CPUs and {self.gpus:g} GPUs"


def configured(name: str) -> RayCluster:
    """Return a Ray cluster of the configuration.

    Raises:
        ClusterError: No cluster of this name is configured.
    """
    clusters = load_config().clusters
    if name not in clusters:
        raise ClusterError(f"no cluster {name!r} is configured; there are {', '.join(clusters) or 'none'}")
    return RayCluster(name, clusters[name])


def status(cluster: RayCluster) -> ClusterStatus:
    """Return the resources of a cluster; errors are returned as ``trouble``, not raised."""
    try:
        return _counted(cluster.nodes(), cluster.config)
    except QuantTaaSError as error:
        return ClusterStatus(trouble=str(error))


def start(cpus: int | None = None, token: bool = True) -> ClusterConfig:
    """Start a Ray cluster on this machine and write it into the configuration; see ``head.start``."""
    config = local_head.start(cpus=cpus, token=token)
    save_cluster(local_head.NAME, config)
    return config


def stop(name: str, store: str | None = None) -> bool:
    """Stop this machine's own cluster, or this user's engine on another cluster, whose machines keep running.

    Args:
        name: The cluster.
        store: Store of the engine to stop; None for the cluster's own store.

    Returns:
        Whether anything was running.
    """
    if name == local_head.NAME:
        save_cluster(local_head.NAME, None)
        return local_head.stop()
    cluster = configured(name)
    return cluster.stop_engine(open_store(store or cluster.config.store).uri)


def connect(name: str, address: str, slot: Mapping[str, Any], **given: Any) -> ClusterStatus:
    """Check that a cluster answers, and write it into the configuration; other values in the file stay.

    Args:
        name: Name for the cluster.
        address: Address of its Jobs API.
        slot: Values of ``SlotConfig`` to change.
        given: Values of ``ClusterConfig`` to change.

    Returns:
        The resources of the cluster.

    Raises:
        QuantTaaSError: A value is malformed, or the cluster cannot be reached.
    """
    known = load_config().clusters.get(name)
    before = known.model_dump() if known else {"slot": {}}
    try:
        config = ClusterConfig.model_validate(
            {**before, "address": address, **given, "slot": {**before["slot"], **slot}}
        )
    except ValidationError as error:
        raise QuantTaaSError(f"connect: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
    cluster = RayCluster(name, config)
    status = _counted(cluster.nodes(), config)
    save_cluster(name, config)
    return status


def _counted(nodes: list[dict[str, Any]], config: ClusterConfig) -> ClusterStatus:
    cpus, gpus = (sum(node[key] for node in nodes) for key in ("cpus", "gpus"))
    kinds = tuple(sorted({node["gpu"] for node in nodes if node["gpu"]}))
    prices = config.prices
    price = prices.node * len(nodes) + prices.cpu * cpus + prices.gpu * gpus if prices else None
    return ClusterStatus(len(nodes), cpus, gpus, kinds, price)
