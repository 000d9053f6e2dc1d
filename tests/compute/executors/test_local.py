import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from quanttaas_jupyter.compute.executors.base import KilledForMemory, StageCall, StageTimeout, WorkerDied
from quanttaas_jupyter.compute.executors.local import LocalExecutor


def begin(parent: int) -> None:
    pass


def work(job: dict[str, Any], threads: int, progress: str) -> dict[str, Any]:
    """A stage whose job says what to do; its result says when and where it ran."""
    begun = time.time()
    with open(progress, "a") as stream:
        stream.write("begun\n")
    if "file" in job:
        Path(job["file"]).write_text(str(os.getpid()))
    if "die" in job:
        os.kill(os.getpid(), signal.SIGKILL)
    if "until" in job:
        while not Path(job["until"]).exists():
            time.sleep(0.01)
    return {"begun": begun, "ended": time.time(), "pid": os.getpid(), "threads": threads}


@pytest.fixture
def executor() -> Iterator[LocalExecutor]:
    made = LocalExecutor(work, begin, slots=2, threads=1)
    yield made
    made.close()


def call(
    job: dict[str, Any] | None = None,
    exclusive: bool = False,
    timeout: float = 60,
    measure: bool = False,
    first: float = 0,
    memory: int = 0,
) -> StageCall:
    return StageCall(job or {}, measure or exclusive, exclusive, timeout, (first,), memory=memory)


def ignore(line: str) -> None:
    pass


def wait_for(path: Path) -> str:
    deadline = time.monotonic() + 60
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return path.read_text()


def test_building_and_measuring_happen_in_different_processes(executor: LocalExecutor) -> None:
    built = [executor.submit(call(), ignore) for _ in range(4)]
    measured = [executor.submit(call(measure=True), ignore) for _ in range(4)]
    builders, measurers = ({f.result(60)["pid"] for f in futures} for futures in (built, measured))
    assert not builders & measurers


def test_an_exclusive_stage_runs_with_nothing_beside_it(executor: LocalExecutor) -> None:
    futures = [executor.submit(call(exclusive=number % 3 == 0), ignore) for number in range(12)]
    results = [future.result(60) for future in futures]
    for alone in results[::3]:
        for other in results:
            assert other is alone or other["ended"] <= alone["begun"] or other["begun"] >= alone["ended"]


def test_a_killed_worker_costs_its_own_stage_only(executor: LocalExecutor, tmp_path: Path) -> None:
    go = tmp_path / "go"
    victim = executor.submit(call({"file": str(tmp_path / "a"), "until": str(go)}), ignore)
    survivor = executor.submit(call({"file": str(tmp_path / "b"), "until": str(go)}), ignore)
    pid = int(wait_for(tmp_path / "a"))
    wait_for(tmp_path / "b")
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(WorkerDied):
        victim.result(60)
    go.touch()
    assert survivor.result(60)["pid"] != pid
    assert executor.submit(call(), ignore).result(60)


def test_a_hung_stage_is_stopped_at_its_timeout_and_the_slot_lives_on(executor: LocalExecutor, tmp_path: Path) -> None:
    hung = executor.submit(call({"until": str(tmp_path / "never")}, timeout=1), ignore)
    with pytest.raises(StageTimeout, match="stopped after 1 s"):
        hung.result(60)
    assert executor.submit(call(), ignore).result(60)


def test_stopping_ends_a_running_stage_and_forgets_a_waiting_one(executor: LocalExecutor, tmp_path: Path) -> None:
    running = [
        executor.submit(call({"file": str(tmp_path / str(n)), "until": str(tmp_path / "never")}), ignore)
        for n in (0, 1)
    ]
    waiting = executor.submit(call({"file": str(tmp_path / "waiting")}), ignore)
    wait_for(tmp_path / "0")
    wait_for(tmp_path / "1")
    for future in [waiting, *running]:
        executor.stop(future)
    for future in running:
        with pytest.raises(CancelledError):
            future.result(60)
    assert waiting.cancelled()
    assert not (tmp_path / "waiting").exists()


def test_smaller_priorities_go_first(tmp_path: Path) -> None:
    executor = LocalExecutor(work, begin, slots=1, threads=1)
    go = tmp_path / "go"
    blocker = executor.submit(call({"file": str(tmp_path / "blocker"), "until": str(go)}), ignore)
    wait_for(tmp_path / "blocker")
    futures = [executor.submit(call(first=first), ignore) for first in (9, 1, 5)]
    go.touch()
    assert blocker.result(60)
    last, first, middle = (future.result(60)["begun"] for future in futures)
    executor.close()
    assert first < middle < last


def test_two_that_do_not_fit_into_memory_together_run_one_after_the_other() -> None:
    executor = LocalExecutor(work, begin, slots=2, threads=1, memory=100)
    futures = [executor.submit(call(memory=60), ignore) for _ in range(2)]
    first, second = (future.result(60) for future in futures)
    assert first["ended"] <= second["begun"]
    executor.close()


def test_one_that_takes_more_than_there_is_runs_alone() -> None:
    executor = LocalExecutor(work, begin, slots=2, threads=1, memory=100)
    futures = [executor.submit(call(memory=memory), ignore) for memory in (500, 10)]
    large, small = (future.result(60) for future in futures)
    assert large["ended"] <= small["begun"]
    executor.close()


def test_a_worker_that_the_system_killed_for_memory_says_so(
    executor: LocalExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = iter([3, 4])
    monkeypatch.setattr("quanttaas_jupyter.compute.executors.local.killed_for_memory", lambda: next(killed))
    future = executor.submit(call({"die": True}), ignore)
    with pytest.raises(KilledForMemory, match="for want of memory"):
        future.result(60)


def test_lines_of_progress_arrive_once_and_in_order(executor: LocalExecutor) -> None:
    lines: list[str] = []
    seen = threading.Event()

    def report(line: str) -> None:
        lines.append(line)
        seen.set()

    executor.submit(call(), report).result(60)
    assert seen.wait(10)
    assert lines == ["begun"]


def test_a_worker_that_died_while_idle_costs_the_next_stage_nothing(executor: LocalExecutor) -> None:
    pid = executor.submit(call(), ignore).result(60)["pid"]
    os.kill(pid, signal.SIGKILL)
    results = []
    for _ in range(4):
        try:
            results.append(executor.submit(call(), ignore).result(60)["pid"])
        except WorkerDied:
            # The death is noticed a moment later than the first submission may come.
            continue
    assert len(results) >= 3
    assert pid not in results
