"""The cell in real kernels: run it again in a new one, interrupt it, restart it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest
import torch
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

import quanttaas_jupyter as qt
from quanttaas_jupyter.store import open_store
from quanttaas_jupyter.study_store import records
from tests.networks import Digits

SETUP = """import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from tests.networks import Block
%load_ext quanttaas_jupyter"""
MODEL = """class Net(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.blocks = nn.Sequential(Block(width, width, 1), Block(width, 2 * width, 2), Block(2 * width, 4 * width, 2))
        self.head = nn.Linear(4 * width, 10)
    def forward(self, x):
        return self.head(pooled(self.blocks(self.stem(x))))
def pooled(x):
    return x.mean((2, 3))
saved = torch.load("digits.pt")
model = Net()
model.load_state_dict(saved["weights"])
loader = DataLoader(TensorDataset(saved["x"], saved["y"]), batch_size=64, shuffle=True)"""
CELL = """%%quanttaas model --data loader -o study
prune: [0, 0.4]
recover: {method: distill, epochs: 3}
quantize: [none, int8]
latency: {threads: 1}"""


def run(folder: Path, *cells: str) -> None:
    root = Path(__file__).resolve().parents[2]
    path = nbformat.v4.new_code_cell(f"import sys; sys.path.insert(0, {str(root)!r})")
    notebook = nbformat.v4.new_notebook(cells=[path, *(nbformat.v4.new_code_cell(cell) for cell in cells)])
    NotebookClient(
        notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()


@pytest.mark.slow
def test_the_same_cell_in_a_new_kernel_takes_every_stage_from_the_cache(
    digits: Digits, home: Path, tmp_path: Path
) -> None:
    x, y = digits.test.dataset.tensors  # type: ignore[attr-defined]
    torch.save({"weights": digits.model.state_dict(), "x": x, "y": y}, tmp_path / "digits.pt")
    run(tmp_path, SETUP, MODEL, CELL, "study.wait()")
    run(tmp_path, SETUP, "1 + 1", "# the class comes later and on other lines\n\n\n" + MODEL, CELL, "study.wait()")
    again, first = (qt.open(info.id) for info in qt.studies())
    events = list(records.read_events(open_store(), again.id))
    assert not [event for event in events if event["type"].startswith("stage_")]
    assert [trial.metrics for trial in again] == [trial.metrics for trial in first]
    print(f"finished {events[-1]['time'] - again.state.created:.2f} s after the cell")


@pytest.mark.slow
def test_a_loaded_variable_a_still_view_and_a_clear_error_in_one_notebook(
    digits: Digits, home: Path, tmp_path: Path
) -> None:
    x, y = digits.test.dataset.tensors  # type: ignore[attr-defined]
    torch.save({"weights": digits.model.state_dict(), "x": x, "y": y}, tmp_path / "digits.pt")
    run(
        tmp_path,
        SETUP,
        MODEL,
        CELL,
        "study.wait()",
        "%quanttaas load study int8",
        "assert int8(saved['x'][:3]).shape == (3, 10)",
        "%quanttaas export study int8 shipped.onnx",
        "%quanttaas studies",
        "%quanttaas status",
        "%quanttaas logs study",
    )
    assert (tmp_path / "shipped.onnx").stat().st_size > 0


@pytest.mark.slow
def test_two_notebooks_at_once_both_finish_and_disturb_no_timing(digits: Digits, home: Path, tmp_path: Path) -> None:
    x, y = digits.test.dataset.tensors  # type: ignore[attr-defined]
    torch.save({"weights": digits.model.state_dict(), "x": x, "y": y}, tmp_path / "digits.pt")
    cells = [CELL, CELL.replace("0.4", "0.6")]
    with ThreadPoolExecutor(2) as both:
        for ended in [both.submit(run, tmp_path, SETUP, MODEL, cell, "study.wait()") for cell in cells]:
            ended.result()
    events = [event for info in qt.studies() for event in records.read_events(open_store(), info.id)]
    spans = {
        (e["stage"], e["began"]): (e["kind"], e["began"], e["began"] + e["seconds"])
        for e in events
        if e["type"] == "stage_finished"
    }
    timings = [span for span in spans.items() if span[1][0] == "latency"]
    assert len(timings) == 6
    for key, (_, begun, ended) in timings:
        others = [span for other, span in spans.items() if other != key]
        assert all(e <= begun + 0.005 or b >= ended - 0.005 for _, b, e in others)


@pytest.mark.slow
def test_interrupting_and_restarting_a_kernel_does_not_touch_its_study(
    digits: Digits, home: Path, tmp_path: Path
) -> None:
    x, y = digits.test.dataset.tensors  # type: ignore[attr-defined]
    torch.save({"weights": digits.model.state_dict(), "x": x, "y": y}, tmp_path / "digits.pt")
    root = str(Path(__file__).resolve().parents[2])
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(tmp_path))
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    waiting = "import time\nwhile study.status != 'running':\n    time.sleep(0.05)"
    slow = CELL.replace("epochs: 3", "epochs: 40")
    for cell in (f"import sys; sys.path.insert(0, {root!r})", SETUP, MODEL, slow, waiting):
        reply = client.execute_interactive(cell, timeout=120, output_hook=lambda message: None)
        assert reply["content"]["status"] == "ok", reply["content"]
    manager.interrupt_kernel()
    study = qt.open(qt.studies()[0].id)
    assert study.status == "running"
    manager.restart_kernel(now=True)
    assert study.status == "running"
    assert all(trial.status == "finished" for trial in study.wait(200))
    client.stop_channels()
    manager.shutdown_kernel(now=True)
