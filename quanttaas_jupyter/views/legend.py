"""Legend of a study's chart: the colours, markers and marks that occur, with their meaning."""

from __future__ import annotations

from typing import NamedTuple

from ..core.frontier import is_uncertain
from ..core.state import StudyState
from . import format as fmt
from .scene import max_drop, runtimes, shown


class Key(NamedTuple):
    """One entry of a legend; ``kind`` is color, marker, uncertain, preview, frontier or interval."""

    kind: str
    value: str
    words: str


def legend_groups(state: StudyState) -> list[list[Key]]:
    """Return the entries by group: precisions, markers, and marks. A group may be empty.

    Markers stand for runtimes if several are compared, otherwise for prunings.
    """
    trials = shown(state)
    colors = dict.fromkeys(trial.config.quantize for trial in state.trials.values())
    allowed = max_drop(state)
    marks = []
    if allowed is not None and any(is_uncertain(trial, allowed) for trial in trials):
        marks.append(Key("uncertain", "", "uncertain: interval crosses the goal"))
    if state.preview:
        marks.append(Key("preview", "", "eager PyTorch"))
    if trials:
        marks.append(Key("frontier", "", "frontier"))
    if any(trial.metrics.get("metric_low") is not None for trial in trials):
        marks.append(Key("interval", "", "95 % interval"))
    return [
        [Key("color", fmt.color_of(name), fmt.precision(name)) for name in colors],
        shapes(state),
        marks,
    ]


def shapes(state: StudyState) -> list[Key]:
    """Return the entries for the markers of points; an empty list if all are alike."""
    compared = runtimes(state)
    if len(compared) > 1:
        return [Key("marker", fmt.marker_among(compared, name), name) for name in compared]
    methods = dict.fromkeys(fmt.method(trial.config) for trial in state.trials.values())
    known = [Key("marker", fmt.marker_of(name), name or "not pruned") for name in methods]
    return known if any(methods) else []
