"""Metrics as the ecosystem has them: by name, class and instance, losses, scorers, functions; all computed by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
import torch
import torchmetrics
from torch import nn
from torchmetrics import classification, regression, segmentation

from quanttaas_jupyter.core.errors import MetricError
from tests.situations.trying import CLOSE, cut, fitted, mean, refused, tried


def classes(count: int = 300) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A classifier of three classes, points, and labels that it partly gets right."""
    torch.manual_seed(0)
    net = nn.Linear(4, 3)
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(1))
    y = (net(x) + torch.randn(count, 3)).argmax(1)
    return net, x, y


def yes_or_no(count: int = 300) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """One logit a sample (n, 1), and labels (n, 1)."""
    torch.manual_seed(0)
    net = nn.Linear(4, 1)
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(1))
    return net, x, (net(x) + torch.randn(count, 1) > 0).detach()


def values(count: int = 300) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    net = nn.Linear(4, 1)
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(1))
    return net, x, (net(x) + 0.5 * torch.randn(count, 1)).detach()


def f1_of(guess: torch.Tensor, labels: torch.Tensor) -> float:
    hits = float((guess & labels).sum())
    return 2 * hits / float(guess.sum() + labels.sum())


def auroc_of(scores: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of pairs of a positive and a negative sample that are in the right order."""
    ahead = scores[labels][:, None].double() - scores[~labels][None].double()
    return float(((ahead > 0).double() + 0.5 * (ahead == 0)).mean())


@pytest.mark.parametrize(
    "metric", ["f1", "F1Score", "f1_score", classification.BinaryF1Score, classification.BinaryF1Score()]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_f1_of_one_logit(tmp_path: Path, metric: Any, dtype: torch.dtype) -> None:
    net, x, y = yes_or_no()
    found = tried(tmp_path, net, (x, y.to(dtype)), metric=metric)
    assert found.metric == pytest.approx(f1_of(net(x) > 0, y), **CLOSE)
    assert found.metric == pytest.approx(f1_of(found.file()(x)[0] > 0, y), **CLOSE)


@pytest.mark.parametrize("metric", ["auroc", classification.BinaryAUROC, classification.BinaryAUROC()])
def test_auroc_on_float_labels(tmp_path: Path, metric: Any) -> None:
    net, x, y = yes_or_no()
    found = tried(tmp_path, net, (x, y.float()), metric=metric)
    assert found.metric == pytest.approx(auroc_of(net(x).sigmoid().flatten(), y.flatten()), **CLOSE)


@pytest.mark.parametrize("metric", [classification.BinaryF1Score(), classification.BinaryAUROC()])
def test_metrics_of_two_classes_take_the_second_of_two_scores(tmp_path: Path, metric: Any) -> None:
    torch.manual_seed(0)
    net = nn.Linear(4, 2)
    x = torch.randn(300, 4, generator=torch.Generator().manual_seed(1))
    y = (net(x) + torch.randn(300, 2)).argmax(1)
    found = tried(tmp_path, net, (x, y), metric=metric)
    chance = net(x).softmax(1)[:, 1]
    right = f1_of(chance > 0.5, y == 1) if "F1" in type(metric).__name__ else auroc_of(chance, y == 1)
    assert found.metric == pytest.approx(right, **CLOSE)


def test_macro_f1_of_several_classes(tmp_path: Path) -> None:
    net, x, y = classes()
    guess = net(x).argmax(1)
    right = float(np.mean([f1_of(guess == c, y == c) for c in range(3)]))
    metric = classification.MulticlassF1Score(num_classes=3, average="macro")
    assert tried(tmp_path, net, (x, y), metric=metric).metric == pytest.approx(right, **CLOSE)


def test_auroc_of_several_labels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Linear(4, 3)
    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(1))
    y = net(x) + torch.randn(200, 3) > 0
    found = tried(tmp_path, net, (x, y.float()), metric="auroc")
    chance = net(x).sigmoid()
    right = np.mean([auroc_of(chance[:, c], y[:, c]) for c in range(3)])
    assert found.metric == pytest.approx(right, **CLOSE)


def test_a_metric_that_does_not_fit_is_refused_at_submission() -> None:
    net, x, y = values()
    assert "MulticlassF1Score" in refused(net, (x, y), metric=classification.MulticlassF1Score(num_classes=3))
    net, x, y = classes()
    assert "do not fit" in refused(net, (x, y), metric=classification.MultilabelF1Score(num_labels=3))
    assert "cannot be computed" in refused(net, (x, y), metric=classification.MulticlassF1Score(num_classes=2))


def test_psnr_of_pictures(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Conv2d(1, 1, 1)
    x = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        net.weight.fill_(0.9)
        net.get_parameter("bias").fill_(0.03)
    found = tried(tmp_path, net, (x, x), metric="psnr")
    right = 10 * math.log10(1 / float(((net(x) - x).double() ** 2).mean()))
    assert found.metric == pytest.approx(right, rel=1e-5)
    assert found.understanding.higher_is_better


def test_perplexity_by_name_of_a_model_that_is_no_language_model_of_a_library(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 9))
    words = torch.randint(0, 9, (80, 6), generator=torch.Generator().manual_seed(0))
    following = torch.randint(0, 9, (80, 6), generator=torch.Generator().manual_seed(1))
    following[::3, 3:] = -100
    found = tried(tmp_path, net, (words, following), metric="perplexity")
    right = math.exp(float(nn.functional.cross_entropy(net(words).double().transpose(1, 2), following)))
    assert found.metric == pytest.approx(right, **CLOSE)


def test_miou_with_void_labels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Conv2d(3, 3, 3, padding=1)
    x = torch.rand(80, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    y = (net(x) + 0.3 * torch.randn(80, 3, 8, 8)).argmax(1)
    y[torch.rand(80, 8, 8) < 0.2] = 255
    found = tried(tmp_path, net, (x, y), metric="miou")
    guess, counted = net(x).argmax(1), y != 255
    shares = [float(((guess == c) & (y == c)).sum() / (((guess == c) | (y == c)) & counted).sum()) for c in range(3)]
    assert found.metric == pytest.approx(np.mean(shares), **CLOSE)


def test_a_mean_over_pictures_is_one_whatever_the_batches(tmp_path: Path) -> None:
    """TorchMetrics averages this one over calls of ``update``, so that it would depend on how samples are cut."""
    torch.manual_seed(0)
    net = nn.Conv2d(3, 3, 3, padding=1)
    x = torch.rand(70, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    y = (net(x) + 0.3 * torch.randn(70, 3, 8, 8)).argmax(1)
    guess, shares = net(x).argmax(1), []
    for mine, theirs in zip(guess, y, strict=True):
        per = [((mine == c) & (theirs == c)).sum() / ((mine == c) | (theirs == c)).sum() for c in range(3)]
        shares.append(float(torch.stack(per).mean()))
    metric = segmentation.MeanIoU(num_classes=3, input_format="index")
    for index, data in enumerate(((x, y), cut(x, y, size=9))):
        found = tried(tmp_path / str(index), net, data, metric=metric)
        assert found.metric == pytest.approx(np.mean(shares), rel=1e-5)


def test_the_best_trial_has_the_smallest_error(tmp_path: Path) -> None:
    net, x, y = values()
    for index, metric in enumerate(
        (regression.MeanSquaredError(), "mse", nn.MSELoss(), sklearn.metrics.mean_squared_error)
    ):
        found = tried(tmp_path / str(index), net, (x, y), {"quantize": ["none", "int8"]}, metric=metric)
        right = float(((net(x) - y).double() ** 2).mean())
        assert found.metric == pytest.approx(right, **CLOSE)
        assert not found.understanding.higher_is_better
        worse = found.of("int8")
        assert worse["drop"] == pytest.approx(worse["metric"] - found.metric, **CLOSE)
        assert worse["drop_low"] <= worse["drop"] <= worse["drop_high"]


def test_a_collection_reports_all_and_its_first_leads(tmp_path: Path) -> None:
    net, x, y = classes()
    metric = torchmetrics.MetricCollection(
        {
            "f1": classification.MulticlassF1Score(num_classes=3, average="macro"),
            "top": classification.MulticlassAccuracy(num_classes=3, average="micro"),
        }
    )
    found = tried(tmp_path, net, (x, y), metric=metric)
    guess = net(x).argmax(1)
    assert found.metric == pytest.approx(np.mean([f1_of(guess == c, y == c) for c in range(3)]), **CLOSE)
    assert found.numbers["top"] == pytest.approx(mean([guess == y]), **CLOSE)


def test_metrics_of_a_list(tmp_path: Path) -> None:
    net, x, y = classes()
    found = tried(tmp_path, net, (x, y), metric=["accuracy", classification.MulticlassAUROC(num_classes=3)])
    chance = net(x).softmax(1)
    assert found.metric == pytest.approx(mean([net(x).argmax(1) == y]), **CLOSE)
    right = np.mean([auroc_of(chance[:, c], y == c) for c in range(3)])
    assert found.numbers["MulticlassAUROC"] == pytest.approx(right, **CLOSE)


LOSSES = [
    nn.CrossEntropyLoss(),
    nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 5.0])),
    nn.CrossEntropyLoss(label_smoothing=0.2),
    nn.MultiMarginLoss(),
    nn.CrossEntropyLoss(ignore_index=1),
]


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_losses_of_classes(tmp_path: Path, loss: Any) -> None:
    net, x, y = classes()
    found = tried(tmp_path, net, (x, y), metric=loss)
    assert found.metric == pytest.approx(float(loss(net(x), y)), rel=1e-5)
    assert not found.understanding.higher_is_better


@pytest.mark.parametrize(
    "loss", [nn.BCEWithLogitsLoss(), nn.BCEWithLogitsLoss(pos_weight=torch.tensor([3.0]))], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_losses_of_one_logit(tmp_path: Path, loss: Any, dtype: torch.dtype) -> None:
    net, x, y = yes_or_no()
    found = tried(tmp_path, net, (x, y.flatten().to(dtype)), metric=loss)
    assert found.metric == pytest.approx(float(loss(net(x), y.float())), rel=1e-5)


def test_losses_do_not_broadcast_a_column_against_a_row(tmp_path: Path) -> None:
    net, x, y = values()
    found = tried(tmp_path, net, (x, y.flatten()), metric=nn.L1Loss())
    assert found.metric == pytest.approx(float((net(x) - y).abs().mean()), rel=1e-5)


def test_cross_entropy_of_soft_labels(tmp_path: Path) -> None:
    net, x, y = classes()
    soft = 0.7 * nn.functional.one_hot(y, 3).float() + 0.1
    loss = nn.CrossEntropyLoss()
    found = tried(tmp_path, net, (x, soft), metric=loss, task="classification")
    assert found.metric == pytest.approx(float(loss(net(x), soft)), rel=1e-5)


def test_a_divergence_by_batchmean_divides_by_samples(tmp_path: Path) -> None:
    net, x, y = classes()
    model = nn.Sequential(net, nn.LogSoftmax(1))
    soft = 0.7 * nn.functional.one_hot(y, 3).float() + 0.1
    loss = nn.KLDivLoss(reduction="batchmean")
    found = tried(tmp_path, model, (x, soft), metric=loss, task="classification")
    assert found.metric == pytest.approx(float(loss(model(x), soft)), rel=1e-5)


def test_a_sum_is_refused() -> None:
    net, x, y = values()
    assert "reduction='mean'" in refused(net, (x, y), metric=nn.MSELoss(reduction="sum"))


def test_cross_entropy_of_pictures_with_void_labels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Conv2d(3, 3, 3, padding=1)
    x = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    y = net(x).argmax(1)
    y[torch.rand(40, 8, 8) < 0.3] = 255
    right = float(nn.functional.cross_entropy(net(x), y, ignore_index=255))
    for index, loss in enumerate((nn.CrossEntropyLoss(ignore_index=255), nn.CrossEntropyLoss())):
        found = tried(tmp_path / str(index), net, (x, y), metric=loss)
        assert found.metric == pytest.approx(right, rel=1e-5)


@pytest.mark.parametrize("name", ["balanced_accuracy_score", "cohen_kappa_score"])
def test_functions_of_scikit_learn_on_classes(tmp_path: Path, name: str) -> None:
    net, x, y = classes()
    function = getattr(sklearn.metrics, name)
    found = tried(tmp_path, net, (x, y), metric=function)
    assert found.metric == pytest.approx(function(y.numpy(), net(x).argmax(1).numpy()), **CLOSE)


def test_functions_of_scikit_learn_on_one_logit(tmp_path: Path) -> None:
    net, x, y = yes_or_no()
    chance = net(x).sigmoid().detach().flatten()
    for index, (function, guess) in enumerate(
        ((sklearn.metrics.f1_score, chance > 0.5), (sklearn.metrics.roc_auc_score, chance))
    ):
        found = tried(tmp_path / str(index), net, (x, y.float()), metric=function)
        assert found.metric == pytest.approx(function(y.flatten().numpy(), guess.numpy()), **CLOSE)


def test_scorers_of_scikit_learn(tmp_path: Path) -> None:
    net, x, y = values()
    scorer = sklearn.metrics.get_scorer("neg_mean_absolute_error")
    found = tried(tmp_path / "values", net, (x, y), metric=scorer)
    assert found.metric == pytest.approx(float((net(x) - y).abs().mean()), rel=1e-5)
    assert not found.understanding.higher_is_better
    net, x, y = classes()
    found = tried(tmp_path / "classes", net, (x, y), metric=sklearn.metrics.get_scorer("f1_macro"))
    guess = net(x).argmax(1)
    assert found.metric == pytest.approx(np.mean([f1_of(guess == c, y == c) for c in range(3)]), **CLOSE)
    net, x, y = yes_or_no()
    found = tried(tmp_path / "auc", net, (x, y), metric=sklearn.metrics.get_scorer("roc_auc"))
    assert found.metric == pytest.approx(auroc_of(net(x).flatten(), y.flatten()), **CLOSE)


def test_functions_of_scikit_learn_leave_out_ignored_labels(tmp_path: Path) -> None:
    net, x, y = classes()
    y[::3] = -100
    found = tried(tmp_path, net, (x, y), metric=sklearn.metrics.accuracy_score)
    counted = y != -100
    assert found.metric == pytest.approx(mean([net(x).argmax(1)[counted] == y[counted]]), **CLOSE)


def test_functions_of_scikit_learn_on_pixels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Conv2d(3, 3, 3, padding=1)
    x = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    y = (net(x) + 0.3 * torch.randn(40, 3, 8, 8)).argmax(1)
    y[torch.rand(40, 8, 8) < 0.2] = 255
    found = tried(tmp_path, net, (x, y), metric=sklearn.metrics.balanced_accuracy_score)
    counted = y != 255
    right = sklearn.metrics.balanced_accuracy_score(y[counted].numpy(), net(x).argmax(1)[counted].numpy())
    assert found.metric == pytest.approx(right, **CLOSE)


def test_scores_of_several_classes_from_scikit_learn_need_an_option_and_it_is_said(tmp_path: Path) -> None:
    from functools import partial

    net, x, y = classes()
    assert "multi_class" in refused(net, (x, y), metric=sklearn.metrics.roc_auc_score)
    metric = sklearn.metrics.make_scorer(
        sklearn.metrics.roc_auc_score, response_method="predict_proba", multi_class="ovr"
    )
    found = tried(tmp_path, net, (x, y), metric=metric)
    right = partial(sklearn.metrics.roc_auc_score, multi_class="ovr")(y.numpy(), net(x).softmax(1).detach().numpy())
    assert found.metric == pytest.approx(right, **CLOSE)


def test_a_function_of_one_value_a_sample_is_called_a_batch_at_a_time(tmp_path: Path) -> None:
    net, x, y = values()
    calls = tmp_path / "calls"

    def error(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with calls.open("a") as file:
            file.write(f"{len(outputs)} ")
        return (outputs - targets).abs()[:, 0]

    found = tried(tmp_path, net, (x, y), metric=(error, "min"))
    assert found.metric == pytest.approx(float((net(x) - y).abs().mean()), rel=1e-5)
    assert not found.understanding.higher_is_better
    assert max(map(int, calls.read_text().split())) <= 64
    assert len(calls.read_text().split()) < 20


def test_a_function_of_one_number_gets_everything(tmp_path: Path) -> None:
    net, x, y = values()

    def largest(outputs: torch.Tensor, targets: torch.Tensor) -> float:
        return float((outputs - targets).abs().max())

    found = tried(tmp_path, net, (x, y), metric=(largest, "min"))
    assert found.metric == pytest.approx(float((net(x) - y).abs().max()), rel=1e-5)


def padded(seed: int = 0) -> tuple[nn.Module, list[Any]]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 4))
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for length in (5, 9, 3, 9, 7):
        words = torch.randint(0, 9, (8, length), generator=generator)
        batches.append((words, torch.randint(0, 4, (8, length), generator=generator)))
    return net, batches


def test_a_function_of_one_value_a_sample_takes_batches_of_several_lengths(tmp_path: Path) -> None:
    net, batches = padded()

    def share(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (outputs.argmax(-1) == targets).double().mean(1)

    found = tried(tmp_path, net, batches, metric=share)
    assert found.metric == pytest.approx(mean(share(net(x), y) for x, y in batches), **CLOSE)


def test_a_function_of_everything_on_batches_of_several_lengths_is_refused_at_submission(tmp_path: Path) -> None:
    def share(outputs: torch.Tensor, targets: torch.Tensor) -> float:
        return float((outputs.argmax(-1) == targets).double().mean())

    net, batches = padded()
    assert "one value a sample" in refused(net, batches, metric=share)
    with pytest.raises(MetricError, match="one value a sample"):
        tried(tmp_path, net, [batches[1]] * 12 + batches, metric=share)


def test_a_function_that_fails_is_refused_with_its_own_reason() -> None:
    net, x, y = values()

    def broken(outputs: torch.Tensor, targets: torch.Tensor) -> float:
        raise ValueError("no such column")

    assert "no such column" in refused(net, (x, y), metric=broken)


def test_unknown_names_are_refused_with_the_nearest_one() -> None:
    net, x, y = classes()
    assert "accuracy" in refused(net, (x, y), metric="acuracy").lower()


def test_postprocess_stands_between_outputs_and_metric(tmp_path: Path) -> None:
    net, x, y = yes_or_no()

    def chances(outputs: torch.Tensor) -> torch.Tensor:
        both = outputs.sigmoid()
        return torch.cat([1 - both, both], 1)

    found = tried(tmp_path, net, (x, y.flatten().long()), postprocess=chances)
    assert found.metric == pytest.approx(mean([(net(x) > 0) == y]), **CLOSE)
    assert found.understanding.judging.classes == 2


def test_a_postprocess_that_fails_is_refused_with_its_own_reason() -> None:
    net, x, y = yes_or_no()
    assert "nothing" in refused(net, (x, y), postprocess=lambda outputs: outputs.nothing)


def test_trained_models_keep_their_loss(tmp_path: Path) -> None:
    net, x, y = classes()
    loss = nn.CrossEntropyLoss()
    fitted(net, lambda batch: loss(net(batch[0]), batch[1]), cut(x, y, size=50), 3)
    found = tried(tmp_path, net, (x, y), {"quantize": ["none", "int8-dynamic"]}, metric=["accuracy", "f1"])
    assert found.of("int8-dynamic")["f1score" if "f1score" in found.numbers else "F1Score"] is not None
