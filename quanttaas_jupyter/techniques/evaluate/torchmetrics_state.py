"""Metrics of TorchMetrics as states that are kept of blocks and merged."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...core.failures import StageError, explain
from .auroc import area_of

if TYPE_CHECKING:
    import torchmetrics

_KEYS = ("map", "f1", "rouge1_fmeasure", "exact_match")
"""The number that counts where a metric returns several."""

_UNDEFINED = "should be meaningless"
"""What TorchMetrics warns of a curve without samples of a class, of which it goes on to count zeros."""
_NO_RECALL = "recall is undefined"
"""The same of average precision, which leaves such classes out of the mean of several."""
_WITH_THRESHOLD = ("AtFixed", "AtSpecificity", "AtSensitivity")


class TorchmetricsState:
    """What a metric of TorchMetrics keeps of the samples it saw.

    States are plain values that are put into one metric when it updates or computes: copies of a metric, and its own
    way to merge, cost more than the sums that they hold. Its methods are those of its class: what an instance wraps
    around them is for several processes and for values that are kept.
    """

    def __init__(self, metric: torchmetrics.Metric, is_mean: bool = False) -> None:
        """Start from the defaults of a metric, which other states use too; with ``is_mean`` several numbers are one."""
        self._metric, self._is_mean, self._has_seen = metric, is_mean, False
        self._values: dict[str, Any] = {}

    def update(self, *arguments: Any) -> None:
        """Take samples: predictions, then targets. Raises StageError where they are not what the metric takes."""
        self._load()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                type(self._metric).update(self._metric, *arguments)
        except Exception as error:
            raise self._failure(error) from error
        self._values = {name: vars(self._metric)[name] for name in self._metric._defaults}
        self._has_seen = True

    def merge(self, other: TorchmetricsState) -> None:
        """Take what another state saw."""
        if not other._has_seen:
            return
        if not self._has_seen:
            # Neither changes in place what it holds before its next update, which follows no merge.
            self._values, self._has_seen = dict(other._values), True
            return
        for name, theirs in other._values.items():
            self._values[name] = _MERGED[_reduction(self._metric, name)](self._values[name], theirs)

    def compute(self) -> float:
        """Return the metric as one number. Raises StageError where it is not defined on these samples."""
        self._load()
        name = type(self._metric).__name__.lstrip("_")
        try:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                is_area = name.endswith("AUROC") and self._has_seen
                found = area_of(self._metric) if is_area else type(self._metric).compute(self._metric)
        except StageError:
            raise
        except Exception as error:
            raise self._failure(error) from error
        undefined = (_UNDEFINED, _NO_RECALL) if name.startswith("Binary") else (_UNDEFINED,)
        if not is_area and any(text in str(warning.message) for text in undefined for warning in said):
            raise StageError(f"{name} is not defined, as some class has all targets or none", "judge more samples")
        if any(part in name for part in _WITH_THRESHOLD):
            # The threshold at which they were found stands behind the value.
            found = found[0]
        return as_number(_mean_of(found) if self._is_mean else found, name)

    def _load(self) -> None:
        # Tensors that are no parameters are plain attributes of a module, which takes its time to set them.
        vars(self._metric).update(self._values or self._empty())

    def _empty(self) -> dict[str, Any]:
        # Some metrics learn from their first samples which states they have.
        defaults = self._metric._defaults.items()
        return {name: [] if isinstance(default, list) else default.clone() for name, default in defaults}

    def _failure(self, error: Exception) -> StageError:
        name = type(self._metric).__name__.lstrip("_")
        return StageError(f"metric {name} cannot be computed: {explain(error)['reason']}")


_MERGED: dict[str, Callable[[Any, Any], Any]] = {
    "dim_zero_sum": lambda mine, theirs: mine + theirs,
    "dim_zero_cat": lambda mine, theirs: _listed(mine) + _listed(theirs),
    "dim_zero_max": lambda mine, theirs: mine.maximum(theirs),
    "dim_zero_min": lambda mine, theirs: mine.minimum(theirs),
}


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


def _reduction(metric: torchmetrics.Metric, name: str) -> str:
    return str(getattr(metric._reductions[name], "__name__", ""))


def is_mergeable(metric: torchmetrics.Metric) -> bool:
    """Whether states of parts of the samples make the state of all of them: sums, lists, smallest and largest."""
    return bool(metric._reductions) and all(_reduction(metric, name) in _MERGED for name in metric._reductions)


def holds_lists(metric: torchmetrics.Metric) -> bool:
    """Whether its state grows with the samples."""
    return any(isinstance(default, list) for default in metric._defaults.values())


def maker(metric: torchmetrics.Metric, is_mean: bool = False) -> Callable[[], TorchmetricsState]:
    """Return a function that gives empty states of a metric."""
    shared = copy.deepcopy(metric)
    shared.reset()
    return lambda: TorchmetricsState(shared, is_mean)


def _mean_of(found: Any) -> Any:
    import torch

    return torch.as_tensor(found).double().mean()


def as_number(found: Any, name: str) -> float:
    """Return a metric's result as one finite number. Raises StageError where it is several, or none."""
    import math

    import torch

    if isinstance(found, dict):
        key = next((key for key in _KEYS if key in found), next(iter(found)) if len(found) == 1 else None)
        if key is None:
            raise StageError(
                f"metric {name} gives several numbers: {', '.join(map(str, found))}",
                "give a function that returns one of them",
            )
        found = found[key]
    if isinstance(found, (list, tuple)):
        raise StageError(f"metric {name} gives {len(found)} results", "give a function that makes one number of them")
    value = torch.as_tensor(found).detach().double()
    if value.numel() != 1:
        raise StageError(
            f"metric {name} gives {value.numel()} numbers",
            "let it average them (average='macro', or reduction='mean', where it has such an option), or give a "
            "function (outputs, targets) -> score that does",
        )
    number = float(value)
    if not math.isfinite(number):
        raise StageError(
            f"metric {name} is {number}, which is no finite number",
            "check outputs and targets for values that it is not defined on",
        )
    return number
