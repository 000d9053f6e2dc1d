"""Tries a metric on some samples before anything is sent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from ...bundle.batches import Batch, Batches
from ...bundle.structure import flatten, unflatten
from ...core.errors import MetricError
from ...core.failures import StageError, explain
from ...techniques.evaluate.gathered import joined
from ...techniques.evaluate.judge import Judge, Measure
from ...techniques.evaluate.taken import feed_of, refuse_other_range
from .function_habits import called_on_copies, refuse_means_of_batches, refuse_unsteady
from .metric_direction import tried_direction

_KINDS = 8
"""Batches of different shapes that the model is run on, at most, to see whether they can be joined."""

_OF_ANY_SIZES = ("built-in", "callable", "loss")
"""Kinds of metrics that see a batch at a time and join nothing."""
_CANNOT_FIT = (
    "cannot be computed",
    "cannot be made",
    "do not fit",
    "gives ",
    "to compute the metric from",
    "does not leave out",
)
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
        refuse_unsteady(
            _function_of(measure),
            found["name"],
            value,
            measure.processed(outputs),
            targets,
            measure.judging,
            batch.samples,
        )
        if found["higher_is_better"] is None:
            found["higher_is_better"] = tried_direction(
                _function_of(measure), found["name"], measure.processed(outputs), targets, measure.judging
            )
        if found["higher_is_better"]:
            # Of a metric of a person's own the direction is told, whichever it is.
            found["shown"] = f"{found['name']} (more is better)"
    try:
        _judged(dataclasses.replace(measure, metric=found), [outputs], [targets], batch.samples)
        _refuse_own_means(measure, outputs, targets, batch.samples)
    except StageError as error:
        raise MetricError(str(error)) from None
    return found


def _refuse_own_means(measure: Measure, outputs: Any, targets: Any, samples: int) -> None:
    for described in measure.metrics():
        metric = measure.function[described["name"]] if described["kind"] == "instance" else None
        if metric is None or type(metric).__module__.startswith("torchmetrics.") or not measure.judging.is_cut:
            continue
        arguments = feed_of(metric, described, measure.judging)(measure.processed(outputs), targets, None)
        refuse_means_of_batches(metric, described["name"], arguments, samples)


def refuse_uneven(measure: Measure, model: Callable[[Batch], Any], data: Batches) -> None:
    """Raise MetricError where a metric needs everything at once or the same places, and batches cannot be joined.

    Args:
        measure: What to measure.
        model: Gives the outputs of a batch.
        data: The samples, as many as are known.
    """
    if data.is_uniform():
        return
    _refuse_other_sizes(measure, data)
    whole = [metric for metric in measure.metrics() if metric["kind"] == "callable" and not metric.get("per_sample")]
    if not whole and all(metric["kind"] in _OF_ANY_SIZES for metric in measure.metrics()):
        return
    kinds = {outline.shapes: at for at, outline in reversed(list(enumerate(data.outlines)))}
    some = [data.batches[at] for at in list(kinds.values())[-_KINDS:]]
    targets = [unflatten(data.targets, list(batch.targets)) if data.has_targets else None for batch in some]
    outputs = [model(batch) for batch in some]
    dims = measure.judging.output_dim, measure.judging.target_dim
    try:
        if whole:
            joined(targets, whole[0]["name"], dims[1])
            joined([measure.processed(output) for output in outputs], whole[0]["name"], dims[0])
        else:
            _judged(measure, outputs, targets, sum(batch.samples for batch in some))
    except StageError as error:
        raise MetricError(str(error)) from None


def _judged(measure: Measure, outputs: Sequence[Any], targets: Sequence[Any], samples: int) -> None:
    """Measure batches; raise StageError for what holds for all samples: a few may lack a class or all variance."""
    try:
        judge = Judge(measure, samples, is_compared=False)
        for output, target in zip(outputs, targets, strict=True):
            judge.update(output, target)
        judge.measurements()
    except StageError as error:
        if any(sign in error.reason for sign in _CANNOT_FIT):
            raise


def _refuse_other_sizes(measure: Measure, data: Batches) -> None:
    """R2 compares each place of pictures or sequences over all samples, so that all must have the same places."""
    if not data.has_targets or not any(metric["name"] == "r2" for metric in measure.metrics()):
        return
    dim = measure.judging.target_dim
    shapes = [outline.shapes[len(data.names)] for outline in data.outlines]
    if len({shape[:dim] + shape[dim + 1 :] for shape in shapes if not isinstance(shape, int)}) > 1:
        raise MetricError(
            "R2 compares each place of pictures or sequences over all samples, but their sizes differ: name another "
            "metric, such as mae or rmse"
        )


def refuse_other_ranges(measure: Measure, targets: Any) -> None:
    """Raise MetricError for pictures beyond the range that a metric by name was made for by the first ones."""
    for metric in measure.metrics():
        try:
            refuse_other_range(targets, metric)
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


def _function_of(measure: Measure) -> Callable[[Any, Any], Any]:
    """Return a person's function as one of outputs and targets."""
    function = measure.function
    return (lambda o, t: function(t, o)) if measure.metric.get("takes_targets_first") else function


def _called(measure: Measure, outputs: Any, targets: Any) -> Any:
    try:
        return called_on_copies(_function_of(measure), measure.metric["name"], measure.processed(outputs), targets)
    except MetricError:
        raise
    except StageError as error:
        raise MetricError(str(error)) from None
    except Exception as error:
        raise MetricError(f"metric {measure.metric['name']!r} cannot be computed: {explain(error)['reason']}") from None


def _is_one_a_sample(value: Any, name: str, samples: int, targets: Any) -> bool:
    import numpy as np

    if value is None:
        raise MetricError(f"metric {name!r} returned None; return one number, or one a sample")
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
    if np.isnan(values).any() and _vary(targets):
        raise MetricError(
            f"metric {name!r} is NaN on the first {samples} samples of --data: return a number, or one a sample"
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


def _vary(targets: Any) -> bool:
    """Whether targets differ: of equal ones, some metrics are not defined."""
    import torch

    leaves = [leaf for _, leaf in flatten(targets)[0] if isinstance(leaf, torch.Tensor) and leaf.numel()]
    return not leaves or any(bool((leaf != leaf.flatten()[0]).any()) for leaf in leaves)


def notes_on(found: dict[str, Any]) -> list[str]:
    """Return sentences on how a metric is called."""
    notes, name = [], found["name"]
    if found.get("takes_targets_first"):
        notes.append(f"{name} is given targets first, then outputs, as the names of its parameters say")
    if found["name"] == "r2" and found.get("shown") != "r2":
        notes.append(
            "r2 is one over all places, in which those of large values weigh most; for R2 of every channel give a "
            "function (outputs, targets) -> score"
        )
    if found["kind"] in ("callable", "sklearn") and not found.get("per_sample"):
        notes.append(
            f"{name} gives one number for everything, so it is called on all outputs and targets at once, and on ten "
            "blocks of them for its interval"
        )
    return notes
