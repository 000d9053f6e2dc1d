"""ONNX Runtime on GPUs: the QDQ graphs that TensorRT takes, ``fp16``, and int4 weights."""

from __future__ import annotations

from . import QUANTIZERS, Quantized, QuantizeJob, modelopt_scales, onnx_fp16, onnx_gpu, onnx_int4

_PLACES = ("onnxruntime-cuda", "onnxruntime-tensorrt")


def quantize(job: QuantizeJob) -> Quantized:
    """Signed eight-bit inputs and weights of all products. Raises StageError."""
    return onnx_gpu.calibrated(job, "int8", job.target)


def quantize_fp8(job: QuantizeJob) -> Quantized:
    """The same in float8 (E4M3), which the TensorRT provider alone computes. Raises StageError."""
    return onnx_gpu.calibrated(job, "fp8", job.target)


def quantize_by_modelopt(job: QuantizeJob) -> Quantized:
    """``int8`` with the ranges of NVIDIA's ModelOpt. Raises StageError."""
    return onnx_gpu.by_scales(job, "int8", modelopt_scales.by_maximum, job.target)


def quantize_smoothed(job: QuantizeJob) -> Quantized:
    """``int8`` after ModelOpt's SmoothQuant. Raises StageError."""
    return onnx_gpu.by_scales(job, "int8", modelopt_scales.by_smoothquant, job.target)


def quantize_fp8_by_modelopt(job: QuantizeJob) -> Quantized:
    """``fp8`` with the ranges of ModelOpt. Raises StageError."""
    return onnx_gpu.by_scales(job, "fp8", modelopt_scales.by_maximum, job.target)


def quantize_mixed(job: QuantizeJob) -> Quantized:
    """``int8``, but what ModelOpt finds most sensitive stays float until the goal holds. Raises StageError."""
    return onnx_gpu.mixed(job, job.target, lambda graph: graph)


for _place in _PLACES:
    QUANTIZERS.register(("int8", _place), needs=("calibrator",))(quantize)
    QUANTIZERS.register(("fp16", _place))(onnx_fp16.quantize)
    QUANTIZERS.register(("int4-weight", _place))(onnx_int4.quantize)
    QUANTIZERS.register(("int8-modelopt", _place), needs=("module",), extra="modelopt")(quantize_by_modelopt)
    QUANTIZERS.register(("int8-smoothquant", _place), needs=("module",), extra="modelopt")(quantize_smoothed)
    QUANTIZERS.register(("int4-awq", _place), needs=("module",), extra="modelopt")(onnx_int4.quantize_by_awq)
    QUANTIZERS.register(("mixed-modelopt", _place), needs=("module", "goal"), extra="modelopt")(quantize_mixed)
QUANTIZERS.register(("fp8", _PLACES[1]), needs=("calibrator",))(quantize_fp8)
QUANTIZERS.register(("fp8-modelopt", _PLACES[1]), needs=("module",), extra="modelopt")(quantize_fp8_by_modelopt)
