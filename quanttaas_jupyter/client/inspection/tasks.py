"""The task of a model: from its outputs, the targets and the values of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ...core.errors import DataError
from ...core.understanding import TASKS, Judging, Scores
from ...techniques.evaluate.tensors import class_dims

if TYPE_CHECKING:
    import torch

_TORCH_IGNORES = -100
_VOID = 255
_OF_CLASSES = ("classification", "segmentation", "token-classification", "language-model")
_SHARE_ERROR = 1e-3
"""How far shares of one whole may be from it: what rounding to half precision leaves."""
_HOLDS_NAN = "the targets of --data hold NaN; leave those samples out, or fill them"


@dataclass(frozen=True)
class Finding:
    """What was found of a task.

    Attributes:
        judging: How outputs are compared with targets.
        notes: Sentences for the person.
    """

    judging: Judging
    notes: tuple[str, ...] = ()


def refuse_unknown(task: str | None) -> None:
    """Raise DataError for a task that does not exist."""
    if task is not None and task not in TASKS:
        raise DataError(f"unknown task {task!r}; a task is one of {', '.join(TASKS)}")


def task_of(
    output: torch.Tensor,
    target: torch.Tensor | list[Any],
    base: Judging,
    task: str | None,
    ignore_label: int | None,
    is_causal: bool,
) -> Finding:
    """Find the task.

    Args:
        output: The judged output of some samples, its samples first.
        target: Their targets, samples first: a tensor, or a list of one entry a sample.
        base: What is known of the judging already.
        task: The task that a person named; None to find out.
        ignore_label: The label that a person said counts nowhere; None to find out.
        is_causal: Whether the model is a causal language model.

    Raises:
        DataError: It cannot be told, in one sentence with the spellings that tell it.
    """
    import torch

    base = replace(base, ignore_label=ignore_label)
    if isinstance(target, list):
        return Finding(replace(base, task=task or _task_of_list(target)))
    if target.is_floating_point() and bool(torch.isnan(target).any()):
        raise DataError(_HOLDS_NAN)
    if task in ("regression", "embedding"):
        return Finding(_values(output, target, replace(base, task=task)))
    if not target.is_floating_point():
        found = _of_integers(output, target.long(), base, task, is_causal)
    else:
        found = _of_floats(output, target, base, task)
    return found if task in (None, found.judging.task) else _as_asked(found, task)


def _as_asked(found: Finding, task: str | None) -> Finding:
    """Return the finding under the task that a person named, if that changes its name alone. Raises DataError."""
    judging = found.judging
    if judging.task == "binary" and task in _OF_CLASSES:
        # Two classes by one score, of whole samples or of each place.
        return found
    if task not in _OF_CLASSES or (judging.class_dim is None and judging.scores != "classes"):
        raise DataError(
            f"--task {task} does not fit: outputs and targets look like {judging.task}; leave the option out, or "
            "name other targets with --labels, another output with --output"
        )
    return replace(found, judging=replace(judging, task=task))


def as_logits(finding: Finding) -> Finding:
    """Return the finding with outputs that are logits, though those of the first samples lie between 0 and 1."""
    notes = tuple(note.replace("outputs are probabilities", "outputs are logits") for note in finding.notes)
    return Finding(replace(finding.judging, scores="logits"), notes)


def looks_ahead(output: torch.Tensor, target: torch.Tensor) -> bool:
    """Whether scores with classes last (n, length, classes) say the next token of labels rather than the same one."""
    if output.ndim != 3 or output.shape[:2] != target.shape or target.shape[1] < 2:
        return False
    guess = output.argmax(-1)
    return int((guess[:, :-1] == target[:, 1:]).sum()) > int((guess[:, :-1] == target[:, :-1]).sum())


def scores_of(output: torch.Tensor, class_dim: int | None) -> Scores:
    """Whether an output holds class numbers, probabilities or logits."""
    import torch

    if not output.is_floating_point():
        return "classes"
    if bool(((output >= 0) & (output <= 1)).all()):
        if class_dim is None:
            return "probabilities"
        sums = output.sum(class_dim)
        return "probabilities" if torch.allclose(sums, torch.ones_like(sums), atol=1e-3) else "logits"
    return "logits"


def _of_integers(
    output: torch.Tensor, target: torch.Tensor, base: Judging, task: str | None, is_causal: bool
) -> Finding:
    output_shape, squeezed = tuple(output.shape), _squeezed(target)
    if not output.is_floating_point():
        return _of_classes(output, target, base)
    dims = class_dims(output, target) or class_dims(output, squeezed)
    if dims:
        labels = target if class_dims(output, target) else squeezed
        return _of_class_scores(output, labels, dims, base, is_causal)
    if _same_places(output, target):
        return _of_same_shape(output, target.double(), base, task, is_whole=True)
    raise DataError(
        f"outputs of shape {output_shape} do not fit integer targets of shape {tuple(target.shape)}: a classifier "
        "gives one score a class for every target; name the right output with --output, the targets with --labels, "
        "or give a metric that takes both"
    )


def _of_classes(output: torch.Tensor, target: torch.Tensor, base: Judging) -> Finding:
    if not _same_places(output, target):
        raise DataError(
            f"the model gives whole numbers of shape {tuple(output.shape)}, and targets have shape "
            f"{tuple(target.shape)}; give a metric that takes both"
        )
    note = "the model returns class numbers, which are compared with the labels; without scores nothing finer is known"
    task = "classification" if target.ndim <= 2 else "segmentation"
    judging = replace(base, task=task, scores="classes", labels="ids")
    return Finding(_with_ignored(judging, target, None), (note,))


def _of_class_scores(
    output: torch.Tensor, target: torch.Tensor, dims: list[int], base: Judging, is_causal: bool
) -> Finding:
    notes: list[str] = []
    dim = dims[0]
    if len(dims) > 1:
        dim, told = _better_dim(output, target, dims)
        notes.append(told)
    classes = int(output.shape[dim])
    if is_causal:
        dim, classes = output.ndim - 1, int(output.shape[-1])
    if target.ndim == 1:
        task = "classification"
    elif is_causal:
        task = "language-model"
    else:
        task = "token-classification" if dim == output.ndim - 1 else "segmentation"
    judging = replace(
        base,
        task=task,
        class_dim=dim,
        classes=classes,
        scores=scores_of(output, dim),
        labels="ids",
        is_shifted=task == "language-model",
    )
    return Finding(_with_ignored(judging, target, classes, notes), tuple(notes))


def _of_floats(output: torch.Tensor, target: torch.Tensor, base: Judging, task: str | None) -> Finding:
    if not output.is_floating_point():
        raise DataError(
            "the model gives whole numbers and the targets are floats; give integer targets, or --task regression"
        )
    squeezed = _squeezed(target)
    dims = class_dims(output, target) or class_dims(output, squeezed)
    if dims and not _same_places(output, target) and bool((target == target.round()).all()):
        found = _of_class_scores(output, (target if class_dims(output, target) else squeezed).long(), dims, base, False)
        return replace(found, notes=(*found.notes, "targets are class numbers stored as floats"))
    if not _same_places(output, target):
        raise DataError(
            f"outputs of shape {tuple(output.shape)} do not fit targets of shape {tuple(target.shape)}; name the "
            "right output with --output, the targets with --labels, or give a metric that takes both"
        )
    return _of_same_shape(output, target.double(), base, task, is_whole=False)


def _of_same_shape(
    output: torch.Tensor, target: torch.Tensor, base: Judging, task: str | None, is_whole: bool
) -> Finding:
    """Tell values, zeros and ones, and one-hot rows apart, in outputs and targets of one shape."""
    has_columns = output.ndim == 2 and output.shape[1] > 1
    kept = target if base.ignore_label is None else target[target != base.ignore_label]
    is_binary = bool(((kept == 0) | (kept == 1)).all()) and kept.numel() > 0
    if not is_binary:
        is_share = has_columns and bool((target >= 0).all()) and bool(((target.sum(1) - 1).abs() < _SHARE_ERROR).all())
        if is_share and task is None:
            raise DataError(
                "every row of targets sums to one: shares that are predicted, or soft class labels? say "
                "--task regression or --task classification"
            )
        if is_share and task == "classification":
            return _of_one_hot(output, base, "the most likely class of soft labels counts")
        notes = ("targets are whole numbers that are no classes of the output: regression",) if is_whole else ()
        return Finding(_values(output, target, replace(base, task="regression")), notes)
    if has_columns and task in (None, "classification") and bool((target.sum(1) == 1).all()) and len(target) >= 8:
        return _of_one_hot(output, base, "every row of targets has a single one: one-hot classes")
    judging = replace(
        base,
        task="multilabel" if has_columns else "binary",
        classes=int(output.shape[1]) if has_columns else 2,
        scores=scores_of(output, None),
        labels="ids",
    )
    what = "probabilities" if judging.scores == "probabilities" else "logits"
    name = "each label" if has_columns else "two classes"
    return Finding(judging, (f"all targets are 0 or 1: {name}, outputs are {what}; --task regression says otherwise",))


def _of_one_hot(output: torch.Tensor, base: Judging, note: str) -> Finding:
    judging = replace(
        base,
        task="classification",
        class_dim=1,
        classes=int(output.shape[1]),
        scores=scores_of(output, 1),
        labels="one-hot",
    )
    return Finding(judging, (note,))


def _values(output: torch.Tensor, target: torch.Tensor, base: Judging) -> Judging:
    if base.ignore_label is not None:
        raise DataError("--ignore-label is for class labels; leave out samples whose values do not count")
    if not _same_places(output, target):
        raise DataError(
            f"outputs of shape {tuple(output.shape)} do not fit targets of shape {tuple(target.shape)} for "
            f"{base.task}; name the right output with --output, or the targets with --labels"
        )
    return replace(base, scores="values", labels="values")


def _task_of_list(target: Sequence[Any]) -> str | None:
    return "detection" if target and isinstance(target[0], dict) and "boxes" in target[0] else None


def _with_ignored(
    judging: Judging, target: torch.Tensor, classes: int | None, notes: list[str] | None = None
) -> Judging:
    """Find the label that counts nowhere; refuse labels that are no classes."""
    if judging.ignore_label is not None:
        refuse_strange_labels(target, judging)
        return judging
    if classes is None:
        return replace(judging, ignore_label=_TORCH_IGNORES) if bool((target == _TORCH_IGNORES).any()) else judging
    strange = sorted({int(label) for label in target[(target < 0) | (target >= classes)].unique()})
    if not strange:
        # The default of torch's own losses: it may come in a later batch.
        return replace(judging, ignore_label=_TORCH_IGNORES)
    if strange in ([_TORCH_IGNORES], [_VOID]):
        if notes is not None and strange == [_TORCH_IGNORES]:
            notes.append(f"label {_TORCH_IGNORES} is ignored")
        if notes is not None and strange == [_VOID]:
            notes.append(
                f"label {_VOID} lies beyond the {classes} classes and is ignored; --ignore-label says otherwise"
            )
        return replace(judging, ignore_label=strange[0])
    raise DataError(_strange(strange, classes))


def refuse_strange_labels(target: torch.Tensor | None, judging: Judging) -> None:
    """Raise DataError where targets, samples first, are not what those of the first look were."""
    import torch

    if not isinstance(target, torch.Tensor):
        return
    if target.is_floating_point() and bool(torch.isnan(target).any()):
        raise DataError(_HOLDS_NAN)
    if judging.labels == "one-hot":
        _refuse_other_rows(target.double())
    if judging.labels != "ids" or judging.scores == "classes":
        return
    if judging.class_dim is not None and target.is_floating_point() and bool((target != target.round()).any()):
        value = float(target[target != target.round()][0])
        raise DataError(
            f"the first targets of --data are class numbers, but one is {value:g}: say --task regression, or give "
            "whole numbers"
        )
    if judging.class_dim is None:
        ordinary = (target == 0) | (target == 1)
        if judging.ignore_label is not None:
            ordinary |= target == judging.ignore_label
        if not bool(ordinary.all()):
            value = float(target[~ordinary][0])
            raise DataError(
                f"the first targets of --data are 0 or 1, but one is {value:g}: say --task regression, or "
                f"--ignore-label {value:g} if it marks what does not count"
            )
        return
    ignored = target == (_TORCH_IGNORES if judging.ignore_label is None else judging.ignore_label)
    wrong = ((target < 0) | (target >= (judging.classes or 0))) & ~ignored
    if bool(wrong.any()):
        raise DataError(_strange(sorted({int(label) for label in target[wrong].unique()}), judging.classes or 0))


def _refuse_other_rows(target: torch.Tensor) -> None:
    sums = target.sum(1)
    if bool(((sums - 1).abs() > _SHARE_ERROR).any()):
        value = float(sums[(sums - 1).abs() > _SHARE_ERROR][0])
        raise DataError(
            f"the first targets of --data have a single one in every row, but a later row sums to {value:g}: say "
            "--task multilabel where each label stands for itself, or --task regression"
        )


def _strange(labels: list[int], classes: int) -> str:
    listed = ", ".join(map(str, labels[:3])) + (", ..." if len(labels) > 3 else "")
    return (
        f"labels of --data are {listed}, but the output has the classes 0 to {classes - 1}: say --ignore-label "
        f"{labels[0]} if it marks what does not count, or --task regression"
    )


def _better_dim(output: torch.Tensor, target: torch.Tensor, dims: list[int]) -> tuple[int, str]:
    """Of several dimensions that the shapes allow, the one along which more labels are right."""
    counted = target != _TORCH_IGNORES
    shares = {dim: float(((output.argmax(dim) == target) & counted).sum()) / max(1, int(counted.sum())) for dim in dims}
    best, other = sorted(dims, key=lambda dim: -shares[dim])
    return best, (
        f"outputs of shape {tuple(output.shape)} are read with classes in dimension {best}: {shares[best]:.0%} of the "
        f"first labels are right then, {shares[other]:.0%} with dimension {other}"
    )


def _squeezed(target: torch.Tensor) -> torch.Tensor:
    """Targets without dimensions of one behind the samples."""
    return target.reshape(len(target), *[size for size in target.shape[1:] if size > 1]) if target.ndim else target


def _same_places(output: torch.Tensor, target: torch.Tensor) -> bool:
    if output.ndim == 0 or target.ndim == 0 or len(output) != len(target):
        return False
    return [size for size in output.shape[1:] if size > 1] == [size for size in target.shape[1:] if size > 1]
