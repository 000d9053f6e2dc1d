"""What stages put on record, seen through whole small studies."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from quanttaas_jupyter.study_store import stage_cache
from tests.engine.inline import InlineExecutor, WatchedStore, drive
from tests.measured import number

NONE = {"quantize": ["none"], "recover": "none", "latency": {"threads": 1}}


def measurements(root: Path, executor: InlineExecutor, kind: str) -> list[Mapping[str, Any]]:
    store = WatchedStore(root)
    keys = [key for key, ran in zip(executor.ran, executor.kinds, strict=True) if ran.startswith(kind)]
    return [result.measurements for key in keys if (result := stage_cache.find(store, key))]


class Tagger(nn.Module):
    """Scores (n x time x classes) for the class that each word names."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.scores = nn.Embedding(6, 6), nn.Linear(6, 6, bias=False)
        with torch.no_grad():
            self.words.weight.copy_(torch.eye(6))
            self.scores.weight.copy_(torch.eye(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scores(self.words(x))


def test_a_sequence_as_long_as_there_are_classes_is_judged_by_its_classes(tmp_path: Path) -> None:
    words = torch.randint(0, 6, (80, 6), generator=torch.Generator().manual_seed(0))
    labels = words.clone()
    labels[:, 0] = (labels[:, 0] + 1) % 6
    recipe = {**NONE, "prune": [0], "quantize": ["none", "int8-weight"]}
    state, _, _ = drive(tmp_path, Tagger(), (words, labels), recipe)
    assert state.trials["baseline"].metrics["metric"] == pytest.approx(5 / 6)
    assert state.trials["int8-weight"].metrics["agreement"] == 1.0


def test_pruned_share_counts_channels_whatever_zeros_there_were(tmp_path: Path) -> None:
    torch.manual_seed(0)
    middle = nn.Linear(64, 64)
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), middle, nn.ReLU(), nn.Linear(64, 4))
    with torch.no_grad():
        middle.weight[torch.rand(64, 64) < 0.9] = 0
    data = (torch.randn(60, 8), torch.randint(0, 4, (60,)))
    sparse = {"method": "unstructured", "amount": 0.9}
    state, _, _ = drive(tmp_path, model, data, {**NONE, "prune": [0, 0.5, sparse]})
    total = sum(parameter.numel() for parameter in model.parameters())
    channels = state.trials["prune50"]
    assert number(channels, "pruned_share") == pytest.approx(1 - number(channels, "params") / total)
    already = int((middle.weight == 0).sum())
    assert state.trials["unstructured90"].metrics["pruned_share"] == pytest.approx(0.9 - already / total, abs=1e-3)


@pytest.mark.parametrize("asked", [1, 8, 100])
def test_latency_is_measured_with_as_many_samples_as_were_asked_for(tmp_path: Path, asked: int) -> None:
    data = (torch.randn(60, 4), torch.randint(0, 3, (60,)))
    recipe = {**NONE, "prune": [0], "latency": {"batch": asked, "threads": 1}}
    _, _, executor = drive(tmp_path, nn.Linear(4, 3), data, recipe)
    assert [found["latency_batch"] for found in measurements(tmp_path, executor, "latency")] == [asked]


def test_a_recovery_that_cannot_do_all_says_so_at_its_trials(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3)).eval()
    data = (torch.randn(60, 4), torch.randint(0, 3, (60,)))
    recipe = {**NONE, "prune": [0, 0.3], "recover": "batchnorm"}
    train = [(torch.randn(1, 4), torch.tensor([1]))]
    state, _, _ = drive(tmp_path, model, data, recipe, train=train, calibration=data)
    warnings = state.trials["prune30"].warnings
    assert any("BatchNorm more than one value a channel" in warning for warning in warnings)
