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
_PART = 1 << 20
"""Scores that are compared at once; chosen, not tuned."""


class Divergence:
    """Mean of KL(original || model) over the tokens that count, in nats a token, a batch at a time."""

    def __init__(self, judging: Judging) -> None:
        """Start with no tokens."""
        self._judging = judging
        self._sum, self._tokens = 0.0, 0

    def update(self, outputs: Any, targets: Any, reference: Any) -> None:
        """Take outputs of a model and of the original; targets tell which tokens count, None that all do."""
        import torch

        mine, theirs = (
            classes_last(judged_output(value, self._judging), self._judging) for value in (outputs, reference)
        )
        rows = max(1, _PART // mine.shape[-1])
        pairs = zip(*(value.reshape(-1, value.shape[-1]).split(rows) for value in (mine, theirs)), strict=True)
        found = torch.cat([self._apart(*pair) for pair in pairs]).reshape(mine.shape[:-1])
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

    def _apart(self, mine: Tensor, theirs: Tensor) -> Tensor:
        """Return the divergence of each token (n) between scores of tokens by classes (n, c)."""
        mine, theirs = self._logs(mine), self._logs(theirs)
        apart = theirs - mine
        # Probabilities sum to one on both sides: without the terms that cancel, small divergences lose no digits.
        return (theirs.exp() * (apart.neg().expm1() + apart)).sum(-1)

    def _logs(self, scores: Tensor) -> Tensor:
        scores = scores.float()
        if self._judging.scores == "probabilities":
            return scores.clamp(min=_LEAST).log()
        # Scores of -inf or -1e30 mask a token in both models: 0 times a finite number is no difference.
        return scores.log_softmax(-1).clamp(min=float(np.log(_LEAST)))
