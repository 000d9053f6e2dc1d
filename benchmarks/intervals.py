"""Coverage of the 95 % intervals, by simulation: how often they hold the true value.

Run as ``python -m benchmarks.intervals [--studies 1000]``. Each line is one metric on samples whose true value is known
from 200,000 of them; the share of intervals that hold it should be 94 to 96 %. With ``--cost`` a second table is
printed instead: what intervals add to the time of an evaluation.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.interval_cost import print_costs
from quanttaas_jupyter.core.understanding import Judging
from quanttaas_jupyter.techniques.evaluate.judge import Judge, Measure

CLASSES = Judging("classification", class_dim=1, classes=3, scores="logits", labels="ids")
PIXELS = Judging("segmentation", class_dim=1, classes=3, scores="logits", labels="ids")
BINARY = Judging("binary", classes=2, scores="logits", labels="ids")
WORDS = Judging("language-model", class_dim=2, classes=8, scores="logits", labels="ids")
VALUES = Judging("regression")
EACH = {"kind": "callable", "per_sample": True, "higher_is_better": False}

Draw = Callable[[int, torch.Generator], tuple[torch.Tensor, torch.Tensor]]


def named(name: str, **options: Any) -> dict[str, Any]:
    """Return the description of a classification metric of TorchMetrics."""
    takes = "binary" if name.startswith("Binary") else "scores"
    where = f"torchmetrics.classification.{name}"
    kind = {"kind": "torchmetrics", "name": name, "class": where, "options": options}
    return {**kind, "takes": takes, "higher_is_better": True}


def skewed(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Errors with a long tail, such as squared ones."""
    return torch.randn(count, generator=generator).square(), torch.zeros(count)


def shares(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Shares of right places in pictures that differ in how hard they are."""
    hard = torch.rand(count, generator=generator) ** 3
    return (torch.rand(count, 20, generator=generator) > hard[:, None]).double().mean(1), torch.zeros(count)


def classes(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Three classes that overlap."""
    targets = torch.randint(0, 3, (count,), generator=generator)
    return torch.randn(count, 3, generator=generator) + 2 * torch.nn.functional.one_hot(targets, 3), targets


def pixels(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures of 36 pixels; some are harder than others."""
    targets = torch.randint(0, 3, (count, 6, 6), generator=generator)
    hard = 0.5 + 2 * torch.rand(count, 1, 1, 1, generator=generator)
    noise = hard * torch.randn(count, 3, 6, 6, generator=generator)
    return noise + 2 * torch.nn.functional.one_hot(targets, 3).movedim(-1, 1), targets


def two(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Two classes, one of them rarer."""
    targets = (torch.rand(count, generator=generator) < 0.3).long()
    return torch.randn(count, generator=generator) + 1.5 * targets, targets


def words(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Texts of 12 tokens; some are harder than others."""
    targets = torch.randint(0, 8, (count, 12), generator=generator)
    hard = 0.5 + 1.5 * torch.rand(count, 1, 1, generator=generator)
    noise = hard * torch.randn(count, 12, 8, generator=generator)
    return noise + 2 * torch.nn.functional.one_hot(targets, 8), targets


def line(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers with noise."""
    targets = torch.randn(count, generator=generator)
    return targets + 0.5 * torch.randn(count, generator=generator), targets


def first(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the outputs themselves as scores."""
    return outputs


CASES: list[tuple[str, dict[str, Any], Judging, Draw, tuple[int, ...]]] = [
    ("mean of squared errors", {**EACH, "name": "error"}, VALUES, skewed, (64, 200, 1000)),
    ("mean of shares", {**EACH, "name": "share"}, VALUES, shares, (64, 200, 1000)),
    ("accuracy", {"kind": "built-in", "name": "accuracy", "higher_is_better": True}, CLASSES, classes, (64, 200, 1000)),
    ("R2", {"kind": "built-in", "name": "r2", "higher_is_better": True}, VALUES, line, (64, 200, 1000)),
    ("mIoU", named("MulticlassJaccardIndex", num_classes=3), PIXELS, pixels, (64, 200, 1000)),
    ("F1", named("MulticlassF1Score", num_classes=3), CLASSES, classes, (100, 200, 1000)),
    ("AUROC", named("BinaryAUROC"), BINARY, two, (100, 200, 1000)),
    (
        "perplexity",
        {"kind": "built-in", "name": "perplexity", "higher_is_better": False},
        WORDS,
        words,
        (64, 200, 1000),
    ),
]


def measured(metric: dict[str, Any], judging: Judging, outputs: torch.Tensor, targets: torch.Tensor) -> dict[str, Any]:
    """Measure samples at once."""
    judge = Judge(Measure(metric, first, judging), len(outputs), is_compared=False)
    judge.update(outputs, targets)
    return judge.measurements()


def main() -> None:
    """Print one line a metric and number of samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--cost", action="store_true", help="time evaluations with and without intervals")
    asked = parser.parse_args()
    if asked.cost:
        print_costs()
        return
    studies = asked.studies
    print("| metric | samples | true value | coverage of 95 % | mean width | s a study |")
    print("|---|---|---|---|---|---|")
    for name, metric, judging, draw, counts in CASES:
        truth = measured(metric, judging, *draw(200_000, torch.Generator().manual_seed(10**6)))["metric"]
        for count in counts:
            generator = torch.Generator().manual_seed(count)
            held, width, begun = 0, 0.0, time.perf_counter()
            for _ in range(studies):
                found = measured(metric, judging, *draw(count, generator))
                held += found["metric_low"] <= truth <= found["metric_high"]
                width += found["metric_high"] - found["metric_low"]
            seconds = (time.perf_counter() - begun) / studies
            print(f"| {name} | {count} | {truth:.4f} | {held / studies:.1%} | {width / studies:.4f} | {seconds:.3f} |")


if __name__ == "__main__":
    main()
