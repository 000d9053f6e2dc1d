import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import torch

from quanttaas_jupyter.bundle.digest import digest
from tests.networks import ResidualNet

CELL = """
import torch
from torch import nn
from quanttaas_jupyter.bundle.digest import digest
SLOPE = {slope}
def act(x):
    return nn.functional.leaky_relu(x, SLOPE)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.model = None
        self.register_forward_hook(lambda module, args, output: None)
    def forward(self, x):
        return act(self.conv(x)){extra}
torch.manual_seed(0)
model = Net()
study = object()
print(digest(model))
"""


def in_a_fresh_process(folder: Path, lines_before: int = 0, slope: float = 0.1, extra: str = "") -> str:
    file = folder / f"cell_{lines_before}.py"
    file.write_text("\n" * lines_before + textwrap.dedent(CELL.format(slope=slope, extra=extra)))
    done = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_class_defined_anew_has_the_digest_of_before(tmp_path: Path) -> None:
    assert in_a_fresh_process(tmp_path) == in_a_fresh_process(tmp_path, lines_before=7)


def test_another_global_or_another_line_in_forward_changes_the_digest(tmp_path: Path) -> None:
    first = in_a_fresh_process(tmp_path)
    assert first != in_a_fresh_process(tmp_path, slope=0.2)
    assert first != in_a_fresh_process(tmp_path, extra=" + 1")


def test_one_changed_weight_changes_the_digest() -> None:
    model = ResidualNet()
    before = digest(model)
    assert digest(model) == before
    with torch.no_grad():
        model.head.bias[0] += 1
    assert digest(model) != before


def test_mode_and_gradients_do_not_count_and_configuration_does() -> None:
    model: Any = ResidualNet()
    before = digest(model)
    model.eval()
    model(torch.zeros(1, 1, 8, 8)).sum().backward()
    assert digest(model) == before
    model.stem[1].eps = 1e-3
    assert digest(model) != before


def test_references_in_a_circle_end() -> None:
    circle: list[object] = [1]
    circle.append(circle)
    other: list[object] = [2]
    other.append(other)
    assert digest(circle) != digest(other)


def test_order_counts_in_lists_and_not_in_sets() -> None:
    assert digest([1, 2]) != digest([2, 1])
    assert digest({"a", "b", "c"}) == digest({"c", "b", "a"})
