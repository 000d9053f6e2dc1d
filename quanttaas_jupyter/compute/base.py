"""Where work runs: an executor takes a stage and gives a future."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class StageCall:
    """A stage as an executor sees it.

    Attributes:
        job: What the worker is given; small JSON.
        is_measurement: It runs in a worker that builds nothing.
        is_exclusive: Nothing else runs on the device meanwhile.
        timeout: Seconds after which it counts as hung.
        priority: Smaller goes first.
    """

    job: dict[str, Any]
    is_measurement: bool
    is_exclusive: bool
    timeout: float
    priority: tuple[float, ...]


class WorkerDied(RuntimeError):
    """The process that ran a stage ended before the stage did."""


class StageTimeout(TimeoutError):
    """A stage ran longer than it may and was stopped."""


class Executor(Protocol):
    """Runs stages. Futures end with the stage's result, WorkerDied, StageTimeout or CancelledError."""

    slots: int

    def submit(self, call: StageCall, report: Callable[[str], None]) -> Future[dict[str, Any]]:
        """Run a stage when there is room for it; ``report`` gets its lines from any thread."""

    def stop(self, future: Future[dict[str, Any]]) -> None:
        """Stop a stage: one that waits is forgotten, one that runs is ended."""

    def close(self) -> None:
        """Stop everything."""
