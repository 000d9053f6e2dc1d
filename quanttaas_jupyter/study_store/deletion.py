"""Deleting a study: its folder at once, then what no other study needs."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from typing import NamedTuple

from ..core.errors import StudyIsBusy
from ..store.base import Store
from .lease import read_lease
from .records import dequeue, read_study, read_study_bytes

GRACE_SECONDS = 24 * 3600.0

_SHA = re.compile(r"[0-9a-f]{64}")


class Weight(NamedTuple):
    """Bytes of a study: in its own folder, and in the blobs that it names, which others may share."""

    folder: int
    blobs: int


def weigh(store: Store, study: str) -> Weight:
    """How much a study keeps in the store. Raises NotFound."""
    read_study_bytes(store, study)
    names = _named_by(store, [study])
    stages = [name for name in store.list("cache") if name.removesuffix(".json") in names]
    for data in store.each(store.read_if_there, [f"cache/{name}" for name in stages]):
        names.update(_digests(data))
    sizes = store.each(lambda sha: store.size(f"blobs/{sha}"), sorted(names))
    return Weight(store.weight(f"studies/{study}"), sum(filter(None, sizes)))


def delete_study(store: Store, study: str, grace: float = GRACE_SECONDS) -> int:
    """Remove a study, then what no other needs: ``remove_study``, then ``sweep``; returns the bytes that swept."""
    remove_study(store, study)
    return sweep(store, grace)


def remove_study(store: Store, study: str) -> int:
    """Remove a study's folder; its blobs stay until a sweep. Returns the bytes freed.

    Raises:
        StudyIsBusy: It is running.
        NotFound: There is no such study.
    """
    record = read_study(store, study)
    lease = read_lease(store, study)
    if lease and lease.is_held(time.time()):
        raise StudyIsBusy(f"study {study} is running; cancel it first")
    dequeue(store, record["cluster"], study)
    freed = store.weight(f"studies/{study}")
    last = f"studies/{study}/study.json"
    for _ in store.each(store.delete, [key for key in store.walk(f"studies/{study}") if key != last]):
        pass
    # Only now: until here a deletion that was cut off can be asked for again.
    store.delete(last)
    return freed


def sweep(store: Store, grace: float = GRACE_SECONDS) -> int:
    """Remove blobs that no study refers to, and cache entries that need them; returns the bytes freed.

    Args:
        store: The store.
        grace: What is younger than this many seconds stays: a study being submitted may count on it.
    """
    wanted = _named_by(store, store.list("studies"))
    entries = {name: store.read(f"cache/{name}").decode() for name in store.list("cache")}
    kept = {name for name in entries if name.removesuffix(".json") in wanted}
    for name in kept:
        wanted.update(_SHA.findall(entries[name]))
    freed = 0
    for name in store.list("blobs"):
        key = f"blobs/{name}"
        age = store.age(key) if name not in wanted else None
        if age is not None and age >= grace:
            freed += store.size(key) or 0
            store.delete(key)
    for name, text in entries.items():
        age = store.age(f"cache/{name}") if name not in kept else None
        if age is not None and age >= grace:
            freed += len(text)
            store.delete(f"cache/{name}")
    return freed


def _named_by(store: Store, studies: Iterable[str]) -> set[str]:
    """Digests that studies name: of blobs, and of stages whose results lie in the cache."""
    named: set[str] = set()
    for study in studies:
        keys = [key for key in store.walk(f"studies/{study}") if key.endswith("study.json") or "/events/" in key]
        for data in store.each(store.read_if_there, keys):
            named.update(_digests(data))
    return named


def _digests(data: bytes | None) -> list[str]:
    return _SHA.findall((data or b"").decode("utf-8", "replace"))
