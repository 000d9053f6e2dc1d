"""For random shapes, batch sizes, orders of keys and types the number is that of a plain loop."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from tests.situations.trying import CLOSE, mean, tried

FEW = settings(
    max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Keyed(nn.Module):
    """Takes two inputs by name."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(features, classes)

    def forward(self, signal: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
        return self.layer(signal) + offset


def run(model: nn.Module, data: Any, **asked: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        return tried(Path(folder), model, data, **asked).metric


@pytest.mark.slow
@FEW
@given(
    samples=st.integers(20, 150),
    size=st.integers(1, 40),
    classes=st.integers(2, 6),
    features=st.integers(1, 5),
    dtype=st.sampled_from([torch.int64, torch.int32, torch.uint8, torch.float32, torch.float64]),
    column=st.booleans(),
    order=st.permutations(["signal", "offset", "label", "index"]),
)
def test_classes_of_any_size_type_and_order(
    samples: int, size: int, classes: int, features: int, dtype: torch.dtype, column: bool, order: list[str]
) -> None:
    torch.manual_seed(samples)
    model = Keyed(features, classes)
    parts = {"signal": torch.randn(samples, features), "offset": torch.zeros(samples, 1)}
    parts["index"] = torch.arange(samples)
    guess = model(parts["signal"], parts["offset"]).argmax(1)
    labels = torch.where(torch.rand(samples) < 0.7, guess, torch.randint(0, classes, (samples,)))
    parts["label"] = labels.to(dtype).reshape(-1, 1) if column else labels.to(dtype)
    batches = [{key: parts[key][at : at + size] for key in order} for at in range(0, samples, size)]
    assert run(model, batches) == pytest.approx(mean([guess == labels]), **CLOSE)


@pytest.mark.slow
@FEW
@given(
    samples=st.integers(20, 90),
    size=st.integers(2, 30),
    columns=st.integers(1, 4),
    double=st.booleans(),
    low=st.integers(3, 30),
    whole=st.booleans(),
)
def test_values_of_any_size_and_type(
    samples: int, size: int, columns: int, double: bool, low: int, whole: bool
) -> None:
    torch.manual_seed(samples)
    model = nn.Linear(3, columns)
    x = torch.randn(samples, 3, dtype=torch.float64 if double else torch.float32)
    target = 4 * model(x.float()).detach() + low + torch.randn(samples, columns)
    target = target.round().long() if whole else target
    batches = list(zip(x.split(size), target.split(size), strict=True))
    output, wanted = model(x.float()).detach().double(), target.double()
    right = (1 - ((output - wanted) ** 2).sum(0) / ((wanted - wanted.mean(0)) ** 2).sum(0)).mean()
    assert run(model, batches) == pytest.approx(float(right), rel=1e-5)


@pytest.mark.slow
@FEW
@given(
    samples=st.integers(12, 60),
    size=st.integers(2, 20),
    height=st.integers(3, 9),
    width=st.integers(3, 9),
    classes=st.integers(2, 5),
    void=st.sampled_from([None, 255, -100]),
)
def test_places_of_any_size(samples: int, size: int, height: int, width: int, classes: int, void: int | None) -> None:
    torch.manual_seed(samples)
    model = nn.Conv2d(2, classes, 3, padding=1)
    x = torch.randn(samples, 2, height, width)
    guess = model(x).argmax(1)
    labels = torch.where(torch.rand(guess.shape) < 0.7, guess, torch.randint(0, classes, guess.shape))
    if void is not None:
        labels[torch.rand(guess.shape) < 0.3] = void
    batches = list(zip(x.split(size), labels.split(size), strict=True))
    counted = labels != (void if void is not None else -100)
    assert run(model, batches) == pytest.approx(mean([(guess == labels)[counted]]), **CLOSE)


@pytest.mark.slow
@FEW
@given(time=st.integers(3, 12), samples=st.integers(9, 70), size=st.integers(2, 20), every=st.booleans())
def test_sequences_with_time_first(time: int, samples: int, size: int, every: bool) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.GRU(2, 8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = self.head(self.rnn(x)[0])
            return out if every else out[-1]

    torch.manual_seed(samples)
    model = Recurrent()
    x = torch.randn(time, samples, 2)
    guess = model(x).argmax(-1)
    labels = torch.where(torch.rand(guess.shape) < 0.7, guess, (guess + 1) % 3)
    batches = list(zip(x.split(size, 1), labels.split(size, labels.ndim - 1), strict=True))
    assert run(model, batches) == pytest.approx(mean([guess == labels]), **CLOSE)


@pytest.mark.slow
@FEW
@given(lengths=st.lists(st.integers(2, 12), min_size=3, max_size=8), size=st.integers(2, 9), shared=st.booleans())
def test_batches_of_any_length(lengths: list[int], size: int, shared: bool) -> None:
    torch.manual_seed(sum(lengths))
    model = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 4))
    batches, hits = [], []
    for length in lengths:
        words = torch.randint(0, 9, (size, length))
        guess = model(words).argmax(-1)
        labels = torch.where(torch.rand(guess.shape) < 0.6, guess, (guess + 1) % 4)
        labels[0, 1:] = -100
        batches.append({"input": words, "labels": labels} if shared else (words, labels))
        hits.append((guess == labels)[labels != -100])
    assert run(model, batches) == pytest.approx(mean(hits), **CLOSE)
