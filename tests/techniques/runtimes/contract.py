"""What every runtime promises: its test file subclasses ``Contract`` and says how its artifacts differ."""

from __future__ import annotations

import builtins
import importlib.metadata
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement
from torch import nn

from quanttaas_jupyter.bundle.data import open_source
from quanttaas_jupyter.core.failures import StageError
from quanttaas_jupyter.techniques.quantize import QUANTIZERS, Quantized, QuantizeJob
from quanttaas_jupyter.techniques.runtimes import RUNTIMES
from tests.networks import Digits, ResidualNet
from tests.techniques.quantize.on_onnx import Block


class Transformer(nn.Module):
    """A small vision transformer for 8 x 8 images: four patches a side."""

    def __init__(self, width: int = 64, depth: int = 2) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, 2)
        self.position = nn.Parameter(0.1 * torch.randn(1, 16, width))
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.patches(x).flatten(2).transpose(1, 2) + self.position).mean(1))


class Inverse(nn.Module):
    """Holds an operator that no runtime has."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvals(self.inner(x)).real


def batches(x: torch.Tensor) -> Any:
    return open_source((x, torch.zeros(len(x))), "--data", 512, 0).read()


def images(count: int = 40) -> torch.Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def sqnr_db(mine: np.ndarray, theirs: np.ndarray) -> float:
    return float(10 * np.log10((theirs**2).sum() / ((mine - theirs) ** 2).sum()))


NETWORKS: dict[str, Callable[[], nn.Module]] = {"cnn": lambda: ResidualNet(64), "transformer": lambda: Transformer(256)}
"""A convolutional network and a transformer of a million parameters."""


@dataclass
class Kept:
    """What the tests of a runtime built, for all of them: some runtimes need many seconds for one file."""

    folder: Path
    built: dict[str, tuple[nn.Module, Any]] = field(default_factory=dict)
    files: dict[tuple[str, str], Path] = field(default_factory=dict)


class Contract:
    """Subclasses name the ``runtime``, its ``precisions``, the module that it imports and the extra that brings it.

    Without an extra the module comes with this package.
    """

    runtime: str
    package: str
    extra: str = ""
    int8: str = "int8"
    """The quantization that computes in int8."""
    network_with_bad_operator: type[nn.Module] = Inverse
    precisions: ClassVar[dict[str, tuple[float, float]]]
    """By quantization: at most this share of the baseline's bytes with a million parameters, at least these dB."""
    bad_operator = r"eig"

    @pytest.fixture(scope="class")
    def kept(self, tmp_path_factory: pytest.TempPathFactory) -> Kept:
        return Kept(tmp_path_factory.mktemp("kept"))

    @property
    def place(self) -> Any:
        return RUNTIMES.get(self.runtime)

    def build(self, model: nn.Module, x: torch.Tensor, folder: Path) -> Any:
        self.path = self.source = folder / f"model{self.place.suffix}"
        self.built = self.place.build(model.eval(), batches(x), self.path, print)
        self.source = self.built.graph or self.path
        return self.built

    def once(self, network: str, kept: Kept) -> nn.Module:
        """Build one of ``NETWORKS`` unless another test did, and return the module."""
        folder = kept.folder / network
        if network not in kept.built:
            folder.mkdir()
            model = NETWORKS[network]()
            kept.built[network] = model, self.build(model, images(), folder)
        model, self.built = kept.built[network]
        self.path = folder / f"model{self.place.suffix}"
        self.source = self.built.graph or self.path
        return model

    def quantized(self, name: str, network: str, kept: Kept) -> Path:
        """Quantize one of ``NETWORKS`` unless another test did."""
        self.once(network, kept)
        if (name, network) not in kept.files:
            kept.files[name, network], _ = self.quantize(name, images())
        return kept.files[name, network]

    def quantize(self, name: str, x: torch.Tensor, **more: Any) -> tuple[Path, Quantized]:
        target = self.path.with_name(f"{name}{'-partly' if more else ''}{self.place.suffix}")
        names = self.built.signature.input_names
        job = QuantizeJob(self.source, target, batches(x), names, more.pop("ignore", ()), print, **more)
        return target, QUANTIZERS.get((name, self.runtime))(job)

    def run(self, path: Path, x: torch.Tensor) -> np.ndarray:
        return np.asarray(self.place.open(path, 1, self.built.signature.input_names)([x.numpy()])[0])

    def layers_of(self, path: Path) -> Any:
        return self.place.layers(path)

    def integer_layers(self, path: Path) -> list[str]:
        """Layers that the runtime or its file says are computed in integers."""
        raise NotImplementedError

    def sessions_on_a_gpu(self, model: nn.Module, folder: Path) -> Iterator[Any]:
        """Build and quantize a model, run and time it on this machine's GPU; the open sessions."""
        self.build(model, images(), folder)
        for name in ("", "int8", "fp16"):
            path = self.quantize(name, images())[0] if name else self.path
            session = self.place.open(path, 1, self.built.signature.input_names)
            for size in (1, 40):
                found = session([images(size).numpy()])[0]
                np.testing.assert_allclose(found, model(images(size)).detach().numpy(), atol=0.1)
            assert 0 < session.seconds([images(1).numpy()]) < 1
            yield session

    @pytest.mark.parametrize("network", NETWORKS)
    def test_the_artifact_gives_the_models_outputs_at_every_batch_size(self, network: str, kept: Kept) -> None:
        model = self.once(network, kept)
        assert self.built.export_error < 1e-3
        for size in (1, 3, 40):
            x = images(size)
            np.testing.assert_allclose(self.run(self.path, x), model(x).detach().numpy(), atol=1e-3)

    @pytest.mark.parametrize("network", NETWORKS)
    def test_files_of_a_million_parameters_shrink_and_outputs_stay(self, network: str, kept: Kept) -> None:
        model = self.once(network, kept)
        assert sum(p.numel() for p in model.parameters()) > 1_000_000
        expected = self.run(self.path, images())
        for name, (most, least_db) in self.precisions.items():
            target = self.quantized(name, network, kept)
            ratio = target.stat().st_size / self.path.stat().st_size
            quality = sqnr_db(self.run(target, images()), expected)
            print(f"{self.runtime} {network} {name}: {ratio:.3f} of the bytes, {quality:.1f} dB")
            assert ratio <= most, name
            assert quality >= least_db, name
            layers = self.layers_of(target)
            assert layers.quantized == layers.quantizable > 0, (name, layers.kept)

    @pytest.mark.parametrize("network", NETWORKS)
    def test_int8_is_computed_in_int8(self, network: str, kept: Kept) -> None:
        target = self.quantized(self.int8, network, kept)
        layers = self.layers_of(target)
        assert len(self.integer_layers(target)) == layers.integers == layers.quantizable
        assert not self.integer_layers(self.path)

    def test_int8_keeps_the_accuracy_of_a_trained_network(self, digits: Digits, tmp_path: Path) -> None:
        (x, y) = (torch.cat(column) for column in zip(*digits.test, strict=True))
        seen = next(iter(digits.train))[0]
        self.build(digits.model, seen, tmp_path)
        right = {
            path.name: (self.run(path, x).argmax(1) == y.numpy()).mean()
            for path in (self.path, self.quantize(self.int8, seen)[0])
        }
        before, after = right.values()
        assert before > 0.97
        assert after >= before - 0.01

    def test_ignored_modules_stay_in_float(self, kept: Kept) -> None:
        self.once("cnn", kept)
        for name in self.precisions:
            layers = self.layers_of(self.quantize(name, images(), ignore=("blocks.1", "stem"))[0])
            assert set(layers.kept) == {"stem.0", "blocks.1.conv1", "blocks.1.conv2", "blocks.1.skip.0"}, name

    def test_an_operator_that_cannot_be_expressed_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(StageError, match=self.bad_operator):
            self.build(self.network_with_bad_operator(), torch.randn(4, 3, 3), tmp_path)

    def test_without_its_package_the_pip_command_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        if not self.extra:
            needed = {Requirement(line) for line in importlib.metadata.requires("quanttaas-jupyter") or ()}
            assert self.package in {item.name for item in needed if item.marker is None}
            return
        for name in [name for name in sys.modules if name.split(".")[0] == self.package]:
            monkeypatch.delitem(sys.modules, name)
        real = builtins.__import__

        def missing(name: str, *args: Any, **kwargs: Any) -> Any:
            if name.split(".")[0] == self.package:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            return real(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", missing)
        monkeypatch.setitem(sys.modules, self.package, None)
        with pytest.raises(StageError, match=rf"pip install 'quanttaas-jupyter\[{self.extra}\]'"):
            self.build(ResidualNet(), images(), tmp_path)
