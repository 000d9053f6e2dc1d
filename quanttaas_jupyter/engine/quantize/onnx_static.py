"""``int8`` on ONNX Runtime: static QDQ with unsigned activations and signed per-channel weights (U8S8, for CPUs)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..failures import StageError
from ..runtimes.onnx_graph import ignored_nodes, load_graph
from . import QUANTIZERS, Quantized, QuantizeJob

_SAMPLES = 512
_BATCH = 32


@QUANTIZERS.register(
    ("int8", "onnxruntime"), packages=("onnx", "onnxruntime"), helpers=("quanttaas_jupyter.engine.runtimes.onnx_graph",)
)
def quantize(job: QuantizeJob) -> Quantized:
    """Calibrate ranges by minimum and maximum over the calibration samples, then write QDQ nodes.

    Raises:
        StageError: The graph cannot be prepared or calibrated.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare(job.source, Path(folder) / "prepared.onnx")
        quantize_static(
            str(prepared),
            str(job.target),
            _Reader(job, prepared),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=ignored_nodes(load_graph(prepared), job.ignore),
            extra_options={"CalibTensorRangeSymmetric": False},
        )
    strip(job.target)
    return Quantized()


def prepare(source: Path, target: Path) -> Path:
    """Infer shapes and fold what can be folded, as ONNX Runtime's quantizers want it."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    problems = []
    for skip_symbolic in (False, True):
        try:
            quant_pre_process(str(source), str(target), skip_symbolic_shape=skip_symbolic)
            return target
        except Exception as error:
            problems.append(f"{type(error).__name__}: {error}".splitlines()[0])
    raise StageError(f"ONNX Runtime cannot prepare the graph for quantization: {problems[-1]}", "try fp16")


def strip(path: Path) -> None:
    """Remove what serves no inference: documentation strings and per-node metadata (7 % of a small file)."""
    import onnx

    model = onnx.load(str(path))
    for node in model.graph.node:
        node.doc_string = ""
        kept = [item for item in node.metadata_props if item.key == "pkg.torch.onnx.name_scopes"]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    del model.graph.value_info[:]
    onnx.save(model, str(path))


class _Reader:
    """Calibration samples as ONNX Runtime's calibrators read them."""

    def __init__(self, job: QuantizeJob, graph: Path) -> None:
        self._names = [item.name for item in load_graph(graph).input]
        self._job = job
        self._batches = self._feeds()

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)

    def _feeds(self) -> Iterator[dict[str, Any]]:
        data = self._job.calibration.head(_SAMPLES).rebatched(_BATCH)
        for batch in data.batches:
            arrays = dict(zip(self._job.names, (leaf.numpy() for leaf in batch.inputs), strict=True))
            yield {name: arrays[name] for name in self._names}
