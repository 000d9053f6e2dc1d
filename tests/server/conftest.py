"""One server for the tests of a module, and studies written straight into its stores."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from quanttaas_jupyter.client.study import whoami
from quanttaas_jupyter.core.records.study import StudyRecord
from quanttaas_jupyter.store import Store
from quanttaas_jupyter.store.local import LocalStore
from quanttaas_jupyter.study_store import records
from tests.notebook.fakes import GOAL, METRIC, Script
from tests.server.running import Client, server
from tests.study_store.test_records import record as plain_record

# Resuming must not start a real engine: what it would find here is no model.
NO_ENGINE = "import quanttaas_jupyter.compute.clusters.local_engine as resident; resident.start = lambda: None"


@dataclass
class House:
    """A server with a default store and the store of a cluster that cannot be reached."""

    client: Client
    folder: Path

    @property
    def store(self) -> Store:
        return LocalStore(self.folder / "store")

    @property
    def far(self) -> Store:
        return LocalStore(self.folder / "far")

    def environment(self) -> dict[str, str]:
        return settings(self.folder)


def settings(folder: Path) -> dict[str, str]:
    """What keeps a server to a folder of its own."""
    return {
        "QUANTTAAS_STORE": str(folder / "store"),
        "QUANTTAAS_CONFIG": str(folder / "config.yaml"),
        "QUANTTAAS_RUNTIME_DIR": str(folder / "run"),
        "QUANTTAAS_CLUSTER": "",
    }


def configure(folder: Path) -> None:
    """Configure a cluster at an address where nothing listens, with a store of its own."""
    cluster = {"address": "http://127.0.0.1:9", "store": str(folder / "far")}
    (folder / "config.yaml").write_text(json.dumps({"clusters": {"far": cluster}}))


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    configure(folder)
    with server(folder, code=NO_ENGINE, **settings(folder)) as client:
        yield House(client, folder)


@pytest.fixture(autouse=True)
def key_of_the_server(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies that a test writes into the house are signed with the key of the house, whose user is the test's."""
    if "house" in inspect.signature(request.function).parameters:
        folder = request.getfixturevalue("house").folder
        monkeypatch.setenv("QUANTTAAS_RUNTIME_DIR", settings(folder)["QUANTTAAS_RUNTIME_DIR"])


def record(study: str, **values: Any) -> StudyRecord:
    given = {"who": whoami(), "metric": METRIC, "recipe": {"goal": GOAL}, "created": 1.79e9}
    return plain_record(study, **{**given, **values})


def write(store: Store, study: str, script: Script | None = None, **values: Any) -> StudyRecord:
    """Put a study into a store, with the events of a script; returns its record."""
    made = record(study, **values)
    records.create_study(store, made)
    writer = records.EventWriter(store, study)
    for event in script.events if script else ():
        writer.append(event["type"], **{key: event[key] for key in event if key not in ("seq", "time", "type")})
    if script:
        writer.write_summary(made)
    return made


def finished() -> Script:
    script = Script()
    script.whole()
    return script


def cancelled() -> Script:
    return Script().start().add("cancelled", reason="cancelled on request")
