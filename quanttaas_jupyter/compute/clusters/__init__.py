"""Where a study can run, by name: this machine, and the Ray clusters of the configuration."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Protocol

from ...core.config import load_config
from ...core.errors import ClusterError
from ...core.versions import versions
from ...store.base import Store
from ...study_store import records as studies
from . import local_engine as resident
from .ray import RayCluster


class Cluster(Protocol):
    """A place with a resident engine."""

    name: str

    def ensure_engine(self, store: str) -> dict[str, str]:
        """Start the engine for a store unless it runs; returns its versions. Raises QuantTaaSError."""

    def refuse_store(self, store: str, there: dict[str, str] | None = None) -> None:
        """Raise QuantTaaSError for a store that the cluster cannot reach."""

    def hand_over(self, store: Store, study: str, sha256: str, is_resume: bool = False) -> None:
        """Give a study to the engine. Raises QuantTaaSError."""

    def see_taken(self, store: Store, study: str) -> None:
        """Wait until an engine has taken a study, as long as it is worth it. Raises QuantTaaSError."""

    def see_to(self, store: Store, study: str) -> None:
        """Start an engine for a study of this user that nobody claims. Raises QuantTaaSError."""

    def is_mine(self, store: Store, study: str) -> bool:
        """Whether the study waits with a ticket of this user."""

    def engine_log(self, store: str) -> str:
        """What the engine printed. Raises QuantTaaSError."""


class ThisMachine:
    """The engine of this machine, started on demand."""

    name = resident.CLUSTER

    def ensure_engine(self, store: str) -> dict[str, str]:
        """Start the engine unless it runs."""
        resident.start()
        return versions()

    def refuse_store(self, store: str, there: dict[str, str] | None = None) -> None:
        """This machine reaches every store."""

    def hand_over(self, store: Store, study: str, sha256: str, is_resume: bool = False) -> None:
        """Leave a ticket in the engine's folder, and one in the store for those who look at it."""
        studies.enqueue(store, self.name, study, {"sha256": sha256, "resume": is_resume})
        resident.hand_over(store.uri, study, sha256, is_resume)

    def see_taken(self, store: Store, study: str) -> None:
        """The engine of this machine looks into its folder before it ends."""

    def is_mine(self, store: Store, study: str) -> bool:
        """Whether the engine's folder holds a ticket of the study."""
        return resident.has_ticket(study)

    def see_to(self, store: Store, study: str) -> None:
        """Start an engine if a ticket of the study waits."""
        if resident.has_ticket(study):
            resident.start()

    def engine_log(self, store: str) -> str:
        """What the engine printed, of all stores."""
        return resident.read_log()


def open_cluster(name: str | None = None) -> Cluster:
    """The cluster of this name; None for the configured default, which is this machine where nothing is configured.

    Raises:
        ClusterError: No such cluster.
    """
    config = load_config()
    wanted = name or config.cluster or resident.CLUSTER
    if wanted == resident.CLUSTER:
        return ThisMachine()
    if wanted not in config.clusters:
        names = [resident.CLUSTER, *config.clusters]
        near = difflib.get_close_matches(wanted, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)};"
        raise ClusterError(f"no cluster {wanted!r}; {hint} %quanttaas cluster connect NAME ADDRESS adds one")
    return RayCluster(wanted, config.clusters[wanted])


def is_configured(name: str) -> bool:
    """Whether this machine knows how to reach a cluster."""
    return name == resident.CLUSTER or name in load_config().clusters


def store_for(cluster: Cluster, store: str | Path | None) -> str | Path | None:
    """The store that was named, else the cluster's own, else None for the configured default."""
    if store is None and isinstance(cluster, RayCluster):
        return cluster.config.store
    return store
