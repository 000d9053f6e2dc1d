"""Status of clusters, requested seldom because an answer may take seconds."""

from __future__ import annotations

import asyncio
import time
from functools import partial

from ..compute.clusters import connect
from ..compute.clusters.ray import RayCluster
from ..core.config import ClusterConfig
from .thread_pool import Workers

_PATIENCE = 3.0
"""Seconds to wait for clusters before the list is answered without them; chosen, not tuned."""
_FRESH_SECONDS = 5.0
"""Seconds for which an answer is reused; chosen, not tuned. Smaller loads the clusters more."""


class ClusterStatuses:
    """Last answers of clusters; each is asked every few seconds at most, in separate threads."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._known: dict[tuple[str, ClusterConfig], tuple[float, connect.ClusterStatus]] = {}

    async def all(self, clusters: dict[str, ClusterConfig]) -> dict[str, connect.ClusterStatus | None]:
        """Return the resources of each cluster; None for one that has never answered in time."""
        self._known = {key: status for key, status in self._known.items() if clusters.get(key[0]) == key[1]}
        asked = [asyncio.ensure_future(self._ask(name, config)) for name, config in clusters.items()]
        if asked:
            await asyncio.wait(asked, timeout=_PATIENCE)
        return {name: self._known.get((name, config), (0.0, None))[1] for name, config in clusters.items()}

    async def _ask(self, name: str, config: ClusterConfig) -> None:
        key = (name, config)
        if key in self._known and time.monotonic() - self._known[key][0] < _FRESH_SECONDS:
            return
        ask = partial(connect.status, RayCluster(name, config))
        status = await self._workers.shared(("cluster", *key), f"cluster {name}", ask)
        self._known[key] = (time.monotonic(), status)
