"""Page of a study: all data that the panel draws for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import PurePath
from typing import Any

from ..core.file_names import plain_name
from ..core.frontier import recommended_trial
from ..core.state import StudyState, TrialState
from ..views import format as fmt
from ..views import study_heading, trial_card
from ..views.legend import legend_groups
from ..views.scene import Point, Scene, compose, is_percent, runtimes, steps
from .study_list import actions

_STATUS = {"finished": "", "cut": "cut early", "cancelled": "not measured"}


def page(store: str, state: StudyState, axis: str, log: bool) -> dict[str, Any]:
    """Return the page of a study.

    Args:
        store: URI of its store.
        state: The study.
        axis: ``size`` or ``latency``.
        log: Whether that axis is logarithmic.
    """
    best, bar = recommended_trial(state), study_heading.progress(state)
    # Once for all trials: a study may have thousands.
    compared = runtimes(state)
    heading = [f"study {state.id}", str(state.model.get("class", "")), study_heading.place(state)]
    return {
        "store": store,
        "id": state.id,
        "name": state.name,
        "status": state.status,
        "seq": state.seq,
        "heading": " · ".join(filter(None, heading)),
        "understanding": state.understanding,
        "notices": [_notice(notice) for notice in study_heading.notices(state)],
        "progress": {
            "parts": [part._asdict() for part in bar.parts],
            "percent": bar.percent,
            "words": [word.sentence for word in bar.words],
        },
        "chart": {**_chart(compose(state, axis, log), log), "legend": _legend(state)},
        "columns": _columns(state),
        "trials": [_trial(state, trial, trial is best, compared) for trial in state.trials.values()],
        "log": [{"clock": fmt.clock(line.time), "text": line.text, "level": line.level} for line in state.log],
        "notes": [study_heading.capital(note) for note in state.notes],
        "can": actions(state.status),
    }


def file_name(state: StudyState, trial: TrialState) -> str:
    """Return a safe file name for a trial's artifact, or an empty string if it has none."""
    if not trial.artifact:
        return ""
    suffix = PurePath(plain_name(trial.artifact.filename, "")).suffix
    return fmt.filename(state.name or state.id, trial.name, suffix)


def _notice(notice: study_heading.Notice) -> dict[str, str]:
    return {"kind": notice.kind, "text": notice.sentence}


def _legend(state: StudyState) -> list[dict[str, str]]:
    return [key._asdict() for group in legend_groups(state) for key in group]


def _chart(scene: Scene, log: bool) -> dict[str, Any]:
    xs, ys = steps(scene.frontier, scene.view.x[1])
    return {
        "axis": scene.axis,
        "log": log,
        "points": [_point(point) for point in scene.points],
        "stairs": list(zip(xs, ys, strict=True)),
        "preview": scene.preview,
        "preview_label": scene.preview_label,
        "baseline": scene.baseline,
        "baseline_label": scene.baseline_label,
        "goal": scene.goal,
        "goal_label": scene.goal_label,
        "x_range": scene.view.x,
        "y_range": scene.view.y,
        "x_ticks": list(scene.x_ticks.items()),
        "y_ticks": list(scene.y_ticks.items()),
        "x_label": scene.x_label,
        "y_label": scene.y_label,
        "better": scene.better,
        "is_empty": scene.is_empty,
    }


def _point(point: Point) -> dict[str, Any]:
    values = asdict(point)
    return {"facts": values.pop("tooltip"), **values}


def _columns(state: StudyState) -> list[dict[str, Any]]:
    titles = {
        "trial": "trial",
        "metric": str(state.metric.get("name", "metric")),
        "drop": "drop",
        "size": "size",
        "latency": "latency",
        "remark": "",
    }
    return [{"key": key, "title": title, "is_number": key not in ("trial", "remark")} for key, title in titles.items()]


def _trial(state: StudyState, trial: TrialState, is_recommended: bool, compared: Sequence[str]) -> dict[str, Any]:
    return {
        "name": trial.name,
        "status": trial.status,
        "runtime": trial.config.runtime,
        "precision": fmt.precision(trial.config.quantize),
        "color": fmt.color(trial.config),
        "marker": fmt.marker(trial.config, compared),
        "words": fmt.configuration(trial.config),
        "is_recommended": is_recommended,
        "cells": _cells(state, trial),
        "facts": trial_card.numbers(state, trial),
        "remarks": [_notice(notice) for notice in trial_card.remarks(state, trial)],
        "error": " ".join(filter(None, trial_card.reason(trial))) if trial.error else "",
        "file": file_name(state, trial),
    }


def _cells(state: StudyState, trial: TrialState) -> dict[str, dict[str, Any]]:
    cells = {"trial": _cell(trial.name, sort=trial.name), "remark": _remark(state, trial)}
    metrics, percent = trial.metrics, is_percent(state)
    if metrics.get("metric") is None:
        return cells
    low, high = metrics.get("metric_low"), metrics.get("metric_high")
    value = fmt.value(metrics["metric"], percent, low, high)
    cells["metric"] = _cell(value, fmt.interval(low, high, percent), metrics["metric"])
    is_compressed = not trial.is_baseline
    if is_compressed and metrics.get("drop") is not None:
        low, high = metrics.get("drop_low"), metrics.get("drop_high")
        lost = fmt.drop(metrics["drop"], percent, low, high)
        cells["drop"] = _cell(lost, fmt.drop_interval(low, high, percent), metrics["drop"])
    smaller, faster = fmt.smaller(metrics.get("size_ratio")), fmt.faster(metrics.get("speedup"))
    if metrics.get("size_bytes") is not None:
        size = metrics["size_bytes"]
        cells["size"] = _cell(fmt.size(size), smaller if is_compressed else "", size)
    if metrics.get("latency_ms") is not None:
        latency = metrics["latency_ms"]
        cells["latency"] = _cell(fmt.latency(latency), faster if is_compressed else "", latency)
    return cells


def _remark(state: StudyState, trial: TrialState) -> dict[str, Any]:
    """Return the status of a trial in a word or two, and the full sentence."""
    if trial.status in ("failed", "cut"):
        return _cell(_STATUS.get(trial.status, trial.status), trial_card.reason(trial)[0], trial.status)
    said = _STATUS.get(trial.status, trial.status)
    if trial.status == "measured":
        said = fmt.pending(trial.metrics.get("samples"), trial.of_samples)
    told = [said] if said else ["uncertain"] if trial_card.uncertainty(state, trial) else []
    warnings = trial_card.warnings(trial)
    if warnings and not told:
        told = ["warning"] if len(warnings) == 1 else [f"{len(warnings)} warnings"]
    return _cell(", ".join(told), " ".join(notice.text for notice in warnings), ", ".join(told) or None)


def _cell(text: str, extra: str = "", sort: float | str | None = None) -> dict[str, Any]:
    return {"text": text, "extra": extra, "sort": sort}
