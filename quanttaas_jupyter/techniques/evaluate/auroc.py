"""Areas under ROC curves, averaged over the classes that have one.

TorchMetrics counts 0 for a class that no target has, or that all have, and so do averages over classes. Such a class
has no area; scikit-learn leaves it out, as TorchMetrics itself does in average precision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...core.failures import StageError

if TYPE_CHECKING:
    import torchmetrics
    from torch import Tensor


def area_of(metric: torchmetrics.Metric) -> Any:
    """Return the area under the ROC curve of what a metric of TorchMetrics saw.

    Raises:
        StageError: No class has both samples that are of it and samples that are not.
    """
    average = getattr(metric, "average", None)
    positives, negatives = _counts(metric)
    has_area = (positives > 0) & (negatives > 0)
    if not bool(has_area.any()):
        raise StageError("AUROC is not defined, as all targets are of one class", "judge samples of several classes")
    if average not in ("macro", "weighted") or bool(has_area.all()):
        return type(metric).compute(metric)
    try:
        vars(metric)["average"] = None
        areas = type(metric).compute(metric)[has_area]
    finally:
        vars(metric)["average"] = average
    return areas.mean() if average == "macro" else (areas * positives[has_area]).sum() / positives[has_area].sum()


def _counts(metric: Any) -> tuple[Tensor, Tensor]:
    """Return how many targets are of each class, and how many are not."""
    import torch

    if metric.thresholds is not None:
        first = metric.confmat[0].reshape(-1, 2, 2)
        return first[:, 1].sum(-1), first[:, 0].sum(-1)
    held = metric.target
    target = torch.cat(held) if isinstance(held, list) else held
    if hasattr(metric, "num_classes"):
        positives = torch.bincount(target, minlength=metric.num_classes)
        return positives, len(target) - positives
    if getattr(metric, "average", None) == "micro":
        target = target.reshape(-1)
    target = target.reshape(len(target), -1)
    return (target == 1).sum(0), (target == 0).sum(0)
