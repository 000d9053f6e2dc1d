"""Lines of the panel's list of studies, made from summaries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..core.records.summary import StudySummary
from ..core.state import ENDED
from ..study_store.records import is_id
from ..study_store.summaries import UNREADABLE
from ..views import format as fmt


def line(store: str, summary: StudySummary, now: float) -> dict[str, Any]:
    """Return a line of the list."""
    status, total = summary.status, summary.total
    over = summary.done + summary.failed + summary.cut
    return {
        "store": store,
        "id": summary.id,
        "name": summary.name,
        "model": summary.model,
        "cluster": summary.cluster,
        "status": status,
        "progress": 1.0 if status == "finished" else over / total if total else 0.0,
        "words": _words(summary, now),
        "best": _best(summary),
        "frontier": square(summary.frontier, summary.higher_is_better),
        "can": {**actions(status), "delete": actions(status)["delete"] and is_id(summary.id)},
    }


def actions(status: str) -> dict[str, bool]:
    """Return the actions that a study's status allows."""
    return {
        "cancel": status in ("queued", "running"),
        "resume": status in ("interrupted", "cancelled", "failed"),
        "delete": status != "running",
    }


def square(frontier: Sequence[Sequence[float]], higher_is_better: bool) -> list[tuple[float, float]]:
    """Scale sizes (by their logarithm) and metrics into a square of side 1, with the better metric at the top."""
    points = [(math.log(size), metric if higher_is_better else -metric) for size, metric in frontier if size > 0]
    if not points:
        return []
    places = [_spread([point[axis] for point in points]) for axis in (0, 1)]
    return list(zip(*places, strict=True))


def _spread(values: list[float]) -> list[float]:
    low, high = min(values), max(values)
    return [round((value - low) / (high - low), 3) if high > low else 0.5 for value in values]


def _words(summary: StudySummary, now: float) -> str:
    status, total = summary.status, summary.total
    if status == UNREADABLE:
        return summary.reason
    if status == "queued":
        return "waiting for an engine"
    if status in ENDED:
        told = f"{status} {fmt.ago(now - summary.ended)}" if summary.ended else status
        reason = summary.reason if status == "failed" else ""
        return f"{told}: {reason}" if reason else told
    counts = [f"{summary.done} of {total} trials" if total else "starting"]
    counts += [f"{summary.failed} failed"] if summary.failed else []
    return ", ".join([*(["interrupted"] if status == "interrupted" else []), *counts])


def _best(summary: StudySummary) -> str:
    best = summary.recommended
    if best is None:
        return ""
    smaller, faster = fmt.smaller(best.size_ratio), fmt.faster(best.speedup)
    return (faster or smaller) if summary.minimize == "latency" else smaller
