"""Where work runs: an executor takes a stage and gives a future."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from ...core.device import Device


@dataclass(frozen=True)
class StageCall:
    """A stage as an executor sees it.

    Attributes:
        job: What the worker is given; small JSON.
        is_measurement: It runs in a worker that builds nothing.
        is_exclusive: Nothing else runs on the device meanwhile.
        timeout: Seconds after which it counts as hung.
        priority: Smaller goes first.
        wants_gpu: It gains by a GPU, where there are any.
        machine: The kind of processor that its result depends on; empty where any will do.
    """

    job: dict[str, Any]
    is_measurement: bool
    is_exclusive: bool
    timeout: float
    priority: tuple[float, ...]
    wants_gpu: bool = False
    machine: str = ""


class WorkerDied(RuntimeError):
    """The process that ran a stage ended before the stage did; ``hint`` says what that mostly comes from."""

    hint = "probably out of memory; use fewer slots, or a smaller max_samples"
    attempts = 2


class NodeLost(WorkerDied):
    """The machine that ran a stage is gone: no fault of the stage, so it is tried more often."""

    hint = "nodes of the cluster keep vanishing; use machines that are not preemptible"
    attempts = 5


class StageTimeout(TimeoutError):
    """A stage ran longer than it may and was stopped."""


class Executor(Protocol):
    """Runs stages. Futures end with the stage's result, WorkerDied, StageTimeout or CancelledError."""

    @property
    def slots(self) -> int:
        """Stages at once, as things stand."""

    def device(self) -> Device | None:
        """What measurements are made on; None while no worker is up yet, which this asks for."""

    def waits_for(self) -> str:
        """What stages wait for that is not there yet, such as "a GPU node"; empty where nothing is missing."""

    def rate(self) -> float:
        """What it costs an hour as things stand; 0 where no prices are known."""

    def submit(self, call: StageCall, report: Callable[[str], None]) -> Future[dict[str, Any]]:
        """Run a stage when there is room for it; ``report`` gets its lines from any thread."""

    def stop(self, future: Future[dict[str, Any]]) -> None:
        """Stop a stage: one that waits is forgotten, one that runs is ended."""

    def close(self) -> None:
        """Stop everything."""
