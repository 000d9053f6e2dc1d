"""Which stores and clusters the side panel reaches: those of the configuration, less what the settings leave out."""

from __future__ import annotations

from collections.abc import Iterable

from ..compute.clusters import local_engine as resident
from ..core.config import load_config
from ..core.errors import NotFound
from ..store import Store, open_store
from .settings import QuantTaaS


class Places:
    """Stores and clusters by name; the configuration is read anew every time, as notebooks write it too."""

    def __init__(self, settings: QuantTaaS) -> None:
        self._settings = settings
        self._opened: dict[str, Store] = {}

    def stores(self) -> dict[str, Store]:
        """The stores by their URI, the default one first."""
        config = load_config()
        named = [config.store, *(cluster.store for cluster in config.clusters.values() if cluster.store)]
        found = {opened.uri: opened for opened in map(self._open, dict.fromkeys(named))}
        allowed = self._settings.stores
        if allowed is None:
            return found
        uris = {self._open(uri).uri for uri in allowed}
        return {uri: opened for uri, opened in found.items() if uri in uris}

    def store(self, uri: str) -> Store:
        """One of them. Raises NotFound."""
        known = self.stores()
        if uri not in known:
            raise NotFound(f"the store {uri!r} is not one that this server may use; it may use {_listed(known)}")
        return known[uri]

    def clusters(self) -> list[str]:
        """Names of the clusters, the default one first."""
        config = load_config()
        named = dict.fromkeys([config.cluster or resident.CLUSTER, resident.CLUSTER, *config.clusters])
        return [name for name in named if self.allows(name)]

    def cluster(self, name: str) -> str:
        """The name itself, if it is one of theirs. Raises NotFound."""
        known = self.clusters()
        if name not in known:
            raise NotFound(f"the cluster {name!r} is not one that this server may use; it may use {_listed(known)}")
        return name

    def allows(self, cluster: str) -> bool:
        """Whether the settings leave a cluster in."""
        return self._settings.clusters is None or cluster in self._settings.clusters

    def refuse_new_cluster(self, name: str) -> None:
        """Raise NotFound for a cluster that the settings leave out, though nothing is configured under its name yet."""
        if not self.allows(name):
            raise NotFound(f"the settings of this server leave out the cluster {name!r}; ask who runs it")

    def refuse_new_store(self, uri: str) -> None:
        """Raise NotFound for a store that the settings leave out, though nothing names it yet."""
        allowed = self._settings.stores
        if allowed is not None and self._open(uri).uri not in {self._open(name).uri for name in allowed}:
            raise NotFound(f"the store {uri!r} is not one that this server may use; it may use {_listed(allowed)}")

    def _open(self, uri: str) -> Store:
        # A store remembers its connections, and what it knows of its bucket.
        if uri not in self._opened:
            self._opened[uri] = open_store(uri)
        return self._opened[uri]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
