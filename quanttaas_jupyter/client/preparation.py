"""Preparation of a study from objects in a kernel, with all checks that can be made at once."""

from __future__ import annotations

import inspect
import json
import re
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from ..bundle import metric as metrics
from ..bundle import model as models
from ..bundle.batches import Batch, Batches, call
from ..bundle.data import Source, open_source
from ..bundle.function import Function
from ..bundle.structure import flatten, unflatten
from ..core.errors import DataError, MetricError, ModelError, QuantTaaSError, RecipeError, did_you_mean
from ..core.failures import StageError, first_line
from ..core.recipe import Recipe, recover_function
from ..core.versions import versions
from ..techniques.availability import refuse_unavailable
from ..techniques.evaluate import predictions
from ..techniques.evaluate.metrics import score
from ..views import format as fmt

_CHECK_SAMPLES = 8
"""Samples on which model and metric are tried before submission; chosen, not tuned, to return fast."""
_TOLD_APART_ON = 64
"""Samples that decide between two possible class dimensions; chosen, not tuned."""
_TRAIN_TIMES = 5
"""Training samples, at most, as a multiple of ``max_samples``; chosen, not tuned. More take longer to upload."""
_TRAIN_BYTES = 1 << 30
"""Bytes of training inputs and targets beyond ``max_samples``, at most; chosen, not tuned, to fit into memory."""
_FORMAT = 1
"""Version of the study record, for later readers; nothing reads it yet."""


@dataclass
class Prepared:
    """Study that passed all early checks: the model is copied already, the data is still to be read."""

    recipe: Recipe
    name: str
    snapshot: models.ModelSnapshot
    sources: dict[str, Source]
    metric: dict[str, Any]
    metric_pickle: bytes | None
    class_dim: int | None
    recovery: Function | None
    example: Batch | None
    created: float
    notes: list[str]
    id: str = field(default_factory=lambda: secrets.token_hex(4))

    def draft(self, cluster: str, who: str) -> dict[str, Any]:
        """Return the study's record as far as it is known before the data is read."""
        return {
            "format": _FORMAT,
            "id": self.id,
            "name": self.name,
            "created": self.created,
            "who": who,
            "cluster": cluster,
            "versions": {key: value for key, value in versions().items() if key in ("python", "torch", "quanttaas")},
            "recipe": self.recipe.model_dump(mode="json"),
            "model": {**self.snapshot.description, "digest": self.snapshot.digest},
            "metric": self.metric,
            "class_dim": self.class_dim,
            "notes": [],
        }


def prepare(
    model: Any,
    data_: Any,
    recipe: Any,
    calibration: Any,
    train: Any,
    metric: Any,
    example_inputs: Any,
    name: str | None,
) -> Prepared:
    """Check the arguments of a study as far as possible without reading all data, and copy the model.

    Raises:
        QuantTaaSError: An argument is wrong; one sentence says what was expected.
    """
    created = time.time()
    parsed = Recipe.parse(recipe)
    refuse_unavailable(parsed)
    if data_ is None:
        raise DataError("no evaluation data; give data=test_loader (in a cell: --data test_loader)")
    module = models.unwrapped(model)
    _refuse_unknown_modules(module, parsed.ignore)
    _refuse_other_precisions(module)
    given = {"eval": data_, "calibration": calibration, "train": train}
    options = {"eval": "--data", "calibration": "--calibration", "train": "--train"}
    sources = {
        key: open_source(value, options[key], parsed.max_samples, parsed.seed)
        for key, value in given.items()
        if value is not None
    }
    if "train" in sources:
        sources["train"] = _with_more(sources["train"], train, parsed)
    snapshot = models.snapshot(module)
    first = sources["eval"].first()
    reference, pickled = metrics.reference(metric, first)
    example = _example(example_inputs, first) if example_inputs is not None else None
    runner = _loaded(snapshot)
    outputs = _run(runner, first, example or first.head(_CHECK_SAMPLES).batches[0])
    class_dim, notes = _class_dim(runner, first, outputs, is_of_data=example is None)
    _try_metric(reference, metric, first, outputs, class_dim)
    if reference["name"] == "agreement" and class_dim is None:
        notes.append(
            "agreement: the outputs are no class scores, so it is R2 against the outputs of the original model"
        )
    return Prepared(
        recipe=parsed,
        name=_checked_name(name or type(module).__name__),
        snapshot=snapshot,
        sources=sources,
        metric=reference,
        metric_pickle=pickled,
        class_dim=class_dim,
        recovery=_recovery(recipe),
        example=example,
        created=created,
        notes=notes,
    )


def _with_more(source: Source, train: Any, recipe: Recipe) -> Source:
    """Return training data of up to several times ``max_samples``, if memory allows: each sample helps recovery."""
    if source.total is None or source.total < recipe.max_samples:
        return source
    first = source.first()
    size = sum(leaf.numel() * leaf.element_size() for batch in first.batches for leaf in batch.leaves)
    fitting = int(_TRAIN_BYTES / max(1.0, size / first.samples))
    limit = min(_TRAIN_TIMES * recipe.max_samples, fitting)
    return open_source(train, "--train", limit, recipe.seed) if limit > recipe.max_samples else source


def _example(example_inputs: Any, first: Batches) -> Batch:
    leaves, structure = flatten(example_inputs)
    wanted = first.inputs
    if wanted == "tensor" and isinstance(structure, list) and len(leaves) == 1:
        structure = wanted
    if structure != wanted:
        raise DataError(f"example_inputs are nested unlike the inputs of --data: {_shape_of(structure, wanted)}")
    return Batch([leaf.detach().cpu().clone() for _, leaf in leaves], [])


def _shape_of(mine: Any, theirs: Any) -> str:
    return f"{json.dumps(mine)} instead of {json.dumps(theirs)}"


def _refuse_unknown_modules(module: Any, ignore: tuple[str, ...]) -> None:
    names = {path for path, _ in module.named_modules() if path}
    classes = {type(child).__name__ for child in module.modules()}
    for name in ignore:
        if name not in names and name not in classes:
            hint = did_you_mean(name, names | classes, "name a module such as 'layer1.conv' or a class")
            raise RecipeError(f"ignore: the model has no module or class {name!r}; {hint}")


def _refuse_other_precisions(module: Any) -> None:
    import torch

    for name, parameter in module.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            raise ModelError(
                f"the model's parameter {name} is {str(parameter.dtype).removeprefix('torch.')}, and compression "
                "starts from float32; give model.float(), with inputs and casts in forward() in float32 too"
            )


def _loaded(snapshot: models.ModelSnapshot) -> Any:
    """Return the copied model as a worker will load it."""
    try:
        return models.loads(snapshot.data)
    except Exception as error:
        raise ModelError(f"the model cannot be sent: its copy does not load ({first_line(error)})") from None


def _run(model: Any, first: Batches, batch: Batch) -> Any:
    """Run a model on a few samples, as a worker will."""
    import torch

    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            outputs = call(model, first.inputs, batch.inputs)
    except Exception as error:
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in batch.inputs)
        raise DataError(
            f"the inputs of --data do not fit the model: {first_line(error)} (inputs of shape {shapes})"
        ) from None
    for name, leaf in flatten(outputs)[0]:
        if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and not bool(torch.isfinite(leaf).all()):
            where = f" at {name}" if name else ""
            raise ModelError(f"the model's outputs{where} are NaN or infinite on the first samples; check its weights")
    return outputs


def _try_metric(reference: dict[str, Any], metric: Any, first: Batches, outputs: Any, class_dim: int | None) -> None:
    batch = first.head(_CHECK_SAMPLES).batches[0]
    if reference["name"] == "agreement" or predictions.main_output(outputs).shape[:1] != (batch.samples,):
        return
    function = metric[0] if isinstance(metric, tuple) else metric
    targets = None
    if first.has_targets:
        targets = unflatten(first.targets, list(batch.targets))
    try:
        score(reference, function, predictions.Predictions(outputs, targets, class_dim=class_dim))
    except StageError as error:
        # A few samples may lack a class or all variance, so only outputs of the wrong shape or kind are refused here.
        if "cannot be computed" in error.reason or "do not fit" in error.reason:
            raise MetricError(str(error)) from None


def _class_dim(model: Any, first: Batches, outputs: Any, is_of_data: bool) -> tuple[int | None, list[str]]:
    """Return the dimension of the main output with one score per class, or None, and a note if it is a guess.

    Args:
        model: The copied model.
        first: The first batch.
        outputs: Outputs of the model when it was tried.
        is_of_data: Whether those were for the first samples of ``first``.
    """
    main = predictions.main_output(outputs)
    if not main.is_floating_point() or main.ndim < 2:
        return None, []
    if not first.has_targets:
        return _class_dim_without_labels(outputs, main)
    batch = first.head(_CHECK_SAMPLES).batches[0]
    targets = _targets(first, batch)
    if targets.is_floating_point():
        return None, []
    main = main if is_of_data else predictions.main_output(_run(model, first, batch))
    fitting = predictions.class_dims(main, targets)
    if len(fitting) > 1:
        return _better_class_dim(model, first, fitting)
    if not fitting and main.ndim == 2 and main.shape[1] > 1 and main.shape != targets.shape:
        # The targets hold more than labels, for a metric of the user's own.
        fitting = [1]
    return (fitting[0] if fitting else None), []


def _class_dim_without_labels(outputs: Any, main: Any) -> tuple[int | None, list[str]]:
    if isinstance(outputs, dict) and "logits" in outputs:
        # Scores of sequences have the classes in the last dimension, those of images in dimension 1.
        return (2 if main.ndim == 3 else 1), []
    if main.ndim > 2 or main.shape[1] == 1:
        return None, []
    return 1, [f"without labels, the {main.shape[1]} outputs of a sample are taken for scores of as many classes"]


def _better_class_dim(model: Any, first: Batches, fitting: list[int]) -> tuple[int, list[str]]:
    """Return the dimension, among those that fit, along which more of the first labels are correct, and a note."""
    batch = first.head(_TOLD_APART_ON).batches[0]
    main, targets = predictions.main_output(_run(model, first, batch)), _targets(first, batch)
    shares = {dim: predictions.right_share(main, targets, dim) for dim in fitting}
    best, other = sorted(fitting, key=lambda dim: -shares[dim])
    return best, [
        f"outputs of shape {tuple(main.shape)} are read with classes in dimension {best}: {fmt.share(shares[best])} of "
        f"the first labels are right then, {fmt.share(shares[other])} with dimension {other}"
    ]


def _targets(first: Batches, batch: Batch) -> Any:
    return predictions.main_output(unflatten(first.targets, list(batch.targets)))


def _recovery(recipe: Any) -> Function | None:
    """Return the notebook's own recovery function, pickled, or None."""
    function = recover_function(recipe)
    if function is None:
        return None
    try:
        inspect.signature(function).bind(None, None, None)
    except TypeError:
        raise RecipeError("recover: a function of the notebook takes model, teacher and batches") from None
    try:
        return Function.of(function)
    except Exception as error:
        raise RecipeError(f"recover: the function cannot be sent: {first_line(error)}") from None


def _checked_name(name: str) -> str:
    cleaned = re.sub(r"\s+", " ", str(name)).strip()
    if not cleaned or len(cleaned) > 80:
        raise QuantTaaSError("the name of a study has 1 to 80 characters")
    return cleaned
