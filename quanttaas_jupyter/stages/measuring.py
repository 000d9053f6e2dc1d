"""Stages that evaluate: they read the data that judges trials, and write no model."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..bundle.batches import Batch, Batches, read_batches, write_batches
from ..bundle.structure import flatten, unflatten
from ..core.records.stage import StageResult
from ..techniques.evaluate.judge import Judge
from ..techniques.evaluate.latency import interleaved_latency, timed
from . import inference
from .context import Context


def preview(context: Context) -> StageResult:
    """Measure the model in eager PyTorch: a first point, before any file is built."""
    model, evaluation = context.model(), context.data("eval").rebatched(inference.BATCH)
    judge = Judge(context.measure, evaluation.samples, is_compared=False)
    for batch, outputs in zip(evaluation.batches, inference.of_module(model, evaluation), strict=True):
        judge.update(outputs, inference.targets_of(evaluation, batch))
    found = {key: value for key, value in judge.measurements().items() if key.startswith("metric")}
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values() if hasattr(t, "numel"))
    return StageResult(measurements={**found, "samples": evaluation.samples, "size_bytes": size})


def evaluate(context: Context) -> StageResult:
    """Measure metric, paired drop and fidelity of an artifact on the data that judges (or guides a search)."""
    evaluation = context.data(context.settings["judged_on"]).rebatched(inference.BATCH)
    made, baseline = context.inputs["artifact"], context.inputs.get("baseline")
    references = _outputs(context, baseline) if baseline else itertools.repeat(None)
    judge = Judge(context.measure, evaluation.samples, is_compared=baseline is not None)
    kept: list[Any] = []
    with context.opened("artifact") as session:
        answers = inference.of_session(session, made.signature, evaluation, context.report)
        for batch, outputs, reference in zip(evaluation.batches, answers, references, strict=False):
            judge.update(outputs, inference.targets_of(evaluation, batch), reference)
            if baseline is None:
                kept.append(outputs)
    measured = StageResult(
        measurements={**judge.measurements(), "samples": evaluation.samples}, warnings=_unrun(context)
    )
    if baseline is not None:
        return measured
    written = write_batches(context.store, _as_batches(kept))
    named = {f"outputs{i}": sha for i, sha in enumerate(written["shards"])}
    return dataclasses.replace(measured, blobs=named, outputs=written)


def latency(context: Context) -> StageResult:
    """Measure the median and p90 latency of an artifact, in turns with the baseline; None if it cannot run here."""
    if context.runtime.why_not_run():
        return StageResult(measurements={"latency_ms": None, "latency_p90_ms": None, "speedup": None})
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
    return StageResult(measurements=measurements)


def _unrun(context: Context) -> tuple[str, ...]:
    reason = context.runtime.why_not_run()
    said = f"built, not run: {reason}; accuracy is that of the same graph in ONNX Runtime, on a CPU"
    return (said,) if reason else ()


def _sized(calibration: Batches, size: int) -> Batch:
    """Return a batch of ``size`` samples, repeated if there are fewer; the first batch if batches cannot be cut."""
    batch = calibration.head(size).rebatched(size).batches[0]
    if batch.samples == size or not calibration.is_sliceable():
        return batch
    return calibration.cut(batch, np.arange(size) % batch.samples)


def _as_batches(outputs: list[Any]) -> Batches:
    flat = [flatten(part) for part in outputs]
    batches = tuple(Batch([leaf for _, leaf in leaves], []) for leaves, _ in flat)
    leaves, structure = flat[0]
    return Batches(batches, tuple(name or "output" for name, _ in leaves), structure, None, is_cut=False)


def _outputs(context: Context, baseline: StageResult) -> Iterator[Any]:
    """Yield the outputs that the evaluation of the baseline kept, a batch at a time."""
    assert baseline.outputs is not None
    kept = read_batches(context.store, baseline.outputs)
    for batch in kept.batches:
        yield unflatten(kept.inputs, list(batch.inputs))
