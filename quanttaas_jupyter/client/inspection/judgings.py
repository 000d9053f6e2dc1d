"""How a model's outputs are compared with targets: which output, which task, which labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...bundle.batches import Batch, Batches
from ...bundle.outputs import kept_outputs
from ...bundle.structure import flatten, unflatten
from ...bundle.unpacking import Unpacking
from ...core.errors import DataError, MetricError
from ...core.failures import StageError
from ...core.understanding import Judging
from ...techniques.evaluate.judge import Measure
from ...techniques.evaluate.tensors import judged_output
from . import reach
from .asked import Asked
from .language import has_decoder, is_ahead, is_causal
from .outputs import judged_name, tensors_in, whole
from .rows import Layout
from .running import answering, run
from .tasks import Finding, as_logits, as_probabilities, task_of

if TYPE_CHECKING:
    import torch

_DRIVEN = 8
"""Samples that are run with large inputs and weights."""
_SIGNED_LOSSES = ("SoftMarginLoss", "HingeEmbeddingLoss")
"""Losses of torch that take -1 and 1 themselves."""


@dataclass(frozen=True)
class Judged:
    """What was found of outputs and targets.

    Attributes:
        judging: How they are compared.
        notes: Sentences for the person.
        output: The judged output of some samples; None where it is no tensor.
        targets: Their targets; None without labels.
        doubt: Why targets and outputs fit no task, where a metric was given that may know better.
    """

    judging: Judging
    notes: tuple[str, ...]
    output: Any
    targets: Any
    doubt: DataError | None = None


def judging_of(model: torch.nn.Module, first: Batches, asked: Asked, layout: Layout, unpacking: Unpacking) -> Judged:
    """Find how a model's outputs are compared with targets.

    Args:
        model: The model.
        first: The first samples.
        asked: What the person said.
        layout: Where samples lie.
        unpacking: How batches are taken apart.

    Raises:
        DataError: It cannot be told, in one sentence with the spellings that tell it.
        MetricError: The person's postprocess fails.
    """
    import torch

    parts = [first.joined()] if first.is_uniform() else list(first.batches if layout.is_cut else first.batches[:1])
    measure = Measure({}, None, Judging(), asked.postprocess)
    outputs = [answering(model, first)(part) for part in parts]
    try:
        processed = [measure.processed(output) for output in outputs]
    except StageError as error:
        raise MetricError(str(error)) from None
    targets = [unflatten(first.targets, list(part.targets)) if first.has_targets else None for part in parts]
    target_dim = first.dims[len(parts[0].inputs)] if first.dims and parts[0].targets else 0
    own = dict(zip((name for name, _ in flatten(outputs[0])[0]), layout.output_dims, strict=False))
    dims = {name: (own.get(name) or 0) if asked.postprocess is None else 0 for name in tensors_in(processed[0])}
    leaves = _leaves(processed, dims)
    target = _target(targets, target_dim)
    several = isinstance(targets[0], (dict, tuple)) and len(flatten(targets[0])[0]) > 1
    if several:
        _refuse_several(targets[0], asked)
    name = judged_name(leaves, target, unpacking.targets, asked)
    base = Judging(
        output=(name or "") if len(leaves) > 1 else "",
        output_dim=dims.get(name or "", 0),
        target_dim=target_dim,
        is_cut=layout.is_cut,
    )
    if name is None and asked.postprocess is not None and asked.metric is None:
        raise DataError(
            f"--postprocess gives a {type(processed[0]).__name__}: let it return tensors, or give a metric that takes "
            "what it returns"
        )
    if name is None:
        return Judged(dataclasses.replace(base, output=""), (), None, targets[0])
    output = leaves[name]
    if targets[0] is None:
        finding = _without_targets(output, base, name, asked)
        return Judged(finding.judging, finding.notes, output, None)
    if several:
        return Judged(dataclasses.replace(base, task=asked.task), (), output, targets[0])
    doubt: DataError | None = None
    drives = _Drives(model, first, base, measure)
    try:
        finding = _compared(model, parts, output, target if target is not None else targets[0], base, asked)
        if finding.judging.scores == "probabilities" and finding.judging.class_dim is None and not asked.postprocess:
            finding = as_logits(finding) if reach.leaves_the_unit(iter(drives)) else finding
        if _are_shares(output, finding.judging) and (asked.postprocess or not reach.leaves_the_unit(iter(drives))):
            finding = as_probabilities(finding)
    except DataError as error:
        if asked.metric is None or asked.metric == "agreement":
            raise
        # A metric of the person's own knows what these targets mean.
        finding, doubt = Finding(dataclasses.replace(base, task=asked.task)), error
    is_thresholded = reach.has_threshold(asked.bare_metric) and not asked.is_judged_by_own_function
    if is_thresholded and isinstance(target, torch.Tensor) and reach.is_one_sided(output, target, finding.judging):
        reach.refuse_one_sided(output, iter(drives))
    return Judged(finding.judging, finding.notes, output, targets[0], doubt)


def _are_shares(output: torch.Tensor, judging: Judging) -> bool:
    """Whether scores of several classes all lie between 0 and 1, as those of one sigmoid a class do."""
    is_of_classes = judging.class_dim is not None and judging.scores == "logits"
    return is_of_classes and bool(((output >= 0) & (output <= 1)).all())


def _leaves(processed: list[Any], dims: dict[str, int]) -> dict[str, torch.Tensor]:
    """Return the outputs of all parts joined by name, samples first."""
    found = [tensors_in(part) for part in processed]
    shared = [name for name in found[0] if all(name in part for part in found)]
    joined = {name: whole([part[name] for part in found], dims[name]) for name in shared}
    return {name: leaf.movedim(dims[name], 0) if dims[name] else leaf for name, leaf in joined.items()}


def _target(targets: list[Any], dim: int) -> torch.Tensor | None:
    """Return the first targets of all parts joined, samples first; None where they are no tensors."""
    found = [next(iter(tensors_in(part).values()), None) for part in targets]
    if any(tensor is None for tensor in found) or any(isinstance(part, list) for part in targets):
        return None
    joined: torch.Tensor = whole(found, dim)
    return joined.movedim(dim, 0) if dim else joined


def _compared(
    model: torch.nn.Module, parts: list[Batch], output: torch.Tensor, target: Any, base: Judging, asked: Asked
) -> Finding:
    import torch

    if getattr(target, "dtype", None) in (torch.complex64, torch.complex128):
        raise DataError("the targets of --data are complex: give torch.view_as_real of them, as of the outputs")
    is_shifted, notes = is_ahead(model, parts, output, target, asked)
    finding = task_of(output, target, base, asked.task, asked.ignore_label, is_shifted)
    is_of_language = is_causal(model) or has_decoder(model)
    if asked.task is None and is_of_language and finding.judging.task == "token-classification":
        # A decoder sees the labels before each position already, or they are shifted: nothing is shifted here.
        finding = dataclasses.replace(finding, judging=dataclasses.replace(finding.judging, task="language-model"))
    if finding.judging.codes and type(asked.metric).__name__ in _SIGNED_LOSSES:
        finding = dataclasses.replace(
            finding, judging=dataclasses.replace(finding.judging, codes=None, labels="values")
        )
    return dataclasses.replace(finding, notes=(*finding.notes, *notes))


class _Drives:
    """Judged outputs of the first batch under large inputs and weights, made anew at every iteration."""

    def __init__(self, model: torch.nn.Module, first: Batches, base: Judging, measure: Measure) -> None:
        self._model, self._first, self._base, self._measure = model, first, base, measure

    def __iter__(self) -> Iterator[torch.Tensor]:
        return reach.drives(self._model, self._run)

    def _run(self, factor: float, weights: dict[str, torch.Tensor]) -> torch.Tensor:
        import torch

        batch = self._first.head(_DRIVEN).batches[0]
        leaves = [leaf * factor if leaf.is_floating_point() else leaf for leaf in batch.inputs]

        def called(*arguments: Any, **keywords: Any) -> Any:
            return torch.func.functional_call(self._model, weights, arguments, keywords)

        outputs = run(called, dataclasses.replace(self._first, batches=(Batch(leaves, []),)))
        return judged_output(self._measure.processed(kept_outputs(outputs)[0]), self._base)


def _without_targets(output: torch.Tensor, base: Judging, name: str, asked: Asked) -> Finding:
    """Class scores are told by the name ``logits`` or by being a table."""
    if asked.task in ("regression", "embedding"):
        return Finding(dataclasses.replace(base, task=asked.task))
    if not output.is_floating_point():
        return Finding(dataclasses.replace(base, scores="classes"))
    if name == "logits" and output.ndim >= 2:
        # Scores of sequences have their classes last, those of pictures in dimension 1.
        dim = 2 if output.ndim == 3 else 1
        return Finding(dataclasses.replace(base, class_dim=dim, classes=int(output.shape[dim]), scores="logits"))
    if output.ndim != 2 or output.shape[1] == 1:
        return Finding(base)
    classes = int(output.shape[1])
    note = f"without labels, the {classes} outputs of a sample are taken for scores of as many classes"
    return Finding(dataclasses.replace(base, class_dim=1, classes=classes, scores="logits"), (note,))


def _refuse_several(targets: Any, asked: Asked) -> None:
    if asked.metric is None or isinstance(asked.metric, str):
        names = [name for name, _ in flatten(targets)[0]]
        raise DataError(
            f"a batch of --data has several targets ({', '.join(names)}): say which one is judged, with --labels "
            f"{names[0]}, or give a metric that takes (outputs, targets)"
        )
