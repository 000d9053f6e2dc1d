"""Summary of a study in one sentence."""

from __future__ import annotations

from ..core.frontier import is_uncertain, recommended_trial
from ..core.state import StudyState
from . import format as fmt
from .scene import is_percent, max_drop, shown


def summary(state: StudyState) -> str:
    """Return a sentence such as ``best at -1 point: prune70-int8, 10.7x smaller, 3.1x faster``."""
    allowed = max_drop(state)
    if not shown(state) or allowed is None:
        return {
            "queued": state.message or "waiting for an engine",
            "running": "no trial measured yet",
        }.get(state.status, f"{state.status}, no trial measured")
    limit = fmt.allowance(allowed, is_percent(state))
    best = recommended_trial(state)
    if best is None:
        so_far = " so far" if state.status in ("queued", "running") else ""
        return f"nothing beats the baseline at -{limit}{so_far}"
    parts = [
        best.name,
        fmt.smaller(best.metrics.get("size_ratio")),
        fmt.faster(best.metrics.get("speedup")),
        "uncertain" if is_uncertain(best, allowed) else "",
    ]
    return f"best at -{limit}: {', '.join(part for part in parts if part)}"
