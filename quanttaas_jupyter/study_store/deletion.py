"""Deletion of studies: the study's folder at once, and later the blobs and cache entries that no study needs."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from typing import NamedTuple

from ..core.errors import NotFound, StudyIsBusy, Unreadable
from ..store.base import Store
from .lease import read_lease
from .records import dequeue, is_id, read_study, read_study_bytes

GRACE_SECONDS = 24 * 3600.0
"""Age in seconds below which ``sweep`` keeps unreferenced blobs; longer than any submission, chosen, not tuned."""

_SHA = re.compile(r"[0-9a-f]{64}")
_ENTRY = re.compile(r"[0-9a-f]{64}\.json")
_DAMAGED = re.compile(r"[0-9a-f]{64}-\d+")
_NAMING = re.compile(r"studies/[^/]+/(study\.json|events/\d{8}\.json)")


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
    cluster = _cluster_of(store, study_id)
    lease = read_lease(store, study_id)
    if lease and lease.is_held(time.time()):
        raise StudyIsBusy(f"study {study_id} is running; cancel it first")
    if cluster is not None:
        dequeue(store, cluster, study_id)
    freed = store.folder_size(f"studies/{study_id}")
    last = f"studies/{study_id}/study.json"
    for _ in store.each(store.delete, [key for key in store.walk(f"studies/{study_id}") if key != last]):
        pass
    # Last, so that an interrupted deletion can be repeated.
    store.delete(last)
    return freed


def _cluster_of(store: Store, study_id: str) -> str | None:
    """Return the cluster of a study; None for one that cannot be read, which can be removed all the same.

    Raises:
        NotFound: There is no such study.
    """
    try:
        return read_study(store, study_id).cluster
    except Unreadable:
        return None
    except NotFound:
        # What an interrupted deletion or a lost drive left.
        if next(store.walk(f"studies/{study_id}"), None) is None:
            raise
        return None


def sweep(store: Store, grace: float = GRACE_SECONDS) -> int:
    """Remove blobs that no study refers to, cache entries without a study, and damaged blobs; return the bytes freed.

    Args:
        store: The store.
        grace: Age in seconds below which everything is kept: a study being submitted may rely on it.

    Raises:
        Unreadable: A study's files cannot be read, so that nobody knows what it needs; nothing was removed.
    """
    wanted = _named_by(store, filter(is_id, store.list("studies")))
    entries = [name for name in store.list("cache") if _ENTRY.fullmatch(name)]
    kept = {name for name in entries if name.removesuffix(".json") in wanted}
    for data in store.each(store.read_if_there, [f"cache/{name}" for name in sorted(kept)]):
        wanted.update(_digests(data))
    unneeded = [f"blobs/{name}" for name in store.list("blobs") if _SHA.fullmatch(name) and name not in wanted]
    unneeded += [f"cache/{name}" for name in entries if name not in kept]
    unneeded += [f"damaged/{name}" for name in store.list("damaged") if _DAMAGED.fullmatch(name)]
    return sum(_removed_if_old(store, key, grace) for key in unneeded)


def _removed_if_old(store: Store, key: str, grace: float) -> int:
    """Remove a key unless it is young; return the bytes freed."""
    # Asked now, not when the list was made: a study that takes something from the cache touches it.
    age = store.age(key)
    if age is None or age < grace:
        return 0
    freed = store.size(key) or 0
    store.delete(key)
    return freed


def _named_by(store: Store, studies: Iterable[str]) -> set[str]:
    """Return the digests that studies refer to: of blobs, and of stages with results in the cache."""
    named: set[str] = set()
    for study_id in studies:
        keys = [key for key in store.walk(f"studies/{study_id}") if _NAMING.fullmatch(key)]
        for data in store.each(store.read_if_there, keys):
            named.update(_digests(data))
    return named


def _digests(data: bytes | None) -> list[str]:
    return _SHA.findall((data or b"").decode("utf-8", "replace"))
