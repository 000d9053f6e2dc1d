"""Functions as metrics: of scikit-learn, of PyTorch, of TorchMetrics, and a person's own."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Mapping
from typing import Any

from ...bundle.digest import digest
from ...core.errors import MetricError
from ...core.understanding import Judging

_LOSSES = {
    "mse_loss": "MSELoss",
    "l1_loss": "L1Loss",
    "smooth_l1_loss": "SmoothL1Loss",
    "huber_loss": "HuberLoss",
    "cross_entropy": "CrossEntropyLoss",
    "nll_loss": "NLLLoss",
    "binary_cross_entropy": "BCELoss",
    "binary_cross_entropy_with_logits": "BCEWithLogitsLoss",
    "soft_margin_loss": "SoftMarginLoss",
    "multi_margin_loss": "MultiMarginLoss",
    "multilabel_margin_loss": "MultiLabelMarginLoss",
    "multilabel_soft_margin_loss": "MultiLabelSoftMarginLoss",
    "poisson_nll_loss": "PoissonNLLLoss",
    "kl_div": "KLDivLoss",
}
"""Functions of ``torch.nn.functional`` with the modules that are the same loss."""
_OF_TARGETS = ("y_true", "true", "target", "targets", "label", "labels", "y", "gt", "ground_truth", "truth", "actual")
_OF_OUTPUTS = (
    "y_pred",
    "y_hat",
    "yhat",
    "y_score",
    "y_prob",
    "pred",
    "preds",
    "prediction",
    "predictions",
    "predicted",
    "output",
    "outputs",
    "logits",
    "scores",
    "out",
)
_OF_SCORES = ("log_loss", "d2_log_loss_score")
"""Functions of scikit-learn that take probabilities rather than classes, though their parameters do not say so."""
_SCORES = {"y_score", "y_prob", "y_proba"}
"""Names of parameters by which functions of scikit-learn say that they take probabilities."""


def unwrapped(metric: Any) -> tuple[Any, dict[str, Any]]:
    """Return the function inside of ``functools.partial``, and the keywords that were given to it.

    Raises:
        MetricError: Arguments by position were given, which outputs and targets take the place of.
    """
    keywords: dict[str, Any] = {}
    while isinstance(metric, functools.partial):
        if metric.args:
            raise MetricError("a metric made by functools.partial gets outputs and targets; give the others by keyword")
        keywords = {**metric.keywords, **keywords}
        metric = metric.func
    return metric, keywords


def module_of(function: Any) -> str:
    """Return the module of a function; empty for one that has none."""
    return str(getattr(function, "__module__", None) or "")


def loss_of(function: Any, keywords: Mapping[str, Any]) -> Any:
    """Return the module of ``torch.nn`` that is the same loss as one of its functions; None where there is none."""
    import torch

    title = _LOSSES.get(getattr(function, "__name__", "")) if module_of(function) == "torch.nn.functional" else None
    try:
        return getattr(torch.nn, title)(**keywords) if title else None
    except TypeError:
        return None


def takes_targets_first(function: Any) -> bool:
    """Whether the names of a function's first two parameters say that targets come before outputs."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    names = [p.name.lower() for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(names) >= 2 and names[0] in _OF_TARGETS and names[1] in _OF_OUTPUTS


def sklearn_metric(
    function: Any, keywords: Mapping[str, Any], direction: str | None, judging: Judging, wants_scores: bool = False
) -> tuple[dict[str, Any], Any]:
    """Describe a metric function of scikit-learn, which takes targets before outputs.

    Args:
        function: The function.
        keywords: What it is called with besides.
        direction: What is better, ``max`` or ``min``; None to go by its name.
        judging: How outputs are compared with targets.
        wants_scores: Whether a scorer says that it takes probabilities.

    Raises:
        MetricError: Its name tells no direction, or it needs an option for this task.
    """
    name = str(function.__name__)
    if direction is None:
        direction = "max" if name.endswith("_score") or name.startswith("d2_") else "min"
        if not name.endswith(("_score", "_error", "_loss", "_deviance")) and not name.startswith("d2_"):
            raise MetricError(f"{name} does not say whether more is better: give ({name}, 'max') or ({name}, 'min')")
    _refuse_options_that_lack(function, name, keywords, judging)
    wants_scores = wants_scores or name in _OF_SCORES or bool(_SCORES & set(inspect.signature(function).parameters))
    found = {
        "name": name,
        "kind": "sklearn",
        "higher_is_better": direction == "max",
        "percent": False,
        "takes": _sklearn_takes(judging, wants_scores),
    }
    travels = functools.partial(function, **keywords)
    return {**found, "digest": digest(travels)}, travels


def _refuse_options_that_lack(function: Any, name: str, keywords: Mapping[str, Any], judging: Judging) -> None:
    if "pred_decision" in inspect.signature(function).parameters:
        raise MetricError(
            f"{name} takes distances from a border, which are neither classes nor probabilities: give a function "
            "(outputs, targets) -> score that calls it"
        )
    several = judging.task == "multilabel" or (judging.task != "binary" and (judging.classes or 0) > 2)
    average = inspect.signature(function).parameters.get("average")
    if several and average is not None and average.default == "binary" and "average" not in keywords:
        raise MetricError(
            f"{name} is of two classes unless it is told how to average several: give "
            f"functools.partial(sklearn.metrics.{name}, average='macro')"
        )
    if name == "roc_auc_score" and several and judging.task != "multilabel" and "multi_class" not in keywords:
        raise MetricError(
            "roc_auc_score of several classes needs to know how: give "
            "functools.partial(sklearn.metrics.roc_auc_score, multi_class='ovr')"
        )


def _sklearn_takes(judging: Judging, wants_scores: bool) -> str:
    if judging.task == "regression" or judging.labels == "values":
        return "aligned"
    if not wants_scores:
        return "classes-pair"
    if judging.task == "multilabel":
        return "multilabel"
    # Of two scores a sample the second one is the probability that scikit-learn takes.
    is_of_two = judging.task == "binary" or (judging.class_dim is not None and judging.classes == 2)
    return "binary" if is_of_two else "scores"


def functional_instance(function: Any, keywords: Mapping[str, Any]) -> Any:
    """Return the metric of TorchMetrics that is the same as one of its functions; None where there is none."""
    from .metric_catalogue import torchmetrics_class

    cls = torchmetrics_class(str(getattr(function, "__name__", "")))
    try:
        return cls(**keywords) if cls is not None else None
    except (TypeError, ValueError):
        return None


def said_direction(metric: Any) -> str | None:
    """Return ``min`` for what calls itself a loss; None where the name does not tell."""
    name = str(getattr(metric, "__name__", type(metric).__name__))
    return "min" if re.search(r"loss$", name, re.IGNORECASE) else None
