"""From a batch of raw outputs and targets to the tensors that metrics take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...bundle.structure import flatten
from ...core.failures import StageError
from ...core.understanding import Judging

if TYPE_CHECKING:
    from torch import Tensor


def leaves_of(value: Any) -> list[Tensor]:
    """Return the tensors in a nested value, in order."""
    import torch

    return [leaf for _, leaf in flatten(value)[0] if isinstance(leaf, torch.Tensor)]


def judged_output(outputs: Any, judging: Judging) -> Tensor:
    """Return the output that is judged, its samples first. Raises StageError where there is none."""
    import torch

    named = dict(flatten(outputs)[0])
    found = named.get(judging.output) if judging.output else next(iter(named.values()), None)
    if not isinstance(found, torch.Tensor):
        what = f"no output named {judging.output!r}" if judging.output else "no tensor"
        raise StageError(f"there is {what} to compute the metric from", f"outputs: {', '.join(map(repr, named))}")
    found = found.movedim(judging.output_dim, 0) if judging.output_dim else found
    # The last position predicts what follows the text.
    return found[:, :-1] if judging.is_shifted else found


def judged_targets(targets: Any, judging: Judging) -> Tensor:
    """Return the targets as one tensor, its samples first: class numbers where the task has classes."""
    import torch

    found = next(iter(leaves_of(targets)), None)
    if found is None:
        raise StageError("there are no targets to compute the metric from", "give (inputs, targets) batches")
    found = found.movedim(judging.target_dim, 0) if judging.target_dim else found
    if judging.labels == "one-hot":
        # Booleans have no largest one.
        found = (found.byte() if found.dtype == torch.bool else found).argmax(judging.class_dim or 1)
    elif judging.labels == "ids" and found.is_floating_point():
        found = found.round().long()
    if judging.codes is not None:
        found = torch.where(counted(found, judging), (found == judging.codes[1]).long(), found.long())
    return found[:, 1:] if judging.is_shifted else found


def raw_targets(targets: Any, judging: Judging) -> Tensor | None:
    """Return the targets as the data gives them, their samples first; None where they are no tensor."""
    found = next(iter(leaves_of(targets)), None)
    return found.movedim(judging.target_dim, 0) if found is not None and judging.target_dim else found


def judged(outputs: Any, targets: Any, judging: Judging) -> tuple[Tensor, Tensor]:
    """Return the judged output and its targets; labels have the output's shape without its classes."""
    output, target = judged_output(outputs, judging), judged_targets(targets, judging)
    if judging.class_dim is not None and output.ndim > judging.class_dim:
        dim = judging.class_dim
        wanted = output.shape[:dim] + output.shape[dim + 1 :]
        if target.shape != wanted and target.numel() == wanted.numel():
            target = target.reshape(wanted)
    return output, target


def aligned(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return output and target of one shape where they differ by dimensions of one. Raises StageError."""
    if output.shape == target.shape:
        return output, target
    if [size for size in output.shape[1:] if size > 1] == [size for size in target.shape[1:] if size > 1] and len(
        output
    ) == len(target):
        return output.reshape(target.shape), target
    raise StageError(
        f"outputs of shape {tuple(output.shape)} do not fit targets of shape {tuple(target.shape)}",
        "give targets of the outputs' shape, or name the output that is judged with --output",
    )


def as_values(value: Tensor) -> Tensor:
    """Return whole numbers as floats: differences of bytes wrap around."""
    return value if value.is_floating_point() else value.float()


def classes_last(output: Tensor, judging: Judging) -> Tensor:
    """Return the scores with their classes in the last dimension."""
    dim = judging.class_dim
    return output if dim is None else output.movedim(dim, -1)


def predicted(output: Tensor, judging: Judging) -> Tensor:
    """Return class numbers, or zeros and ones of a binary or multilabel task."""
    if judging.scores == "classes":
        return output
    if judging.class_dim is not None:
        return output.argmax(judging.class_dim)
    return output > (0.5 if judging.scores == "probabilities" else 0.0)


def probabilities(output: Tensor, judging: Judging) -> Tensor:
    """Return scores as probabilities, their dimensions as they were."""
    if judging.scores != "logits":
        return output
    return output.sigmoid() if judging.class_dim is None else output.softmax(judging.class_dim)


def counted(target: Tensor, judging: Judging) -> Tensor:
    """Return which places of the targets count."""
    import torch

    if judging.ignore_label is None:
        return torch.ones_like(target, dtype=torch.bool)
    return target != judging.ignore_label


def rows_of(value: Any, rows: slice, dim: int = 0) -> Any:
    """Return some samples of a nested value; None where it is not made of one entry a sample."""
    import torch
    from torch.utils._pytree import tree_map

    if isinstance(value, list) or (isinstance(value, torch.Tensor) and value.ndim and not dim):
        return value[rows]
    index = (*(slice(None),) * dim, rows)
    return tree_map(lambda leaf: leaf[index] if getattr(leaf, "ndim", 0) > dim else leaf, value)


def class_dims(output: Tensor, target: Tensor) -> list[int]:
    """Dimensions of an output that may hold one score a class: 1 or the last, where the rest is as the targets."""
    if target.ndim < 1 or output.ndim != target.ndim + 1:
        return []
    fitting = [
        dim
        for dim in (1, output.ndim - 1)
        if output.shape[dim] > 1 and output.shape[:dim] + output.shape[dim + 1 :] == target.shape
    ]
    return list(dict.fromkeys(fitting))
