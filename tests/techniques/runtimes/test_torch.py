"""PyTorch as a runtime: programs that need no source, weights that are narrow inside the file."""

import io
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import quanttaas_jupyter as qt
from quanttaas_jupyter.bundle.data import open_source
from quanttaas_jupyter.core.failures import StageError
from quanttaas_jupyter.techniques.quantize import QUANTIZERS, QuantizeJob
from quanttaas_jupyter.techniques.runtimes import RUNTIMES
from quanttaas_jupyter.techniques.runtimes.torch_graph import layers_of, load, tensor_of
from tests.measured import number
from tests.networks import Digits, ResidualNet
from tests.techniques.runtimes.contract import Contract

RUNTIME = RUNTIMES.get("torch")


class Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(64)
        self.inner = nn.Linear(64, 1024)
        self.head = nn.Linear(1024, 256)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.inner(self.norm(x)))).mean(1)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(12, 128, batch_first=True, bidirectional=True)
        self.head = nn.Linear(256, 9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(x)[0].mean(1))


class Branching(nn.Module):
    """What it does depends on the numbers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if x.sum() > 0 else x - 1


class TestTorch(Contract):
    runtime, package, int8 = "torch", "torch", "int8-dynamic"
    precisions: ClassVar = {
        "int8-weight": (0.32, 30),
        "int8-dynamic": (0.32, 25),
        "fp16": (0.55, 55),
        "bf16": (0.55, 35),
    }
    bad_operator = r"torch\.export cannot express this model: .*"
    network_with_bad_operator = Branching

    def integer_layers(self, path: Path) -> list[str]:
        return [name for name, tensor in load(path).state_dict().items() if tensor.dtype == torch.int8]


def built(model: nn.Module, x: torch.Tensor, path: Path) -> Any:
    return RUNTIME.build(model.eval(), open_source((x, torch.zeros(len(x))), "--data", 512, 0).read(), path, print)


def quantized(source: Path, x: torch.Tensor, name: str, ignore: tuple[str, ...] = ()) -> Path:
    target = source.with_name(f"{name}.pt2")
    calibration = open_source((x, torch.zeros(len(x))), "--data", 512, 0).read()
    QUANTIZERS.get((name, "torch"))(QuantizeJob(source, target, calibration, ("x",), ignore, print))
    return target


def sqnr_db(mine: np.ndarray, theirs: np.ndarray) -> float:
    return float(10 * np.log10((theirs**2).sum() / ((mine - theirs) ** 2).sum()))


def run(path: Path, x: torch.Tensor) -> np.ndarray:
    return np.asarray(RUNTIME.open(path, 1, ["x"])([x.numpy()])[0])


@pytest.mark.parametrize(("model", "shape"), [(ResidualNet(), (1, 8, 8)), (Recurrent(), (25, 12)), (Wide(), (5, 64))])
def test_the_program_gives_the_models_outputs_at_every_batch_size(
    model: nn.Module, shape: tuple[int, ...], tmp_path: Path
) -> None:
    assert built(model, torch.randn(20, *shape), tmp_path / "m.pt2").export_error < 1e-4
    for size in (1, 3, 40):
        x = torch.randn(size, *shape)
        np.testing.assert_allclose(run(tmp_path / "m.pt2", x), model(x).detach().numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "most", "kinds", "least_db"),
    [
        ("int8-weight", 0.35, {torch.int8}, 35),
        ("int8-dynamic", 0.35, {torch.int8}, 30),
        ("fp16", 0.56, {torch.float16}, 60),
        ("bf16", 0.56, {torch.bfloat16}, 40),
    ],
)
def test_weights_are_narrow_in_the_file_and_outputs_stay(
    tmp_path: Path, name: str, most: float, kinds: set[torch.dtype], least_db: float
) -> None:
    x = torch.randn(20, 5, 64)
    built(Wide(), x, tmp_path / "m.pt2")
    target = quantized(tmp_path / "m.pt2", x, name)
    assert target.stat().st_size < most * (tmp_path / "m.pt2").stat().st_size
    program = load(target)
    layers = layers_of(program)
    assert [layer.module for layer in layers] == ["inner", "head"]
    assert {tensor_of(program, node).dtype for layer in layers for node in layer.weights} == kinds
    assert sqnr_db(run(target, x[:7]), run(tmp_path / "m.pt2", x[:7])) > least_db


def test_dynamic_int8_multiplies_integers(tmp_path: Path) -> None:
    x = torch.randn(20, 5, 64)
    built(Wide(), x, tmp_path / "m.pt2")
    calls = [str(node.target) for node in load(quantized(tmp_path / "m.pt2", x, "int8-dynamic")).graph.nodes]
    assert calls.count("aten._int_mm.default") == 2
    assert "aten.linear.default" not in calls


def test_convolutions_and_recurrent_layers_shrink_too(tmp_path: Path) -> None:
    for model, shape in ((ResidualNet(32), (1, 8, 8)), (Recurrent(), (25, 12))):
        x = torch.randn(20, *shape)
        built(model, x, tmp_path / "m.pt2")
        target = quantized(tmp_path / "m.pt2", x, "int8-weight")
        assert target.stat().st_size < 0.36 * (tmp_path / "m.pt2").stat().st_size
        layers = RUNTIME.layers(target)
        assert layers.quantized == layers.quantizable > 0
        assert sqnr_db(run(target, x), run(tmp_path / "m.pt2", x)) > 30


def test_ignored_modules_stay_in_float(tmp_path: Path) -> None:
    x = torch.randn(20, 1, 8, 8)
    built(ResidualNet(), x, tmp_path / "m.pt2")
    for name in ("int8-weight", "int8-dynamic", "fp16"):
        kept = RUNTIME.layers(quantized(tmp_path / "m.pt2", x, name, ("blocks.1", "stem"))).kept
        assert set(kept) == {"stem.0", "blocks.1.conv1", "blocks.1.conv2", "blocks.1.skip.0"}, name


def test_without_linear_layers_dynamic_int8_says_so(tmp_path: Path) -> None:
    x = torch.randn(4, 1, 8, 8)
    built(nn.Conv2d(1, 8, 3), x, tmp_path / "m.pt2")
    with pytest.raises(StageError, match=r"linear layers only.*use int8-weight"):
        quantized(tmp_path / "m.pt2", x, "int8-dynamic")


def test_the_file_runs_in_a_process_without_the_source_and_holds_no_pickles(tmp_path: Path) -> None:
    x = torch.randn(20, 5, 64)
    built(Wide(), x, tmp_path / "m.pt2")
    target = quantized(tmp_path / "m.pt2", x, "int8-dynamic")
    np.save(tmp_path / "x.npy", x.numpy())
    code = "import sys, numpy, torch; p = torch.export.load(sys.argv[1]).module()\n"
    code += "numpy.save(sys.argv[3], p(torch.from_numpy(numpy.load(sys.argv[2])))[0].numpy())"
    files = [str(target), str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, *files], check=True, cwd=tmp_path)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), run(target, x), rtol=1e-3, atol=1e-4)
    with zipfile.ZipFile(target) as archive:
        assert not any(b"Wide" in archive.read(name) for name in archive.namelist())


@pytest.mark.parametrize("place", ["weights", "sample_inputs"])
def test_a_file_with_pickled_objects_is_refused(tmp_path: Path, place: str) -> None:
    built(nn.Linear(4, 4), torch.randn(4, 4), tmp_path / "m.pt2")
    pickled = io.BytesIO()
    torch.save(nn.Linear(1, 1), pickled)
    with zipfile.ZipFile(tmp_path / "m.pt2") as old, zipfile.ZipFile(tmp_path / "bad.pt2", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if place == "weights":
                content = content.replace(b'"use_pickle": false', b'"use_pickle": true')
            elif "sample_inputs" in name:
                content = pickled.getvalue()
            new.writestr(name, content)
    with pytest.raises(StageError, match="pickled objects"):
        RUNTIME.open(tmp_path / "bad.pt2", 1, ["x"])


def test_a_branch_on_data_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"torch.export cannot express this model: .*decides by the values"):
        built(Branching(), torch.randn(4, 2), tmp_path / "m.pt2")


def test_a_study_runs_on_torch(digits: Digits) -> None:
    recipe = {"prune": [0], "quantize": ["none", "int8-weight", "fp16"], "runtime": "torch", "latency": {"threads": 1}}
    study = qt.compress(digits.model, digits.test, recipe=recipe, train=digits.train, name="torch").wait(240)
    assert study.status == "finished"
    for trial in study:
        assert trial.status == "finished", trial
        assert number(trial, "agreement") > 0.98
    assert number(study["int8-weight"], "size_ratio") < 0.6
    loaded = study["int8-weight"].load()
    x = digits.test.dataset.tensors[0][:5]  # type: ignore[attr-defined]
    assert loaded(x).shape == (5, 10)
