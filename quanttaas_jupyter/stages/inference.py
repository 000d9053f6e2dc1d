"""What artifacts and modules answer on a data set, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..bundle.batches import Batch, Batches, call
from ..bundle.outputs import kept_outputs
from ..bundle.structure import unflatten
from ..core.records.artifact import Signature
from ..techniques.runtimes import Session

if TYPE_CHECKING:
    import torch

BATCH = 64
"""Samples per batch of evaluations; chosen, not tuned."""


def of_session(
    session: Session, signature: Signature, samples: Batches, report: Callable[[str], None] = lambda line: None
) -> Iterator[Any]:
    """Yield the outputs of an open artifact for every batch, in the model's structure."""
    import torch

    seen = 0
    for index, batch in enumerate(samples.batches):
        arrays = session([leaf.numpy() for leaf in batch.inputs])
        yield unflatten(signature.outputs, [torch.from_numpy(array) for array in arrays])
        seen += batch.samples
        if index % 50 == 49:
            report(f"measured {seen} of {samples.samples} samples")


def of_module(model: torch.nn.Module, samples: Batches) -> Iterator[Any]:
    """Yield the outputs of a module for every batch."""
    import torch

    for batch in samples.batches:
        with torch.no_grad():
            outputs = call(model, samples.inputs, batch.inputs)
        yield kept_outputs(outputs)[0]


def targets_of(samples: Batches, batch: Batch) -> Any:
    """Return the targets of a batch in their structure; None without labels."""
    return unflatten(samples.targets, list(batch.targets)) if samples.has_targets else None
