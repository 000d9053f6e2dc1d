from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from quanttaas_jupyter.bundle.data import open_source
from quanttaas_jupyter.bundle.structure import unflatten
from quanttaas_jupyter.core.failures import StageError
from quanttaas_jupyter.techniques.runtimes import RUNTIMES
from tests.networks import TwoHeads
from tests.techniques.quantize.on_onnx import integer_kernels
from tests.techniques.runtimes.contract import Contract

RUNTIME = RUNTIMES.get("onnxruntime")


class TestOnnxRuntime(Contract):
    runtime, package = "onnxruntime", "onnxruntime"
    precisions: ClassVar = {
        "int8": (0.30, 20),
        "int8-weight": (0.30, 30),
        "int4-weight": (0.30, 15),
        "fp16": (0.55, 50),
        "bf16": (0.55, 35),
    }

    def integer_layers(self, path: Path) -> list[str]:
        return integer_kernels(path)


def build(model: nn.Module, data: Any, path: Path) -> Any:
    return RUNTIME.build(model.eval(), open_source(data, "--data", 512, 0).read(), path, lambda line: None)


def test_dict_inputs_and_outputs_come_back_in_their_structure(tmp_path: Path) -> None:
    model = TwoHeads()
    batch = {"image": torch.randn(8, 1, 8, 8), "table": torch.randn(8, 4), "labels": torch.zeros(8)}
    built = build(model, [batch], tmp_path / "m.onnx")
    assert built.signature.input_names == ("image", "table")
    session = RUNTIME.open(tmp_path / "m.onnx", 1, built.signature.input_names)
    arrays = session([batch["image"].numpy(), batch["table"].numpy()])
    outputs = unflatten(built.signature.outputs, arrays)
    assert set(outputs) == {"logits", "score"}
    assert outputs["score"].shape == (8, 1)


class Sequence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 6, batch_first=True, bidirectional=True)
        self.head = nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0].mean(1))


def test_lengths_that_differ_between_batches_stay_free(tmp_path: Path) -> None:
    model = Sequence()
    data = [(torch.randn(4, length, 5), torch.zeros(4)) for length in (7, 9, 4)]
    built = build(model, data, tmp_path / "m.onnx")
    session = RUNTIME.open(tmp_path / "m.onnx", 1, built.signature.input_names)
    x = torch.randn(2, 13, 5)
    np.testing.assert_allclose(session([x.numpy()])[0], model(x).detach().numpy(), atol=1e-4)


class Unread(nn.Module):
    def forward(self, used: torch.Tensor, unread: torch.Tensor) -> torch.Tensor:
        return used * 2


def test_an_input_that_the_model_never_reads_is_no_trouble(tmp_path: Path) -> None:
    built = build(Unread(), [{"used": torch.ones(4, 2), "unread": torch.ones(4, 2)}], tmp_path / "m.onnx")
    session = RUNTIME.open(tmp_path / "m.onnx", 1, built.signature.input_names)
    assert session([np.ones((3, 2), np.float32), np.zeros((3, 2), np.float32)])[0].tolist() == [[2, 2]] * 3


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return x + 1
        return x - 1


def test_a_branch_on_data_is_refused_with_its_line_and_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"decides by the values of a tensor at test_onnxruntime.py:\d+.*torch.where"):
        build(Branching(), (torch.randn(4, 2), torch.zeros(4)), tmp_path / "m.onnx")


class Texty(nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        return x * 2, "words"


class Wordy(nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        return "words"


def test_outputs_that_are_no_tensors_leave_the_file_and_none_at_all_is_refused(tmp_path: Path) -> None:
    data = (torch.randn(4, 2), torch.zeros(4))
    assert build(Texty(), data, tmp_path / "m.onnx").signature.outputs == ["tuple", "tensor", None]
    with pytest.raises(StageError, match="returns no tensor but a str"):
        build(Wordy(), data, tmp_path / "n.onnx")


class Sum(nn.Module):
    def forward(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return one + 2 * other


def test_inputs_in_a_tuple_get_names_that_exporters_leave_alone(tmp_path: Path) -> None:
    data = [((torch.ones(4, 2), torch.zeros(4, 2)), torch.zeros(4))]
    built = build(Sum(), data, tmp_path / "m.onnx")
    assert built.signature.input_names == ("input_0", "input_1")
    session = RUNTIME.open(tmp_path / "m.onnx", 1, built.signature.input_names)
    assert session([np.ones((3, 2), np.float32), np.ones((3, 2), np.float32)])[0].tolist() == [[3, 3]] * 3


class SizeChecked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(8, 8, batch_first=True)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-1] != 8:
            raise ValueError("eight features are wanted")
        return self.layer(self.recurrent(x)[0])


def test_checks_of_sizes_do_not_count_as_branches_on_data(tmp_path: Path) -> None:
    lines: list[str] = []
    examples = open_source((torch.randn(8, 5, 8), torch.zeros(8)), "--data", 512, 0).read()
    built = RUNTIME.build(SizeChecked().eval(), examples, tmp_path / "m.onnx", lines.append)
    assert built.export_error < 1e-4
    assert not lines


class FrozenBatch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(int(x.shape[0]), 4) * torch.ones(int(x.shape[0]), 1)


def test_a_batch_size_that_tracing_froze_is_found_out(tmp_path: Path) -> None:
    built = build(FrozenBatch(), (torch.randn(8, 2, 2), torch.zeros(8)), tmp_path / "m.onnx")
    session = RUNTIME.open(tmp_path / "m.onnx", 1, built.signature.input_names)
    for size in (1, 5):
        assert session([np.ones((size, 2, 2), np.float32)])[0].shape == (size, 4)
