"""What a trial measured."""

from __future__ import annotations

from typing import Protocol

from quanttaas_jupyter.core.state import Metrics


class Measured(Protocol):
    """A trial, as the user or the engine holds it."""

    @property
    def name(self) -> str: ...

    @property
    def metrics(self) -> Metrics: ...


def number(trial: Measured, metric: str) -> float:
    """A number that the trial must have."""
    found = trial.metrics[metric]
    assert found is not None, f"{trial.name} has no {metric}"
    return found
