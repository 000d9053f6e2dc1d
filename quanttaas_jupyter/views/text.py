"""Studies and trials in plain text, for ``repr``."""

from __future__ import annotations

from ..core.state import StudyState, TrialState
from . import format as fmt
from .scene import is_percent


def study_text(state: StudyState, read_at: float | None) -> str:
    """Return a header, one line per trial, and the outcome or error; of a running study also when it was read.

    Args:
        state: The study.
        read_at: When the store was read, in seconds since the epoch; None if that has not happened yet.
    """
    if read_at is None:
        return f"Study {state.id} ({state.name}): not read from the store yet; study.state reads it"
    counts = f"{state.done} of {len(state.trials)} trials" + (f", {state.failed} failed" if state.failed else "")
    counts += f", {state.cut} cut early" if state.cut else ""
    head = f"Study {state.id} ({state.name}): {state.status}, {counts}"
    detail = state.error or state.recommendation or state.message
    lines = [f"  {trial_line(trial, state)}" for trial in state.trials.values()]
    read = "" if state.has_ended else f"as of {fmt.clock(read_at)}; study.state reads it again"
    return "\n".join(filter(None, [head, *lines, detail, read]))


def trial_line(trial: TrialState, state: StudyState) -> str:
    """Return a trial's name with its status, or with its most important numbers."""
    metrics = trial.metrics
    if trial.error:
        return f"{trial.name}: {trial.status}: {trial.error['reason']}"
    if metrics.get("metric") is None:
        return f"{trial.name}: {trial.status}"
    low, high = metrics.get("metric_low"), metrics.get("metric_high")
    is_compressed = not trial.is_baseline
    parts = [
        f"{state.metric.get('name', 'metric')} {fmt.value(metrics['metric'], is_percent(state), low, high)}",
        fmt.size(metrics["size_bytes"]) if metrics.get("size_bytes") is not None else "",
        fmt.smaller(metrics.get("size_ratio")) if is_compressed else "",
        fmt.latency(metrics["latency_ms"]) if metrics.get("latency_ms") is not None else "",
        fmt.faster(metrics.get("speedup")) if is_compressed else "",
    ]
    return f"{trial.name}: {', '.join(filter(None, parts))}"
