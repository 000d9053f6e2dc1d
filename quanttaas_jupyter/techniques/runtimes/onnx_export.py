"""Export of a PyTorch module to an ONNX file, whose outputs are compared with the module's.

Tracing is tried first: it is several times faster than ``torch.export`` and supports recurrent layers. If tracing warns
that it froze a decision, or its file does not reproduce the module, the exporter on ``torch.export`` is used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...bundle.batches import Batches
from ...core.failures import StageError
from ...core.records.artifact import Signature
from ..attention import layer_by_layer
from . import onnx_parts
from .export_check import Mismatch, all_probes, arrays_of, difference, flattened, named, one_by_one, varying

if TYPE_CHECKING:
    import torch

_OPSET = 17
"""Opset of traced files: the first with LayerNormalization."""

_CHECKS_ARGUMENTS = str(Path("torch/nn/modules/rnn.py"))
"""Torch's recurrent layers compare sizes and decide nothing by them but whether to raise."""

Runner = Callable[[Path, "tuple[str, ...]"], Callable[[Sequence[Any]], "list[Any]"]]


@dataclass(frozen=True)
class _Plan:
    """Arguments of both exporters."""

    module: torch.nn.Module
    inputs: tuple[torch.Tensor, ...]
    names: tuple[str, ...]
    outputs: tuple[str, ...]
    dynamic: tuple[dict[int, str], ...]

    def of_one_sample(self) -> _Plan:
        """Return the plan of a file that takes a batch of one."""
        inputs = tuple(leaf[:1] for leaf in self.inputs)
        dynamic = tuple({dim: name for dim, name in dims.items() if name != "batch"} for dims in self.dynamic)
        return dataclasses.replace(self, inputs=inputs, dynamic=dynamic)


def export(
    model: torch.nn.Module, examples: Batches, path: Path, run: Runner, report: Callable[[str], None]
) -> tuple[float, Signature]:
    """Write the ONNX file of a module.

    Args:
        model: The module, in eval mode.
        examples: Batches to trace with and to compare on, in their own sizes and in a size of one or two.
        path: Path for the file.
        run: Opens a file; the session takes arrays and returns arrays.
        report: Called with lines for the log.

    Returns:
        The largest absolute difference of the outputs, and the signature of the file.

    Raises:
        StageError: Neither exporter can express the module; the message names the operator or line.
    """
    flat = flattened(model, examples.inputs)
    probes = all_probes(flat, examples)
    answers = [arrays_of(flat(*batch.inputs)) for batch in probes]
    structure = flat.structure
    if any(not np.isfinite(array).all() for answer in answers for array in answer if array.dtype.kind == "f"):
        raise StageError("the model's outputs are not finite (NaN or infinity)", "check its weights and inputs")
    names = tuple(_identifier(name) for name in examples.names)
    outputs = tuple(f"output_{i}" if len(answers[0]) > 1 else "output" for i in range(len(answers[0])))
    plan = _Plan(flat, tuple(probes[0].inputs), names, outputs, varying(examples, probes))
    signature = Signature(examples.inputs, names, structure)

    def compare(file: Path = path) -> float:
        return difference(run(file, names), probes, answers)

    def compare_one_by_one(file: Path = path) -> float:
        return difference(one_by_one(run(file, names)), probes, answers)

    attempts = []
    for name, write in (("tracing", _trace), ("torch.export", _torch_export), ("strict torch.export", _strict_export)):
        attempts.append(_attempt(functools.partial(write, plan, path), compare))
        if attempts[-1].error is not None:
            return _leaner(attempts[-1].error, path, compare, report), signature
        report(f"{name} does not reproduce the model: {attempts[-1].problem}")
    if examples.is_sliceable() and not any(examples.dims):
        for write in (_trace, _torch_export):
            found = _attempt(functools.partial(write, plan.of_one_sample(), path), compare_one_by_one)
            if found.error is not None:
                reason = _clearest(attempts)
                fixed = dataclasses.replace(signature, fixed_batch=1, why_fixed=f"{FIXED}: {reason}")
                return _leaner(found.error, path, compare_one_by_one, report), fixed
    raise StageError(f"ONNX cannot express this model: {_reasons(attempts)}", _hint(attempts))


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
        onnx_parts.make_one(path)
    return error


def _identifier(name: str) -> str:
    """Return a name for a graph's input; exporters treat numbers and empty names specially."""
    found = re.sub(r"\W", "_", name)
    return found if found and not found[0].isdigit() else f"input_{found}".rstrip("_")


FIXED = "the file takes one sample at a time, since neither exporter lets its batch vary"


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
        name: {dim: label if label == "batch" else f"{name}_{dim}" for dim, label in dims.items()}
        for name, dims in zip(plan.names, plan.dynamic, strict=True)
    }
    if any(dims.get(0) == "batch" for dims in plan.dynamic):
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
        if "Python boolean" in str(warning.message) and not warning.filename.endswith(_CHECKS_ARGUMENTS):
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
        external_data=_is_large(plan.module),
        dynamo=True,
        verbose=False,
    )


def _strict_export(plan: _Plan, path: Path) -> None:
    """Export through Dynamo, which follows Python such as ``len(x)`` that the other way takes for a constant."""
    import torch

    shapes = tuple(dict.fromkeys(dims, torch.export.Dim.DYNAMIC) for dims in plan.dynamic)
    program = torch.export.export(plan.module, plan.inputs, dynamic_shapes=(shapes,), strict=True)
    torch.onnx.export(
        program,
        (),
        str(path),
        input_names=list(plan.names),
        output_names=list(plan.outputs),
        external_data=_is_large(plan.module),
        dynamo=True,
        verbose=False,
    )


def _is_large(module: torch.nn.Module) -> bool:
    """Return whether the weights of a module lie beside the file that the exporter writes."""
    tensors = (*module.parameters(), *module.buffers())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) > onnx_parts.MOST


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.getLogger("torch.onnx").setLevel(level)


def _clearest(attempts: Sequence[_Attempt]) -> str:
    """Return the problem that names an operator or a line of the person's, or that of the newer exporter."""
    for sign in ("operator", "decides by", ".py:", "<ipython"):
        for attempt in attempts:
            if sign in attempt.problem:
                return attempt.problem
    return attempts[1].problem


def _reasons(attempts: Sequence[_Attempt]) -> str:
    """Return what each exporter says, the clearest first."""
    first = _clearest(attempts)
    others = list(dict.fromkeys(attempt.problem for attempt in attempts if attempt.problem != first))
    return "; also: ".join([first, *others])


def _hint(attempts: Sequence[_Attempt]) -> str:
    problem = _clearest(attempts)
    if "decides by" in problem:
        return "write it without a branch, for example with torch.where"
    if "operator" in problem:
        return "replace that operation in forward()"
    return "see the log; the model may need a forward() without Python side effects"
