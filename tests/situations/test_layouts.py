"""Models whose rows depend on each other, told from those with samples in a later dimension."""

import pytest
import sklearn.metrics
import torch
from torch import nn
from torch.utils.data import TensorDataset

from tests.situations.trying import CLOSE, Through, cut, measured, refused


def centred(x: torch.Tensor) -> torch.Tensor:
    """Depends on all rows of a batch, and on one column only."""
    return x - x.mean(0)


def classes() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(96, 4)
    return x, (x + torch.randn(96, 4)).argmax(1)


def test_columns_that_do_not_depend_on_each_other_are_no_samples() -> None:
    x, y = classes()
    guess = torch.cat([centred(part).argmax(1) for (part,) in cut(x)])
    found, prepared = measured(Through(centred), cut(x, y), metric="f1_macro")
    assert found == pytest.approx(sklearn.metrics.f1_score(y, guess, average="macro"), **CLOSE)
    assert not prepared.inspection.understanding.judging.is_cut
    assert prepared.inspection.understanding.batch_dim == 0


def test_single_samples_do_not_say_which_samples_are_judged_together() -> None:
    x, y = classes()
    for data in ((x, y), TensorDataset(x, y)):
        said = refused(Through(centred), data)
        assert "--data does not say which samples are judged together: give batches" in said
    right = float((centred(x[:32]).argmax(1) == y[:32]).double().mean())
    assert measured(Through(centred), (x[:32], y[:32]))[0] == pytest.approx(right, **CLOSE)


def test_the_parts_of_a_batch_that_may_be_the_target_are_named() -> None:
    x, y = classes()
    mask = torch.ones_like(x)

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.weight * x * mask

    assert "with --labels 1 or --labels 2 " in refused(Masked(), cut(x, y, mask))
    right = float((x.argmax(1) == y).double().mean())
    assert measured(Masked(), cut(x, y, mask), labels=("1",))[0] == pytest.approx(right, **CLOSE)
