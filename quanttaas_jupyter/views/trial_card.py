"""Card of one trial in plain text: numbers with intervals, layers, warnings, and the reason of a failure."""

from __future__ import annotations

from typing import NamedTuple

from ..core.frontier import is_uncertain
from ..core.state import StudyState, TrialState
from . import format as fmt
from .scene import is_percent, max_drop
from .study_heading import Notice, capital

_NAMES_SHOWN = 6
"""Layers named in one line of a card; the others are counted."""


class Measurement(NamedTuple):
    """A label, its number, and a remark on it."""

    label: str
    number: str
    extra: str = ""


class Layers(NamedTuple):
    """Line about layers; ``names`` are names of modules."""

    words: str
    names: tuple[str, ...] = ()
    more: str = ""

    @property
    def sentence(self) -> str:
        """The whole line."""
        return f"{self.words}{', '.join(self.names)}{self.more}"


def numbers(state: StudyState, trial: TrialState) -> list[Measurement]:
    """Return the known measurements of a trial."""
    metrics, percent = trial.metrics, is_percent(state)
    measurements: list[Measurement] = []

    def add(label: str, number: str, more: str = "") -> None:
        measurements.append(Measurement(label, number, more))

    def known(key: str) -> bool:
        return metrics.get(key) is not None

    low, high = metrics.get("metric_low"), metrics.get("metric_high")
    if known("metric"):
        name = str(state.metric.get("name", "metric"))
        add(name, fmt.value(metrics["metric"], percent, low, high), _bracketed(fmt.interval(low, high, percent)))
    if known("drop") and not trial.is_baseline:
        low, high = metrics.get("drop_low"), metrics.get("drop_high")
        add("drop", fmt.drop(metrics["drop"], percent, low, high), _bracketed(fmt.drop_interval(low, high, percent)))
    if known("samples"):
        add(
            "samples",
            fmt.count(metrics["samples"]),
            f"so far, of {fmt.count(trial.of_samples)}" if trial.of_samples else "",
        )
    if known("agreement") and not trial.is_baseline:
        add("agreement", fmt.value(metrics["agreement"], True))
    if known("size_bytes"):
        add("size", fmt.size(metrics["size_bytes"]), _against(trial, fmt.smaller(metrics.get("size_ratio"))))
    if known("size_gzip_bytes") and fmt.method(trial.config) == "unstructured":
        add("gzipped", fmt.size(metrics["size_gzip_bytes"]), "for a download")
    if known("latency_ms"):
        add("latency", fmt.latency(metrics["latency_ms"]), _against(trial, fmt.faster(metrics.get("speedup"))))
        if known("latency_p90_ms"):
            add("latency p90", fmt.latency(metrics["latency_p90_ms"]))
    elif trial.status == "measured":
        add("latency", "", "waits for a quiet machine")
    if known("gpu_memory_bytes"):
        add("GPU memory", fmt.size(metrics["gpu_memory_bytes"]))
    if known("params"):
        share = metrics.get("pruned_share")
        add("parameters", fmt.count(metrics["params"]), f"{fmt.share(share, 1)} removed" if share else "")
    if known("macs"):
        add("MACs", fmt.count(metrics["macs"]))
    if (decibels := metrics.get("sqnr_db")) is not None:
        add("SQNR", fmt.decibels(decibels))
    if (nats := metrics.get("kl")) is not None and not trial.is_baseline:
        add("KL to the original", fmt.difference(nats), "nats a token")
    return measurements


def layers(trial: TrialState) -> list[Layers]:
    """Return lines about quantized layers, other layers, and choices of techniques."""
    metrics, lines = trial.metrics, []
    done, possible = metrics.get("quantized_layers"), metrics.get("quantizable_layers")
    if possible and done is not None and trial.config.quantize != "none":
        lines.append(Layers(f"{trial.config.quantize} in {done:.0f} of {possible:.0f} layers"))
    artifact = trial.artifact
    if artifact is None:
        return lines
    if kept := artifact.kept:
        more = f" and {len(kept) - _NAMES_SHOWN} more" if len(kept) > _NAMES_SHOWN else ""
        lines.append(Layers("left in high precision: ", kept[:_NAMES_SHOWN], more))
    # Longer ones, such as amounts by layer, do not fit a line.
    choices = artifact.choices.items()
    lines += [Layers(f"{name}: {value}") for name, value in choices if isinstance(value, (str, int, float))]
    return lines


def uncertainty(state: StudyState, trial: TrialState) -> Notice | None:
    """Return a notice if the interval of a trial crosses the goal, or None."""
    allowed = max_drop(state)
    if allowed is None or not is_uncertain(trial, allowed):
        return None
    limit = fmt.allowance(allowed, is_percent(state))
    return Notice("calm", f"Uncertain: it may lose more than {limit}, the interval says.")


def warnings(trial: TrialState) -> list[Notice]:
    """Return the warnings of a trial."""
    return [Notice("warn", capital(warning)) for warning in trial.warnings]


def export_error(trial: TrialState) -> str:
    """Return how far a baseline's artifact differs from eager PyTorch; an empty string if unknown."""
    error = trial.metrics.get("export_error")
    if error is None or not trial.is_baseline:
        return ""
    return f"differs from eager PyTorch by at most {fmt.difference(error)}"


def pending(trial: TrialState) -> str:
    """Return why a trial has no numbers."""
    return "It was not measured: the study ended before." if trial.status == "cancelled" else "Not measured yet."


def reason(trial: TrialState) -> tuple[str, str]:
    """Return why a trial failed or was cut, and what to try instead; the second is empty if nothing is known."""
    error = trial.error or {}
    hint = error.get("hint")
    return capital(str(error.get("reason", "unknown"))), f"Try: {hint}" if hint else ""


def remarks(state: StudyState, trial: TrialState) -> list[Notice]:
    """Return all sentences below the numbers, in reading order."""
    notices = [uncertainty(state, trial)]
    if not trial.error and not numbers(state, trial):
        notices.append(Notice("calm", pending(trial)))
    notices += [Notice("calm", line.sentence) for line in layers(trial)]
    notices += warnings(trial)
    if told := export_error(trial):
        notices.append(Notice("calm", capital(told)))
    return [notice for notice in notices if notice]


def _against(trial: TrialState, comparison: str) -> str:
    return "" if trial.is_baseline else comparison


def _bracketed(ends: str) -> str:
    return f"({ends})" if ends else ""
