from pathlib import Path

import pytest
import torch
from torch import nn

from quanttaas_jupyter.core.failures import StageError
from tests.techniques.quantize.on_onnx import RUNTIME, exported, operators, quantize, sqnr_db


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


def test_ignored_products_stay_in_float(text: Path, tokens: torch.Tensor) -> None:
    path, _ = quantize(text, tokens, "int4-weight", ignore=("head", "blocks.1"))
    assert operators(path)["MatMulNBits"] == 4
    assert set(RUNTIME.layers(path).kept) == {"head", *(f"blocks.1.{part}" for part in ("qkv", "proj", "fc1", "fc2"))}
