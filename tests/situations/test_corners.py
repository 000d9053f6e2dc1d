"""Corners in which a number once looked measured and was another one than the person meant."""

import functools
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
import torch
from torch import nn
from torchmetrics import MetricTracker, classification, text

from quanttaas_jupyter.core.failures import StageError
from tests.situations.trying import CLOSE, Through, cut, measured, refused


def classes(samples: int = 200, count: int = 4, occurring: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    x = 2 * torch.randn(samples, count)
    return x, (x + torch.randn(samples, count))[:, :occurring].argmax(1)


def labels(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(*shape)
    return x, (x + torch.randn(*shape) > 0.5).long()


def table(value: torch.Tensor) -> np.ndarray:
    """Labels of maps as columns: one row a place."""
    return value.movedim(1, -1).reshape(-1, value.shape[1]).numpy()


def areas(y: np.ndarray, scores: np.ndarray, columns: range) -> float:
    return float(np.mean([sklearn.metrics.roc_auc_score(y[:, c], scores[:, c]) for c in columns]))


def test_auroc_is_the_mean_over_the_classes_that_occur() -> None:
    x, y = classes(count=5)
    found, _ = measured(Through(), cut(x, y), metric="auroc")
    one_hot = nn.functional.one_hot(y, 5).numpy()
    assert found == pytest.approx(areas(one_hot, x.softmax(1).numpy(), range(4)), **CLOSE)
    x, y = labels(200, 3)
    y[:, 2] = 0
    for metric in ("auroc", classification.MultilabelAUROC(3), classification.MultilabelAUROC(3, thresholds=None)):
        found, _ = measured(Through(), cut(x, y), metric=metric, task="multilabel")
        assert found == pytest.approx(areas(y.numpy(), x.numpy(), range(2)), **CLOSE)
    positives = y.sum(0)[:2].double()
    each = torch.tensor([areas(y.numpy(), x.numpy(), range(c, c + 1)) for c in range(2)])
    found, _ = measured(Through(), cut(x, y), metric="auroc_weighted", task="multilabel")
    assert found == pytest.approx(float((each * positives).sum() / positives.sum()), **CLOSE)


def test_auroc_with_thresholds_leaves_out_the_same_classes() -> None:
    x, y = classes(count=5)
    found, _ = measured(Through(), cut(x, y), metric=classification.MulticlassAUROC(5, thresholds=20))
    four = classification.MulticlassAUROC(5, average=None, thresholds=20)
    assert found == pytest.approx(float(four(x.softmax(1), y)[:4].mean()), **CLOSE)


@pytest.mark.parametrize("metric", ["auroc", "eer"])
def test_a_curve_without_samples_of_both_classes_has_no_area(metric: str) -> None:
    x = torch.randn(80, 1)
    with pytest.raises(StageError, match="is not defined"):
        measured(Through(), cut(x, torch.ones(80)), metric=metric, task="binary")


def test_scores_of_one_sigmoid_a_class_are_ranked_as_they_are() -> None:
    x, y = classes()
    found, prepared = measured(Through(torch.sigmoid), cut(x, y), metric="auroc")
    assert found == pytest.approx(areas(nn.functional.one_hot(y, 4).numpy(), x.sigmoid().numpy(), range(4)), **CLOSE)
    assert "one probability a class" in str(prepared.inspection.understanding)


def test_logits_that_happen_to_lie_between_zero_and_one_stay_logits() -> None:
    x, y = classes()
    x = x.sigmoid()
    found, _ = measured(Through(), cut(x, y), metric="auroc")
    assert found == pytest.approx(areas(nn.functional.one_hot(y, 4).numpy(), x.softmax(1).numpy(), range(4)), **CLOSE)


@pytest.mark.parametrize(
    "metric",
    [
        sklearn.metrics.accuracy_score,
        functools.partial(sklearn.metrics.f1_score, average="macro"),
        functools.partial(sklearn.metrics.jaccard_score, average="samples", zero_division=0),
    ],
)
def test_functions_of_scikit_learn_see_several_labels_as_columns(metric: Any) -> None:
    x, y = labels(200, 3)
    assert measured(Through(), cut(x, y), metric=metric)[0] == pytest.approx(metric(y, (x > 0).long()), **CLOSE)
    y[::4, 0] = -1
    assert "does not leave out label -1" in refused(Through(), cut(x, y), metric=metric, ignore_label=-1)


@pytest.mark.parametrize("name", ["label_ranking_average_precision_score", "coverage_error", "roc_auc_score"])
def test_functions_of_scikit_learn_that_rank_get_scores(name: str) -> None:
    x, y = labels(200, 3)
    function = getattr(sklearn.metrics, name)
    assert measured(Through(), cut(x, y), metric=function)[0] == pytest.approx(function(y, x.sigmoid()), **CLOSE)


@pytest.mark.parametrize("metric", ["MultilabelRankingLoss", classification.MultilabelRankingLoss(3)])
def test_a_ranking_that_counts_batches_is_refused_and_that_of_scikit_learn_is_right(metric: Any) -> None:
    x, y = labels(200, 3)
    assert "give metric=sklearn.metrics.label_ranking_loss" in refused(Through(), cut(x, y), metric=metric)
    function = sklearn.metrics.label_ranking_loss
    assert measured(Through(), cut(x, y), metric=function)[0] == pytest.approx(function(y, x.sigmoid()), **CLOSE)


def test_top_k_of_scikit_learn_gets_scores_and_its_hinge_loss_is_refused() -> None:
    x, y = classes()
    metric = functools.partial(sklearn.metrics.top_k_accuracy_score, k=2)
    assert measured(Through(), cut(x, y), metric=metric)[0] == pytest.approx(metric(y, x), **CLOSE)
    assert "distances from a border" in refused(Through(), cut(x, y), metric=sklearn.metrics.hinge_loss)


def test_maps_of_several_channels_hold_a_label_each() -> None:
    x, y = labels(96, 3, 6, 6)
    found, prepared = measured(Through(), cut(x, y), metric="auroc")
    assert found == pytest.approx(sklearn.metrics.roc_auc_score(table(y), table(x)), **CLOSE)
    assert "each of the 3 labels in dimension 1" in str(prepared.inspection.understanding)
    found, _ = measured(Through(), cut(x, y), metric="auroc", task="binary")
    assert found == pytest.approx(sklearn.metrics.roc_auc_score(y.flatten(), x.flatten()), **CLOSE)


def test_labels_of_sequences_are_pooled_and_told_or_counted_apart_where_it_is_said() -> None:
    x, y = labels(96, 4, 5)
    found, prepared = measured(Through(), cut(x, y), metric="f1")
    assert found == pytest.approx(sklearn.metrics.f1_score(y.flatten(), x.flatten() > 0), **CLOSE)
    assert "all places together, outputs are logits; --task multilabel" in str(prepared.inspection.understanding)
    found, _ = measured(Through(), cut(x, y), metric="f1_macro", task="multilabel")
    assert found == pytest.approx(sklearn.metrics.f1_score(table(y), table(x) > 0, average="macro"), **CLOSE)


def test_a_metric_of_several_classes_on_one_logit_gets_both_classes() -> None:
    x, y = labels(200, 1)
    metric = classification.MulticlassAccuracy(2, average="micro")
    assert measured(Through(), cut(x, y), metric=metric)[0] == pytest.approx(
        float(((x > 0) == y).double().mean()), **CLOSE
    )


def test_what_follows_a_metric_is_no_metric() -> None:
    metric = MetricTracker(classification.MulticlassAccuracy(4))
    assert "wraps or gathers other numbers" in refused(Through(), cut(*classes()), metric=metric)


def test_a_metric_of_one_class_is_that_of_the_second() -> None:
    x, y = classes(count=2)
    found, prepared = measured(Through(), cut(x, y), metric="NegativePredictiveValue")
    assert found == pytest.approx(sklearn.metrics.precision_score(y, x.argmax(1), pos_label=0), **CLOSE)
    assert "(of class 1)" in prepared.inspection.understanding.metric


@pytest.mark.parametrize("scores", [1, 2])
def test_dice_of_a_mask_is_that_of_the_mask(scores: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(32, scores, 8, 8)
    y = (x[:, -1] + torch.randn(32, 8, 8) > 1).long()
    x[0], y[0] = -5 * torch.eye(2)[1, -scores:, None, None], 0
    guess = x[:, 0] > 0 if scores == 1 else x.argmax(1) == 1
    # A picture without a mask, in which none is found, has no Dice.
    shares = [2 * float((a & (b == 1)).sum()) / float(a.sum() + b.sum()) for a, b in zip(guess[1:], y[1:], strict=True)]
    found, prepared = measured(Through(), cut(x, y if scores == 2 else y[:, None]), metric="dice")
    assert found == pytest.approx(np.mean(shares), **CLOSE)
    assert "of class 1" in prepared.inspection.understanding.metric


def test_bleu_takes_plain_strings_as_references() -> None:
    x = torch.randn(48, 3)
    texts = ["the cat is on the mat" if row[0] > 0 else "there is a cat here now" for row in x]
    said = ["the cat is on the mat"] * 8
    data = [(x[at : at + 8], texts[at : at + 8]) for at in range(0, 48, 8)]
    for metric in ("BLEUScore", "SacreBLEUScore", text.BLEUScore()):
        found, _ = measured(Through(), data, postprocess=lambda outputs: said[: len(outputs)], metric=metric)
        assert found == pytest.approx(float(text.BLEUScore()(said * 6, [[one] for one in texts])), **CLOSE)


def test_names_of_losses_and_of_metrics_of_other_tasks_are_refused_with_what_to_give() -> None:
    assert "metric=torch.nn.CrossEntropyLoss()" in refused(Through(), cut(*classes()), metric="CrossEntropyLoss")
    assert "is of one class a sample" in refused(Through(), cut(*labels(96, 3)), metric="balanced_accuracy")
    assert measured(Through(), cut(*classes()), metric="acc")[1].inspection.understanding.metric == "accuracy"


def test_a_postprocess_that_gives_arrays_is_asked_for_tensors() -> None:
    said = refused(Through(), cut(*classes()), postprocess=lambda outputs: outputs.numpy())
    assert said.startswith("--postprocess gives a ndarray: let it return tensors")


@pytest.mark.parametrize("metric", ["dice", "MeanIoU"])
def test_that_pictures_are_averaged_is_told(metric: str) -> None:
    x = torch.randn(16, 3, 4, 4)
    _, prepared = measured(Through(), cut(x, x.argmax(1)), metric=metric)
    assert prepared.inspection.understanding.metric.endswith("(averaged over samples)")


@pytest.mark.parametrize(("low", "high"), [(0.0, 3.0), (-1.0, 1.0)])
def test_pictures_beyond_the_range_of_the_first_ones_are_refused_before_the_study(low: float, high: float) -> None:
    torch.manual_seed(0)
    y = torch.rand(128, 1, 4, 4)
    y[100:] = low + (high - low) * y[100:]
    with pytest.raises(Exception, match="was made for pictures from 0 to 1, the range of the first ones"):
        measured(Through(), cut(y + 0.1, y), metric="psnr", task="regression")


def test_r2_of_pictures_of_several_sizes_is_refused_before_the_study() -> None:
    pictures = [torch.randn(4, 1, size, size) for size in (5, 9, 6)]
    data = [(x, x + 1) for x in pictures]
    assert "their sizes differ: name another metric" in refused(Through(), data)
    assert measured(Through(), data, metric="mae")[0] == pytest.approx(1.0, **CLOSE)


def test_a_metric_that_keeps_everything_is_refused_on_batches_of_several_lengths_before_the_study() -> None:
    data = [(x, x + 1) for x in (torch.randn(40, length) for length in (9, 9, 5))]
    with pytest.raises(Exception, match="CosineSimilarity cannot be computed"):
        measured(Through(), data, metric="CosineSimilarity")
    with pytest.raises(Exception, match="PearsonCorrCoef cannot be computed"):
        measured(Through(), data, metric="pearson")


def test_what_r2_of_sequences_and_agreement_of_vectors_are_is_told() -> None:
    x = torch.randn(64, 5, 3)
    _, prepared = measured(Through(), cut(x, x + 1))
    assert "r2 is one over all places, in which those of large values weigh most" in prepared.notes[-1]
    x, y = classes()
    _, prepared = measured(Through(), cut(x, y), task="embedding")
    assert "lengths of vectors count" in prepared.notes[-1]
