"""Worker of the Ray executor: the code that runs in the process of an actor."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ...core.device import this_device

Run = Callable[[dict[str, Any], int, Callable[[str], None]], dict[str, Any]]


class StageWorker:
    """Process of a Ray actor that runs one stage at a time, and returns its progress lines from a second thread."""

    def __init__(self, run: Run, prepare: Callable[[], None], gpus: str | None) -> None:
        """Import the libraries of stages; ``gpus`` are the slot's GPUs if this actor reserves none itself."""
        if gpus is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = gpus
        self._run, self._number, self._lines = run, -1, list[str]()
        prepare()

    def placement(self) -> dict[str, Any]:
        """Return ``node``, ``device`` and the ``gpus`` that this process sees."""
        import ray

        return {
            "node": ray.get_runtime_context().get_node_id(),
            "device": this_device().dump(),
            "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        }

    def run(self, job: dict[str, Any], threads: int, number: int) -> dict[str, Any]:
        """Run a stage; ``number`` identifies the run in calls of ``lines``."""
        lines: list[str] = []
        self._lines = lines
        self._number = number
        return self._run(job, threads, lines.append)

    def lines(self, number: int, start: int) -> list[str]:
        """Return the progress lines of a run from index ``start`` on; none before it starts."""
        return self._lines[start:] if self._number == number else []
