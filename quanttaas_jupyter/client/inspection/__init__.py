"""The look before a study: what its model and data mean, found by running the model on a few samples."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...bundle.batches import Batches
from ...bundle.data import Source
from ...bundle.outputs import kept_outputs
from ...bundle.unpacking import Unpacking
from ...core.errors import DataError, MetricError
from ...core.understanding import Understanding
from ...techniques.evaluate.judge import Measure
from . import metric as metrics
from .asked import Asked
from .judgings import judging_of
from .language import decoders, without_padding
from .layouts import find_layout, row_notes
from .metric_check import notes_on, refuse_uneven, tried
from .rows import Layout
from .running import affordable, answering, answers_twice, run
from .tasks import refuse_unknown
from .unpackings import Signature, candidates

__all__ = ["Asked", "Inspection", "answering", "inspect"]

if TYPE_CHECKING:
    import torch

_RUN_ON = 8
"""Samples that the model is run on while its inputs are found out."""
_JUDGED_ON = 64
"""Samples whose outputs and targets tell the task, and that the metric is tried on."""


@dataclass(frozen=True)
class Inspection:
    """What the inspection found.

    Attributes:
        understanding: What is told, and what every stage knows.
        unpacking: How batches are taken apart.
        is_narrowed: Whether inputs of float64 are cast to float32.
        layout: Where samples lie.
        metric: Description of the metric.
        metric_pickle: What travels with it; None for a metric by name.
        measure: The metric with its function, in this process.
    """

    understanding: Understanding
    unpacking: Unpacking
    is_narrowed: bool
    layout: Layout
    metric: dict[str, Any]
    metric_pickle: bytes | None
    measure: Measure


def inspect(model: torch.nn.Module, source: Source, asked: Asked) -> Inspection:
    """Look at a model and its evaluation data.

    Args:
        model: The model as a worker will have it, in eval mode.
        source: ``--data``; it is told how to take batches apart.
        asked: What the person said.

    Raises:
        QuantTaaSError: One sentence: what does not fit, or what has to be said.
    """
    refuse_unknown(asked.task)
    asked.refuse_impossible()
    unpacking, is_narrowed = _unpacked(model, source, asked)
    unpacking, padding_notes = without_padding(model, source, unpacking, asked)
    source.unpack_by(unpacking, is_narrowed)
    most = affordable(model, source.first())
    left_out = kept_outputs(answers_twice(model, source.first().head(min(most, _RUN_ON))))[1]
    layout = find_layout(model, source, asked.batch_dim, most)
    first = source.first(_JUDGED_ON).head(most)
    judged = judging_of(model, first, asked, layout, unpacking)
    judging = judged.judging
    try:
        found, travels = metrics.described(asked.metric, judging, judged.targets, judged.output)
    except MetricError as error:
        # Of targets that fit no task the metric knows no more.
        raise judged.doubt or error from None
    pickled = metrics.pickled(travels) if travels is not None else None
    notes = [*_unpacking_notes(is_narrowed), *padding_notes, *judged.notes, *row_notes(layout)]
    if found["name"] == "agreement" and judging.class_dim is None and judging.scores == "values":
        notes.append(_agreement_note(judging.task == "embedding"))
    outputs = kept_outputs(run(model, first))[0]
    try:
        found = tried(Measure(found, travels, judging, asked.postprocess), outputs, first)
    except MetricError as error:
        raise (judged.doubt if found["kind"] != "callable" else None) or error from None
    notes += notes_on(found)
    measure = Measure(found, travels, judging, asked.postprocess)
    refuse_uneven(measure, answering(model, first), first)
    understanding = Understanding(
        judging=judging,
        inputs=first.names,
        targets=tuple(str(part) for part in unpacking.targets),
        unused=unpacking.unused(source.first_item),
        left_out=left_out,
        batch_dim=layout.dims[0],
        metric=", ".join(each.get("shown", each["name"]) for each in measure.metrics()),
        higher_is_better=bool(found["higher_is_better"]),
        notes=tuple(notes),
    )
    return Inspection(understanding, unpacking, is_narrowed, layout, found, pickled, measure)


def _unpacked(model: torch.nn.Module, source: Source, asked: Asked) -> tuple[Unpacking, bool]:
    """Find how batches are taken apart, by running the model on the candidates in turn."""
    error: Exception | None = None
    found = candidates(source.first_item, Signature.of(model), asked.labels)
    for candidate in _each(decoders(found, model), source.first_item):
        is_narrowed = False
        try:
            source.unpack_by(candidate)
            batch = source.first()
            is_narrowed = _is_narrowed(model, batch)
            if is_narrowed:
                source.unpack_by(candidate, is_narrowed)
                batch = source.first()
            run(model, batch.head(_RUN_ON))
            return candidate, is_narrowed
        except DataError as problem:
            error = error or problem
    assert error is not None
    raise error


def _each(found: Any, item: Any) -> Any:
    """Yield the candidates; a list that is one argument is first read as one tensor a sample, like targets."""
    for candidate in found:
        if candidate.passed == "argument":
            inputs, targets, _ = candidate(item)
            sizes = [len(target) for target in (targets,) if hasattr(target, "__len__")]
            if isinstance(inputs, (list, tuple)) and all(hasattr(leaf, "shape") for leaf in inputs):
                rows = {tuple(leaf.shape)[:1] for leaf in inputs}
                # A list of two inputs for a batch of two samples cannot be told from a list of two samples by sizes.
                if sizes == [len(inputs)] and rows != {(len(inputs),)}:
                    yield dataclasses.replace(candidate, is_each=True)
        yield candidate


def _is_narrowed(model: torch.nn.Module, batch: Batches) -> bool:
    import torch

    weights = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    return weights == {torch.float32} and any(
        leaf.dtype == torch.float64 for leaf in batch.batches[0].inputs if isinstance(leaf, torch.Tensor)
    )


def _agreement_note(is_of_vectors: bool) -> str:
    note = "agreement: the outputs are no class scores, so it is R2 against the outputs of the original model"
    return note + ("; lengths of vectors count, unless --postprocess makes them one" if is_of_vectors else "")


def _unpacking_notes(is_narrowed: bool) -> list[str]:
    return ["inputs of float64 are cast to float32, the type of the model's weights"] if is_narrowed else []
