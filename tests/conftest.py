"""Every test has a store, an engine folder and a configuration of its own."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.cloud import gcs, gcs_server, proxy  # noqa: F401 (fixtures)
from tests.loopback import loopback, ray_head, serving, shared_engine  # noqa: F401 (fixtures)
from tests.networks import Digits, train_digits

# On a busy machine an example may take any time; no test asserts on time.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

_ON_RAY = {"loopback", "serving", "ray_head"}
_STARTS_RAY = {"test_clusters.py"}


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark the tests that see the Ray nodes of this machine."""
    names = set(getattr(item, "fixturenames", ()))
    if names & _ON_RAY or item.path.name in _STARTS_RAY:
        item.add_marker(pytest.mark.ray)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    place = tmp_path / "quanttaas"
    monkeypatch.setenv("QUANTTAAS_STORE", str(place / "store"))
    monkeypatch.setenv("QUANTTAAS_RUNTIME_DIR", str(place / "run"))
    monkeypatch.setenv("QUANTTAAS_CONFIG", str(place / "config.yaml"))
    monkeypatch.setenv("QUANTTAAS_SLOTS", "2")
    yield place
    end_engines(place)


@pytest.fixture(scope="session")
def digits() -> Digits:
    return train_digits()


def engine_pid(home: Path) -> int:
    found = list((home / "run").glob("*/engine.json"))
    assert found, "no engine was started"
    return int(json.loads(found[0].read_text())["pid"])


def end_engines(home: Path) -> None:
    for path in (home / "run").glob("*/engine.json"):
        pid = int(json.loads(path.read_text())["pid"])
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            continue
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline and is_running(pid):
            time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
