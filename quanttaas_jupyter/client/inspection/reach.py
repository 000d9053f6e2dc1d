"""What values an output without classes can have at all: large inputs and weights drive it there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ...core.errors import DataError, QuantTaaSError
from ...core.failures import StageError
from ...core.understanding import Judging

if TYPE_CHECKING:
    import torch

_FACTORS = (100.0, -100.0, 3.0, -3.0)
"""Factors of inputs or weights: large ones drive far, small ones where those overflow. Chosen, not tuned."""
_MOST_WEIGHTS = 16 << 20
"""Weights, from the last layer back, that are scaled together: twice their size fits everywhere. Not tuned."""
_WITHOUT_THRESHOLD = ("auroc", "roc_auc", "averageprecision", "average_precision", "calibrationerror", "logauc", "eer")
"""Metrics that rank outputs: where zero lies does not matter to them."""

Run = Callable[[float, "dict[str, torch.Tensor]"], "torch.Tensor"]
"""Gives the judged output with inputs times a factor, and with other weights."""


def drives(model: torch.nn.Module, run: Run) -> Iterator[torch.Tensor]:
    """Yield outputs of a model whose inputs, then whose weights, are multiplied by large factors."""
    weights: dict[str, torch.Tensor] = {}
    for name, weight in reversed(list(model.named_parameters())):
        if sum(kept.numel() for kept in weights.values()) + weight.numel() > _MOST_WEIGHTS and weights:
            break
        weights[name] = weight.detach()
    for factor in _FACTORS:
        for inputs, scaled in ((factor, {}), (1.0, {name: weight * factor for name, weight in weights.items()})):
            # Far out a model may overflow, or refuse its inputs.
            with contextlib.suppress(QuantTaaSError, StageError, IndexError):
                yield run(inputs, scaled)


def leaves_the_unit(outputs: Iterator[torch.Tensor]) -> bool:
    """Whether outputs that lie between 0 and 1 are logits, which large inputs or weights drive out of these bounds."""
    return any(bool(((output < 0) | (output > 1)).any()) for output in outputs)


def is_one_sided(output: torch.Tensor, target: torch.Tensor, judging: Judging) -> bool:
    """Whether all logits of yes or no have one sign, although both labels occur."""
    if judging.scores != "logits" or judging.class_dim is not None or judging.labels != "ids":
        return False
    no, yes = judging.codes or (0, 1)
    both = bool((target == no).any()) and bool((target == yes).any())
    return both and bool((output >= 0).all() | (output <= 0).all())


def refuse_one_sided(output: torch.Tensor, outputs: Iterator[torch.Tensor]) -> None:
    """Raise DataError where outputs keep their sign whatever inputs and weights are: they are no logits."""
    is_positive = bool((output >= 0).all())
    if not any(bool(((driven < 0) if is_positive else (driven > 0)).any()) for driven in outputs):
        raise DataError(
            f"the outputs are {'never negative' if is_positive else 'never positive'}, as distances or logarithms are, "
            "so that zero does not tell yes from no: give --postprocess FUNCTION that makes logits or probabilities of "
            "them, a metric that takes (outputs, targets), or --task regression"
        )


def has_threshold(metric: Any) -> bool:
    """Whether a metric depends on where yes begins: all but those that rank, and functions of one's own."""
    if metric is None or isinstance(metric, str):
        names = (metric or "accuracy").split(",")
    else:
        names = [getattr(metric, "__name__", type(metric).__name__)]
    return not all(any(known in name.lower().replace(" ", "") for known in _WITHOUT_THRESHOLD) for name in names)
