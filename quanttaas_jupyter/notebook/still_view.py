"""Still view of a study: a picture, a table and a sentence that outlive the kernel and need no widget."""

from __future__ import annotations

import base64
import io
import threading
import time
import uuid
from html import escape
from typing import Any

from IPython.display import DisplayHandle, display
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..core.frontier import is_uncertain, recommended_trial
from ..core.state import StudyState, TrialState
from ..views import format as fmt
from ..views.legend import shapes
from ..views.scene import Scene, compose, is_percent, max_drop, shown, steps
from ..views.summary import summary

__all__ = ["StillView", "figure", "html", "mimebundle", "summary", "text"]

INK = "#7d7d7d"
"""Grey that is legible on light and dark pages, since the picture is transparent."""
SECONDS_BETWEEN_UPDATES = 2.0
"""Least seconds between two updates of the output; chosen, not tuned. Smaller costs more rendering."""

_MARKERS = {"circle": "o", "square": "s", "diamond": "D", "triangle-up": "^", "triangle-down": "v", "cross": "P"}
_MARKER_SIZE = {"o": 7.5, "s": 7.0, "D": 6.5, "^": 8.0, "v": 8.0, "P": 8.0}
_SIGNS = {"finished": "", "waiting": "waiting", "cancelled": "not measured"}


def figure(state: StudyState, axis: str = "size", log: bool = True) -> Figure:
    """Return the chart as a Matplotlib figure, transparent and legible on light and dark pages.

    Args:
        state: The study.
        axis: ``size`` or ``latency``.
        log: Whether that axis is logarithmic.
    """
    scene = compose(state, axis, log)
    picture = Figure(figsize=(7.2, 4.0), dpi=110, layout="constrained")
    FigureCanvasAgg(picture)
    picture.patch.set_alpha(0)
    axes = picture.add_subplot()
    axes.patch.set_alpha(0)
    _draw_levels(axes, scene)
    _draw_points(axes, scene)
    axes.set_xlim(*scene.view.x)
    axes.set_ylim(*scene.view.y)
    if scene.is_empty:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "nothing measured yet", color=INK, ha="center", transform=axes.transAxes)
        return picture
    axes.set_xticks(list(scene.x_ticks), list(scene.x_ticks.values()))
    axes.set_yticks(list(scene.y_ticks), list(scene.y_ticks.values()))
    axes.tick_params(colors=INK, labelsize=8, length=3, width=0.7)
    axes.grid(axis="y", color=INK, alpha=0.22, linewidth=0.7)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
        spine.set_linewidth(0.7)
    axes.set_axisbelow(True)
    axes.set_xlabel(scene.x_label, color=INK, fontsize=8.5, loc="right")
    axes.set_title(_plain(scene.y_label), loc="left", color=INK, fontsize=8.5)
    axes.set_title(scene.better, loc="right", color=INK, fontsize=8.5, style="italic")
    _draw_legend(axes, state, scene)
    return picture


def png(state: StudyState) -> bytes:
    """Return the chart as a transparent PNG."""
    buffer = io.BytesIO()
    figure(state).savefig(buffer, format="png", transparent=True)
    return buffer.getvalue()


def text(state: StudyState) -> str:
    """Return the study as plain text: a sentence, then a table of its trials."""
    head = f"{state.name or 'study'} ({state.id}, {state.status}): {summary(state)}"
    head = "\n".join(filter(None, [head, state.understanding]))
    if not state.trials:
        return head
    rows = [["trial", str(state.metric.get("name", "metric")), "drop", "size", "", "latency", "", ""]]
    rows += [_cells(state, trial) for trial in state.trials.values()]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:7], widths[1:7], strict=True))]
        lines.append("  ".join([*cells, row[7]]).rstrip())
    return "\n".join([head, "", *lines])


def html(state: StudyState, picture: bytes | None = None) -> str:
    """Return the study as HTML: one line that unfolds to the picture and a table of trials. All text is escaped.

    Args:
        state: The study.
        picture: The chart as PNG; None to draw it.
    """
    # In an untrusted notebook, the sanitizer removes SVG and class names, but keeps pictures in data URIs and plain
    # tables.
    image = base64.b64encode(png(state) if picture is None else picture).decode()
    name = escape(str(state.metric.get("name", "metric")))
    left = "text-align:left"
    head = "".join(
        f'<th style="{left if column in ("trial", "") else "text-align:right"}">{column}</th>'
        for column in ("trial", name, "drop", "size", "", "latency", "", "")
    )
    best = recommended_trial(state)
    body = "".join(_row(state, trial, trial is best) for trial in state.trials.values())
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if body else ""
    understood = f'<p style="margin:4px 0">{escape(state.understanding)}</p>' if state.understanding else ""
    label = f"{escape(state.name or 'study')} · {escape(state.id)} · {escape(state.status)}"
    return (
        f"<details><summary>Still picture and table: {escape(summary(state))}</summary>"
        f'<p style="margin:4px 0">{label}</p>{understood}'
        f'<img alt="{escape(_described(state))}" width="720" src="data:image/png;base64,{image}">'
        f"{table}</details>"
    )


def mimebundle(state: StudyState) -> dict[str, Any]:
    """Return the study for a notebook file: ``text/html``, ``image/png`` (base64) and ``text/plain``."""
    picture = png(state)
    return {
        "text/html": html(state, picture),
        "image/png": base64.b64encode(picture).decode(),
        "text/plain": text(state),
    }


class StillView:
    """Still output of a cell, displayed at construction and updated under one display id.

    ``update`` may be called often and from any thread: it redraws only changes, every two seconds at most, and at once
    when the study ends. Construct it in the main thread.
    """

    def __init__(self, state: StudyState) -> None:
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._pending: StudyState | None = None
        self._shown = _fingerprint(state)
        self._last = time.monotonic()
        self.display_id = f"quanttaas-{uuid.uuid4().hex}"
        self._handle = DisplayHandle(display_id=self.display_id)
        display(mimebundle(state), raw=True, display_id=self.display_id)

    def update(self, state: StudyState) -> None:
        """Show a state, at once or within two seconds."""
        with self._lock:
            if _fingerprint(state) == self._shown:
                self._pending = None
                return
            self._pending = state
            wait = self._last + SECONDS_BETWEEN_UPDATES - time.monotonic()
            if state.has_ended or wait <= 0:
                self._flush()
            elif self._timer is None:
                self._timer = threading.Timer(wait, self._late)
                self._timer.daemon = True
                self._timer.start()

    def _late(self) -> None:
        with self._lock:
            self._timer = None
            if self._pending is not None:
                self._flush()

    def _flush(self) -> None:
        state, self._pending = self._pending, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        assert state is not None
        self._shown, self._last = _fingerprint(state), time.monotonic()
        self._handle.update(mimebundle(state), raw=True)


def _fingerprint(state: StudyState) -> tuple[object, ...]:
    return state.status, state.trials, state.preview, state.recommendation, state.goal, state.metric


def _draw_levels(axes: Any, scene: Scene) -> None:
    left = scene.view.x[0] + 0.01 * (scene.view.x[1] - scene.view.x[0])
    up, down = ("bottom", "top") if scene.higher_is_better else ("top", "bottom")
    for level, label, style, side in (
        (scene.baseline, scene.baseline_label, (0, (1, 2)), up),
        (scene.goal, scene.goal_label, (0, (5, 3)), down),
    ):
        if level is not None:
            axes.axhline(level, color=INK, linewidth=1.0, linestyle=style)
            axes.text(left, level, _plain(label), color=INK, fontsize=8, va=side, ha="left")


def _draw_points(axes: Any, scene: Scene) -> None:
    xs, ys = steps(scene.frontier, scene.view.x[1])
    if xs:
        axes.plot(xs, ys, color=INK, linewidth=1.2, alpha=0.75)
    for point in scene.points:
        if point.name in scene.best and point.low is not None and point.high is not None:
            axes.plot([point.x] * 2, [point.low, point.high], color=point.color, linewidth=1.1, alpha=0.6)
    if scene.preview:
        axes.plot(*scene.preview, "o", ms=7.5, mfc="none", mec=INK, mew=1.3)
    for point in scene.points:
        kind = _MARKERS[point.marker]
        axes.plot(point.x, point.y, kind, ms=_MARKER_SIZE[kind], mfc=point.color, mec="#00000070", mew=0.8)
        if point.uncertain:
            # Matplotlib's markers have no dashed edge, so uncertain ones get a dotted ring.
            axes.scatter([point.x], [point.y], s=150, facecolors="none", edgecolors=INK, linestyles=":", linewidths=1.2)


def _draw_legend(axes: Any, state: StudyState, scene: Scene) -> None:
    quantizations = dict.fromkeys(t.config.quantize for t in shown(state))
    handles = [_handle("o", fmt.color_of(name), fmt.precision(name)) for name in quantizations]
    handles += [_handle(_MARKERS[key.value], INK, key.words) for key in shapes(state)]
    if scene.preview:
        handles.append(Line2D([], [], ls="", marker="o", mfc="none", mec=INK, label="eager PyTorch"))
    if any(point.uncertain for point in scene.points):
        handles.append(
            Line2D([], [], ls="", marker="$\u25cc$", mfc=INK, mec=INK, ms=9, label="uncertain: interval crosses goal")
        )
    if handles:
        axes.figure.legend(
            handles=handles,
            loc="outside lower left",
            ncols=5,
            frameon=False,
            fontsize=8,
            labelcolor=INK,
            handletextpad=0.1,
            columnspacing=1.2,
        )


def _handle(kind: str, color: str, label: str) -> Line2D:
    return Line2D([], [], ls="", marker=kind, ms=6, mfc=color, mec="#00000070", mew=0.7, label=_plain(label))


def _plain(words: str) -> str:
    # Matplotlib reads text between dollar signs as mathematics, and a metric's name may hold them.
    return words.replace("$", r"\$")


def _cells(state: StudyState, trial: TrialState) -> list[str]:
    metrics, percent = trial.metrics, is_percent(state)
    low, high = metrics.get("drop_low"), metrics.get("drop_high")
    measured = metrics.get("metric") is not None and trial.status != "failed"
    if not measured:
        return [trial.name, "", "", "", "", "", "", _remark(state, trial)]
    base = trial.is_baseline
    return [
        trial.name,
        fmt.value(metrics["metric"], percent, metrics.get("metric_low"), metrics.get("metric_high")),
        "" if base else fmt.drop(metrics.get("drop"), percent, low, high),
        fmt.size(metrics.get("size_bytes")),
        "" if base else fmt.smaller(metrics.get("size_ratio")),
        "" if metrics.get("latency_ms") is None else fmt.latency(metrics["latency_ms"]),
        "" if base else fmt.faster(metrics.get("speedup")),
        _remark(state, trial),
    ]


def _remark(state: StudyState, trial: TrialState) -> str:
    if trial.status == "cut":
        return str((trial.error or {}).get("reason", "cut early"))
    if trial.status == "failed":
        error = trial.error or {}
        hint = f"; try: {error['hint']}" if error.get("hint") else ""
        return f"failed: {error.get('reason', 'unknown')}{hint}"
    allowed = max_drop(state)
    remarks = [] if trial.metrics.get("metric") is not None else [_SIGNS.get(trial.status, trial.status)]
    if trial.status == "measured":
        remarks = [fmt.pending(trial.metrics.get("samples"), trial.of_samples)]
    if allowed is not None and is_uncertain(trial, allowed):
        remarks.append("uncertain")
    return "; ".join([remark for remark in remarks if remark] + list(trial.warnings))


def _row(state: StudyState, trial: TrialState, best: bool) -> str:
    cells = _cells(state, trial)
    cells[1] = _with_interval(state, trial, cells[1])
    name = f"<b>{escape(cells[0])}</b>" if best else escape(cells[0])
    numbers = "".join(
        f'<td style="text-align:{"left" if column in (4, 6, 7) else "right"}">{_unbroken(cell, column)}</td>'
        for column, cell in enumerate(cells[1:], start=1)
    )
    return f'<tr><td style="text-align:left">{name}</td>{numbers}</tr>'


def _unbroken(cell: str, column: int) -> str:
    # The sanitizer removes most styles, but not no-break spaces. Remarks may wrap.
    return escape(cell) if column == 7 else escape(cell).replace(" ", "&nbsp;").replace("–", "–&#8288;")


def _with_interval(state: StudyState, trial: TrialState, number: str) -> str:
    ends = fmt.interval(trial.metrics.get("metric_low"), trial.metrics.get("metric_high"), is_percent(state))
    return f"{number} ({ends})" if ends and number else number


def _described(state: StudyState) -> str:
    return f"{state.metric.get('name', 'metric')} against file size, {len(shown(state))} trials; {summary(state)}"
