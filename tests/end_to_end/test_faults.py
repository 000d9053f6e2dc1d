"""What happens when things die: nothing is lost, and no finished stage runs again."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

import quanttaas_jupyter as qt
from quanttaas_jupyter.core.errors import NotTrusted, StoreError, StudyFailed, WaitTimeout
from quanttaas_jupyter.core.state import StudyState
from quanttaas_jupyter.store import open_store
from quanttaas_jupyter.store.local import LocalStore
from quanttaas_jupyter.study_store import records
from tests.conftest import engine_pid, is_running
from tests.networks import Digits

SLOW = {
    "prune": [0, 0.3],
    "recover": {"method": "distill", "epochs": 30},
    "quantize": ["none", "int8"],
    "latency": {"threads": 1},
}


def until(study: qt.Study, holds: Callable[[StudyState], bool], seconds: float = 90) -> StudyState:
    deadline = time.monotonic() + seconds
    while not holds(state := study.state):
        assert time.monotonic() < deadline, state
        time.sleep(0.05)
    return state


LEASE = 6


def is_training(state: StudyState) -> bool:
    return any("recovering" in label for label in state.running.values())


def finished_stages(study: qt.Study) -> list[str]:
    events = records.read_events(open_store(study.store), study.id)
    return [event["stage"] for event in events if event["type"] == "stage_finished"]


@pytest.mark.slow
def test_a_killed_worker_costs_one_retry_of_one_stage(digits: Digits, home: Path) -> None:
    study = qt.compress(digits.model, digits.test, recipe=SLOW, train=digits.train)
    until(study, is_training)
    workers = psutil.Process(engine_pid(home)).children(recursive=True)
    training = max(workers, key=lambda process: process.cpu_percent(0.2))
    os.kill(training.pid, signal.SIGKILL)
    study.wait(200)
    events = list(records.read_events(open_store(), study.id))
    assert sum(event["type"] == "stage_retried" for event in events) == 1
    assert all(trial.status == "finished" for trial in study)
    stages = finished_stages(study)
    assert len(stages) == len(set(stages))


@pytest.mark.slow
def test_a_killed_engine_leaves_an_interrupted_study_that_resumes(digits: Digits, home: Path) -> None:
    home.mkdir(exist_ok=True)
    (home / "config.yaml").write_text(f"engine: {{lease_seconds: {LEASE}}}\n")
    study = qt.compress(digits.model, digits.test, recipe=SLOW, train=digits.train)
    until(study, is_training)
    pid = engine_pid(home)
    workers = [process.pid for process in psutil.Process(pid).children(recursive=True)]
    os.kill(pid, signal.SIGKILL)
    before = finished_stages(study)
    until(study, lambda state: state.status == "interrupted", LEASE + 15)
    assert not [worker for worker in workers if is_running(worker)]
    with pytest.raises(StudyFailed, match="interrupted"):
        study.wait(5)
    study.resume().wait(200)
    after = finished_stages(study)
    assert before == after[: len(before)]
    assert len(after) == len(set(after))
    assert all(trial.status == "finished" for trial in study)


KERNEL = """
import sys, time
sys.path.insert(0, {root!r})
import quanttaas_jupyter as qt
from tests.networks import train_digits
digits = train_digits(epochs=1)
study = qt.compress(digits.model, digits.test, recipe={recipe!r}, train=digits.train)
while study.status == "queued":
    time.sleep(0.05)
print(study.id, flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_a_study_outlives_the_kernel_that_sent_it(home: Path) -> None:
    root = str(Path(__file__).resolve().parents[2])
    kernel = subprocess.Popen(
        [sys.executable, "-c", KERNEL.format(root=root, recipe=SLOW)], stdout=subprocess.PIPE, text=True
    )
    assert kernel.stdout is not None
    name = kernel.stdout.readline().strip()
    kernel.send_signal(signal.SIGINT)
    kernel.kill()
    kernel.wait()
    study = qt.open(name)
    assert study.status == "running"
    assert all(trial.status == "finished" for trial in study.wait(200))


@pytest.mark.slow
def test_two_studies_at_once_share_work_and_disturb_no_timing(digits: Digits, home: Path) -> None:
    larger = {**SLOW, "prune": [0, 0.3, 0.6]}
    first = qt.compress(digits.model, digits.test, recipe=larger, train=digits.train, name="same")
    second = qt.compress(digits.model, digits.test, recipe=SLOW, train=digits.train, name="same")
    assert first.id != second.id
    first.wait(200)
    second.wait(200)
    events = [event for s in (first, second) for event in records.read_events(open_store(), s.id)]
    done = [event for event in events if event["type"] == "stage_finished"]
    spans = {(e["stage"], e["began"]): (e["kind"], e["began"], e["began"] + e["seconds"]) for e in done}
    # A stage that both need runs once: both logs tell of the same run.
    assert len({stage for stage, _ in spans}) == len(spans)
    for kind, begun, ended in spans.values():
        if kind == "latency":
            others = [span for span in spans.values() if span[1:] != (begun, ended)]
            assert all(e <= begun + 0.005 or b >= ended - 0.005 for _, b, e in others)


@pytest.mark.slow
def test_cancel_stops_within_seconds_and_resume_goes_on(digits: Digits, home: Path) -> None:
    study = qt.compress(digits.model, digits.test, recipe=SLOW, train=digits.train)
    until(study, is_training)
    qt.open(study.id).cancel()
    begun = time.monotonic()
    until(study, lambda state: state.status == "cancelled")
    assert time.monotonic() - begun < 5
    with pytest.raises(StudyFailed, match="was cancelled"):
        study.wait()
    before = finished_stages(study)
    study.resume().wait(200)
    assert finished_stages(study)[: len(before)] == before
    assert study.status == "finished"


def test_waiting_has_an_end_and_the_study_goes_on(digits: Digits, home: Path) -> None:
    study = qt.compress(digits.model, digits.test, recipe=SLOW, train=digits.train)
    with pytest.raises(WaitTimeout, match="it goes on"):
        study.wait(0.5)
    study.cancel()
    until(study, lambda state: state.has_ended)


def test_a_stage_that_hangs_fails_its_trials_and_no_others(digits: Digits, home: Path) -> None:
    (home).mkdir(parents=True, exist_ok=True)
    (home / "config.yaml").write_text("engine: {recover_timeout: 1}")
    study = qt.compress(digits.model, digits.test, recipe={**SLOW, "prune": [0, 0.5]}, train=digits.train).wait(120)
    assert study["prune50"].error is not None
    assert "stopped after 1 s" in study["prune50"].error
    assert study["int8"].status == "finished"


def test_a_study_whose_blobs_were_deleted_says_so_and_computes_them_again(digits: Digits, home: Path) -> None:
    recipe = {"prune": [0], "quantize": ["none", "fp16"], "latency": {"threads": 1}}
    study = qt.compress(digits.model, digits.test, recipe=recipe).wait(120)
    artifact = study["fp16"].artifact
    assert artifact is not None
    open_store().delete(f"blobs/{artifact['blob']}")
    with pytest.raises(qt.QuantTaaSError, match="was deleted from the store"):
        study["fp16"].load()
    assert study.resume().wait(120)["fp16"].load() is not None
    assert study["fp16"].artifact is not None


def test_an_engine_refuses_a_study_that_was_changed_after_it_was_handed_over(digits: Digits, home: Path) -> None:
    study = qt.compress(digits.model, digits.test, recipe=SLOW, train=digits.train)
    until(study, is_training)
    study.cancel()
    until(study, lambda state: state.has_ended)
    path = home / "store" / "studies" / study.id / "study.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "who": "somebody else"}))
    with pytest.raises(NotTrusted, match="trusted=True"):
        qt.open(study.id).resume()
    from quanttaas_jupyter.compute.clusters import local_engine

    local_engine.submit(open_store().uri, study.id, "0" * 64, is_resume=True)
    deadline = time.monotonic() + 20
    while local_engine.has_ticket(study.id):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert study.status == "cancelled"
    assert "not the one that was handed over" in next((home / "run").glob("*/engine.log")).read_text()


def test_an_unreachable_store_is_told_with_the_time_it_was_last_seen(
    digits: Digits, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = qt.compress(digits.model, digits.test, recipe={"prune": [0], "quantize": ["none"]}).wait(120)
    before = study.state
    assert before.unreachable_since is None

    def unreachable(*_: object, **__: object) -> None:
        raise StoreError("no route to the store")

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "list", unreachable)
        lost = study.state
    assert lost.unreachable_since == pytest.approx(time.time(), abs=30)
    assert lost.trials == before.trials
    assert study.state == before
