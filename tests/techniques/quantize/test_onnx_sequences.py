"""Quantizations of attention, embeddings and recurrent layers on ONNX Runtime."""

from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from tests.techniques.quantize.on_onnx import RUNTIME, Recurrent, Text, exported, operators, quantize, sqnr_db


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


def test_ignored_layers_keep_their_names_and_their_floats(text: Path, tokens: torch.Tensor) -> None:
    for name in ("int8", "int8-weight", "int8-dynamic", "int4-weight", "bf16", "fp16"):
        path, _ = quantize(text, tokens, name, ignore=("head", "blocks.1", "embedding"))
        kept = {"embedding", "head", *(f"blocks.1.{part}" for part in ("qkv", "proj", "fc1", "fc2"))}
        assert set(RUNTIME.layers(path).kept) == kept, name


class Attention(nn.Module):
    """Attention of PyTorch's own, on sequences of shape (batch, 10, 64)."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, 128, batch_first=True), 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.encoder(x).mean(1)


@pytest.mark.parametrize("name", ["fp16", "bf16", "int8", "int8-dynamic", "int8-weight", "int4-weight"])
def test_attention_of_pytorch_quantizes_whole_and_stays_close(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(32, 10, 64)
    source = exported(Attention(), x, tmp_path / "m.onnx")
    path, _ = quantize(source, x, name)
    onnx.checker.check_model(str(path))
    assert RUNTIME.layers(path).kept == ()
    assert path.stat().st_size < (0.56 if name in ("fp16", "bf16") else 0.42) * source.stat().st_size
    assert sqnr_db(path, source, x) > (40 if name in ("fp16", "bf16") else 15)


class TwoProducts(nn.Module):
    """The attention whose float16 graph ONNX Runtime cannot load: it dies where it fuses Transpose with MatMul."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(32, 4, batch_first=True), nn.Linear(32, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


def test_no_product_reads_a_transpose_of_float16(tmp_path: Path) -> None:
    x = torch.randn(32, 5, 32)
    path, made = quantize(exported(TwoProducts(), x, tmp_path / "m.onnx"), x, "fp16")
    graph = onnx.load(str(path)).graph
    makers = {output: node for node in graph.node for output in node.output}
    read = [makers[name] for node in graph.node if node.op_type == "MatMul" for name in node.input if name in makers]
    assert "Transpose" not in {maker.op_type for maker in read}
    assert "Transpose" in {makers[m.input[0]].op_type for m in read if m.op_type == "Cast"}
    assert RUNTIME.layers(path).kept == ()
    assert made.warnings == ()


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_weights_become_int8(kind: type[nn.LSTM | nn.GRU], bidirectional: bool, tmp_path: Path) -> None:
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
