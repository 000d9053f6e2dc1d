"""Clusters over HTTP: the list, connecting, stopping, templates."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quanttaas_jupyter.compute.clusters import local_head
from quanttaas_jupyter.compute.clusters.connect import ClusterStatus
from quanttaas_jupyter.compute.templates import TEMPLATES
from quanttaas_jupyter.server import cluster_list
from quanttaas_jupyter.study_store.lease import Lease
from tests.loopback import until
from tests.notebook.fakes import Script
from tests.server.conftest import House, configure, settings, write
from tests.server.contract import check
from tests.server.running import server


@pytest.fixture
def no_cluster() -> Iterator[str]:
    """A web server that is no Ray."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def test_the_list_holds_this_machine_and_what_is_configured(house: House) -> None:
    for _ in range(2):
        answer = house.client.get("clusters")
        check(answer.json, "ClusterList")
    lines = {line["name"]: line for line in answer.json["clusters"]}
    assert lines["local"]["title"] == "this machine"
    assert lines["far"]["state"] == "unreachable"
    assert [item["name"] for item in answer.json["templates"]] == list(TEMPLATES)


def test_this_machine_is_busy_while_a_study_runs_on_it(house: House) -> None:
    write(house.store, "abcd1234", Script().start())
    Lease(house.store, "abcd1234", "a", "host:1").take()
    house.client.get("studies")
    line = house.client.get("clusters").json["clusters"][0]
    assert (line["state"], line["words"].partition(", ")[2]) == ("busy", "1 running")


def test_a_cluster_in_words() -> None:
    status = ClusterStatus(nodes=1, cpus=8, gpus=1, kinds=("L4",), price=0.19)
    line = cluster_list.remote("gcp", status, 0)
    check(line, "ClusterLine")
    assert (line["state"], line["words"]) == ("up", "1 node, 8 CPUs, 1 GPUs (L4) · $0.19/h")
    assert cluster_list.remote("gcp", status, 2)["state"] == "busy"
    assert cluster_list.remote("gcp", ClusterStatus(trouble="no tunnel"), 0)["trouble"] == "no tunnel"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"name": "l4", "address": "10.0.0.1"}, "no address of a Jobs API"),
        ({"name": "l4", "address": "http://127.0.0.1:9"}, "cannot be reached"),
    ],
)
def test_a_cluster_that_does_not_answer_is_not_connected(house: House, body: dict[str, str], says: str) -> None:
    before = (house.folder / "config.yaml").read_text()
    answer = house.client.post("clusters/connect", body)
    assert answer.status in (400, 502)
    assert says in answer.json["message"]
    assert (house.folder / "config.yaml").read_text() == before


def test_what_is_no_ray_is_not_connected(house: House, no_cluster: str) -> None:
    answer = house.client.post("clusters/connect", {"name": "l4", "address": no_cluster})
    assert answer.status == 502
    assert "not like a Ray dashboard" in answer.json["message"]


def test_a_token_is_named_by_its_file_and_never_shown(tmp_path: Path) -> None:
    configure(tmp_path)
    token = tmp_path / "token"
    token.write_text("s3cret")
    cluster = {"address": "http://127.0.0.1:9", "token_file": str(token)}
    (tmp_path / "config.yaml").write_text(json.dumps({"clusters": {"far": cluster}}))
    with server(tmp_path, **settings(tmp_path)) as client:
        answers = [client.get("clusters"), client.get("service"), client.post("clusters/stop", {"name": "far"})]
    assert not any(b"s3cret" in answer.body for answer in answers)
    assert "s3cret" not in (tmp_path / "server.log").read_text()


def test_an_unknown_cluster_is_not_stopped(house: House) -> None:
    answer = house.client.post("clusters/stop", {"name": "moon"})
    assert answer.status == 404
    assert "it may use local, far" in answer.json["message"]


@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_template_comes_filled_with_an_example_or_with_what_is_asked(house: House, kind: str) -> None:
    made = house.client.get(f"clusters/template/{kind}").json
    assert made["text"]
    assert made["cell"].startswith(f"%quanttaas cluster template {kind} --project my-project")
    filled = house.client.get(f"clusters/template/{kind}", project="other-project", zone="europe-west4-a")
    assert "europe-west4" in filled.json["text"] or kind == "docker"


def test_a_wrong_template_is_told(house: House) -> None:
    assert house.client.get("clusters/template/aws").status == 400
    assert "project" in house.client.get("clusters/template/gce", project="$(rm)").json["message"]


@pytest.mark.slow
def test_a_ray_cluster_of_this_machine_is_started_used_for_the_list_and_stopped(tmp_path: Path) -> None:
    with server(tmp_path, **settings(tmp_path)) as client:

        def status() -> dict[str, Any]:
            return next(item for item in client.get("clusters").json["clusters"] if item["name"] == local_head.NAME)

        try:
            assert client.post("clusters/start", {"cpus": 2}).status == 204
            # Its head answers before its node has joined.
            until(lambda: "2 CPUs" in status()["words"])
            assert (status()["state"], status()["can_stop"]) == ("up", True)
        finally:
            stopped = client.post("clusters/stop", {"name": local_head.NAME})
        assert stopped.status == 204
        assert (status()["state"], status()["can_start"]) == ("stopped", True)
