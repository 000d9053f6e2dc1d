"""``mixed`` on ONNX Runtime: int8, except sensitive layers, which keep float16 weights and float32 arithmetic."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...core.catalogue import Rounding, Technique
from ...core.failures import StageError
from . import QUANTIZERS, RANKERS, Quantized, QuantizeJob, Ranking
from .layer_bisection import fewest_kept
from .onnx_calibration import COMPARED, Reference
from .onnx_file import save
from .onnx_static import Calibrated, Static
from .onnx_weights import store_as

_FLOAT16 = 10
"""Float16 as a ``TensorProto`` type."""
_SECONDS = 60.0
"""Seconds that ranking all layers may take before fewer samples are compared; chosen, not tuned."""
_FEWEST_SAMPLES = 8
"""Samples that are compared at least; chosen, not tuned. Fewer make the ranking noise."""


@RANKERS.register("onnxruntime", needs=("processor",))
def rank(job: QuantizeJob) -> Ranking:
    """Rank layers by sensitivity: quantize each layer alone, all with one calibration, and compare the model's outputs.

    128 calibration samples are compared, or fewer if all layers would take longer than a minute.

    Returns:
        Module paths with the SQNR in dB, worst first; 120 if nothing changed.

    Raises:
        StageError: The graph cannot be prepared or calibrated.
    """
    static = Static.of(job)
    base, modules = static.calibrated(()), static.modules
    reference = Reference(base.model, job)
    ranking = []
    for index, module in enumerate(modules):
        begun = time.perf_counter()
        ranking.append((module, reference.sqnr_db(static.quantized_alone(base, module))))
        expected = (time.perf_counter() - begun) * len(modules)
        if index == 0 and expected > _SECONDS:
            reference = Reference(base.model, job, max(_FEWEST_SAMPLES, int(COMPARED * _SECONDS / expected)))
            ranking = [(module, reference.sqnr_db(static.quantized_alone(base, module)))]
    return sorted(ranking, key=lambda item: item[1])


@QUANTIZERS.register(
    ("mixed", "onnxruntime"),
    Technique(
        help="int8, with the most sensitive layers kept precise until the goal holds",
        order=8,
        color="#009E73",
        fallback=1,
        makes_integers=True,
        rounding=Rounding("int8", inputs=True),
    ),
    needs=("calibrator", "ranking", "goal", "processor", "keep"),
)
def quantize(job: QuantizeJob) -> Quantized:
    """Quantize to int8, but keep the fewest sensitive layers with which the drop on calibration data is allowed.

    The number is found by bisection, or is ``job.keep``.

    Raises:
        StageError: There is no ranking, or no layer can be quantized with that drop.
    """
    static = Static.of(job)
    here = set(static.modules)
    ranked = [module for module, _ in job.ranking if module in here]
    if not here:
        raise StageError("mixed finds no layer with weights that may be quantized", "ignore fewer modules")
    if not ranked:
        raise StageError("the sensitivity of this model's layers is not known", "use int8 instead")
    base = static.calibrated(())
    kept, drop = fewest_kept(job, ranked, lambda layers: _write(job, static, base, layers))
    _write(job, static, base, ranked[:kept])
    choices: dict[str, Any] = {"kept": ranked[:kept], **base.choices}
    if drop is not None:
        choices["drop_on_calibration"] = drop
    said = () if kept else ("every layer could be int8: the same file as int8",)
    return Quantized((*static.warnings, *base.warnings, *said), choices)


def _write(job: QuantizeJob, static: Static, base: Calibrated, kept: Sequence[str]) -> Path:
    nodes = static.nodes_of(kept)
    model = static.quantized(base, nodes)
    store_as(model.graph, nodes - static.ignored, _FLOAT16)
    save(model, job.target)
    return job.target
