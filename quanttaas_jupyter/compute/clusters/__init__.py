"""Clusters by name: this machine, and the Ray clusters of the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from ...core.config import load_config
from ...core.errors import ClusterError, did_you_mean
from ...core.versions import versions
from ...store.base import Store
from ...study_store import records
from . import local_engine
from .ray import RayCluster


class Cluster(Protocol):
    """Interface of a cluster with a resident engine; its methods raise QuantTaaSError."""

    name: str

    def ensure_engine(self, store: str) -> dict[str, str]:
        """Start the engine for a store unless it runs, and return its versions."""

    def refuse_store(self, store: str, there: dict[str, str] | None = None) -> None:
        """Check that the cluster can reach a store.

        Args:
            store: URI of the store.
            there: Versions of the engine, as ``ensure_engine`` returned them; None while they are not known.

        Raises:
            QuantTaaSError: The store is a folder that the cluster cannot see.
        """

    def submit(self, store: Store, study_id: str, sha256: str, is_resume: bool = False) -> None:
        """Submit a study to the engine."""

    def wait_until_claimed(self, store: Store, study_id: str) -> None:
        """Wait until an engine has claimed a study, for a limited time."""

    def ensure_engine_for(self, store: Store, study_id: str) -> None:
        """Start an engine for a queued study of this user that no engine claims."""

    def is_mine(self, store: Store, study_id: str) -> bool:
        """Return whether the study is queued with a ticket of this user."""

    def engine_log(self, store: str) -> str:
        """Return the output of the engine."""


class ThisMachine:
    """Cluster of this machine, whose engine is started on demand."""

    name = local_engine.CLUSTER

    def ensure_engine(self, store: str) -> dict[str, str]:
        """Start the engine unless it runs, and return the versions of this process."""
        local_engine.start()
        return versions()

    def refuse_store(self, store: str, there: dict[str, str] | None = None) -> None:
        """Accept each store: this machine reaches all of them."""

    def submit(self, store: Store, study_id: str, sha256: str, is_resume: bool = False) -> None:
        """Write a ticket into the engine's folder, and one into the store's queue for readers of the store."""
        records.enqueue(store, self.name, study_id, {"sha256": sha256, "resume": is_resume})
        local_engine.submit(store.uri, study_id, sha256, is_resume)

    def wait_until_claimed(self, store: Store, study_id: str) -> None:
        """Return at once: the engine of this machine looks for tickets before it ends."""

    def is_mine(self, store: Store, study_id: str) -> bool:
        """Return whether the engine's folder holds a ticket of the study."""
        return local_engine.has_ticket(study_id)

    def ensure_engine_for(self, store: Store, study_id: str) -> None:
        """Start an engine if a ticket of the study waits."""
        if local_engine.has_ticket(study_id):
            local_engine.start()

    def engine_log(self, store: str) -> str:
        """Return the output of this machine's engine, for all stores."""
        return local_engine.read_log()


def open_cluster(name: str | None = None) -> Cluster:
    """Open the cluster of a name; None for the configured default, or this machine if none is configured.

    Raises:
        ClusterError: No cluster has this name.
    """
    config = load_config()
    wanted = name or config.cluster or local_engine.CLUSTER
    if wanted == local_engine.CLUSTER:
        return ThisMachine()
    if wanted not in config.clusters:
        names = [local_engine.CLUSTER, *config.clusters]
        hint = did_you_mean(wanted, names, f"there are {', '.join(names)};")
        raise ClusterError(f"no cluster {wanted!r}; {hint} %quanttaas cluster connect NAME ADDRESS adds one")
    return RayCluster(wanted, config.clusters[wanted])


def is_configured(name: str) -> bool:
    """Return whether a cluster is this machine or in the configuration."""
    return name == local_engine.CLUSTER or name in load_config().clusters


def store_for(cluster: Cluster, store: str | Path | None) -> str | Path | None:
    """Return the named store, or the cluster's own store, or None for the configured default."""
    if store is None and isinstance(cluster, RayCluster):
        return cluster.config.store
    return store
