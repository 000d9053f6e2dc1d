"""What a person said of model and data, and what of it no study can follow."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...core.errors import DataError, MetricError


@dataclass(frozen=True)
class Asked:
    """What a person said of model and data; None where it is to be found out.

    Attributes:
        metric: The metric, in any form that ``metric.described`` takes.
        task: One of ``TASKS``.
        labels: Keys or positions of the targets in a batch.
        output: Name or position of the output that is judged.
        batch_dim: Dimension of the samples in the inputs.
        ignore_label: The label that counts nowhere.
        postprocess: Turns raw outputs into what the metric takes.
    """

    metric: Any = None
    task: str | None = None
    labels: Sequence[str] | None = None
    output: str | None = None
    batch_dim: int | None = None
    ignore_label: int | None = None
    postprocess: Any = None

    def refuse_impossible(self) -> None:
        """Raise DataError or MetricError for a value that is not of the kind that its option takes."""
        _refuse_no_number(self.batch_dim, "--batch-dim", "1")
        _refuse_no_number(self.ignore_label, "--ignore-label", "255")
        if self.postprocess is not None and not callable(self.postprocess):
            raise MetricError(f"postprocess must be a function of the outputs, not a {type(self.postprocess).__name__}")
        metric = self.bare_metric
        if isinstance(metric, str) and not metric.strip(" ,"):
            raise MetricError("the metric is empty: give a name such as accuracy, or leave it out")
        if isinstance(metric, type) and metric.__module__.startswith("torch.nn."):
            raise MetricError(f"the metric is the class {metric.__name__}: give an instance, {metric.__name__}()")

    @property
    def bare_metric(self) -> Any:
        """The metric without a direction beside it."""
        return self.metric[0] if isinstance(self.metric, tuple) and len(self.metric) == 2 else self.metric

    @property
    def is_judged_by_own_function(self) -> bool:
        """Whether the metric is a function of the person's own, which takes all outputs as they come."""
        import torch

        metric = getattr(self.bare_metric, "func", self.bare_metric)
        if not callable(metric) or isinstance(metric, (type, torch.nn.modules.loss._Loss)):
            return False
        home = getattr(metric, "__module__", None) or ""
        return not home.startswith(("sklearn.", "torch.", "torchmetrics."))


def _refuse_no_number(value: Any, option: str, example: str) -> None:
    if value is None:
        return
    try:
        is_whole = not isinstance(value, bool) and operator.index(value) is not None
    except TypeError:
        is_whole = False
    if not is_whole:
        raise DataError(f"{option} takes one whole number such as {example}, not {value!r:.60}")
