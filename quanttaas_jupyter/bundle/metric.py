"""Conversion of a user's metric into a reference that an engine can resolve.

Names are ``accuracy``, ``r2``, ``agreement``, and the classes of TorchMetrics in any spelling (``F1Score``,
``f1_score``). ``agreement`` is the share of samples with the class that the original model predicts. For outputs that
are not class scores it is their R2 against the original model's outputs, 0 at worst.
"""

from __future__ import annotations

from typing import Any

from ..core.errors import MetricError, did_you_mean
from ..core.failures import first_line
from ..store import blobs
from ..store.base import Store
from .batches import Batches
from .digest import digest
from .local_code import dumps

BUILT_IN = ("accuracy", "r2", "agreement")
_PERCENT = ("accuracy", "agreement", "precision", "recall", "f1score", "specificity", "jaccardindex", "auroc")


def reference(metric: Any, first: Batches) -> tuple[dict[str, Any], bytes | None]:
    """Resolve the metric.

    Args:
        metric: A name, a callable, ``(callable, "max" | "min")``, or None for the default of these targets.
        first: The first batch of ``--data``.

    Returns:
        The reference (``name``, ``kind``, ``higher_is_better``, ``percent``, ``digest``) and, for a callable, its
        pickle, which ``stored`` puts into a store.

    Raises:
        MetricError: The metric does not exist, or needs labels that the data does not have.
    """
    if metric is None:
        return _named(_default(first)), None
    if callable(metric) or isinstance(metric, tuple):
        return _callable(metric)
    if not isinstance(metric, str):
        raise MetricError(f"metric must be a name or a callable, not a {type(metric).__name__}")
    named = _named(metric)
    if named["name"] != "agreement" and not first.has_targets:
        raise MetricError(f"metric {metric!r} needs labels, but --data has none; use metric 'agreement'")
    return named, None


def stored(store: Store, reference: dict[str, Any], pickled: bytes | None) -> dict[str, Any]:
    """Store the pickle of a callable, and return the reference with its blob."""
    return reference if pickled is None else {**reference, "blob": blobs.put_bytes(store, pickled)}


def torchmetrics_class(name: str) -> type | None:
    """Return the TorchMetrics class that a name means, in any spelling, or None."""
    return _torchmetrics().get(_normal(name))


def _default(first: Batches) -> str:
    if not first.has_targets:
        raise MetricError(
            "--data has no labels: give (inputs, targets) batches, or use metric 'agreement', "
            "which compares with the original model"
        )
    return "r2" if first.batches[0].targets[0].is_floating_point() else "accuracy"


def _named(name: str) -> dict[str, Any]:
    normal = _normal(name)
    if normal in BUILT_IN:
        return {
            "name": normal,
            "kind": "built-in",
            "higher_is_better": True,
            "percent": normal != "r2",
            "digest": normal,
        }
    cls = torchmetrics_class(name)
    if cls is None:
        known = {key: cls.__name__ for key, cls in _torchmetrics().items()} | {item: item for item in BUILT_IN}
        hint = did_you_mean(normal, known, "see torchmetrics for names.", titles=known)
        raise MetricError(f"unknown metric {name!r}; {hint} Or give a callable (outputs, targets) -> score")
    higher = _higher_is_better(cls)
    if higher is None:
        raise MetricError(
            f"TorchMetrics does not say whether a higher {cls.__name__} is better; "
            "give (callable, 'max') or (callable, 'min') instead"
        )
    return {
        "name": cls.__name__,
        "kind": "torchmetrics",
        "higher_is_better": higher,
        "percent": normal in _PERCENT,
        "digest": cls.__name__,
    }


def _callable(metric: Any) -> tuple[dict[str, Any], bytes]:
    function, direction = metric if isinstance(metric, tuple) and len(metric) == 2 else (metric, "max")
    if not callable(function) or direction not in ("max", "min"):
        raise MetricError("a metric with a direction is (callable, 'max') or (callable, 'min')")
    try:
        pickled = dumps(function)
    except Exception as error:
        raise MetricError(f"the metric cannot be sent: {first_line(error)}") from None
    name = getattr(function, "__name__", type(function).__name__)
    description = {
        "name": "metric" if name == "<lambda>" else name,
        "kind": "callable",
        "higher_is_better": direction == "max",
        "percent": False,
        "digest": digest(function),
    }
    return description, pickled


def _torchmetrics() -> dict[str, type]:
    import torchmetrics

    classes = {
        _normal(name): getattr(torchmetrics, name)
        for name in torchmetrics.__all__
        if isinstance(getattr(torchmetrics, name, None), type)
    }
    short = {"f1": "f1score", "mse": "meansquarederror", "mae": "meanabsoluteerror", "auc": "auroc"}
    return {**classes, **{alias: classes[name] for alias, name in short.items() if name in classes}}


def _higher_is_better(cls: type) -> bool | None:
    direct = getattr(cls, "higher_is_better", None)
    if direct is not None:
        return bool(direct)
    import torchmetrics.classification as tasks

    # A class that chooses its task on construction has no direction of its own; take that of its task classes.
    for task in ("Multiclass", "Binary", "Multilabel"):
        chosen = getattr(tasks, f"{task}{cls.__name__}", None)
        if chosen is not None and chosen.higher_is_better is not None:
            return bool(chosen.higher_is_better)
    return None


def _normal(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")
