"""What a Ray cluster costs over the embedded default: the quickstart's study on both, each with a warm engine.

    python benchmarks/cluster.py [--runs 3]

Starts a one-node cluster on loopback. A small study warms the engine of each place before every run; each run's model
differs from all others in its last digits, so that nothing of it is in the cache. Times are from the call to the last
event. A run on the cluster and one here take turns, and a ratio is the median of these pairs: machines that others
share change their speed by the minute. Needs Ray and the emulator of Google Cloud Storage (the ``test`` extra). Prints
a Markdown table.
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
from quanttaas_jupyter.compute.clusters import local_head
from quanttaas_jupyter.core.config import save_cluster
from quanttaas_jupyter.store import open_store
from quanttaas_jupyter.study_store import records
from tests.cloud import emulator

QUICKSTART = Path(__file__).resolve().parent.parent / "examples" / "quickstart.ipynb"
Row = dict[str, float]
KINDS = ("recover", "prune", "export", "quantize", "evaluate", "latency", "preview")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    with places() as (folder, bucket):
        there = {"Ray, folder": f"{folder}/there", "Ray, bucket (emulator)": bucket}
        cold = measured(local_head.NAME, f"{bucket}/cold", run=0, is_warm=False)
        pairs: dict[str, list[tuple[Row, Row]]] = {name: [] for name in there}
        # One cluster's store after the other: an engine that is warm keeps the processors that the next would need.
        for index, (name, store) in enumerate(there.items()):
            for run in range(index * runs, (index + 1) * runs):
                here = measured(None, f"{folder}/here", run)
                pairs[name].append((here, measured(local_head.NAME, store, run)))
    print(f"\nno engine yet: claimed after {cold['claimed']:.1f} s, first point after {cold['first']:.1f} s\n")
    print(f"| where | seconds | ratio | first point | waiting for the engine | {' | '.join(KINDS)} |")
    print("|" + "---|" * (5 + len(KINDS)))
    print_row("embedded, folder", [here for found in pairs.values() for here, _ in found], [1.0])
    for name, found in pairs.items():
        print_row(name, [there for _, there in found], [there["seconds"] / here["seconds"] for here, there in found])


def print_row(name: str, rows: list[Row], ratios: list[float]) -> None:
    """Medians, and the ratios that the middle one was taken of."""
    middle = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    cells = [f"{middle[key]:.1f}" for key in ("first", "claimed", *KINDS)]
    ratio = f"{statistics.median(ratios):.2f}"
    if len(ratios) > 1:
        ratio += f" ({min(ratios):.2f} to {max(ratios):.2f})"
    print(f"| {name} | {middle['seconds']:.1f} | {ratio} | {' | '.join(cells)} |")


def measured(cluster: str | None, store: str, run: int, is_warm: bool = True) -> Row:
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
    events = list(records.read_events(open_store(store), study.id))
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
        save_cluster(local_head.NAME, local_head.start())
        try:
            yield f"{folder}/stores", cloud.uri()
        finally:
            local_head.stop()


if __name__ == "__main__":
    main()
