"""What the form of a recipe offers, a line of help each; only what is built."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..engine.prune import PRUNERS
from ..engine.quantize import QUANTIZERS
from ..engine.runtimes import RUNTIMES
from ..recipe import PATTERNS, PRUNE_METHODS, QUANTIZATIONS
from ..recipe import RECOVERIES as RECOVERY_METHODS
from ..recipe import RUNTIMES as KNOWN_RUNTIMES
from .form import Form

_QUANTIZATIONS = {
    "none": "32-bit floats, as trained",
    "fp16": "16-bit floats: half the size, hardly any loss",
    "bf16": "16-bit floats with the range of 32: for machines that compute in them",
    "int8": "weights and activations in 8 bits, calibrated: smallest and fastest on most processors",
    "int8-dynamic": "8 bits, ranges found while running: for linear, recurrent and attention layers",
    "int8-weight": "weights alone in 8 bits: a quarter of the size, the speed stays",
    "int4-weight": "weights of linear layers in 4 bits: an eighth of their size",
    "fp8": "8-bit floats: for recent GPUs",
    "mixed": "int8, with the most sensitive layers kept precise until the goal holds",
    "int8-modelopt": "int8 for GPUs with the ranges of NVIDIA's ModelOpt",
    "int8-smoothquant": "int8 for GPUs after ModelOpt's SmoothQuant: for transformers with outliers",
    "int4-awq": "int4-weight, scaled by ModelOpt's AWQ so that rounding loses least",
    "fp8-modelopt": "fp8 with the ranges of ModelOpt",
    "mixed-modelopt": "int8 for GPUs, with the layers kept precise that ModelOpt finds most sensitive",
}
_METHODS = {
    "structured": "whole channels go: smaller files and faster everywhere",
    "unstructured": "single weights become zero: smaller only when compressed",
    "2:4": "two of every four weights become zero: for sparse tensor cores of NVIDIA",
    "2:4-modelopt": "the same; ModelOpt's SparseGPT chooses which weights of linear layers",
}
_RUNTIMES = {
    "onnxruntime": "an ONNX file: phones, boards, servers",
    "torch": "a .pt2 file for PyTorch",
    "tensorrt": "an engine for NVIDIA GPUs",
    "executorch": "a .pte file for phones and boards",
    "openvino": "a model for Intel processors",
    "onnxruntime-cuda": "an ONNX file, run on NVIDIA GPUs",
    "onnxruntime-tensorrt": "an ONNX file, run on NVIDIA GPUs by TensorRT",
}
_RECOVERIES = {
    "distill": "the original model teaches the pruned one; needs no labels",
    "batchnorm": "statistics of batch normalisation are estimated again; takes seconds",
    "qat": "training with quantizers in place; best for int8, takes longest",
    "none": "nothing: fast, and mostly useless beyond small amounts",
}
_SEARCHES = {
    "grid": "every pruning with every quantization",
    "auto": "sensitivity of layers first, then trials that lead to the goal",
}
_MINIMIZE = {"size": "bytes of the file", "latency": "time of one call"}
_METRICS = ("accuracy", "r2", "agreement", "f1_score", "precision", "recall", "auroc", "mean_squared_error")


def options(cluster: str) -> dict[str, Any]:
    """What the form offers and starts with, on a cluster. Looks at all techniques, which takes a moment once."""
    pruners, runtimes, pairs = PRUNERS.keys(), RUNTIMES.keys(), QUANTIZERS.keys()
    built = {
        name: [runtime for runtime in runtimes if name == "none" or (name, runtime) in pairs] for name in QUANTIZATIONS
    }
    return {
        "quantizations": [
            {"name": name, "help": _QUANTIZATIONS[name], "runtimes": found} for name, found in built.items() if found
        ],
        "methods": [
            {**choice, "has_amounts": choice["name"] not in PATTERNS}
            for choice in _choices(_METHODS, (name for name in PRUNE_METHODS if name in pruners))
        ],
        "runtimes": _choices(_RUNTIMES, (name for name in KNOWN_RUNTIMES if name in runtimes)),
        "searches": _choices(_SEARCHES, _SEARCHES),
        "recoveries": _choices(_RECOVERIES, (name for name in _RECOVERIES if name in RECOVERY_METHODS)),
        "metrics": list(_METRICS),
        "minimize": _choices(_MINIMIZE, _MINIMIZE),
        "start": Form(cluster=cluster).model_dump(),
    }


def _choices(helps: dict[str, str], names: Iterable[str]) -> list[dict[str, str]]:
    return [{"name": name, "help": helps[name]} for name in names]
