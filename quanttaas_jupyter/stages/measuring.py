"""Stages that evaluate: they read the data that judges trials, and write no model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..bundle.batches import Batch, Batches, read_batches, write_batches
from ..bundle.structure import flatten, unflatten
from ..techniques.evaluate import intervals, metrics
from ..techniques.evaluate.latency import interleaved_latency, timed
from ..techniques.evaluate.predictions import Predictions
from ..techniques.evaluate.sqnr import LOSSLESS_DB, sqnr_db
from . import inference
from .context import Context


def preview(context: Context) -> dict[str, Any]:
    """Evaluate the model in eager PyTorch, as a first point before any artifact is built."""
    model, evaluation = context.model(), context.data("eval").rebatched(inference.BATCH)
    parts = inference.of_module(model, evaluation)
    inference.refuse_ragged(context.settings["metric"]["name"], parts)
    whole, interval = _scored(context, _predictions(context, inference.joined(parts), evaluation))
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values() if hasattr(t, "numel"))
    return {"facts": {**_metric_measurements(whole, interval), "samples": evaluation.samples, "size_bytes": size}}


def evaluate(context: Context) -> dict[str, Any]:
    """Compute metric, paired drop and fidelity of an artifact on the data that judges trials or guides a search."""
    evaluation = context.data(context.settings["judged_on"]).rebatched(inference.BATCH)
    made = context.inputs["artifact"]
    with context.opened("artifact") as session:
        parts = inference.of_session(session, made["about"], evaluation, context.report)
    inference.refuse_ragged(context.settings["metric"]["name"], parts)
    outputs = inference.joined(parts)
    baseline = context.inputs.get("baseline")
    reference = _outputs(read_batches(context.store, baseline["outputs"])) if baseline else None
    mine = _predictions(context, outputs, evaluation, reference)
    whole, interval = _scored(context, mine)
    measurements = {**_metric_measurements(whole, interval), "samples": evaluation.samples}
    if baseline is None:
        kept = write_batches(context.store, _as_batches(outputs))
        nothing = {"drop": 0.0, "drop_low": 0.0, "drop_high": 0.0, "agreement": 1.0, "sqnr_db": None}
        named = {f"outputs{i}": sha for i, sha in enumerate(kept["shards"])}
        return {"blobs": named, "outputs": kept, "facts": {**measurements, **nothing}, "warnings": _unrun(context)}
    return {"facts": {**measurements, **_against(context, mine, whole)}, "warnings": _unrun(context)}


def latency(context: Context) -> dict[str, Any]:
    """Measure the median and p90 latency of an artifact, in turns with the baseline; None if it cannot run here."""
    if context.runtime.why_not_run():
        return {"facts": {"latency_ms": None, "latency_p90_ms": None, "speedup": None}}
    sample = _sized(context.data("calibration"), context.settings["batch"])
    arrays = [leaf.numpy() for leaf in sample.inputs]
    # The baseline takes turns with a second session of itself, so that it is measured like all others.
    roles = ["artifact", "baseline" if "baseline" in context.inputs else "artifact"]
    sessions = []
    for role in roles:
        with context.opened(role, context.settings["threads"]) as session:
            sessions.append(session)
    seconds = interleaved_latency([timed(session, arrays) for session in sessions])
    median = float(np.median(seconds[0]))
    measurements = {
        "latency_ms": median * 1e3,
        "latency_p90_ms": float(np.percentile(seconds[0], 90)) * 1e3,
        "speedup": float(np.median(seconds[1])) / median if "baseline" in context.inputs else 1.0,
        "latency_batch": sample.samples,
        "gpu_memory_bytes": getattr(sessions[0], "gpu_memory_bytes", None),
    }
    return {"facts": measurements}


def _unrun(context: Context) -> list[str]:
    reason = context.runtime.why_not_run()
    return [f"built, not run: {reason}; accuracy is that of the same graph in ONNX Runtime, on a CPU"] if reason else []


def _sized(calibration: Batches, size: int) -> Batch:
    """Return a batch of ``size`` samples, repeated if there are fewer; the first batch if batches cannot be cut."""
    batch = calibration.head(size).rebatched(size).batches[0]
    if batch.samples == size or not calibration.is_sliceable():
        return batch
    rows = np.arange(size) % batch.samples
    return Batch([leaf[rows] for leaf in batch.inputs], [])


def _predictions(context: Context, outputs: Any, evaluation: Batches, reference: Any = None) -> Predictions:
    return Predictions(outputs, inference.targets_of(evaluation), reference, context.settings["class_dim"])


def _against(context: Context, mine: Predictions, whole: metrics.Score) -> dict[str, Any]:
    metric, function = context.settings["metric"], context.function("metric")
    original = metrics.score(metric, function, replace(mine, outputs=mine.reference))
    drop = intervals.drop_of(metric, function, mine, whole, original, context.settings["seed"])
    agreement, decibels = metrics.agreement(mine), sqnr_db(mine.outputs, mine.reference)
    return {
        "drop": drop.value,
        "drop_low": drop.low,
        "drop_high": drop.high,
        "agreement": None if agreement is None else float(np.mean(agreement)),
        "sqnr_db": decibels if decibels < LOSSLESS_DB else None,
    }


def _scored(context: Context, predictions: Predictions) -> tuple[metrics.Score, intervals.Interval]:
    metric, function = context.settings["metric"], context.function("metric")
    whole = metrics.score(metric, function, predictions)
    return whole, intervals.interval_of(metric, function, predictions, whole, context.settings["seed"])


def _metric_measurements(whole: metrics.Score, interval: intervals.Interval) -> dict[str, Any]:
    return {"metric": whole.value, "metric_low": interval.low, "metric_high": interval.high}


def _as_batches(outputs: Any) -> Batches:
    leaves, structure = flatten(outputs)
    whole = Batch([leaf for _, leaf in leaves], [])
    return Batches((whole,), tuple(name or "output" for name, _ in leaves), structure, None)


def _outputs(kept: Batches) -> Any:
    return unflatten(kept.inputs, list(kept.batches[0].inputs))
