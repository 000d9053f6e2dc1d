"""Quantizations for ONNX Runtime on GPUs: the QDQ graphs of TensorRT, ``fp16``, and int4 weights."""

from __future__ import annotations

from . import QUANTIZERS, Quantized, QuantizeJob, modelopt_scales, onnx_fp16, onnx_gpu, onnx_int4

_PLACES = ("onnxruntime-cuda", "onnxruntime-tensorrt")


def quantize(job: QuantizeJob) -> Quantized:
    """Quantize the inputs and weights of all products to signed int8.

    Raises:
        StageError: The graph cannot be prepared or calibrated.
    """
    return onnx_gpu.calibrated(job, "int8", job.target)


def quantize_fp8(job: QuantizeJob) -> Quantized:
    """Quantize the inputs and weights of all products to float8 (E4M3), which only the TensorRT provider computes.

    Raises:
        StageError: The graph cannot be prepared or calibrated.
    """
    return onnx_gpu.calibrated(job, "fp8", job.target)


def quantize_by_modelopt(job: QuantizeJob) -> Quantized:
    """Quantize to ``int8`` with the ranges of NVIDIA's ModelOpt.

    Raises:
        StageError: ModelOpt cannot run the module.
    """
    return onnx_gpu.by_scales(job, "int8", modelopt_scales.by_maximum, job.target)


def quantize_smoothed(job: QuantizeJob) -> Quantized:
    """Quantize to ``int8`` after ModelOpt's SmoothQuant.

    Raises:
        StageError: ModelOpt cannot run the module.
    """
    return onnx_gpu.by_scales(job, "int8", modelopt_scales.by_smoothquant, job.target)


def quantize_fp8_by_modelopt(job: QuantizeJob) -> Quantized:
    """Quantize to ``fp8`` with the ranges of NVIDIA's ModelOpt.

    Raises:
        StageError: ModelOpt cannot run the module.
    """
    return onnx_gpu.by_scales(job, "fp8", modelopt_scales.by_maximum, job.target)


def quantize_mixed(job: QuantizeJob) -> Quantized:
    """Quantize to ``int8``, but keep the layers in float that ModelOpt finds most sensitive, until the goal is met.

    Raises:
        StageError: ModelOpt cannot run the module, or no number of layers suffices.
    """
    return onnx_gpu.mixed(job, job.target, lambda graph: graph)


for _place in _PLACES:
    QUANTIZERS.register(("int8", _place), needs=("calibrator",))(quantize)
    QUANTIZERS.register(("fp16", _place))(onnx_fp16.quantize)
    QUANTIZERS.register(("int4-weight", _place))(onnx_int4.quantize)
    QUANTIZERS.register(("int8-modelopt", _place), needs=("module",), extra="modelopt")(quantize_by_modelopt)
    QUANTIZERS.register(("int8-smoothquant", _place), needs=("module",), extra="modelopt")(quantize_smoothed)
    QUANTIZERS.register(("int4-awq", _place), needs=("module",), extra="modelopt")(onnx_int4.quantize_by_awq)
    QUANTIZERS.register(("mixed-modelopt", _place), needs=("module", "goal", "keep"), extra="modelopt")(quantize_mixed)
QUANTIZERS.register(("fp8", _PLACES[1]), needs=("calibrator",))(quantize_fp8)
QUANTIZERS.register(("fp8-modelopt", _PLACES[1]), needs=("module",), extra="modelopt")(quantize_fp8_by_modelopt)
