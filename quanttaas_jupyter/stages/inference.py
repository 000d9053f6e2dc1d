"""What artifacts and modules answer on a data set, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..bundle.batches import Batch, Batches, call
from ..bundle.outputs import kept_outputs
from ..bundle.structure import Structure, unflatten
from ..core.records.artifact import Signature
from ..techniques.evaluate.tensors import leaves_of
from ..techniques.runtimes import Session

if TYPE_CHECKING:
    import torch

BATCH = 64
"""Samples per batch of evaluations, at most; chosen, not tuned."""
BATCH_BYTES = 32 << 20
"""Bytes of a batch's inputs and outputs, above which it has fewer samples; chosen, not tuned.

What a network computes in between is several times that. Smaller batches cost speed only where they are of few samples.
"""

Answer = Callable[[Batch], Any]
"""Runs a model on a batch, and returns its outputs in the model's structure."""


def answer_of_session(session: Session, signature: Signature) -> Answer:
    """Return how an open artifact answers a batch."""
    import torch

    def answer(batch: Batch) -> Any:
        arrays = session([leaf.numpy() for leaf in batch.inputs])
        return unflatten(signature.outputs, [torch.from_numpy(array) for array in arrays])

    return answer


def answer_of_module(model: torch.nn.Module, inputs: Structure) -> Answer:
    """Return how a module answers a batch, whose inputs are nested as ``inputs`` says."""
    import torch

    def answer(batch: Batch) -> Any:
        with torch.no_grad():
            return kept_outputs(call(model, inputs, batch.inputs))[0]

    return answer


def fitted(samples: Batches, answer: Answer) -> Batches:
    """Return samples in batches whose inputs and outputs fit ``BATCH_BYTES``; one sample is run to know its outputs.

    Batches stay as they are where samples differ in shape or depend on each other.
    """
    if not samples.is_uniform():
        return samples
    try:
        one = samples.head(1).batches[0]
        # Counted in numbers, not bytes: trials in float16 are compared with a baseline in float32 batch by batch.
        numbers = sum(leaf.numel() for leaf in leaves_of(answer(one)))
    except Exception:
        # Some models take no single sample; the batch that fails says why.
        return samples.rebatched(BATCH)
    return samples.rebatched(max(1, min(BATCH, BATCH_BYTES // (one.bytes + 4 * numbers))))


def targets_of(samples: Batches, batch: Batch) -> Any:
    """Return the targets of a batch in their structure; None without labels."""
    return unflatten(samples.targets, list(batch.targets)) if samples.has_targets else None
