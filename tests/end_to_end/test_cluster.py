"""Studies on a real Ray cluster with a store in the emulator: what works, and what happens when things die."""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell

import quanttaas_jupyter as qt
from quanttaas_jupyter.client import submission
from quanttaas_jupyter.compute.clusters import tickets
from quanttaas_jupyter.compute.clusters.ray import RayCluster
from quanttaas_jupyter.core.config import load_config
from quanttaas_jupyter.core.errors import ClusterError, QuantTaaSError, StudyFailed
from quanttaas_jupyter.core.state import StudyState
from quanttaas_jupyter.core.versions import versions
from quanttaas_jupyter.notebook.magics import load
from quanttaas_jupyter.store import open_store
from quanttaas_jupyter.study_store import records
from tests.loopback import NAME, Loopback, Serving, engines, raylets, stage_workers, until
from tests.measured import number
from tests.networks import Digits

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

QUICK = {
    "prune": [0, 0.3],
    "recover": {"method": "distill", "epochs": 1},
    "quantize": ["none", "int8"],
    "latency": {"threads": 1},
}
LEASE = 6
SLOW = {**QUICK, "recover": {"method": "distill", "epochs": 25}}


def send(digits: Digits, loopback: Loopback, recipe: dict[str, Any], store: str = "", **options: Any) -> qt.Study:
    place = {"cluster": NAME, "store": store or loopback.uri(), **options}
    if isinstance(loopback, Serving):
        recipe = {"seed": loopback.next_seed(), **recipe}
    return qt.compress(digits.model, digits.test, recipe=recipe, train=digits.train, **place)


def wait_until(study: qt.Study, holds: Callable[[StudyState], bool], seconds: float = 120) -> StudyState:
    deadline = time.monotonic() + seconds
    while not holds(state := study.state):
        assert time.monotonic() < deadline, state
        assert state.status != "failed", state.error
        time.sleep(0.1)
    return state


def is_training(state: StudyState) -> bool:
    return any("recovering" in label for label in state.running.values())


def check_nothing_is_lost_or_doubled(study: qt.Study) -> list[str]:
    """Every event is there once, every finished stage ran once, every artifact is in the store; returns the stages."""
    store = open_store(study.store)
    names = list(store.list(f"studies/{study.id}/events"))
    assert names == [f"{number:08d}.json" for number in range(1, len(names) + 1)]
    events = list(records.read_events(store, study.id))
    stages = [event["stage"] for event in events if event["type"] == "stage_finished"]
    assert len(stages) == len(set(stages))
    for trial in study:
        if trial.status == "finished":
            assert trial.artifact is not None
            assert store.size(f"blobs/{trial.artifact['blob']}") == trial.artifact["size"]
    return stages


def all_finished(study: qt.Study) -> bool:
    return all(trial.status == "finished" for trial in study)


def test_a_killed_worker_costs_one_retry_of_one_stage(digits: Digits, serving: Serving) -> None:
    study = send(digits, serving, {**QUICK, "recover": {"method": "distill", "epochs": 150}})
    wait_until(study, is_training)

    def retries() -> list[str]:
        events = records.read_events(open_store(study.store), study.id)
        return [event["reason"] for event in events if event["type"] == "stage_retried"]

    def kill_the_busiest() -> list[str]:
        # One that is only starting is busy too, but runs no stage: its end costs none.
        max(until(stage_workers), key=lambda process: process.cpu_percent(0.3)).kill()
        with contextlib.suppress(AssertionError):
            until(retries, 3)
        return retries()

    until(kill_the_busiest)
    study.wait(300)
    assert retries() == ["its worker process ended"]
    assert all_finished(study)
    check_nothing_is_lost_or_doubled(study)


def test_a_head_out_of_reach_does_not_stop_what_runs(digits: Digits, serving: Serving) -> None:
    study = send(digits, serving, SLOW)
    wait_until(study, is_training)
    serving.configure(address="http://127.0.0.1:9")
    study.wait(300)
    assert all_finished(study)


def test_a_view_says_since_when_the_store_is_out_of_reach_and_catches_up(digits: Digits, serving: Serving) -> None:
    study = send(digits, serving, SLOW)
    wait_until(study, is_training)
    reader = qt.open(study.id, store=study.store)
    reader._store.inner._deadline = 0.5  # type: ignore[attr-defined]
    seen = reader.state.seq
    serving.proxy.down()
    state = reader.state
    assert state.unreachable_since is not None
    assert state.seq >= seen
    serving.proxy.up()
    assert reader.state.unreachable_since is None
    study.wait(300)
    assert reader.state.status == "finished"
    check_nothing_is_lost_or_doubled(study)


def test_a_store_that_fails_one_request_in_ten_costs_nothing(digits: Digits, serving: Serving) -> None:
    serving.proxy.fail_every = 10
    failed = serving.proxy.failed
    study = send(digits, serving, QUICK).wait(300)
    assert all_finished(study)
    assert serving.proxy.failed - failed > 20
    check_nothing_is_lost_or_doubled(study)


def test_lost_answers_to_writes_that_happened_double_nothing(digits: Digits, serving: Serving) -> None:
    study = send(digits, serving, SLOW)
    wait_until(study, is_training)
    for _ in range(12):
        seen = study.state.seq
        serving.proxy.drop_next_write()
        wait_until(study, lambda state, seen=seen: state.seq > seen or state.has_ended)  # type: ignore[misc]
    assert all_finished(study.wait(300))
    check_nothing_is_lost_or_doubled(study)


def test_two_notebooks_attach_and_each_can_cancel(digits: Digits, serving: Serving) -> None:
    study = send(digits, serving, SLOW)
    wait_until(study, is_training)
    other = qt.open(f"{study.store}/studies/{study.id}")
    assert set(other.state.trials) == set(study.state.trials)
    other.cancel()
    begun = time.monotonic()
    wait_until(study, lambda state: state.status == "cancelled", 20)
    assert time.monotonic() - begun < 8
    study.resume()
    wait_until(other, is_training)
    study.cancel()
    wait_until(other, lambda state: state.status == "cancelled", 20)
    check_nothing_is_lost_or_doubled(study)


def test_from_another_python_quantization_runs_and_pruning_is_refused_with_the_reason(
    digits: Digits, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "versions", lambda: {**versions(), "python": "3.9.1"})
    study = send(digits, serving, QUICK).wait(200)
    assert {trial.name: trial.status for trial in study} == {
        "baseline": "finished",
        "int8": "finished",
        "prune30": "failed",
        "prune30-int8": "failed",
    }
    assert "another version of Python" in str(study["prune30"].error)
    assert number(study["int8"], "size_ratio") < 0.4
    own = lambda outputs, targets: float((outputs.argmax(1) == targets).float().mean())  # noqa: E731
    with pytest.raises(StudyFailed, match="the notebook's own metric cannot travel"):
        send(digits, serving, QUICK, metric=own).wait(60)


def test_logs_are_json_lines_with_study_and_stage_and_no_secret(digits: Digits, serving: Serving) -> None:
    study = send(digits, serving, QUICK).wait(200)
    lines = [json.loads(line) for line in until(lambda: study.engine_log().splitlines(), 20)]
    assert {line["study"] for line in lines} == {study.id}
    assert {"severity", "message", "time"} <= set(lines[0])
    assert any("stage" in line for line in lines)
    token = Path(str(serving.config.token_file)).read_text()
    assert token not in serving.configure().engine_log(study.store)


def test_the_same_call_with_a_cluster_gives_the_same_trials_and_files(digits: Digits, loopback: Loopback) -> None:
    here = qt.compress(digits.model, digits.test, recipe=QUICK, train=digits.train).wait(200)
    there = send(digits, loopback, QUICK).wait(200)
    assert [trial.name for trial in there] == [trial.name for trial in here]
    assert [trial.metrics["size_bytes"] for trial in there] == [trial.metrics["size_bytes"] for trial in here]
    assert there.state.cluster == NAME
    check_nothing_is_lost_or_doubled(there)
    loaded = there["prune30-int8"].load()
    assert loaded(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_a_killed_node_costs_what_ran_there_and_nothing_else(digits: Digits, loopback: Loopback) -> None:
    # What wants a GPU runs on the node that says it has one.
    loopback.configure(slot={"cpus": 1, "gpus": 0.5})
    with loopback.node("--num-cpus=2", "--num-gpus=1") as raylet:
        study = send(digits, loopback, {**SLOW, "prune": [0.2, 0.3, 0.4, 0.5], "quantize": ["int8"]})
        wait_until(study, is_training)
        for process in [raylet, *stage_workers(raylet)]:
            process.kill()
    with loopback.node("--num-cpus=2", "--num-gpus=1"):
        study.wait(300)
    events = records.read_events(open_store(study.store), study.id)
    retried = [event for event in events if event["type"] == "stage_retried"]
    tries = Counter(event["stage"] for event in retried)
    # It has two processors; a stage whose worker is gone may be sent there once more before the node is known dead.
    assert 1 <= len(tries) <= 2
    assert max(tries.values()) <= 2
    assert {event["reason"] for event in retried} <= {"the node that ran it is gone", "its worker process ended"}
    assert all_finished(study)
    check_nothing_is_lost_or_doubled(study)


def test_a_killed_driver_leaves_an_interrupted_study_that_resumes(
    digits: Digits, loopback: Loopback, home: Path
) -> None:
    with (home / "config.yaml").open("a") as config:
        config.write(f"engine: {{lease_seconds: {LEASE}}}\n")
    study = send(digits, loopback, SLOW)
    wait_until(study, is_training)
    for engine in engines(study.store):
        engine.kill()
    before = check_nothing_is_lost_or_doubled(study)
    wait_until(study, lambda state: state.status == "interrupted", LEASE + 20)
    study.resume().wait(300)
    after = check_nothing_is_lost_or_doubled(study)
    assert after[: len(before)] == before
    assert all_finished(study)


def test_an_engine_that_is_told_to_end_says_so_and_gives_the_study_back(digits: Digits, loopback: Loopback) -> None:
    study = send(digits, loopback, SLOW)
    wait_until(study, is_training)
    assert loopback.configure().stop_engine(study.store)
    state = wait_until(study, lambda state: state.status == "interrupted", 10)
    assert "told to end" in state.message
    until(lambda: not engines(study.store), 20)
    study.resume().wait(300)
    check_nothing_is_lost_or_doubled(study)
    assert all_finished(study)


def test_an_unreachable_head_leaves_nothing_half_made_and_the_same_call_works_later(
    digits: Digits, loopback: Loopback
) -> None:
    store = loopback.uri()
    loopback.configure(address="http://127.0.0.1:9")
    with pytest.raises(StudyFailed, match="cannot be reached at http://127.0.0.1:9"):
        send(digits, loopback, QUICK, store).wait(60)
    assert list(open_store(store).walk("studies")) == []
    assert list(open_store(store).walk("queue")) == []
    loopback.configure()
    assert all_finished(send(digits, loopback, QUICK, store).wait(200))


def test_studies_in_the_store_of_a_cluster_are_found_by_their_id(digits: Digits, loopback: Loopback) -> None:
    loopback.configure(store=loopback.uri())
    study = qt.compress(digits.model, digits.test, recipe={**QUICK, "prune": [0]}, cluster=NAME).wait(200)
    assert study.store.startswith("gs://")
    assert qt.open(study.id).store == study.store
    assert study.id in [info.id for info in qt.studies()]


def test_a_cluster_of_this_machine_starts_without_a_token_and_stops_alone(
    home: Path, loopback: Loopback, capsys: pytest.CaptureFixture[str]
) -> None:
    shell = InteractiveShell.instance()
    load(shell)
    before = {process.pid for process in raylets()}
    shell.run_line_magic("quanttaas", "cluster start --cpus 1 --no-token")
    assert "runs at http://127.0.0.1" in capsys.readouterr().out
    fresh = [process for process in raylets() if process.pid not in before]
    until(lambda: RayCluster("loopback", load_config().clusters["loopback"]).nodes())
    shell.run_line_magic("quanttaas", "cluster status")
    assert re.search(r"^loopback +up +1 +1 +0 +0", capsys.readouterr().out, re.MULTILINE)
    shell.run_line_magic("quanttaas", "cluster stop")
    assert "Stopped the Ray cluster" in capsys.readouterr().out
    assert not [process for process in fresh if process.is_running()]
    assert {process.pid for process in raylets()} == before
    assert load_config().clusters == {}


def test_of_two_engines_one_gets_the_study(digits: Digits, loopback: Loopback) -> None:
    store = loopback.uri()
    cluster = loopback.configure()
    client, engine = cluster._client(), cluster.ensure_engine(store)["engine"]
    client.submit_job(entrypoint=client.get_job_info(engine).entrypoint, submission_id=f"{engine}-twin")
    until(lambda: "with 2 slots" in client.get_job_logs(f"{engine}-twin"))
    assert len(engines(store)) == 2
    study = send(digits, loopback, QUICK, store).wait(200)
    started = [e for e in records.read_events(open_store(store), study.id) if e["type"] == "started"]
    assert len(started) == 1
    assert all_finished(study)
    check_nothing_is_lost_or_doubled(study)


def test_a_wrong_token_and_none_at_all_are_named(digits: Digits, loopback: Loopback, tmp_path: Path) -> None:
    wrong = tmp_path / "token"
    wrong.write_text("0" * 64)
    with pytest.raises(ClusterError, match="refuses the token in"):
        loopback.configure(token_file=str(wrong)).nodes()
    with pytest.raises(ClusterError, match="asks for a token: .*--token-file"):
        loopback.configure(token_file=None).nodes()
    with pytest.raises(ClusterError, match="cannot be read"):
        loopback.configure(token_file=str(tmp_path / "missing")).nodes()


def test_a_web_server_that_is_no_ray_is_named(loopback: Loopback, tmp_path: Path) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    with pytest.raises(ClusterError, match="answers, but not like a Ray dashboard"):
        loopback.configure(address=address).nodes()
    server.shutdown()
    server.server_close()


def test_ray_in_the_environment_is_not_taken_for_the_configured_cluster(
    loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
    assert loopback.configure().nodes()
    assert os.environ["RAY_ADDRESS"] == "http://127.0.0.1:9"


def test_a_folder_of_this_machine_is_refused_for_a_cluster_elsewhere(digits: Digits, loopback: Loopback) -> None:
    far = loopback.configure(address="http://10.0.0.7:8265")
    with pytest.raises(ClusterError, match="cannot reach file://.*--store gs://"):
        send(digits, loopback, QUICK, store="/tmp/somewhere")
    near = loopback.configure()
    near.refuse_store("file:///tmp/somewhere")
    with pytest.raises(ClusterError, match="cannot reach"):
        near.refuse_store("file:///tmp/somewhere", {"machine": "behind a tunnel"})
    far.refuse_store("gs://bucket/place")


def test_other_versions_are_named_before_anything_is_sent(
    digits: Digits, loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "versions", lambda: {**versions(), "torch": "1.9.0"})
    store = loopback.uri()
    with pytest.raises(StudyFailed, match=r"torch is 1\.9\.0 here and .* there.*nothing was sent"):
        send(digits, loopback, QUICK, store).wait(60)
    assert list(open_store(store).walk("blobs")) == []


def ends_its_process(model: Any, teacher: Any, batches: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def asks_for_too_much(model: Any, teacher: Any, batches: Any) -> None:
    torch.empty(2**50)


def never_ends(model: Any, teacher: Any, batches: Any) -> None:
    time.sleep(1000)


@pytest.mark.parametrize(
    ("recovery", "reason"),
    [
        (ends_its_process, "its worker process ended, 2 times; see the log of the engine"),
        (asks_for_too_much, "out of memory; use fewer slots"),
        (never_ends, "stopped after 3 s without an end"),
    ],
)
def test_a_stage_that_dies_or_hangs_fails_its_trial_and_no_other(
    digits: Digits, loopback: Loopback, home: Path, recovery: Callable[..., None], reason: str
) -> None:
    configured = (home / "config.yaml").read_text()
    (home / "config.yaml").write_text(configured + "engine: {recover_timeout: 3}\n")
    study = send(digits, loopback, {**QUICK, "quantize": ["none"], "recover": recovery}).wait(200)
    assert study["baseline"].status == "finished"
    assert reason in str(study["prune30"].error)
    check_nothing_is_lost_or_doubled(study)


def test_without_ray_the_pip_command_is_named(digits: Digits, loopback: Loopback) -> None:
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "from quanttaas_jupyter.compute.clusters.ray import RayCluster\n"
        "from quanttaas_jupyter.core.config import ClusterConfig\n"
        "RayCluster('far', ClusterConfig(address='http://127.0.0.1:8265')).nodes()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'quanttaas-jupyter[ray]'" in done.stderr.strip().splitlines()[-1]


def test_a_ticket_that_the_user_did_not_sign_is_not_served(digits: Digits, loopback: Loopback) -> None:
    store = loopback.uri()
    study = send(digits, loopback, QUICK, store).wait(200)
    where = open_store(store)
    record = records.read_study(where, study.id)
    forged = records.create_study(where, dataclasses.replace(record, id="forged"))
    engine = loopback.configure().ensure_engine(store)["engine"]
    place = {"store": store, "cluster": NAME, "engine": engine}
    genuine = tickets.sign({"study": study.id, "sha256": forged, "resume": True, "time": time.time(), **place})
    for ticket in (
        json.dumps({"study": "forged", "sha256": forged, "resume": False, **place, "key": tickets.public_key()}),
        json.dumps({**genuine, "study": "forged"}),
        json.dumps(genuine),
        json.dumps(tickets.sign({**genuine, "study": "forged", "store": "gs://bucket/elsewhere"})),
        "no json",
        "5",
    ):
        where.replace(f"queue/{NAME}/forged", ticket.encode())
        second = send(digits, loopback, {**QUICK, "seed": 1}, store).wait(200)
        assert second.status == "finished"
        assert list(records.read_events(where, "forged")) == []


def test_an_engine_that_cannot_reach_the_store_says_so(digits: Digits, loopback: Loopback) -> None:
    with pytest.raises(StudyFailed, match="the engine on cluster 'loopback' cannot work: from the cluster, .*bucket"):
        send(digits, loopback, QUICK, store="gs://no-such-bucket/place").wait(60)


def test_a_study_whose_ticket_nobody_can_serve_is_resumed(
    digits: Digits, loopback: Loopback, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = loopback.uri()
    done = send(digits, loopback, {**QUICK, "prune": [0]}, store).wait(200)
    where = open_store(store)
    sha256 = records.create_study(where, dataclasses.replace(records.read_study(where, done.id), id="waiting"))
    with monkeypatch.context() as gone:
        gone.setenv("QUANTTAAS_RUNTIME_DIR", str(tmp_path / "gone"))
        records.enqueue(where, NAME, "waiting", tickets.sign({"study": "waiting", "sha256": sha256, "resume": False}))
    study = qt.open("waiting", store=store)
    assert study.status == "queued"
    assert all_finished(study.resume().wait(200))
    slow = send(digits, loopback, SLOW, store)
    wait_until(slow, is_training)
    with pytest.raises(QuantTaaSError, match="running already"):
        slow.resume()


def test_an_engine_with_settings_of_before_is_not_asked_and_can_be_stopped(digits: Digits, loopback: Loopback) -> None:
    store = loopback.uri()
    before = loopback.configure(warm_seconds=21.0).ensure_engine(store)["engine"]
    study = send(digits, loopback, QUICK, store, cluster=NAME)
    study.wait(200)
    cluster = loopback.configure(warm_seconds=20.0)
    again = send(digits, loopback, {**QUICK, "seed": 1}, store).wait(200)
    assert cluster.ensure_engine(store)["engine"] != before
    started = {
        s.id: next(e for e in records.read_events(open_store(store), s.id) if e["type"] == "started")
        for s in (study, again)
    }
    assert started[study.id]["engine"] != started[again.id]["engine"]
    assert len(engines(store)) == 2
    assert cluster.stop_engine(store)
    until(lambda: not engines(store), 20)


def test_a_study_that_waits_for_a_gpu_says_so_and_goes_on_when_one_comes(digits: Digits, loopback: Loopback) -> None:
    loopback.configure(slot={"cpus": 1, "gpus": 0.5}, prices={"node": 0.5, "cpu": 0.1, "gpu": 1.0})
    study = send(digits, loopback, QUICK)
    state = wait_until(study, lambda state: bool(state.waiting))
    assert state.waiting == "a GPU node"
    assert state.waiting_since is not None
    with loopback.node("--num-cpus=2", "--num-gpus=1"):
        state = study.wait(200).state
    assert state.waiting == ""
    assert state.cost > 0
    assert all_finished(study)


def test_an_idle_engine_holds_nothing_on_the_cluster(digits: Digits, loopback: Loopback) -> None:
    loopback.configure(warm_seconds=1.0)
    study = send(digits, loopback, QUICK).wait(200)
    until(lambda: not stage_workers(), 30)
    assert engines(study.store)
    again = send(digits, loopback, {**QUICK, "prune": [0], "seed": 3}, study.store).wait(200)
    assert all_finished(again)


def test_the_package_travels_where_the_image_lacks_it(digits: Digits, loopback: Loopback) -> None:
    loopback.configure(package="upload")
    study = send(digits, loopback, {**QUICK, "prune": [0]}).wait(300)
    assert all_finished(study)
