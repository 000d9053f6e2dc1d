"""Exports without names and traces, of which quantizers still know what comes from which module."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from quanttaas_jupyter.techniques.runtimes import export_check, onnx_export
from quanttaas_jupyter.techniques.runtimes.onnx_compaction import load_prepared, make_lean, save
from quanttaas_jupyter.techniques.runtimes.onnx_graph import ignored_nodes, layers_of
from tests.techniques.quantize.on_onnx import RUNTIME, Text, exported, operators, quantize

TOKENS = torch.randint(0, 500, (8, 24), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = Text()
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.uniform_(module.weight)
            nn.init.normal_(module.bias)
    return exported(model, TOKENS, tmp_path_factory.mktemp("lean") / "m.onnx")


def test_taking_names_away_makes_no_export_smaller(text: Path, tmp_path: Path) -> None:
    save(load_prepared(text), tmp_path / "stripped.onnx")
    assert (tmp_path / "stripped.onnx").stat().st_size > 0.99 * text.stat().st_size


def test_only_layers_and_what_goes_in_and_out_have_names_of_their_own(text: Path) -> None:
    graph = onnx.load(str(text)).graph
    assert {node.name for node in graph.node} == {"", *(layer.module for layer in layers_of(graph))}
    assert [item.name for item in (*graph.input, *graph.output)] == ["input", "output"]
    assert not any(node.metadata_props or node.doc_string for node in graph.node)
    assert not graph.value_info


def test_what_is_ignored_is_whole_modules_and_not_their_layers_only(text: Path, tmp_path: Path) -> None:
    graph = load_prepared(text).graph
    kept = set(ignored_nodes(graph, ("blocks.1",)))
    found = [node.op_type for node in graph.node if node.name in kept]
    assert {kind: found.count(kind) for kind in ("LayerNormalization", "Softmax", "Erf")} == {
        "LayerNormalization": 2,
        "Softmax": 1,
        "Erf": 1,
    }
    path, _ = quantize(text, TOKENS, "fp16", ignore=("blocks.1",))
    stored = {item.name: item.data_type for item in onnx.load(str(path)).graph.initializer}
    norms = [n.input[1] for n in onnx.load(str(path)).graph.node if n.op_type == "LayerNormalization"]
    assert [stored[name] for name in norms[-2:]] == [TensorProto.FLOAT] * 2
    assert operators(path)["Softmax"] == 2


def test_the_modules_that_torch_export_notes_stay_known(tmp_path: Path) -> None:
    model, x = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.Softmax(-1)).eval(), torch.randn(4, 8)
    flat = export_check.flattened(model, "tensor")
    flat(x)
    plan = onnx_export._Plan(flat, (x,), ("input",), ("output",), ({0: "batch"},))
    onnx_export._torch_export(plan, tmp_path / "m.onnx")
    make_lean(tmp_path / "m.onnx", tmp_path / "lean.onnx")
    graph = load_prepared(tmp_path / "lean.onnx").graph
    by_name = {node.name: node.op_type for node in graph.node}
    assert [by_name[name] for name in ignored_nodes(graph, ("0",))] == ["LayerNormalization"]
    assert [by_name[name] for name in ignored_nodes(graph, ("2",))] == ["Softmax"]


class Shared(nn.Module):
    """Two layers with one weight and one bias each, alike: quantizers copy what both read under names of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(16, 16) for _ in range(12)])
        for layer in self.layers:
            layer.load_state_dict(self.layers[0].state_dict())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x.unflatten(-1, (4, 4)).flatten(-2)))
        return x


def test_short_names_do_not_meet_those_that_quantizers_make(tmp_path: Path) -> None:
    x = torch.randn(16, 16)
    source = exported(Shared(), x, tmp_path / "m.onnx")
    path, _ = quantize(source, x, "int8")
    assert RUNTIME.layers(path).integers == 12
    names = {item.name for item in onnx.load(str(source)).graph.initializer}
    assert all(name.isalpha() for name in names)


def test_a_constant_that_only_looks_like_an_unread_one_stays(tmp_path: Path) -> None:
    ones = np.ones((2, 2), np.float32)
    constants = [numpy_helper.from_array(ones, name) for name in ("unread", "read")]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 2]) for name in ("x", "y"))
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "read"], ["y"])], "g", [x], [y], constants)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "m.onnx")
    (found,) = RUNTIME.open(tmp_path / "m.onnx", 1, ["x"])([np.eye(2, dtype=np.float32)])
    assert found.tolist() == ones.tolist()
