"""Metrics of predictions: the built-in ones, those of TorchMetrics, and functions of the notebook."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core.failures import StageError, one_line
from .predictions import IGNORED_LABEL, Predictions, class_dims, leaves_of, main_output

_STEADY = 1e-10
"""Share of the mean square below which the variation of an output is rounding of a constant; chosen, not tuned."""


@dataclass(frozen=True)
class Score:
    """Value of a metric and, if the metric is a mean over samples, the score of each sample (n)."""

    value: float
    per_sample: np.ndarray | None = None


def score(metric: dict[str, Any], function: Callable[..., Any] | None, answers: Predictions) -> Score:
    """Compute a metric.

    Args:
        metric: The reference made by ``bundle.metric``.
        function: The callable if the metric is one, otherwise None.
        answers: Outputs and targets of all samples.

    Raises:
        StageError: The outputs or targets do not fit the metric, or are not finite.
    """
    _refuse_nan(answers.outputs)
    try:
        if metric["kind"] == "callable":
            assert function is not None
            result = function(answers.outputs, answers.targets)
        elif metric["kind"] == "torchmetrics":
            result = _torchmetrics(metric["name"], answers)
        else:
            result = _BUILT_IN[metric["name"]](answers)
    except StageError:
        raise
    except Exception as error:
        raise StageError(
            f"metric {metric['name']!r} cannot be computed: {one_line(error)}",
            "check that outputs and targets are what it expects",
        ) from error
    return _as_score(result, metric["name"], _sample_counts(answers) if metric["kind"] == "callable" else None)


def agreement(answers: Predictions) -> np.ndarray | float | None:
    """Return the agreement of a model's predictions with those of the baseline.

    Returns:
        The share of positions with the baseline's class per sample (n). For outputs that are not class scores, R2
        against the baseline's outputs, 0 at worst. None if the outputs do not vary, or all positions have the ignored
        label.
    """
    mine = main_output(answers.outputs)
    theirs = mine if answers.reference is None else main_output(answers.reference)
    dim = answers.class_dim
    if dim is not None and mine.ndim > dim:
        same = mine.argmax(dim) == theirs.argmax(dim)
    elif not mine.is_floating_point():
        same = mine == theirs
    else:
        return _explained(mine.double(), theirs.double())
    labels = main_output(answers.targets) if answers.targets is not None else None
    # Positions that accuracy ignores, such as padding, are ignored here too.
    counted = labels != IGNORED_LABEL if labels is not None and labels.shape == same.shape else same | True
    shares = _shares(same, counted)
    return shares if len(shares) else None


def _accuracy(answers: Predictions) -> np.ndarray:
    outputs, targets = main_output(answers.outputs), main_output(answers.targets)
    dims = class_dims(outputs, targets)
    if dims:
        predicted = outputs.argmax(answers.class_dim if answers.class_dim in dims else dims[0])
    elif outputs.numel() == targets.numel():
        is_probability = bool((outputs >= 0).all()) and bool((outputs <= 1).all())
        predicted = (outputs > (0.5 if is_probability else 0.0)).reshape(targets.shape).to(targets.dtype)
    else:
        raise StageError(
            f"outputs of shape {tuple(outputs.shape)} do not fit targets of shape {tuple(targets.shape)}",
            "accuracy wants one score a class along dimension 1 or the last, and one integer a sample",
        )
    shares = _shares(predicted == targets, targets != IGNORED_LABEL)
    if not len(shares):
        raise StageError(f"every label is {IGNORED_LABEL}, so that nothing can be counted", "give labels that count")
    return shares


def _shares(right: Any, counted: Any) -> np.ndarray:
    """Return the share of correct positions of each sample; samples without a counted position are left out."""
    right, counted = (right & counted).reshape(len(right), -1), counted.reshape(len(counted), -1)
    places = counted.sum(1)
    found: np.ndarray = (right.sum(1).double() / places.clamp(min=1))[places > 0].numpy()
    return found


def _agreement_metric(answers: Predictions) -> Any:
    found = agreement(answers)
    if found is None:
        raise StageError("the outputs do not vary between samples, so that there is nothing to agree on")
    return found


def _explained(mine: Any, theirs: Any) -> float | None:
    """Return the mean R2 of the outputs, each 0 at worst; sequences and images have one R2 over all positions."""
    mine, theirs, is_table = mine.reshape(len(mine), -1), theirs.reshape(len(theirs), -1), theirs.ndim <= 2
    error = ((mine - theirs) ** 2).sum(0)
    spread = ((theirs - theirs.mean(0)) ** 2).sum(0)
    varies = spread > _STEADY * (theirs**2).sum(0)
    if not bool(varies.any()):
        return None
    error, spread = error[varies], spread[varies]
    if not is_table:
        error, spread = error.sum(), spread.sum()
    return float((1 - error / spread).clamp(min=0).mean())


def _r2_of(answers: Predictions) -> float:
    outputs, targets = main_output(answers.outputs), main_output(answers.targets)
    if outputs.numel() != targets.numel():
        raise StageError(f"outputs of shape {tuple(outputs.shape)} do not fit targets of shape {tuple(targets.shape)}")
    return _r2(outputs.reshape(targets.shape).double(), targets.double())


def _r2(outputs: Any, targets: Any) -> float:
    from torchmetrics.functional import r2_score

    return float(r2_score(outputs.reshape(len(outputs), -1), targets.reshape(len(targets), -1)))


_BUILT_IN: dict[str, Callable[[Predictions], Any]] = {
    "accuracy": _accuracy,
    "r2": _r2_of,
    "agreement": _agreement_metric,
}


def _torchmetrics(name: str, answers: Predictions) -> float:
    import torchmetrics

    outputs, targets = main_output(answers.outputs), main_output(answers.targets)
    if answers.class_dim in class_dims(outputs, targets):
        # TorchMetrics looks for classes along dimension 1 only.
        outputs = outputs.movedim(answers.class_dim, 1)
    cls = getattr(torchmetrics, name)
    options: dict[str, Any] = {}
    if getattr(torchmetrics.classification, f"Multiclass{name}", None) is not None:
        options = _task(outputs, targets)
    metric = cls(**options)
    if not options and outputs.shape != targets.shape and outputs.numel() == targets.numel():
        outputs = outputs.reshape(targets.shape)
    return float(metric(outputs, targets))


def _task(outputs: Any, targets: Any) -> dict[str, Any]:
    if outputs.ndim == targets.ndim + 1 and outputs.shape[1] > 1:
        averaged = {"average": "macro"}
        return {"task": "multiclass", "num_classes": outputs.shape[1], **averaged}
    if outputs.ndim == 2 and outputs.shape == targets.shape and outputs.shape[1] > 1:
        return {"task": "multilabel", "num_labels": outputs.shape[1]}
    return {"task": "binary"}


def _as_score(result: Any, name: str, samples: Sequence[int] | None) -> Score:
    """Convert a metric's result; an array must have one value per sample if ``samples`` lists the possible counts."""
    import torch

    values = result.detach().double().numpy() if isinstance(result, torch.Tensor) else np.asarray(result, dtype=float)
    is_number = values.size == 1
    if not is_number and values.ndim != 1:
        raise StageError(f"metric {name!r} gave an array of shape {values.shape}", "return one number, or one a sample")
    if not is_number and samples is not None and len(values) not in samples:
        raise StageError(
            f"the values of metric {name!r} do not fit the samples",
            f"return one number, or one a sample (got {len(values)} for {samples[0]})",
        )
    if not np.isfinite(values).all():
        raise StageError(f"metric {name!r} is not a finite number", "check outputs and targets for NaN")
    return Score(float(values.reshape(-1)[0])) if is_number else Score(float(values.mean()), values)


def _sample_counts(answers: Predictions) -> list[int]:
    """Return the numbers of rows of outputs and targets; they may differ, as for a graph's nodes and its labels."""
    sides = [side for side in (answers.outputs, answers.targets) if side is not None]
    leaves = [leaf for side in sides for leaf in leaves_of(side)[:1]]
    return [len(leaf) for leaf in leaves if leaf.ndim]


def _refuse_nan(outputs: Any) -> None:
    import torch

    for leaf in leaves_of(outputs):
        if leaf.is_floating_point() and not bool(torch.isfinite(leaf).all()):
            share = float((~torch.isfinite(leaf)).double().mean())
            raise StageError(
                f"{share:.1%} of the outputs are NaN or infinite",
                "keep the overflowing layers in higher precision with 'ignore'",
            )
