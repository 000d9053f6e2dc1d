"""Metrics by name that do not fit a task, or that give no number: refused with what to give instead."""

from __future__ import annotations

import inspect
from typing import Any

from ...core.errors import MetricError
from ...core.understanding import Judging
from . import metric_catalogue as catalogue
from .metric_catalogue import Spelling, normal_name, public_name

_NETWORKS = {"model_name_or_path", "feature", "net_type", "generator"}
"""Parameters by which classes of TorchMetrics name a network that they download."""
_NO_NUMBERS = ("confusionmatrix", "roc", "precisionrecallcurve", "statscores")
_OF_OTHERS = {
    "qualitywithnoreference": ["preds", "dicts of pictures"],
    "spatialdistortionindex": ["preds", "dicts of pictures"],
    "continuousrankedprobabilityscore": ["several predictions a target"],
}
"""What classes take whose parameters have the names of predictions and targets, but not the meaning."""
_DIMENSIONS = {
    "torchmetrics.audio": (2, "sounds (samples, time)"),
    "torchmetrics.image": (4, "pictures (samples, channels, height, width)"),
}
_OTHER_DIMENSIONS = {
    "sourceaggregatedsignaldistortionratio": (3, "sounds (samples, speakers, time)"),
    "complexscaleinvariantsignalnoiseratio": (4, "spectra (samples, frequency, time, 2)"),
    "spatialcorrelationcoefficient": (3, "pictures (samples, height, width)"),
    "peaksignalnoiseratio": (1, "values"),
}
"""Least dimensions of targets: with fewer, samples would be taken for time or space."""


def refuse_miscounting(cls: Any) -> None:
    """Raise MetricError for a class that counts a batch as one sample where none of its rows can be ranked."""
    if normal_name(public_name(cls)) == "multilabelrankingloss":
        raise MetricError(
            f"{public_name(cls)} depends on where batches end: give metric=sklearn.metrics.label_ranking_loss, which "
            "is the mean over samples"
        )


def refuse_tables(cls: Any) -> None:
    """Raise MetricError for a class that gives a table or a curve."""
    if normal_name(catalogue.plain_title(cls)) in _NO_NUMBERS:
        raise MetricError(
            f"{public_name(cls)} gives a table or a curve, not one number: name a metric made of it, such as F1Score, "
            "AUROC or AveragePrecision, or give a function (outputs, targets) -> score"
        )


def refuse_other_arguments(cls: Any) -> None:
    """Raise MetricError for a class that compares no outputs with targets, or that downloads a network."""
    if _NETWORKS & set(inspect.signature(cls.__init__).parameters):
        raise MetricError(f"{public_name(cls)} downloads a network of its own; give an instance of it")
    if cls.__module__.startswith("torchmetrics.wrappers") or public_name(cls).startswith("Running"):
        raise MetricError(
            f"{public_name(cls)} wraps other metrics; give the metric itself, which is reported with an interval"
        )
    parameters = [p for name, p in inspect.signature(cls.update).parameters.items() if name != "self"]
    # The classes that choose a task on construction have no update of their own.
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    needed = _OF_OTHERS.get(normal_name(public_name(cls)), needed)
    if needed and needed not in (["preds", "target"], ["preds", "targets"], ["pred", "target"]):
        raise MetricError(
            f"{public_name(cls)} takes {', '.join(needed)} instead of predictions and targets; give a function "
            "(outputs, targets) -> score that calls it"
        )


def refuse_other_shapes(cls: Any, targets: Any) -> None:
    """Raise MetricError where targets have fewer dimensions than a metric of sounds or pictures takes."""
    name, home = public_name(cls), ".".join(cls.__module__.split(".")[:2])
    least, what = _OTHER_DIMENSIONS.get(normal_name(name), _DIMENSIONS.get(home, (0, "")))
    if 0 < getattr(targets, "ndim", least) < least:
        raise MetricError(f"{name} compares {what}, but targets have shape {tuple(targets.shape)}; name another metric")


def refuse_other_task(name: str, spelling: Spelling, cls: Any, judging: Judging, is_text: bool) -> None:
    """Raise MetricError where a metric of classes meets values, one of values meets scores, or two tasks differ."""
    home = cls.__module__ if cls is not None else ""
    is_of_classes = spelling.normal.endswith("accuracy") or home.startswith(
        ("torchmetrics.classification", "torchmetrics.segmentation", "torchmetrics.clustering", "torchmetrics.nominal")
    )
    of_values = ("torchmetrics.regression", "torchmetrics.image", "torchmetrics.audio")
    is_of_values = spelling.normal == "r2" or home.startswith(of_values)
    has_classes = judging.labels in ("ids", "one-hot")
    task = judging.task or "none that can be told"
    if (is_of_classes and not has_classes) or (spelling.normal == "perplexity" and judging.class_dim is None):
        raise MetricError(
            f"metric {name!r} compares classes, but the task is {task}: say --task classification or binary"
        )
    if is_of_values and has_classes and judging.scores == "logits":
        raise MetricError(f"metric {name!r} compares values, but the task is {task}: say --task regression")
    of_text = home.startswith(("torchmetrics.text", "torchmetrics.functional.text"))
    if of_text and not is_text and normal_name(catalogue.plain_title(cls)) != "perplexity":
        raise MetricError(
            f"metric {name!r} compares strings: give --postprocess FUNCTION that makes strings of outputs"
        )
    if spelling.normal == "balancedaccuracy" and judging.task == "multilabel":
        raise MetricError(f"metric {name!r} is of one class a sample, but the task is multilabel; name another one")
    if home.startswith("torchmetrics.segmentation") and judging.task == "multilabel":
        raise MetricError(f"metric {name!r} compares one class a place, but the task is multilabel; name another one")
    own = next((kind for kind in ("binary", "multiclass", "multilabel") if spelling.normal.startswith(kind)), "")
    prefix = {"binary": "binary", "multilabel": "multilabel"}.get(judging.task or "", "multiclass")
    if own and own != prefix and not (own == "binary" and has_two_scores(judging)):
        raise MetricError(f"metric {name!r} is one of another task: this one is {task}; --task says otherwise")


def has_two_scores(judging: Judging) -> bool:
    """Whether outputs hold one score for each of two classes."""
    return judging.class_dim is not None and judging.classes == 2


def is_text_of(output: Any, targets: Any) -> bool:
    """Whether outputs are no tensor, and targets are strings: what metrics of texts compare."""
    return output is None and isinstance(targets, list) and all(isinstance(target, str) for target in targets)
