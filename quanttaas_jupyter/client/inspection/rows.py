"""Finds the dimension of the samples, and whether the samples of a batch depend on each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...bundle.batches import Batch
from ...core.failures import first_line

if TYPE_CHECKING:
    import torch

_RELATIVE = 1e-3
"""Share of the largest output by which rows may differ: kernels round differently at other batch sizes."""

Run = Callable[[Sequence[Any]], "list[Any]"]
"""Takes the leaves of inputs and returns the tensors among the outputs."""


@dataclass(frozen=True)
class Layout:
    """Where samples lie.

    Attributes:
        dims: Dimension of the samples in every leaf of inputs.
        output_dims: The same in every output; None for one that has none.
        is_cut: Whether batches may be cut and joined.
        reason: Why they may not; empty where they may.
    """

    dims: tuple[int, ...]
    output_dims: tuple[int | None, ...]
    is_cut: bool
    reason: str = ""


def layout_of(run: Run, batch: Batch, batch_dim: int | None) -> Layout:
    """Find out by running single samples, two together and three.

    Args:
        run: Runs the model.
        batch: Some samples, at least two.
        batch_dim: The dimension that a person named; None to find out.

    Raises:
        Collapsed: One sample alone comes out with fewer dimensions than several.
        Unstacked: Two samples come out as more outputs than one.
    """
    whole = run(batch.inputs)
    first: Layout | None = None
    for dim in (batch_dim,) if batch_dim is not None else (0, 1):
        dims = _dims_of(batch.inputs, dim)
        if dims is None:
            continue
        found = _tried(run, batch.inputs, dims)
        if found is not None and found.is_cut:
            return found
        first = first or found
    dims = first.dims if first else (batch_dim or 0,) * len(batch.inputs)
    reason = first.reason if first else "the inputs of a batch cannot be cut"
    return Layout(dims, _output_dims_by_size(whole, batch.samples), False, reason)


class Collapsed(Exception):
    """One sample alone gives an output of fewer dimensions than several give."""

    def __init__(self, alone: tuple[int, ...], together: tuple[int, ...]) -> None:
        """Keep the shapes of an output for one sample and for two."""
        super().__init__(alone, together)
        self.alone, self.together = alone, together


class Unstacked(Exception):
    """Two samples give more outputs than one: a list of one tensor a sample."""


def _dims_of(leaves: Sequence[torch.Tensor], dim: int) -> tuple[int, ...] | None:
    """Return the dimension of the samples in every leaf, given that of the first; None if a leaf has none."""
    if leaves[0].ndim <= dim or leaves[0].shape[dim] < 2:
        return None
    size, found = leaves[0].shape[dim], []
    for leaf in leaves:
        fitting = [at for at in (dim, *range(leaf.ndim)) if leaf.ndim > at and leaf.shape[at] == size]
        if not fitting:
            return None
        found.append(fitting[0])
    return tuple(found)


def _tried(run: Run, leaves: Sequence[torch.Tensor], dims: tuple[int, ...]) -> Layout | None:
    """Compare what two samples give together and alone; None if the model cannot run them."""

    def rows(*positions: int) -> list[torch.Tensor]:
        import torch

        picked = torch.tensor(positions)
        return run([leaf.index_select(dim, picked) for leaf, dim in zip(leaves, dims, strict=True)])

    try:
        both = rows(0, 1)
    except Exception:
        return None
    try:
        one, other = rows(0), rows(1)
    except Exception as error:
        return Layout(dims, (), False, f"forward fails for one sample alone: {first_line(error)}")
    if len(both) != len(one):
        raise Unstacked(len(one), len(both))
    if any(a.ndim < b.ndim for a, b in zip(one, both, strict=True)):
        a, b = next((a, b) for a, b in zip(one, both, strict=True) if a.ndim < b.ndim)
        raise Collapsed(tuple(a.shape), tuple(b.shape))
    found: list[int | None] = []
    for together, alone, second in zip(both, one, other, strict=True):
        dim = _grown(together, alone, dims[0])
        found.append(dim)
        if dim is not None and not (
            _alike(together.narrow(dim, 0, 1), alone) and _alike(together.narrow(dim, 1, 1), second)
        ):
            return Layout(dims, (), False, "the answer to a sample depends on the others of its batch")
    if all(dim is None for dim in found):
        return Layout(dims, (), False, "no output has one row a sample")
    return Layout(dims, tuple(found), True)


def _grown(together: torch.Tensor, alone: torch.Tensor, preferred: int) -> int | None:
    """Return the dimension along which two samples give twice what one gives, all others being equal."""
    if together.ndim != alone.ndim:
        return None
    grown = [dim for dim in range(together.ndim) if together.shape[dim] == 2 * alone.shape[dim] == 2]
    others = [dim for dim in range(together.ndim) if together.shape[dim] != alone.shape[dim]]
    return grown[0] if len(grown) == 1 and others == grown else None


def _alike(mine: torch.Tensor, theirs: torch.Tensor) -> bool:
    if mine.shape != theirs.shape:
        return False
    if not mine.is_floating_point():
        return bool((mine == theirs).all())
    scale = float(theirs.double().abs().nan_to_num(0, 0, 0).max()) if theirs.numel() else 0.0
    difference = (mine.double() - theirs.double()).nan_to_num(0, 0, 0).abs()
    return not difference.numel() or float(difference.max()) <= _RELATIVE * scale + 1e-5


def _output_dims_by_size(outputs: Sequence[torch.Tensor], samples: int) -> tuple[int | None, ...]:
    return tuple(0 if output.ndim and output.shape[0] == samples else None for output in outputs)
