"""Quantizations of attention, embeddings and recurrent layers on ONNX Runtime."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from quanttaas_jupyter.bundle.data import open_source
from quanttaas_jupyter.engine.failures import StageError
from quanttaas_jupyter.engine.quantize import QUANTIZERS, Quantized, QuantizeJob
from quanttaas_jupyter.engine.runtimes import RUNTIMES

RUNTIME = RUNTIMES.get("onnxruntime")


class Block(nn.Module):
    """A transformer block."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm1(x)).chunk(3, -1)
        x = x + self.proj((q @ k.transpose(1, 2) / 8).softmax(-1) @ v)
        return x + self.fc2(nn.functional.gelu(self.fc1(self.norm2(x))))


class Text(nn.Module):
    """Token numbers of shape (batch, 24) to four classes."""

    def __init__(self, outliers: float = 1.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(500, 64)
        self.blocks = nn.Sequential(Block(), Block())
        self.head = nn.Linear(64, 4)
        for block in self.blocks:
            for norm, linear in ((block.norm1, block.qkv), (block.norm2, block.fc1)):
                norm.weight.data[:3] *= outliers
                linear.weight.data[:, :3] /= outliers

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.embedding(x)).mean(1))


class Recurrent(nn.Module):
    """Sequences of shape (batch, 25, 12) to nine classes."""

    def __init__(self, kind: type[nn.RNNBase], bidirectional: bool) -> None:
        super().__init__()
        self.rnn = kind(12, 96, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(192 if bidirectional else 96, 9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(x)[0].mean(1))


def exported(model: nn.Module, x: torch.Tensor, path: Path) -> Path:
    RUNTIME.build(model.eval(), open_source((x, torch.zeros(len(x))), "--data", 512, 0).read(), path, lambda line: None)
    return path


def quantize(source: Path, x: torch.Tensor, name: str, **more: Any) -> tuple[Path, Quantized]:
    target = source.with_name(f"{name}.onnx")
    calibration = open_source((x, torch.zeros(len(x))), "--data", 512, 0).read()
    (entry,) = onnx.load(str(source)).graph.input
    job = QuantizeJob(source, target, calibration, (entry.name,), more.pop("ignore", ()), lambda line: None, **more)
    return target, QUANTIZERS.get((name, "onnxruntime"))(job)


def sqnr_db(path: Path, source: Path, x: torch.Tensor) -> float:
    name = onnx.load(str(source)).graph.input[0].name
    mine, theirs = (RUNTIME.open(file, 1, [name])([x.numpy()])[0].astype(np.float64) for file in (path, source))
    return float(10 * np.log10((theirs**2).sum() / ((mine - theirs) ** 2).sum()))


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return torch.randint(0, 500, (200, 24), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def text(tokens: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return exported(Text(), tokens, tmp_path_factory.mktemp("text") / "m.onnx")


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(str(path)).graph.node)


def test_int8_of_a_transformer_quantizes_inputs_of_weighted_products_and_nothing_else(
    text: Path, tokens: torch.Tensor
) -> None:
    path, made = quantize(text, tokens, "int8")
    graph = onnx.load(str(path)).graph
    producers = {output: node for node in graph.node for output in node.output}
    products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm")]
    from_integers = [
        [name in producers and producers[name].op_type == "DequantizeLinear" for name in node.input[:2]]
        for node in products
    ]
    assert sorted(from_integers) == [[False, False]] * 4 + [[True, True]] * 9
    readers = {name: node.op_type for node in graph.node for name in node.input}
    assert {readers[node.output[0]] for node in graph.node if node.op_type == "DequantizeLinear"} == {"MatMul", "Gemm"}
    layers = RUNTIME.layers(path)
    assert (layers.quantized, layers.quantizable) == (10, 10)
    assert path.stat().st_size < 0.29 * text.stat().st_size
    assert sqnr_db(path, text, tokens) > 30
    assert made.choices["calibrator"] in ("minmax", "percentile", "entropy")


def test_smoothing_brings_back_what_outlier_channels_cost(tokens: torch.Tensor, tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = exported(Text(outliers=60.0), tokens, tmp_path / "m.onnx")
    plain = sqnr_db(quantize(source, tokens, "int8", calibrator="minmax")[0], source, tokens)
    path, made = quantize(source, tokens, "int8")
    assert made.choices["smoothed"] is True
    assert sqnr_db(path, source, tokens) > plain + 10
    assert path.stat().st_size < 0.29 * source.stat().st_size


def test_an_embedding_keeps_int8_rows_and_widens_only_what_is_looked_up(text: Path, tokens: torch.Tensor) -> None:
    for name in ("int8", "int8-weight", "int8-dynamic", "int4-weight"):
        graph = onnx.load(str(quantize(text, tokens, name)[0])).graph
        constants = {item.name: item for item in graph.initializer}
        (table,) = (item for item in constants.values() if list(item.dims) == [500, 64])
        assert table.data_type == onnx.TensorProto.INT8, name
        assert [node.op_type for node in graph.node if table.name in node.input] == ["Gather"], name


def test_int4_halves_int8_and_covers_gemm(text: Path, tokens: torch.Tensor) -> None:
    path, _ = quantize(text, tokens, "int4-weight")
    found = operators(path)
    assert found["MatMulNBits"] == 9
    assert found["Gemm"] == 0
    assert RUNTIME.layers(path).kept == ()
    assert path.stat().st_size < 0.24 * text.stat().st_size
    assert sqnr_db(path, text, tokens) > 15


def test_int4_without_matrix_products_says_so(tmp_path: Path) -> None:
    x = torch.randn(8, 1, 8, 8)
    source = exported(nn.Conv2d(1, 8, 3), x, tmp_path / "m.onnx")
    with pytest.raises(StageError, match=r"int4-weight touches matrix products only; this model has none"):
        quantize(source, x, "int4-weight")


def test_ignored_layers_keep_their_names_and_their_floats(text: Path, tokens: torch.Tensor) -> None:
    for name in ("int8", "int8-weight", "int8-dynamic", "int4-weight", "bf16", "fp16"):
        path, _ = quantize(text, tokens, name, ignore=("head", "blocks.1", "embedding"))
        kept = {"embedding", "head", *(f"blocks.1.{part}" for part in ("qkv", "proj", "fc1", "fc2"))}
        assert set(RUNTIME.layers(path).kept) == kept, name


class Attention(nn.Module):
    """Attention of PyTorch's own, on sequences of shape (batch, 10, 32)."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.encoder(x).mean(1)


@pytest.mark.parametrize("name", ["fp16", "bf16", "int8", "int8-dynamic", "int8-weight", "int4-weight"])
def test_attention_of_pytorch_quantizes_whole_and_stays_close(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(32, 10, 32)
    source = exported(Attention(), x, tmp_path / "m.onnx")
    path, _ = quantize(source, x, name)
    onnx.checker.check_model(str(path))
    assert RUNTIME.layers(path).kept == ()
    assert path.stat().st_size < (0.56 if name in ("fp16", "bf16") else 0.42) * source.stat().st_size
    assert sqnr_db(path, source, x) > (40 if name in ("fp16", "bf16") else 15)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_weights_become_int8(kind: type[nn.RNNBase], bidirectional: bool, tmp_path: Path) -> None:
    x = torch.randn(64, 25, 12)
    source = exported(Recurrent(kind, bidirectional), x, tmp_path / "m.onnx")
    for name in ("int8-dynamic", "int8-weight", "int8"):
        path, made = quantize(source, x, name)
        assert path.stat().st_size <= 0.30 * source.stat().st_size, name
        layers = RUNTIME.layers(path)
        assert (layers.quantized, layers.quantizable) == (2, 2), name
        assert sqnr_db(path, source, x) > 25, name
        computes_integers = operators(path)["DynamicQuantizeLSTM"] == 1
        assert computes_integers == (name == "int8-dynamic" and kind is nn.LSTM)
        said = f"{kind.__name__}: int8 weights, float32 arithmetic" in made.warnings
        assert said == (name != "int8-weight" and not computes_integers)
