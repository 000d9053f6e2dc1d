"""Summaries of studies, which lists of studies read instead of the events."""

from __future__ import annotations

from ..core.frontier import pareto, recommended_trial
from ..core.records.study import StudyRecord
from ..core.records.summary import Recommended, StudySummary
from ..core.state import StudyState
from ..views import format as fmt

_FRONTIER_POINTS = 24
"""Most frontier points in a summary; more cannot be told apart in the sparkline of a list. Chosen, not tuned."""
_REASON_LENGTH = 200
"""Most characters of a failure's reason in a summary; chosen, not tuned."""

UNREADABLE = "unreadable"
"""Status of a study in lists whose record or events cannot be read."""


def unreadable(study_id: str, reason: str) -> StudySummary:
    """Return the line of a study that cannot be read; nothing in it comes from the study's content."""
    # Names of folders may hold bytes that are no text.
    shown = study_id.encode("utf-8", "backslashreplace").decode()
    return StudySummary(
        id=shown,
        name=shown,
        created=0.0,
        cluster="",
        model="",
        status=UNREADABLE,
        seq=0,
        total=0,
        done=0,
        failed=0,
        cut=0,
        best="",
        ended=None,
        reason=reason.encode("utf-8", "backslashreplace").decode()[:_REASON_LENGTH],
        metric="metric",
        higher_is_better=True,
        minimize="size",
        recommended=None,
        frontier=(),
    )


def summary_of(record: StudyRecord, state: StudyState) -> StudySummary:
    """Return the summary of a study, which can be rebuilt from its record and events at any time."""
    sizes = [trial.metrics["size_ratio"] for trial in state.trials.values() if trial.metrics.get("size_ratio")]
    higher = bool(state.metric.get("higher_is_better", True))
    return StudySummary(
        id=record.id,
        name=record.name,
        created=record.created,
        cluster=record.cluster,
        model=record.model["class"],
        status=state.status,
        seq=state.seq,
        total=len(state.trials),
        done=state.done,
        failed=state.failed,
        cut=state.cut,
        best=state.recommendation or fmt.smaller(min(filter(None, sizes), default=None)),
        ended=state.ended,
        reason=(state.error or state.message)[:_REASON_LENGTH],
        metric=state.metric.get("name", "metric"),
        higher_is_better=higher,
        minimize=state.goal.get("minimize", "size"),
        recommended=_recommended(state),
        frontier=_frontier(state, higher),
    )


def _recommended(state: StudyState) -> Recommended | None:
    """Return the best trial under the goal so far, or None if only the baseline meets it."""
    best = recommended_trial(state)
    return Recommended(best.name, best.metrics.get("size_ratio"), best.metrics.get("speedup")) if best else None


def _frontier(state: StudyState, higher_is_better: bool) -> tuple[tuple[float, float], ...]:
    """Return size and metric of the trials on the Pareto frontier; of many, an even selection with both ends."""
    trials = pareto(state.trials.values(), higher_is_better=higher_is_better)
    if len(trials) > _FRONTIER_POINTS:
        step = (len(trials) - 1) / (_FRONTIER_POINTS - 1)
        trials = [trials[round(index * step)] for index in range(_FRONTIER_POINTS)]
    return tuple((float(trial.metrics["size_bytes"] or 0), float(trial.metrics["metric"] or 0)) for trial in trials)
