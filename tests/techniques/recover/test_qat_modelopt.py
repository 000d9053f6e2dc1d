"""Training under ModelOpt's quantizers."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from quanttaas_jupyter.bundle.data import open_source
from quanttaas_jupyter.core import catalogue
from quanttaas_jupyter.core.failures import StageError
from quanttaas_jupyter.techniques.recover import RecoverJob, qat
from quanttaas_jupyter.techniques.recover.qat_modelopt import with_quantizers
from tests.networks import Digits, Encoder, Mlp

WEIGHTS = {"int8-modelopt": 10, "int8-smoothquant": 10, "mixed-modelopt": 10, "fp8-modelopt": 10, "int4-awq": 1}


def trained_for(precision: str) -> Any:
    return {"precision": precision, "rounding": catalogue.rounding_of(precision)}


def under_quantizers(job: RecoverJob) -> tuple[nn.Module, int]:
    assert job.rounding is not None
    return with_quantizers(job, job.rounding)


def test_each_quantization_of_modelopt_that_can_be_trained_for_is_tested_here() -> None:
    known = catalogue.techniques("quantize").items()
    assert set(WEIGHTS) == {name for name, one in known if one.rounding and one.rounding.by_modelopt}


def training(digits: Digits, model: nn.Module, precision: str, **options: Any) -> RecoverJob:
    data = open_source(digits.train, "--train", 512, 0).read()
    return RecoverJob(model, digits.model, data, 1, 2, None, 0, lambda line: None, **trained_for(precision), **options)


@pytest.mark.parametrize("precision", WEIGHTS)
def test_an_ordinary_model_leaves_that_learned_under_the_rounding(digits: Digits, precision: str) -> None:
    model = copy.deepcopy(digits.model)
    with torch.no_grad():
        model.head.weight.add_(0.3 * torch.randn_like(model.head.weight))
    before = copy.deepcopy(model.state_dict())
    summary = qat.recover(training(digits, model, precision))
    assert summary["rounded_weights"] == WEIGHTS[precision]
    assert summary["losses"][-1] < summary["losses"][0]
    after = model.state_dict()
    assert list(after) == list(before)
    assert not torch.equal(after["head.weight"], before["head.weight"])
    assert all(torch.equal(before[key], after[key]) for key in after if "running_" in key)
    assert {type(module) for module in model.modules()} == {type(module) for module in digits.model.modules()}


LEVELS = {"int8-modelopt": 255, "fp8-modelopt": 255, "int4-awq": 15}


@pytest.mark.parametrize("precision", LEVELS)
def test_a_layer_computes_with_few_levels_while_it_trains(precision: str) -> None:
    model = Mlp()
    quantized, _ = under_quantizers(training_of(model, precision))
    layer: Any = next(module for module in quantized.modules() if isinstance(module, nn.Linear))
    rounded = layer.weight_quantizer(layer.weight)
    assert not torch.equal(rounded, layer.weight)
    assert len(torch.unique(rounded[0, :32])) <= LEVELS[precision]
    loss = quantized(torch.randn(4, layer.in_features)).square().sum()
    loss.backward()
    gradient = next(model.parameters()).grad
    assert gradient is not None
    assert bool(gradient.any())


def training_of(model: nn.Module, precision: str, ignore: tuple[nn.Module, ...] = ()) -> RecoverJob:
    features = next(module for module in model.modules() if isinstance(module, nn.Linear)).in_features
    data = open_source((torch.randn(64, features),), "--train", 64, 0).read()
    return RecoverJob(model, model, data, None, 1, None, 0, lambda line: None, ignore=ignore, **trained_for(precision))


def test_ignored_layers_are_not_rounded() -> None:
    model = Mlp()
    _, whole = under_quantizers(training_of(model, "int8-modelopt"))
    _, part = under_quantizers(training_of(model, "int8-modelopt", (model.layers[2],)))
    assert part == whole - 1
    with pytest.raises(StageError, match="found no weight that int8-modelopt rounds"):
        under_quantizers(training_of(model, "int8-modelopt", (model,)))


def test_weights_that_pruning_zeroed_stay_zero_while_others_learn(digits: Digits) -> None:
    model = copy.deepcopy(digits.model)
    weight = model.head.weight
    mask = torch.rand_like(weight) < 0.5
    with torch.no_grad():
        weight.masked_fill_(mask, 0.0)
    weight.requires_grad_(True)
    weight.register_hook(lambda gradient: gradient.masked_fill(mask, 0.0))
    qat.recover(training(digits, model, "int8-modelopt"))
    assert bool((weight[mask] == 0).all())


def test_attention_is_judged_with_its_quantizers_and_its_output_layer_is_not_counted() -> None:
    torch.manual_seed(0)
    model = Encoder().eval()
    before = copy.deepcopy(model)
    data = open_source((torch.randn(256, 1, 8, 8),), "--train", 256, 0).read()
    summary = qat.recover(
        RecoverJob(model, before, data, None, 4, None, 0, lambda line: None, **trained_for("int4-awq"))
    )
    assert summary["rounded_weights"] == 3
    assert summary["best_epoch"] > 0
    assert summary["held_out_loss"] > 0
    assert not torch.equal(model.inner.linear1.weight, before.inner.linear1.weight)


def test_a_module_of_attention_alone_has_nothing_that_is_rounded() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.MultiheadAttention(6, 1, batch_first=True)
            self.spare = nn.Linear(6, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x[:, None], x[:, None], x[:, None])[0]

    with pytest.raises(StageError, match="found no weight that int8-modelopt rounds"):
        under_quantizers(training_of(Attention(), "int8-modelopt"))


class Running(nn.Module):
    """Keeps a mean, made anew in every step."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)
        self.mean: torch.Tensor
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.mean = 0.5 * self.mean + 0.5 * x.detach().mean(0)
        return self.layer(x - self.mean)


def test_buffers_that_training_made_anew_leave_with_the_model() -> None:
    model = Running().eval()
    with torch.no_grad():
        model.layer.weight.add_(0.5)
    data = open_source((3 + torch.randn(128, 6),), "--train", 128, 0).read()
    teacher = Running().eval()
    summary = qat.recover(
        RecoverJob(model, teacher, data, None, 8, None, 0, lambda line: None, **trained_for("int8-modelopt"))
    )
    assert summary["best_epoch"] > 0
    assert bool((model.mean > 1).all())
    assert not any(name.endswith("_amax") for name in model.state_dict())


def test_transposed_convolutions_have_a_scale_an_output() -> None:
    model = nn.Sequential(nn.Unflatten(1, (4, 3, 3)), nn.ConvTranspose2d(4, 6, 3), nn.Flatten(), nn.Linear(150, 36))
    data = open_source((torch.randn(64, 36),), "--train", 64, 0).read()
    job = RecoverJob(model, model, data, None, 1, None, 0, lambda line: None, **trained_for("int8-modelopt"))
    quantized, rounded = under_quantizers(job)
    assert rounded == 2
    layers: Any = quantized
    assert layers[1].weight_quantizer.amax.shape == (1, 6, 1, 1)
