"""The default mode on six real networks: what it recommends, how small that is, what it costs.

    python benchmarks/auto.py [--minutes 10] [--only residual,vit] [--out FILE]

Prints a Markdown table. Needs the packages and files that ``networks`` names.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import networks

import quanttaas_jupyter as qt

_HEAD = (
    "| network | parameters | recommended | size ratio | drop in points (95 %) | unseen drop | faster | trials | s |",
    "|---|---|---|---|---|---|---|---|---|",
)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--only", default=",".join(networks.TASKS))
    parser.add_argument("--folder", type=Path, default=Path("artifacts/networks"))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    lines = [*_HEAD]
    for name in args.only.split(","):
        line = row(networks.task(name, args.folder), args.minutes)
        print(line, flush=True)
        lines.append(line)
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")


def row(task: networks.Task, minutes: float) -> str:
    """Let the default mode work on a task; a row of the table."""
    begun = time.perf_counter()
    recipe = {"goal": {"max_drop": 0.01}, "budget": {"minutes": minutes}}
    study = qt.compress(task.model, data=task.data, train=task.train, recipe=recipe, name=task.name).wait()
    seconds = time.perf_counter() - begun
    parameters = sum(parameter.numel() for parameter in task.model.parameters())
    best = study.best()
    if best is None:
        return f"| {task.name} | {parameters:,} | none | | | | | {len(study)} | {seconds:.0f} |"
    found = best.metrics
    unseen = networks.accuracy(task.model, task.unseen) - networks.accuracy(best.load(), task.unseen)
    low, drop, high = (100 * float(found[key] or 0) for key in ("drop_low", "drop", "drop_high"))
    ratio = float(found["size_ratio"] or 1)
    mark = "" if ratio <= task.largest_ratio else " (missed)"
    return (
        f"| {task.name} | {parameters:,} | {best.name} | {ratio:.3f}{mark} | {drop:.1f} ({low:.1f} to {high:.1f}) "
        f"| {100 * unseen:.1f} | {float(found['speedup'] or 0):.1f}x | {len(study)} | {seconds:.0f} |"
    )


if __name__ == "__main__":
    main()
