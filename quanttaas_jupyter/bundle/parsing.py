"""Parsing of one batch: its parts become tensors, and the structure they came in."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..core.errors import DataError
from .batches import Batch
from .structure import TEXT, Structure, flatten

if TYPE_CHECKING:
    import torch


def parsed_batch(
    inputs: Any, targets: Any, option: str, is_narrowed: bool
) -> tuple[Batch, tuple[str, ...], tuple[Structure, Structure]]:
    """Turn inputs and targets into a batch of copied tensors.

    Args:
        inputs: Inputs, nested in any way.
        targets: Targets, nested in any way; None without labels.
        option: Name of the data in messages, such as ``--data``.
        is_narrowed: Whether inputs of float64 become float32.

    Returns:
        The batch, the names of its inputs, and the structures of inputs and targets.

    Raises:
        DataError: There are no inputs, or a leaf is neither a tensor, an array nor a number.
    """
    inputs = dict(inputs) if isinstance(inputs, Mapping) else inputs
    input_leaves, input_structure = flatten(inputs, "" if _is_nested(inputs) else "input")
    if not input_leaves:
        raise DataError(f"a batch of {option} has no inputs; a batch is (inputs, targets)")
    found = [as_tensor(leaf, option, name).clone() for name, leaf in input_leaves]
    if is_narrowed:
        found = [_narrowed(leaf) for leaf in found]
    batch = Batch(found, [])
    target_leaves, target_structure = _flat_targets(targets, batch.samples, option)
    batch = dataclasses.replace(batch, targets=target_leaves)
    return batch, tuple(name for name, _ in input_leaves), (input_structure, target_structure)


def _narrowed(leaf: torch.Tensor) -> torch.Tensor:
    import torch

    return leaf.float() if leaf.dtype == torch.float64 else leaf


def _flat_targets(targets: Any, samples: int, option: str) -> tuple[list[Any], Structure]:
    """Return leaves of targets and their structure; a list with one entry a sample has lists of tensors as leaves."""
    import torch

    if type(targets) is list and len(targets) == samples and all(map(_is_number, targets)):
        targets = torch.stack([as_tensor(target, option, "target") for target in targets])
    if not _is_one_a_sample(targets, samples):
        leaves, structure = flatten(targets, "target")
        return [_signed(as_tensor(leaf, option, name)).clone() for name, leaf in leaves], structure
    columns: list[list[Any]] = []
    structure = None
    for target in targets:
        leaves, inner = flatten(_as_text(target), "target")
        tensors = [_signed(as_tensor(leaf, option, name)).clone() for name, leaf in leaves]
        marked = _marked_text(target, inner)
        if structure is None:
            structure, columns = marked, [[] for _ in tensors]
        elif marked != structure:
            raise DataError(f"the targets of {option} are nested differently from sample to sample")
        for column, tensor in zip(columns, tensors, strict=True):
            column.append(tensor)
    return columns, {"each": structure}


def _signed(target: torch.Tensor) -> torch.Tensor:
    """Return targets of the wider unsigned types, for which torch has no comparisons, as signed ones."""
    import torch

    return target.long() if target.dtype in (torch.uint16, torch.uint32, torch.uint64) else target


def _is_number(value: Any) -> bool:
    return isinstance(value, (bool, int, float)) or (is_array(value) and not value.ndim)


def _is_one_a_sample(targets: Any, samples: int) -> bool:
    if not isinstance(targets, (list, tuple)) or hasattr(targets, "_fields") or not targets:
        return False
    if any(isinstance(target, (str, Mapping, set)) for target in targets):
        return True
    if not all(is_array(target) for target in targets):
        return False
    return len(targets) == samples and not all(target.ndim and len(target) == samples for target in targets)


def _as_text(target: Any) -> Any:
    """Return strings as their bytes, and sets as sorted arrays."""
    import numpy

    if isinstance(target, str):
        return numpy.frombuffer(target.encode(), dtype=numpy.uint8)
    if isinstance(target, set):
        return numpy.asarray(sorted(target))
    if isinstance(target, Mapping):
        return {key: _as_text(value) for key, value in target.items()}
    return target


def _marked_text(target: Any, structure: Structure) -> Structure:
    if isinstance(target, str):
        return TEXT
    if isinstance(target, Mapping) and isinstance(structure, dict):
        return {
            **structure,
            "dict": {key: _marked_text(target[key], inner) for key, inner in structure["dict"].items()},
        }
    return structure


def _is_nested(value: Any) -> bool:
    return isinstance(value, (Mapping, tuple, list))


def as_tensor(leaf: Any, option: str, name: str) -> torch.Tensor:
    """Return a tensor, array or number as a tensor on the CPU. Raises DataError naming ``option`` and ``name``."""
    import numpy
    import torch

    if isinstance(leaf, torch.Tensor):
        return (leaf if leaf.layout == torch.strided else leaf.to_dense()).detach().cpu()
    if isinstance(leaf, (bool, int, float)):
        return torch.tensor(leaf)
    if isinstance(leaf, (numpy.ndarray, numpy.generic)) or hasattr(leaf, "__array__"):
        if numpy.ma.is_masked(leaf):
            raise DataError(
                f"{option} holds masked values at {name or 'its inputs'}, which are no numbers: fill them, labels that "
                "do not count with -100"
            )
        array = numpy.ascontiguousarray(leaf)
        # Files of some formats are read in their own byte order, which torch does not know.
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        if array.dtype.kind in "biufc":
            return torch.from_numpy(array.copy())
        if array.dtype.kind in "OUS" and array.size and isinstance(array.flat[0], (str, bytes)):
            raise DataError(
                f"{option} holds strings at {name or 'its inputs'}: give numbers (tokenise text; of labels the places "
                "in a list of their names)"
            )
    raise DataError(
        f"{option} holds {_kind_of(leaf)} at {name or 'its inputs'}; "
        "inputs and targets must be tensors, arrays or numbers (tokenise text, decode images first)"
    )


def _kind_of(leaf: Any) -> str:
    is_of_type = hasattr(leaf, "dtype") and leaf.ndim > 0
    return f"an array of type {leaf.dtype}" if is_of_type else f"a {type(leaf).__name__}"


def stacked(value: Any) -> Any:
    """Return a value with tensors in place of lists of numbers, such as rows of a data set hold; else the value."""
    import torch

    if isinstance(value, Mapping):
        return {key: stacked(item) for key, item in value.items()}
    if type(value) is tuple:
        return tuple(map(stacked, value))
    return torch.tensor(value) if type(value) is list and _is_of_numbers(value) else value


def _is_of_numbers(value: list[Any]) -> bool:
    """Whether a list holds numbers, or lists of numbers of one length."""
    if value and all(type(item) is list for item in value):
        return len({len(item) for item in value}) == 1 and all(map(_is_of_numbers, value))
    return bool(value) and all(isinstance(item, (bool, int, float)) for item in value)


def is_array(value: Any) -> bool:
    """Return whether a value is a tensor or a NumPy array."""
    import numpy
    import torch

    return isinstance(value, (torch.Tensor, numpy.ndarray))
