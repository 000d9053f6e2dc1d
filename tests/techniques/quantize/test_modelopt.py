"""What ModelOpt finds, written into files that shrink."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import quanttaas_jupyter as qt
from quanttaas_jupyter.core.errors import MissingDependency
from quanttaas_jupyter.core.failures import StageError
from quanttaas_jupyter.core.fingerprint import version_of
from quanttaas_jupyter.planning.search.auto import _within_reach
from quanttaas_jupyter.techniques import registry
from quanttaas_jupyter.techniques.availability import available_quantizations, refuse_missing
from quanttaas_jupyter.techniques.quantize import QUANTIZERS, QuantizeJob, modelopt_scales
from quanttaas_jupyter.techniques.quantize.onnx_calibration import open_model
from quanttaas_jupyter.techniques.quantize.onnx_file import load_prepared
from quanttaas_jupyter.techniques.runtimes import RUNTIMES
from tests.engine.inline import drive
from tests.measured import number
from tests.networks import Digits, Encoder, ResidualNet
from tests.techniques.quantize.on_onnx import integer_products
from tests.techniques.runtimes.contract import Transformer, batches, images, sqnr_db


class Built:
    """A network built for a runtime, and what it says."""

    def __init__(self, model: nn.Module, runtime: str, folder: Path) -> None:
        self.model, self.runtime, self.folder = model.eval(), runtime, folder
        self.place = RUNTIMES.get(runtime)
        self.path = folder / f"model{self.place.suffix}"
        self.built = self.place.build(self.model, batches(images()), self.path, print)
        self.said = model(images()).detach().numpy()

    def job(self, name: str, **more: Any) -> QuantizeJob:
        target = self.folder / f"{name}{self.place.suffix}"
        names = self.built.signature.input_names
        more.setdefault("module", lambda: copy.deepcopy(self.model))
        more.setdefault("class_dim", 1)
        ignore = more.pop("ignore", ())
        return QuantizeJob(self.built.graph or self.path, target, batches(images()), names, ignore, print, **more)

    def quantize(self, name: str, **more: Any) -> tuple[Path, Path, Any]:
        """The artifact, its graph, and what the technique said."""
        job = self.job(name, **more)
        done = QUANTIZERS.get((name, self.runtime))(job)
        return job.target, done.graph or job.target, done

    def quality(self, graph: Path) -> float:
        session = self.place.open_graph(graph, 1, self.built.signature.input_names)
        return sqnr_db(session([images().numpy()])[0], self.said)


def with_outliers(model: Transformer) -> Transformer:
    """Three channels behind each normalization forty times as large: what transformers at scale are like."""
    blocks: Any = model.blocks
    for block in blocks:
        for norm, linear in ((block.norm1, block.qkv), (block.norm2, block.fc1)):
            norm.weight.data[:3] *= 40
            linear.weight.data[:, :3] /= 40
    return model


@pytest.mark.parametrize("find", [modelopt_scales.by_smoothquant, lambda job: modelopt_scales.by_awq(job, 32)])
def test_multiplying_inputs_and_dividing_weights_changes_nothing(find: Any, tmp_path: Path) -> None:
    built = Built(Transformer(), "onnxruntime", tmp_path)
    found = modelopt_scales.scaled(load_prepared(built.path), find(built.job("int8-smoothquant")))
    assert sum(node.op_type == "Mul" and node.name.endswith("/multiply") for node in found.model.graph.node) == 9
    (name,) = built.built.signature.input_names
    np.testing.assert_allclose(open_model(found.model).run(None, {name: images().numpy()})[0], built.said, atol=1e-5)


@pytest.mark.parametrize(("runtime", "share"), [("tensorrt", 0.6), ("onnxruntime-cuda", 0.3)])
@pytest.mark.parametrize("network", [lambda: ResidualNet(64), lambda: Transformer(256)])
def test_int8_of_modelopt_shrinks_the_file_and_is_int8_in_it(
    network: Callable[[], nn.Module], runtime: str, share: float, tmp_path: Path
) -> None:
    built = Built(network(), runtime, tmp_path)
    for name in ("int8-modelopt", "int8-smoothquant"):
        target, graph, _ = built.quantize(name)
        layers = built.place.layers(graph)
        assert len(integer_products(graph)) == layers.integers == layers.quantizable > 0
        assert target.stat().st_size < share * built.path.stat().st_size
        assert built.quality(graph) > 25


def test_float8_of_modelopt_is_float8_in_the_file(tmp_path: Path) -> None:
    built = Built(Transformer(), "tensorrt", tmp_path)
    _, graph, _ = built.quantize("fp8-modelopt")
    kinds = {item.data_type for item in onnx.load(str(graph)).graph.initializer}
    assert onnx.TensorProto.FLOAT8E4M3FN in kinds
    assert built.quality(graph) > 15


def test_smoothing_helps_where_channels_are_outliers(tmp_path: Path) -> None:
    built = Built(with_outliers(Transformer()), "onnxruntime-cuda", tmp_path)
    plain, smooth = (built.quality(built.quantize(name)[1]) for name in ("int8-modelopt", "int8-smoothquant"))
    assert smooth > plain + 5


@pytest.mark.parametrize("network", [ResidualNet, lambda: Transformer(128)])
def test_awq_is_nearer_than_plain_rounding_at_the_same_size(network: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    built = Built(network(), "onnxruntime", tmp_path)
    (plain, _, _), (awq, _, _) = built.quantize("int4-weight"), built.quantize("int4-awq")
    assert built.quality(awq) > built.quality(plain) + 1
    assert awq.stat().st_size < 1.1 * plain.stat().st_size
    counts = [[node.op_type for node in onnx.load(str(path)).graph.node].count("MatMulNBits") for path in (awq, plain)]
    assert counts[0] == counts[1] > 0


def test_awq_in_tensorrt_has_weights_of_four_bits(tmp_path: Path) -> None:
    built = Built(Transformer(256), "tensorrt", tmp_path)
    target, graph, _ = built.quantize("int4-awq")
    narrow = [i for i in onnx.load(str(graph)).graph.initializer if i.data_type == onnx.TensorProto.INT4]
    assert len(narrow) == 9
    assert target.stat().st_size < 0.5 * built.path.stat().st_size
    with pytest.raises(StageError, match="multiple of 128 inputs"):
        Built(ResidualNet(), "tensorrt", tmp_path).quantize("int4-awq")


def test_ignored_modules_stay_in_float(tmp_path: Path) -> None:
    built = Built(ResidualNet(), "onnxruntime-cuda", tmp_path)
    for name in ("int8-modelopt", "int8-smoothquant"):
        kept = built.place.layers(built.quantize(name, ignore=("blocks.1", "stem"))[1]).kept
        assert set(kept) == {"stem.0", "blocks.1.conv1", "blocks.1.conv2", "blocks.1.skip.0"}, name


def test_mixed_keeps_the_layers_that_auto_quantize_ranks_first(tmp_path: Path) -> None:
    built = Built(Transformer(), "onnxruntime-cuda", tmp_path)
    worst = [module for module, _ in modelopt_scales.ranking(built.job("mixed-modelopt"))][:2]
    _, graph, done = built.quantize("mixed-modelopt", keep=2)
    assert set(built.place.layers(graph).kept) == set(worst)
    assert done.choices == {"kept": worst}
    assert built.quality(graph) > built.quality(built.quantize("int8-modelopt")[1])


@pytest.mark.slow
def test_a_study_measures_what_modelopt_made(tmp_path: Path, digits: Digits) -> None:
    recipe = {
        "prune": [0, 0.3],
        "quantize": ["none", "int8-modelopt", "mixed-modelopt"],
        "runtime": "onnxruntime-cuda",
    }
    state = drive(tmp_path / "study", digits.model, digits.test, recipe, train=digits.train)[0]
    assert len(state.trials) == 6
    for name, trial in state.trials.items():
        assert trial.status == "finished", (name, trial.error)
        assert "prune" in name or number(trial, "drop") <= 0.01, name
        assert trial.is_baseline or "int8" not in name or number(trial, "size_ratio") < 0.35, name


class TestWithoutThePackage:
    @pytest.fixture(autouse=True)
    def _not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        installed = version_of
        monkeypatch.setattr(registry, "version_of", lambda name: "" if name == "nvidia-modelopt" else installed(name))

    def test_submission_tells_the_pip_command(self) -> None:
        recipe = qt.Recipe.parse({"quantize": "int4-awq"})
        with pytest.raises(MissingDependency, match=r"int4-awq .*pip install 'quanttaas-jupyter\[modelopt\]'"):
            refuse_missing(recipe)
        refuse_missing(qt.Recipe.parse({"quantize": "int4-weight"}))

    def test_the_automatic_mode_does_not_propose_it(self) -> None:
        named = available_quantizations(["int8", "int8-smoothquant"], "tensorrt")
        assert _within_reach(named, "tensorrt") == ["int8"]


def test_the_automatic_mode_proposes_it_where_it_is_installed() -> None:
    assert "int8-smoothquant" in _within_reach(["int8", "int8-smoothquant"], "tensorrt")


class Tied(nn.Module):
    """Two layers with one weight between two others; the first has one input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.again, self.head = (
            nn.Linear(1, 16),
            nn.Linear(16, 16),
            nn.Linear(16, 16),
            nn.Linear(16, 4),
        )
        self.again.weight = self.inner.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.again(torch.relu(self.inner(self.first(x.flatten(2).mean(2)))))))


@pytest.mark.parametrize(
    ("network", "kept"),
    [(Encoder, {"inner.self_attn", "inner.self_attn.out_proj"}), (Tied, {"inner", "again", "first"})],
)
def test_layers_of_which_nothing_is_known_stay_in_float_and_that_is_said(
    network: type[nn.Module], kept: set[str], tmp_path: Path
) -> None:
    built = Built(network(), "onnxruntime-cuda", tmp_path)
    for name in ("int8-modelopt", "int8-smoothquant"):
        _, graph, done = built.quantize(name)
        layers = built.place.layers(graph)
        assert set(layers.kept) <= kept, name
        assert len(integer_products(graph)) == layers.integers > 0
        assert built.quality(graph) > 20
        assert any("ModelOpt knows no ranges of" in line for line in done.warnings)


def test_mixed_needs_class_scores(tmp_path: Path) -> None:
    built = Built(ResidualNet(), "onnxruntime-cuda", tmp_path)
    with pytest.raises(StageError, match=r"compares class scores, and these outputs are none; use int8-modelopt"):
        built.quantize("mixed-modelopt", class_dim=None)


def test_what_modelopt_cannot_run_is_one_sentence(tmp_path: Path) -> None:
    class Moody(Transformer):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("not today")

    built = Built(Transformer(), "onnxruntime-cuda", tmp_path)
    with pytest.raises(StageError, match=r"ModelOpt cannot quantize this model: RuntimeError: not today"):
        built.quantize("int8-modelopt", module=Moody)
    with pytest.raises(StageError, match="starts from the PyTorch module"):
        built.quantize("int8-modelopt", module=None)
