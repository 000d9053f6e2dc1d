"""A real Ray cluster on loopback, whose engines keep studies in the emulator of Google Cloud Storage."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from quanttaas_jupyter.compute.clusters import local_head
from quanttaas_jupyter.compute.clusters.ray import RayCluster
from quanttaas_jupyter.core.config import ClusterConfig, save_cluster
from tests.cloud import Cloud, FlakyProxy

ROOT = str(Path(__file__).resolve().parent.parent)
NAME = "loopback"


class Loopback:
    """The cluster: ``config`` says how to reach it, ``proxy`` stands before its store, ``gcs_address`` is for nodes."""

    def __init__(self, config: ClusterConfig, gcs_address: str, proxy: FlakyProxy, cloud: Cloud) -> None:
        self.config, self.gcs_address, self.proxy, self._cloud = config, gcs_address, proxy, cloud

    def uri(self) -> str:
        """An unused place in the bucket."""
        return self._cloud.uri()

    def configure(self, name: str = NAME, **changes: Any) -> RayCluster:
        """Write the cluster into this test's configuration."""
        config = ClusterConfig.model_validate({**self.config.model_dump(), "warm_seconds": 20.0, **changes})
        save_cluster(name, config)
        return RayCluster(name, config)

    @contextmanager
    def node(self, *options: str) -> Iterator[psutil.Process]:
        """Another node of this machine; gives its raylet."""
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats"]
        process = subprocess.Popen(
            [*command, f"--address={self.gcs_address}", "--dashboard-agent-listen-port=0", *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=_environment(self),
        )
        try:
            yield until(lambda: raylets(psutil.Process(process.pid)), 60)[0]
        finally:
            end([psutil.Process(process.pid)] if process.poll() is None else [])
            process.wait()


class Serving(Loopback):
    """The cluster with one engine that stays from test to test; studies share a store, each has its own seed."""

    def __init__(self, loopback: Loopback, store: str) -> None:
        super().__init__(loopback.config, loopback.gcs_address, loopback.proxy, loopback._cloud)
        self._store, self._seeds = store, itertools.count(100)

    def uri(self) -> str:
        """The place in the bucket that the engine serves."""
        return self._store

    def next_seed(self) -> int:
        """A seed that no test used: no stage is cached."""
        return next(self._seeds)


def raylets(parent: psutil.Process | None = None) -> list[psutil.Process]:
    """Raylets of all nodes, or the one that a process started; what a raylet forks has its name for a moment."""
    found = parent.children() if parent else psutil.process_iter()
    named = [process for process in found if _title(process).split(" ")[0].endswith("/raylet")]
    return [process for process in named if _parent(process) not in named]


def stage_workers(parent: psutil.Process | None = None) -> list[psutil.Process]:
    """Processes that run stages, of all nodes or below one raylet."""
    found = parent.children(recursive=True) if parent else psutil.process_iter()
    return [process for process in found if _title(process).startswith("ray::StageWorker")]


def engines(store: str) -> list[psutil.Process]:
    """Engine processes of a store."""
    found = []
    for process in psutil.process_iter():
        line = _title(process)
        if "quanttaas_jupyter.engine" in line and store in line and "bash" not in line and "/bin/sh" not in line:
            found.append(process)
    return found


def until(holds: Callable[[], Any], seconds: float = 90) -> Any:
    """Wait for something to hold; returns it."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, f"did not come true in {seconds:g} s"
        time.sleep(0.05)
    return found


def end(processes: list[psutil.Process]) -> None:
    """End processes and all below them."""
    family = [child for process in processes for child in [process, *process.children(recursive=True)]]
    for process in family:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(family, timeout=10)


def _title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def _parent(process: psutil.Process) -> psutil.Process | None:
    with contextlib.suppress(psutil.Error):
        return process.parent()
    return None


def _environment(loopback: Loopback) -> dict[str, str]:
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(loopback.config.token_file)}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, **token, "PATH": path, "STORAGE_EMULATOR_HOST": loopback.proxy.host}


@pytest.fixture(scope="session")
def ray_head(gcs_server: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    """One head with two processors for the whole run."""
    place = tmp_path_factory.mktemp("ray")
    with pytest.MonkeyPatch.context() as patch, FlakyProxy(gcs_server.host).running() as flaky:
        patch.setenv("QUANTTAAS_RUNTIME_DIR", str(place / "run"))
        patch.setenv("QUANTTAAS_CONFIG", str(place / "config.yaml"))
        patch.setenv("QUANTTAAS_CACHE", str(place / "cache"))
        patch.setenv("STORAGE_EMULATOR_HOST", flaky.host)
        patch.setenv("PYTHONPATH", ROOT)
        config = local_head.start(cpus=2)
        address = local_head.gcs_address()
        assert address is not None
        yield Loopback(config, address, flaky, gcs_server)
        local_head.stop()


@pytest.fixture(scope="session")
def shared_engine(ray_head: Loopback, tmp_path_factory: pytest.TempPathFactory) -> tuple[Serving, Path]:
    """What the tests share that leave their engine whole: its store, and the folder of its settings and keys."""
    return Serving(ray_head, ray_head.uri()), tmp_path_factory.mktemp("serving")


@pytest.fixture
def serving(shared_engine: tuple[Serving, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serving]:
    """The cluster with an engine that serves the next test too; the next ``loopback`` ends it."""
    cluster, place = shared_engine
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", cluster.proxy.host)
    monkeypatch.setenv("QUANTTAAS_RUNTIME_DIR", str(place / "run"))
    monkeypatch.setenv("QUANTTAAS_CONFIG", str(place / "config.yaml"))
    monkeypatch.setenv("QUANTTAAS_CACHE", str(tmp_path / "cache"))
    cluster.configure()
    yield cluster
    cluster.proxy.up()
    cluster.proxy.fail_every = 0


@pytest.fixture
def loopback(
    ray_head: Loopback, shared_engine: tuple[Serving, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Loopback]:
    """The cluster, configured for this test; its engines and whatever fails on demand end with the test."""
    end(engines(shared_engine[0].uri()))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", ray_head.proxy.host)
    monkeypatch.setenv("QUANTTAAS_CACHE", str(tmp_path / "cache"))
    ray_head.configure()
    before = {process.pid for process in engines("gs://")}
    yield ray_head
    proxy = ray_head.proxy
    proxy.up()
    proxy.fail_every = 0
    end([process for process in engines("gs://") if process.pid not in before])
