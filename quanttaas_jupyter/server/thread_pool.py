"""Threads for what waits for a store or a cluster: the server's loop never does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

_THREADS = 4


class Workers:
    """A few threads for each place, so that a slow one keeps nobody else waiting. Lives in the server's loop."""

    def __init__(self) -> None:
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self._running: dict[Hashable, asyncio.Future[Any]] = {}

    def run(self, place: str, act: Callable[[], T]) -> Awaitable[T]:
        """Do something that waits for a place; a store's URI, or a cluster's name."""
        if place not in self._pools:
            self._pools[place] = ThreadPoolExecutor(_THREADS, thread_name_prefix="quanttaas-server")
        return asyncio.get_running_loop().run_in_executor(self._pools[place], act)

    def shared(self, key: Hashable, place: str, act: Callable[[], T]) -> asyncio.Future[T]:
        """The same, once for all who ask under this key meanwhile; it goes on when they no longer wait."""
        if key not in self._running:
            running = asyncio.ensure_future(self.run(place, act))
            self._running[key] = running
            running.add_done_callback(lambda _: self._running.pop(key))
        answer = asyncio.shield(self._running[key])
        # Whoever asked may have gone; a failure that nobody fetches is none to report.
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())
        return answer
