"""Runs a model on a few samples, as a worker will, and refuses what no study can judge."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ...bundle.batches import Batch, Batches, call
from ...bundle.outputs import flatten_outputs, kept_outputs
from ...core.errors import DataError, ModelError
from ...core.failures import explain

if TYPE_CHECKING:
    import torch

_LARGE_BYTES, _FEWEST, _MOST = 8 << 20, 2, 64
"""Bytes of inputs and outputs that the kernel runs at once, and bounds of how many; chosen, not tuned."""
INPUTS_HOLD_NAN = "the inputs of --data hold NaN, and so do the outputs; leave those samples out, or fill them"


def affordable(model: Callable[..., Any], first: Batches) -> int:
    """Return how many samples to run at once; one is run to know its outputs.

    What a network computes in between is many times its inputs, and what judges outputs copies them some times.
    """
    one = first.head(1)
    each = first.bytes / max(1, first.samples)
    # A model that takes no single sample is told so where all of them are run.
    with contextlib.suppress(DataError, ModelError):
        outputs = flatten_outputs(run(model, one))[0]
        each += sum(leaf.numel() * leaf.element_size() for _, leaf in outputs) / max(1, one.batches[0].samples)
    return int(max(_FEWEST, min(_MOST, _LARGE_BYTES / max(1.0, each))))


def run(model: Callable[..., Any], first: Batches, seed: int = 0) -> Any:
    """Run a model on a few samples, as a worker will. Raises DataError or ModelError."""
    import torch

    batch = first.batches[0]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            outputs = call(model, first.inputs, batch.inputs)
    except Exception as error:
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in batch.inputs)
        raise DataError(
            f"the inputs of --data do not fit the model: {explain(error)['reason']} (inputs of shape {shapes})"
        ) from None
    for name, leaf in flatten_outputs(outputs)[0]:
        if leaf.is_complex():
            raise ModelError(
                "the model gives complex numbers, which ONNX files cannot: return torch.view_as_real(...) of them"
            )
        if leaf.is_floating_point() and not bool(torch.isfinite(leaf).all()):
            where = f" at {name}" if name else ""
            if holds_nan(batch.inputs):
                raise DataError(INPUTS_HOLD_NAN)
            if bool(torch.isnan(leaf).any()):
                raise ModelError(f"the model's outputs{where} are NaN on the first samples; check its weights")
            raise ModelError(
                f"the model's outputs{where} are infinite on the first samples: mask scores with a large number such "
                "as -1e9 instead of -inf, or check its weights"
            )
    return outputs


def holds_nan(leaves: Iterable[Any]) -> bool:
    """Whether some of a batch's inputs are NaN."""
    import torch

    return any(
        isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and bool(torch.isnan(leaf).any()) for leaf in leaves
    )


def answering(model: torch.nn.Module, data: Batches) -> Callable[[Batch], Any]:
    """Return a function that gives the model's outputs for a batch of some data."""
    return lambda batch: kept_outputs(run(model, dataclasses.replace(data, batches=(batch,))))[0]


def answers_twice(model: torch.nn.Module, few: Batches) -> Any:
    """Run twice; refuse a model that answers the same input differently. Raises ModelError."""
    import torch

    first, second = run(model, few), run(model, few, seed=1)
    mine, theirs = (dict(flatten_outputs(outputs)[0]) for outputs in (first, second))
    if not mine:
        raise ModelError(f"the model returns no tensor but a {type(first).__name__}; return tensors")
    same = mine.keys() == theirs.keys() and all(
        leaf.shape == theirs[name].shape and torch.allclose(leaf.double(), theirs[name].double(), 1e-4, 1e-6)
        for name, leaf in mine.items()
    )
    if not same:
        raise ModelError(
            "the model's answers differ between two runs with the same input: dropout that is always on, noise, or "
            "state kept between calls; switch it off in eval mode, or reset it in forward()"
        )
    return first
