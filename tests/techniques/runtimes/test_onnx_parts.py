"""Models of more bytes than one ONNX file holds; a limit of some kilobytes stands for that of 2 GB."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from quanttaas_jupyter.core.failures import StageError
from quanttaas_jupyter.techniques.runtimes import RUNTIMES, onnx_parts
from tests.techniques.quantize.on_onnx import RUNTIME, Text, exported, quantize


class Odd(nn.Module):
    """Tracing has no operator for its first step, so that ``torch.export`` writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(63, 64), nn.ReLU(), nn.Linear(64, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(torch.diff(x))


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_parts, "MOST", 60_000)
    monkeypatch.setattr(onnx_parts, "_INLINE", 1024)


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(0, 500, (16, 24), generator=torch.Generator().manual_seed(0))


def run(path: Path, x: torch.Tensor) -> np.ndarray:
    outputs: np.ndarray = RUNTIME.open(path, 1, ["input"])([x.numpy()])[0]
    return outputs


@pytest.mark.usefixtures("small_limit")
def test_a_model_beyond_the_limit_is_an_archive_that_runs_like_the_module(tmp_path: Path, tokens: torch.Tensor) -> None:
    model = Text().eval()
    path = exported(model, tokens, tmp_path / "m.onnx")
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        graph, data = (archive.getinfo(name).file_size for name in ("model.onnx", "model.onnx.data"))
    assert data > 400_000 > 60_000 > graph
    assert RUNTIME.suffix_of(path) == ".onnx.zip"
    assert np.abs(run(path, tokens) - model(tokens).detach().numpy()).max() < 1e-5
    assert RUNTIME.layers(path).quantizable == 10


@pytest.mark.usefixtures("small_limit")
def test_weights_that_torch_export_wrote_beside_the_graph_come_into_the_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = Odd().eval(), torch.randn(8, 64)
    monkeypatch.setattr(onnx_parts, "MOST", 10_000)
    path = exported(model, x, tmp_path / "m.onnx")
    assert onnx_parts.is_packed(path)
    for other in tmp_path.iterdir():
        if other != path:
            other.unlink()
    assert np.abs(run(path, x) - model(x).detach().numpy()).max() < 1e-5


@pytest.mark.parametrize("quantization", ["int8-weight", "int4-weight"])
def test_narrow_weights_of_an_archive_are_those_of_a_plain_file(
    quantization: str, tmp_path: Path, tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Text().eval()
    for name in ("plain", "packed"):
        (tmp_path / name).mkdir()
    plain = exported(model, tokens, tmp_path / "plain" / "m.onnx")
    of_plain, _ = quantize(plain, tokens, quantization)
    monkeypatch.setattr(onnx_parts, "MOST", 60_000)
    monkeypatch.setattr(onnx_parts, "_INLINE", 1024)
    packed = exported(model, tokens, tmp_path / "packed" / "m.onnx")
    of_packed, _ = quantize(packed, tokens, quantization)
    assert onnx_parts.is_packed(of_packed)
    assert of_packed.stat().st_size < 0.5 * packed.stat().st_size
    assert RUNTIME.layers(of_packed) == RUNTIME.layers(of_plain)
    assert np.array_equal(run(of_packed, tokens), run(of_plain, tokens))


@pytest.mark.parametrize("quantization", ["int8", "int8-dynamic", "int8-weight", "fp16", "bf16"])
def test_files_that_are_written_in_parts_are_those_written_at_once(
    quantization: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(512, 5)
    )
    x = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = []
    for folder, inline in (("whole", 1 << 20), ("parts", 256)):
        monkeypatch.setattr(onnx_parts, "_INLINE", inline)
        (tmp_path / folder).mkdir()
        source = exported(model, x, tmp_path / folder / "m.onnx")
        found.append(run(quantize(source, x, quantization)[0], x))
    assert np.array_equal(found[0], found[1])


@pytest.mark.usefixtures("small_limit")
@pytest.mark.parametrize("quantization", ["int8", "int8-dynamic", "fp16"])
def test_quantizations_that_need_the_whole_model_in_one_message_say_what_does_not(
    quantization: str, tmp_path: Path, tokens: torch.Tensor
) -> None:
    path = exported(Text().eval(), tokens, tmp_path / "m.onnx")
    with pytest.raises(StageError, match=r"up to 2 GB.*use int8-weight or int4-weight"):
        quantize(path, tokens, quantization)


@pytest.mark.usefixtures("small_limit")
def test_an_archive_is_exported_as_the_two_files_that_others_open(tmp_path: Path, tokens: torch.Tensor) -> None:
    model = Text().eval()
    path = exported(model, tokens, tmp_path / "m.onnx")
    target = tmp_path / "for-others" / RUNTIME.exported_name("none.onnx.zip")
    target.parent.mkdir()
    RUNTIME.export(path, target)
    assert sorted(file.name for file in target.parent.iterdir()) == ["none.onnx", "none.onnx.data"]
    onnx.checker.check_model(str(target))
    session = ort.InferenceSession(str(target))
    assert np.array_equal(session.run(None, {"input": tokens.numpy()})[0], run(path, tokens))


@pytest.mark.usefixtures("small_limit")
def test_openvino_reads_an_archive(tmp_path: Path, tokens: torch.Tensor) -> None:
    pytest.importorskip("openvino")
    runtime = RUNTIMES.get("openvino")
    model = Text().eval()
    path = exported(model, tokens, tmp_path / "m.openvino.zip", runtime)
    outputs = runtime.open(path, 1, ["input"])([tokens.numpy()])[0]
    assert np.abs(outputs - model(tokens).detach().numpy()).max() < 1e-4


@pytest.mark.usefixtures("small_limit")
@pytest.mark.parametrize(
    "offset",
    ["-8", "99999999"],
)
def test_an_archive_that_points_outside_of_itself_is_refused(offset: str, tmp_path: Path, tokens: torch.Tensor) -> None:
    path = exported(Text().eval(), tokens, tmp_path / "m.onnx")
    with zipfile.ZipFile(path) as archive:
        model = onnx.ModelProto.FromString(archive.read("model.onnx"))
        data = archive.read("model.onnx.data")
    first = next(tensor for tensor in model.graph.initializer if tensor.data_location)
    first.external_data[1].value = offset
    with zipfile.ZipFile(tmp_path / "bad.onnx", "w") as archive:
        archive.writestr("model.onnx.data", data)
        archive.writestr("model.onnx", model.SerializeToString())
    with pytest.raises(StageError, match="outside of its file"):
        run(tmp_path / "bad.onnx", tokens)


def test_weights_beside_a_model_lie_nowhere_else(tmp_path: Path) -> None:
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[2], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../secret")
    graph = onnx.GraphProto(initializer=[tensor])
    (tmp_path / "m.onnx").write_bytes(onnx.ModelProto(graph=graph).SerializeToString())
    with pytest.raises(StageError, match="not beside the model"):
        onnx_parts.load(tmp_path / "m.onnx")


def test_the_archive_of_a_model_has_the_same_bytes_each_time(
    tmp_path: Path, tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = exported(Text().eval(), tokens, tmp_path / "plain.onnx")
    monkeypatch.setattr(onnx_parts, "MOST", 60_000)
    monkeypatch.setattr(onnx_parts, "_INLINE", 1024)
    for name in ("one.zip", "two.zip"):
        onnx_parts.save(onnx.load(str(plain)), tmp_path / name)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
