"""What the side panel and Tab learn of a notebook's variables."""

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from quanttaas_jupyter.notebook import variables


@pytest.fixture
def shell() -> InteractiveShell:
    made = InteractiveShell()
    made.run_cell("def score(outputs, targets): return 0.0")
    return made


def listed(shell: InteractiveShell, **values: Any) -> variables.Found:
    shell.user_ns.update(values)
    return variables.found(shell)


def test_models_say_their_class_parameters_bytes_and_device(shell: InteractiveShell) -> None:
    found = listed(shell, model=nn.Linear(499, 200), _hidden=nn.Linear(1, 1))
    assert found["models"] == [{"name": "model", "words": "Linear · 0.10 M · 400 KB · cpu"}]


def test_data_says_how_much_it_is(shell: InteractiveShell) -> None:
    data = TensorDataset(torch.zeros(1200, 3), torch.zeros(1200))
    found = listed(
        shell,
        loader=DataLoader(data, batch_size=7),
        arrays=(np.zeros((30, 2)), np.zeros(30)),
        batches=[(torch.zeros(4, 2), torch.zeros(4))] * 5,
        text="no data",
    )
    assert {item["name"]: item["words"] for item in found["data"]} == {
        "loader": "DataLoader · 1,200 samples",
        "arrays": "30 samples",
        "batches": "5 batches",
    }


def test_functions_are_those_of_the_notebook(shell: InteractiveShell) -> None:
    shell.user_ns["score"].__module__ = "__main__"
    assert listed(shell, imported=np.mean, klass=int)["functions"] == ["score"]


def test_an_object_that_raises_from_everything_hides_nothing_else(shell: InteractiveShell) -> None:
    class Hostile:
        def __getattribute__(self, name: str) -> Any:
            raise RuntimeError(name)

    class Endless(TensorDataset):
        def __len__(self) -> int:
            raise RuntimeError("endless")

    data = Endless(torch.zeros(3))
    found = listed(shell, hostile=Hostile(), data=data, lazy=nn.LazyLinear(3))
    assert [item["name"] for item in found["models"]] == ["lazy"]
    assert found["data"] == [{"name": "data", "words": "Endless"}]


def test_the_answer_travels_as_json_and_says_whether_the_magics_are_there(shell: InteractiveShell) -> None:
    from quanttaas_jupyter.notebook import magics

    formatted = shell.display_formatter.format
    found = formatted(listed(shell, model=nn.Linear(2, 2)))[0]["application/json"]
    assert json.loads(json.dumps(found))["is_loaded"] is False
    magics.load(shell)
    assert variables.found(shell)["is_loaded"] is True


def test_without_torch_there_are_no_models_and_no_import() -> None:
    code = (
        "import sys; from IPython.core.interactiveshell import InteractiveShell as S;"
        "from quanttaas_jupyter.notebook.variables import found;"
        "assert found(S())['models'] == []; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
