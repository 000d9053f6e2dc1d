"""What can be said of a module by looking at it."""

from __future__ import annotations

import math
from typing import Any

from ..bundle import batches as data


def classes_of(model: Any) -> dict[str, str]:
    """Class name by module path."""
    return {path: type(module).__name__ for path, module in model.named_modules() if path}


def parameters_of(model: Any) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def nonzero_in(model: Any) -> int:
    """Parameters without the zero weights: what pruning single weights leaves of a model."""
    return sum(int((p != 0).sum()) if p.ndim > 1 else p.numel() for p in model.parameters())


def weights_by_kind(model: Any) -> dict[str, int]:
    """Parameters by the kind of layer that holds them: what a search starts from."""
    import torch

    kinds: dict[str, Any] = {
        "convolution": torch.nn.modules.conv._ConvNd,
        "recurrent": torch.nn.RNNBase,
        "embedding": (torch.nn.Embedding, torch.nn.EmbeddingBag),
        "linear": (torch.nn.Linear, torch.nn.MultiheadAttention, torch.nn.Bilinear),
    }
    found = dict.fromkeys((*kinds, "other"), 0)
    for module in model.modules():
        kind = next((name for name, cls in kinds.items() if isinstance(module, cls)), "other")
        found[kind] += sum(parameter.numel() for parameter in module.parameters(recurse=False))
    return found


def macs_of(model: Any, examples: data.Batches) -> int | None:
    """Multiply-accumulate operations for one sample; None where they cannot be counted."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    one = examples.head(1).batches[0]
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            data.call(model, examples.inputs, one.inputs)
    except Exception:
        # A count is a nicety: an operation that the counter cannot see through must not cost the trial.
        return None
    return math.ceil(int(counter.get_total_flops()) / 2)
