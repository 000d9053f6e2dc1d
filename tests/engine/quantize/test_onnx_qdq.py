"""What ONNX Runtime makes of QDQ graphs at load."""

from pathlib import Path

import torch
from torch import nn

from tests.engine.quantize.on_onnx import exported, integer_kernels, quantize, sqnr_db


class Branches(nn.Module):
    """Linear layers whose outputs are read by the next one, by two, behind a ReLU and without, or come out."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(16, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.head, self.other = nn.Linear(32, 4), nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        hidden = torch.relu(self.second(torch.relu(self.first(x))))
        features = self.third(hidden)
        return self.head(features), self.other(hidden), features


def test_linear_layers_are_computed_in_integers_wherever_their_outputs_go(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 16)
    source = exported(Branches(), x, tmp_path / "m.onnx")
    path, _ = quantize(source, x, "int8")
    assert integer_kernels(path) == ["QGemm"] * 5
    assert sqnr_db(path, source, x) > 25
