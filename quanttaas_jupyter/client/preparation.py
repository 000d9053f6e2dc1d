"""Preparation of a study from objects in a kernel, with all checks that can be made at once."""

from __future__ import annotations

import json
import re
import secrets
import time
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundle import model as models
from ..bundle.batches import Batch, Batches
from ..bundle.data import Source, open_source
from ..bundle.function import Function
from ..bundle.structure import flatten
from ..core.errors import DataError, MetricError, ModelError, QuantTaaSError, RecipeError, did_you_mean
from ..core.failures import first_line, one_line
from ..core.recipe import Recipe, recover_function
from ..core.records.study import StudyRecord
from ..core.versions import versions
from ..techniques.availability import refuse_unavailable
from .inspection import Asked, Inspection, inspect

if TYPE_CHECKING:
    import torch

_CHECK_SAMPLES = 8
"""Samples on which model and metric are tried before submission; chosen, not tuned, to return fast."""
_TOLD_APART_ON = 64
"""Samples that decide between two possible class dimensions; chosen, not tuned."""
_TRAIN_TIMES = 5
"""Training samples, at most, as a multiple of ``max_samples``; chosen, not tuned. More take longer to upload."""
_TRAIN_BYTES = 1 << 30
"""Bytes of training inputs and targets beyond ``max_samples``, at most; chosen, not tuned, to fit into memory."""
_QUANTIZED_HOMES = r"torch\.(ao\.)?nn\.(intrinsic\.)?quantized\.|bitsandbytes\."
"""Modules of Python that hold layers of integers."""
_GIVE_FLOATS = "give the float32 model that it was made from"


@dataclass
class Prepared:
    """Study that passed all early checks: the model is copied already, the data is still to be read."""

    recipe: Recipe
    name: str
    snapshot: models.ModelSnapshot
    sources: dict[str, Source]
    inspection: Inspection
    postprocess: Function | None
    recovery: Function | None
    example: Batch | None
    created: float
    notes: list[str]
    id: str = field(default_factory=lambda: secrets.token_hex(4))

    def draft(self, cluster: str, who: str) -> StudyRecord:
        """Return the study's record as far as it is known before the data is read."""
        return StudyRecord(
            id=self.id,
            name=self.name,
            created=self.created,
            cluster=cluster,
            recipe=self.recipe.model_dump(mode="json"),
            model={**self.snapshot.description, "digest": self.snapshot.digest},
            metric=self.inspection.metric,
            who=who,
            versions={key: value for key, value in versions().items() if key in ("python", "torch", "quanttaas")},
            understanding=self.inspection.understanding,
        )


def prepare(
    model: Any,
    data_: Any,
    recipe: Any,
    calibration: Any,
    train: Any,
    asked: Asked,
    example_inputs: Any,
    name: str | None,
    scratch: Path | None = None,
) -> Prepared:
    """Check the arguments of a study as far as possible without reading all data, and copy the model below ``scratch``.

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
    _refuse_unready(module)
    _refuse_other_precisions(module)
    given = {"eval": data_, "calibration": calibration, "train": train}
    options = {"eval": "--data", "calibration": "--calibration", "train": "--train"}
    sources = {
        key: open_source(value, options[key], parsed.max_samples, parsed.seed, parsed.max_bytes)
        for key, value in given.items()
        if value is not None
    }
    snapshot = models.snapshot(module, scratch)
    inspection = _inspected(_loaded(snapshot), sources["eval"], asked)
    for key in sources.keys() - {"eval"}:
        _understand(sources[key], inspection, sources["eval"])
    if "train" in sources:
        sources["train"] = _with_more(sources["train"], train, parsed)
        _understand(sources["train"], inspection, sources["eval"])
    first = sources["eval"].first()
    return Prepared(
        recipe=parsed,
        name=_checked_name(name or type(module).__name__),
        snapshot=snapshot,
        sources=sources,
        inspection=inspection,
        postprocess=_postprocess(asked.postprocess),
        recovery=_recovery(recipe),
        example=_example(example_inputs, first) if example_inputs is not None else None,
        created=created,
        notes=list(inspection.understanding.notes),
    )


def _inspected(model: torch.nn.Module, source: Source, asked: Asked) -> Inspection:
    try:
        return inspect(model, source, asked)
    except QuantTaaSError:
        raise
    except Exception as error:
        # Models and data do things that nobody foresaw; the cause stays attached.
        raise ModelError(f"model and --data cannot be run together: {one_line(error)}") from error


def _understand(source: Source, inspection: Inspection, evaluation: Source) -> None:
    """Read other data as the evaluation data is read."""
    source.unpack_by(inspection.unpacking, inspection.is_narrowed)
    source.lay_out(evaluation.dims, inspection.layout.is_cut)


def _with_more(source: Source, train: Any, recipe: Recipe) -> Source:
    """Return training data of up to several times ``max_samples``, if memory allows: each sample helps recovery."""
    if source.total is None or source.total < recipe.max_samples:
        return source
    first = source.first()
    fitting = int(_TRAIN_BYTES / max(1.0, first.bytes / first.samples))
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


def _refuse_unknown_modules(module: torch.nn.Module, ignore: tuple[str, ...]) -> None:
    names = {path for path, _ in module.named_modules() if path}
    classes = {type(child).__name__ for child in module.modules()}
    for name in ignore:
        if name not in names and name not in classes:
            hint = did_you_mean(name, names | classes, "name a module such as 'layer1.conv' or a class")
            raise RecipeError(f"ignore: the model has no module or class {name!r}; {hint}")


def _refuse_unready(module: torch.nn.Module) -> None:
    """Raise ModelError where weights do not exist yet, or are integers already."""
    import torch

    for name, child in module.named_modules():
        where = f"its layer {name}" if name else "it"
        if name and isinstance(child, torch.jit.ScriptModule):
            raise ModelError(
                f"the model cannot be sent: {where} is a TorchScript module, which cannot be copied or pruned; use the "
                "nn.Module it was made from"
            )
        if re.match(_QUANTIZED_HOMES, type(child).__module__):
            raise ModelError(f"the model is quantized already: {where} is a {_home_of(child)}; {_GIVE_FLOATS}")
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if torch.nn.parameter.is_lazy(tensor):
            raise ModelError(f"the size of {name} is not known yet: call the lazy model on a batch first")
        if tensor.is_meta:
            raise ModelError(f"{name} is on the meta device and has no values; load the model's weights first")
        if tensor.is_quantized or type(tensor).__module__.startswith("torchao."):
            raise ModelError(f"the model is quantized already: {name} holds integers; {_GIVE_FLOATS}")


def _home_of(child: torch.nn.Module) -> str:
    return f"{type(child).__module__}.{type(child).__name__}"


def _refuse_other_precisions(module: torch.nn.Module) -> None:
    import torch

    for name, parameter in module.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            raise ModelError(
                f"the model's parameter {name} is {str(parameter.dtype).removeprefix('torch.')}, and compression "
                "starts from float32; give model.float(), with inputs and casts in forward() in float32 too"
            )


def _loaded(snapshot: models.ModelSnapshot) -> torch.nn.Module:
    """Return the copied model as a worker will load it."""
    try:
        return models.load(snapshot.path)
    except Exception as error:
        raise ModelError(f"the model cannot be sent: its copy does not load ({first_line(error)})") from None


def _postprocess(function: Any) -> Function | None:
    """Return the notebook's own postprocessing, pickled. Raises MetricError."""
    if function is None:
        return None
    if not callable(function):
        raise MetricError(f"postprocess must be a function of the outputs, not a {type(function).__name__}")
    try:
        return Function.of(function)
    except Exception as error:
        raise MetricError(f"postprocess: the function cannot be sent: {first_line(error)}") from None


def _recovery(recipe: Any) -> Function | None:
    """Return the notebook's own recovery function, pickled, or None."""
    function = recover_function(recipe)
    if function is None:
        return None
    try:
        signature(function).bind(None, None, None)
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
