import itertools
import os
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from quanttaas_jupyter.compute.executors.base import NodeLost, StageCall, StageTimeout, WorkerDied
from quanttaas_jupyter.compute.executors.ray import RayExecutor
from quanttaas_jupyter.core.config import Prices, SlotConfig
from quanttaas_jupyter.core.errors import ClusterError
from tests.compute.executors.test_local import call, ignore, wait_for
from tests.loopback import Loopback, stage_workers, until

pytestmark = [pytest.mark.slow]


def prepare() -> None:
    pass


def work(job: dict[str, Any], threads: int, report: Any) -> dict[str, Any]:
    """A stage whose job says what to do; its result says when and where it ran."""
    import ray

    begun = time.time()
    report("begun")
    for number in range(job.get("lines", 0)):
        report(f"line {number}")
        time.sleep(0.01)
    if "file" in job:
        Path(job["file"]).write_text(str(os.getpid()))
    while "until" in job and not Path(job["until"]).exists():
        time.sleep(0.01)
    where = {"pid": os.getpid(), "node": ray.get_runtime_context().get_node_id()}
    return {"begun": begun, "ended": time.time(), "threads": threads, **where}


@pytest.fixture(scope="module")
def connected(ray_head: Loopback) -> Iterator[Loopback]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(ray_head.config.token_file))
        import ray
        from ray._private.authentication_test_utils import reset_auth_token_state

        # Ray reads how to authenticate once in a process, and another test may have made it do so before.
        reset_auth_token_state()
        ray.init(address=ray_head.gcs_address, log_to_driver=False)
        yield ray_head
        ray.shutdown()
    reset_auth_token_state()


@pytest.fixture
def executor(connected: Loopback) -> Iterator[RayExecutor]:
    made = RayExecutor(work, prepare, SlotConfig(), warm_seconds=60)
    yield made
    made.close()
    until(lambda: not stage_workers())


def test_building_and_measuring_happen_in_different_processes_of_one_node(executor: RayExecutor) -> None:
    built = [executor.submit(call(), ignore) for _ in range(4)]
    measured = [executor.submit(call(measure=True), ignore) for _ in range(4)]
    builders, measurers = ({f.result(60)["pid"] for f in futures} for futures in (built, measured))
    assert not builders & measurers
    assert executor.slots == 2


def test_an_exclusive_stage_runs_with_nothing_beside_it(executor: RayExecutor) -> None:
    futures = [executor.submit(call(exclusive=number % 3 == 0), ignore) for number in range(12)]
    results = [future.result(60) for future in futures]
    for alone in results[::3]:
        for other in results:
            assert other is alone or other["ended"] <= alone["begun"] or other["begun"] >= alone["ended"]


def test_an_exclusive_stage_has_its_node_for_itself_while_others_work(
    executor: RayExecutor, connected: Loopback, tmp_path: Path
) -> None:
    with connected.node("--num-cpus=2"):
        until(lambda: executor.slots == 4, 30)
        go = tmp_path / "go"
        jobs = [{"until": str(go), "file": str(tmp_path / str(number))} for number in range(2)]
        held = [executor.submit(call(job), ignore) for job in jobs]
        for number in range(2):
            wait_for(tmp_path / str(number))
        free = [executor.submit(call(), ignore) for _ in range(4)]
        for future in free:
            future.result(60)
        timed = executor.submit(call(exclusive=True), ignore)
        if len({*(slot.placement["node"] for slot in executor._slots if slot.job and slot.placement)}) == 1:
            assert timed.result(60)["node"]
        go.touch()
        alone = timed.result(60)
        for other in (future.result(60) for future in held):
            is_beside = other["ended"] > alone["begun"] and other["begun"] < alone["ended"]
            assert not is_beside or other["node"] != alone["node"]


def test_a_killed_worker_costs_its_own_stage_only(executor: RayExecutor, tmp_path: Path) -> None:
    go = tmp_path / "go"
    victim = executor.submit(call({"file": str(tmp_path / "a"), "until": str(go)}), ignore)
    survivor = executor.submit(call({"file": str(tmp_path / "b"), "until": str(go)}), ignore)
    wait_for(tmp_path / "b")
    os.kill(int(wait_for(tmp_path / "a")), 9)
    with pytest.raises(WorkerDied, match="its worker process ended") as caught:
        victim.result(60)
    assert not isinstance(caught.value, NodeLost)
    go.touch()
    assert survivor.result(60)["threads"] == 1
    assert executor.submit(call(), ignore).result(60)


def test_a_hung_stage_is_stopped_at_its_timeout_and_others_go_on(executor: RayExecutor, tmp_path: Path) -> None:
    hung = executor.submit(call({"until": str(tmp_path / "never")}, timeout=1), ignore)
    with pytest.raises(StageTimeout, match="after 1 s"):
        hung.result(60)
    assert executor.submit(call(), ignore).result(60)


def test_stopping_ends_a_running_stage_and_forgets_a_waiting_one(executor: RayExecutor, tmp_path: Path) -> None:
    never = str(tmp_path / "never")
    running = [executor.submit(call({"until": never, "file": str(tmp_path / f"{i}")}), ignore) for i in range(2)]
    waiting = executor.submit(call(), ignore)
    for number in range(2):
        wait_for(tmp_path / f"{number}")
    executor.stop(waiting)
    assert waiting.cancelled()
    for future in running:
        executor.stop(future)
        with pytest.raises(CancelledError):
            future.result(30)


def test_lines_of_progress_arrive_once_and_in_order(executor: RayExecutor) -> None:
    for _ in range(2):
        lines: list[str] = []
        executor.submit(call({"lines": 60}), lines.append).result(60)
        assert lines == ["begun", *(f"line {number}" for number in range(60))]


def test_slots_without_work_are_given_back(connected: Loopback) -> None:
    import ray

    executor = RayExecutor(work, prepare, SlotConfig(), warm_seconds=0.5)
    executor.warm(lambda: True)
    assert executor.submit(call(), ignore).result(60)
    until(lambda: not executor._slots and ray.available_resources().get("CPU") == 2, 30)
    # Ray has what a worker held back before its process has gone.
    until(lambda: not stage_workers(), 30)
    assert executor.submit(call(), ignore).result(60)
    executor.close()


def cannot_prepare() -> None:
    raise ImportError("No module named 'onnxruntime'")


def test_workers_that_never_come_up_are_an_error_and_no_endless_wait(connected: Loopback) -> None:
    executor = RayExecutor(work, cannot_prepare, SlotConfig())
    with pytest.raises(RuntimeError, match="no worker comes up on the cluster: .*No module named 'onnxruntime'"):
        executor.submit(call(), ignore).result(60)
    executor.close()
    asked = RayExecutor(work, cannot_prepare, SlotConfig())
    with pytest.raises(ClusterError, match="no worker comes up"):
        until(asked.device, 60)
    asked.close()


def test_trainings_wait_for_a_gpu_and_the_rest_does_not(connected: Loopback) -> None:
    executor = RayExecutor(work, prepare, SlotConfig(gpus=0.5), prices=Prices(node=1, cpu=0.1, gpu=2))
    assert executor.submit(call(), ignore).result(60)
    # A node that an earlier test ended is counted until the head knows it dead.
    until(lambda: executor.rate() == pytest.approx(1.2), 30)
    training = executor.submit(StageCall({}, False, False, 60, (0,), wants_gpu=True), ignore)
    with connected.node("--num-cpus=1", "--num-gpus=1"):
        assert training.result(60)
        until(lambda: executor.rate() == pytest.approx(1.2 + 3.1), 10)
        both = [executor.submit(StageCall({}, False, False, 60, (0,), wants_gpu=True), ignore) for _ in range(2)]
        assert all(future.result(60) for future in both)
    executor.close()


def test_lines_are_asked_for_now_and_then_and_not_all_the_time(
    executor: RayExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    take = executor._take_lines

    def noted(*given: Any) -> None:
        asked.append(time.monotonic())
        take(*given)

    monkeypatch.setattr(executor, "_take_lines", noted)
    told: list[str] = []
    future = executor.submit(call({"until": str(tmp_path / "end")}), told.append)
    until(lambda: len(asked) >= 8)
    (tmp_path / "end").touch()
    future.result(60)
    assert told == ["begun"]
    assert statistics.median(later - earlier for earlier, later in itertools.pairwise(asked[:8])) > 0.1
