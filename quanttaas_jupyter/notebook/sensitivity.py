"""Bar chart of the layers that suffer most from pruning or quantization."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..core.state import StudyState
from .still_view import INK

_MOST = 30
"""Layers in one panel; chosen, not tuned: more labels would not be legible."""
_BAR = "#0072B2"
_SECOND = "#E69F00"
_COLORS = {"prune": _BAR, "quantize": _SECOND}


def sensitivity_figure(state: StudyState) -> Figure:
    """Return a bar chart with one panel per ranking: short bars are sensitive layers.

    A bar is the SQNR of the outputs in dB when one layer alone is changed.

    Args:
        state: A study that ranked layers.
    """
    rankings = state.sensitivity
    rows = min(_MOST, max(len(ranking) for ranking in rankings.values()))
    picture = Figure(figsize=(4.6 * len(rankings), 0.9 + 0.19 * rows), dpi=110, layout="constrained")
    FigureCanvasAgg(picture)
    picture.patch.set_alpha(0)
    panels = picture.subplots(1, len(rankings), squeeze=False)[0]
    for axes, (of, ranking) in zip(panels, sorted(rankings.items()), strict=True):
        _draw(axes, of, ranking)
    return picture


def _draw(axes: Axes, of: str, ranking: Sequence[tuple[str, float]]) -> None:
    shown = list(ranking[:_MOST])
    what, _, runtime = of.partition("@")
    done = "pruned by half" if what == "prune" else f"int8{f' on {runtime}' if runtime else ''}"
    axes.patch.set_alpha(0)
    axes.barh(range(len(shown)), [decibels for _, decibels in shown], color=_COLORS.get(what, _BAR), height=0.7)
    axes.set_yticks(range(len(shown)), [layer.replace("$", r"\$") for layer, _ in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.tick_params(colors=INK, labelsize=7.5, length=0)
    axes.grid(axis="x", color=INK, alpha=0.22, linewidth=0.7)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "left")
        spine.set_color(INK)
    more = f", the worst {_MOST} of {len(ranking)}" if len(ranking) > _MOST else ""
    axes.set_title(f"one layer {done}{more}", loc="left", color=INK, fontsize=8.5)
    axes.set_xlabel("SQNR of the outputs in dB, less is worse", color=INK, fontsize=8, loc="right")
