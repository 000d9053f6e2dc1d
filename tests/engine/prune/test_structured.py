import pytest
import torch
from torch import nn

from quanttaas_jupyter.bundle.data import open_source
from quanttaas_jupyter.engine.failures import StageError
from quanttaas_jupyter.engine.prune import PruneJob
from quanttaas_jupyter.engine.prune.structured import prune
from tests.networks import ResidualNet, TwoHeads


def job(model: nn.Module, amount: float, ignore: tuple[nn.Module, ...] = (), data: object = None) -> PruneJob:
    given = data if data is not None else (torch.randn(8, 1, 8, 8), torch.zeros(8))
    examples = open_source(given, "--data", 100, 0).read()
    return PruneJob(model.eval(), amount, examples, ignore, lambda line: None)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("amount", [0.3, 0.5, 0.85])
def test_the_share_of_parameters_is_the_amount_and_the_model_runs(amount: float) -> None:
    model = ResidualNet(width=32)
    before = count(model)
    pruned = prune(job(model, amount)).model
    assert 1 - count(pruned) / before == pytest.approx(amount, abs=0.05)
    assert pruned(torch.randn(2, 1, 8, 8)).shape == (2, 10)
    assert pruned.head.out_features == 10


def test_ignored_modules_keep_their_channels() -> None:
    model = ResidualNet(width=32)
    pruned = prune(job(model, 0.3, (model.blocks[1].conv1,))).model
    assert pruned.blocks[1].conv1.out_channels == 64


def test_all_outputs_of_a_model_with_two_heads_stay_whole() -> None:
    batch = {"image": torch.randn(8, 1, 8, 8), "table": torch.randn(8, 4), "labels": torch.zeros(8)}
    model = TwoHeads()
    pruned = prune(job(model, 0.25, data=[batch])).model
    outputs = pruned(torch.randn(2, 1, 8, 8), torch.randn(2, 4))
    assert outputs["logits"].shape == (2, 3)
    assert outputs["score"].shape == (2, 1)
    assert pruned.image.out_channels < 32


def test_an_architecture_that_allows_nothing_says_so() -> None:
    with pytest.raises(StageError, match="no channels or units"):
        prune(job(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), 0.5))
