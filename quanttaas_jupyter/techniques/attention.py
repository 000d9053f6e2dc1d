"""Switch for PyTorch's fast path of attention, which reads weights without calling the layers that hold them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def layer_by_layer() -> Iterator[None]:
    """Make attention call its layers within this context, so that hooks run and changed layers have an effect."""
    import torch

    was_fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was_fast)
