"""Tries a metric on some samples before anything is sent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from ...bundle.batches import Batch, Batches
from ...bundle.structure import flatten, unflatten
from ...core.errors import MetricError
from ...core.failures import StageError, explain
from ...techniques.evaluate.gathered import joined
from ...techniques.evaluate.judge import Judge, Measure

_KINDS = 8
"""Batches of different shapes that the model is run on, at most, to see whether they can be joined."""

_CANNOT_FIT = ("cannot be computed", "cannot be made", "do not fit", "numbers", "to compute the metric from")
"""What a reason says that holds for all samples; a few may lack a class or all variance."""


def tried(measure: Measure, outputs: Any, first: Batches) -> dict[str, Any]:
    """Try a metric on the first batch; learn whether a callable gives one value a sample.

    Args:
        measure: What to measure.
        outputs: The model's outputs for that batch.
        first: Some samples.

    Returns:
        The metric's description.

    Raises:
        MetricError: It cannot be computed from these outputs and targets.
    """
    found, batch = dict(measure.metric), first.batches[0]
    targets = unflatten(first.targets, list(batch.targets)) if first.has_targets else None
    _refuse_raw_boxes(measure, outputs)
    if found["kind"] == "callable":
        value = _called(measure, outputs, targets)
        found["per_sample"] = _is_one_a_sample(value, found["name"], batch.samples, targets)
    try:
        judge = Judge(dataclasses.replace(measure, metric=found), batch.samples, is_compared=False)
        judge.update(outputs, targets)
        judge.measurements()
    except StageError as error:
        if any(sign in error.reason for sign in _CANNOT_FIT):
            raise MetricError(str(error)) from None
    return found


def refuse_uneven(measure: Measure, model: Callable[[Batch], Any], data: Batches) -> None:
    """Raise MetricError where a metric needs everything at once, and batches cannot be joined.

    Args:
        measure: What to measure.
        model: Gives the outputs of a batch.
        data: The samples, as many as are known.
    """
    whole = [metric for metric in measure.metrics() if metric["kind"] == "callable" and not metric.get("per_sample")]
    if not whole or data.is_uniform():
        return
    kinds = {outline.shapes: at for at, outline in reversed(list(enumerate(data.outlines)))}
    some = [data.batches[at] for at in list(kinds.values())[-_KINDS:]]
    targets = [unflatten(data.targets, list(batch.targets)) if data.has_targets else None for batch in some]
    dims = measure.judging.output_dim, measure.judging.target_dim
    try:
        for parts, dim in ((targets, dims[1]), ([measure.processed(model(batch)) for batch in some], dims[0])):
            joined(parts, whole[0]["name"], dim)
    except StageError as error:
        raise MetricError(str(error)) from None


def _refuse_raw_boxes(measure: Measure, outputs: Any) -> None:
    """Metrics of detection take one dict a picture, which no tensor is."""
    if measure.judging.task != "detection" or not any(metric.get("takes") == "raw" for metric in measure.metrics()):
        return
    try:
        processed = measure.processed(outputs)
    except StageError as error:
        raise MetricError(str(error)) from None
    if not isinstance(processed, (list, tuple)) or not all(isinstance(item, dict) for item in processed):
        raise MetricError(
            "metrics of detection take a list of one dict a picture, with boxes, scores and labels: give --postprocess "
            "FUNCTION (postprocess=function in Python), which makes it of the model's outputs"
        )


def _called(measure: Measure, outputs: Any, targets: Any) -> Any:
    try:
        return measure.function(measure.processed(outputs), targets)
    except StageError as error:
        raise MetricError(str(error)) from None
    except Exception as error:
        raise MetricError(f"metric {measure.metric['name']!r} cannot be computed: {explain(error)['reason']}") from None


def _is_one_a_sample(value: Any, name: str, samples: int, targets: Any) -> bool:
    import numpy as np

    try:
        values = np.asarray(value.detach() if hasattr(value, "detach") else value, dtype=float)
    except (TypeError, ValueError):
        raise MetricError(
            f"metric {name!r} returned a {type(value).__name__}; return one number, or one a sample"
        ) from None
    if values.ndim > 1:
        raise MetricError(
            f"metric {name!r} cannot be used: it gave an array of shape {values.shape}; return one number, or one "
            "a sample"
        )
    if values.size == 1:
        return False
    # Nodes of a graph and their labels may differ in number.
    rows = {samples, *(len(leaf) for _, leaf in flatten(targets)[0] if getattr(leaf, "ndim", 0))}
    if len(values) not in rows:
        raise MetricError(
            f"the values of metric {name!r} do not fit the samples: return one number, or one a sample "
            f"(got {len(values)} for {samples})"
        )
    return True
