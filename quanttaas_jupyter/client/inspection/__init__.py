"""The look before a study: what its model and data mean, found by running the model on a few samples."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...bundle.batches import Batch, Batches, Leaf, call
from ...bundle.data import Source
from ...bundle.outputs import flatten_outputs, kept_outputs
from ...bundle.structure import flatten, unflatten
from ...bundle.unpacking import ShiftRight, Unpacking
from ...core.errors import DataError, MetricError, ModelError
from ...core.failures import StageError, explain
from ...core.understanding import Judging, Understanding
from ...techniques.evaluate.judge import Measure
from ...techniques.evaluate.tensors import judged_output
from . import metric as metrics
from .metric_check import refuse_uneven, tried
from .rows import Collapsed, Layout, layout_of
from .tasks import Finding, as_logits, looks_ahead, refuse_unknown, task_of
from .unpackings import Signature, candidates

if TYPE_CHECKING:
    import torch

_RUN_ON = 8
"""Samples that the model is run on while its inputs are found out."""
_LARGE_BYTES, _FEWEST = 4 << 20, 4
"""Bytes of inputs that the kernel runs at once, and samples that it runs however large; chosen, not tuned."""
_JUDGED_ON = 64
"""Samples whose outputs and targets tell the task, and that the metric is tried on."""
_CAUSAL = ("ForCausalLM", "LMHeadModel", "LMHead")


@dataclass(frozen=True)
class Asked:
    """What a person said of model and data; None where it is to be found out.

    Attributes:
        metric: The metric, in any form that ``metric.described`` takes.
        task: One of ``TASKS``.
        labels: Keys or positions of the targets in a batch.
        output: Name or position of the output that is judged.
        batch_dim: Dimension of the samples in the inputs.
        ignore_label: The label that counts nowhere.
        postprocess: Turns raw outputs into what the metric takes.
    """

    metric: Any = None
    task: str | None = None
    labels: Sequence[str] | None = None
    output: str | None = None
    batch_dim: int | None = None
    ignore_label: int | None = None
    postprocess: Any = None


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


def _affordable(first: Batches) -> int:
    """Return how many samples to run: what a network computes in between is many times its inputs."""
    each = first.bytes / max(1, first.samples)
    return int(max(_FEWEST, min(_JUDGED_ON, _LARGE_BYTES / max(1.0, each))))


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
    unpacking, is_narrowed = _unpacked(model, source, asked)
    first = source.first()
    few = first.head(_RUN_ON)
    outputs = _answers_twice(model, few)
    left_out = kept_outputs(outputs)[1]
    layout = _layout(model, source, asked.batch_dim)
    first = source.first(_JUDGED_ON)
    first = first.head(_affordable(first))
    judging, finding_notes, output, targets = _task(model, first, asked, layout, unpacking)
    found, travels = metrics.described(asked.metric, judging, targets, output)
    pickled = metrics.pickled(travels) if travels is not None else None
    notes = [*_unpacking_notes(is_narrowed), *finding_notes, *_row_notes(layout)]
    if found["name"] == "agreement" and judging.class_dim is None and judging.scores == "values":
        notes.append(
            "agreement: the outputs are no class scores, so it is R2 against the outputs of the original model"
        )
    few = first.head(_JUDGED_ON)
    found = tried(Measure(found, travels, judging, asked.postprocess), kept_outputs(_run(model, few))[0], few)
    if found["kind"] in ("callable", "sklearn") and not found.get("per_sample"):
        notes.append(
            f"{found['name']} gives one number for everything, so it is called once on all outputs and targets"
        )
    measure = Measure(found, travels, judging, asked.postprocess)
    refuse_uneven(measure, answering(model, first), first)
    understanding = Understanding(
        judging=judging,
        inputs=first.names,
        targets=tuple(str(part) for part in unpacking.targets),
        unused=unpacking.unused(source.first_item),
        left_out=left_out,
        batch_dim=layout.dims[0],
        metric=", ".join([found["name"], *(other["name"] for other in found.get("others", []))]),
        higher_is_better=bool(found["higher_is_better"]),
        notes=tuple(notes),
    )
    return Inspection(understanding, unpacking, is_narrowed, layout, found, pickled, measure)


def answering(model: torch.nn.Module, data: Batches) -> Callable[[Batch], Any]:
    """Return a function that gives the model's outputs for a batch of some data."""
    return lambda batch: kept_outputs(_run(model, dataclasses.replace(data, batches=(batch,))))[0]


def is_causal(model: torch.nn.Module) -> bool:
    """Whether a model is a causal language model of ``transformers``."""
    return type(model).__name__.endswith(_CAUSAL)


def _unpacked(model: torch.nn.Module, source: Source, asked: Asked) -> tuple[Unpacking, bool]:
    """Find how batches are taken apart, by running the model on the candidates in turn."""
    error: Exception | None = None
    found = candidates(source.first_item, Signature.of(model), asked.labels)
    for candidate in _each(_decoders(found, model), source.first_item):
        is_narrowed = False
        try:
            source.unpack_by(candidate)
            batch = source.first()
            is_narrowed = _is_narrowed(model, batch)
            if is_narrowed:
                source.unpack_by(candidate, is_narrowed)
                batch = source.first()
            _run(model, batch.head(_RUN_ON))
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


def _decoders(found: Any, model: torch.nn.Module) -> Any:
    """Yield the candidates, with decoder inputs made of the labels if the model has a decoder."""
    config = getattr(model, "config", None)
    has_decoder = _has_decoder(model) and "decoder_input_ids" in Signature.of(model).names
    for candidate in found:
        if is_causal(model) and not candidate.targets and "input_ids" in candidate.inputs:
            yield dataclasses.replace(candidate, labels_of="input_ids")
        elif not (has_decoder and candidate.targets and candidate.passed == "keywords"):
            yield candidate
        elif "decoder_input_ids" not in candidate.inputs:
            start, pad = getattr(config, "decoder_start_token_id", None), getattr(config, "pad_token_id", None)
            shift = ShiftRight(int(start or 0), int(pad or 0))
            yield dataclasses.replace(candidate, shift=shift)
        else:
            yield candidate


def _has_decoder(model: torch.nn.Module) -> bool:
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def _is_narrowed(model: torch.nn.Module, batch: Batches) -> bool:
    import torch

    weights = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    return weights == {torch.float32} and any(
        leaf.dtype == torch.float64 for leaf in batch.batches[0].inputs if isinstance(leaf, torch.Tensor)
    )


def _run(model: torch.nn.Module, first: Batches, seed: int = 0) -> Any:
    """Run a model on a few samples, as a worker will. Raises DataError or ModelError."""
    import torch

    batch = first.batches[0]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            outputs = call(model, first.inputs, batch.inputs)
    except Exception as error:
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in batch.inputs)
        raise DataError(
            f"the inputs of --data do not fit the model: {explain(error)['reason']} (inputs of shape {shapes})"
        ) from None
    for name, leaf in flatten_outputs(outputs)[0]:
        if leaf.is_complex():
            raise ModelError(
                "the model gives complex numbers, which ONNX files cannot: return torch.view_as_real(...) of them"
            )
        if leaf.is_floating_point() and not bool(torch.isfinite(leaf).all()):
            where = f" at {name}" if name else ""
            if bool(torch.isnan(leaf).any()):
                raise ModelError(f"the model's outputs{where} are NaN on the first samples; check its weights")
            raise ModelError(
                f"the model's outputs{where} are infinite on the first samples: mask scores with a large number such "
                "as -1e9 instead of -inf, or check its weights"
            )
    return outputs


def _answers_twice(model: torch.nn.Module, few: Batches) -> Any:
    """Run twice; refuse a model that answers the same input differently. Raises ModelError."""
    import torch

    first, second = _run(model, few), _run(model, few, seed=1)
    mine, theirs = (dict(flatten_outputs(outputs)[0]) for outputs in (first, second))
    if not mine:
        raise ModelError(f"the model returns no tensor but a {type(first).__name__}; return tensors")
    same = mine.keys() == theirs.keys() and all(
        leaf.shape == theirs[name].shape and torch.allclose(leaf.double(), theirs[name].double(), 1e-4, 1e-6)
        for name, leaf in mine.items()
    )
    if not same:
        raise ModelError(
            "the model's answers differ between two runs with the same input: dropout that is always on, noise, or "
            "state kept between calls; switch it off in eval mode, or reset it in forward()"
        )
    return first


def _layout(model: torch.nn.Module, source: Source, batch_dim: int | None) -> Layout:
    """Find where samples lie, and tell the source. Raises ModelError where one sample alone comes out differently."""
    import torch

    first = source.first(2)
    _refuse_absent(batch_dim, first)
    batch = first.batches[0] if first.batches[0].samples > 1 or not first.is_uniform() else first.joined()
    if batch.bytes > 2 * _LARGE_BYTES and first.is_sliceable():
        batch = first.cut(batch, slice(0, max(_RUN_ON, _affordable(first))))

    def run(leaves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            return [leaf for _, leaf in flatten_outputs(call(model, first.inputs, leaves))[0]]

    try:
        found = layout_of(run, Batch(batch.inputs, []), batch_dim)
    except Collapsed as collapsed:
        raise ModelError(
            f"the model gives an output of shape {collapsed.alone} for one sample and of shape {collapsed.together} "
            "for two: a squeeze() in forward drops the dimension of the samples; name the dimension, as squeeze(-1)"
        ) from None
    if batch_dim is None and (not found.is_cut or found.dims[0]):
        _refuse_single_samples(run, source)
    if not first.is_sliceable() and not any(found.dims):
        # Inputs without one row a sample, such as the edges of a graph, are told by their shapes already.
        found = dataclasses.replace(found, is_cut=True) if not found.is_cut and not found.reason else found
    if found.dims[0] and source.is_of_rows and (source.total or 0) > first.batches[0].inputs[0].shape[0]:
        raise DataError(
            f"the model has its samples in dimension {found.dims[0]} of the inputs, arrays are cut along the first; "
            "give batches (a DataLoader, or a list of (inputs, targets)), or --batch-dim 0 if that is wrong"
        )
    dims = (*found.dims, *(_target_dim(leaf, batch, found) for leaf in batch.targets))
    source.lay_out(dims if any(dims) else (), found.is_cut)
    return found


def _refuse_single_samples(run: Any, source: Source) -> None:
    """Raise DataError where the model takes several items of the data stacked, as it takes no item alone."""
    import torch

    batches = source.first(_RUN_ON).batches[:_RUN_ON]
    first = batches[0]
    if len(first.inputs) != 1 or len(first.targets) != 1 or isinstance(first.targets[0], list):
        return
    if len(batches) < 2 or len({tuple(batch.inputs[0].shape) for batch in batches}) > 1:
        return
    target = first.targets[0].shape
    shape = first.inputs[0].shape
    if len(shape) > 1 and tuple(shape[:1]) == tuple(target[:1]):
        return
    try:
        stacked = layout_of(run, Batch([torch.stack([batch.inputs[0] for batch in batches])], []), 0)
    except Exception:
        return
    if stacked.is_cut:
        raise DataError(
            f"items of --data, with inputs of shape {tuple(shape)}, look like single samples rather than batches: give "
            "DataLoader(data, batch_size=64), or a tuple of tensors"
        )


def _refuse_absent(batch_dim: int | None, first: Batches) -> None:
    shape = tuple(first.batches[0].inputs[0].shape)
    if batch_dim is not None and not 0 <= batch_dim < len(shape):
        raise DataError(f"--batch-dim {batch_dim}: inputs have shape {shape}; dimensions count from 0")


def _target_dim(leaf: Leaf, batch: Batch, layout: Layout) -> int:
    if isinstance(leaf, list):
        return 0
    samples = int(batch.inputs[0].shape[layout.dims[0]]) if batch.inputs[0].ndim > layout.dims[0] else 1
    preferred = next((dim for dim in layout.output_dims if dim is not None), 0)
    for dim in sorted(range(leaf.ndim), key=lambda dim: dim != preferred):
        if leaf.shape[dim] == samples:
            return dim
    return 0


def _task(
    model: torch.nn.Module, first: Batches, asked: Asked, layout: Layout, unpacking: Unpacking
) -> tuple[Judging, list[str], Any, Any]:
    """Return the judging, notes, and the judged output and targets of some samples."""
    import torch

    batch = first.joined() if first.is_uniform() else first.batches[0]
    outputs = kept_outputs(_run(model, dataclasses.replace(first, batches=(batch,))))[0]
    targets = unflatten(first.targets, list(batch.targets)) if first.has_targets else None
    dims = dict(zip((name for name, _ in flatten(outputs)[0]), layout.output_dims, strict=False))
    measure = Measure({}, None, Judging(), asked.postprocess)
    try:
        processed = measure.processed(outputs)
    except StageError as error:
        raise MetricError(str(error)) from None
    leaves = {name: leaf for name, leaf in flatten(processed)[0] if isinstance(leaf, torch.Tensor)}
    target = next((leaf for leaf in flatten(targets)[0]), (None, None))[1] if targets is not None else None
    name = _judged_name(leaves, target, asked)
    target_dim = first.dims[len(batch.inputs)] if first.dims and batch.targets else 0
    base = Judging(
        output=name or "",
        output_dim=dims.get(name or "", 0) or 0 if asked.postprocess is None else 0,
        target_dim=target_dim,
        is_cut=layout.is_cut,
    )
    if name is None:
        return base, [], None, targets
    if len(leaves) == 1:
        base = dataclasses.replace(base, output="")
    output = judged_output(processed, base)
    if targets is None:
        finding = _without_targets(output, base, name, asked)
        return finding.judging, list(finding.notes), output, None
    if isinstance(targets, (dict, tuple)) and len(flatten(targets)[0]) > 1:
        return _several_targets(base, targets, asked), [], output, targets
    tensor: Any = targets if isinstance(targets, list) else target
    if isinstance(tensor, torch.Tensor) and target_dim:
        tensor = tensor.movedim(target_dim, 0)
    try:
        causal = is_causal(model) or (_repeats_inputs(tensor, batch) and looks_ahead(output, tensor))
        finding = task_of(output, tensor, base, asked.task, asked.ignore_label, causal)
        if asked.task is None and _has_decoder(model) and finding.judging.task == "token-classification":
            # Its decoder sees the labels before each position already: nothing is shifted.
            finding = dataclasses.replace(finding, judging=dataclasses.replace(finding.judging, task="language-model"))
        if finding.judging.scores == "probabilities" and finding.judging.class_dim is None and not asked.postprocess:
            finding = as_logits(finding) if _leaves_the_unit(model, first, base) else finding
    except DataError:
        if asked.metric is None or asked.metric == "agreement":
            raise
        # A metric of the person's own knows what these targets mean.
        finding = Finding(dataclasses.replace(base, task=asked.task))
    return finding.judging, list(finding.notes), output, targets


def _leaves_the_unit(model: torch.nn.Module, first: Batches, judging: Judging) -> bool:
    """Whether outputs that lie between 0 and 1 are logits, which large inputs drive out of these bounds."""
    batch = first.batches[0]
    for factor in (100.0, -100.0):
        leaves = [leaf * factor if leaf.is_floating_point() else leaf for leaf in batch.inputs]
        with contextlib.suppress(ModelError):
            outputs = kept_outputs(_run(model, dataclasses.replace(first, batches=(Batch(leaves, []),))))[0]
            output = judged_output(outputs, judging)
            if bool(((output < 0) | (output > 1)).any()):
                return True
    return False


def _judged_name(leaves: Mapping[str, torch.Tensor], target: Any, asked: Asked) -> str | None:
    """Return the dotted name of the output that is judged. Raises DataError for one that does not exist."""
    if not leaves:
        return None
    names = list(leaves)
    if asked.output is not None:
        wanted = str(asked.output)
        if wanted in leaves:
            return wanted
        if wanted.lstrip("-").isdigit() and -len(names) <= int(wanted) < len(names):
            return names[int(wanted)]
        raise DataError(f"--output {wanted}: the model has no such output; it has {', '.join(map(repr, names))}")
    if "logits" in leaves:
        return "logits"
    shape = getattr(target, "shape", None)
    fitting = [name for name, leaf in leaves.items() if shape is not None and _fits(leaf, shape)]
    return fitting[0] if fitting else names[0]


def _fits(output: torch.Tensor, shape: Any) -> bool:
    sizes = [size for size in shape if size > 1]
    own = [size for size in output.shape if size > 1]
    return own == sizes or any([*own[:at], *own[at + 1 :]] == sizes for at in range(1, len(own)))


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


def _several_targets(base: Judging, targets: Any, asked: Asked) -> Judging:
    if asked.metric is None or isinstance(asked.metric, str):
        names = ", ".join(name for name, _ in flatten(targets)[0])
        raise DataError(
            f"a batch of --data has several targets ({names}): say which one is judged, with --labels, or give a "
            "metric that takes (outputs, targets)"
        )
    return dataclasses.replace(base, task=asked.task)


def _repeats_inputs(target: Any, batch: Batch) -> bool:
    """Whether labels are the tokens of an input."""
    import torch

    if not isinstance(target, torch.Tensor) or target.ndim != 2 or target.is_floating_point():
        return False
    counted = target >= 0
    return bool(counted.any()) and any(
        leaf.shape == target.shape and not leaf.is_floating_point() and bool((target == leaf)[counted].all())
        for leaf in batch.inputs
    )


def _unpacking_notes(is_narrowed: bool) -> list[str]:
    return ["inputs of float64 are cast to float32, the type of the model's weights"] if is_narrowed else []


def _row_notes(layout: Layout) -> list[str]:
    notes = []
    if not layout.is_cut and layout.reason:
        notes.append(f"batches are judged whole, exactly as they come: {layout.reason}")
    if layout.dims[0]:
        notes.append(f"samples lie in dimension {layout.dims[0]} of the inputs; --batch-dim says otherwise")
    return notes
