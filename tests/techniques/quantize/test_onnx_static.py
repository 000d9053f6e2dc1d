"""A quantization that calibrates as ``int8`` does and writes other integers."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from quanttaas_jupyter.bundle.data import open_source
from quanttaas_jupyter.techniques.quantize import QuantizeJob
from quanttaas_jupyter.techniques.quantize.onnx_gpu_qdq import with_symmetric_qdq
from quanttaas_jupyter.techniques.quantize.onnx_static import Calibrated, Static
from quanttaas_jupyter.techniques.runtimes.onnx_graph import products_with_weights
from tests.techniques.quantize.on_onnx import exported, integer_products, sqnr_db


class Symmetric(Static):
    """Signed integers around products, as GPUs have them."""

    def with_integers(self, calibrated: Calibrated, nodes: Collection[str], stored: Collection[str]) -> Any:
        kept = {node.name for node in products_with_weights(self.model.graph)} - set(nodes)
        return with_symmetric_qdq(calibrated.model, calibrated.ranges, "int8", kept)


@pytest.mark.parametrize("keep", [0, 1])
def test_a_variant_of_int8_says_only_which_integers_it_writes(keep: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 16)
    source = exported(nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)), x, tmp_path / "m.onnx")
    data = open_source((x,), "--data", 64, 0).read()
    target, ranking = tmp_path / "small.onnx", (("2", 10.0), ("0", 20.0))
    job = QuantizeJob(source, target, data, ("input",), (), lambda line: None, keep=keep, ranking=ranking)
    done = Symmetric.of(job).write()
    assert len(integer_products(target)) == 2 - keep
    assert sqnr_db(target, source, x) > 25
    assert done.choices.get("kept", []) == ["2"][:keep]
