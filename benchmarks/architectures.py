"""Every technique on every architecture of the tests, as a table: ``python -m benchmarks.architectures``.

With names of quantizations on ONNX Runtime behind it, it prints what becomes of those alone. Without, it writes
``benchmarks/architectures.md``: the share of parameters that pruning removed, decibels of the quantized outputs over
their noise, and the largest error of the exported file relative to the largest output.
"""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path

from tests.architectures.matrix import LEAST_DB, OK, TECHNIQUES, Cell, cells_of
from tests.architectures.zoo import ZOO

TARGET = Path(__file__).with_suffix(".md")


def main(quantizations: tuple[str, ...]) -> None:
    """Run the matrix and write the table, or print the cells of some quantizations."""
    warnings.filterwarnings("ignore")
    begun = time.perf_counter()
    rows: dict[str, tuple[Cell, ...]] = {}
    for architecture in ZOO:
        rows[architecture.name] = cells_of(architecture, quantizations or TECHNIQUES)
        print(
            architecture.name,
            *(f"{c.technique}: {c.found} ({c.seconds:.1f} s)" for c in rows[architecture.name]),
            sep=" | ",
            flush=True,
        )
    if quantizations:
        return
    TARGET.write_text(table(rows, time.perf_counter() - begun), encoding="utf-8")


def table(rows: dict[str, tuple[Cell, ...]], seconds: float) -> str:
    """The matrix as Markdown.

    Args:
        rows: Cells by architecture, in the order of ``TECHNIQUES``.
        seconds: How long it took.
    """
    cells = [cell for row in rows.values() for cell in row]
    works = sum(cell.status == OK for cell in cells)
    lines = [
        "# Architectures",
        "",
        f"{works} of {len(cells)} cells work; measured with random weights in {seconds:.0f} s.",
        "",
        "- **export**: largest difference between file and module at two batch sizes, relative to the largest output",
        "- **prune 0.3**: share of the parameters that structured pruning removed; the exported file gives its outputs",
        f"- **fp16**, **int8**: signal to noise of the outputs, at least {LEAST_DB['fp16']:.0f} and "
        f"{LEAST_DB['int8']:.0f} dB",
        "",
        f"| architecture | {' | '.join(TECHNIQUES)} |",
        f"|---|{'---|' * len(TECHNIQUES)}",
        *(f"| {name} | {' | '.join(map(_shown, row))} |" for name, row in rows.items()),
    ]
    return "\n".join(lines) + "\n"


def _shown(cell: Cell) -> str:
    return cell.found if cell.status == OK else f"**fails**: {cell.found.replace('|', '/')}"


if __name__ == "__main__":
    main(tuple(sys.argv[1:]))
