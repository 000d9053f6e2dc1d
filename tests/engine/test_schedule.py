"""What a schedule tries again."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from quanttaas_jupyter.compute.executors.base import NodeLost, StageCall, WorkerDied
from quanttaas_jupyter.core.config import EngineConfig
from quanttaas_jupyter.engine.schedule import Ended, Schedule
from quanttaas_jupyter.planning.plan import Plan, Stage
from quanttaas_jupyter.store.local import LocalStore

DONE = {"blobs": {}, "began": 1.0, "seconds": 1.0}
OUT_OF_REACH = {"error": {"reason": "the store is out of reach", "hint": ""}, "is_passing": True}
BROKEN = {"error": {"reason": "broken", "hint": ""}}


class Scripted:
    """An executor whose runs end one after the other as a script says."""

    slots = 1

    def __init__(self, script: list[Any], memory: int | None = None) -> None:
        self.script, self.runs, self._memory = script, 0, memory
        self.calls: list[StageCall] = []

    def memory(self) -> int | None:
        return self._memory

    def submit(self, call: StageCall, report: Callable[[str], None]) -> Future[dict[str, Any]]:
        future: Future[dict[str, Any]] = Future()
        outcome = self.script[min(self.runs, len(self.script) - 1)]
        self.runs += 1
        self.calls.append(call)
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
        return future


def ended(
    tmp_path: Path, script: list[Any], memory: int | None = None, model: int = 0
) -> tuple[Ended, Scripted, list[str]]:
    stage = Stage("k", "export", "exporting", {}, {})
    executor = Scripted(script, memory)
    reported: list[str] = []

    def append(type_: str, **values: Any) -> None:
        reported.append(type_)

    plan = Plan(stages={"k": stage})
    schedule = Schedule(plan, LocalStore(tmp_path), executor, EngineConfig(), append, model)  # type: ignore[arg-type]
    schedule.want(["k"])
    schedule.submit_ready()
    found: list[Ended] = []
    while not found:
        found = schedule.collect(0.1)
    return found[0], executor, reported


@pytest.mark.parametrize(
    ("script", "runs", "reason"),
    [
        ([DONE], 1, None),
        ([BROKEN], 1, "broken"),
        ([OUT_OF_REACH, OUT_OF_REACH, DONE], 3, None),
        ([OUT_OF_REACH], 5, "the store is out of reach"),
        ([WorkerDied("its worker process ended"), DONE], 2, None),
        ([WorkerDied("its worker process ended")], 2, "its worker process ended, 2 times"),
        ([NodeLost("the node is gone")] * 4 + [DONE], 5, None),
        ([NodeLost("the node is gone")], 5, "the node is gone, 5 times"),
    ],
)
def test_what_is_no_fault_of_a_stage_is_tried_again_and_told(
    tmp_path: Path, script: list[Any], runs: int, reason: str | None
) -> None:
    last, executor, reported = ended(tmp_path, script)
    assert executor.runs == runs
    assert (last.error or {}).get("reason") == reason
    assert reported == ["stage_retried"] * (runs - 1) + ["stage_finished" if reason is None else "stage_failed"]


def test_a_stage_that_is_too_large_for_the_machine_is_refused_before_it_starts(tmp_path: Path) -> None:
    last, executor, reported = ended(tmp_path, [DONE], memory=9 * 10**9, model=7 * 10**9)
    assert executor.runs == 0
    assert reported == ["stage_failed"]
    assert last.error is not None
    assert last.error["reason"] == "it needs at least 14.4 GB of memory, and stages may take 9.0 GB here"
    assert "a cluster" in last.error["hint"]


def test_what_a_stage_is_expected_to_take_follows_from_the_model(tmp_path: Path) -> None:
    _, executor, _ = ended(tmp_path, [DONE], memory=9 * 10**9, model=10**9)
    assert 10**9 < executor.calls[0].memory < 5 * 10**9
