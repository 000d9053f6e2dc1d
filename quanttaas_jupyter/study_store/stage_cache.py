"""Cache of what studies share, by key: results of stages, pickles of models, and proposals of searches.

Entries are signed by the user whose engine wrote them. Others' numbers count, and files that are data to their runtime;
what is unpickled counts only with this user's signature. On a cluster, whose machines have no key of the user's, all
entries of the store count.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping
from typing import Any

from ..core import identity
from ..core.errors import Unreadable
from ..core.records.stage import StageResult
from ..core.records.trial import TrialConfig
from ..store import blobs
from ..store.base import MissingKey, Store
from . import door, shapes


def find(store: Store, key: str, is_code: bool = False) -> StageResult | None:
    """Return the result of a stage if the entry and all its blobs exist, otherwise None.

    Args:
        store: The store.
        key: Key of the stage.
        is_code: Whether loading the stage's files may run code, so that another user's entry does not count.
    """
    entry = _read(store, key, shapes.STAGE)
    if entry is None or not _counts(entry, key, is_code):
        return None
    return StageResult.of(entry)


def find_all(store: Store, keys: Iterable[str], code: Container[str] = ()) -> dict[str, StageResult | None]:
    """Return the results of many stages by key, with None for misses; ``code`` are those of ``find`` with is_code."""
    wanted = list(dict.fromkeys(keys))
    return dict(zip(wanted, store.each(lambda key: find(store, key, key in code), wanted), strict=True))


def _counts(entry: Mapping[str, Any], key: str, is_code: bool) -> bool:
    if not entry["blobs"] or not (is_code or "model" in entry["blobs"]):
        return True
    return identity.is_mine(f"cache {key}", entry)


def keep(store: Store, key: str, result: StageResult) -> None:
    """Write the result of a stage into the cache."""
    _write(store, key, result.stored())


def find_model(store: Store, key: str) -> str | None:
    """Return the blob of a model's pickle if the entry and the blob exist, otherwise None."""
    known = find(store, key)
    return known.blobs.get("model") if known is not None else None


def keep_model(store: Store, key: str, blob: str) -> None:
    """Write the blob of a model's pickle into the cache."""
    _write(store, key, {"blobs": {"model": blob}})


def find_proposals(store: Store, key: str) -> list[TrialConfig] | None:
    """Return the configurations that a search proposed, or None if the entry does not exist."""
    entry = _read(store, key, shapes.PROPOSALS)
    return [TrialConfig.of(config) for config in entry["proposals"]] if entry is not None else None


def keep_proposals(store: Store, key: str, proposals: Iterable[TrialConfig]) -> None:
    """Write the configurations that a search proposed into the cache."""
    _write(store, key, {"blobs": {}, "proposals": [config.stored() for config in proposals]})


def _read(store: Store, key: str, kind: door.Kind) -> dict[str, Any] | None:
    """Return an entry; one that cannot be read, or that lacks a blob, counts as a miss."""
    try:
        entry = door.parsed(store.read(f"cache/{key}.json"), kind)
    except (MissingKey, Unreadable):
        return None
    return entry if all(blobs.has_blob(store, sha) for sha in entry["blobs"].values()) else None


def _write(store: Store, key: str, entry: Mapping[str, Any]) -> None:
    entry = identity.signed(f"cache {key}", entry)
    store.replace(f"cache/{key}.json", json.dumps(entry, separators=(",", ":"), allow_nan=False).encode())
