"""Metrics of TorchMetrics as states that are kept of blocks and merged."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...core.failures import StageError, explain

if TYPE_CHECKING:
    import torchmetrics

_KEYS = ("map", "f1", "rouge1_fmeasure", "exact_match")
"""The number that counts where a metric returns several."""


class TorchmetricsState:
    """A metric of TorchMetrics that has seen some samples."""

    def __init__(self, metric: torchmetrics.Metric) -> None:
        """Start from an empty copy of a metric."""
        self._metric, self._has_seen = copy.deepcopy(metric), False
        self._metric.reset()
        # Says how ``forward`` makes a batch's value, which is never called; ``merge_state`` refuses by it alone.
        object.__setattr__(self._metric, "full_state_update", False)

    def update(self, *arguments: Any) -> None:
        """Take samples: predictions, then targets. Raises StageError where they are not what the metric takes."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._metric.update(*arguments)
        except Exception as error:
            raise self._failure(error) from error
        self._has_seen = True

    def merge(self, other: TorchmetricsState) -> None:
        """Take what another state saw."""
        if other._has_seen:
            self._metric.merge_state(other._metric)
            self._has_seen = True

    def compute(self) -> float:
        """Return the metric as one number. Raises StageError where it is not defined on these samples."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._metric._computed = None
                return as_number(self._metric.compute(), type(self._metric).__name__)
        except StageError:
            raise
        except Exception as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> StageError:
        return StageError(f"metric {type(self._metric).__name__} cannot be computed: {explain(error)['reason']}")


def is_mergeable(metric: torchmetrics.Metric) -> bool:
    """Whether states of parts of the samples make the state of all of them: sums, lists, smallest and largest."""
    from torchmetrics.utilities import data

    known = (data.dim_zero_sum, data.dim_zero_cat, data.dim_zero_max, data.dim_zero_min)
    return bool(metric._reductions) and all(reduce in known for reduce in metric._reductions.values())


def holds_lists(metric: torchmetrics.Metric) -> bool:
    """Whether its state grows with the samples."""
    return any(isinstance(default, list) for default in metric._defaults.values())


def maker(metric: torchmetrics.Metric) -> Callable[[], TorchmetricsState]:
    """Return a function that gives empty states of a metric."""
    return lambda: TorchmetricsState(metric)


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
    value = torch.as_tensor(found).detach().double()
    if value.numel() != 1:
        raise StageError(f"metric {name} gives {value.numel()} numbers", "average them, for example average='macro'")
    number = float(value)
    if not math.isfinite(number):
        raise StageError(f"metric {name} is not a finite number", "check outputs and targets for NaN")
    return number
