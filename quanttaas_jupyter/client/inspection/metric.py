"""From what a person gives as a metric to its description in the study's record.

A description is JSON: ``name``, ``kind`` (built-in, torchmetrics, instance, loss, sklearn or callable),
``higher_is_better``, ``percent``, ``digest``, and by kind ``shown`` (the name with what it averages), ``class`` and
``options``, ``takes``, ``is_mean``, ``per_sample``, ``takes_targets_first`` and ``others`` (descriptions of further
metrics that are reported beside it).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from ...bundle.digest import digest
from ...bundle.local_code import dumps
from ...core.errors import MetricError
from ...core.failures import first_line
from ...core.understanding import Judging
from . import metric_functions as functions
from .metric_catalogue import higher_is_better, is_percent, public_name
from .metric_names import named, takes_of
from .metric_refusals import refuse_miscounting

_OF_TASK = {
    "classification": "accuracy",
    "binary": "accuracy",
    "multilabel": "accuracy",
    "segmentation": "accuracy",
    "token-classification": "accuracy",
    "regression": "r2",
    "language-model": "perplexity",
    "detection": "map",
    "embedding": "agreement",
}

Described = tuple[dict[str, Any], Any]


def described(metric: Any, judging: Judging, targets: Any, output: Any) -> Described:
    """Describe a metric.

    Args:
        metric: A name; a class or instance of TorchMetrics, a MetricCollection, or a list or dict of metrics, whose
            first one leads; a loss of ``torch.nn``; a scorer or metric function of scikit-learn; a callable; ``(any of
            these, "max" | "min")``; or None for the default of the task.
        judging: How outputs are compared with targets.
        targets: Targets of some samples; None without labels.
        output: The judged output of these samples; None where it is no tensor.

    Returns:
        The description, and what has to travel with it: a callable, a loss, or metrics by name; None for names.

    Raises:
        MetricError: One sentence: what is wrong, and what to give instead.
    """
    direction: str | None = None
    if isinstance(metric, tuple) and len(metric) == 2 and metric[1] in ("max", "min"):
        metric, direction = metric
    elif isinstance(metric, tuple):
        raise MetricError("a metric with a direction is (metric, 'max') or (metric, 'min')")
    if metric is None:
        return named(_default(judging, targets), judging, targets, output), None
    if isinstance(metric, str):
        names = [part.strip() for part in metric.split(",") if part.strip()]
        found = [named(name, judging, targets, output, None if at else direction) for at, name in enumerate(names)]
        return _with_others(found), None
    return _of_object(metric, judging, targets, output, direction)


def _of_object(metric: Any, judging: Judging, targets: Any, output: Any, direction: str | None) -> Described:
    import torch

    # Importing TorchMetrics takes seconds; who gives one of its metrics has imported it.
    if "torchmetrics" in sys.modules or isinstance(metric, (list, Mapping)):
        from torchmetrics import Metric, MetricCollection
    else:
        Metric = MetricCollection = type("Absent", (), {})
    if type(metric).__module__.startswith("torchmetrics.wrappers"):
        raise _wraps(type(metric).__name__)
    if isinstance(metric, type) and issubclass(metric, (Metric, torch.nn.modules.loss._Loss)):
        return _of_class(metric, judging, targets, output, direction)
    if isinstance(metric, (list, Mapping, MetricCollection)) and not isinstance(metric, Metric):
        return _collection(metric, judging, targets, output, direction)
    if isinstance(metric, Metric):
        return _collection({type(metric).__name__.lstrip("_"): metric}, judging, targets, output, direction)
    if isinstance(metric, torch.nn.modules.loss._Loss):
        if _is_of_torch(metric):
            return _loss(metric, type(metric).__name__, direction)
        direction = direction or "min"
    if hasattr(metric, "_score_func") and hasattr(metric, "_sign"):
        wants_scores = any("proba" in str(part) or "decision" in str(part) for part in [metric._response_method])
        direction = direction or ("max" if metric._sign > 0 else "min")
        return functions.sklearn_metric(metric._score_func, dict(metric._kwargs), direction, judging, wants_scores)
    if not callable(metric):
        raise MetricError(f"metric must be a name, a metric or a callable, not a {type(metric).__name__}")
    return _of_function(metric, judging, targets, output, direction)


def _is_of_torch(loss: Any) -> bool:
    """Whether a loss computes as torch's own: one that a person derived may know no reduction by sample."""
    home = getattr(type(loss).forward, "__module__", "")
    return str(home).startswith("torch.")


def _wraps(title: str) -> MetricError:
    return MetricError(
        f"{title} wraps or gathers other numbers; give the metric itself, which is reported with an interval"
    )


def _of_class(cls: Any, judging: Judging, targets: Any, output: Any, direction: str | None) -> Described:
    name = cls.__name__.lstrip("_")
    if not cls.__module__.startswith("torchmetrics."):
        raise MetricError(f"metric {name} is a class: give an instance of it, metric={name}(...)")
    return named(name, judging, targets, output, direction), None


def _of_function(metric: Any, judging: Judging, targets: Any, output: Any, direction: str | None) -> Described:
    function, keywords = functions.unwrapped(metric)
    if functions.module_of(function).startswith("sklearn."):
        return functions.sklearn_metric(function, keywords, direction, judging)
    if (loss := functions.loss_of(function, keywords)) is not None:
        return _loss(loss, function.__name__, direction)
    if functions.module_of(function).startswith("torchmetrics.functional"):
        instance = functions.functional_instance(function, keywords)
        if instance is not None:
            return _collection({function.__name__: instance}, judging, targets, output, direction)
    name = _name_of(function)
    direction = direction or functions.said_direction(function)
    found, travels = _travelling(metric, "callable", name, direction)
    if functions.takes_targets_first(metric):
        found["takes_targets_first"] = True
    return found, travels


def _loss(loss: Any, name: str, direction: str | None) -> Described:
    if getattr(loss, "reduction", "mean") == "sum":
        raise MetricError("a loss whose reduction is 'sum' grows with the data; give one with reduction='mean'")
    return _travelling(loss, "loss", name, direction or "min")


def _collection(metrics: Any, judging: Judging, targets: Any, output: Any, direction: str | None) -> Described:
    from torchmetrics import Metric

    items = list(metrics.items()) if hasattr(metrics, "items") else [(_name_of(item), item) for item in metrics]
    if not items:
        raise MetricError("a collection of metrics is empty; give at least one")
    found: list[dict[str, Any]] = []
    instances = {}
    for name, item in items:
        if isinstance(item, str):
            found.append(named(item, judging, targets, output, direction if not found else None))
            continue
        if isinstance(item, type) and issubclass(item, Metric) and item.__module__.startswith("torchmetrics."):
            found.append(named(public_name(item), judging, targets, output, direction if not found else None))
            continue
        if not isinstance(item, Metric):
            raise MetricError(
                f"a list of metrics holds names and metrics of TorchMetrics, not a {type(item).__name__}; "
                "give a callable alone"
            )
        instances[name] = item
        found.append(_instance(name, item, judging, direction if not found else None))
    return _with_others(found), instances or None


def _instance(name: str, metric: Any, judging: Judging, direction: str | None) -> dict[str, Any]:
    title = public_name(type(metric))
    if type(metric).__module__.startswith(("torchmetrics.wrappers", "torchmetrics.aggregation")):
        raise _wraps(title)
    refuse_miscounting(type(metric))
    is_of_torchmetrics = type(metric).__module__.startswith("torchmetrics.")
    if type(metric).__name__ == "CompositionalMetric" or not (metric._defaults or is_of_torchmetrics):
        raise MetricError(
            f"{title} keeps its numbers elsewhere than in states of its own, which are what intervals are made of: "
            "keep them with add_state(), or give a function (outputs, targets) -> score"
        )
    if getattr(metric, "reduction", None) == "sum":
        raise MetricError(f"a {title} whose reduction is 'sum' grows with the data; give one with reduction='mean'")
    if hasattr(metric, "data_range") and metric.data_range is None:
        raise MetricError(
            f"{title} takes its range from every batch anew, so that the number depends on the batches: give it with "
            "data_range=..."
        )
    higher = {"max": True, "min": False}.get(direction or "", higher_is_better(type(metric)))
    if higher is None:
        raise MetricError(f"{name} does not say whether more is better: give ({name}(...), 'max') or (..., 'min')")
    return {
        "name": name,
        "kind": "instance",
        "takes": takes_of(type(metric), judging, str(getattr(metric, "input_format", "one-hot"))),
        "higher_is_better": higher,
        "percent": is_percent(type(metric).__name__),
        "digest": digest(metric),
    }


def _travelling(item: Any, kind: str, name: str, direction: str | None) -> Described:
    found = {
        "name": name,
        "kind": kind,
        # None stands until the metric was tried.
        "higher_is_better": None if direction is None else direction == "max",
        "percent": False,
        "digest": digest(item),
    }
    return found, item


def pickled(item: Any) -> bytes:
    """Return what travels with a metric as a pickle with its local code. Raises MetricError."""
    try:
        return dumps(item)
    except Exception as error:
        raise MetricError(f"the metric cannot be sent: {first_line(error)}") from None


def _with_others(found: list[dict[str, Any]]) -> dict[str, Any]:
    first, *others = found
    names = [metric["name"] for metric in found]
    if len(set(names)) < len(names):
        raise MetricError(f"metrics have the same name: {', '.join(names)}; give a dict of names and metrics")
    return {**first, "others": others} if others else first


def _default(judging: Judging, targets: Any) -> str:
    if targets is None:
        raise MetricError(
            "--data has no labels: give (inputs, targets) batches, or use metric 'agreement', "
            "which compares with the original model"
        )
    if judging.task is None and isinstance(targets, list) and all(isinstance(target, str) for target in targets):
        raise MetricError(
            "targets are strings: give class numbers, such as their places in a list of the names, or a metric that "
            "takes (outputs, targets)"
        )
    if judging.task is None:
        raise MetricError(
            "what these targets are compared with cannot be told: say --task, --output or --labels, or give a metric "
            "that takes (outputs, targets)"
        )
    return _OF_TASK[judging.task]


def _name_of(metric: Any) -> str:
    if isinstance(metric, str):
        return metric
    name = getattr(metric, "__name__", type(metric).__name__)
    return "metric" if name == "<lambda>" else str(name).lstrip("_")
