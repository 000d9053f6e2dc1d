"""Convergence of a search: whether the frontier still moves."""

from __future__ import annotations

from collections.abc import Sequence

from ...core.recipe import Goal
from . import Outcome

_WINDOW = 8
"""Trials that must have brought no gain; chosen, not tuned. A larger window ends searches later."""
_FEWEST = 12
"""Trials before which no search ends; chosen, not tuned."""
_GAIN = 0.01
"""Relative gain in hypervolume that counts as movement; chosen, not tuned. A larger one ends searches earlier."""
_WORST_DROP = 0.10
"""Drop of the hypervolume's reference point, in the metric's unit; chosen, not tuned. Larger drops do not count."""


def has_converged(known: Sequence[Outcome], goal: Goal) -> bool:
    """Return whether the last trials moved neither the frontier nor the best trial that meets the goal.

    Args:
        known: Outcomes in the order of their proposal.
        goal: The goal of the study.
    """
    if len(known) < _FEWEST:
        return False
    before, now = known[:-_WINDOW], known
    gain = hypervolume(_points(now, goal)) / max(hypervolume(_points(before, goal)), 1e-9) - 1
    return gain < _GAIN and _best(now, goal) > _best(before, goal) * (1 - 3 * _GAIN)


def hypervolume(points: Sequence[tuple[float, float]], reference: tuple[float, float] = (1.0, _WORST_DROP)) -> float:
    """Return the area that points (cost, drop; smaller is better) dominate, up to a reference point."""
    area, floor = 0.0, reference[1]
    for cost, drop in sorted(set(points)):
        if cost < reference[0] and drop < floor:
            area += (reference[0] - cost) * (floor - drop)
            floor = drop
    return area


def cost_of(outcome: Outcome, goal: Goal) -> float | None:
    """Return the size or latency that the goal minimizes, relative to the baseline."""
    return outcome.size_ratio if goal.minimize == "size" else outcome.latency_ratio


def _points(outcomes: Sequence[Outcome], goal: Goal) -> list[tuple[float, float]]:
    pairs = [(cost_of(outcome, goal), outcome.cautious_drop) for outcome in outcomes if not outcome.is_lost]
    return [(cost, drop) for cost, drop in pairs if cost is not None and drop is not None]


def _best(outcomes: Sequence[Outcome], goal: Goal) -> float:
    return min((cost for cost, drop in _points(outcomes, goal) if drop <= goal.max_drop), default=1.0)
