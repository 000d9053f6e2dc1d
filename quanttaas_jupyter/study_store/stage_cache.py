"""Cache of the results of finished stages, by key; an entry with a missing blob counts as a miss."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from ..store import blobs
from ..store.base import MissingKey, Store


def find(store: Store, key: str) -> dict[str, Any] | None:
    """Return the result of a stage if the entry and all its blobs exist, otherwise None."""
    try:
        result = dict(json.loads(store.read(f"cache/{key}.json")))
    except (MissingKey, ValueError):
        return None
    return result if all(blobs.has_blob(store, sha) for sha in result["blobs"].values()) else None


def find_all(store: Store, keys: Iterable[str]) -> dict[str, dict[str, Any] | None]:
    """Return the results of many stages by key, with None for misses; see ``find``."""
    wanted = list(dict.fromkeys(keys))
    return dict(zip(wanted, store.each(lambda key: find(store, key), wanted), strict=True))


def keep(store: Store, key: str, result: dict[str, Any]) -> None:
    """Write the result of a stage into the cache."""
    store.replace(f"cache/{key}.json", json.dumps(result, separators=(",", ":"), allow_nan=False).encode())
