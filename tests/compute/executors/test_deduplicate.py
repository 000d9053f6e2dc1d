import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from quanttaas_jupyter.compute.executors.base import StageCall
from quanttaas_jupyter.compute.executors.deduplicate import SharingExecutor
from quanttaas_jupyter.core.device import Device, this_device


class ByHand:
    """An executor whose stages end when the test says so."""

    slots = 2

    def __init__(self) -> None:
        self.futures: list[Future[dict[str, Any]]] = []
        self.stopped: list[Future[dict[str, Any]]] = []
        self.reports: list[Callable[[str], None]] = []

    def submit(self, call: StageCall, report: Callable[[str], None]) -> Future[dict[str, Any]]:
        self.futures.append(Future())
        self.reports.append(report)
        return self.futures[-1]

    def device(self) -> Device:
        return this_device()

    def memory(self) -> int | None:
        return None

    def waits_for(self) -> str:
        return ""

    def rate(self) -> float:
        return 0.0

    def stop(self, future: Future[dict[str, Any]]) -> None:
        self.stopped.append(future)

    def close(self) -> None:
        pass


def call(key: str = "k", store: str = "file:///a") -> StageCall:
    return StageCall({"key": key, "store": store}, False, False, 60, (0,))


def ignore(line: str) -> None:
    pass


def test_two_that_ask_for_one_stage_get_one_run_and_all_its_lines() -> None:
    inner, lines = ByHand(), [[], []]  # type: ignore[var-annotated]
    shared = SharingExecutor(inner)
    futures = [shared.submit(call(), lines[0].append), shared.submit(call(), lines[1].append)]
    assert len(inner.futures) == 1
    inner.reports[0]("half way")
    inner.futures[0].set_result({"done": 1})
    assert [future.result(1) for future in futures] == [{"done": 1}] * 2
    assert lines == [["half way"], ["half way"]]


def test_stores_do_not_share_runs() -> None:
    inner = ByHand()
    shared = SharingExecutor(inner)
    shared.submit(call(store="file:///a"), ignore)
    shared.submit(call(store="file:///b"), ignore)
    assert len(inner.futures) == 2


def test_a_stage_is_stopped_when_the_last_one_leaves() -> None:
    inner = ByHand()
    shared = SharingExecutor(inner)
    first, second = shared.submit(call(), ignore), shared.submit(call(), ignore)
    shared.stop(first)
    assert first.cancelled()
    assert inner.stopped == []
    shared.stop(second)
    assert inner.stopped == inner.futures


def test_a_newcomer_does_not_join_a_run_that_is_being_stopped() -> None:
    inner = ByHand()
    shared = SharingExecutor(inner)
    shared.stop(shared.submit(call(), ignore))
    again = shared.submit(call(), ignore)
    assert len(inner.futures) == 2
    inner.futures[0].set_exception(RuntimeError("stopped"))
    inner.futures[1].set_result({"done": 1})
    assert again.result(1) == {"done": 1}
    third = shared.submit(call(), ignore)
    assert len(inner.futures) == 3
    assert not third.done()


def test_the_executor_is_called_without_a_lock_that_the_end_of_a_stage_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = ByHand()
    shared = SharingExecutor(inner)
    first = shared.submit(call("first"), ignore)
    submit = inner.submit

    def ends_the_first_meanwhile(asked: StageCall, report: Callable[[str], None]) -> Future[dict[str, Any]]:
        ending = threading.Thread(target=inner.futures[0].set_result, args=({"done": 1},), daemon=True)
        ending.start()
        assert first.result(5) == {"done": 1}
        return submit(asked, report)

    monkeypatch.setattr(inner, "submit", ends_the_first_meanwhile)
    second = shared.submit(call("second"), ignore)
    inner.futures[1].set_result({"done": 2})
    assert second.result(1) == {"done": 2}


def test_whoever_joined_a_run_that_could_not_be_submitted_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = ByHand()
    shared = SharingExecutor(inner)
    joined: list[Future[dict[str, Any]]] = []

    def fails(asked: StageCall, report: Callable[[str], None]) -> Future[dict[str, Any]]:
        joined.append(shared.submit(call(), ignore))
        raise RuntimeError("out of reach")

    monkeypatch.setattr(inner, "submit", fails)
    for future in (shared.submit(call(), ignore), joined[0]):
        with pytest.raises(RuntimeError, match="out of reach"):
            future.result(1)
