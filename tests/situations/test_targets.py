"""Targets in forms that data sets have beside dense tensors of numbers."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from tests.situations.trying import CLOSE, Through, cut, measured, refused


def classes() -> tuple[torch.Tensor, torch.Tensor, float]:
    torch.manual_seed(0)
    x = torch.randn(100, 4)
    y = (x + torch.randn(100, 4)).argmax(1)
    return x, y, float((x.argmax(1) == y).double().mean())


@pytest.mark.parametrize("form", [torch.Tensor.tolist, list, lambda y: nn.functional.one_hot(y, 4).to_sparse()])
def test_labels_in_lists_and_sparse_ones_are_labels(form: Any) -> None:
    x, y, right = classes()
    data = [(a, form(b)) for a, b in cut(x, y)]
    assert measured(Through(), data)[0] == pytest.approx(right, **CLOSE)


@pytest.mark.parametrize("kind", ["uint8", "uint16", "uint32", "uint64", "int8", ">i4", "float16"])
def test_labels_of_every_type_of_number_are_labels(kind: str) -> None:
    x, y, right = classes()
    arrays = x.numpy().astype(">f4"), y.numpy().astype(kind)
    for max_samples in (1000, 50):
        found, prepared = measured(Through(), arrays, {"max_samples": max_samples})
        assert prepared.inspection.understanding.judging.task == "classification"
        assert found == pytest.approx(right, **CLOSE) or max_samples == 50


def test_labels_under_a_mask_are_refused() -> None:
    x, y, _ = classes()
    masked = np.ma.masked_array(y.numpy(), mask=y.numpy() == 0)
    assert "holds masked values at 1" in refused(Through(), (x.numpy(), masked))


@pytest.mark.parametrize("at", [0, 3])
def test_batches_without_samples_are_left_out(at: int) -> None:
    x, y, right = classes()
    batches = cut(x, y)
    batches.insert(at, (x[:0], y[:0]))
    assert measured(Through(), batches)[0] == pytest.approx(right, **CLOSE)


def test_labels_that_are_strings_are_refused_with_what_to_give() -> None:
    x, y, _ = classes()
    names = [["cat", "dog", "cow", "hen"][label] for label in y]
    data = [(a, names[16 * at : 16 * at + len(a)]) for at, (a,) in enumerate(cut(x))]
    assert "targets are strings: give class numbers" in refused(Through(), data)
    frame = pd.DataFrame(x.numpy())
    assert "holds strings at 1: give numbers" in refused(Through(), (frame, pd.Series(names)))


def test_complex_targets_are_refused_with_what_to_give() -> None:
    x, _, _ = classes()
    assert "give torch.view_as_real of them" in refused(Through(), cut(x, torch.complex(x, x)))


class Last(nn.Module):
    """Classes of sequences with time first, by the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(3, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(x)[0][-1])


def test_of_too_many_batches_of_one_sequence_samples_are_drawn_and_no_steps() -> None:
    torch.manual_seed(0)
    model, x = Last().eval(), torch.randn(40, 9, 1, 3)
    with torch.no_grad():
        y = torch.stack([model(one).argmax(1) for one in x])
    _, prepared = measured(model, list(zip(x, y, strict=True)), {"max_samples": 20})
    assert prepared.sources["eval"].total == 20
    assert prepared.inspection.understanding.batch_dim == 1
