"""Outputs and targets of a batch as metrics of TorchMetrics and scikit-learn take them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ...core.failures import StageError
from ...core.understanding import Judging
from .tensors import aligned, as_values, classes_last, counted, judged, predicted, probabilities

if TYPE_CHECKING:
    from torch import Tensor

Feed = Callable[[Any, Any, Any], tuple[Any, Any]]

_OF_CLASSES = ("scores", "binary", "multilabel", "logits", "classes-pair", "one-hot-mixed")
"""What metrics take in which a label stands that they have to know as one that does not count."""
_OF_SAMPLES = ("torchmetrics.clustering", "torchmetrics.nominal")
_OF_REFERENCES = ("BLEUScore", "SacreBLEUScore")
"""Metrics that take several references a text, and a plain one for a list of its letters."""
_OF_EDGES = "HausdorffDistance"
_BEYOND = 1e-3
"""Share of a range by which pictures may leave it: rounding of those that were scaled."""


def taken(takes: str, outputs: Any, targets: Any, judging: Judging, classes: int | None = None) -> tuple[Any, Any]:
    """Return predictions and targets as a metric takes them.

    Args:
        takes: ``scores`` (probabilities with classes in dimension 1, or class numbers), ``binary`` and ``multilabel``
            (probabilities of the targets' shape), ``logits`` (classes last), ``aligned`` (values of one shape),
            ``classes-pair`` (class numbers on both sides), ``one-hot-pair`` (zeros and ones on both sides, classes in
            dimension 1, nothing where no label counts), ``one-hot-mixed`` (the same for predictions, class numbers for
            targets) or ``raw`` (as the model and the data give them).
        outputs: Outputs of a batch.
        targets: Its targets.
        judging: How outputs are compared with targets.
        classes: Number of classes that the metric was made for; None for that of the outputs.
    """
    if takes == "raw":
        return outputs, targets
    output, target = judged(outputs, targets, judging)
    if takes == "aligned":
        return aligned(as_values(output), as_values(target))
    if takes == "binary" and judging.class_dim is not None and output.shape[judging.class_dim] == 2:
        return probabilities(output, judging).select(judging.class_dim, 1), target
    if takes in ("binary", "multilabel"):
        output, target = aligned(probabilities(output, judging), target)
        return output, target.long()
    if takes == "logits":
        return classes_last(output, judging), target
    if takes == "classes-pair":
        return aligned(predicted(output, judging).long(), target.long())
    if takes.startswith("one-hot"):
        found, target = aligned(predicted(output, judging).long(), target.long())
        classes = classes or judging.classes or 2
        counts = counted(target, judging)
        if takes == "one-hot-mixed":
            return _one_hot(found, classes, counts | True), target
        return _one_hot(found, classes, counts), _one_hot(target, classes, counts)
    if judging.class_dim is None:
        found, target = aligned(probabilities(output, judging), target)
        # A metric of several classes takes one number a sample for a class number: give it both classes.
        return _both_classes(found) if found.is_floating_point() and judging.labels == "ids" else found, target
    return probabilities(output, judging).movedim(judging.class_dim, 1), target


def _both_classes(yes: Tensor) -> Tensor:
    import torch

    return torch.stack([1 - yes, yes], 1)


def feed_of(metric: Any, described: Mapping[str, Any], judging: Judging) -> Feed:
    """Return what gives a metric of TorchMetrics its predictions and targets.

    It raises StageError for labels that count nowhere, where the metric would count them, and for pictures beyond the
    range that it was made for.
    """
    takes, name = str(described["takes"]), type(metric).__name__.lstrip("_")
    given = getattr(metric, "num_classes", None)
    classes = given if isinstance(given, int) else None
    is_of_samples = type(metric).__module__.startswith(_OF_SAMPLES)
    counts_all = takes in _OF_CLASSES or (name == _OF_EDGES and takes != "raw")
    counts_all = counts_all and judging.ignore_label not in (None, getattr(metric, "ignore_index", None))

    def feed(outputs: Any, targets: Any, reference: Any) -> tuple[Any, Any]:
        if counts_all:
            _refuse_ignored(metric, name, judged(outputs, targets, judging)[1], judging)
        predictions, labels = taken(takes, outputs, targets, judging, classes)
        if name in _OF_REFERENCES and isinstance(labels, list):
            labels = [[text] if isinstance(text, str) else text for text in labels]
        if is_of_samples:
            predictions, labels = _one_a_sample(predictions, name), _one_a_sample(labels, name)
        refuse_other_range(labels, described)
        return predictions, labels

    return feed


def in_double(feed: Feed) -> Feed:
    """Return what gives predictions and targets in double precision."""

    def doubled(outputs: Any, targets: Any, reference: Any) -> tuple[Any, Any]:
        predictions, labels = feed(outputs, targets, reference)
        return predictions.double(), labels.double()

    return doubled


def refuse_other_range(targets: Tensor, described: Mapping[str, Any]) -> None:
    """Raise StageError for pictures beyond the range that a metric by name was made for."""
    highest = described.get("options", {}).get("data_range")
    if highest is None or not targets.numel():
        return
    low, high = float(targets.min()), float(targets.max())
    if not -_BEYOND <= low / highest <= high / highest <= 1 + _BEYOND:
        raise StageError(
            f"{described['name']} was made for pictures from 0 to {highest:g}, the range of the first ones, but "
            f"targets go from {low:.3g} to {high:.3g}",
            "give an instance of it with data_range=...",
        )


def places(takes: str, outputs: Any, targets: Any, judging: Judging) -> tuple[Any, Any]:
    """Return predictions and labels of the places that count, as scikit-learn takes them."""
    output, target = taken(takes, outputs, targets, judging)
    if takes == "aligned" or judging.labels == "values":
        return output, target
    if judging.task == "multilabel":
        if not bool(counted(target, judging).all()):
            raise StageError(
                f"scikit-learn does not leave out label {judging.ignore_label} of several labels a sample",
                "name a metric of TorchMetrics, or give a function (outputs, targets) -> score",
            )
        return _label_columns(output), _label_columns(target)
    counts = counted(target, judging)
    if takes == "scores" and output.ndim > target.ndim:
        return output.movedim(1, -1)[counts], target[counts]
    return aligned(output, target)[0][counts], target[counts]


def _label_columns(value: Tensor) -> Tensor:
    """Return labels of maps, which lie in dimension 1, as columns of a table (places, labels)."""
    return value.movedim(1, -1).reshape(-1, value.shape[1])


def _refuse_ignored(metric: Any, name: str, target: Tensor, judging: Judging) -> None:
    """Raise StageError where labels that count nowhere are there, and the metric was not told which they are."""
    ignored = judging.ignore_label
    if ignored is None or not bool((target == ignored).any()):
        return
    if hasattr(metric, "ignore_index"):
        hint = f"give it with ignore_index={ignored}"
    elif hasattr(metric, "input_format") and name != _OF_EDGES:
        hint = "give it with input_format='one-hot', which leaves them out"
    else:
        hint = "name a metric that can, such as miou, or give a function (outputs, targets) -> score"
    raise StageError(f"{name} does not leave out label {ignored}, which does not count", hint)


def _one_a_sample(value: Tensor, name: str) -> Tensor:
    if value.numel() != len(value):
        raise StageError(
            f"{name} takes one class a sample, which labels of shape {tuple(value.shape)} do not fit",
            "name another metric",
        )
    return value.reshape(-1)


def _one_hot(classes: Tensor, count: int, counts: Tensor) -> Tensor:
    """Return zeros and ones (n, count, ...) of class numbers (n, ...); all zeros where nothing counts."""
    from torch.nn.functional import one_hot

    found = one_hot(classes.where(counts, 0), count) * counts.unsqueeze(-1)
    return found.movedim(-1, 1)
