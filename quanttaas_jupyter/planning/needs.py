"""Memory that stages need: guessed from the model before the first one of a kind, known from its peak afterwards."""

from __future__ import annotations

from collections.abc import Mapping

_LIBRARIES = 400 << 20
"""Bytes of a worker that has imported what stages need; measured with torch 2.13 and ONNX Runtime 1.32."""
_BATCHES = 200 << 20
"""Bytes for a batch, its outputs and what a network computes in between; a guess, which peaks replace."""
_COPIES = {
    "preview": 1,
    "sensitivity": 3,
    "prune": 3,
    "screen": 6,
    "recover": 6,
    "export": 3,
    "quantize": 3,
    "evaluate": 2,
    "latency": 2,
}
"""How often a stage holds the model: a training has student, teacher, gradients and two moments of Adam."""
_MARGIN = 1.1
"""Factor on a peak that was seen: the next stage of the kind may take a little more."""


def needed(kind: str, model_bytes: int, peaks: Mapping[str, int]) -> int:
    """Return the bytes that a stage is expected to take.

    Args:
        kind: Its kind.
        model_bytes: Bytes of the study's model.
        peaks: Largest memory of stages of this study so far, by kind.
    """
    if kind in peaks:
        return int(peaks[kind] * _MARGIN)
    return _LIBRARIES + _BATCHES + _COPIES[kind] * model_bytes


def at_least(kind: str, model_bytes: int) -> int:
    """Return the bytes below which a stage cannot run: a process, the model and one copy of it where it changes."""
    return _LIBRARIES + min(2, _COPIES[kind]) * model_bytes
