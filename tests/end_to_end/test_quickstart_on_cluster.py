"""The quickstart with ``--on`` and a bucket behind its cell gives what it gives on this machine.

Two of its five amounts are pruned: the notebook as it is runs among the examples.
"""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import quanttaas_jupyter as qt
from tests.loopback import NAME, Loopback

QUICKSTART = Path(__file__).resolve().parents[2] / "examples" / "quickstart.ipynb"


def sizes(store: str, options: str) -> dict[str, int]:
    """Run the notebook with further options behind its cell; bytes of every trial's file."""
    notebook = nbformat.read(QUICKSTART, as_version=4)
    (cell,) = [cell for cell in notebook.cells if cell.source.startswith("%%quanttaas")]
    head, _, body = cell.source.partition("\n")
    body, count = re.subn(r"(?m)^prune:.*$", "prune: [0, 0.7]", body)
    assert count == 1
    cell.source = f"{head} --store {store} {options}\n{body}"
    NotebookClient(notebook, timeout=300).execute()
    (info,) = qt.studies(store)
    study = qt.open(info.id, store=store)
    assert all(trial.status == "finished" for trial in study)
    return {trial.name: int(trial.metrics["size_bytes"] or 0) for trial in study}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_quickstart_gives_the_same_trials_and_sizes_on_a_cluster(loopback: Loopback, tmp_path: Path) -> None:
    here = sizes(str(tmp_path / "store"), "")
    assert len(here) == 6
    assert sizes(loopback.uri(), f"--on {NAME}") == here
