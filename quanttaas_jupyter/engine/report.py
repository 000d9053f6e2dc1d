"""Reports from stage results: a trial's metrics, its warnings, and the recommendation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.frontier import is_uncertain
from ..core.records.stage import StageResult
from ..core.records.trial import TrialConfig
from ..core.state import Metrics, TrialState
from ..views import format as fmt

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
    built: StageResult,
    judged: StageResult,
    timed: StageResult | None,
    baseline: StageResult,
    guide: StageResult | None,
    seconds: float,
) -> dict[str, Any]:
    """Return the flat metrics of a trial; missing measurements are None.

    Args:
        built: Result of the stage that made the artifact.
        judged: Result of its evaluation.
        timed: Result of its latency measurement, or None before it.
        baseline: Result of the stage that made the baseline's artifact in the same runtime.
        guide: Result of its evaluation on the guiding half, or None without a search.
        seconds: Time spent on all its stages.
    """
    measurements = {**built.measurements, **judged.measurements, **(timed.measurements if timed else {})}
    measurements["guide_drop"] = guide.measurements["drop"] if guide else None
    measurements["size_ratio"] = built.measurements["size_bytes"] / baseline.measurements["size_bytes"]
    measurements["seconds"] = seconds
    return {**{name: measurements.get(name) for name in _METRICS}, **judged.measurements.get("others", {})}


def warnings_of(built: StageResult, judged: StageResult, metrics: Metrics, config: TrialConfig) -> list[str]:
    """Return sentences that a user should know before trusting a trial."""
    warnings = [*built.warnings, *judged.warnings]
    speedup = metrics.get("speedup")
    if speedup is not None and speedup < 0.95 and not config.is_baseline:
        warnings.append(f"{fmt.faster(speedup)} than the baseline on this machine")
    if config.prune and config.prune.method == "unstructured":
        warnings.append("zeros make no smaller file and no faster model; they help only where the file is compressed")
    return warnings


def recommendation(best: TrialState | None, goal: Mapping[str, Any], metric: Mapping[str, Any]) -> str:
    """Return one sentence: which trial to use, what it saves, and what it costs."""
    percent = bool(metric.get("percent"))
    allowed = fmt.allowance(goal["max_drop"], percent)
    if best is None:
        return f"No trial keeps the {metric['name']} within {allowed} of the baseline; try smaller amounts."
    if best.is_baseline:
        return f"Nothing beats the unchanged model within {allowed} of its {metric['name']}."
    drop, low, high = (best.metrics.get(key) for key in ("drop", "drop_low", "drop_high"))
    ends = fmt.drop_interval(low, high, percent)
    parts = [
        fmt.smaller(best.metrics.get("size_ratio")),
        fmt.faster(best.metrics.get("speedup")),
        f"{metric['name']} drop {fmt.drop(drop, percent, low, high)}" + (f" (95 %: {ends})" if ends else ""),
    ]
    unsure = "; its interval reaches beyond the goal" if is_uncertain(best, goal["max_drop"]) else ""
    return f"Take {best.name}: {', '.join(filter(None, parts))}{unsure}."
