"""What a study understood of its model and data before anything was sent, as plain values that JSON holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

TASKS = {
    "classification": "one class a sample",
    "binary": "yes or no, one number a sample or place",
    "multilabel": "several labels a sample, each yes or no",
    "segmentation": "one class a pixel",
    "detection": "boxes and classes in each sample",
    "regression": "numbers",
    "token-classification": "one class a token",
    "language-model": "the next token",
    "embedding": "vectors that are compared with the original model's",
}
"""Tasks by name, each with a line of help."""

Scores = Literal["logits", "probabilities", "classes", "values"]
Labels = Literal["ids", "one-hot", "values"]


@dataclass(frozen=True)
class Judging:
    """How a model's outputs are compared with targets. Every measurement depends on it.

    Attributes:
        task: One of ``TASKS``; None where outputs are compared with the original model's alone.
        output: Dotted name of the output that is judged, such as ``logits`` or ``1``; empty for the only one.
        output_dim: Dimension of the samples in that output.
        target_dim: Dimension of the samples in the targets.
        class_dim: Dimension of the classes in that output once its samples come first; None where it has none.
        classes: Number of classes, or of labels of a multilabel task.
        scores: What the output holds: logits, probabilities, class numbers or values.
        labels: What the targets hold: class numbers, one-hot rows or values.
        ignore_label: The label that counts nowhere.
        codes: The labels that mean no and yes, where they are not 0 and 1.
        is_shifted: Whether position ``i`` predicts the label at ``i + 1``, as a causal language model does.
        is_cut: Whether batches may be cut and joined, since no sample depends on the others of its batch.
    """

    task: str | None = None
    output: str = ""
    output_dim: int = 0
    target_dim: int = 0
    class_dim: int | None = None
    classes: int | None = None
    scores: Scores = "values"
    labels: Labels = "values"
    ignore_label: int | None = None
    codes: tuple[int, int] | None = None
    is_shifted: bool = False
    is_cut: bool = True

    @property
    def raw_class_dim(self) -> int | None:
        """Dimension of the classes in the output as the model gives it."""
        if self.class_dim is None or not self.output_dim:
            return self.class_dim
        return self.class_dim - 1 if self.class_dim <= self.output_dim else self.class_dim

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Judging:
        """Return what a record holds; unknown fields are left out."""
        known = {field.name for field in fields(cls)}
        found = {key: value for key, value in stored.items() if key in known}
        # JSON knows no tuples.
        found["codes"] = tuple(found["codes"]) if found.get("codes") else None
        return cls(**found)

    def stored(self) -> dict[str, Any]:
        """Return the fields as JSON; the usual codes are left out, as records that are older do."""
        return {key: value for key, value in asdict(self).items() if key != "codes" or value}


@dataclass(frozen=True)
class Understanding:
    """What the look before a study found out; part of its record.

    Attributes:
        judging: How outputs are compared with targets.
        inputs: Names of the model's inputs.
        targets: Names of the targets in a batch.
        unused: Parts of a batch that are neither.
        left_out: Outputs that leave the file, such as caches.
        batch_dim: Dimension of the samples in the inputs.
        metric: Name of the metric.
        higher_is_better: Its direction.
        notes: Sentences on what was found and how to say otherwise.
    """

    judging: Judging
    inputs: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    batch_dim: int = 0
    metric: str = ""
    higher_is_better: bool = True
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Understanding:
        """Return what a record holds; unknown fields are left out."""
        known = {field.name: field for field in fields(cls)}
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in stored.items() if key in known
        }
        values["judging"] = Judging.of(stored["judging"])
        return cls(**values)

    def stored(self) -> dict[str, Any]:
        """Return the fields as JSON."""
        return {**asdict(self), "judging": self.judging.stored()}

    @property
    def heading(self) -> str:
        """One line: task, classes, metric, and what is out of the ordinary."""
        judging = self.judging
        task = (judging.task or "compared with the original model").replace("-", " ")
        if judging.classes and judging.task != "binary":
            task += f", {judging.classes} {'labels' if judging.task == 'multilabel' else 'classes'}"
        parts = [task, f"{self.metric}{'' if self.higher_is_better else ' (less is better)'}"]
        if judging.output:
            parts.append(f"output {judging.output} is judged")
        if judging.is_shifted:
            parts.append("one token ahead")
        if judging.codes:
            parts.append(f"label {judging.codes[1]} means yes")
        if self.batch_dim:
            parts.append(f"samples in dimension {self.batch_dim}")
        if not judging.is_cut:
            parts.append("batches judged whole")
        if judging.ignore_label not in (None, -100):
            parts.append(f"label {judging.ignore_label} ignored")
        if self.left_out:
            parts.append(f"left out of the file: {', '.join(self.left_out)}")
        if self.unused:
            parts.append(f"not used: {', '.join(self.unused)}")
        return " · ".join(parts)

    def __str__(self) -> str:
        return "\n".join([self.heading, *self.notes])
