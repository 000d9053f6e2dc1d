"""Selection of trials: the Pareto frontier, and the best trial under a goal."""

from __future__ import annotations

from collections.abc import Iterable

from .state import TrialState

AXES = {"size": "size_bytes", "latency": "latency_ms"}


def pareto(
    trials: Iterable[TrialState], x: str = "size", y: str = "metric", higher_is_better: bool = True
) -> list[TrialState]:
    """Return the trials that no other beats in both numbers, sorted by ``x``.

    Args:
        trials: Trials; those without both numbers are passed over.
        x: ``size``, ``latency``, or any key of the metrics; smaller is better.
        y: A key of the metrics.
        higher_is_better: The direction of ``y``.
    """
    x_key = AXES.get(x, x)
    sign = 1.0 if higher_is_better else -1.0
    points = [
        (float(horizontal), -sign * float(vertical), trial)
        for trial in trials
        if (horizontal := trial.metrics.get(x_key)) is not None and (vertical := trial.metrics.get(y)) is not None
    ]
    frontier: list[TrialState] = []
    best = float("inf")
    for _, loss, trial in sorted(points, key=lambda point: point[:2]):
        if loss < best:
            frontier.append(trial)
            best = loss
    return frontier


def best_trial(trials: Iterable[TrialState], max_drop: float = 0.01, minimize: str = "size") -> TrialState | None:
    """Return the smallest or fastest trial whose ``drop`` is at most ``max_drop`` (in the metric's unit), or None.

    Where a search was guided by a half of the data, a trial must meet the goal on both halves.
    """
    key = AXES.get(minimize, minimize)
    fitting = [
        trial
        for trial in trials
        if (drop := trial.metrics.get("drop")) is not None
        and max(drop, trial.metrics.get("guide_drop") or drop) <= max_drop
        and trial.metrics.get(key) is not None
    ]
    return min(fitting, key=lambda trial: float(trial.metrics[key] or 0.0), default=None)


def is_uncertain(trial: TrialState, max_drop: float) -> bool:
    """Return whether the drop meets the goal while the upper end of its confidence interval does not."""
    drop, high = trial.metrics.get("drop"), trial.metrics.get("drop_high")
    return drop is not None and high is not None and drop <= max_drop < high
