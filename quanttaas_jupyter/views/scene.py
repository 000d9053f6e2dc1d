"""Scene of a study's chart in plain numbers, which the live and the still chart draw alike."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import NamedTuple

from ..core.frontier import AXES, is_uncertain, pareto
from ..core.state import StudyState, TrialState
from . import format as fmt

Range = tuple[float, float]

# Multiples of a power of ten that may carry a tick on a logarithmic axis, the densest first.
_LOG_STEPS = ((1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8), (1, 1.5, 2, 3, 4, 6), (1, 1.5, 2, 3, 5), (1, 2, 5), (1, 3), (1,))
LEAST_GAP = 0.115
"""Least distance of two ticks as a share of the axis: a label such as "200 KB" needs it on a narrow chart."""


@dataclass(frozen=True)
class Point:
    """One trial in a chart; ``low`` and ``high`` are the ends of its interval, if known."""

    name: str
    x: float
    y: float
    low: float | None
    high: float | None
    color: str
    marker: str
    uncertain: bool
    tooltip: str


@dataclass(frozen=True)
class View:
    """Visible part of the plane."""

    x: Range
    y: Range

    def holds(self, point: Point) -> bool:
        """Return whether a point lies inside."""
        (left, right), (bottom, top) = self.x, self.y
        return left <= point.x <= right and bottom <= point.y <= top


@dataclass(frozen=True)
class Scene:
    """Chart in plot coordinates; on a logarithmic axis, x is the decimal logarithm."""

    axis: str
    points: tuple[Point, ...]
    frontier: tuple[tuple[float, float], ...]
    preview: tuple[float, float] | None
    preview_label: str
    baseline: float | None
    baseline_label: str
    goal: float | None
    goal_label: str
    view: View
    x_ticks: dict[float, str]
    y_ticks: dict[float, str]
    x_label: str
    y_label: str
    better: str
    higher_is_better: bool

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to draw, and therefore no scale."""
        return not self.points and self.preview is None

    @property
    def outside(self) -> int:
        """Number of points outside of the view."""
        return sum(not self.view.holds(point) for point in self.points)


def shown(state: StudyState) -> list[TrialState]:
    """Return the trials with an evaluated metric, in the order of the plan."""
    return [t for t in state.trials.values() if t.status != "failed" and t.metrics.get("metric") is not None]


def baseline_of(state: StudyState) -> TrialState | None:
    """Return the first baseline that is evaluated, or None."""
    return next((trial for trial in shown(state) if trial.is_baseline), None)


def runtimes(state: StudyState) -> list[str]:
    """Return the runtimes that a study compares, in the order of the plan."""
    return list(dict.fromkeys(trial.config.runtime for trial in state.trials.values()))


def max_drop(state: StudyState) -> float | None:
    """Return the drop that the goal allows, or None if the study has no goal yet."""
    allowed = state.goal.get("max_drop")
    return None if allowed is None else float(allowed)


def is_percent(state: StudyState) -> bool:
    """Return whether the metric is shown as a percentage."""
    return bool(state.metric.get("percent"))


def tooltip(state: StudyState, trial: TrialState) -> str:
    """Return the text of a trial's tooltip, one fact per line."""
    metrics, percent = trial.metrics, is_percent(state)
    low, high = metrics.get("metric_low"), metrics.get("metric_high")
    metric = f"{state.metric.get('name', 'metric')} {fmt.value(metrics.get('metric'), percent, low, high)}"
    ends = fmt.interval(low, high, percent)
    lines = [trial.name, f"{metric} ({ends})" if ends else metric]
    if metrics.get("drop") is not None and not trial.is_baseline:
        ends = fmt.drop_interval(metrics.get("drop_low"), metrics.get("drop_high"), percent)
        lost = f"drop {fmt.drop(metrics['drop'], percent, metrics.get('drop_low'), metrics.get('drop_high'))}"
        lines.append(f"{lost} ({ends})" if ends else lost)
    lines.append(_joined(fmt.size(metrics.get("size_bytes")), fmt.smaller(metrics.get("size_ratio")), trial))
    if metrics.get("latency_ms") is not None:
        lines.append(_joined(fmt.latency(metrics["latency_ms"]), fmt.faster(metrics.get("speedup")), trial))
    else:
        lines.append("latency not measured yet" if trial.status == "measured" else "latency not measured")
    if trial.is_partial:
        lines.append(fmt.pending(metrics.get("samples"), trial.of_samples))
    allowed = max_drop(state)
    if allowed is not None and is_uncertain(trial, allowed):
        lines.append("uncertain: the interval crosses the goal")
    return "\n".join(lines)


class _Look(NamedTuple):
    """All that a point depends on beside its trial."""

    key: str
    log: bool
    percent: bool
    allowed: float | None
    metric: str
    compared: tuple[str, ...]


_drawn: dict[int, tuple[weakref.ref[TrialState], dict[_Look, Point]]] = {}
"""Points of trials by the identity of their state, which another event of the study leaves as it is."""


def _point(state: StudyState, trial: TrialState, look: _Look) -> Point:
    """Return the point of a trial; one that was drawn before and has not changed is not made again."""
    identity = id(trial)
    known = _drawn.get(identity)
    if known is None or known[0]() is not trial:
        known = _drawn[identity] = weakref.ref(trial, lambda _: _drawn.pop(identity, None)), {}
    if look not in known[1]:
        scale, metrics = (100.0 if look.percent else 1.0), trial.metrics
        known[1][look] = Point(
            name=trial.name,
            x=_place(metrics[look.key] or 0, look.log),
            y=scale * float(metrics["metric"] or 0),
            low=_scaled(metrics.get("metric_low"), scale),
            high=_scaled(metrics.get("metric_high"), scale),
            color=fmt.color(trial.config),
            marker=fmt.marker(trial.config, look.compared),
            uncertain=look.allowed is not None and is_uncertain(trial, look.allowed),
            tooltip=tooltip(state, trial),
        )
    return known[1][look]


def _place(number: float, log: bool) -> float:
    return math.log10(number) if log else float(number)


def compose(state: StudyState, axis: str = "size", log: bool = True, view: View | None = None) -> Scene:
    """Return the scene of a study.

    Args:
        state: The study.
        axis: ``size`` or ``latency``.
        log: Whether the horizontal axis is logarithmic.
        view: The visible part; None for one that contains all points.
    """
    key, percent = AXES[axis], is_percent(state)
    higher, name = bool(state.metric.get("higher_is_better", True)), str(state.metric.get("name", "metric"))
    scale, allowed = (100.0 if percent else 1.0), max_drop(state)

    # Once for all points: a study may have thousands.
    compared = runtimes(state)
    drawn = [trial for trial in shown(state) if (trial.metrics.get(key) or 0) > 0]
    look = _Look(key, log, percent, allowed, name, tuple(compared))
    points = tuple(_point(state, trial, look) for trial in drawn)
    places = {point.name: (point.x, point.y) for point in points}
    best = pareto(drawn, x=axis, y="metric", higher_is_better=higher)
    preview = None
    if axis == "size" and state.preview.get("metric") is not None and state.preview.get("size_bytes"):
        preview = (_place(state.preview["size_bytes"] or 0, log), scale * float(state.preview["metric"] or 0))
    first = baseline_of(state)
    reference = first.metrics["metric"] if first else state.preview.get("metric")
    baseline = _scaled(reference, scale)
    goal = None
    if baseline is not None and allowed is not None:
        goal = baseline - scale * allowed * (1 if higher else -1)
    if view is None:
        view = _fit(points, preview, baseline, goal, log)
    unit = partial(fmt.size if axis == "size" else fmt.latency, trim=True)
    return Scene(
        axis=axis,
        points=points,
        frontier=tuple(places[trial.name] for trial in best),
        preview=preview,
        baseline=baseline,
        baseline_label=f"baseline {fmt.value(reference, percent)}" if first else "",
        preview_label=_preview_label(state, percent),
        goal=goal,
        goal_label=f"goal: at most {fmt.allowance(allowed or 0.0, percent)} lost",
        view=view,
        x_ticks=_log_ticks(view.x, unit) if log else {tick: unit(tick) for tick in _linear_ticks(view.x)},
        y_ticks=_plain(_linear_ticks(view.y)),
        x_label=f"{'file size' if axis == 'size' else 'latency'}{', log scale' if log else ''}",
        y_label=f"{name}, %" if percent else name,
        better=fmt.better(higher),
        higher_is_better=higher,
    )


def steps(frontier: Sequence[tuple[float, float]], right: float) -> tuple[list[float], list[float]]:
    """Return the frontier as a staircase up to the right edge: the best metric at each size or latency."""
    xs: list[float] = []
    ys: list[float] = []
    for x, y in frontier:
        if ys:
            xs.append(x)
            ys.append(ys[-1])
        xs.append(x)
        ys.append(y)
    if xs:
        xs.append(max(right, xs[-1]))
        ys.append(ys[-1])
    return xs, ys


def _joined(number: str, comparison: str, trial: TrialState) -> str:
    return f"{number}, {comparison}" if comparison and not trial.is_baseline else number


def _scaled(number: float | None, scale: float) -> float | None:
    return None if number is None else scale * number


def _preview_label(state: StudyState, percent: bool) -> str:
    of_samples = state.preview.get("of_samples")
    part = f", {fmt.count(state.preview.get('samples'))} of {fmt.count(of_samples)} samples" if of_samples else ""
    return f"eager PyTorch {fmt.value(state.preview.get('metric'), percent)}{part}"


def _fit(
    points: Sequence[Point],
    preview: tuple[float, float] | None,
    baseline: float | None,
    goal: float | None,
    log: bool,
) -> View:
    xs = [point.x for point in points]
    ys = [end for point in points for end in (point.y, point.low, point.high) if end is not None]
    if preview:
        xs.append(preview[0])
        ys.append(preview[1])
    ys += [level for level in (baseline, goal) if level is not None]
    if not xs:
        xs = [5.0, 6.0] if log else [0.0, 1e6]
    if not ys:
        ys = [0.0, 1.0]
    return View(
        x=_padded(xs, 0.07, at_least=0.3) if log else (0.0, 1.07 * max(xs)),
        y=_padded(ys, 0.08, at_least=0.02 * max(1e-09, *(abs(y) for y in ys))),
    )


def _padded(values: Iterable[float], share: float, at_least: float) -> Range:
    known = list(values)
    low, high = min(known), max(known)
    if high - low < at_least:
        middle = (low + high) / 2
        low, high = middle - at_least / 2, middle + at_least / 2
    pad = share * (high - low)
    return low - pad, high + pad


def _linear_ticks(limits: Range) -> list[float]:
    low, high = limits
    rough = (high - low) / 5
    if rough <= 0 or not math.isfinite(rough):
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((s * power for s in (1, 2, 5, 10) if s * power >= rough), 10 * power)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    # Rounding avoids labels such as 0.30000000000000004 for 0.1 + 0.2.
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def _log_ticks(limits: Range, unit: Callable[[float], str]) -> dict[float, str]:
    low, high = limits
    decades = range(math.floor(low), math.ceil(high) + 1)
    ticks: list[float] = []
    for multiples in _LOG_STEPS:
        ticks = [m * 10.0**d for d in decades for m in multiples if low <= math.log10(m * 10.0**d) <= high]
        places = [math.log10(tick) for tick in ticks]
        if all(b - a >= LEAST_GAP * (high - low) for a, b in pairwise(places)):
            break
    return {math.log10(tick): unit(tick) for tick in ticks}


def _plain(ticks: Sequence[float]) -> dict[float, str]:
    step = min((b - a for a, b in pairwise(ticks)), default=1.0)
    places = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 0
    return {tick: f"{tick:.{places}f}".replace("-", fmt.MINUS) for tick in ticks}
