"""How far a language model's next tokens are from those of the original: the Kullback-Leibler divergence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.understanding import Judging
from .tensors import classes_last, counted, judged_output, judged_targets, leaves_of

if TYPE_CHECKING:
    from torch import Tensor

_LEAST = 1e-30
"""Probability that stands for zero, near the least that float32 holds in full precision."""


class Divergence:
    """Mean of KL(original || model) over the tokens that count, in nats a token, a batch at a time."""

    def __init__(self, judging: Judging) -> None:
        """Start with no tokens."""
        self._judging = judging
        self._sum, self._tokens = 0.0, 0

    def update(self, outputs: Any, targets: Any, reference: Any) -> None:
        """Take outputs of a model and of the original; targets tell which tokens count, None that all do."""
        mine, theirs = (self._logs(value) for value in (outputs, reference))
        apart = theirs - mine
        # Probabilities sum to one on both sides: without the terms that cancel, small divergences lose no digits.
        found = (theirs.exp() * (apart.neg().expm1() + apart)).sum(-1)
        labels = judged_targets(targets, self._judging) if targets is not None and leaves_of(targets) else None
        if labels is not None and labels.shape == found.shape:
            found = found[counted(labels, self._judging)]
        self._sum += float(found.double().sum())
        self._tokens += found.numel()

    @property
    def nats(self) -> float | None:
        """The mean so far, never below zero; None where no token counted or a probability was not finite."""
        if not self._tokens or not np.isfinite(self._sum):
            return None
        return max(0.0, self._sum / self._tokens)

    def _logs(self, outputs: Any) -> Tensor:
        scores = classes_last(judged_output(outputs, self._judging), self._judging).float()
        if self._judging.scores == "probabilities":
            return scores.clamp(min=_LEAST).log()
        # Scores of -inf or -1e30 mask a token in both models: 0 times a finite number is no difference.
        return scores.log_softmax(-1).clamp(min=float(np.log(_LEAST)))
