"""Studies and trials in plain text, for ``repr``."""

from __future__ import annotations

from ..core.state import StudyState, TrialState


def study_text(state: StudyState) -> str:
    """A header, a line a trial, and what came of it."""
    counts = f"{state.done} of {len(state.trials)} trials" + (f", {state.failed} failed" if state.failed else "")
    counts += f", {state.cut} cut early" if state.cut else ""
    head = f"Study {state.id} ({state.name}): {state.status}, {counts}"
    detail = state.error or state.recommendation or state.message
    lines = [f"  {trial_line(trial, state)}" for trial in state.trials.values()]
    return "\n".join([head, *lines, *([detail] if detail else [])])


def trial_line(trial: TrialState, state: StudyState) -> str:
    """Name and status, or the numbers that matter."""
    metrics = trial.metrics
    if trial.error:
        return f"{trial.name}: {trial.status}: {trial.error['reason']}"
    if metrics.get("metric") is None:
        return f"{trial.name}: {trial.status}"
    factor, unit = (100.0, " %") if state.metric.get("percent") else (1.0, "")
    parts = [f"{state.metric.get('name', 'metric')} {factor * float(metrics['metric'] or 0):.4g}{unit}"]
    if metrics.get("size_bytes"):
        parts.append(f"{float(metrics['size_bytes'] or 0) / 1000:.4g} KB")
    if metrics.get("size_ratio"):
        parts.append(f"{1 / float(metrics['size_ratio'] or 1):.1f}x smaller")
    if metrics.get("latency_ms") is not None:
        parts.append(f"{float(metrics['latency_ms'] or 0):.3g} ms, {float(metrics['speedup'] or 0):.1f}x")
    return f"{trial.name}: {', '.join(parts)}"
