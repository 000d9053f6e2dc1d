"""Helpers of runtimes that build from a module: probe batches, a flat module, and the comparison of outputs."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...bundle.batches import Batch, Batches, call
from ...bundle.outputs import flatten_outputs
from ...bundle.structure import Structure
from ...core.failures import StageError, one_line
from ...core.records.artifact import Signature
from . import Session

if TYPE_CHECKING:
    import torch

_RELATIVE = 1e-3
"""Largest difference of an exported file, relative to the largest output; chosen, not tuned. Smaller refuses more."""
_MOST = 16
"""Samples that are exported with and compared; chosen, not tuned."""
_PROBE_BYTES = 64 << 20
"""Bytes of their outputs, above which there are fewer; chosen, not tuned."""
_PART = 1 << 20
"""Numbers that are copied to double precision at once; chosen, not tuned."""


class Mismatch(Exception):
    """The exported file exists, but does not reproduce the module."""


def difference(session: Callable[[Sequence[Any]], list[Any]], probes: list[Batch], answers: list[list[Any]]) -> float:
    """Return the largest absolute difference between the outputs of a file and those of the module.

    Raises:
        Mismatch: A shape differs, or the difference exceeds a thousandth of the largest output.
    """
    worst = 0.0
    for batch, expected in zip(probes, answers, strict=True):
        outputs = session([leaf.numpy() for leaf in batch.inputs])
        for mine, theirs in zip(outputs, expected, strict=True):
            if mine.shape != theirs.shape:
                raise Mismatch(f"its file gives {mine.shape} where the model gives {theirs.shape}")
            if not mine.size:
                continue
            difference, scale = _apart(mine, theirs)
            if not difference <= _RELATIVE * scale + 1e-5:
                raise Mismatch(f"its file differs from the model by {difference:.2g}")
            worst = max(worst, difference)
    return worst


def _apart(mine: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """Return the largest absolute difference and the scale of outputs, a part of them at a time."""
    worst, scale = 0.0, 0.0
    mine, theirs = mine.reshape(-1), theirs.reshape(-1)
    for start in range(0, len(mine), _PART):
        part = theirs[start : start + _PART].astype(np.float64)
        apart = np.abs(mine[start : start + _PART] - part).max()
        # NaN is larger than anything.
        worst = float(np.maximum(worst, apart))
        scale = float(np.maximum(scale, np.abs(part).max()))
    return worst, scale + 1e-6


def probes_of(examples: Batches, most: int = _MOST) -> list[Batch]:
    """Return at least two batches of different sizes if batches can be cut; the first has two samples or more.

    Args:
        examples: The samples.
        most: Samples of a batch, at most, if batches can be cut.
    """
    head = examples.head(256)
    if not head.is_sliceable():
        return list(head.batches[:2])
    first = head.batches[0]
    size = max(2, min(first.samples, most))
    whole = examples.head(size).rebatched(size).batches[0]
    small = examples.cut(whole, slice(0, 1))
    others = [examples.cut(batch, slice(0, 4 * most)) for batch in head.batches[1 : 3 if most == _MOST else 2]]
    return [dataclasses.replace(whole, targets=[]), small, *others]


def all_probes(flat: torch.nn.Module, examples: Batches) -> list[Batch]:
    """Return ``probes_of`` and batches of the other sizes that the study's data has, where the module takes them.

    Of samples with large outputs there are few.
    """
    probes = probes_of(examples, max(1, min(_MOST, _PROBE_BYTES // _output_bytes(flat, examples))))
    for other in resized(probes[0], examples):
        # A module that cannot run at a size is told so where the data of that size is judged.
        with contextlib.suppress(Exception):
            flat(*other.inputs)
            probes.append(other)
    return probes


def _output_bytes(flat: torch.nn.Module, examples: Batches) -> int:
    """Return the bytes of a sample's outputs; 1 if the module takes no single sample."""
    with contextlib.suppress(Exception):
        if examples.is_sliceable():
            return sum(leaf.nbytes for leaf in flat(*examples.head(1).batches[0].inputs))
    return 1


def one_by_one(session: Callable[[Sequence[Any]], list[Any]]) -> Callable[[Sequence[Any]], list[Any]]:
    """Return a session that runs a file of batch one sample after sample, and joins the outputs."""

    def run(arrays: Sequence[Any]) -> list[Any]:
        parts = [session([array[row : row + 1] for array in arrays]) for row in range(len(arrays[0]))]
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    return run


def as_built(session: Session, signature: Signature) -> Session:
    """Return a session that takes every batch size, whatever its file takes."""
    return one_by_one(session) if signature.fixed_batch else session


def resized(batch: Batch, examples: Batches) -> list[Batch]:
    """Batches of the smallest and the largest sizes that any data of the study has, filled with repeated samples."""
    found = []
    for end in (0, 1):
        leaves = []
        for leaf, sizes in zip(batch.inputs, examples.sizes or ({},) * len(batch.inputs), strict=True):
            for dim, ends in sizes.items():
                leaf = leaf.index_select(dim, _positions(ends[end]) % leaf.shape[dim])
            leaves.append(leaf)
        found.append(dataclasses.replace(batch, inputs=leaves, targets=[]))
    seen = {tuple(leaf.shape for leaf in other.inputs) for other in examples.batches}
    return [other for other in found if tuple(leaf.shape for leaf in other.inputs) not in seen]


def varying(examples: Batches, probes: list[Batch]) -> tuple[dict[int, str], ...]:
    """Return the dimensions of each input that vary: the batch, and those that differ between batches of the data."""
    is_sliceable = examples.is_sliceable()
    dynamic: list[dict[int, str]] = []
    for position, leaf in enumerate(probes[0].inputs):
        rows = examples.dims[position] if examples.dims else 0
        dims = {rows: "batch"} if is_sliceable and leaf.ndim else {}
        for dim in range(leaf.ndim):
            is_known = bool(examples.sizes) and dim in examples.sizes[position]
            if dim not in dims and (
                is_known or len({batch.inputs[position].shape[dim] for batch in examples.batches}) > 1
            ):
                dims[dim] = f"dim_{dim}"
        dynamic.append(dims)
    return tuple(dynamic)


def flattened(model: torch.nn.Module, inputs: Structure) -> Any:
    """Return the model as a module from tensors to a tuple of tensors; ``structure`` is that of its last outputs."""
    import torch

    class Flat(torch.nn.Module):
        structure: Structure = None

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *leaves: torch.Tensor) -> tuple[torch.Tensor, ...]:
            outputs = call(self.model, inputs, leaves)
            found, self.structure = flatten_outputs(outputs)
            if not found:
                raise StageError(
                    f"the model returns no tensor but a {type(outputs).__name__}",
                    "return tensors, or tuples, lists or dicts of them",
                )
            return tuple(leaf for _, leaf in found)

    flat = Flat().eval()
    for parameter in flat.parameters():
        parameter.requires_grad_(False)
    return flat


def _positions(count: int) -> torch.Tensor:
    import torch

    return torch.arange(count)


def arrays_of(outputs: tuple[torch.Tensor, ...]) -> list[np.ndarray]:
    """Return outputs as NumPy arrays."""
    return [leaf.detach().numpy() for leaf in outputs]


def named(error: Exception) -> str:
    """Return the operator, or else the line, at which an exporter failed."""
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
    return f"{one_line(error)}{where}"
