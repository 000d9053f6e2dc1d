"""Which direction of a person's own metric is better: tried on right answers, and on the same ones misplaced."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...bundle.structure import flatten, unflatten
from ...core.errors import MetricError
from ...core.understanding import Judging
from ...techniques.evaluate.tensors import counted, judged, judged_output

if TYPE_CHECKING:
    from torch import Tensor

_SURE = 10.0
"""Logit of an answer that is sure: a probability of 0.99995. Chosen, not tuned."""
_LESS = (
    "loss error errors err rmse mse mae mape smape wer cer eer nll perplexity ppl distance divergence deviance entropy "
    "mistakes"
)
_MORE = (
    "accuracy acc score f1 iou miou dice precision recall auc auroc ap map r2 psnr ssim bleu rouge correlation corr "
    "similarity agreement right correct hits kappa mcc"
)
_WORDS = {**dict.fromkeys(_LESS.split(), False), **dict.fromkeys(_MORE.split(), True)}


def tried_direction(
    function: Callable[[Any, Any], Any], name: str, outputs: Any, targets: Any, judging: Judging
) -> bool:
    """Return whether more of a metric is better.

    It is called on right answers for some samples, and on the right answers for other samples among them.

    Args:
        function: The metric, of outputs and targets.
        name: Its name, which may tell it where trying does not.
        outputs: The model's outputs for these samples, as the metric takes them.
        targets: Their targets.
        judging: How outputs are compared with targets.

    Raises:
        MetricError: Neither tells, or they contradict each other.
    """
    said = next((_WORDS[word] for word in reversed(_words(name)) if word in _WORDS), None)
    answers = _answers(outputs, targets, judging)
    if answers is None:
        # Where the right answers are not known, such as those of boxes or strings, more is better, and it is told.
        return True if said is None else said
    right, misplaced = (_value(function, answer, targets) for answer in answers)
    found = None
    if np.isfinite([right, misplaced]).all() and not np.isclose(right, misplaced, rtol=1e-4):
        found = bool(right > misplaced)
    if (found is None and said is None) or (found is not None and said not in (None, found)):
        raise MetricError(
            f"whether more or less of metric {name!r} is better cannot be told: give (metric, 'max') or (metric, 'min')"
        )
    return bool(said if found is None else found)


def _words(name: str) -> list[str]:
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])\d*|[A-Z]?[a-z]+\d*", name)]


def _value(function: Callable[[Any, Any], Any], outputs: Any, targets: Any) -> float:
    try:
        found = function(outputs, targets)
        return float(np.asarray(found.detach() if hasattr(found, "detach") else found, dtype=float).mean())
    except Exception:
        return float("nan")


def _answers(outputs: Any, targets: Any, judging: Judging) -> tuple[Any, Any] | None:
    """Return the outputs of a model that is right, and of one that answers other samples; None where unknown."""
    import torch

    if judging.task in (None, "detection", "embedding") or targets is None:
        return None
    leaves, structure = flatten(outputs)
    named = dict(leaves)
    name = judging.output or next(iter(named), "")
    if not isinstance(named.get(name), torch.Tensor):
        return None
    output, target = judged(outputs, targets, judging)
    ideal = _ideal(output, target, judging)
    if ideal is None or len(ideal) < 2:
        return None
    order = torch.arange(len(ideal)).roll(len(ideal) // 2)
    found = []
    for answer in (ideal, ideal[order]):
        whole = judged_output(outputs, replace(judging, is_shifted=False)).clone()
        if judging.is_shifted:
            whole[:, :-1] = answer
        else:
            whole = answer
        whole = whole.movedim(0, judging.output_dim) if judging.output_dim else whole
        found.append(unflatten(structure, [whole if key == name else leaf for key, leaf in leaves]))
    return found[0], found[1]


def _ideal(output: Tensor, target: Tensor, judging: Judging) -> Tensor | None:
    """Return an output that is right about every target; None where shapes do not tell it."""
    import torch

    known = torch.where(counted(target, judging), target, 0)
    if judging.class_dim is not None:
        dim = judging.class_dim
        if target.shape != output.shape[:dim] + output.shape[dim + 1 :]:
            return None
        is_right = torch.nn.functional.one_hot(known.long(), output.shape[dim]).movedim(-1, dim).bool()
    elif target.numel() != output.numel():
        return None
    elif judging.labels == "values" or judging.scores == "classes":
        return known.reshape(output.shape).to(output.dtype)
    else:
        is_right = known.reshape(output.shape) == 1
    logits = torch.where(is_right, _SURE, -_SURE).to(output.dtype)
    if judging.scores != "probabilities":
        return logits
    return logits.sigmoid() if judging.class_dim is None else logits.softmax(judging.class_dim)
