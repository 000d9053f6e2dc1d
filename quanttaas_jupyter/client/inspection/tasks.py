"""The task of a model: from its outputs, the targets and the values of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ...core.errors import DataError
from ...core.understanding import TASKS, Judging, Scores
from ...techniques.evaluate.tensors import class_dims
from .doubts import refuse_doubtful, refuse_near_numbers, refuse_soft
from .labels import SHARE_ERROR, TORCH_IGNORES, refuse_infinite, unpredicted, with_ignored, yes_or_no

if TYPE_CHECKING:
    import torch

_OF_CLASSES = ("classification", "segmentation", "token-classification", "language-model")
_FEWEST_ROWS = 8
"""Rows of targets with a single one each that cannot be so by chance. Chosen, not tuned."""
_OR_POSTPROCESS = (
    "name the right output with --output, the targets with --labels, give --postprocess FUNCTION that brings outputs "
    "to the targets' shape, or a metric that takes both"
)


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
    base = replace(base, ignore_label=ignore_label)
    if isinstance(target, list):
        return Finding(replace(base, task=task or _task_of_list(target)))
    refuse_infinite(target)
    if task == "embedding":
        # Vectors are compared with those of the original model; the targets say nothing of them.
        return Finding(replace(base, task=task, scores="values", labels="values"))
    if task == "regression":
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
    if task == "binary" and judging.classes == 2 and judging.class_dim is not None:
        return replace(found, judging=replace(judging, task=task))
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


def as_probabilities(finding: Finding) -> Finding:
    """Return the finding with scores of classes that are one probability each."""
    note = "outputs lie between 0 and 1 whatever drives them, and do not sum to one: they are one probability a class"
    return Finding(replace(finding.judging, scores="probabilities"), (*finding.notes, note))


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
    narrow = squeezed(target)
    if not output.is_floating_point():
        return _of_classes(output, target, base, task)
    dims = class_dims(output, target) or class_dims(output, narrow)
    if dims:
        labels = target if class_dims(output, target) else narrow
        return _of_class_scores(output, labels, dims, base, task, is_causal)
    if same_places(output, target):
        return _of_same_shape(output, target.double(), base, task, is_whole=True)
    raise DataError(
        f"outputs of shape {tuple(output.shape)} do not fit integer targets of shape {tuple(target.shape)}: a "
        f"classifier gives one score a class for every target; {_OR_POSTPROCESS}"
    )


def _of_classes(output: torch.Tensor, target: torch.Tensor, base: Judging, task: str | None) -> Finding:
    if not same_places(output, target):
        raise DataError(
            f"the model gives whole numbers of shape {tuple(output.shape)}, and targets have shape "
            f"{tuple(target.shape)}; give a metric that takes both"
        )
    note = "the model returns class numbers, which are compared with the labels; without scores nothing finer is known"
    if task is None:
        refuse_near_numbers(output.reshape(target.shape), target)
    found = "classification" if target.ndim <= 2 else "segmentation"
    judging = replace(base, task=found, scores="classes", labels="ids")
    if base.ignore_label is None:
        judging, told = unpredicted(judging, output, target)
        note += told
    return Finding(judging, (note,))


def _of_class_scores(
    output: torch.Tensor, target: torch.Tensor, dims: list[int], base: Judging, task: str | None, is_causal: bool
) -> Finding:
    notes: list[str] = []
    dim = dims[0]
    if len(dims) > 1:
        dim, told = _better_dim(output, target, dims)
        notes.append(told)
    classes = int(output.shape[dim])
    if is_causal:
        dim, classes = output.ndim - 1, int(output.shape[-1])
    found = "classification" if target.ndim == 1 else "language-model" if is_causal else _of_places(output, dim)
    judging = replace(
        base,
        task=found,
        class_dim=dim,
        classes=classes,
        scores=scores_of(output, dim),
        labels="ids",
        is_shifted=found == "language-model",
    )
    judging = with_ignored(judging, target, classes, task, notes)
    if task is None:
        refuse_doubtful(output, target, judging)
    return Finding(judging, tuple(notes))


def _of_places(output: torch.Tensor, dim: int) -> str:
    """Return the task of one class a place, with the classes in a dimension of the output."""
    return "token-classification" if dim == output.ndim - 1 else "segmentation"


def _of_floats(output: torch.Tensor, target: torch.Tensor, base: Judging, task: str | None) -> Finding:
    if not output.is_floating_point():
        raise DataError(
            "the model gives whole numbers and the targets are floats; give integer targets, or --task regression"
        )
    narrow = squeezed(target)
    dims = class_dims(output, target) or class_dims(output, narrow)
    if dims and not same_places(output, target) and bool((target == target.round()).all()):
        labels = (target if class_dims(output, target) else narrow).long()
        found = _of_class_scores(output, labels, dims, base, task, False)
        note = (
            "targets are class numbers stored as floats; if they are values, give --postprocess FUNCTION that picks "
            "the column which predicts them, and --task regression"
        )
        return replace(found, notes=(*found.notes, note))
    if not same_places(output, target):
        raise DataError(
            f"outputs of shape {tuple(output.shape)} do not fit targets of shape {tuple(target.shape)}: "
            f"{_OR_POSTPROCESS}"
        )
    return _of_same_shape(output, target.double(), base, task, is_whole=False)


def _of_same_shape(
    output: torch.Tensor, target: torch.Tensor, base: Judging, task: str | None, is_whole: bool
) -> Finding:
    """Tell values, zeros and ones, and one-hot rows apart, in outputs and targets of one shape."""
    has_columns = _has_labels(output, target, task)
    told = yes_or_no(target, base, task)
    dim = _share_dim(output, target) if task in (None, *_OF_CLASSES) else None
    if told is None:
        if dim is not None and task is None:
            raise DataError(
                "every row of targets sums to one: shares that are predicted, or soft class labels? say "
                f"--task regression or --task {_of_shares(output, dim)}"
            )
        if dim is not None:
            return _of_one_hot(output, base, dim, "the most likely class of soft labels counts")
        if task is None:
            refuse_soft(output, target)
        notes = ("targets are whole numbers that are no classes of the output: regression",) if is_whole else ()
        return Finding(_values(output, target, replace(base, task="regression")), notes)
    if dim is not None:
        if task is None and target.numel() // target.shape[dim] < _FEWEST_ROWS:
            raise DataError(
                "every row of the few targets has a single one: one class of several, or labels that stand for "
                f"themselves? say --task {_of_shares(output, dim)} or --task "
                + ("multilabel" if has_columns else "binary")
            )
        return _of_one_hot(output, base, dim, "every row of targets has a single one: one-hot classes")
    base, remark = told
    judging = replace(
        base,
        task="multilabel" if has_columns else "binary",
        classes=int(output.shape[1]) if has_columns else 2,
        scores=scores_of(output, None),
        labels="ids",
    )
    what = "probabilities" if judging.scores == "probabilities" else "logits"
    name, otherwise = _places(output, target, has_columns)
    start = remark or "all targets are 0 or 1: "
    return Finding(judging, (f"{start}{name}, outputs are {what}; --task {otherwise} says otherwise",))


def _has_labels(output: torch.Tensor, target: torch.Tensor, task: str | None) -> bool:
    """Whether dimension 1 of yes or no holds labels: of a table, of maps with several channels, or as was said."""
    if output.ndim < 2 or output.shape[1] < 2:
        return False
    if output.ndim == 2:
        return True
    return task != "binary" and output.shape == target.shape and (output.ndim > 3 or task == "multilabel")


def _places(output: torch.Tensor, target: torch.Tensor, has_labels: bool) -> tuple[str, str]:
    """Return what is told of the places of yes or no, and the task that says otherwise."""
    if output.ndim < 3 or output.shape != target.shape or output.shape[1] < 2:
        return "each label" if has_labels else "two classes", "regression"
    if has_labels:
        return f"each of the {output.shape[1]} labels in dimension 1", "binary or regression"
    return "two classes in all places together", "multilabel, with labels in dimension 1, or regression"


def _share_dim(output: torch.Tensor, target: torch.Tensor) -> int | None:
    """Return the dimension along which targets of the output's shape are shares of one whole; None without any."""
    if output.ndim < 2 or output.shape != target.shape or bool((target < 0).any()):
        return None
    dims = [
        dim
        for dim in dict.fromkeys((1, output.ndim - 1))
        if output.shape[dim] > 1 and bool(((target.sum(dim) - 1).abs() < SHARE_ERROR).all())
    ]
    # Of two such dimensions it is the one along which more labels are right.
    return max(dims, key=lambda dim: float((output.argmax(dim) == target.argmax(dim)).double().mean()), default=None)


def _of_shares(output: torch.Tensor, dim: int) -> str:
    return "classification" if output.ndim == 2 else _of_places(output, dim)


def _of_one_hot(output: torch.Tensor, base: Judging, dim: int, note: str) -> Finding:
    judging = replace(
        base,
        task=_of_shares(output, dim),
        class_dim=dim,
        classes=int(output.shape[dim]),
        scores=scores_of(output, dim),
        labels="one-hot",
    )
    return Finding(judging, (note,))


def _values(output: torch.Tensor, target: torch.Tensor, base: Judging) -> Judging:
    if base.ignore_label is not None:
        raise DataError("--ignore-label is for class labels; leave out samples whose values do not count")
    if not same_places(output, target):
        raise DataError(
            f"outputs of shape {tuple(output.shape)} do not fit targets of shape {tuple(target.shape)} for "
            f"{base.task}: {_OR_POSTPROCESS}"
        )
    return replace(base, scores="values", labels="values")


def _task_of_list(target: Sequence[Any]) -> str | None:
    return "detection" if target and isinstance(target[0], dict) and "boxes" in target[0] else None


def _better_dim(output: torch.Tensor, target: torch.Tensor, dims: list[int]) -> tuple[int, str]:
    """Of several dimensions that the shapes allow, the one along which more labels are right."""
    counted = target != TORCH_IGNORES
    shares = {dim: float(((output.argmax(dim) == target) & counted).sum()) / max(1, int(counted.sum())) for dim in dims}
    best, other = sorted(dims, key=lambda dim: -shares[dim])
    return best, (
        f"outputs of shape {tuple(output.shape)} are read with classes in dimension {best}: {shares[best]:.0%} of the "
        f"first labels are right then, {shares[other]:.0%} with dimension {other}"
    )


def squeezed(target: torch.Tensor) -> torch.Tensor:
    """Return targets without dimensions of one behind the samples."""
    return target.reshape(len(target), *[size for size in target.shape[1:] if size > 1]) if target.ndim else target


def same_places(output: torch.Tensor, target: torch.Tensor) -> bool:
    """Whether output and target have one shape, but for dimensions of one."""
    if output.ndim == 0 or target.ndim == 0 or len(output) != len(target):
        return False
    return [size for size in output.shape[1:] if size > 1] == [size for size in target.shape[1:] if size > 1]
