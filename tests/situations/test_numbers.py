"""Numbers of every type and size: bytes, whole numbers, large means, soft labels, infinity."""

import numpy as np
import pytest
import sklearn.metrics
import torch
from torch import nn

from quanttaas_jupyter.core.errors import QuantTaaSError
from quanttaas_jupyter.core.failures import StageError
from tests.situations.trying import CLOSE, Through, cut, measured, refused


def around(mean: float, samples: int = 2000) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(samples, 1) + mean
    return x, x + torch.randn(samples, 1)


@pytest.mark.parametrize(
    ("metric", "function"),
    [
        ("R2Score", sklearn.metrics.r2_score),
        ("ExplainedVariance", sklearn.metrics.explained_variance_score),
        ("pearson", lambda y, x: np.corrcoef(y[:, 0], x[:, 0])[0, 1]),
        ("mse", sklearn.metrics.mean_squared_error),
    ],
)
def test_a_small_variance_beside_a_large_mean_is_seen(metric: str, function: object) -> None:
    x, y = around(1e4)
    right = function(y.double().numpy(), x.double().numpy())  # type: ignore[operator]
    assert measured(Through(), cut(x, y), metric=metric)[0] == pytest.approx(right, **CLOSE)


@pytest.mark.parametrize("metric", ["mae", nn.L1Loss(), sklearn.metrics.max_error])
def test_differences_of_bytes_do_not_wrap_around(metric: object) -> None:
    torch.manual_seed(0)
    y = torch.randint(0, 256, (96, 1), dtype=torch.uint8)
    x = y.float() + 5 * torch.randn(96, 1)
    model = Through(lambda x: x.round().clamp(0, 255).to(torch.uint8))
    error = (x.round().clamp(0, 255) - y).abs()
    right = error.max() if metric is sklearn.metrics.max_error else error.mean()
    assert measured(model, cut(x, y), metric=metric, task="regression")[0] == pytest.approx(float(right), **CLOSE)


@pytest.mark.parametrize("at", [5, 90])
def test_infinite_targets_are_refused(at: int) -> None:
    x, y = around(0, 96)
    y[at] = torch.inf
    with pytest.raises(Exception, match="the targets of --data hold infinity; leave those samples out"):
        measured(Through(), cut(x, y))


@pytest.mark.parametrize("labels", [1, 3])
def test_logits_against_soft_labels_are_no_regression(labels: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(96, labels)
    y = 0.1 + 0.8 * (x + torch.randn(96, labels) > 0).float()
    assert "only through a sigmoid: give --postprocess torch.sigmoid" in refused(Through(), cut(x, y))
    right = sklearn.metrics.r2_score(y, x.sigmoid())
    assert measured(Through(), cut(x, y), postprocess=torch.sigmoid)[0] == pytest.approx(right, **CLOSE)
    loss = nn.BCEWithLogitsLoss()
    assert measured(Through(), cut(x, y), metric=loss)[0] == pytest.approx(float(loss(x, y)), **CLOSE)


def test_whole_numbers_that_differ_by_little_may_be_counts() -> None:
    torch.manual_seed(0)
    x = 20 + 5 * torch.randn(96, 1)
    y = (x[:, 0] + torch.randn(96)).round().long()
    model = Through(lambda x: x[:, 0].round().long())
    assert "say --task regression if they are values, --task classification" in refused(model, cut(x, y))
    right = sklearn.metrics.r2_score(y, x[:, 0].round())
    assert measured(model, cut(x, y), task="regression")[0] == pytest.approx(right, **CLOSE)
    right = float((x[:, 0].round() == y).double().mean())
    assert measured(model, cut(x, y), task="classification")[0] == pytest.approx(right, **CLOSE)


@pytest.mark.parametrize(("marker", "later"), [(255, False), (-100, False), (-100, True)])
def test_labels_that_a_model_of_class_numbers_never_gives_are_void(marker: int, later: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(96, 3, 5, 5)
    y = (x + torch.randn(96, 3, 5, 5)).argmax(1)
    y[80 if later else 0 :, 0] = marker
    counts = y != marker
    found, _ = measured(Through(lambda x: x.argmax(1)), cut(x, y))
    assert found == pytest.approx(float((x.argmax(1) == y)[counts].double().mean()), **CLOSE)


@pytest.mark.parametrize("marker", [255, -1])
def test_labels_that_a_model_of_class_numbers_never_gives_are_asked_about_where_they_come_late(marker: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(256, 3)
    y = (x + torch.randn(256, 3)).argmax(1)
    y[240:244] = marker
    model, batches = Through(lambda x: x.argmax(1)), cut(x, y)
    with pytest.raises(QuantTaaSError, match=f"say --ignore-label {marker}"):
        measured(model, batches)
    right = float((x.argmax(1) == y)[y != marker].double().mean())
    assert measured(model, batches, ignore_label=marker)[0] == pytest.approx(right, **CLOSE)


def test_a_late_class_of_255_that_the_model_gives_is_a_class() -> None:
    x = torch.zeros(256, 300)
    y = torch.arange(256) % 3
    y[240:] = 255
    x[torch.arange(256), y] = 1
    assert measured(Through(lambda x: x.argmax(1)), cut(x, y))[0] == 1


def test_negative_labels_that_a_model_of_class_numbers_never_gives_are_asked_about() -> None:
    x = torch.randn(96, 3)
    y = x.argmax(1)
    y[::5] = -1
    assert "say --ignore-label -1" in refused(Through(lambda x: x.argmax(1)), cut(x, y))
    assert measured(Through(lambda x: x.argmax(1)), cut(x, y), ignore_label=-1)[0] == 1


def test_average_precision_without_a_sample_of_the_class_is_none() -> None:
    x = torch.randn(80, 1)
    with pytest.raises(StageError, match="is not defined"):
        measured(Through(), cut(x, torch.zeros(80)), metric="average_precision", task="binary")
