"""Sensitivity of layers, and int8 with the most sensitive ones kept."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from quanttaas_jupyter.bundle.data import open_source
from quanttaas_jupyter.core.failures import StageError
from quanttaas_jupyter.techniques.quantize import QUANTIZERS, RANKERS, QuantizeJob, onnx_static
from quanttaas_jupyter.techniques.quantize.onnx_calibration import Reference
from quanttaas_jupyter.techniques.runtimes import RUNTIMES, Session

RUNTIME = RUNTIMES.get("onnxruntime")


class Fragile(nn.Module):
    """Its layer ``second`` sums channels that differ in size by seven orders: int8 activations lose most of them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.third = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 10)
        self.sizes: torch.Tensor
        self.register_buffer("sizes", torch.logspace(3, -4, 16).view(1, 16, 1, 1))
        self.second.weight.data /= self.sizes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x)) * self.sizes
        return self.head(torch.relu(self.third(torch.relu(self.second(x)))).mean((2, 3)))


class Loss:
    """Counts how often it was asked; the drop is what ``of`` says of an artifact's SQNR."""

    def __init__(self, source: Path, x: torch.Tensor, of: Callable[[float], float]) -> None:
        self.calls, self._x, self._of = 0, x.numpy(), of
        self._expected = self._run(source)

    def _run(self, path: Path) -> np.ndarray:
        return np.asarray(RUNTIME.open(path, 1, ["input"])([self._x])[0], dtype=np.float64)

    def sqnr_db(self, path: Path) -> float:
        noise = ((self._run(path) - self._expected) ** 2).sum()
        return float(10 * np.log10((self._expected**2).sum() / noise))

    def drop(self, path: Path) -> float:
        self.calls += 1
        return self._of(self.sqnr_db(path))

    def drop_of(self, session: Session) -> float:
        raise NotImplementedError("it judges files")


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def job(images: torch.Tensor, tmp_path: Path) -> QuantizeJob:
    torch.manual_seed(0)
    calibration = open_source((images, torch.zeros(len(images))), "--data", 512, 0).read()
    RUNTIME.build(Fragile().eval(), calibration, tmp_path / "m.onnx", lambda line: None)
    return QuantizeJob(tmp_path / "m.onnx", tmp_path / "q.onnx", calibration, ("input",), (), lambda line: None)


def kinds(path: Path) -> dict[str, int]:
    """Data type of each convolution's weight, by its place."""
    graph = onnx.load(str(path)).graph
    producers = {output: node for node in graph.node for output in node.output}
    constants = {item.name: item.data_type for item in graph.initializer}
    found = {}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm"):
            name = node.input[1]
            while name not in constants:
                name = producers[name].input[0]
            found[node.name] = constants[name]
    return found


def test_the_layer_that_int8_hurts_most_ranks_first(job: QuantizeJob) -> None:
    ranking = RANKERS.get("onnxruntime")(job)
    assert ranking[0][0] == "second"
    assert {module for module, _ in ranking} == {"first", "second", "third", "head"}
    decibels = [value for _, value in ranking]
    assert decibels == sorted(decibels)
    assert decibels[0] < decibels[1] - 10
    assert all(value <= 120 for value in decibels)


def test_ignored_layers_are_not_ranked(job: QuantizeJob) -> None:
    ranking = RANKERS.get("onnxruntime")(replace(job, ignore=("second", "head")))
    assert {module for module, _ in ranking} == {"first", "third"}


def test_only_what_must_be_kept_is_kept_and_stored_as_float16(job: QuantizeJob, images: torch.Tensor) -> None:
    ranking = RANKERS.get("onnxruntime")(job)
    judge = Loss(job.source, images, lambda sqnr: 0.0 if sqnr > 30 else 0.5)
    made = QUANTIZERS.get(("mixed", "onnxruntime"))(replace(job, ranking=ranking, keep=None, judge=judge))
    assert made.choices["kept"] == ["second"]
    assert made.choices["drop_on_calibration"] == 0.0
    int8, fp16 = onnx.TensorProto.INT8, onnx.TensorProto.FLOAT16
    assert kinds(job.target) == {"first": int8, "second": fp16, "third": int8, "head": int8}
    assert judge.sqnr_db(job.target) > 30
    assert job.target.stat().st_size < 0.6 * job.source.stat().st_size


def test_a_kept_layer_reads_what_no_int8_has_touched(job: QuantizeJob) -> None:
    QUANTIZERS.get(("mixed", "onnxruntime"))(replace(job, ranking=[("third", 3.0), ("first", 9.0)], keep=1))
    graph = onnx.load(str(job.target)).graph
    producers = {output: node for node in graph.node for output in node.output}
    (third,) = (node for node in graph.node if node.name == "third")
    assert producers[third.input[0]].op_type == "Relu"
    assert producers[producers[third.input[0]].input[0]].name == "second"


def test_where_int8_is_enough_nothing_is_kept(job: QuantizeJob, images: torch.Tensor) -> None:
    ranking = RANKERS.get("onnxruntime")(job)
    judge = Loss(job.source, images, lambda sqnr: 0.0)
    made = QUANTIZERS.get(("mixed", "onnxruntime"))(replace(job, ranking=ranking, keep=None, judge=judge))
    assert made.choices["kept"] == []
    assert judge.calls == 1
    assert "every layer could be int8" in made.warnings[-1]


def test_where_nothing_is_enough_it_says_so(job: QuantizeJob, images: torch.Tensor) -> None:
    ranking = RANKERS.get("onnxruntime")(job)
    judge = Loss(job.source, images, lambda sqnr: 1.0)
    with pytest.raises(StageError, match=r"no layer can be int8 .*max_drop"):
        QUANTIZERS.get(("mixed", "onnxruntime"))(replace(job, ranking=ranking, keep=None, judge=judge))


def test_keep_takes_the_head_of_a_ranking_even_of_layers_that_are_gone(job: QuantizeJob) -> None:
    ranking = [("pruned.away", 3.0), ("third", 9.0), ("second", 20.0), ("first", 40.0), ("head", 50.0)]
    made = QUANTIZERS.get(("mixed", "onnxruntime"))(replace(job, ranking=ranking, keep=2))
    assert made.choices["kept"] == ["third", "second"]
    assert [name for name, kind in kinds(job.target).items() if kind == onnx.TensorProto.FLOAT16] == ["second", "third"]


def test_int8_keeps_the_head_of_the_ranking_in_float32(job: QuantizeJob) -> None:
    ranking = [("second", 3.0), ("first", 9.0)]
    made = QUANTIZERS.get(("int8", "onnxruntime"))(replace(job, ranking=ranking, keep=1))
    assert made.choices["kept"] == ["second"]
    assert RUNTIME.layers(job.target).kept == ("second",)


def test_where_everything_is_ignored_mixed_says_that_nothing_is_left(job: QuantizeJob) -> None:
    everything = replace(job, ignore=("",))
    assert RANKERS.get("onnxruntime")(everything) == []
    with pytest.raises(StageError, match="mixed finds no layer with weights that may be quantized.*ignore fewer"):
        QUANTIZERS.get(("mixed", "onnxruntime"))(replace(everything, keep=None))


class Wrong(Reference):
    """An ONNX Runtime that computes integers between layers wrongly."""

    def sqnr_db(self, model: onnx.ModelProto) -> float:
        makers = {output: node.op_type for node in model.graph.node for output in node.output}
        is_between = any(n.op_type == "Sigmoid" and makers[n.input[0]] == "DequantizeLinear" for n in model.graph.node)
        return -0.04 if is_between else super().sqnr_db(model)


def test_where_integers_between_layers_are_computed_wrongly_they_are_float_there(
    images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 8, 3), nn.Sigmoid(), nn.Conv2d(8, 8, 3), nn.Sigmoid(), nn.Conv2d(8, 4, 3)
    calibration = open_source((images, torch.zeros(len(images))), "--data", 512, 0).read()
    RUNTIME.build(nn.Sequential(*layers).eval(), calibration, tmp_path / "m.onnx", lambda line: None)
    job = QuantizeJob(tmp_path / "m.onnx", tmp_path / "q.onnx", calibration, ("input",), (), lambda line: None)
    monkeypatch.setattr(onnx_static, "Reference", Wrong)
    made = QUANTIZERS.get(("int8", "onnxruntime"))(job)
    graph = onnx.load(str(job.target)).graph
    makers = {output: node.op_type for node in graph.node for output in node.output}
    assert [makers[node.input[0]] for node in graph.node if node.op_type == "Sigmoid"] == ["Conv", "Conv"]
    assert set(kinds(job.target).values()) == {onnx.TensorProto.INT8}
    assert "between the layers it is float32" in made.warnings[-1]
