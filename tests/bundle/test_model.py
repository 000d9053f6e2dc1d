import copy
import importlib
import random
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from quanttaas_jupyter.bundle import local_code
from quanttaas_jupyter.bundle import model as models
from quanttaas_jupyter.core.errors import ModelError
from tests.networks import ResidualNet


def copied(model: nn.Module) -> nn.Module:
    taken = models.snapshot(model)
    return models.load(taken.path)


def test_a_snapshot_gives_the_same_outputs_in_eval_mode() -> None:
    model = ResidualNet().eval()
    x = torch.randn(3, 1, 8, 8)
    loaded = copied(model)
    assert not loaded.training
    assert torch.equal(loaded(x), model(x))


def gradients_of(model: torch.nn.Module) -> list[torch.Tensor]:
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def test_the_persons_model_and_random_states_are_left_as_they_were() -> None:
    model = ResidualNet().train()
    model(torch.randn(4, 1, 8, 8)).sum().backward()
    gradients = copy.deepcopy(gradients_of(model))
    states = random.getstate(), np.random.get_state(legacy=False)["state"]["key"].tolist(), torch.get_rng_state()
    models.snapshot(model)
    assert model.training
    assert all(torch.equal(a, b) for a, b in zip(gradients, gradients_of(model), strict=True))
    assert random.getstate() == states[0]
    assert np.random.get_state(legacy=False)["state"]["key"].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_training_on_does_not_change_the_snapshot() -> None:
    model = ResidualNet()
    taken = models.snapshot(model)
    before = model.head.weight.detach().clone()
    with torch.no_grad():
        model.head.weight.add_(1)
    assert torch.equal(models.load(taken.path).get_parameter("head.weight"), before)


def test_classes_of_local_files_travel_by_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "beside.py").write_text(
        "from torch import nn\nclass Beside(nn.Linear):\n    def forward(self, x):\n        return super().forward(x)"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import beside  # type: ignore[import-not-found]

    taken = models.snapshot(beside.Beside(2, 2))
    monkeypatch.delitem(sys.modules, "beside")
    monkeypatch.undo()
    assert models.load(taken.path)(torch.ones(1, 2)).shape == (1, 2)


def test_an_unpicklable_member_is_named() -> None:
    model: Any = ResidualNet()
    model.blocks[1].guard = threading.Lock()
    with pytest.raises(ModelError, match=r"model\.blocks\.1\.guard \(a _thread\.lock\) cannot be pickled"):
        models.snapshot(model)


@pytest.mark.parametrize(("thing", "words"), [(3, "this is int"), (nn.Linear, "an instance of it"), (None, "NoneType")])
def test_what_is_no_module_is_refused(thing: object, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        models.snapshot(thing)


def test_a_scripted_module_is_refused_with_the_way_out() -> None:
    with pytest.raises(ModelError, match="give the nn.Module it was made from"):
        models.snapshot(torch.jit.script(nn.Linear(2, 2)))


def test_wrappers_are_taken_off() -> None:
    inner = nn.Linear(2, 2)
    assert models.unwrapped(nn.DataParallel(inner)) is inner
    assert models.unwrapped(torch.compile(inner)) is inner


def test_parametrized_weights_travel_as_what_they_come_to() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv1d(3, 4, 3)), nn.ReLU()).eval()
    x = torch.randn(2, 3, 9)
    loaded = copied(model)
    assert torch.allclose(loaded(x), model(x), atol=1e-6)
    assert nn.utils.parametrize.is_parametrized(model[0])


class WithClasses(torch.nn.Module):
    """Names of its own that torch uses for odd modules, as classifiers often have them."""

    def __init__(self) -> None:
        super().__init__()
        self.classes, self.ops = 3, 2
        self.head = torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.head(x))[:, : self.classes] * self.ops


def test_attributes_named_like_modules_of_torch_do_not_keep_a_model_from_travelling() -> None:
    model = WithClasses()
    loaded = copied(model)
    x = torch.randn(2, 4)
    assert torch.equal(loaded(x), model(x))


@pytest.mark.parametrize(("folder", "is_local"), [("site-packages", False), ("dist-packages", False), ("work", True)])
def test_a_package_of_another_environment_is_installed_and_a_file_beside_the_notebook_is_local(
    folder: str, is_local: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"elsewhere_{folder[0]}"
    (tmp_path / folder).mkdir()
    (tmp_path / folder / f"{name}.py").write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(tmp_path / folder)
    monkeypatch.setitem(sys.modules, name, importlib.import_module(name))
    assert local_code.is_local_module(name) == is_local
