"""What runs in the process of a Ray actor."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ...core.device import this_device

Run = Callable[[dict[str, Any], int, Callable[[str], None]], dict[str, Any]]


class StageWorker:
    """The process of a Ray actor: runs one stage at a time, and tells its lines from a second thread."""

    def __init__(self, run: Run, prepare: Callable[[], None], gpus: str | None) -> None:
        """Import what stages need; ``gpus`` are those of the slot, where this actor holds none itself."""
        if gpus is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = gpus
        self._run, self._number, self._lines = run, -1, list[str]()
        prepare()

    def about(self) -> dict[str, Any]:
        """``node``, ``device`` and the ``gpus`` that this process sees."""
        import ray

        return {
            "node": ray.get_runtime_context().get_node_id(),
            "device": this_device().dump(),
            "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        }

    def run(self, job: dict[str, Any], threads: int, number: int) -> dict[str, Any]:
        """Run a stage; ``number`` names this run."""
        lines: list[str] = []
        self._lines = lines
        self._number = number
        return self._run(job, threads, lines.append)

    def lines(self, number: int, start: int) -> list[str]:
        """Lines of a run from ``start`` on; none while it has not begun."""
        return self._lines[start:] if self._number == number else []
