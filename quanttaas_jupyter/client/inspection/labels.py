"""What labels are: which of them count nowhere, which two mean no and yes, and which no class can have."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ...core.errors import DataError
from ...core.understanding import Judging

if TYPE_CHECKING:
    import torch

TORCH_IGNORES = -100
_VOID = 255
_MARKERS = (TORCH_IGNORES, _VOID)
"""Labels that count nowhere without being said: that of torch's losses, and that of masks of eight bits."""
SHARE_ERROR = 1e-3
"""How far shares of one whole may be from it: what rounding to half precision leaves."""
_FEW = 8
"""Targets below which two values say nothing: values of a regression may be equal by chance. Chosen, not tuned."""
_HOLDS = "the targets of --data hold {}; leave those samples out, or fill them"
_GLANCE = 1000
"""Values that mostly suffice to tell values from labels; chosen, not tuned."""
_SAY_REGRESSION = "--task regression if they are values"


def refuse_infinite(target: torch.Tensor) -> None:
    """Raise DataError where targets hold NaN or infinity."""
    import torch

    if target.is_floating_point() and not bool(torch.isfinite(target).all()):
        raise DataError(_HOLDS.format("NaN" if bool(torch.isnan(target).any()) else "infinity"))


def yes_or_no(target: torch.Tensor, judging: Judging, task: str | None) -> tuple[Judging, str] | None:
    """Tell whether targets of an output without classes say no or yes.

    Args:
        target: The targets of some samples, as floats.
        judging: What is known already; its ``ignore_label`` counts nowhere.
        task: The task that a person named; None to find out.

    Returns:
        The judging with the label that counts nowhere and the two codes, and a remark; None for values.

    Raises:
        DataError: There are two labels, and it cannot be told which means yes or whether they are values.
    """
    seen = _seen(target, judging.ignore_label)
    if seen is None:
        return None
    marker = next((label for label in _MARKERS if label in seen), None) if judging.ignore_label is None else None
    plain = [label for label in seen if label != marker]
    if task == "binary" and len(seen) == 2 and seen != [0, 1] and (marker is None or marker == _VOID):
        return _coded(judging, seen)
    if marker == _VOID and set(plain) <= {0}:
        raise DataError(
            f"labels of --data are {_listed(seen)}: say --task binary if 255 means yes, --ignore-label 255 if it marks "
            f"what does not count, or {_SAY_REGRESSION}"
        )
    if marker is not None and not plain:
        raise DataError(f"all first labels of --data are {marker}, which marks what does not count: shuffle --data")
    if set(plain) <= {0, 1} and plain:
        told = "" if marker is None else f"label {marker} is ignored, "
        return replace(judging, ignore_label=judging.ignore_label if marker is None else marker), told
    if set(seen) in ({-1, 0, 1}, {-1, 0}) and task != "binary":
        raise DataError(
            f"labels of --data are {_listed(seen)}: say --ignore-label -1 if it marks what is not known, or "
            f"{_SAY_REGRESSION}"
        )
    if len(seen) == 2 and target.numel() >= _FEW:
        raise DataError(
            f"labels of --data are {_listed(seen)}: say --task binary if {seen[1]} means yes, or {_SAY_REGRESSION}"
        )
    return None


def with_ignored(judging: Judging, target: torch.Tensor, classes: int, task: str | None, notes: list[str]) -> Judging:
    """Find the label that counts nowhere, and what two labels mean; refuse labels that are no classes.

    Args:
        judging: What is known already.
        target: Labels of some samples.
        classes: Number of classes.
        task: The task that a person named; None to find out.
        notes: Takes what is told.

    Raises:
        DataError: Some labels are no classes, in one sentence with the ways out.
    """
    seen = sorted({int(label) for label in target.unique() if int(label) != judging.ignore_label})
    if classes == 2 and task == "binary" and len(seen) == 2 and seen != [0, 1] and TORCH_IGNORES not in seen:
        found, told = _coded(judging, seen)
        notes.append(told.rstrip(", "))
        return found
    if judging.ignore_label is not None:
        refuse_strange_labels(target, judging)
        return judging
    strange = [label for label in seen if not 0 <= label < classes]
    if not strange:
        # The default of torch's own losses: it may come in a later batch.
        return replace(judging, ignore_label=TORCH_IGNORES)
    if strange == [_VOID] and set(seen) <= {0, _VOID}:
        yes = "say --task binary if 255 means yes, or --ignore-label 255" if classes == 2 else "say --ignore-label 255"
        raise DataError(
            f"labels of --data are {_listed(seen)}, and the output has the classes 0 to {classes - 1}: {yes} if it "
            "marks what does not count"
        )
    if strange == [TORCH_IGNORES]:
        notes.append(f"label {TORCH_IGNORES} is ignored")
        return replace(judging, ignore_label=TORCH_IGNORES)
    if strange == [_VOID]:
        notes.append(f"label {_VOID} lies beyond the {classes} classes and is ignored; --ignore-label says otherwise")
        return replace(judging, ignore_label=_VOID)
    if classes == 2 and len(seen) == 2:
        raise DataError(
            f"labels of --data are {_listed(seen)}, but the output has the classes 0 and 1: say --task binary if "
            f"{seen[1]} means yes, or --ignore-label {strange[0]} if it marks what does not count"
        )
    raise DataError(_strange(strange, classes, seen))


def unpredicted(judging: Judging, output: torch.Tensor, target: torch.Tensor) -> tuple[Judging, str]:
    """Find the label that counts nowhere of a model that gives class numbers, and what is told of it.

    Raises:
        DataError: A negative label that the model never gives may mark what does not count.
    """
    seen, given = {int(label) for label in target.unique()}, {int(label) for label in output.unique()}
    for marker in _MARKERS:
        others = [label for label in seen | given if label != marker]
        if marker in seen - given and max(others, default=0) < _VOID - 1:
            return replace(judging, ignore_label=marker), f"; label {marker} is never given and ignored"
    negative = sorted(label for label in seen - given if label < 0)
    if negative and min(given, default=0) >= 0:
        raise DataError(
            f"labels of --data are {_listed(negative)}, which the model never gives: say --ignore-label {negative[0]} "
            "if it marks what does not count"
        )
    # That of torch's own losses may come in a later batch.
    return (judging if TORCH_IGNORES in given else replace(judging, ignore_label=TORCH_IGNORES)), ""


def late_markers(labels: Collection[int], judging: Judging) -> set[int]:
    """Return labels that may mark what does not count, of a model that gives class numbers, and were not seen at first.

    Args:
        labels: All labels of the data.
        judging: What the first look found.
    """
    known = {judging.ignore_label, *(judging.codes or ())}
    is_byte = max((label for label in labels if label != _VOID), default=0) < _VOID - 1
    return {label for label in labels if (label < 0 or (label == _VOID and is_byte)) and label not in known}


def refuse_late_markers(markers: Collection[int], given: Collection[int]) -> None:
    """Raise DataError where a model of class numbers never gives a label that the first samples did not hold."""
    for marker in sorted(set(markers) - set(given)):
        raise DataError(
            f"labels of --data are {marker} further on, which the model never gives: say --ignore-label {marker} if it "
            "marks what does not count, or give a metric function that knows what it means"
        )


def refuse_strange_labels(target: torch.Tensor | None, judging: Judging) -> None:
    """Raise DataError where targets, samples first, are not what those of the first look were."""
    import torch

    if not isinstance(target, torch.Tensor):
        return
    refuse_infinite(target)
    if judging.labels == "one-hot":
        _refuse_other_rows(target.double(), judging.class_dim or 1)
    if judging.labels != "ids" or judging.scores == "classes":
        return
    if judging.class_dim is not None and target.is_floating_point() and bool((target != target.round()).any()):
        value = float(target[target != target.round()][0])
        raise DataError(
            f"the first targets of --data are class numbers, but one is {value:g}: say --task regression, or give "
            "whole numbers"
        )
    if judging.class_dim is None or judging.codes is not None:
        _refuse_other_codes(target, judging)
        return
    ignored = target == (TORCH_IGNORES if judging.ignore_label is None else judging.ignore_label)
    wrong = ((target < 0) | (target >= (judging.classes or 0))) & ~ignored
    if bool(wrong.any()):
        raise DataError(_strange(sorted({int(label) for label in target[wrong].unique()}), judging.classes or 0))


def _refuse_other_codes(target: torch.Tensor, judging: Judging) -> None:
    no, yes = judging.codes or (0, 1)
    ordinary = (target == no) | (target == yes)
    if judging.ignore_label is not None:
        ordinary |= target == judging.ignore_label
    if not bool(ordinary.all()):
        value = float(target[~ordinary][0])
        raise DataError(
            f"the first targets of --data are {no} or {yes}, but one is {value:g}: say --task regression, "
            f"--ignore-label {value:g} if it marks what does not count, or shuffle --data so that the first samples "
            "hold all labels"
        )


def _refuse_other_rows(target: torch.Tensor, dim: int) -> None:
    sums = target.sum(dim)
    if bool(((sums - 1).abs() > SHARE_ERROR).any()):
        value = float(sums[(sums - 1).abs() > SHARE_ERROR][0])
        raise DataError(
            f"the first targets of --data have a single one in every row, but a later row sums to {value:g}: say "
            "--task multilabel where each label stands for itself, or --task regression"
        )


def _seen(target: torch.Tensor, ignore_label: int | None) -> list[int] | None:
    """Return the whole numbers among targets, where there are at most three beside the ignored one; else None."""
    if len(target.flatten()[:_GLANCE].unique()) > 4:
        # Sorting all values of pictures takes seconds.
        return None
    values = target.unique()
    values = values if ignore_label is None else values[values != ignore_label]
    if not 0 < len(values) <= 3 or bool((values != values.round()).any()):
        return None
    return [int(value) for value in values]


def _coded(judging: Judging, seen: Sequence[int]) -> tuple[Judging, str]:
    return replace(judging, codes=(seen[0], seen[1])), f"label {seen[1]} means yes and {seen[0]} no, "


def _listed(labels: Sequence[int]) -> str:
    *head, last = map(str, labels)
    return f"{', '.join(head)} and {last}" if head else last


def _strange(labels: list[int], classes: int, seen: Sequence[int] = ()) -> str:
    if labels == [classes] and seen and 0 not in seen:
        return (
            f"labels of --data are {seen[0]} to {seen[-1]}, but the output has the classes 0 to {classes - 1}: "
            f"subtract 1 from labels that count from 1, or say --ignore-label {classes} if it marks what does not count"
        )
    listed = ", ".join(map(str, labels[:3])) + (", ..." if len(labels) > 3 else "")
    return (
        f"labels of --data are {listed}, but the output has the classes 0 to {classes - 1}: say --ignore-label "
        f"{labels[0]} if it marks what does not count, name another output with --output, or count classes from 0"
    )
