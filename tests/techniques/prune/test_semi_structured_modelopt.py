"""2:4 pruning with the weights that ModelOpt's SparseGPT chooses."""

import copy
from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

import quanttaas_jupyter as qt
from quanttaas_jupyter.bundle.data import open_source
from quanttaas_jupyter.core.errors import MissingDependency
from quanttaas_jupyter.core.failures import StageError
from quanttaas_jupyter.store import blobs
from quanttaas_jupyter.store.local import LocalStore
from quanttaas_jupyter.techniques import registry
from quanttaas_jupyter.techniques.availability import refuse_missing
from quanttaas_jupyter.techniques.prune import PRUNERS, Pruned, PruneJob
from tests.engine.inline import drive
from tests.networks import Digits, ResidualNet
from tests.techniques.runtimes.contract import Transformer, images, sqnr_db

EXAMPLES = open_source((images(), torch.zeros(len(images()))), "--data", 100, 0).read()


def pruned(model: nn.Module, method: str = "2:4-modelopt", ignore: tuple[nn.Module, ...] = ()) -> Pruned:
    return PRUNERS.get(method)(PruneJob(model.eval(), 0.5, EXAMPLES, ignore, lambda line: None))


def most_left_in_four(layer: nn.Linear) -> int:
    return int((layer.weight.reshape(-1, 4) != 0).sum(1).max())


def test_the_choice_costs_less_than_that_of_the_smallest_weights() -> None:
    torch.manual_seed(0)
    model = Transformer().eval()
    before = model(images()).detach().numpy()
    costs = [
        sqnr_db(pruned(copy.deepcopy(model), name).model(images()).detach().numpy(), before)
        for name in ("2:4", "2:4-modelopt")
    ]
    assert costs[1] > costs[0] + 1


def test_what_stays_is_as_it_was_and_the_model_is_of_plain_layers() -> None:
    model = Transformer()
    before = copy.deepcopy(model)
    found = pruned(model)
    assert found.choices["chosen_by_sparsegpt"] == 8
    layers = [(path, layer) for path, layer in found.model.named_modules() if type(layer) is nn.Linear]
    assert len(layers) == 9
    for path, layer in layers:
        assert most_left_in_four(layer) == 2
        was = before.get_parameter(f"{path}.weight")
        assert torch.equal(layer.weight[layer.weight != 0], was[layer.weight != 0])


class PartlyIdle(nn.Module):
    """A layer of two never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(64, 32), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x.flatten(1))


def test_layers_that_never_run_keep_half_of_their_weights() -> None:
    model = PartlyIdle()
    assert pruned(model).choices["chosen_by_sparsegpt"] == 1
    assert int((model.idle.weight != 0).sum()) == 32


def test_a_shared_weight_loses_half_and_not_half_of_each_layer_that_holds_it() -> None:
    first, last = nn.Linear(64, 64), nn.Linear(64, 64)
    last.weight = first.weight
    pruned(nn.Sequential(nn.Flatten(), first, nn.ReLU(), last))
    assert int((first.weight == 0).sum()) == 64 * 32


def test_ignored_layers_keep_their_weights() -> None:
    first, last = nn.Linear(64, 32), nn.Linear(32, 16)
    pruned(nn.Sequential(nn.Flatten(), first, nn.ReLU(), last), ignore=(last,))
    assert bool((last.weight != 0).all())
    assert most_left_in_four(first) == 2


def test_a_model_without_layers_that_it_judges_is_sent_to_the_plain_method() -> None:
    with pytest.raises(StageError, match="none of those that may change is run here; use 2:4"):
        pruned(ResidualNet())


def test_without_the_package_submission_tells_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "version_of", lambda name: "")
    with pytest.raises(MissingDependency, match=r"2:4-modelopt .*pip install 'quanttaas-jupyter\[modelopt\]'"):
        refuse_missing(qt.Recipe.parse({"prune": "2:4-modelopt"}))
    refuse_missing(qt.Recipe.parse({"prune": "2:4"}))


def test_zeros_outlast_training_in_the_file_that_a_study_measures(tmp_path: Path, digits: Digits) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 12))
    recipe = {"prune": "2:4-modelopt", "recover": {"method": "distill", "epochs": 2}}
    state = drive(tmp_path, model, digits.test, recipe, train=digits.train, metric="agreement")[0]
    trial = state.trials["2:4-modelopt"]
    assert trial.status == "finished", trial.error
    assert trial.metrics["pruned_share"] == pytest.approx(0.5, abs=0.02)
    assert trial.artifact is not None
    with blobs.blob_file(LocalStore(tmp_path), trial.artifact.blob) as path:
        weights = [numpy_helper.to_array(item) for item in onnx.load(path).graph.initializer]
    matrices = [weight for weight in weights if weight.ndim == 2]
    assert len(matrices) == 3
    assert all((weight.reshape(-1, 4) != 0).sum(1).max() == 2 for weight in matrices)


def test_inputs_that_are_zero_in_calibration_do_not_cost_a_layer_more_than_half() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(64, 32)
    seen = images().clone()
    seen[..., :5] = 0
    examples = open_source((seen, torch.zeros(len(seen))), "--data", 100, 0).read()
    PRUNERS.get("2:4-modelopt")(PruneJob(nn.Sequential(nn.Flatten(), layer), 0.5, examples, (), lambda line: None))
    assert set((layer.weight.reshape(-1, 4) != 0).sum(1).tolist()) == {2}


def test_what_may_not_change_is_not_told_as_chosen() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(128, 8))
    with pytest.raises(StageError, match="none of those that may change is run here"):
        pruned(model, ignore=(model[3],))
