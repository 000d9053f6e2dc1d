"""What intervals cost: whole evaluations with them against the same with plain accumulation.

A small network runs in ONNX Runtime over some thousand samples, on one thread, in batches of 64. One side is judged
with the product's meters, the other with TorchMetrics or torch alone, which give the value without an interval. Both
take turns; ``python -m benchmarks.intervals --cost`` prints medians of the processor's time, which other work on the
machine disturbs less than the clock.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torchmetrics.classification import MulticlassF1Score, MulticlassJaccardIndex

from quanttaas_jupyter.core.understanding import Judging
from quanttaas_jupyter.techniques.evaluate.judge import Judge, Measure
from quanttaas_jupyter.techniques.runtimes.onnxruntime import open_session

BATCH, ROUNDS = 64, 15
Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Case:
    """An evaluation.

    Attributes:
        name: Name of the metric.
        metric: Its description.
        judging: How outputs are compared with targets.
        model: The network.
        inputs: Samples (n, ...).
        targets: Labels (n, ...).
        plain: Gives the metric of batches of outputs and targets, without an interval.
    """

    name: str
    metric: dict[str, Any]
    judging: Judging
    model: nn.Module
    inputs: torch.Tensor
    targets: torch.Tensor
    plain: Callable[[Iterator[Batch]], float]


class Language(nn.Module):
    """Embedding, one layer of a transformer, and scores of a vocabulary."""

    def __init__(self, vocabulary: int, width: int) -> None:
        """Make a network of some tokens and a width."""
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.layer = nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True)
        self.scores = nn.Linear(width, vocabulary)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return scores (n, length, vocabulary)."""
        return self.scores(self.layer(self.words(tokens)))


def convolutions(classes: int, width: int, is_pooled: bool) -> nn.Sequential:
    """Return a network of pictures: classes of pixels, or of pictures."""
    layers = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
    head = (
        [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)]
        if is_pooled
        else [nn.Conv2d(width, classes, 1)]
    )
    return nn.Sequential(*layers, *head)


def plain_state(metric: Any) -> Callable[[Iterator[Batch]], float]:
    """Return a function that accumulates a metric of TorchMetrics."""

    def found(batches: Iterator[Batch]) -> float:
        metric.reset()
        for outputs, targets in batches:
            metric.update(outputs, targets)
        return float(metric.compute())

    return found


def plain_perplexity(batches: Iterator[Batch]) -> float:
    """Return the exponential of the mean cross-entropy, summed by torch."""
    total, count = 0.0, 0
    for outputs, targets in batches:
        entropy = nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="sum")
        total, count = total + float(entropy), count + targets.numel()
    return math.exp(total / count)


def named(name: str, **options: Any) -> dict[str, Any]:
    """Return the description of a classification metric of TorchMetrics."""
    kind = {"kind": "torchmetrics", "name": name, "class": f"torchmetrics.classification.{name}"}
    return {**kind, "options": options, "takes": "scores", "higher_is_better": True}


def cases() -> list[Case]:
    """Return the evaluations that are timed."""
    torch.manual_seed(0)
    pictures, words = torch.rand(4000, 3, 32, 32), torch.randint(0, 1000, (2000, 32))
    scores: dict[str, Any] = {"class_dim": 1, "scores": "logits", "labels": "ids"}
    return [
        Case(
            "mIoU",
            named("MulticlassJaccardIndex", num_classes=5),
            Judging("segmentation", classes=5, **scores),
            convolutions(5, 16, is_pooled=False),
            pictures,
            torch.randint(0, 5, (4000, 32, 32)),
            plain_state(MulticlassJaccardIndex(5)),
        ),
        Case(
            "F1",
            named("MulticlassF1Score", num_classes=10),
            Judging("classification", classes=10, **scores),
            convolutions(10, 16, is_pooled=True),
            pictures,
            torch.randint(0, 10, (4000,)),
            plain_state(MulticlassF1Score(10)),
        ),
        Case(
            "perplexity",
            {"kind": "built-in", "name": "perplexity", "higher_is_better": False},
            Judging("language-model", classes=1000, class_dim=2, scores="logits", labels="ids"),
            Language(1000, 64),
            words,
            torch.randint(0, 1000, (2000, 32)),
            plain_perplexity,
        ),
    ]


def answering(case: Case, folder: Path) -> Callable[[], Iterator[Batch]]:
    """Export a network; return a function that runs it over all samples."""
    path = folder / f"{case.name}.onnx"
    batch = torch.export.Dim("batch", min=1, max=BATCH)
    with torch.no_grad():
        torch.onnx.export(
            case.model.eval(),
            (case.inputs[:BATCH],),
            path,
            dynamo=True,
            dynamic_shapes=({0: batch},),
            input_names=["x"],
            verbose=False,
        )
    session = open_session(path, 1, ["x"])

    def batches() -> Iterator[Batch]:
        for inputs, targets in zip(case.inputs.split(BATCH), case.targets.split(BATCH), strict=True):
            yield torch.from_numpy(np.asarray(session([inputs.numpy()])[0])), targets

    return batches


def with_interval(case: Case, batches: Iterator[Batch]) -> float:
    """Return the metric of a case, judged with an interval."""
    judge = Judge(Measure(case.metric, None, case.judging), len(case.inputs), is_compared=False)
    for outputs, targets in batches:
        judge.update(outputs, targets)
    found = judge.measurements()
    assert found["metric_low"] < found["metric"] < found["metric_high"]
    return float(found["metric"])


def seconds_of(sides: Sequence[Callable[[], float]]) -> list[float]:
    """Return the median CPU seconds of each side, which take turns; all give the same number."""
    found: list[list[float]] = [[] for _ in sides]
    values = [side() for side in sides]
    assert np.allclose(values, values[0], rtol=1e-5), values
    for _ in range(ROUNDS):
        for side, seconds in zip(sides, found, strict=True):
            begun = time.process_time()
            side()
            seconds.append(time.process_time() - begun)
    return [statistics.median(seconds) for seconds in found]


def print_costs() -> None:
    """Print one line a metric."""
    torch.set_num_threads(1)
    print("| metric | samples | CPU s with an interval | CPU s without | ratio |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for case in cases():
            batches = answering(case, Path(folder))
            mine, plain = seconds_of(
                [
                    lambda case=case, batches=batches: with_interval(case, batches()),  # type: ignore[misc]
                    lambda case=case, batches=batches: case.plain(batches()),  # type: ignore[misc]
                ]
            )
            print(f"| {case.name} | {len(case.inputs):,} | {mine:.3f} | {plain:.3f} | {mine / plain:.2f} |")
