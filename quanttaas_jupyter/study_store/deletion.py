"""Deletion of studies: the study's folder at once, and later the blobs and cache entries that no study needs."""

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
"""Age in seconds below which ``sweep`` keeps unreferenced blobs; longer than any submission, chosen, not tuned."""

_SHA = re.compile(r"[0-9a-f]{64}")


class StudySize(NamedTuple):
    """Size of a study in bytes: its own folder, and the blobs that it refers to, which other studies may share."""

    folder: int
    blobs: int


def study_size(store: Store, study_id: str) -> StudySize:
    """Return how many bytes a study takes in the store.

    Raises:
        NotFound: There is no such study.
    """
    read_study_bytes(store, study_id)
    names = _named_by(store, [study_id])
    stages = [name for name in store.list("cache") if name.removesuffix(".json") in names]
    for data in store.each(store.read_if_there, [f"cache/{name}" for name in stages]):
        names.update(_digests(data))
    sizes = store.each(lambda sha: store.size(f"blobs/{sha}"), sorted(names))
    return StudySize(store.folder_size(f"studies/{study_id}"), sum(filter(None, sizes)))


def delete_study(store: Store, study_id: str, grace: float = GRACE_SECONDS) -> int:
    """Remove a study and what no other study needs; return the bytes that the sweep freed."""
    remove_study(store, study_id)
    return sweep(store, grace)


def remove_study(store: Store, study_id: str) -> int:
    """Remove a study's folder and return the bytes freed; its blobs stay until a sweep.

    Raises:
        StudyIsBusy: The study is running.
        NotFound: There is no such study.
    """
    record = read_study(store, study_id)
    lease = read_lease(store, study_id)
    if lease and lease.is_held(time.time()):
        raise StudyIsBusy(f"study {study_id} is running; cancel it first")
    dequeue(store, record.cluster, study_id)
    freed = store.folder_size(f"studies/{study_id}")
    last = f"studies/{study_id}/study.json"
    for _ in store.each(store.delete, [key for key in store.walk(f"studies/{study_id}") if key != last]):
        pass
    # Last, so that an interrupted deletion can be repeated.
    store.delete(last)
    return freed


def sweep(store: Store, grace: float = GRACE_SECONDS) -> int:
    """Remove blobs that no study refers to, and cache entries without a study; return the bytes freed.

    Args:
        store: The store.
        grace: Age in seconds below which everything is kept: a study being submitted may rely on it.
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
    """Return the digests that studies refer to: of blobs, and of stages with results in the cache."""
    named: set[str] = set()
    for study_id in studies:
        keys = [key for key in store.walk(f"studies/{study_id}") if key.endswith("study.json") or "/events/" in key]
        for data in store.each(store.read_if_there, keys):
            named.update(_digests(data))
    return named


def _digests(data: bytes | None) -> list[str]:
    return _SHA.findall((data or b"").decode("utf-8", "replace"))
