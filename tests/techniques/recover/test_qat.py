"""Training with quantizers of layers that store integers and compute in floating point."""

from typing import Any

import pytest
import torch
from torch import nn

from quanttaas_jupyter.bundle.data import open_source
from quanttaas_jupyter.core import catalogue
from quanttaas_jupyter.core.catalogue import Rounding
from quanttaas_jupyter.core.failures import StageError
from quanttaas_jupyter.techniques.recover import RecoverJob, qat

HERE = [name for name, one in catalogue.techniques("quantize").items() if one.rounding and not one.rounding.by_modelopt]
Kind = type[nn.LSTM | nn.GRU]


class LastState(nn.Module):
    """The last outputs of a recurrent layer."""

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self.rnn = kind(4, 16, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rnn(x)[0][:, -1]


def training(model: nn.Module, x: torch.Tensor, precision: str, ignore: tuple[nn.Module, ...] = ()) -> RecoverJob:
    data = open_source((x,), "--train", 100, 0).read()
    torch.manual_seed(0)
    options: Any = {"precision": precision, "rounding": catalogue.rounding_of(precision), "ignore": ignore}
    return RecoverJob(model, model, data, None, 1, None, 0, lambda line: None, effort=0.1, **options)


@pytest.mark.parametrize("precision", HERE)
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_weights_are_rounded_wherever_the_file_rounds_them(kind: Kind, precision: str) -> None:
    summary = qat.recover(training(LastState(kind), torch.randn(16, 5, 4), precision))
    assert summary["rounded_weights"] == 2


def test_recurrent_weights_have_a_scale_a_row_as_the_file_has() -> None:
    model: Any = LastState(nn.LSTM)
    with torch.no_grad():
        model.rnn.weight_ih_l0[0] = 1000
    how = qat._weight_rounding(Rounding("int8"))(model.rnn, "weight_ih_l0")
    assert how is not None
    rounded = how(model.rnn.weight_ih_l0.detach())
    assert bool(rounded[1:].any(1).all())
    assert torch.equal(rounded, qat.round_symmetric(model.rnn.weight_ih_l0.detach(), 0))


def test_where_nothing_is_rounded_nothing_is_trained() -> None:
    layer = nn.Linear(4, 4)
    model, before = nn.Sequential(layer), layer.weight.detach().clone()
    with pytest.raises(StageError, match="found no weight that int8 rounds.*ignore fewer modules"):
        qat.recover(training(model, torch.randn(16, 4), "int8", ignore=(layer,)))
    assert torch.equal(layer.weight, before)
