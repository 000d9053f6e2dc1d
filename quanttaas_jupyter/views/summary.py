"""Summary of a study in one sentence."""

from __future__ import annotations

from ..core.frontier import best_trial, is_uncertain
from ..core.state import StudyState, TrialState
from . import format as fmt
from .scene import is_percent, max_drop, shown


def recommended(state: StudyState) -> TrialState | None:
    """Return the best trial under the study's goal so far, or None if only the baseline meets it."""
    allowed = max_drop(state)
    if allowed is None:
        return None
    best = best_trial(shown(state), allowed, str(state.goal.get("minimize", "size")))
    return None if best is None or best.is_baseline else best


def is_open_question(trial: TrialState, allowed: float) -> bool:
    """Return whether the interval of a compressed trial crosses the goal."""
    return not trial.is_baseline and is_uncertain(trial, allowed)


def summary(state: StudyState) -> str:
    """Return a sentence such as ``best at -1 point: prune70-int8, 10.7x smaller, 3.1x faster``."""
    allowed = max_drop(state)
    if not shown(state) or allowed is None:
        return {
            "queued": state.message or "waiting for an engine",
            "running": "no trial measured yet",
        }.get(state.status, f"{state.status}, no trial measured")
    limit = fmt.allowance(allowed, is_percent(state))
    best = recommended(state)
    if best is None:
        so_far = " so far" if state.status in ("queued", "running") else ""
        return f"nothing beats the baseline at -{limit}{so_far}"
    parts = [
        best.name,
        fmt.smaller(best.metrics.get("size_ratio")),
        fmt.faster(best.metrics.get("speedup")),
        "uncertain" if is_open_question(best, allowed) else "",
    ]
    return f"best at -{limit}: {', '.join(part for part in parts if part)}"
