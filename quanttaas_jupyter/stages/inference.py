"""Inference of artifacts and modules on a data set, batch by batch, and the joining of outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..bundle.batches import Batches, call
from ..bundle.structure import flatten, unflatten
from ..core.failures import StageError
from ..techniques.evaluate import metrics, predictions
from ..techniques.runtimes import Session

BATCH = 64
"""Samples per batch of evaluations; chosen, not tuned."""


def of_session(
    session: Session,
    signature: dict[str, Any],
    samples: Batches,
    report: Callable[[str], None] = lambda line: None,
) -> list[Any]:
    """Return the outputs of an open artifact, batch by batch, in the model's structure."""
    import torch

    parts = []
    seen = 0
    for index, batch in enumerate(samples.batches):
        arrays = session([leaf.numpy() for leaf in batch.inputs])
        parts.append(unflatten(signature["outputs"], [torch.from_numpy(array) for array in arrays]))
        seen += batch.samples
        if index % 50 == 49:
            report(f"measured {seen} of {samples.samples} samples")
    return parts


def of_module(model: Any, samples: Batches) -> list[Any]:
    """Return the outputs of a module, batch by batch."""
    import torch

    with torch.no_grad():
        return [call(model, samples.inputs, batch.inputs) for batch in samples.batches]


def joined(parts: list[Any], fill: float = 0) -> Any:
    """Concatenate the outputs of batches; rows of different lengths are padded with ``fill``."""
    structure = flatten(parts[0])[1]
    return unflatten(structure, [_concatenated(column, fill) for column in _columns(parts)])


def targets_of(samples: Batches) -> Any:
    """Return all targets, concatenated and padded with the ignored label, or None without labels."""
    if not samples.has_targets:
        return None
    parts = [unflatten(samples.targets, list(batch.targets)) for batch in samples.batches]
    return joined(parts, fill=predictions.IGNORED_LABEL)


def refuse_ragged(metric: str, parts: list[Any]) -> None:
    """Check that outputs have the same length in all batches, or that the metric is accuracy.

    Only accuracy ignores padded rows; other metrics would count them.

    Raises:
        StageError: The lengths differ.
    """
    if metric != "accuracy" and any(len({leaf.shape[1:] for leaf in column}) > 1 for column in _columns(parts)):
        raise StageError(
            f"metric {metric!r} cannot judge outputs whose length differs between batches",
            "pad all batches to one length, or use accuracy with -100 for what does not count",
        )


def drop_between(
    metric: dict[str, Any], function: Any, mine: Any, reference: Any, targets: Any, class_dim: int | None
) -> float:
    """Return the drop of ``mine`` from ``reference``, in the metric's unit; 1 - agreement without targets."""
    sides = [predictions.Predictions(side, targets, reference, class_dim) for side in (reference, mine)]
    if targets is None or metric["name"] == "agreement":
        return 1.0 - metrics.score({"kind": "built-in", "name": "agreement"}, None, sides[1]).value
    scores = [metrics.score(metric, function, side) for side in sides]
    return (scores[0].value - scores[1].value) * (1.0 if metric["higher_is_better"] else -1.0)


def _columns(parts: list[Any]) -> list[list[Any]]:
    return [list(column) for column in zip(*([leaf for _, leaf in flatten(part)[0]] for part in parts), strict=True)]


def _concatenated(column: list[Any], fill: float) -> Any:
    import torch

    if column[0].ndim == 0:
        return torch.stack(column)
    widest = [max(sizes) for sizes in zip(*(leaf.shape[1:] for leaf in column), strict=True)]
    padded = []
    for leaf in column:
        missing = [wide - have for wide, have in zip(widest, leaf.shape[1:], strict=True)]
        sides = [part for gap in reversed(missing) for part in (0, gap)]
        padded.append(torch.nn.functional.pad(leaf, sides, value=fill) if any(sides) else leaf)
    return torch.cat(padded)
