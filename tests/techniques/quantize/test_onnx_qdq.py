"""What ONNX Runtime makes of QDQ graphs at load."""

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.techniques.quantize.on_onnx import exported, integer_kernels, quantize, sqnr_db


class Branches(nn.Module):
    """Linear layers whose outputs are read by the next one, by two, behind ReLU, Hardtanh or nothing, or come out."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third, self.limited = (nn.Linear(size, 32) for size in (16, 32, 32, 32))
        self.head, self.other = nn.Linear(32, 4), nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        hidden = torch.relu(self.second(torch.relu(self.first(x))))
        features = self.third(hidden)
        limited = nn.functional.hardtanh(self.limited(hidden))
        return self.head(features), self.other(limited), features


def test_linear_layers_are_computed_in_integers_wherever_their_outputs_go(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 16)
    source = exported(Branches(), x, tmp_path / "m.onnx")
    path, _ = quantize(source, x, "int8")
    assert integer_kernels(path) == ["QGemm"] * 6
    assert sqnr_db(path, source, x) > 25


class Scaled(nn.Module):
    """Products with biases that are scaled, computed, of two dimensions, and a single number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16, 16) / 4)
        self.vector, self.row, self.number = (nn.Parameter(torch.randn(*shape)) for shape in ((16,), (1, 16), (1,)))
        self.shift = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(torch.addmm(self.vector, x, self.weight, beta=0.25))
        x = torch.relu(torch.addmm(self.row, x, self.weight))
        x = torch.relu(torch.addmm(self.number, x, self.weight, alpha=0.5, beta=2))
        return torch.addmm(4 * self.shift(x), x, self.weight, beta=0.25)


@pytest.mark.parametrize("name", ["int8", "int8-dynamic", "int4-weight"])
def test_biases_of_every_form_count_as_they_should(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 16)
    source = exported(Scaled(), x, tmp_path / "m.onnx")
    path, _ = quantize(source, x, name)
    assert sqnr_db(path, source, x) > (10 if name == "int4-weight" else 25)
