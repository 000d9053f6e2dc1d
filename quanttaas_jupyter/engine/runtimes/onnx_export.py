"""PyTorch module -> ONNX file whose outputs were compared with the module's.

Tracing is tried first: it is several times faster than ``torch.export`` and expresses recurrent layers. Where tracing
warns that it froze a decision, or its file does not reproduce the module, the exporter on ``torch.export`` takes over.
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

from ...bundle.batches import Batch, Batches, call
from ...bundle.structure import Structure, flatten
from ..failures import StageError

_OPSET = 17
_RELATIVE = 1e-3

Runner = Callable[[Path, "tuple[str, ...]"], Callable[[Sequence[Any]], "list[Any]"]]


@dataclass(frozen=True)
class _Plan:
    """What both exporters need to know."""

    module: Any
    inputs: tuple[Any, ...]
    names: tuple[str, ...]
    outputs: tuple[str, ...]
    dynamic: tuple[dict[int, str], ...]


def export(
    model: Any, examples: Batches, path: Path, run: Runner, report: Callable[[str], None]
) -> tuple[float, dict[str, Any]]:
    """Write the ONNX file.

    Args:
        model: The module, in eval mode.
        examples: Batches to trace with and to compare on, in their own sizes and in a size of one or two.
        path: Where the file goes.
        run: Opens a file; the session takes arrays and returns arrays.
        report: Called with a line for the log.

    Returns:
        The largest absolute difference of outputs, and what loading needs.

    Raises:
        StageError: Neither exporter can express the module; the operator or line is named.
    """
    probes = _probes(examples)
    flat = _flat(model, examples.inputs)
    answers = [_arrays(flat(*batch.inputs)) for batch in probes]
    structure = flat.structure
    if any(not np.isfinite(array).all() for answer in answers for array in answer if array.dtype.kind == "f"):
        raise StageError("the model's outputs are not finite (NaN or infinity)", "check its weights and inputs")
    names = tuple(_identifier(name) for name in examples.names)
    outputs = tuple(f"output_{i}" if len(answers[0]) > 1 else "output" for i in range(len(answers[0])))
    plan = _Plan(flat, tuple(probes[0].inputs), names, outputs, _dynamic(examples, probes))
    about = {"inputs": examples.inputs, "input_names": list(names), "outputs": structure}

    def compare() -> float:
        return _difference(run(path, names), probes, answers)

    first = _attempt(lambda: _trace(plan, path), compare)
    if first.error is not None:
        return first.error, about
    report(f"tracing does not reproduce the model ({first.problem}); trying torch.export")
    second = _attempt(lambda: _torch_export(plan, path), compare)
    if second.error is not None:
        return second.error, about
    raise StageError(f"ONNX cannot express this model: {_clearest(first, second)}", _hint(first, second))


def _identifier(name: str) -> str:
    """A name for a graph's input: exporters give numbers and empty names a meaning of their own."""
    found = re.sub(r"\W", "_", name)
    return found if found and not found[0].isdigit() else f"input_{found}".rstrip("_")


@dataclass(frozen=True)
class _Attempt:
    error: float | None
    problem: str = ""


def _attempt(write: Callable[[], None], compare: Callable[[], float]) -> _Attempt:
    try:
        with _quiet(), _open_attention():
            write()
        return _Attempt(compare())
    except _Mismatch as mismatch:
        return _Attempt(None, str(mismatch))
    except Exception as error:
        return _Attempt(None, _named(error))


class _Mismatch(Exception):
    """The file exists but does not do what the module does."""


def _difference(session: Callable[[Sequence[Any]], list[Any]], probes: list[Batch], answers: list[list[Any]]) -> float:
    worst = 0.0
    for batch, expected in zip(probes, answers, strict=True):
        found = session([leaf.numpy() for leaf in batch.inputs])
        for mine, theirs in zip(found, expected, strict=True):
            if mine.shape != theirs.shape:
                raise _Mismatch(f"its file gives {mine.shape} where the model gives {theirs.shape}")
            if not mine.size:
                continue
            difference = float(np.abs(mine.astype(np.float64) - theirs.astype(np.float64)).max())
            scale = float(np.abs(theirs.astype(np.float64)).max()) + 1e-6
            if not difference <= _RELATIVE * scale + 1e-5:
                raise _Mismatch(f"its file differs from the model by {difference:.2g}")
            worst = max(worst, difference)
    return worst


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
    # Without values read from tensors only sizes decide; what those freeze shows in the comparison.
    for warning in caught if _reads_values(plan) else ():
        if "Python boolean" in str(warning.message):
            where = f"{Path(warning.filename).name}:{warning.lineno}"
            raise _Mismatch(f"forward() decides by the values of a tensor at {where}")


def _reads_values(plan: _Plan) -> bool:
    """Whether the module takes numbers or truths out of tensors while it runs."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        reads = False

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.reads |= func._schema.name in ("aten::_local_scalar_dense", "aten::equal", "aten::is_nonzero")
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), Watch() as watch:
        plan.module(*plan.inputs)
    return watch.reads


@contextlib.contextmanager
def _open_attention() -> Iterator[None]:
    """No exporter knows the fused attention that PyTorch takes in eval mode."""
    import torch

    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


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


def _probes(examples: Batches) -> list[Batch]:
    """At least two batches of different sizes where batches may be cut; tracing sees two samples or more."""
    head = examples.head(256)
    if not head.is_sliceable():
        return list(head.batches[:2])
    first = head.batches[0]
    size = max(2, min(first.samples, 16))
    whole = examples.head(size).rebatched(size).batches[0]
    small = Batch([leaf[:1] for leaf in whole.inputs], [])
    others = list(head.batches[1:3])
    return [Batch(whole.inputs, []), small, *others]


def _dynamic(examples: Batches, probes: list[Batch]) -> tuple[dict[int, str], ...]:
    """Which dimensions vary: the batch, and whatever differs between batches of the data."""
    is_sliceable = examples.is_sliceable()
    found: list[dict[int, str]] = []
    for position, leaf in enumerate(probes[0].inputs):
        dims = {0: "batch"} if is_sliceable and leaf.ndim else {}
        for dim in range(1 if is_sliceable else 0, leaf.ndim):
            if len({batch.inputs[position].shape[dim] for batch in examples.batches}) > 1:
                dims[dim] = f"dim_{dim}"
        found.append(dims)
    return tuple(found)


def _flat(model: Any, inputs: Structure) -> Any:
    import torch

    class Flat(torch.nn.Module):
        """The model with tensors in a row going in and coming out."""

        structure: Structure = None

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *leaves: Any) -> tuple[Any, ...]:
            outputs = call(self.model, inputs, leaves)
            found, self.structure = flatten(outputs)
            wrong = [name or "output" for name, leaf in found if not isinstance(leaf, torch.Tensor)]
            if wrong:
                raise StageError(
                    f"the model returns something that is no tensor at {wrong[0]}",
                    "return tensors, or tuples, lists or dicts of them",
                )
            return tuple(leaf for _, leaf in found)

    flat = Flat().eval()
    for parameter in flat.parameters():
        parameter.requires_grad_(False)
    return flat


def _arrays(outputs: tuple[Any, ...]) -> list[Any]:
    return [leaf.detach().numpy() for leaf in outputs]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.getLogger("torch.onnx").setLevel(level)


def _named(error: Exception) -> str:
    """The operator, or else the line, that an exporter stumbled over."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    operator = re.search(r"operator '?((?:aten|prim|torchvision|\w+)::[\w.]+)'?", text)
    if operator:
        return f"it has no operator {operator.group(1)}"
    missing = re.search(r"No (?:ONNX function|decompositions registered) found for <OpOverload\(op='([\w.]+)'", text)
    if missing:
        return f"it has no operator {missing.group(1)}"
    decision = re.search(r"(Could not guard on data-dependent expression|data-dependent).*", text)
    line = re.findall(r'File "([^"]+)", line (\d+), in forward', text) or re.findall(
        r"\(([\w<>/.-]+):(\d+) in forward\)", text
    )
    where = f" at {Path(line[-1][0]).name}:{line[-1][1]}" if line else ""
    if decision:
        return f"forward() decides by the values of a tensor{where}"
    summary = re.search(r"<class '[\w.]*?(\w+)'>: (.+)", text)
    if summary:
        return f"{summary.group(2).strip()[:200]}{where}"
    lines = [part for part in text.strip().splitlines() if part.strip()]
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}{where}"


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
