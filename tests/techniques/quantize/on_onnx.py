"""Networks for sequences, and how tests quantize them on ONNX Runtime."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from quanttaas_jupyter.bundle.data import open_source
from quanttaas_jupyter.techniques.quantize import QUANTIZERS, Quantized, QuantizeJob
from quanttaas_jupyter.techniques.runtimes import RUNTIMES, Runtime, onnx_parts

RUNTIME = RUNTIMES.get("onnxruntime")


def integer_products(path: Path) -> list[str]:
    """Products whose input and weight are both dequantized from signed integers without zero points."""
    graph = onnx.load(str(path)).graph
    constants = {item.name: item for item in graph.initializer}
    makers = {node.output[0]: node for node in graph.node}
    found = []
    for node in graph.node:
        sources = [makers[name] for name in node.input[:2] if name in makers]
        is_product = node.op_type in ("Conv", "Gemm", "MatMul") and len(sources) == 2
        if is_product and all(source.op_type == "DequantizeLinear" for source in sources):
            data, weight = sources
            assert constants[weight.input[0]].data_type == onnx.TensorProto.INT8
            assert makers[data.input[0]].op_type == "QuantizeLinear"
            found.append(node.name)
            zeros = [numpy_helper.to_array(constants[s.input[2]]) for s in sources if len(s.input) == 3]
            assert not any(zero.any() for zero in zeros)
    return found


def integer_kernels(path: Path) -> list[str]:
    """The integer operators with weights that ONNX Runtime makes of a file at load."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(path.with_suffix(".loaded.onnx"))
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(options.optimized_model_filepath).graph
    kernels = ("QLinearConv", "QLinearMatMul", "MatMulIntegerToFloat", "QGemm", "ConvInteger", "MatMulInteger")
    return [node.op_type for node in graph.node if node.op_type in kernels]


class Block(nn.Module):
    """A transformer block."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm1(x)).chunk(3, -1)
        x = x + self.proj((q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1) @ v)
        return x + self.fc2(nn.functional.gelu(self.fc1(self.norm2(x))))


class Text(nn.Module):
    """Token numbers of shape (batch, 24) to four classes."""

    def __init__(self, outliers: float = 1.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(500, 64)
        self.blocks = nn.Sequential(Block(), Block())
        self.head = nn.Linear(64, 4)
        blocks: Any = self.blocks
        for block in blocks:
            for norm, linear in ((block.norm1, block.qkv), (block.norm2, block.fc1)):
                norm.weight.data[:3] *= outliers
                linear.weight.data[:, :3] /= outliers

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.embedding(x)).mean(1))


class Recurrent(nn.Module):
    """Sequences of shape (batch, 25, 12) to nine classes."""

    def __init__(self, kind: type[nn.LSTM | nn.GRU], bidirectional: bool) -> None:
        super().__init__()
        self.rnn = kind(12, 96, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(192 if bidirectional else 96, 9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(x)[0].mean(1))


def exported(model: nn.Module, x: torch.Tensor, path: Path, runtime: Runtime = RUNTIME) -> Path:
    runtime.build(model.eval(), open_source((x, torch.zeros(len(x))), "--data", 512, 0).read(), path, lambda line: None)
    return path


def quantize(source: Path, x: torch.Tensor, name: str, **more: Any) -> tuple[Path, Quantized]:
    target = source.with_name(f"{name}.onnx")
    calibration = open_source((x, torch.zeros(len(x))), "--data", 512, 0).read()
    (entry,) = onnx_parts.load(source).graph.input
    job = QuantizeJob(source, target, calibration, (entry.name,), more.pop("ignore", ()), lambda line: None, **more)
    return target, QUANTIZERS.get((name, "onnxruntime"))(job)


def sqnr_db(path: Path, source: Path, x: torch.Tensor) -> float:
    name = onnx.load(str(source)).graph.input[0].name
    mine, theirs = (RUNTIME.open(file, 1, [name])([x.numpy()])[0].astype(np.float64) for file in (path, source))
    return float(10 * np.log10((theirs**2).sum() / ((mine - theirs) ** 2).sum()))


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(str(path)).graph.node)
