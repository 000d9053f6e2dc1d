"""Sums of int8 products on processors that add them in 16 bits, and on those that do not."""

import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from quanttaas_jupyter.core.device import this_device
from quanttaas_jupyter.techniques.quantize import onnx_calibration
from quanttaas_jupyter.techniques.quantize.saturation import saturates
from tests.techniques.quantize.on_onnx import exported, quantize, sqnr_db


class Loud(nn.Module):
    """Neighbouring inputs and weights are large together, as in layers that detect one thing."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(64, 64), nn.Linear(64, 4)
        self.first.weight.data.uniform_(0.8, 1.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.first(x))


@pytest.fixture
def loud(tmp_path: Path) -> tuple[Path, torch.Tensor]:
    torch.manual_seed(0)
    x = 1 - 0.2 * torch.rand(64, 64)
    return exported(Loud(), x, tmp_path / "m.onnx"), x


def largest_weight(graph: Any) -> int:
    arrays = [onnx.numpy_helper.to_array(item) for item in graph.initializer if len(item.dims) == 2]
    return max(int(np.abs(array.astype(np.int64)).max()) for array in arrays if array.dtype == np.int8)


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="Linux tells what an x86 processor can do"
)
def test_sums_saturate_on_x86_without_vnni_and_results_are_kept_apart() -> None:
    assert saturates() == ("vnni" not in Path("/proc/cpuinfo").read_text())
    assert saturates() == this_device().machine.endswith("without VNNI")


@pytest.mark.parametrize("name", ["int8", "int8-dynamic"])
def test_int8_stays_close_whatever_the_processor_adds_in(name: str, loud: tuple[Path, torch.Tensor]) -> None:
    source, x = loud
    path, made = quantize(source, x, name)
    assert sqnr_db(path, source, x) > 30
    assert made.choices.get("weight_bits", 8) == (7 if saturates() else 8)
    assert largest_weight(onnx.load(str(path)).graph) == (64 if saturates() else 127)


@pytest.mark.parametrize("name", ["int8", "int8-dynamic", "mixed"])
def test_weights_have_seven_bits_where_those_are_nearer(
    name: str, loud: tuple[Path, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = {"int8-dynamic": "onnx_dynamic"}.get(name, "onnx_static")

    class Saturated(onnx_calibration.Reference):
        """Finds what such a processor would, whatever this one is."""

        def sqnr_db(self, model: Any) -> float:
            return 30.0 if largest_weight(model.graph) == 64 else 10.0

    monkeypatch.setattr(f"quanttaas_jupyter.techniques.quantize.{module}.saturates", lambda: True)
    monkeypatch.setattr(f"quanttaas_jupyter.techniques.quantize.{module}.Reference", Saturated)
    source, x = loud
    more = {"keep": 0, "ranking": [("first", 10.0), ("head", 20.0)]} if name == "mixed" else {}
    path, made = quantize(source, x, name, **more)
    assert made.choices["weight_bits"] == 7
    assert largest_weight(onnx.load(str(path)).graph) == 64


@pytest.mark.parametrize("name", ["int8", "int8-dynamic"])
def test_where_sums_are_exact_weights_have_all_eight_bits(
    name: str, loud: tuple[Path, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = {"int8": "onnx_static", "int8-dynamic": "onnx_dynamic"}[name]
    monkeypatch.setattr(f"quanttaas_jupyter.techniques.quantize.{module}.saturates", lambda: False)
    source, x = loud
    path, made = quantize(source, x, name)
    assert "weight_bits" not in made.choices
    assert largest_weight(onnx.load(str(path)).graph) == 127
    assert not saturates() or sqnr_db(path, source, x) < 20
