"""R2, losses and divergences whose value is easily another one than that of scikit-learn or torch."""

from __future__ import annotations

from pathlib import Path

import pytest
import sklearn.metrics
import torch
from torch import nn
from torch.nn import functional

from tests.situations.test_metric_meanings import Scaled, pictures, several
from tests.situations.test_metrics import classes, values
from tests.situations.trying import tried


def test_a_steady_column_counts_as_scikit_learn_counts_it(tmp_path: Path) -> None:
    net, x, y = several()
    y[:, 2] = 1.0
    found = tried(tmp_path, net, (x, y))
    assert found.metric == pytest.approx(sklearn.metrics.r2_score(y.numpy(), net(x).detach().numpy()), rel=1e-5)


def test_r2_of_pictures_is_one_over_all_places(tmp_path: Path) -> None:
    x = pictures(0, 1)
    x[:, :, :2] = 1e-3 * pictures(0, 1)[:, :, :2]
    y = (0.9 * x + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(3))).detach()
    y[:, :, :2] = 1e-3 * x[:, :, :2]
    found = tried(tmp_path, Scaled(), (x, y))
    outputs, places = (0.9 * x).flatten(1).numpy(), y.flatten(1).numpy()
    right = sklearn.metrics.r2_score(places, outputs, multioutput="variance_weighted")
    assert found.metric == pytest.approx(right, rel=1e-4)
    assert "r2 (over all places)" in found.understanding.heading


def test_targets_far_from_zero_vary(tmp_path: Path) -> None:
    net, x, y = values()
    with torch.no_grad():
        net.get_parameter("bias").add_(1e6)
    y = 1e6 + 0.5 * torch.randn(300, 1, generator=torch.Generator().manual_seed(2))
    found = tried(tmp_path, net, (x, y))
    outputs = found.file()(x)[0].double().numpy()
    assert found.metric == pytest.approx(sklearn.metrics.r2_score(y.double().numpy(), outputs), rel=1e-6)


def test_weights_of_a_margin_loss_do_not_divide_it(tmp_path: Path) -> None:
    net, x, y = classes()
    loss = nn.MultiMarginLoss(weight=torch.tensor([1.0, 2.0, 5.0]))
    found = tried(tmp_path, net, (x, y), metric=loss)
    assert found.metric == pytest.approx(float(loss(net(x), y)), rel=1e-5)


def test_a_language_model_tells_its_divergence_from_the_original(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(9, 32), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 9))
    words, following = (torch.randint(0, 9, (80, 6), generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    following[::3, 3:] = -100
    recipe = {"quantize": ["none", "int8-dynamic"]}
    found = tried(tmp_path, net, (words, following), recipe, task="language-model")
    assert found.numbers["kl"] == 0.0
    files = [found.file(name) for name in ("int8-dynamic", "baseline")]
    # The scale of activations is that of a batch.
    logs = [torch.cat([file(some)[0] for some in words.split(64)]).double().log_softmax(-1) for file in files]
    counts = following != -100
    right = functional.kl_div(logs[0][counts], logs[1][counts], reduction="batchmean", log_target=True)
    assert 0 < float(right) < 0.1
    assert found.of("int8-dynamic")["kl"] == pytest.approx(float(right), rel=1e-3)
