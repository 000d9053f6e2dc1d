"""Facts about a module: classes, parameters, and multiply-accumulate operations."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..bundle.batches import Batches, call

if TYPE_CHECKING:
    import torch


def classes_of(model: torch.nn.Module) -> dict[str, str]:
    """Return the class name of each module by path."""
    return {path: type(module).__name__ for path, module in model.named_modules() if path}


def parameters_of(model: torch.nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def nonzero_in(model: torch.nn.Module) -> int:
    """Return the number of parameters without zero weights; vectors, such as biases, are counted in full."""
    return sum(int((p != 0).sum()) if p.ndim > 1 else p.numel() for p in model.parameters())


def weights_by_kind(model: torch.nn.Module) -> dict[str, int]:
    """Return the number of parameters by the kind of layer that holds them; a search starts from it."""
    import torch

    kinds: dict[str, Any] = {
        "convolution": torch.nn.modules.conv._ConvNd,
        "recurrent": torch.nn.RNNBase,
        "embedding": (torch.nn.Embedding, torch.nn.EmbeddingBag),
        "linear": (torch.nn.Linear, torch.nn.MultiheadAttention, torch.nn.Bilinear),
    }
    counts = dict.fromkeys((*kinds, "other"), 0)
    for module in model.modules():
        kind = next((name for name, cls in kinds.items() if isinstance(module, cls)), "other")
        counts[kind] += sum(parameter.numel() for parameter in module.parameters(recurse=False))
    return counts


def macs_of(model: torch.nn.Module, examples: Batches) -> int | None:
    """Return the multiply-accumulate operations for one sample, or None if they cannot be counted."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    one = examples.head(1).batches[0]
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            call(model, examples.inputs, one.inputs)
    except Exception:
        # An operation that the counter does not support must not fail the trial.
        return None
    return math.ceil(int(counter.get_total_flops()) / 2)
