"""What an evaluation measured so far: told early, marked, and replaced by what it measures at its end."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from quanttaas_jupyter.compute.executors.base import StageCall
from quanttaas_jupyter.core.records.stage import INTERIM
from quanttaas_jupyter.core.state import StudyState, fold
from quanttaas_jupyter.study_store import records
from tests.engine import inline
from tests.engine.inline import InlineExecutor, WatchedStore, drive

AFTER = {"evaluate": 1, "latency": 2}
"""How many times the trial was told as measured before a stage of this kind ends; the others end at once."""


class Telling(InlineExecutor):
    """Tells of every evaluation what it measured on the first seven samples, and ends it when that was reported."""

    def submit(self, call: StageCall, report: Callable[[str], None]) -> Future[dict[str, Any]]:
        kind = call.job["kind"]
        if kind not in AFTER:
            return super().submit(call, report)
        done = super().submit(call, report)
        if kind == "evaluate":
            report(INTERIM + json.dumps({"metric": 0.2345, "samples": 7, "of_samples": 48}))
        ended: Future[dict[str, Any]] = Future()
        threading.Thread(target=self._end, args=(ended, done, AFTER[kind]), daemon=True).start()
        return ended

    def _end(self, ended: Future[dict[str, Any]], done: Future[dict[str, Any]], told: int) -> None:
        while self._told() < told:
            time.sleep(0.01)
        ended.set_result(done.result())

    def _told(self) -> int:
        ids = self._store.list("studies")
        return sum(e["type"] == "trial_measured" for study in ids for e in records.read_events(self._store, study))


def test_a_point_stands_early_is_marked_and_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inline, "InlineExecutor", Telling)
    data = torch.randn(60, 4), torch.arange(60) % 3
    state, record, _ = drive(tmp_path, nn.Linear(4, 3), data, {"prune": [0], "quantize": ["none"]})
    told = list(records.read_events(WatchedStore(tmp_path), record.id))
    of_trial = [event for event in told if event.get("trial") == "baseline"]
    assert [event["type"] for event in of_trial] == ["trial_measured", "trial_measured", "trial_finished"]
    first = of_trial[0]["metrics"]
    assert (of_trial[0]["of_samples"], first["metric"], first["samples"]) == (48, 0.2345, 7)
    assert "of_samples" not in of_trial[1]
    early = fold(told[: told.index(of_trial[0]) + 1], StudyState(id=record.id)).trials["baseline"]
    assert early.is_partial
    assert not state.trials["baseline"].is_partial
    assert state.trials["baseline"].metrics["samples"] == 48
    assert of_trial[-1]["metrics"]["metric"] == of_trial[1]["metrics"]["metric"] != 0.2345
