"""Interface of executors: submit a stage, get a future of its result."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from ...core.device import Device


@dataclass(frozen=True)
class StageCall:
    """One run of a stage.

    Attributes:
        job: Arguments of the worker; small JSON.
        is_measurement: Whether it runs in a worker that builds nothing.
        is_exclusive: Whether nothing else may run on the device at the same time.
        timeout: Seconds after which it counts as hung.
        priority: Smaller goes first.
        wants_gpu: Whether a GPU speeds it up, where there is one.
        machine: Kind of processor that its result depends on; empty if any will do.
        memory: Bytes that it is expected to take.
    """

    job: dict[str, Any]
    is_measurement: bool
    is_exclusive: bool
    timeout: float
    priority: tuple[float, ...]
    wants_gpu: bool = False
    machine: str = ""
    memory: int = 0


class WorkerDied(RuntimeError):
    """The worker process ended before its stage; ``hint`` says what to do, ``attempts`` how often to try."""

    hint = "see the log of the engine: %quanttaas logs ID --engine"
    attempts = 2

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.hint = hint or self.hint


class KilledForMemory(WorkerDied):
    """The system killed the worker because memory ran out."""

    hint = "use fewer slots, a smaller max_samples, or a cluster with more memory"


class NodeLost(WorkerDied):
    """The node that ran a stage is gone; not the stage's fault, so it is tried more often."""

    hint = "nodes of the cluster keep vanishing; use machines that are not preemptible"
    attempts = 5


class StageTimeout(TimeoutError):
    """A stage ran longer than its timeout and was stopped."""


class Executor(Protocol):
    """Interface of an executor of stages.

    Futures end with the stage's result, WorkerDied, StageTimeout or CancelledError.
    """

    @property
    def slots(self) -> int:
        """Number of stages that can run at the same time at present."""

    def device(self) -> Device | None:
        """Return the device that measurements run on; None until a first worker is up, which this call requests."""

    def waits_for(self) -> str:
        """Return the missing resource that stages wait for, such as "a GPU node", or an empty string."""

    def rate(self) -> float:
        """Return the present cost per hour; 0 if no prices are configured."""

    def memory(self) -> int | None:
        """Return the bytes that stages may take on one machine; None if that is unknown."""

    def submit(self, call: StageCall, report: Callable[[str], None]) -> Future[dict[str, Any]]:
        """Queue a stage and return its future; ``report`` is called with progress lines from any thread."""

    def stop(self, future: Future[dict[str, Any]]) -> None:
        """Stop a stage: remove it from the queue, or end its worker."""

    def close(self) -> None:
        """Stop all stages and workers."""
