"""What a Ray cluster costs over the embedded default: the quickstart's study on both, each with a warm engine.

    python benchmarks/cluster.py [--runs 3]

Starts a one-node cluster on loopback. A small study warms the engine of each place before every run; each run's model
differs from all others in its last digits, so that nothing of it is in the cache. Times are from the call to the last
event. Needs Ray and the emulator of Google Cloud Storage (the ``test``
extra). Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import quanttaas_jupyter as qt
from quanttaas_jupyter.compute import head
from quanttaas_jupyter.config import save_cluster
from quanttaas_jupyter.store import open_store, studies
from tests.cloud import emulator

QUICKSTART = Path(__file__).resolve().parent.parent / "examples" / "quickstart.ipynb"
KINDS = ("recover", "prune", "export", "quantize", "evaluate", "latency", "preview")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    with places() as (folder, bucket):
        wheres = {
            "embedded, folder": (None, f"{folder}/here"),
            "Ray, folder": (head.NAME, f"{folder}/there"),
            "Ray, bucket (emulator)": (head.NAME, bucket),
        }
        cold = measured(head.NAME, f"{bucket}/cold", run=0, is_warm=False)
        # One place after the other: an engine that is warm keeps the processors that the next one's would need.
        rows = {name: [measured(*where, run) for run in range(runs)] for name, where in wheres.items()}
    print(f"\nno engine yet: claimed after {cold['claimed']:.1f} s, first point after {cold['first']:.1f} s\n")
    print(f"| where | seconds | ratio | first point | waiting for the engine | {' | '.join(KINDS)} |")
    print("|" + "---|" * (5 + len(KINDS)))
    base = statistics.median(row["seconds"] for row in rows["embedded, folder"])
    for name, found in rows.items():
        middle = {key: statistics.median(row[key] for row in found) for key in found[0]}
        cells = [f"{middle[key]:.1f}" for key in ("first", "claimed", *KINDS)]
        print(f"| {name} | {middle['seconds']:.1f} | {middle['seconds'] / base:.2f} | {' | '.join(cells)} |")


def measured(cluster: str | None, store: str, run: int, is_warm: bool = True) -> dict[str, float]:
    """Seconds of the quickstart's study, and what they went into (stages run side by side)."""
    names: dict[str, object] = {}
    cells = [cell.source for cell in nbformat.read(QUICKSTART, as_version=4).cells if cell.cell_type == "code"]
    last = next(index for index, source in enumerate(cells) if source.startswith("%%quanttaas"))
    for source in cells[:last]:
        exec(source.replace("%load_ext quanttaas_jupyter", ""), names)
    recipe = cells[last].partition("\n")[2]
    with torch.no_grad():
        for parameter in names["model"].parameters():
            parameter.mul_(1 + 1e-5 * run)
    warm = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    place = {"cluster": cluster or "local", "store": store}
    small = {"prune": [0], "quantize": ["none", "int8"], "latency": {"threads": 1}}
    if is_warm:
        qt.compress(warm, names["test_loader"], recipe=small, **place).wait(300)
    begun = time.time()
    study = qt.compress(names["model"], names["test_loader"], recipe=recipe, train=names["train_loader"], **place)
    study.wait(300)
    events = list(studies.read_events(open_store(store), study.id))
    spent: Counter[str] = Counter()
    for event in events:
        if event["type"] == "stage_finished":
            spent[event["kind"]] += event["seconds"]
    claimed = next(event["time"] for event in events if event["type"] == "started") - begun
    first = next(event["time"] for event in events if event["type"] in ("preview", "trial_measured")) - begun
    overall = {"seconds": events[-1]["time"] - begun, "first": first, "claimed": claimed}
    return {**overall, **{kind: spent[kind] for kind in KINDS}}


@contextmanager
def places() -> Iterator[tuple[str, str]]:
    """A folder and a bucket for stores, with a cluster that reaches both."""
    with tempfile.TemporaryDirectory() as folder, emulator(Path(folder)) as cloud:
        os.environ.update(
            QUANTTAAS_RUNTIME_DIR=f"{folder}/run",
            QUANTTAAS_CONFIG=f"{folder}/config.yaml",
            QUANTTAAS_CACHE=f"{folder}/cache",
            STORAGE_EMULATOR_HOST=cloud.host,
        )
        save_cluster(head.NAME, head.start())
        try:
            yield f"{folder}/stores", cloud.uri()
        finally:
            head.stop()


if __name__ == "__main__":
    main()
