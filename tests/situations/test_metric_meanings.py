"""What a metric means: range, direction, averages, ignored labels and columns, or the sentence that asks for them."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
import torch
import torchmetrics
import torchmetrics.functional
from torch import nn
from torch.nn import functional
from torchmetrics import classification, image, regression, segmentation

from tests.situations.test_metrics import classes, f1_of, values, yes_or_no
from tests.situations.trying import CLOSE, looked, mean, refused, tried


class Scaled(nn.Module):
    """Pictures made a little darker."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.layer = nn.Conv2d(channels, channels, 1)
        with torch.no_grad():
            self.layer.weight.copy_(0.9 * torch.eye(channels)[:, :, None, None])
            self.layer.get_parameter("bias").zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def pictures(low: float, high: float, count: int = 40, size: int = 8) -> torch.Tensor:
    found = torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(0))
    return low + (high - low) * found


def several(count: int = 200) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """Three numbers a sample, of different noise."""
    torch.manual_seed(0)
    net = nn.Linear(4, 3)
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(1))
    return net, x, (net(x) + torch.tensor([0.1, 0.5, 1.0]) * torch.randn(count, 3)).detach()


def two_scores(count: int = 300) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    net = nn.Linear(4, 2)
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(1))
    return net, x, (net(x) + torch.randn(count, 2)).argmax(1)


def regions(has_void: bool = True) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    net = nn.Conv2d(3, 3, 3, padding=1)
    x = torch.rand(80, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    y = (net(x) + 0.3 * torch.randn(80, 3, 8, 8)).argmax(1)
    if has_void:
        y[torch.rand(80, 8, 8) < 0.2] = 255
    return net, x, y


def test_the_range_of_pictures_is_asked_for_where_targets_do_not_tell_it(tmp_path: Path) -> None:
    x = pictures(-1, 1)
    for name in ("psnr", image.PeakSignalNoiseRatio, torchmetrics.PeakSignalNoiseRatio):
        assert "PeakSignalNoiseRatio(data_range=...)" in refused(Scaled(), (x, x), metric=name)
    assert "StructuralSimilarityIndexMeasure(data_range=...)" in refused(Scaled(), (x, x), metric="ssim")
    masks = (pictures(0, 1) > 0.5).long()
    asked = refused(Scaled(), (masks.float(), masks), metric="psnr", task="regression")
    assert "targets from 0 to 1 do not tell" in asked
    found = tried(tmp_path, Scaled(), (x, x), metric=image.PeakSignalNoiseRatio(data_range=2.0))
    right = 10 * math.log10(4 / float((0.01 * x.double() ** 2).mean()))
    assert found.metric == pytest.approx(right, rel=1e-5)


def test_whole_numbers_of_eight_bits_have_their_range(tmp_path: Path) -> None:
    x = pictures(0, 255).round()
    found = tried(tmp_path, Scaled(), (x, x.to(torch.uint8)), metric="psnr", task="regression")
    right = 10 * math.log10(255**2 / float((0.01 * x.double() ** 2).mean()))
    assert found.metric == pytest.approx(right, rel=1e-5)


def test_a_similarity_that_takes_its_range_from_every_batch_is_refused() -> None:
    x = pictures(0, 1, size=16)
    assert "data_range=..." in refused(Scaled(), (x, x), metric=image.StructuralSimilarityIndexMeasure())


def test_less_of_a_functional_loss_is_better(tmp_path: Path) -> None:
    net, x, y = values()
    for index, metric in enumerate((functional.mse_loss, torchmetrics.functional.mean_squared_error)):
        found = tried(tmp_path / f"values{index}", net, (x, y), metric=metric)
        assert found.metric == pytest.approx(float(((net(x) - y).double() ** 2).mean()), rel=1e-5)
        assert not found.understanding.higher_is_better
    net, x, y = classes()
    weight = torch.tensor([1.0, 2.0, 5.0])
    cross: Any
    for index, cross in enumerate((functional.cross_entropy, partial(functional.cross_entropy, weight=weight))):
        found = tried(tmp_path / f"classes{index}", net, (x, y), metric=cross)
        assert found.metric == pytest.approx(float(cross(net(x), y)), rel=1e-5)
        assert not found.understanding.higher_is_better


class FocalLoss(nn.Module):
    def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        entropy = functional.cross_entropy(outputs, targets, reduction="none")
        return ((1 - (-entropy).exp()) ** 2 * entropy).mean()


def rmse(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    return float(((outputs - targets) ** 2).mean().sqrt())


def right_ones(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs.argmax(1) == targets).double()


def far(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    return float((outputs - targets).abs().max())


def spread(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    return float(outputs.std())


def test_the_direction_of_ones_own_function_is_tried_on_right_and_on_misplaced_answers() -> None:
    net, x, y = classes()
    for metric, is_higher in (
        (FocalLoss(), False),
        (right_ones, True),
        (lambda o, t: (o.argmax(1) == t).double(), True),
    ):
        found = looked(net, (x, y), metric=metric).inspection.understanding
        assert found.higher_is_better == is_higher
        assert ("(more is better)" if is_higher else "(less is better)") in found.heading
    net, x, y = values()
    for own in (rmse, far, lambda o, t: float((o - t).abs().max())):
        assert not looked(net, (x, y), metric=own).inspection.understanding.higher_is_better
    assert looked(net, (x, y), metric=(far, "max")).inspection.understanding.higher_is_better


def test_a_direction_that_cannot_be_told_is_asked_for() -> None:
    net, x, y = values()
    assert "give (metric, 'max') or (metric, 'min')" in refused(net, (x, y), metric=spread)


def test_partial_functions_of_scikit_learn_keep_order_and_direction(tmp_path: Path) -> None:
    net, x, y = several()
    loss = partial(sklearn.metrics.mean_pinball_loss, alpha=0.9)
    score = partial(sklearn.metrics.r2_score, multioutput="variance_weighted")
    for index, (metric, is_higher) in enumerate(((score, True), (loss, False))):
        found = tried(tmp_path / f"values{index}", net, (x, y), metric=metric)
        assert found.metric == pytest.approx(metric(y.numpy(), net(x).detach().numpy()), rel=1e-5)
        assert found.understanding.higher_is_better == is_higher
    net, x, y = classes()
    macro = partial(sklearn.metrics.f1_score, average="macro")
    found = tried(tmp_path / "classes", net, (x, y), metric=macro)
    assert found.metric == pytest.approx(macro(y.numpy(), net(x).argmax(1).numpy()), **CLOSE)


def mape(y_true: torch.Tensor, y_pred: torch.Tensor) -> torch.Tensor:
    return ((y_true - y_pred) / y_true).abs().mean()


def test_a_function_whose_parameters_say_so_gets_targets_first(tmp_path: Path) -> None:
    net, x, y = values()
    found = tried(tmp_path, net, (x, y), metric=mape)
    assert found.metric == pytest.approx(float(((y - net(x)) / y).abs().mean()), rel=1e-5)
    assert not found.understanding.higher_is_better
    assert any("targets first" in note for note in found.understanding.notes)


def test_metrics_of_segmentation_get_one_class_in_each_place(tmp_path: Path) -> None:
    net, x, y = regions(has_void=False)
    guess = net(x).argmax(1)
    shares = [
        [f1_of(a == c, b == c) for c in range(3) if ((a == c) | (b == c)).any()] for a, b in zip(guess, y, strict=True)
    ]
    overlaps = [
        np.mean([float(((a == c) & (b == c)).sum() / ((a == c) | (b == c)).sum()) for c in range(3)])
        for a, b in zip(guess, y, strict=True)
    ]
    metric: Any
    for index, metric in enumerate((segmentation.DiceScore(3), "dice", segmentation.DiceScore)):
        found = tried(tmp_path / f"dice{index}", net, (x, y), metric=metric)
        assert found.metric == pytest.approx(np.mean([np.mean(each) for each in shares]), rel=1e-5)
    for index, metric in enumerate((segmentation.MeanIoU(num_classes=3), segmentation.MeanIoU(), "MeanIoU")):
        found = tried(tmp_path / f"iou{index}", net, (x, y), metric=metric)
        assert found.metric == pytest.approx(np.mean(overlaps), rel=1e-5)
    found = tried(tmp_path / "micro", net, (x, y), metric=segmentation.DiceScore(3, average="micro"))
    assert found.metric == pytest.approx(mean([guess == y]), rel=1e-5)


def test_metrics_of_segmentation_leave_out_void(tmp_path: Path) -> None:
    net, x, y = regions()
    guess, counts = net(x).argmax(1), y != 255
    shares = [
        np.mean([f1_of((a == c) & k, (b == c) & k) for c in range(3)]) for a, b, k in zip(guess, y, counts, strict=True)
    ]
    for index, metric in enumerate(("dice", segmentation.DiceScore(3))):
        found = tried(tmp_path / f"{index}", net, (x, y), metric=metric)
        assert found.metric == pytest.approx(np.mean(shares), rel=1e-5)
    tried(tmp_path / "iou", net, (x, y), metric="MeanIoU")
    assert "does not leave out label 255" in refused(net, (x, y), metric="HausdorffDistance")


@pytest.mark.parametrize(
    "metric",
    [
        classification.MulticlassAccuracy(3, average="micro", validate_args=False),
        classification.MulticlassJaccardIndex(3),
    ],
)
def test_an_instance_that_would_count_void_is_asked_to_ignore_it(metric: Any) -> None:
    net, x, y = regions()
    assert "does not leave out label 255, which does not count; give it with ignore_index=255" in refused(
        net, (x, y), metric=metric
    )


@pytest.mark.parametrize("metric", ["f1", "F1Score", torchmetrics.F1Score, "f1_micro"])
def test_f1_averages_classes_as_torchmetrics_does_by_default(tmp_path: Path, metric: Any) -> None:
    net, x, y = classes()
    found = tried(tmp_path, net, (x, y), metric=metric)
    instance = torchmetrics.F1Score(task="multiclass", num_classes=3)
    assert found.metric == pytest.approx(float(instance(net(x).softmax(1), y)), **CLOSE)
    assert "F1Score (micro)" in found.understanding.heading


@pytest.mark.parametrize("average", ["macro", "weighted"])
def test_the_average_may_be_part_of_the_name(tmp_path: Path, average: str) -> None:
    net, x, y = classes()
    found = tried(tmp_path, net, (x, y), metric=f"f1_{average}")
    right = sklearn.metrics.f1_score(y.numpy(), net(x).argmax(1).numpy(), average=average)
    assert found.metric == pytest.approx(right, **CLOSE)
    assert f"F1Score ({average})" in found.understanding.heading


def test_several_averages_stand_beside_each_other(tmp_path: Path) -> None:
    net, x, y = classes()
    found = tried(tmp_path, net, (x, y), metric="f1, f1_macro, f1_weighted")
    guess = net(x).argmax(1).numpy()
    for average in ("macro", "weighted"):
        right = sklearn.metrics.f1_score(y.numpy(), guess, average=average)
        assert found.numbers[f"F1Score ({average})"] == pytest.approx(right, **CLOSE)


@pytest.mark.parametrize("name", ["f1", "precision", "recall"])
def test_of_two_scores_a_metric_of_one_class_is_that_of_the_second(tmp_path: Path, name: str) -> None:
    net, x, y = two_scores()
    found = tried(tmp_path, net, (x, y), metric=name)
    right = getattr(sklearn.metrics, f"{name}_score")(y.numpy(), net(x).argmax(1).numpy())
    assert found.metric == pytest.approx(right, **CLOSE)
    assert "(of class 1)" in found.understanding.heading


@pytest.mark.parametrize("name", ["roc_auc_score", "average_precision_score"])
def test_of_two_scores_scikit_learn_gets_the_second(tmp_path: Path, name: str) -> None:
    net, x, y = two_scores()
    function, chance = getattr(sklearn.metrics, name), net(x).softmax(1)[:, 1].detach().numpy()
    scorer = sklearn.metrics.get_scorer(name.removesuffix("_score"))
    for index, metric in enumerate((function, scorer)):
        found = tried(tmp_path / f"{index}", net, (x, y), metric=metric)
        assert found.metric == pytest.approx(function(y.numpy(), chance), **CLOSE)


def test_f1_of_scikit_learn_on_several_classes_asks_for_an_average() -> None:
    net, x, y = classes()
    said = refused(net, (x, y), metric=sklearn.metrics.f1_score)
    assert "functools.partial(sklearn.metrics.f1_score, average='macro')" in said


@pytest.mark.parametrize("name", ["mse", "mae", "rmse"])
def test_errors_of_several_columns_are_over_all_of_them(tmp_path: Path, name: str) -> None:
    net, x, y = several()
    apart = (net(x) - y).detach().double()
    right = {"mse": (apart**2).mean(), "mae": apart.abs().mean(), "rmse": (apart**2).mean().sqrt()}[name]
    found = tried(tmp_path, net, (x, y), metric=name)
    assert found.metric == pytest.approx(float(right), rel=1e-5)
    assert not found.understanding.higher_is_better


def test_correlations_of_several_columns_are_their_mean_which_is_told(tmp_path: Path) -> None:
    net, x, y = several()
    outputs = net(x).detach().numpy()
    for index, metric in enumerate(("pearson", regression.PearsonCorrCoef)):
        found = tried(tmp_path / f"{index}", net, (x, y), metric=metric)
        right = np.mean([np.corrcoef(outputs[:, c], y[:, c].numpy())[0, 1] for c in range(3)])
        assert found.metric == pytest.approx(right, rel=1e-5)
        assert "PearsonCorrCoef (mean of 3 columns)" in found.understanding.heading
    said = refused(net, (x, y), metric=regression.PearsonCorrCoef(num_outputs=3))
    assert "gives 3 numbers" in said
    assert "function (outputs, targets)" in said


def test_a_direction_beside_a_name_is_taken(tmp_path: Path) -> None:
    net, x, y = values()
    found = tried(tmp_path, net, (x, y), metric=("TweedieDevianceScore", "min"))
    assert found.metric == pytest.approx(float(((net(x) - y) ** 2).mean()), rel=1e-5)
    assert not found.understanding.higher_is_better
    assert looked(net, (x, y), metric=("mse", "max")).inspection.understanding.higher_is_better
    net, x, y = classes()
    assert "a table or a curve, not one number" in refused(net, (x, y), metric=("ConfusionMatrix", "max"))


def test_a_similarity_is_a_mean_over_samples(tmp_path: Path) -> None:
    net, x, y = several()
    found = tried(tmp_path, net, (x, y), metric="CosineSimilarity")
    assert found.metric == pytest.approx(float(functional.cosine_similarity(net(x), y).mean()), rel=1e-5)
    assert "reduction='mean'" in refused(net, (x, y), metric=regression.CosineSimilarity())


def test_a_metric_that_returns_nothing_is_refused_before_anything_is_sent() -> None:
    net, x, y = values()
    assert "returned None; return one number" in refused(net, (x, y), metric=lambda outputs, targets: None)
    assert "is NaN on the first" in refused(net, (x, y), metric=lambda outputs, targets: float("nan"))


def test_what_calls_a_function_of_one_number_is_told() -> None:
    net, x, y = values()
    notes = looked(net, (x, y), metric=rmse).inspection.understanding.notes
    assert any("at once, and on ten blocks of them for its interval" in note for note in notes)


def test_common_names_are_known(tmp_path: Path) -> None:
    net, x, y = classes()
    guess = net(x).argmax(1).numpy()
    found = tried(tmp_path / "balanced", net, (x, y), metric="balanced_accuracy")
    assert found.metric == pytest.approx(sklearn.metrics.balanced_accuracy_score(y.numpy(), guess), **CLOSE)
    found = tried(tmp_path / "top", net, (x, y), metric="top2")
    best = net(x).topk(2, 1).indices
    assert found.metric == pytest.approx(mean([(best == y[:, None]).any(1)]), **CLOSE)
    assert "top-2 accuracy" in found.understanding.heading
    net, x, y = yes_or_no()
    found = tried(tmp_path / "auc", net, (x, y.float()), metric="roc_auc")
    chance = net(x).sigmoid().flatten().detach()
    assert found.metric == pytest.approx(sklearn.metrics.roc_auc_score(y.flatten().numpy(), chance), **CLOSE)
    found = tried(tmp_path / "one", net, (x, y.float()), metric="balanced_accuracy")
    right = sklearn.metrics.balanced_accuracy_score(y.flatten().numpy(), (chance > 0.5).numpy())
    assert found.metric == pytest.approx(right, **CLOSE)
