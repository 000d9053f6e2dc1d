"""Does the search beat the grid? Hypervolume over size ratio and drop, at equal trials and at equal wall time.

    python benchmarks/auto_vs_grid.py [--seeds 3] [--only residual,vit] [--out FILE]

The grid is prune [0, 0.25, 0.5, 0.75] x quantize [none, fp16, int8, int8-dynamic], sixteen trials. The search gets as
long as the grid took; of what it measured by then, the first sixteen trials count for the first comparison. Every run
has a store of its own, so that neither finds work of the other. The reference point is a size ratio of 1.0 and a drop
of 0.10; drops are those that the study reports, and in a second table those on data that no study has seen.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import networks

import quanttaas_jupyter as qt
from quanttaas_jupyter.planning.search.convergence import hypervolume

GRID = {"prune": [0, 0.25, 0.5, 0.75], "quantize": ["none", "fp16", "int8", "int8-dynamic"]}
TRIALS = 16

Points = list[tuple[float, float]]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default=",".join(networks.TASKS))
    parser.add_argument("--folder", type=Path, default=Path("artifacts/networks"))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    lines = [
        "| network | grid | auto, 16 trials | auto, equal time | wins | grid, unseen | auto, unseen | s |",
        "|" + "---|" * 8,
    ]
    for name in args.only.split(","):
        line = row(networks.task(name, args.folder), args.seeds)
        print(line, flush=True)
        lines.append(line)
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")


def row(task: networks.Task, seeds: int) -> str:
    """Compare on one task; a row of the table, medians over the seeds."""
    grid, few, all_, unseen_grid, unseen_auto, seconds = ([] for _ in range(6))
    for seed in range(seeds):
        begun = time.perf_counter()
        points, unseen = measured(task, {**GRID, "seed": seed})
        took = time.perf_counter() - begun
        found, unseen_found = measured(task, {"search": "auto", "seed": seed, "budget": {"minutes": took / 60}})
        grid.append(hypervolume(points))
        few.append(hypervolume(found[:TRIALS]))
        all_.append(hypervolume(found))
        unseen_grid.append(hypervolume(unseen))
        unseen_auto.append(hypervolume(unseen_found))
        seconds.append(took)
        print(f"  {task.name} seed {seed}: {grid[-1]:.5f} {few[-1]:.5f} {all_[-1]:.5f} {took:.0f} s", flush=True)
    medians = [statistics.median(values) for values in (grid, few, all_, unseen_grid, unseen_auto)]
    wins = "yes" if min(medians[1], medians[2]) > medians[0] else "no"
    numbers = [f"{value:.5f}" for value in medians]
    cells = [task.name, *numbers[:3], wins, *numbers[3:], f"{statistics.median(seconds):.0f}"]
    return f"| {' | '.join(cells)} |"


def measured(task: networks.Task, recipe: dict) -> tuple[Points, Points]:
    """Size ratio and drop of every trial, in the order of proposal: as reported, and on unseen data."""
    with tempfile.TemporaryDirectory() as store:
        study = qt.compress(task.model, data=task.data, train=task.train, recipe=recipe, store=store, name=task.name)
        study.wait()
        trials = [trial for trial in study if trial.metrics.get("size_ratio") is not None]
        sizes = [float(trial.metrics["size_ratio"] or 1) for trial in trials]
        before = networks.accuracy(task.model, task.unseen)
        unseen = [before - networks.accuracy(trial.load(), task.unseen) for trial in trials]
    reported = [float(trial.metrics["drop"] or 0) for trial in trials]
    return list(zip(sizes, reported, strict=True)), list(zip(sizes, unseen, strict=True))


if __name__ == "__main__":
    main()
