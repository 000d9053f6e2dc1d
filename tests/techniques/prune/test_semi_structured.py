from typing import Any

import pytest
import torch
from torch import nn

from quanttaas_jupyter.bundle.data import open_source
from quanttaas_jupyter.core.failures import StageError
from quanttaas_jupyter.techniques.prune import PRUNERS, Pruned, PruneJob
from tests.networks import Mlp, ResidualNet

EXAMPLES = open_source((torch.randn(8, 1, 8, 8), torch.zeros(8)), "--data", 100, 0).read()


def pruned(model: nn.Module, ignore: tuple[nn.Module, ...] = ()) -> Pruned:
    return PRUNERS.get("2:4")(PruneJob(model, 0.5, EXAMPLES, ignore, lambda line: None))


def zeros_in_fours(weight: torch.Tensor) -> set[int]:
    fours = weight.movedim(1, -1).reshape(-1, 4)
    return set((fours == 0).sum(1).tolist())


def test_two_of_every_four_weights_along_the_inputs_are_zero() -> None:
    model: Any = ResidualNet()
    before = {name: p.clone() for name, p in model.named_parameters()}
    found = pruned(model)
    assert zeros_in_fours(model.head.weight) == zeros_in_fours(model.blocks[1].conv1.weight) == {2}
    assert found.warnings[0].startswith("2:4 left out stem.0:")
    assert found.choices["skipped"] == ["stem.0"]
    assert bool((model.stem[0].weight == before["stem.0.weight"]).all())


def test_the_two_largest_of_four_stay_as_they_were() -> None:
    layer = nn.Linear(8, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -4.0, 3.0, 0.5, -0.1, 0.2, 0.3, -0.4]]))
    pruned(nn.Sequential(layer))
    assert torch.allclose(layer.weight, torch.tensor([[0.0, -4.0, 3.0, 0.0, 0.0, 0.0, 0.3, -0.4]]))


def test_transposed_convolutions_are_cut_along_their_inputs() -> None:
    layer = nn.ConvTranspose2d(8, 3, 2)
    pruned(nn.Sequential(layer))
    assert zeros_in_fours(layer.weight.transpose(0, 1)) == {2}


def test_ignored_layers_and_embeddings_keep_their_weights() -> None:
    model: Any = Mlp()
    pruned(model, (model.layers[2],))
    assert bool((model.layers[2].weight != 0).all())
    words, out = nn.Embedding(12, 8), nn.Linear(8, 12)
    out.weight = words.weight
    with pytest.raises(StageError, match="there is none"):
        pruned(nn.Sequential(words, out))


def test_a_model_that_the_pattern_fits_nowhere_is_refused() -> None:
    with pytest.raises(StageError, match="divisible by four"):
        pruned(nn.Sequential(nn.Linear(6, 3), nn.Linear(3, 5)))


def test_a_parametrized_weight_is_left_out_and_that_is_said() -> None:
    model: Any = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)), nn.Linear(8, 4))
    found = pruned(model)
    assert found.choices == {"pruned_layers": 1, "skipped": ["0"]}
    assert "left out 0: " in found.warnings[0]
    assert "parametrized" in found.warnings[0]
    assert bool((model[0].weight != 0).all())
