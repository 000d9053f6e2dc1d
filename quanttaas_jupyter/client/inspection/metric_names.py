"""Metrics by name: built-in ones, and classes of TorchMetrics with what follows from the task."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from typing import Any

from ...core.errors import MetricError, MissingDependency, QuantTaaSError, did_you_mean
from ...core.understanding import Judging
from . import metric_catalogue as catalogue
from .metric_catalogue import Spelling, home_of, normal_name, public_name
from .metric_refusals import (
    has_two_scores,
    is_text_of,
    refuse_miscounting,
    refuse_other_arguments,
    refuse_other_shapes,
    refuse_other_task,
    refuse_tables,
)

_HIGHER = {"accuracy": True, "balancedaccuracy": True, "r2": True, "perplexity": False, "agreement": True}
_TITLES = {"balancedaccuracy": "balanced_accuracy"}
_OF_BOXES = (
    "meanaverageprecision",
    "intersectionoverunion",
    "completeintersectionoverunion",
    "distanceintersectionoverunion",
    "generalizedintersectionoverunion",
)
"""Metrics that TorchMetrics offers only where torchvision is installed."""
_OF_ONE_CLASS = (
    "f1score",
    "fbetascore",
    "precision",
    "recall",
    "specificity",
    "averageprecision",
    "negativepredictivevalue",
)
"""Metrics that, of two classes, are those of the second one: what they are of both together says little."""
_OVER_ALL = ("meansquarederror", "meanabsoluteerror")
"""Metrics whose value over all columns is the mean of their values in each."""
_HALF_RANGE = 127
"""Value that whole-numbered pictures exceed where their range is 0 to 255; below it, it might be another."""


def named(
    name: str, judging: Judging, targets: Any = None, output: Any = None, direction: str | None = None
) -> dict[str, Any]:
    """Describe a metric by its name.

    Args:
        name: The name, in any spelling.
        judging: How outputs are compared with targets.
        targets: Targets of some samples; None without labels.
        output: The judged output of these samples; None where it is no tensor.
        direction: What a person said is better, ``max`` or ``min``; None if nothing.

    Raises:
        MetricError: It is unknown, or cannot be made for this task.
    """
    spelling = catalogue.spelt(name)
    normal = spelling.normal
    if normal != "agreement" and targets is None:
        raise MetricError(f"metric {name!r} needs labels, but --data has none; use metric 'agreement'")
    is_built_in = normal in _HIGHER and not spelling.options
    cls = None if is_built_in else catalogue.torchmetrics_class(name)
    refuse_other_task(name, spelling, cls, judging, is_text=is_text_of(output, targets))
    if is_built_in:
        title = _TITLES.get(normal, normal)
        is_pooled = normal == "r2" and sum(size > 1 for size in getattr(targets, "shape", ())[1:]) > 1
        return _directed(
            {
                "name": title,
                "shown": f"{title} (over all places)" if is_pooled else title,
                "kind": "built-in",
                "higher_is_better": _HIGHER[normal],
                "percent": normal.endswith(("accuracy", "agreement")),
                "digest": normal,
            },
            direction,
        )
    if cls is None:
        raise _unknown(name, normal)
    refuse_other_arguments(cls)
    refuse_other_shapes(cls, targets)
    cls, takes, options, remark = _for_task(cls, spelling, judging, targets, output)
    refuse_tables(cls)
    refuse_miscounting(cls)
    higher = catalogue.higher_is_better(cls)
    if higher is None and direction is None:
        shown = public_name(cls)
        raise MetricError(
            f"TorchMetrics does not say whether a higher {shown} is better; give ({name!r}, 'max') or ({name!r}, 'min')"
        )
    title = catalogue.torchmetrics_name(name)
    shown = f"{title} ({remark})" if remark and not spelling.shown else title
    found = {
        # Several averages may stand beside each other.
        "name": shown if "average" in spelling.options else title,
        "shown": shown,
        "kind": "torchmetrics",
        "class": f"{home_of(cls)}.{public_name(cls)}",
        "options": options,
        "takes": takes,
        "is_mean": remark.startswith("mean of"),
        "higher_is_better": bool(higher),
        "percent": catalogue.is_percent(public_name(cls)),
        "digest": f"{public_name(cls)}{sorted(options.items())}",
    }
    return _directed(found, direction)


def _directed(found: dict[str, Any], direction: str | None) -> dict[str, Any]:
    return found if direction is None else {**found, "higher_is_better": direction == "max"}


def _unknown(name: str, normal: str) -> QuantTaaSError:
    if normal in _OF_BOXES:
        return MissingDependency(f"metric {name!r} needs torchvision: pip install 'quanttaas-jupyter[detection]'")
    loss = getattr(importlib.import_module("torch.nn"), name, None)
    if isinstance(loss, type) and name.endswith("Loss"):
        return MetricError(f"{name} is a loss of PyTorch: give an instance of it, metric=torch.nn.{name}()")
    known = {key: public_name(found) for key, found in catalogue.known_classes().items()}
    known |= {key: _TITLES.get(key, key) for key in _HIGHER}
    hint = did_you_mean(normal, known, "see torchmetrics for names.", titles=known)
    return MetricError(f"unknown metric {name!r}; {hint} Or give a callable (outputs, targets) -> score")


def _for_task(
    cls: Any, spelling: Spelling, judging: Judging, targets: Any, output: Any
) -> tuple[Any, str, dict[str, Any], str]:
    """Return the class that fits the task, what it takes, the options that follow, and what they say of the number."""
    average, remark = catalogue.default_average(cls), ""
    prefix = {"binary": "Binary", "multilabel": "Multilabel"}.get(judging.task or "", "Multiclass")
    title = catalogue.plain_title(cls)
    # Of a mask and what lies around it, Dice is that of the mask.
    is_of_mask = normal_name(title) == "dicescore" and (judging.task == "binary" or has_two_scores(judging))
    if is_of_mask:
        remark = "of class 1"
    if has_two_scores(judging) and "average" not in spelling.options and normal_name(title) in _OF_ONE_CLASS:
        prefix, remark = "Binary", "of class 1"
    if judging.labels in ("ids", "one-hot") and cls.__name__ == title:
        fitting = catalogue.of_task(cls, prefix)
        if fitting is None and cls.__module__.startswith("torchmetrics.classification"):
            raise MetricError(f"{title} has no form for the task {judging.task}; name another metric")
        cls = fitting or cls
    takes, options = takes_of(cls, judging), {}
    parameters = inspect.signature(cls.__init__).parameters
    columns = _columns(output)
    over_all = normal_name(public_name(cls)) in _OVER_ALL
    known = {
        "num_classes": judging.classes,
        "num_labels": judging.classes,
        "ignore_index": judging.ignore_label,
        "data_range": _data_range(cls, targets) if "data_range" in parameters else None,
        "num_outputs": None if over_all else columns,
        "reduction": "mean" if _is_sum(parameters) else None,
        "average": average or _even(parameters),
        "backend": _backend_of(cls),
        "include_background": False if is_of_mask else None,
        **spelling.options,
    }
    for name, value in known.items():
        if name in parameters and value is not None:
            options[name] = value
    unknown = [name for name in spelling.options if name not in parameters]
    if unknown:
        raise MetricError(f"{public_name(cls)} has no {unknown[0]} for this task; give the metric without it")
    if not remark and isinstance(options.get("average"), str):
        remark = options["average"]
    if home_of(cls).startswith("torchmetrics.segmentation"):
        # The same over all pixels would be another number.
        remark = f"{remark}, averaged over samples".lstrip(", ")
    if "num_outputs" in options and (columns or 1) > 1:
        remark = f"mean of {columns} columns"
    missing = [
        name
        for name, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty
        and parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        and name not in ("self", "args", "kwargs")
        and name not in options
    ]
    if missing:
        raise MetricError(
            f"metric {public_name(cls)} needs {', '.join(missing)}, which does not follow from the data: give an "
            f"instance, metric={home_of(cls)}.{public_name(cls)}({missing[0]}=...)"
        )
    return cls, takes, options, remark


def takes_of(cls: Any, judging: Judging, input_format: str = "one-hot") -> str:
    """Return how a class of TorchMetrics takes outputs and targets; see ``techniques.evaluate.taken``."""
    name, home = normal_name(cls.__name__), cls.__module__
    if home.startswith(("torchmetrics.detection", "torchmetrics.text", "torchmetrics.functional.text")):
        return "logits" if name == "perplexity" else "raw"
    if home.startswith("torchmetrics.segmentation"):
        return {"index": "classes-pair", "mixed": "one-hot-mixed"}.get(input_format, "one-hot-pair")
    if home.startswith("torchmetrics.classification"):
        if name.startswith("binary") or (not name.startswith("multi") and judging.task == "binary"):
            return "binary"
        if name.startswith("multilabel"):
            return "multilabel"
        return "classes-pair" if judging.scores == "classes" else "scores"
    if home.startswith(("torchmetrics.regression", "torchmetrics.image", "torchmetrics.audio", "torchmetrics.shape")):
        return "aligned"
    if home.startswith(("torchmetrics.clustering", "torchmetrics.nominal")):
        return "classes-pair"
    return "raw"


def _even(parameters: Any) -> str | None:
    """Return the average of all classes evenly, for metrics that give one number a class otherwise."""
    return "macro" if "average" in parameters and parameters["average"].default is None else None


def _is_sum(parameters: Any) -> bool:
    return "reduction" in parameters and parameters["reduction"].default == "sum"


def _data_range(cls: Any, targets: Any) -> float:
    """Return the range of pictures: 1 for values from zero to one, 255 for whole numbers of eight bits.

    Raises:
        MetricError: It is another one, which targets do not tell.
    """
    import torch

    said = "targets"
    if isinstance(targets, torch.Tensor):
        low, high = float(targets.min()), float(targets.max())
        if targets.is_floating_point() and low >= 0 and high <= 1:
            return 1.0
        if not targets.is_floating_point() and low >= 0 and _HALF_RANGE < high <= 2 * _HALF_RANGE + 1:
            return 255.0
        said = f"targets from {low:.3g} to {high:.3g}"
    raise MetricError(
        f"{public_name(cls)} needs the range of the pictures, which {said} do not tell: give an instance, "
        f"metric={home_of(cls)}.{public_name(cls)}(data_range=...)"
    )


def _backend_of(cls: Any) -> str | None:
    """Return the faster implementation of mean average precision, which is the same to the last digit."""
    if normal_name(cls.__name__) != "meanaverageprecision":
        return None
    if importlib.util.find_spec("faster_coco_eval") is None and importlib.util.find_spec("pycocotools") is None:
        raise MissingDependency("metric 'map' needs faster-coco-eval: pip install 'quanttaas-jupyter[detection]'")
    return "faster_coco_eval" if importlib.util.find_spec("faster_coco_eval") else "pycocotools"


def _columns(output: Any) -> int | None:
    return int(output.shape[1]) if getattr(output, "ndim", 0) == 2 else 1 if output is not None else None
