"""Faults say what they were: how a worker ended, what the disk said, that a study was deleted meanwhile."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from quanttaas_jupyter.compute.executors import worker_end
from quanttaas_jupyter.compute.executors.base import StageCall, WorkerDied
from quanttaas_jupyter.compute.executors.local import LocalExecutor, output_of
from quanttaas_jupyter.core.errors import StoreError
from quanttaas_jupyter.core.failures import ending
from quanttaas_jupyter.engine import output
from quanttaas_jupyter.store.local import LocalStore
from quanttaas_jupyter.study_store import records
from quanttaas_jupyter.study_store.lease import Lease, break_silent
from tests.hostile import planted
from tests.hostile.planted import HEALTHY


def begin(parent: int) -> None:
    import faulthandler

    output.lead_a_group()
    faulthandler.enable()


def crash_of_the_person() -> None:
    ctypes.string_at(0)


def work(job: dict[str, Any], threads: int, progress: str) -> dict[str, Any]:
    """A stage that does what its job says, as the engine's worker runs it."""
    with output.captured(output_of(Path(progress))):
        try:
            if "say" in job:
                print(job["say"] * job.get("times", 1), flush=True)
            if "exit" in job:
                os._exit(job["exit"])
            if "kill" in job:
                os.kill(os.getpid(), job["kill"])
            if "crash" in job:
                crash_of_the_person()
            if "fork" in job:
                child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
                Path(job["fork"]).write_text(str(child.pid))
        finally:
            output.end_leftovers()
    return {"pid": os.getpid()}


@pytest.fixture
def run(request: pytest.FixtureRequest) -> Iterator[Callable[..., dict[str, Any]]]:
    executor = LocalExecutor(work, begin, slots=1, threads=1)

    def act(**job: Any) -> dict[str, Any]:
        return executor.submit(StageCall(job, False, False, 60, (0,)), lambda line: None).result(60)

    yield act
    executor.close()


def test_a_worker_that_ended_itself_tells_its_code_and_its_last_words(run: Callable[..., Any]) -> None:
    with pytest.raises(WorkerDied, match="exit code 3; its last output was 'no licence'") as caught:
        run(say="no licence", exit=3)
    assert "memory" not in caught.value.hint


@pytest.mark.parametrize(("number", "name"), [(9, "SIGKILL"), (15, "SIGTERM"), (6, "SIGABRT")])
def test_a_worker_that_was_killed_tells_the_signal(run: Callable[..., Any], number: int, name: str) -> None:
    with pytest.raises(WorkerDied, match=f"killed by {name}"):
        run(kill=number)


def test_a_crash_in_a_persons_function_names_the_function_and_the_line(run: Callable[..., Any]) -> None:
    with pytest.raises(WorkerDied, match=r"SIGSEGV.*, in crash_of_the_person \(test_faults.py, line \d+\)"):
        run(crash=True)


def test_output_is_bounded_and_apart_from_that_of_the_next_stage(run: Callable[..., Any], capfd: Any) -> None:
    for _ in range(2):
        run(say="x" * 1000, times=3000)
    with pytest.raises(WorkerDied, match="exit code 3$"):
        run(exit=3)
    assert "xxx" not in capfd.readouterr().out


def test_a_large_output_is_cut_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"x" * (worker_end.MOST_OUTPUT + 1) + b"the end\n")
    with path.open("ab") as writer:
        worker_end.bound(path)
        writer.write(b"and on\n")
    assert path.stat().st_size < 100_000
    assert path.read_bytes().endswith(b"the end\nand on\n")


def test_what_a_stage_starts_ends_with_it(run: Callable[..., Any], tmp_path: Path) -> None:
    run(fork=str(tmp_path / "pid"))
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("code", [*range(-70, 4), 127, 255])
def test_every_exit_code_has_words(code: int) -> None:
    assert re.fullmatch(r"exit code \d+|killed by (SIG\w+|signal \d+)(, .+)?", ending(code))


ERRORS = [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ENOENT]


@pytest.mark.parametrize("code", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["link", "replace", "fsync", "mkdir"])
def test_a_failing_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int) -> None:
    store = LocalStore(tmp_path / "store")

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(code, os.strerror(code))

    source = tmp_path / "source"
    source.write_bytes(b"x")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        deeds: list[Callable[[], Any]] = [
            lambda: store.create("a/b", b"x"),
            lambda: store.replace("a/c", b"x"),
            lambda: store.swap("a/d", b"x", None),
            lambda: store.adopt("blobs/e", source),
            lambda: store.create_from("blobs/f", b"x"),
        ]
        for deed in deeds:
            try:
                deed()
            except StoreError as error:
                sentence(error)
    assert store.create("a/b", b"x")


def sentence(error: StoreError) -> None:
    assert "\n" not in str(error)
    assert "store" in str(error)


@pytest.mark.parametrize("code", [errno.EPERM, errno.EACCES, errno.EINVAL, errno.EIO, errno.ENOSYS, errno.EXDEV])
def test_any_failing_link_falls_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    store = LocalStore(tmp_path)
    assert store.create("a", b"mine")
    assert not store.create("a", b"other")
    assert store.read("a") == b"mine"


@pytest.mark.parametrize("error", [OSError(errno.ENOLCK, "No locks available"), NotImplementedError("no flock")])
def test_a_drive_without_locks_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    from filelock import FileLock

    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with pytest.raises(StoreError, match="cannot lock a file of the store .* on a drive with file locks"):
        LocalStore(tmp_path).swap("lease", b"x", None)


def test_a_study_that_is_deleted_while_it_runs_leaves_no_ghost(tmp_path: Path) -> None:
    store = planted.plant(tmp_path)
    writer = records.EventWriter(store, HEALTHY)
    for key in list(store.walk(f"studies/{HEALTHY}")):
        store.delete(key)
    with pytest.raises(records.StudyGone):
        writer.append("progress", label="x", message="y", stage="z")
    assert list(store.walk(f"studies/{HEALTHY}")) == []


def test_a_lease_of_an_engine_that_is_gone_or_silent_is_broken_and_of_one_that_answers_not(tmp_path: Path) -> None:
    import socket

    store = LocalStore(tmp_path)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert Lease(store, "a", "x", f"{socket.gethostname()}:{gone.pid}", seconds=3000).take()
    assert break_silent(store, "a")
    assert Lease(store, "a", "y", "far:1", seconds=3000).take()
    assert break_silent(store, "a", patience=0.05)
    lives = Lease(store, "a", "z", f"{socket.gethostname()}:{os.getpid()}", seconds=0.6)
    assert lives.take()
    with lives.kept():
        assert not break_silent(store, "a", patience=3)
