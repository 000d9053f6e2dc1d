"""SQNR of quantized artifacts against their source, for techniques that choose between several."""

from __future__ import annotations

from ..evaluate.sqnr import SignalToNoise
from ..runtimes import Session
from . import QuantizeJob

_SAMPLES, _BATCH = 128, 32
"""Calibration samples to compare, and samples per batch; chosen, not tuned. More samples cost time in proportion."""


def session_sqnr_db(session: Session, source: Session, job: QuantizeJob) -> float:
    """Return the SQNR in dB of a session's outputs on calibration samples, from -120 (not finite) to 120."""
    import torch

    noise = SignalToNoise()
    for batch in job.calibration.head(_SAMPLES).rebatched(_BATCH).batches:
        arrays = [leaf.numpy() for leaf in batch.inputs]
        noise.update(*([torch.from_numpy(array) for array in run(arrays)] for run in (session, source)))
    return noise.decibels
