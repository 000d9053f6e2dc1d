"""Selection of trials: the Pareto frontier, and the best trial under a goal."""

from __future__ import annotations

from collections.abc import Iterable

from .state import StudyState, TrialState

AXES = {"size": "size_bytes", "latency": "latency_ms"}


def pareto(
    trials: Iterable[TrialState], x: str = "size", y: str = "metric", higher_is_better: bool = True
) -> list[TrialState]:
    """Return the trials that no other beats in both numbers, sorted by ``x``.

    Args:
        trials: Trials; those that failed, lack one of the numbers, or are still being evaluated are passed over.
        x: ``size``, ``latency``, or any key of the metrics; smaller is better.
        y: A key of the metrics.
        higher_is_better: The direction of ``y``.
    """
    x_key = AXES.get(x, x)
    sign = 1.0 if higher_is_better else -1.0
    points = [
        (float(horizontal), -sign * float(vertical), trial)
        for trial in trials
        if _counts(trial)
        and (horizontal := trial.metrics.get(x_key)) is not None
        and (vertical := trial.metrics.get(y)) is not None
    ]
    frontier: list[TrialState] = []
    best = float("inf")
    for _, loss, trial in sorted(points, key=lambda point: point[:2]):
        if loss < best:
            frontier.append(trial)
            best = loss
    return frontier


def best_trial(state: StudyState, max_drop: float | None = None, minimize: str | None = None) -> TrialState | None:
    """Return the smallest or fastest trial whose drop stays within the goal, or None if there is none.

    Trials that failed or are still being evaluated do not count. If a half of the data guided the search, a trial must
    meet the goal on both halves.

    Args:
        state: The study.
        max_drop: Largest drop allowed, in the metric's unit; the study's goal by default.
        minimize: ``size`` or ``latency``; the study's goal by default.
    """
    allowed = state.goal.get("max_drop") if max_drop is None else max_drop
    if allowed is None:
        return None
    key = AXES[minimize or str(state.goal.get("minimize", "size"))]
    fitting = [
        trial
        for trial in state.trials.values()
        if _counts(trial)
        and (drop := trial.metrics.get("drop")) is not None
        and max(drop, trial.metrics.get("guide_drop") or drop) <= allowed
        and trial.metrics.get(key) is not None
    ]
    return min(fitting, key=lambda trial: float(trial.metrics[key] or 0.0), default=None)


def _counts(trial: TrialState) -> bool:
    return trial.status != "failed" and not trial.is_partial


def recommended_trial(state: StudyState) -> TrialState | None:
    """Return the best trial under the study's goal so far, or None if only the baseline meets it."""
    best = best_trial(state)
    return None if best is None or best.is_baseline else best


def is_uncertain(trial: TrialState, max_drop: float) -> bool:
    """Return whether a compressed trial's drop meets the goal while the upper end of its interval does not."""
    drop, high = trial.metrics.get("drop"), trial.metrics.get("drop_high")
    return not trial.is_baseline and drop is not None and high is not None and drop <= max_drop < high
