"""Which parts of a batch a model takes, and which are what its outputs are compared with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

LABEL_NAMES = (
    "labels",
    "label",
    "targets",
    "target",
    "start_positions",
    "end_positions",
    "next_sentence_label",
    "class_labels",
    "mask_labels",
)
"""Names that mean targets even where ``forward`` takes them too, as models of ``transformers`` do."""
OTHER_LABEL_NAMES = ("y", "mask", "masks", "gt", "ground_truth", "boxes", "bboxes", "annotations", "class", "classes")
"""Names that mean targets where ``forward`` does not take them."""

Part = str | int
Passed = Literal["keywords", "positions", "spread", "argument", "mapping"]


@dataclass(frozen=True)
class ShiftRight:
    """How an encoder-decoder's decoder inputs follow from its labels.

    Attributes:
        start: Token that begins a sequence.
        pad: Token that stands for ignored labels.
    """

    start: int
    pad: int

    def __call__(self, labels: Any) -> Any:
        """Return labels moved by one position (n, length), ignored ones as padding."""
        shifted = labels.new_full(labels.shape, self.start)
        shifted[:, 1:] = labels[:, :-1]
        return shifted.masked_fill(shifted == -100, self.pad)


@dataclass(frozen=True)
class Unpacking:
    """How a batch is taken apart.

    Attributes:
        inputs: Keys or positions of the inputs; empty where the batch itself is the input.
        targets: Keys or positions of the targets; dotted where they lie in a mapping in the batch.
        passed: How: by ``keywords``, by ``positions``, nested ones ``spread`` over the arguments, as one ``argument``
            however they are nested, or all as one ``mapping``.
        shift: Makes ``decoder_input_ids`` of the labels; None for all models that need none.
        is_each: Whether the one argument is a list of one tensor a sample, such as the pictures of a batch.
        labels_of: The input whose tokens are the labels too, of a language model whose data has none.
        mask: The part that is 0 where labels are padding; empty without one.
        fill: The label that padding gets, which counts nowhere.
    """

    inputs: tuple[Part, ...] = ()
    targets: tuple[Part, ...] = ()
    passed: Passed = "spread"
    shift: ShiftRight | None = None
    labels_of: str = ""
    is_each: bool = False
    mask: str = ""
    fill: int = -100

    def fits(self, item: Any) -> bool:
        """Whether a batch has the inputs; data for calibration may lack targets."""
        parts = parts_of(item)
        return not self.inputs or (parts is not None and all(part in parts for part in self.inputs))

    def __call__(self, item: Any) -> tuple[Any, Any, bool]:
        """Take a batch apart.

        Returns:
            Inputs, targets (None without), and whether the inputs are one argument however they are nested.
        """
        parts = parts_of(item)
        if not self.inputs or parts is None:
            return item, None, self.passed == "argument"
        found = {part: value for part in self.targets if (value := part_at(parts, part)) is not None}
        targets: Any = next(iter(found.values()), None) if len(self.targets) == 1 else found or None
        if len(found) > 1 and all(isinstance(part, int) for part in found):
            targets = tuple(targets.values())
        chosen = {str(part): parts[part] for part in self.inputs}
        if self.labels_of and targets is None:
            targets = _own_labels(chosen[self.labels_of], chosen.get("attention_mask"))
        elif self.mask in parts and targets is not None:
            targets = _without_padding(targets, parts[self.mask], self.fill)
        if self.shift is not None and targets is not None:
            chosen["decoder_input_ids"] = self.shift(targets)
        if self.passed in ("keywords", "mapping"):
            return chosen, targets, self.passed == "mapping"
        if len(chosen) == 1:
            return next(iter(chosen.values())), targets, self.passed != "spread"
        return tuple(chosen.values()), targets, False

    def unused(self, item: Any) -> tuple[str, ...]:
        """Names of the parts of a batch that are neither inputs nor targets."""
        parts = parts_of(item)
        if not self.inputs or parts is None:
            return ()
        used = {str(part).partition(".")[0] for part in (*self.inputs, *self.targets)} | {*map(str, self.inputs)}
        return tuple(str(part) for part in parts if str(part) not in used)


def _own_labels(tokens: Any, mask: Any) -> torch.Tensor:
    """Tokens as labels, with padding ignored."""
    import torch

    labels = torch.as_tensor(tokens).clone()
    return labels if mask is None else labels.masked_fill(torch.as_tensor(mask) == 0, -100)


def _without_padding(labels: Any, mask: Any, fill: int) -> torch.Tensor:
    """Labels with padding ignored; they become int64, which holds the label for it."""
    import torch

    found = torch.as_tensor(labels)
    return found.long().masked_fill(torch.as_tensor(mask) == 0, fill) if found.shape == mask.shape else found


def parts_of(item: Any) -> dict[Part, Any] | None:
    """Return the parts of a batch by key or position; None where it is a single value."""
    if dataclasses.is_dataclass(item) and not isinstance(item, (type, Mapping)):
        return {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
    if isinstance(item, Mapping):
        return {str(key): value for key, value in item.items()}
    if isinstance(item, Sequence) and not isinstance(item, (str, bytes)):
        return dict(enumerate(item))
    return None


def part_at(parts: Mapping[Part, Any], part: Part) -> Any:
    """Return a part of a batch, or what lies in one that is a mapping under a dotted name; None without it."""
    if part in parts:
        return parts[part]
    head, _, key = str(part).partition(".")
    inner = parts.get(int(head) if head.isdigit() else head)
    return inner.get(key) if isinstance(inner, Mapping) else None


def by_form(item: Any) -> Unpacking:
    """Return how a batch is taken apart by its form alone: known label names, or the last of several parts."""
    parts = parts_of(item)
    if not parts:
        return Unpacking()
    names = list(parts)
    if isinstance(names[0], str):
        labels = tuple(name for name in names if name in LABEL_NAMES)[:1]
        return Unpacking(tuple(name for name in names if name not in labels), labels, "keywords")
    inputs, targets = (tuple(names[:-1]), (names[-1],)) if len(names) > 1 else ((names[0],), ())
    return Unpacking(inputs, targets, "spread" if len(inputs) == 1 else "positions")
