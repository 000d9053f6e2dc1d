"""Reader of studies for the panel: lists from indexes, and a few open studies, so that a poll reads only changes."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeVar

from ..client.study import Study
from ..core.errors import NotFound, StoreError
from ..core.records.summary import StudySummary
from ..store import Store
from ..study_store import deletion, records
from ..study_store.index import StudyIndex
from ..views import format as fmt
from .access_policy import AccessPolicy
from .cluster_status import ClusterStatuses
from .thread_pool import Workers

T = TypeVar("T")

_OPEN = 16
"""Studies kept open with their folded state; chosen, not tuned. More take memory, fewer read events again."""
_PATIENCE = 10.0
"""Seconds to wait for a store; chosen, not tuned."""
_LITTLE_PATIENCE = 0.5
"""Seconds to wait for a store that was too slow the last time, so that it does not delay each list again."""
_LONG_PATIENCE = 120.0
"""Seconds to wait for a store to measure what a study keeps, which reads many objects; chosen, not tuned."""


class Listed(NamedTuple):
    """Summaries with the URIs of their stores, and sentences about stores that did not answer."""

    summaries: list[tuple[str, StudySummary]]
    silent: list[str]


class StudyReader:
    """Shared state of all routes; it lives in the server's event loop, and accesses stores in threads."""

    def __init__(self, policy: AccessPolicy, workers: Workers) -> None:
        self.policy, self.workers, self.cluster_statuses = policy, workers, ClusterStatuses(workers)
        self._indexes: dict[str, StudyIndex] = {}
        self._last: dict[str, list[StudySummary]] = {}
        self._slow: set[str] = set()
        self._open: OrderedDict[tuple[str, str], Study] = OrderedDict()

    async def lists(self) -> Listed:
        """Return the studies of all stores, newest first; a store that does not answer shows its last known ones."""
        stores = self.policy.stores()
        self._indexes = {uri: self._indexes.get(uri) or StudyIndex(store) for uri, store in stores.items()}
        self._last = {uri: listed for uri, listed in self._last.items() if uri in stores}
        asked = {uri: self.workers.shared(("list", uri), uri, index.look) for uri, index in self._indexes.items()}
        for patience, is_slow in ((_PATIENCE, False), (_LITTLE_PATIENCE, True)):
            if waiting := [answer for uri, answer in asked.items() if (uri in self._slow) is is_slow]:
                await asyncio.wait(waiting, timeout=patience)
        self._slow = {uri for uri, answer in asked.items() if not answer.done()}
        silent = []
        for uri, answer in asked.items():
            try:
                self._last[uri] = answer.result()
                self._close_deleted(uri)
            except (StoreError, asyncio.InvalidStateError) as error:
                why = str(error) if isinstance(error, StoreError) else f"the store {uri} does not answer"
                before = "its studies stand as they were last seen" if uri in self._last else "its studies are missing"
                silent.append(f"{why}; {before}")
        listed = [(uri, summary) for uri, summaries in self._last.items() for summary in summaries]
        return Listed(sorted(listed, key=lambda item: -item[1].created), silent)

    def running(self) -> Counter[str]:
        """Return the number of running studies by cluster, as of the last call of ``lists``."""
        summaries = (summary for listed in self._last.values() for summary in listed)
        return Counter(summary.cluster for summary in summaries if summary.status == "running")

    async def open(self, study_id: str, store: str = "") -> Study:
        """Open a study by its id; without a store, in the first store that has it.

        Raises:
            NotFound: No allowed store has the study.
            StoreError: The store does not answer.
        """
        records.checked_id(study_id)
        where = [self.policy.store(store)] if store else list(self.policy.stores().values())
        for place in where:
            key = (place.uri, study_id)
            if key not in self._open:
                is_last = place is where[-1]
                with contextlib.suppress(*(() if is_last else (NotFound, StoreError))):
                    opening = self.workers.shared(("open", *key), place.uri, partial(_open, place, study_id))
                    self._keep(key, await _in_time(opening, place.uri, _PATIENCE))
            if key in self._open:
                self._open.move_to_end(key)
                return self._open[key]
        raise NotFound(f"no study {study_id} in the stores that this server may use")

    async def ask(self, study: Study, what: str, act: Callable[[], T], patience: float = _PATIENCE) -> T:
        """Run a query on a study's store in a thread; concurrent equal queries share one run.

        Raises:
            StoreError: The store does not answer in time.
        """
        return await _in_time(
            self.workers.shared((what, study.store, study.id), study.store, act), study.store, patience
        )

    async def act(self, study: Study, act: Callable[[], T]) -> T:
        """Run an action on a study in a thread, and read the study at each list for a while."""
        answer = await self.workers.run(study.store, act)
        if study.store in self._indexes:
            self._indexes[study.store].suspect(study.id)
        return answer

    async def size(self, study: Study) -> deletion.StudySize:
        """Return the bytes that a study takes in its store."""
        measure = partial(deletion.study_size, self.policy.store(study.store), study.id)
        return await self.ask(study, "size", measure, _LONG_PATIENCE)

    async def delete(self, study_id: str, where: str = "") -> tuple[int, str]:
        """Delete a study, which need not be readable, and return the bytes freed so far and a sentence.

        Raises:
            StudyIsBusy: The study is running.
            NotFound: No allowed store has the study.
        """
        store = await self._holder(study_id, where)
        freed = await self.workers.run(store.uri, partial(deletion.remove_study, store, study_id))
        self._open.pop((store.uri, study_id), None)
        # A sweep reads all studies of the store, which may take minutes.
        sweeping = self.workers.shared(("sweep", store.uri), store.uri, partial(deletion.sweep, store))
        await asyncio.wait([sweeping], timeout=_PATIENCE)
        if not sweeping.done():
            return freed, f"{fmt.size(freed)} freed; files that no other study needs follow in the background."
        freed += sweeping.result()
        return freed, f"{fmt.size(freed)} freed; files that other studies need, or younger than a day, stay."

    async def _holder(self, study_id: str, where: str) -> Store:
        """Return the allowed store that holds a study, whether the study can be read or not."""
        records.checked_id(study_id)
        for store in [self.policy.store(where)] if where else self.policy.stores().values():
            if await self.workers.run(store.uri, partial(_holds, store, study_id)):
                return store
        raise NotFound(f"no study {study_id} in the stores that this server may use")

    def _close_deleted(self, uri: str) -> None:
        """Close open studies that were deleted elsewhere, so that they are not shown from memory."""
        known = {summary.id for summary in self._last[uri]}
        for key in [key for key in self._open if key[0] == uri and key[1] not in known]:
            del self._open[key]

    def _keep(self, key: tuple[str, str], study: Study) -> None:
        self._open[key] = study
        while len(self._open) > _OPEN:
            self._open.popitem(last=False)


async def _in_time(answer: asyncio.Future[T], store: str, patience: float) -> T:
    try:
        return await asyncio.wait_for(answer, patience)
    except asyncio.TimeoutError:
        raise StoreError(f"the store {store} does not answer; asked again, it may") from None


def _holds(store: Store, study_id: str) -> bool:
    return next(store.walk(f"studies/{study_id}"), None) is not None


def _open(store: Store, study_id: str) -> Study:
    return Study(store, study_id, records.read_study(store, study_id))
