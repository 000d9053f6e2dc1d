"""From stage results to what a person reads: a trial's metrics, its warnings, the recommendation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.state import TrialState

_METRICS = (
    "metric",
    "metric_low",
    "metric_high",
    "drop",
    "drop_low",
    "drop_high",
    "samples",
    "guide_drop",
    "size_bytes",
    "size_ratio",
    "size_gzip_bytes",
    "latency_ms",
    "latency_p90_ms",
    "speedup",
    "gpu_memory_bytes",
    "params",
    "pruned_share",
    "macs",
    "agreement",
    "sqnr_db",
    "export_error",
    "quantized_layers",
    "quantizable_layers",
    "seconds",
)


def metrics_of(
    built: Mapping[str, Any],
    judged: Mapping[str, Any],
    timed: Mapping[str, Any] | None,
    baseline: Mapping[str, Any],
    guide: Mapping[str, Any] | None,
    seconds: float,
) -> dict[str, Any]:
    """The flat metrics of a trial; what was not measured is None.

    Args:
        built: Result of the stage that made the artifact.
        judged: Result of its evaluation.
        timed: Result of its timing, or None before it.
        baseline: Result of the stage that made the baseline's artifact in the same runtime.
        guide: Result of its measurement on the half of the data that guides a search, or None without a search.
        seconds: Time spent on all its stages.
    """
    facts = {**built["facts"], **judged["facts"], **(timed["facts"] if timed else {}), "seconds": seconds}
    facts["guide_drop"] = guide["facts"]["drop"] if guide else None
    facts["size_ratio"] = built["facts"]["size_bytes"] / baseline["facts"]["size_bytes"]
    return {name: facts.get(name) for name in _METRICS}


def warnings_of(
    built: Mapping[str, Any], judged: Mapping[str, Any], metrics: Mapping[str, Any], config: Mapping[str, Any]
) -> list[str]:
    """What a person should know before trusting a trial."""
    found = [*built["warnings"], *judged["warnings"]]
    speedup = metrics.get("speedup")
    is_baseline = not config["prune"] and config["quantize"] == "none"
    if speedup is not None and speedup < 0.95 and not is_baseline:
        found.append(f"{1 / speedup:.1f}x slower than the baseline on this machine")
    if config["prune"] and config["prune"]["method"] == "unstructured":
        found.append("zeros make no smaller file and no faster model; they help only where the file is compressed")
    return found


def recommendation(best: TrialState | None, goal: Mapping[str, Any], metric: Mapping[str, Any]) -> str:
    """One sentence: what to take, what it saves, what it costs."""
    unit, factor = (" points", 100.0) if metric.get("percent") else ("", 1.0)
    allowed = f"{goal['max_drop'] * factor:g}{unit}"
    if best is None:
        return f"No trial keeps the {metric['name']} within {allowed} of the baseline; try smaller amounts."
    if best.is_baseline:
        return f"Nothing beats the unchanged model within {allowed} of its {metric['name']}."
    values = best.metrics
    parts = [_times(1 / float(values["size_ratio"] or 1), "smaller", "larger")]
    if values.get("speedup"):
        parts.append(_times(float(values["speedup"] or 1), "faster", "slower"))
    change, low, high = (-factor * float(values[key] or 0) for key in ("drop", "drop_high", "drop_low"))
    sure = "" if (values.get("drop_high") or 0) <= goal["max_drop"] else "; its interval reaches beyond the goal"
    return (
        f"Take {best.name}: {', '.join(parts)}, {metric['name']} {_signed(change)}{unit} "
        f"(95 %: {_signed(low)} to {_signed(high)}){sure}."
    )


def _times(factor: float, better: str, worse: str) -> str:
    return f"{factor:.1f}x {better}" if factor >= 1 else f"{1 / factor:.1f}x {worse}"


def _signed(value: float) -> str:
    return f"{value:+.1f}" if abs(value) >= 0.05 else "±0.0"
