"""Runs the quickstart as a person would, and prints what it measured: ``make demo``.

Everything lands in one folder, with a store and an engine of its own, so that nothing is taken from an earlier run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

import quanttaas_jupyter as qt
from quanttaas_jupyter.core.state import StudyState
from quanttaas_jupyter.store import open_store
from quanttaas_jupyter.study_store import records

HERE = Path(__file__).resolve().parent
COLUMNS = [
    "trial",
    "status",
    "metric",
    "drop",
    "drop_low",
    "drop_high",
    "size_bytes",
    "size_ratio",
    "latency_ms",
    "speedup",
]
FIRST_POINT = """import time
while not (study.state.preview or study.state.done):
    time.sleep(0.02)
study.cancel()"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("artifacts"), help="folder for everything the demo makes")
    out = parser.parse_args().out.resolve()
    shutil.rmtree(out / "demo", ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)

    notebook = nbformat.read(HERE / "quickstart.ipynb", as_version=4)
    with engine_in(out / "demo" / "warm"):
        print("running examples/quickstart.ipynb (about a minute) ...", flush=True)
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(HERE)}}).execute()
        executed, picture = out / "quickstart.ipynb", out / "quickstart.png"
        nbformat.write(notebook, executed)
        study = qt.open(qt.studies()[0].id)
        study.figure().savefig(picture, dpi=150)
        table, state, warm = study.frame()[COLUMNS], study.state, seconds_to_first_point(study.id)
    with engine_in(out / "demo" / "cold"):
        print("measuring the time to the first point with no engine running ...", flush=True)
        NotebookClient(cold(nbformat.read(HERE / "quickstart.ipynb", as_version=4)), timeout=600).execute()
        first = seconds_to_first_point(qt.studies()[0].id)

    print(f"\n{table.to_string(index=False, float_format=lambda value: f'{value:.4g}')}\n")
    print(state.recommendation)
    print(utilization(state))
    print(f"from the cell to the first point: {first:.1f} s with no engine running, {warm:.1f} s with a warm one")
    print(f"executed notebook: {executed}\npicture: {picture}")


def cold(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The quickstart up to its ``%%quanttaas`` cell, with the extension loaded only right before it."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    last = next(index for index, cell in enumerate(cells) if cell.source.startswith("%%quanttaas"))
    before = [
        nbformat.v4.new_code_cell(cell.source.replace("%load_ext quanttaas_jupyter", "")) for cell in cells[:last]
    ]
    load = nbformat.v4.new_code_cell("%load_ext quanttaas_jupyter")
    submit = nbformat.v4.new_code_cell(cells[last].source)
    notebook.cells = [*before, load, submit, nbformat.v4.new_code_cell(FIRST_POINT)]
    return notebook


def seconds_to_first_point(study: str) -> float:
    """Seconds from the start of the cell to the event that carries the first measured point."""
    store = open_store()
    record = records.read_study(store, study)
    points = (event for event in records.read_events(store, study) if event["type"] in ("preview", "trial_measured"))
    return float(next(points)["time"] - record.created)


def utilization(state: StudyState) -> str:
    """CPU seconds of the engine's process tree over cores times wall time."""
    use = state.usage
    return (
        f"CPU seconds of the engine's process tree / (cores x wall time): {use['cpu_seconds']:.1f} / "
        f"({use['cores']:.0f} x {use['seconds']:.1f}) = {use['busy']:.2f}"
    )


@contextlib.contextmanager
def engine_in(place: Path):  # type: ignore[no-untyped-def]
    """A store and an engine of their own, ended afterwards."""
    os.environ.update(QUANTTAAS_STORE=str(place / "store"), QUANTTAAS_RUNTIME_DIR=str(place / "engine"))
    try:
        yield
    finally:
        for path in (place / "engine").glob("*/engine.json"):
            with contextlib.suppress(ProcessLookupError):
                pid = int(json.loads(path.read_text())["pid"])
                os.kill(pid, signal.SIGTERM)
                deadline = time.monotonic() + 15
                while time.monotonic() < deadline:
                    os.kill(pid, 0)
                    time.sleep(0.05)


if __name__ == "__main__":
    main()
