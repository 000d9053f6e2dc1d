from pathlib import Path

import pytest
import torch

from tests.techniques.quantize.on_onnx import Text, exported


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return torch.randint(0, 500, (200, 24), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def text(tokens: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return exported(Text(), tokens, tmp_path_factory.mktemp("text") / "m.onnx")
