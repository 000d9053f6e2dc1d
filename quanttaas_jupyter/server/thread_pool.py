"""Threads for calls that wait for a store or a cluster, which the server's event loop must not do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

_THREADS = 4
"""Threads per store or cluster; chosen, not tuned."""


class Workers:
    """Thread pools, one per store or cluster, so that a slow one delays no other; lives in the server's event loop."""

    def __init__(self) -> None:
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self._running: dict[Hashable, asyncio.Future[Any]] = {}

    def run(self, place: str, act: Callable[[], T]) -> Awaitable[T]:
        """Run a call that waits for a place, which is a store's URI or a cluster's name."""
        if place not in self._pools:
            self._pools[place] = ThreadPoolExecutor(_THREADS, thread_name_prefix="quanttaas-server")
        return asyncio.get_running_loop().run_in_executor(self._pools[place], act)

    def shared(self, key: Hashable, place: str, act: Callable[[], T]) -> asyncio.Future[T]:
        """Run a call once for all concurrent requests with the same key; it continues if they are cancelled."""
        if key not in self._running:
            running = asyncio.ensure_future(self.run(place, act))
            self._running[key] = running
            running.add_done_callback(lambda _: self._running.pop(key))
        answer = asyncio.shield(self._running[key])
        # A request may be cancelled; then asyncio must not report the unread exception.
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())
        return answer
