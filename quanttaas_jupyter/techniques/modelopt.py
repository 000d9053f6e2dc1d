"""Access to NVIDIA's ModelOpt for the techniques that use it. Needs the ``modelopt`` extra."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

from ..core.failures import StageError, one_line, optional
from .attention import layer_by_layer

OFF = {"quantizer_name": "*", "enable": False}
INPUTS = {"quantizer_name": "*input_quantizer", "cfg": {"num_bits": 8, "axis": None}}
WEIGHTS = {"quantizer_name": "*weight_quantizer", "cfg": {"num_bits": 8, "axis": 0}}
"""Quantizers: none; inputs in 8 bits per tensor; weights in 8 bits with one scale per output channel."""


def quantization() -> Any:
    """Import ``modelopt.torch.quantization``.

    Raises:
        StageError: It cannot be imported; the hint is the pip command.
    """
    return optional("modelopt.torch.quantization", extra="modelopt")


def sparsity() -> Any:
    """Import ``modelopt.torch.sparsity``.

    Raises:
        StageError: It cannot be imported; the hint is the pip command.
    """
    return optional("modelopt.torch.sparsity", extra="modelopt")


@contextlib.contextmanager
def in_one_sentence(doing: str, hint: str) -> Iterator[None]:
    """Silence ModelOpt's printed output, and translate its exceptions into a StageError.

    Args:
        doing: What ModelOpt does with the model, such as "quantize", for the error message.
        hint: Alternative for the error message.

    Raises:
        StageError: ModelOpt failed.
    """
    try:
        with layer_by_layer(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    except StageError:
        raise
    except Exception as error:
        raise StageError(f"ModelOpt cannot {doing} this model: {one_line(error).rstrip(':')}", hint) from error
