"""Models that people have and that cannot be measured as they are: one sentence at submission, or the right number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.situations.trying import CLOSE, fitted, looked, mean, refused, tried

X = torch.randn(80, 4, generator=torch.Generator().manual_seed(1))


def classifier() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def labels(model: Any, wrong: int = 16) -> torch.Tensor:
    y = model(X).argmax(1)
    y[:wrong] = (y[:wrong] + 1) % 3
    return y


def test_a_dynamically_quantized_model_is_refused() -> None:
    model = torch.ao.quantization.quantize_dynamic(classifier(), {nn.Linear}, dtype=torch.qint8)
    said = refused(model, (X, labels(classifier())))
    assert "quantized already" in said


def test_a_statically_quantized_model_is_refused() -> None:
    ends = torch.ao.quantization.QuantStub(), torch.ao.quantization.DeQuantStub()
    model: Any = nn.Sequential(ends[0], *classifier(), ends[1]).eval()
    model.qconfig = torch.ao.quantization.default_qconfig
    prepared = torch.ao.quantization.prepare(model)
    prepared(X)
    model = torch.ao.quantization.convert(prepared)
    assert "quantized already" in refused(model, (X, labels(classifier())))


def test_a_scripted_model_and_one_with_a_scripted_part_are_refused() -> None:
    model = classifier()
    assert "TorchScript" in refused(torch.jit.script(model), (X, labels(model)))
    inner = classifier()
    mixed = nn.Sequential(inner[0], torch.jit.script(nn.Hardswish()), inner[2])
    y = labels(mixed)
    assert "its layer 1 is a TorchScript module" in refused(mixed, (X, y))


def test_a_lazy_model_is_refused_until_it_has_run() -> None:
    model = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(3))
    assert "lazy" in refused(model, (X, torch.arange(80) % 3))
    model(X)
    looked(model, (X, torch.arange(80) % 3))


def test_a_model_without_memory_is_refused() -> None:
    with torch.device("meta"):
        model = classifier()
    assert "meta" in refused(model, (X, torch.arange(80) % 3))


def test_logits_of_minus_infinity_are_refused_with_the_way_out() -> None:
    class Masks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = classifier()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x).masked_fill(torch.tensor([False, False, True]), -torch.inf)

    assert "-1e9" in refused(Masks(), (X, torch.arange(80) % 2))


def test_weights_of_nan_are_refused() -> None:
    model: Any = classifier()
    with torch.no_grad():
        model[0].weight[0, 0] = torch.nan
    assert "NaN" in refused(model, (X, torch.arange(80) % 3))


@pytest.mark.parametrize("quantization", ["int8", "int8-dynamic", "int8-weight", "int4-weight", "fp16", "bf16"])
def test_a_bag_of_embeddings_is_measured_and_quantized(tmp_path: Path, quantization: str) -> None:
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag = nn.EmbeddingBag(50, 16, mode="mean")
            self.head = nn.Linear(16, 3)

        def forward(self, words: torch.Tensor) -> torch.Tensor:
            return self.head(self.bag(words))

    words = torch.randint(0, 50, (96, 7), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    net = Bag()
    y = net(words).argmax(1)
    y[::4] = (y[::4] + 1) % 3
    found = tried(tmp_path, net, (words, y), {"quantize": ["none", quantization]})
    right = mean([net(words).argmax(1) == y])
    assert found.metric == pytest.approx(right, **CLOSE)
    assert mean([found.file()(words)[0].argmax(1) == y]) == pytest.approx(right, **CLOSE)
    quantized = found.of(quantization)
    assert quantized["agreement"] > 0.9
    assert quantized["metric"] == pytest.approx(mean([found.file(quantization)(words)[0].argmax(1) == y]), **CLOSE)


def test_bags_with_offsets_are_judged_whole(tmp_path: Path) -> None:
    class Offsets(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag = nn.EmbeddingBag(50, 16, mode="sum")
            self.head = nn.Linear(16, 3)

        def forward(self, words: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
            return self.head(self.bag(words, offsets))

    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    net = Offsets()
    batches = []
    for _ in range(8):
        sizes = torch.randint(2, 6, (8,), generator=generator)
        words = torch.randint(0, 50, (int(sizes.sum()),), generator=generator)
        offsets = torch.cat([torch.zeros(1, dtype=torch.long), sizes.cumsum(0)[:-1]])
        y = net(words, offsets).argmax(1)
        y[0] = (y[0] + 1) % 3
        batches.append(((words, offsets), y))
    found = tried(tmp_path, net, batches)
    assert found.metric == pytest.approx(7 / 8, **CLOSE)


def test_a_model_on_a_class_is_refused() -> None:
    assert "instance" in refused(nn.Linear, (X, torch.arange(80) % 3))
    assert "torch.nn.Module" in refused(lambda x: x, (X, torch.arange(80) % 3))


def test_a_model_that_returns_no_tensor_is_refused() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> list[str]:
            return ["a"] * len(x)

    assert "tensor" in refused(Words(), (X, torch.arange(80) % 3))


def test_a_model_that_prints_or_counts_is_left_as_it_was() -> None:
    model = classifier().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    looked(model, (X, torch.arange(80) % 3))
    assert bool((torch.random.get_rng_state() == state).all())
    assert all(bool((value == before[key]).all()) for key, value in model.state_dict().items())


def test_a_float_model_with_complex_outputs_is_refused_or_judged_by_another() -> None:
    class Spectrum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.fft.fft(self.layer(x))

    assert "complex" in refused(Spectrum(), (X, torch.randn(80, 4)))


def test_an_output_of_one_number_a_batch_is_refused() -> None:
    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = classifier()

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return nn.functional.cross_entropy(self.layer(x), y)

    said = refused(Loss(), [(X, torch.arange(80) % 3)])
    assert "--" in said or "forward" in said


@pytest.mark.parametrize("amount", [0.3])
def test_pruning_a_trained_model_is_judged_by_the_same_rule(tmp_path: Path, amount: float) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 3))
    y = labels(classifier(), 8)
    fitted(net, lambda batch: nn.functional.cross_entropy(net(X), y), [None], 100)
    found = tried(tmp_path, net, (X, y), {"prune": [0, amount], "quantize": ["none", "int8"]})
    for name in found.state.trials:
        right = mean([found.file(name)(X)[0].argmax(1) == y])
        assert found.of(name)["metric"] == pytest.approx(right, **CLOSE)
