"""Which of a model's outputs is judged: the one that can be compared with the targets, if only one can."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...bundle.structure import flatten
from ...core.errors import DataError
from ...techniques.evaluate.tensors import class_dims
from .asked import Asked
from .labels import TORCH_IGNORES
from .tasks import same_places, squeezed

if TYPE_CHECKING:
    import torch

_MAIN = ("logits", "out")
"""Names of the judged output in ``transformers`` and torchvision, beside auxiliary ones."""
_MEANS_NOTHING = frozenset(
    {
        *(
            "logit",
            "logits",
            "score",
            "scores",
            "prob",
            "probs",
            "pred",
            "preds",
            "prediction",
            "predictions",
            "output",
        ),
        *("outputs", "out", "head", "label", "labels", "target", "targets", "position", "positions", "y", "gt", "true"),
    }
)
"""Words in names of outputs and targets that do not say of what they are."""
_VOID = 255


def judged_name(leaves: Mapping[str, torch.Tensor], target: Any, of: Sequence[str | int], asked: Asked) -> str | None:
    """Return the dotted name of the output that is judged; None without any.

    Args:
        leaves: The outputs of some samples by name, samples first.
        target: Their targets, samples first; no tensor where there is none or they are lists.
        of: Keys or positions of the targets in a batch.
        asked: What the person said.

    Raises:
        DataError: There is no such output, or several outputs fit the targets.
    """
    import torch

    if not leaves:
        return None
    names = list(leaves)
    if asked.output is not None:
        return _named(names, str(asked.output))
    if len(names) == 1 or not isinstance(target, torch.Tensor) or asked.is_judged_by_own_function:
        return next((name for name in _MAIN if name in leaves), names[0])
    fitting = [name for name, leaf in leaves.items() if _fits(leaf, target)]
    meant = [name for name in fitting if any(_words(name) and _words(name) == _words(part) for part in of)]
    # A name such as scores or pred says that this is the answer, and nothing else.
    meant = meant or [name for name in fitting if not name.rpartition(".")[2].isdigit() and not _words(name)]
    if len(meant) == 1:
        return meant[0]
    if main := next((name for name in _MAIN if name in leaves), None):
        return main
    possible = [name for name in fitting if _is_possible(leaves[name], target, asked)] or fitting
    different = _different({name: leaves[name] for name in possible})
    if len(different) > 1:
        raise DataError(
            f"several outputs fit the targets: say which one is judged, with {_either(different)} (the model gives "
            f"{_shapes(leaves)})"
        )
    return (different or names)[0]


def whole(parts: Sequence[Any], dim: int) -> Any:
    """Return tensors of several batches as one, samples in ``dim``, all cut to the shortest of other dimensions."""
    import torch

    if len(parts) == 1 or len({part.ndim for part in parts}) > 1 or parts[0].ndim <= dim:
        return parts[0]
    sizes = [min(part.shape[at] for part in parts) for at in range(parts[0].ndim)]
    cut = [part[tuple(slice(None) if at == dim else slice(size) for at, size in enumerate(sizes))] for part in parts]
    return torch.cat(cut, dim)


def tensors_in(value: Any) -> dict[str, torch.Tensor]:
    """Return the tensors in a nested value by dotted name."""
    import torch

    return {name: leaf for name, leaf in flatten(value)[0] if isinstance(leaf, torch.Tensor)}


def _named(names: Sequence[str], wanted: str) -> str:
    if wanted in names:
        return wanted
    if wanted.lstrip("-").isdigit() and -len(names) <= int(wanted) < len(names):
        return names[int(wanted)]
    raise DataError(f"--output {wanted}: the model has no such output; it has {', '.join(map(repr, names))}")


def _fits(output: torch.Tensor, target: torch.Tensor) -> bool:
    """Whether an output has one value, or one score a class, for every target."""
    if same_places(output, target):
        return True
    return bool(class_dims(output, target) or (target.ndim and class_dims(output, squeezed(target))))


def _is_possible(output: torch.Tensor, target: torch.Tensor, asked: Asked) -> bool:
    """Whether the values of targets may be classes, or values, of an output that fits their shape."""
    if same_places(output, target):
        return output.is_floating_point() or not target.is_floating_point()
    kept = target.flatten()
    for label in (asked.ignore_label, TORCH_IGNORES, _VOID):
        kept = kept if label is None else kept[kept != label]
    sizes = [output.shape[dim] for dim in class_dims(output, target) or class_dims(output, squeezed(target))]
    return bool(((kept >= 0) & (kept < max(sizes))).all() and (kept == kept.round()).all())


def _different(leaves: Mapping[str, torch.Tensor]) -> list[str]:
    """Return the names of outputs that do not just say again what an earlier one says, as probabilities of logits."""
    found: list[str] = []
    for name, leaf in leaves.items():
        if not any(_says_again(leaves[other], leaf) or _says_again(leaf, leaves[other]) for other in found):
            found.append(name)
    return found


def _says_again(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether an output is another one, or its probabilities or its largest class."""
    import torch

    if not one.is_floating_point():
        return one.shape == other.shape and bool((one == other).all())
    dims = [dim for dim in dict.fromkeys((1, one.ndim - 1)) if one.ndim > 1]
    if not other.is_floating_point():
        return any(one.argmax(dim).shape == other.shape and bool((one.argmax(dim) == other).all()) for dim in dims)
    if one.shape != other.shape:
        return False
    readings = [one, one.sigmoid(), *(form for dim in dims for form in (one.softmax(dim), one.log_softmax(dim)))]
    return any(torch.allclose(reading, other, 1e-4, 1e-5) for reading in readings)


def _words(name: Any) -> frozenset[str]:
    """Return the words of a name that say of what it is."""
    return frozenset(re.split(r"[^a-z]+", str(name).lower())) - _MEANS_NOTHING - {""}


def _either(names: Sequence[str]) -> str:
    *head, last = (f"--output {name}" for name in names[:6])
    return f"{', '.join(head)} or {last}"


def _shapes(leaves: Mapping[str, torch.Tensor]) -> str:
    return ", ".join(f"{name} {tuple(leaf.shape)}" for name, leaf in list(leaves.items())[:6])
