import pytest
import torch
from torch import nn

from quanttaas_jupyter.bundle.data import open_source
from quanttaas_jupyter.engine.failures import StageError
from quanttaas_jupyter.engine.prune import PruneJob
from quanttaas_jupyter.engine.prune.unstructured import prune
from tests.networks import ResidualNet

EXAMPLES = open_source((torch.randn(8, 1, 8, 8), torch.zeros(8)), "--data", 100, 0).read()


def test_the_smallest_weights_are_zero_for_good() -> None:
    model = ResidualNet()
    total = sum(parameter.numel() for parameter in model.parameters())
    pruned = prune(PruneJob(model, 0.8, EXAMPLES, (), lambda line: None)).model
    zeros = sum(int((parameter == 0).sum()) for parameter in pruned.parameters() if parameter.ndim > 1)
    assert zeros / total == pytest.approx(0.8, abs=0.01)
    assert not [name for name, _ in pruned.named_buffers() if name.endswith("_mask")]


def test_ignored_layers_keep_their_weights() -> None:
    model = ResidualNet()
    pruned = prune(PruneJob(model, 0.8, EXAMPLES, (model.head,), lambda line: None)).model
    assert not bool((pruned.head.weight == 0).any())


def test_more_than_all_weights_cannot_go() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2), nn.BatchNorm1d(2))
    with pytest.raises(StageError, match="ask for at most"):
        prune(PruneJob(model, 0.99, EXAMPLES, (), lambda line: None))
