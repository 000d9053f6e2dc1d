"""Stages that evaluate: they read the data that judges trials, and write no model."""

from __future__ import annotations

import dataclasses
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np

from ..bundle.batches import Batch, Batches
from ..bundle.shards import ShardWriter, read_batches
from ..bundle.structure import flatten, unflatten
from ..core.failures import StageError
from ..core.records.stage import INTERIM, StageResult
from ..store.base import Store
from ..techniques.evaluate.judge import Judge
from ..techniques.evaluate.latency import interleaved_latency, timed
from . import inference
from .context import Context

_PREVIEW_SECONDS = 5.0
"""Seconds after which the preview takes no further batch; chosen, not tuned: it is there to be soon."""
_INTERIM_SECONDS = 3.0, 15.0
"""Seconds until an evaluation tells what it measured so far, and between two such lines; chosen, not tuned."""
_INTERIM_SHARE = 10
"""Times what such a line took until the next one: it costs a tenth of an evaluation at most."""
_KEPT_BYTES = 256 << 20
"""Bytes of the baseline's outputs up to which they are kept in the store; beyond, the baseline runs beside each trial.

Chosen, not tuned: reading them is then faster than computing them, and they take little room.
"""


def preview(context: Context) -> StageResult:
    """Measure the model in eager PyTorch, on as much as five seconds allow: a first point, before any file is built."""
    model, evaluation = context.model(), context.data("eval")
    answer = inference.answer_of_module(model, evaluation.inputs)
    evaluation = inference.fitted(evaluation, answer)
    judge = Judge(context.measure, evaluation.samples, is_compared=False)
    seen, begun = 0, time.monotonic()
    for batch in evaluation.batches:
        judge.update(answer(batch), inference.targets_of(evaluation, batch))
        seen += batch.samples
        if time.monotonic() - begun > _PREVIEW_SECONDS:
            break
    found = {key: value for key, value in judge.measurements().items() if key.startswith("metric") or key == "samples"}
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values() if hasattr(t, "numel"))
    part = {"of_samples": evaluation.samples} if seen < evaluation.samples else {}
    return StageResult(measurements={"samples": seen, **found, **part, "size_bytes": size})


def evaluate(context: Context) -> StageResult:
    """Measure metric, paired drop and fidelity of an artifact on the data that judges (or guides a search)."""
    made, baseline = context.inputs["artifact"], context.inputs.get("baseline")
    kept = None if baseline else _Kept(context.store)
    with ExitStack() as stack:
        answer = inference.answer_of_session(stack.enter_context(context.opened("artifact")), made.signature)
        evaluation = inference.fitted(context.data(context.settings["judged_on"]), answer)
        references = _references(context, evaluation, stack) if baseline else itertools.repeat(None)
        judge = Judge(context.measure, evaluation.samples, is_compared=baseline is not None)
        interim = _Interim(judge, evaluation.samples, context.report)
        for batch, reference in zip(evaluation.batches, references, strict=False):
            outputs = answer(batch)
            judge.update(outputs, inference.targets_of(evaluation, batch), reference)
            if kept is not None:
                kept.add(outputs)
            interim.after(batch)
    measured = StageResult(
        measurements={"samples": evaluation.samples, **judge.measurements()}, warnings=_unrun(context)
    )
    return measured if kept is None else kept.added_to(measured)


class _Interim:
    """Tells what an evaluation measured so far, so that its point stands early and moves."""

    def __init__(self, judge: Judge, samples: int, report: Callable[[str], None]) -> None:
        self._judge, self._samples, self._report = judge, samples, report
        self._seen = 0
        self._next = time.monotonic() + _INTERIM_SECONDS[0]

    def after(self, batch: Batch) -> None:
        """Count a batch that was judged."""
        self._seen += batch.samples
        if time.monotonic() < self._next or self._seen >= self._samples:
            return
        self._report(f"measured {self._seen} of {self._samples} samples")
        begun = time.monotonic()
        # A metric may not be defined on the first samples, or its interval not finite, which no event holds.
        with suppress(StageError, ValueError):
            if self._judge.can_tell_early:
                found = {**self._judge.measurements(), "samples": self._seen, "of_samples": self._samples}
                self._report(INTERIM + json.dumps(found, allow_nan=False))
        now = time.monotonic()
        self._next = now + max(_INTERIM_SECONDS[1], _INTERIM_SHARE * (now - begun))


class _Kept:
    """Outputs of a baseline on their way to the store, as long as they are few."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._writer: ShardWriter | None = None
        self._bytes = 0

    def add(self, outputs: Any) -> None:
        """Keep the outputs of a batch, unless all of them are too many."""
        leaves, structure = flatten(outputs)
        batch = Batch([leaf for _, leaf in leaves], [])
        is_first, self._bytes = not self._bytes, self._bytes + batch.bytes
        if self._bytes > _KEPT_BYTES:
            self._writer = None
        elif is_first:
            like = Batches((), tuple(name or "output" for name, _ in leaves), structure, None, is_cut=False)
            self._writer = ShardWriter(self._store, like)
        if self._writer is not None:
            self._writer.add(batch)

    def added_to(self, measured: StageResult) -> StageResult:
        """Return the result of the evaluation with the reference of what was kept."""
        if self._writer is None:
            return measured
        written = self._writer.finish()
        named = {f"outputs{i}": sha for i, sha in enumerate(written["shards"])}
        return dataclasses.replace(measured, blobs={**named, "outlines": written["outlines"]}, outputs=written)


def _references(context: Context, evaluation: Batches, stack: ExitStack) -> Iterator[Any]:
    """Yield the baseline's outputs on every batch: those that were kept, or those that it gives now."""
    kept = context.inputs["baseline"].outputs
    if kept is not None:
        return _outputs(context.store, kept)
    session = stack.enter_context(context.opened("original"))
    answer = inference.answer_of_session(session, context.inputs["original"].signature)
    return map(answer, evaluation.batches)


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


def _outputs(store: Store, reference: Mapping[str, Any]) -> Iterator[Any]:
    kept = read_batches(store, reference)
    for batch in kept.batches:
        yield unflatten(kept.inputs, list(batch.inputs))
