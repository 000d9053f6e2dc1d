"""Live chart, which draws a scene with bqplot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import bqplot
import numpy as np

from ..core.catalogue import MARKERS, UNKNOWN_COLOR
from ..views.scene import Point, Scene, steps

FG, DIM, EDGE, ACCENT = "var(--qt-fg)", "var(--qt-dim)", "var(--qt-edge)", "var(--qt-accent)"

# bqplot has no dashed outline and no class on a mark. The style sheet finds a mark by its inline stroke width.
WIDTH, WIDTH_UNCERTAIN, WIDTH_HOLLOW = 0.75, 1.51, 1.49
FADE_MS = 250
"""Milliseconds in which a new point appears; chosen, not tuned."""

_Key = tuple[str, bool]


class Chart:
    """Chart of scenes; it calls ``on_select`` with the clicked trial, or with None for the background."""

    def __init__(self, on_select: Callable[[str | None], None]) -> None:
        self._on_select = on_select
        self._drawing = False
        self._names: dict[_Key, list[str]] = {}
        self._x, self._y = bqplot.LinearScale(min=0.0, max=1.0), bqplot.LinearScale(min=0.0, max=1.0)
        self._scales = {"x": self._x, "y": self._y}
        self._x_axis = bqplot.Axis(scale=self._x, grid_lines="none", num_ticks=6)
        self._y_axis = bqplot.Axis(scale=self._y, orientation="vertical", grid_lines="solid", num_ticks=6)
        self._baseline = self._line(color=DIM, width=1.0, line_style="dotted")
        self._goal = self._line(color=ACCENT, width=1.0, line_style="dashed")
        self._frontier = self._line(color=EDGE, width=1.75)
        self._bars = bqplot.Lines(
            x=np.zeros((1, 2)),
            y=np.zeros((1, 2)),
            scales=self._scales,
            stroke_width=1.25,
            opacities=[0.6],
            visible=False,
        )
        self._preview = self._hollow()
        self._marks: dict[_Key, bqplot.Scatter] = {
            (shape, uncertain): self._scatter(shape, uncertain) for uncertain in (False, True) for shape in MARKERS
        }
        self._baseline_label, self._goal_label = self._label(DIM), self._label(ACCENT)
        self._preview_label = self._label(DIM, x_offset=10, y_offset=4)
        levels = [self._baseline, self._goal, self._frontier, self._bars, self._preview]
        labels = [self._baseline_label, self._goal_label, self._preview_label]
        self.figure = bqplot.Figure(
            marks=[*levels, *labels, *self._marks.values()],
            axes=[self._x_axis, self._y_axis],
            scale_x=self._x,
            scale_y=self._y,
            fig_margin={"top": 10, "bottom": 26, "left": 46, "right": 16},
            padding_x=0,
            padding_y=0,
            animation_duration=FADE_MS,
            display_toolbar=False,
            layout={"width": "100%", "height": "300px", "min_width": "0"},
        )

    def draw(self, scene: Scene, selected: str | None) -> None:
        """Draw a scene, with a ring around the selected trial."""
        self._drawing = True
        try:
            self._draw_axes(scene)
            self._draw_levels(scene)
            self._draw_points(scene, selected)
        finally:
            self._drawing = False

    def close(self) -> None:
        """Close all widgets, which frees their counterparts in the browser."""
        parts = [self._x, self._y, self._x_axis, self._y_axis, *self.figure.marks, self.figure]
        parts += [mark.tooltip for mark in self.figure.marks if mark.tooltip is not None]
        for part in parts:
            part.close()

    def _draw_axes(self, scene: Scene) -> None:
        _set(self._x, min=float(scene.view.x[0]), max=float(scene.view.x[1]))
        _set(self._y, min=float(scene.view.y[0]), max=float(scene.view.y[1]))
        for axis in (self._x_axis, self._y_axis):
            _set(axis, visible=not scene.is_empty)
        for axis, ticks in ((self._x_axis, scene.x_ticks), (self._y_axis, scene.y_ticks)):
            labels = {_as_in_javascript(tick): label for tick, label in ticks.items()}
            values = np.array(list(ticks), dtype=float)
            if _same(axis.tick_values, values) and axis.tick_labels == labels:
                continue
            # bqplot draws new ticks with its old labels. So the new labels are sent first, in a separate message,
            # together with those of the ticks that are still visible.
            axis.tick_labels = {**(axis.tick_labels or {}), **labels}
            axis.tick_values = values
            axis.tick_labels = labels

    def _draw_levels(self, scene: Scene) -> None:
        left, right = scene.view.x
        sign = -1 if scene.higher_is_better else 1
        for line, label, level, words, side in (
            (self._baseline, self._baseline_label, scene.baseline, scene.baseline_label, sign),
            (self._goal, self._goal_label, scene.goal, scene.goal_label, -sign),
        ):
            if level is None:
                _set(line, visible=False)
                _set(label, visible=False)
                continue
            _set(line, x=np.array([left, right]), y=np.array([level, level]), visible=True)
            offset = -5 if side < 0 else 14
            _set(label, x=np.array([left]), y=np.array([level]), text=np.array([words]), y_offset=offset, visible=True)
        xs, ys = steps(scene.frontier, right)
        _set(self._frontier, x=np.array(xs or [left]), y=np.array(ys or [0.0]), visible=len(scene.frontier) > 1)

    def _draw_points(self, scene: Scene, selected: str | None) -> None:
        barred = [point for point in scene.points if point.low is not None and point.high is not None]
        if barred:
            _set(
                self._bars,
                x=np.array([[point.x, point.x] for point in barred]),
                y=np.array([[point.low, point.high] for point in barred], dtype=float),
                colors=[point.color for point in barred],
                visible=True,
            )
        else:
            _set(self._bars, visible=False)
        points: dict[_Key, list[Point]] = {}
        for point in scene.points:
            points.setdefault((point.marker, point.uncertain), []).append(point)
        for key, mark in self._marks.items():
            self._draw_mark(key, mark, points.get(key, []), selected)
        preview = [scene.preview] if scene.preview else []
        _set(
            self._preview,
            x=np.array([x for x, _ in preview]),
            y=np.array([y for _, y in preview]),
            names=np.array(["the model in eager PyTorch: no file, no runtime"] * len(preview)),
        )
        alone = bool(preview) and not scene.points
        x, y = scene.preview or (0.0, 0.0)
        _set(self._preview_label, x=np.array([x]), y=np.array([y]), text=np.array([scene.preview_label]), visible=alone)

    def _draw_mark(self, key: _Key, mark: Any, points: Sequence[Point], selected: str | None) -> None:
        # bqplot identifies an element by its index: a point keeps its index, so that only new ones fade in.
        by_name = {point.name: point for point in points}
        known = [name for name in self._names.get(key, []) if name in by_name]
        names = known + [name for name in by_name if name not in known]
        self._names[key] = names
        ordered = [by_name[name] for name in names]
        _set(
            mark,
            x=np.array([point.x for point in ordered], dtype=float),
            y=np.array([point.y for point in ordered], dtype=float),
            colors=[point.color for point in ordered] or [UNKNOWN_COLOR],
            names=np.array([point.tooltip for point in ordered]),
            selected=np.array([names.index(selected)]) if selected in names else None,
        )

    def _clicked(self, key: _Key, change: Any) -> None:
        if self._drawing:
            return
        chosen, names = change["new"], self._names.get(key, [])
        if chosen is None or len(chosen) == 0:
            # Each mark reports a click on the background, but only the one with the selection had an old value.
            if change["old"] is not None and len(change["old"]):
                self._on_select(None)
        elif int(chosen[-1]) < len(names):
            self._on_select(names[int(chosen[-1])])

    def _scatter(self, shape: str, uncertain: bool) -> bqplot.Scatter:
        mark = bqplot.Scatter(
            x=np.array([]),
            y=np.array([]),
            scales=self._scales,
            marker=shape,
            default_size=70 if shape == "diamond" else 80,
            stroke=FG if uncertain else EDGE,
            stroke_width=WIDTH_UNCERTAIN if uncertain else WIDTH,
            display_names=False,
            interactions={"click": "select", "hover": "tooltip"},
            selected_style={"stroke": FG, "stroke-width": "5.5", "paint-order": "stroke"},
            tooltip=bqplot.Tooltip(fields=["name"], show_labels=False),
            tooltip_style={"opacity": 1},
        )
        mark.observe(lambda change: self._clicked((shape, uncertain), change), "selected")
        return mark

    def _hollow(self) -> bqplot.Scatter:
        return bqplot.Scatter(
            x=np.array([]),
            y=np.array([]),
            scales=self._scales,
            default_size=80,
            colors=[DIM],
            fill=False,
            stroke=DIM,
            stroke_width=WIDTH_HOLLOW,
            display_names=False,
            interactions={"hover": "tooltip"},
            tooltip=bqplot.Tooltip(fields=["name"], show_labels=False),
            tooltip_style={"opacity": 1},
        )

    def _line(self, color: str, width: float, line_style: str = "solid") -> bqplot.Lines:
        return bqplot.Lines(
            x=np.array([0.0]),
            y=np.array([0.0]),
            scales=self._scales,
            colors=[color],
            stroke_width=width,
            line_style=line_style,
            interactions={},
            visible=False,
        )

    def _label(self, color: str, x_offset: int = 6, y_offset: int = 0) -> bqplot.Label:
        return bqplot.Label(
            x=np.array([0.0]),
            y=np.array([0.0]),
            text=np.array([""]),
            scales=self._scales,
            colors=[color],
            default_size=11,
            font_weight="normal",
            x_offset=x_offset,
            y_offset=y_offset,
            interactions={},
            visible=False,
        )


def _set(widget: Any, **values: Any) -> None:
    changed = {name: value for name, value in values.items() if not _same(getattr(widget, name), value)}
    if changed:
        with widget.hold_sync():
            for name, value in changed.items():
                setattr(widget, name, value)


def _same(old: Any, new: Any) -> bool:
    if isinstance(old, np.ndarray) or isinstance(new, np.ndarray):
        return old is not None and new is not None and np.array_equal(np.asarray(old), np.asarray(new))
    return bool(old == new)


def _as_in_javascript(number: float) -> str:
    """Return a number as JavaScript writes it, because bqplot looks labels up by that text."""
    return str(np.format_float_positional(number + 0.0, trim="-"))
