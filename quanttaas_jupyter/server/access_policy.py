"""Access policy: the stores and clusters of the configuration that the server's settings let the side panel use."""

from __future__ import annotations

from collections.abc import Iterable

from ..compute.clusters import local_engine
from ..core.config import load_config
from ..core.errors import NotFound
from ..store import Store, open_store
from .settings import QuantTaaS


class AccessPolicy:
    """Allowed stores and clusters; the configuration is read at each call, since notebooks also write it."""

    def __init__(self, settings: QuantTaaS) -> None:
        self._settings = settings
        self._opened: dict[str, Store] = {}

    def stores(self) -> dict[str, Store]:
        """Return the allowed stores by URI, the default one first."""
        config = load_config()
        named = [config.store, *(cluster.store for cluster in config.clusters.values() if cluster.store)]
        configured = {opened.uri: opened for opened in map(self._open, dict.fromkeys(named))}
        allowed = self._settings.stores
        if allowed is None:
            return configured
        uris = {self._open(uri).uri for uri in allowed}
        return {uri: opened for uri, opened in configured.items() if uri in uris}

    def store(self, uri: str) -> Store:
        """Return an allowed store.

        Raises:
            NotFound: The store is not configured, or not allowed.
        """
        known = self.stores()
        if uri not in known:
            raise NotFound(f"the store {uri!r} is not one that this server may use; it may use {_listed(known)}")
        return known[uri]

    def clusters(self) -> list[str]:
        """Return the names of the allowed clusters, the default one first."""
        config = load_config()
        named = dict.fromkeys([config.cluster or local_engine.CLUSTER, local_engine.CLUSTER, *config.clusters])
        return [name for name in named if self.allows(name)]

    def cluster(self, name: str) -> str:
        """Return the name if the cluster is allowed.

        Raises:
            NotFound: The cluster is not configured, or not allowed.
        """
        known = self.clusters()
        if name not in known:
            raise NotFound(f"the cluster {name!r} is not one that this server may use; it may use {_listed(known)}")
        return name

    def allows(self, cluster: str) -> bool:
        """Return whether the settings allow a cluster."""
        return self._settings.clusters is None or cluster in self._settings.clusters

    def refuse_new_cluster(self, name: str) -> None:
        """Check that the settings allow a cluster that is not configured yet.

        Raises:
            NotFound: They do not.
        """
        if not self.allows(name):
            raise NotFound(f"the settings of this server leave out the cluster {name!r}; ask who runs it")

    def refuse_new_store(self, uri: str) -> None:
        """Check that the settings allow a store that is not configured yet.

        Raises:
            NotFound: They do not.
        """
        allowed = self._settings.stores
        if allowed is not None and self._open(uri).uri not in {self._open(name).uri for name in allowed}:
            raise NotFound(f"the store {uri!r} is not one that this server may use; it may use {_listed(allowed)}")

    def _open(self, uri: str) -> Store:
        # Stores are kept open, since they hold connections and facts about their bucket.
        if uri not in self._opened:
            self._opened[uri] = open_store(uri)
        return self._opened[uri]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
