"""Summary of a study, which lists of studies read instead of the events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Recommended:
    """The best trial under the goal: its name and its ratios to the baseline."""

    trial: str
    size_ratio: float | None
    speedup: float | None


@dataclass(frozen=True)
class StudySummary:
    """A study as lists show it: ``summary.json``.

    Attributes:
        id: Its id.
        name: Its name.
        created: When it was submitted, in seconds since the epoch.
        cluster: Name of its cluster.
        model: Class name of its model.
        status: Its status when the summary was written; lease and queue may say otherwise since.
        seq: Number of the last event that the summary knows.
        total: Number of trials.
        done: Number of trials that finished.
        failed: Number of trials that failed.
        cut: Number of trials that a search stopped early.
        best: The recommendation, or how much smaller the smallest trial is.
        ended: When it ended, in seconds since the epoch; None before.
        reason: Why it failed, or what it waits for.
        metric: Name of the metric.
        higher_is_better: Direction of the metric.
        minimize: What the goal minimizes, ``size`` or ``latency``.
        recommended: The best trial under the goal; None if only the baseline meets it.
        frontier: Size in bytes and metric of trials on the Pareto frontier, by size.
    """

    id: str
    name: str
    created: float
    cluster: str
    model: str
    status: str
    seq: int
    total: int
    done: int
    failed: int
    cut: int
    best: str
    ended: float | None
    reason: str
    metric: str
    higher_is_better: bool
    minimize: str
    recommended: Recommended | None
    frontier: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> StudySummary:
        """Return the summary that ``summary.json`` holds.

        Raises:
            KeyError: The JSON lacks a key.
        """
        metric, best = stored["metric"], stored["recommended"]
        return cls(
            id=stored["id"],
            name=stored["name"],
            created=stored["created"],
            cluster=stored["cluster"],
            model=stored["model"],
            status=stored["status"],
            seq=stored["seq"],
            total=stored["total"],
            done=stored["done"],
            failed=stored["failed"],
            cut=stored["cut"],
            best=stored["best"],
            ended=stored["ended"],
            reason=stored["reason"],
            metric=metric["name"],
            higher_is_better=metric["higher_is_better"],
            minimize=stored["minimize"],
            recommended=Recommended(best["trial"], best["size_ratio"], best["speedup"]) if best else None,
            frontier=tuple((size, value) for size, value in stored["frontier"]),
        )

    def stored(self) -> dict[str, Any]:
        """Return the summary as JSON for ``summary.json``."""
        return {
            "id": self.id,
            "name": self.name,
            "created": self.created,
            "cluster": self.cluster,
            "model": self.model,
            "status": self.status,
            "seq": self.seq,
            "total": self.total,
            "done": self.done,
            "failed": self.failed,
            "cut": self.cut,
            "best": self.best,
            "ended": self.ended,
            "reason": self.reason,
            "metric": {"name": self.metric, "higher_is_better": self.higher_is_better},
            "minimize": self.minimize,
            "recommended": asdict(self.recommended) if self.recommended else None,
            "frontier": [list(point) for point in self.frontier],
        }
