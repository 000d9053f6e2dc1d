import pytest
import torch
from torch import nn

from quanttaas_jupyter.bundle.data import open_source
from quanttaas_jupyter.core.failures import StageError
from quanttaas_jupyter.techniques.prune import PruneJob
from quanttaas_jupyter.techniques.prune.unstructured import prune
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
    assert not bool((pruned.get_parameter("head.weight") == 0).any())


class Tied(nn.Module):
    """An embedding and the layer that gives words share their weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.mix, self.head = nn.Embedding(50, 16), nn.Linear(16, 16), nn.Linear(16, 50, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.mix(self.embedding(x))))


def test_a_weight_that_two_layers_share_counts_once() -> None:
    model = Tied()
    total = sum(parameter.numel() for parameter in model.parameters())
    made = prune(PruneJob(model, 0.6, EXAMPLES, (), lambda line: None))
    zeros = sum(int((parameter == 0).sum()) for parameter in made.model.parameters())
    assert zeros / total == pytest.approx(0.6, abs=0.01)
    assert made.warnings == ()
    assert made.model.get_parameter("head.weight") is made.model.get_parameter("embedding.weight")


def test_a_weight_that_an_ignored_layer_shares_stays_whole() -> None:
    model = Tied()
    made = prune(PruneJob(model, 0.2, EXAMPLES, (model.head,), lambda line: None))
    assert not bool((made.model.get_parameter("embedding.weight") == 0).any())
    assert bool((made.model.get_parameter("mix.weight") == 0).any())


def test_less_than_was_asked_is_said_so() -> None:
    model = Tied()
    with torch.no_grad():
        model.embedding.weight[:25] = 0
    made = prune(PruneJob(model, 0.6, EXAMPLES, (), lambda line: None))
    assert made.warnings[0].endswith("of the parameters became zero where 60% was asked")


def test_where_everything_is_ignored_nothing_is_left_to_prune() -> None:
    model = ResidualNet()
    with pytest.raises(StageError, match="finds no weight that may become zero.*ignore fewer modules"):
        prune(PruneJob(model, 0.5, EXAMPLES, (model,), lambda line: None))


def test_more_than_all_weights_cannot_go() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2), nn.BatchNorm1d(2))
    with pytest.raises(StageError, match="ask for at most"):
        prune(PruneJob(model, 0.99, EXAMPLES, (), lambda line: None))
