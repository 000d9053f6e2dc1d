"""Export of a PyTorch module to an ONNX file, whose outputs are compared with the module's.

Tracing is tried first: it is several times faster than ``torch.export`` and supports recurrent layers. If tracing warns
that it froze a decision, or its file does not reproduce the module, the exporter on ``torch.export`` is used.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...bundle.batches import Batches
from ...core.failures import StageError
from ..attention import layer_by_layer
from .export_check import Mismatch, arrays_of, difference, flattened, named, probes_of, varying

_OPSET = 17
"""Opset of traced files: the first with LayerNormalization."""

Runner = Callable[[Path, "tuple[str, ...]"], Callable[[Sequence[Any]], "list[Any]"]]


@dataclass(frozen=True)
class _Plan:
    """Arguments of both exporters."""

    module: Any
    inputs: tuple[Any, ...]
    names: tuple[str, ...]
    outputs: tuple[str, ...]
    dynamic: tuple[dict[int, str], ...]


def export(
    model: Any, examples: Batches, path: Path, run: Runner, report: Callable[[str], None]
) -> tuple[float, dict[str, Any]]:
    """Write the ONNX file of a module.

    Args:
        model: The module, in eval mode.
        examples: Batches to trace with and to compare on, in their own sizes and in a size of one or two.
        path: Path for the file.
        run: Opens a file; the session takes arrays and returns arrays.
        report: Called with lines for the log.

    Returns:
        The largest absolute difference of the outputs, and the facts needed for loading.

    Raises:
        StageError: Neither exporter can express the module; the message names the operator or line.
    """
    probes = probes_of(examples)
    flat = flattened(model, examples.inputs)
    answers = [arrays_of(flat(*batch.inputs)) for batch in probes]
    structure = flat.structure
    if any(not np.isfinite(array).all() for answer in answers for array in answer if array.dtype.kind == "f"):
        raise StageError("the model's outputs are not finite (NaN or infinity)", "check its weights and inputs")
    names = tuple(_identifier(name) for name in examples.names)
    outputs = tuple(f"output_{i}" if len(answers[0]) > 1 else "output" for i in range(len(answers[0])))
    plan = _Plan(flat, tuple(probes[0].inputs), names, outputs, varying(examples, probes))
    signature = {"inputs": examples.inputs, "input_names": list(names), "outputs": structure}

    def compare(file: Path = path) -> float:
        return difference(run(file, names), probes, answers)

    first = _attempt(lambda: _trace(plan, path), compare)
    if first.error is not None:
        return _leaner(first.error, path, compare, report), signature
    report(f"tracing does not reproduce the model ({first.problem}); trying torch.export")
    second = _attempt(lambda: _torch_export(plan, path), compare)
    if second.error is not None:
        return _leaner(second.error, path, compare, report), signature
    raise StageError(f"ONNX cannot express this model: {_clearest(first, second)}", _hint(first, second))


def _leaner(error: float, path: Path, compare: Callable[[Path], float], report: Callable[[str], None]) -> float:
    """Remove names and traces from the file if it still reproduces the module then, and return its difference."""
    from .onnx_compaction import make_lean

    lean = path.with_name(f"lean-{path.name}")
    try:
        with _quiet():
            make_lean(path, lean)
        error = compare(lean)
        lean.replace(path)
    except Exception as problem:
        report(f"the file keeps its names: {named(problem)}")
        lean.unlink(missing_ok=True)
    return error


def _identifier(name: str) -> str:
    """Return a name for a graph's input; exporters treat numbers and empty names specially."""
    found = re.sub(r"\W", "_", name)
    return found if found and not found[0].isdigit() else f"input_{found}".rstrip("_")


@dataclass(frozen=True)
class _Attempt:
    error: float | None
    problem: str = ""


def _attempt(write: Callable[[], None], compare: Callable[[], float]) -> _Attempt:
    try:
        with _quiet(), layer_by_layer():
            write()
        return _Attempt(compare())
    except Mismatch as mismatch:
        return _Attempt(None, str(mismatch))
    except Exception as error:
        return _Attempt(None, named(error))


def _trace(plan: _Plan, path: Path) -> None:
    import torch

    axes = {
        name: {dim: f"{name}_{dim}" if dim else label for dim, label in dims.items()}
        for name, dims in zip(plan.names, plan.dynamic, strict=True)
    }
    axes.update({name: {0: "batch"} for name in plan.outputs})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.onnx.export(
            plan.module,
            plan.inputs,
            str(path),
            input_names=list(plan.names),
            output_names=list(plan.outputs),
            dynamic_axes=axes,
            opset_version=_OPSET,
            dynamo=False,
        )
    # If no values are read from tensors, only sizes can be frozen, which the comparison at several sizes finds.
    for warning in caught if _reads_values(plan) else ():
        if "Python boolean" in str(warning.message):
            where = f"{Path(warning.filename).name}:{warning.lineno}"
            raise Mismatch(f"forward() decides by the values of a tensor at {where}")


def _reads_values(plan: _Plan) -> bool:
    """Return whether the module reads numbers or booleans out of tensors while it runs."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        reads = False

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.reads |= func._schema.name in ("aten::_local_scalar_dense", "aten::equal", "aten::is_nonzero")
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), Watch() as watch:
        plan.module(*plan.inputs)
    return bool(watch.reads)


def _torch_export(plan: _Plan, path: Path) -> None:
    import torch

    shapes = tuple(dict.fromkeys(dims, torch.export.Dim.DYNAMIC) for dims in plan.dynamic)
    torch.onnx.export(
        plan.module,
        plan.inputs,
        str(path),
        input_names=list(plan.names),
        output_names=list(plan.outputs),
        dynamic_shapes=(shapes,),
        external_data=False,
        dynamo=True,
        verbose=False,
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.getLogger("torch.onnx").setLevel(level)


def _clearest(first: _Attempt, second: _Attempt) -> str:
    for attempt in (first, second):
        if "operator" in attempt.problem or "decides by" in attempt.problem:
            return attempt.problem
    return second.problem


def _hint(first: _Attempt, second: _Attempt) -> str:
    problem = _clearest(first, second)
    if "decides by" in problem:
        return "write it without a branch, for example with torch.where"
    if "operator" in problem:
        return "replace that operation in forward()"
    return "see the log; the model may need a forward() without Python side effects"
