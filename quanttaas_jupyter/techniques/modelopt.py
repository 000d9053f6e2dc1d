"""NVIDIA's ModelOpt, as the techniques that work with it need it. Needs the ``modelopt`` extra."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

from ..core.failures import StageError, optional
from .attention import layer_by_layer

OFF = {"quantizer_name": "*", "enable": False}
INPUTS = {"quantizer_name": "*input_quantizer", "cfg": {"num_bits": 8, "axis": None}}
WEIGHTS = {"quantizer_name": "*weight_quantizer", "cfg": {"num_bits": 8, "axis": 0}}
"""Quantizers: none; inputs in 8 bits as a whole; weights in 8 bits with a scale an output."""


def quantization() -> Any:
    """``modelopt.torch.quantization``. Raises StageError with the pip command."""
    return optional("modelopt.torch.quantization", extra="modelopt")


def sparsity() -> Any:
    """``modelopt.torch.sparsity``. Raises StageError with the pip command."""
    return optional("modelopt.torch.sparsity", extra="modelopt")


@contextlib.contextmanager
def in_one_sentence(doing: str, hint: str) -> Iterator[None]:
    """ModelOpt prints as it works, and what it cannot do comes as any exception.

    Args:
        doing: What it does with the model, for the sentence of a failure.
        hint: What to do instead.
    """
    try:
        with layer_by_layer(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    except StageError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0][:200].rstrip(":")
        raise StageError(f"ModelOpt cannot {doing} this model: {type(error).__name__}: {reason}", hint) from error
