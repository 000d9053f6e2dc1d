"""How far quantized files stray from their source, for techniques that choose between several."""

from __future__ import annotations

import math
from typing import Any

from ..evaluate import sqnr
from ..runtimes import Session
from . import QuantizeJob

_SAMPLES, _BATCH = 128, 32
LOSSLESS_DB = 120.0


def sqnr_db(session: Session, source: Session, job: QuantizeJob) -> float:
    """Signal to quantization noise of a session's outputs on calibration samples, from -120 dB (not finite) to 120."""
    import torch

    mine: list[Any] = []
    theirs: list[Any] = []
    for batch in job.calibration.head(_SAMPLES).rebatched(_BATCH).batches:
        arrays = [leaf.numpy() for leaf in batch.inputs]
        mine += [torch.from_numpy(array) for array in session(arrays)]
        theirs += [torch.from_numpy(array) for array in source(arrays)]
    found = sqnr.sqnr_db(mine, theirs)
    if found is None:
        return LOSSLESS_DB
    return found if math.isfinite(found) else -LOSSLESS_DB
