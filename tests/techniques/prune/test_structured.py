import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import torch
from torch import nn

from quanttaas_jupyter.bundle.batches import Batch
from quanttaas_jupyter.bundle.data import open_source
from quanttaas_jupyter.core.failures import StageError
from quanttaas_jupyter.techniques.prune import PruneJob
from quanttaas_jupyter.techniques.prune.structured import prune, rank
from quanttaas_jupyter.techniques.prune.tracing import trace
from quanttaas_jupyter.techniques.prune.units import Units
from tests.architectures.convolutional import Residual, Shuffle, UNet, depthwise, grouped
from tests.architectures.sequential import OwnAttention, TiedLstm
from tests.networks import ResidualNet, TwoHeads

IMAGES = (torch.randn(8, 1, 8, 8), torch.zeros(8))


def job(
    model: nn.Module, amount: float, ignore: tuple[nn.Module, ...] = (), data: object = None, **more: Any
) -> PruneJob:
    examples = open_source(IMAGES if data is None else data, "--data", 100, 0).read()
    return PruneJob(model.eval(), amount, examples, ignore, lambda line: None, **more)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("amount", [0.3, 0.5, 0.85])
def test_the_share_of_parameters_is_the_amount_and_the_model_runs(amount: float) -> None:
    model = ResidualNet(width=32)
    before = count(model)
    pruned: Any = prune(job(model, amount)).model
    assert 1 - count(pruned) / before == pytest.approx(amount, abs=0.02)
    assert pruned(torch.randn(2, 1, 8, 8)).shape == (2, 10)
    assert pruned.head.out_features == 10
    assert pruned.head.in_features == pruned.head.weight.shape[1] < 128


def test_ignored_modules_keep_their_channels() -> None:
    model: Any = ResidualNet(width=32)
    pruned: Any = prune(job(model, 0.3, (model.blocks[1].conv1,))).model
    assert pruned.blocks[1].conv1.out_channels == 64


def test_all_outputs_of_a_model_with_two_heads_stay_whole() -> None:
    batch = {"image": torch.randn(8, 1, 8, 8), "table": torch.randn(8, 4), "labels": torch.zeros(8)}
    model = TwoHeads()
    pruned: Any = prune(job(model, 0.25, data=[batch])).model
    outputs = pruned(torch.randn(2, 1, 8, 8), torch.randn(2, 4))
    assert outputs["logits"].shape == (2, 3)
    assert outputs["score"].shape == (2, 1)
    assert pruned.image.out_channels < 32


def test_an_architecture_that_allows_nothing_says_so() -> None:
    with pytest.raises(StageError, match="no channels or units"):
        prune(job(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), 0.5))


def test_an_architecture_that_allows_less_gives_what_it_can_and_warns() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 1))
    found = prune(job(model, 0.9, (model[1],)))
    assert "of the parameters go where 90% was asked" in found.warnings[0]
    pruned: Any = found.model
    assert pruned[2].out_features < 64
    assert pruned[1].out_features == 32


NETS: list[tuple[str, Callable[[], nn.Module], torch.Tensor]] = [
    ("residual", Residual, torch.randn(8, 3, 16, 16)),
    ("grouped", grouped, torch.randn(8, 3, 16, 16)),
    ("depthwise", depthwise, torch.randn(8, 3, 16, 16)),
    ("shuffle", Shuffle, torch.randn(8, 3, 16, 16)),
    ("U-Net", UNet, torch.randn(8, 3, 16, 16)),
    ("tied LSTM", TiedLstm, torch.randint(0, 60, (8, 12))),
]


@pytest.mark.parametrize(("make", "x"), [net[1:] for net in NETS], ids=[net[0] for net in NETS])
def test_removing_units_does_exactly_what_silencing_them_does(make: Callable[[], nn.Module], x: torch.Tensor) -> None:
    model = make().eval()
    whole, task = copy.deepcopy(model), job(model, 0.4, data=(x, torch.zeros(len(x))), importance="magnitude")
    units = Units(whole, trace(whole, task.examples.inputs, Batch([x[:2]], []), set()))
    shapes = {name: p.shape for name, p in whole.named_parameters()}
    pruned = prune(task).model
    gone = _removed(units, job(whole, 0.4, data=(x, torch.zeros(len(x)))), pruned)
    with torch.no_grad():
        for axis in units.axes:
            if axis.name in shapes:
                assert axis.label is not None
                lost = [i for i, atoms in enumerate(axis.label.tolist()) if gone & set(atoms)]
                whole.get_parameter(axis.name).index_fill_(axis.dim, torch.tensor(lost, dtype=torch.long), 0.0)
        assert gone
        assert torch.allclose(pruned(x), whole(x), atol=1e-4)


def _removed(units: Units, task: PruneJob, pruned: nn.Module) -> set[int]:
    """The least magnitudes of each group, as many as are missing."""
    from quanttaas_jupyter.techniques.prune.importance import of_groups

    found: set[int] = set()
    small = dict(pruned.named_parameters())
    axes = [(a.name, a.dim, a.label) for a in units.axes if a.name in small and a.label is not None]
    for group, score in zip(units.groups, of_groups("magnitude", task, units), strict=True):
        members = set(group.units.tolist())
        name, dim, label = next(axis for axis in axes if set(axis[2][:, 0].tolist()) <= members)
        copies = len(label) // len(group.units)
        missing = (len(label) - small[name].shape[dim]) // copies
        found |= set(group.units[score.argsort(kind="stable")[:missing]].tolist())
    return found


@pytest.mark.parametrize("importance", ["magnitude", "batchnorm", "taylor"])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_every_importance_and_scope_reaches_the_amount(importance: str, scope: str) -> None:
    model = ResidualNet()
    before = count(model)
    found = prune(job(model, 0.5, importance=importance, scope=scope, class_dim=1))
    assert 1 - count(found.model) / before == pytest.approx(0.5, abs=0.02)
    assert found.choices == {"importance": importance}


def test_channels_that_a_kind_of_importance_calls_worthless_go_first() -> None:
    model: Any = ResidualNet()
    with torch.no_grad():
        model.blocks[1].bn1.weight[::2] *= 1e-3
    kept = model.blocks[1].bn1.weight[1::2].detach().clone()
    pruned: Any = prune(job(model, 0.3, importance="batchnorm", scope="layer")).model
    assert set(pruned.blocks[1].bn1.weight.tolist()) >= set(kept.tolist()[:1])
    assert float(pruned.blocks[1].bn1.weight.detach().abs().mean()) > float(kept.abs().mean()) / 2


def test_batchnorm_importance_needs_batchnorm_layers() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4))
    with pytest.raises(StageError, match="needs BatchNorm layers"):
        prune(job(model, 0.3, importance="batchnorm"))
    assert prune(job(model, 0.3)).choices["importance"] in ("magnitude", "taylor")


def test_the_ranking_puts_the_layer_that_matters_most_first_and_spread_spares_it() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)
    ).eval()
    before = copy.deepcopy(model.state_dict())
    ranking = rank(job(model, 0.5))
    assert {layer for layer, _ in ranking} == {"1", "3"}
    assert [decibels for _, decibels in ranking] == sorted(decibels for _, decibels in ranking)
    assert all(bool((value == before[name]).all()) for name, value in model.state_dict().items())
    even: Any = prune(job(copy.deepcopy(model), 0.5, importance="magnitude")).model
    shaped = [("1", 0.0), ("3", 20.0)]
    spread: Any = prune(job(model, 0.5, importance="magnitude", spread=1.0, ranking=shaped)).model
    assert spread[1].out_features > even[1].out_features
    assert spread[3].out_features < even[3].out_features


class BiLstm(nn.Module):
    def __init__(self, is_last: bool) -> None:
        super().__init__()
        self.layers, self.head = nn.LSTM(12, 32, 2, batch_first=True, bidirectional=True), nn.Linear(64, 9)
        self.is_last = is_last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs, (hidden, _) = self.layers(x)
        return self.head(torch.cat([hidden[-2], hidden[-1]], 1) if self.is_last else outputs.mean(1))


@pytest.mark.parametrize("is_last", [True, False])
@pytest.mark.parametrize("amount", [0.3, 0.5, 0.7])
def test_hidden_units_of_recurrent_layers_go(amount: float, is_last: bool) -> None:
    model = BiLstm(is_last)
    before = count(model)
    pruned: Any = prune(job(model, amount, data=(torch.randn(8, 7, 12), torch.zeros(8)))).model
    assert 1 - count(pruned) / before == pytest.approx(amount, abs=0.05)
    assert pruned.layers.hidden_size == pruned.layers.weight_hh_l1_reverse.shape[1] < 32
    assert pruned(torch.randn(3, 11, 12)).shape == (3, 9)
    assert pruned.train()(torch.randn(3, 11, 12)).sum().requires_grad


def test_heads_go_and_the_modules_count_of_them_follows() -> None:
    model = OwnAttention(width=64, heads=8)
    before = count(model)
    data = (torch.randn(8, 20, 12), torch.zeros(8))
    pruned: Any = prune(job(model, 0.5, (model.stem, model.head), data=data)).model
    assert pruned.heads < 8
    assert pruned.queries.out_features == pruned.keys.out_features == pruned.out.in_features == 8 * pruned.heads
    assert 1 - count(pruned) / before == pytest.approx(0.5, abs=0.1)
    assert pruned(torch.randn(3, 9, 12)).shape == (3, 9)


class Unforeseen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 32), nn.Linear(32, 64)
        self.third, self.head = nn.Linear(64, 64), nn.Linear(64, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x.flatten(1)))
        halves = self.second(x).view(len(x), 2, 32)
        return self.head(torch.relu(self.third(halves.reshape(len(x), 64))))


def test_a_size_written_into_forward_keeps_its_layer_whole_and_the_others_go() -> None:
    found = prune(job(Unforeseen(), 0.3))
    pruned: Any = found.model
    assert pruned.second.out_features == 64
    assert pruned.third.out_features < 64
    assert any("stayed whole" in warning for warning in found.warnings)


class Strange(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(64, 32), nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.fft.rfft(self.first(x.flatten(1)), n=62).real
        return self.head(torch.relu(self.second(x)))


def test_an_unknown_operation_fixes_only_what_goes_into_it() -> None:
    pruned: Any = prune(job(Strange(), 0.2)).model
    assert pruned.first.out_features == 32
    assert pruned.second.out_features < 32


def test_a_pruned_model_loads_in_a_process_without_pruning_libraries(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.Linear(1152, 4))
    (tmp_path / "model").write_bytes(cloudpickle.dumps(prune(job(model, 0.5)).model))
    code = (
        f"import pickle, sys, torch; m = pickle.load(open({str(tmp_path / 'model')!r}, 'rb'));"
        "print(tuple(m(torch.zeros(2, 1, 8, 8)).shape), {'torch_pruning', 'quanttaas_jupyter'} & set(sys.modules))"
    )  # fmt: skip
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "(2, 4) set()"


class HooksItself(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 32), nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not hasattr(self, "seen"):
            self.seen = open(__file__, encoding="utf-8")  # noqa: SIM115  (what no pickle takes)
            self.first.register_forward_hook(lambda *arguments: None)
        return self.second(torch.relu(self.first(x.flatten(1))))


def test_what_a_model_hangs_on_itself_while_it_runs_does_not_travel() -> None:
    model = HooksItself()
    pruned: Any = prune(job(model, 0.3)).model
    assert not pruned.first._forward_hooks
    assert cloudpickle.loads(cloudpickle.dumps(pruned))(torch.randn(2, 1, 8, 8)).shape == (2, 4)


class NarrowGroups(nn.Module):
    """Groups of two channels, which pruning may leave with one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.grouped = nn.Conv2d(1, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1, groups=16)
        self.mix, self.head = nn.Conv2d(32, 32, 1), nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.grouped(torch.relu(self.stem(x))))
        return self.head(torch.relu(self.mix(x)).mean((2, 3)))


def test_groups_of_two_channels_become_groups_of_one() -> None:
    found = prune(job(NarrowGroups(), 0.6))
    pruned: Any = found.model
    assert (pruned.grouped.groups, pruned.grouped.in_channels, pruned.grouped.weight.shape[1]) == (16, 16, 1)
    assert pruned.stem.out_channels == 16
    assert not [warning for warning in found.warnings if "stayed whole" in warning]
