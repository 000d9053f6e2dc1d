"""What could be read in several ways is asked, and every answer gives the number of a plain loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from quanttaas_jupyter.core.errors import DataError
from tests.situations.trying import CLOSE, cut, looked, mean, measured, refused, tried

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(200, 4, generator=GENERATOR)


class Head(nn.Module):
    """A small fixed network, and a function of its outputs."""

    def __init__(self, outputs: int = 3, form: Callable[[torch.Tensor], Any] = lambda scores: scores) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, outputs))
        self.form = form

    def forward(self, x: torch.Tensor) -> Any:
        return self.form(self.net(x))


class Several(nn.Module):
    """Features, an age, and two heads of classes, of which some come out."""

    def __init__(self, *names: str, as_tuple: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.names, self.as_tuple = nn.Linear(4, 16), names, as_tuple
        self.heads = nn.ModuleDict({"coarse": nn.Linear(16, 3), "fine": nn.Linear(16, 5), "age": nn.Linear(16, 1)})

    def forward(self, x: torch.Tensor) -> Any:
        features = self.body(x).relu()
        found = {"features": features, **{name: head(features) for name, head in self.heads.items()}}
        chosen = {name: found[name] for name in self.names}
        return tuple(chosen.values()) if self.as_tuple else chosen


def spoilt(labels: torch.Tensor, classes: int, share: float = 0.2) -> torch.Tensor:
    """Labels of which some are wrong."""
    wrong = torch.rand(labels.shape, generator=torch.Generator().manual_seed(2)) < share
    return torch.where(wrong, (labels + 1) % classes, labels)


def test_of_features_and_scores_it_is_asked_which_is_judged() -> None:
    model = Several("features", "coarse", as_tuple=True)
    y = spoilt(model(X)[1].argmax(1), 3)
    assert "--output 0 or --output 1" in refused(model, (X, y))
    number, _ = measured(model, (X, y), output="1")
    assert number == pytest.approx(mean([model(X)[1].argmax(1) == y]), **CLOSE)


def test_an_output_that_lacks_the_classes_of_the_labels_is_not_judged() -> None:
    model = Several("coarse", "fine")
    y = spoilt(model(X)["fine"].argmax(1), 5)
    number, prepared = measured(model, (X, y))
    assert number == pytest.approx(mean([model(X)["fine"].argmax(1) == y]), **CLOSE)
    assert prepared.inspection.understanding.judging.output == "fine"


@pytest.mark.parametrize("name", ["coarse", "fine"])
def test_an_output_of_the_name_of_the_target_is_judged(name: str) -> None:
    model = Several("coarse", "fine")
    y = model(X)[name].argmax(1) % 3
    number, _ = measured(model, [{"x": a, f"{name}_labels": b} for a, b in cut(X, y)], labels=[f"{name}_labels"])
    assert number == pytest.approx(mean([model(X)[name].argmax(1) == y]), **CLOSE)


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_a_score_beside_classes_is_asked(shape: tuple[int, ...]) -> None:
    model = Several("age", "coarse")
    y = model(X)["coarse"].argmax(1).reshape(shape)
    assert "--output age or --output coarse" in refused(model, (X, y))
    number, _ = measured(model, (X, y), output="coarse")
    assert number == pytest.approx(1.0, **CLOSE)


def test_a_latent_of_the_size_of_the_input_is_not_taken_for_the_reconstruction() -> None:
    model = Head(4, lambda scores: (scores, 0.1 * scores, 0.9 * scores + 0.1))
    y = model(X)[2].detach() + 0.1 * torch.randn(200, 4, generator=GENERATOR)
    assert "--output 0, --output 1 or --output 2" in refused(model, (X, y))
    output = model(X)[2].detach().double()
    explained = 1 - ((output - y) ** 2).sum(0) / ((y - y.mean(0)) ** 2).sum(0)
    number, _ = measured(model, (X, y), output="2")
    assert number == pytest.approx(float(explained.mean()), rel=1e-5)


def test_an_output_whose_name_says_that_it_is_the_answer_is_judged() -> None:
    model = Head(3, lambda scores: {"features": 2 * scores + 1, "scores": scores.flip(1)})
    y = spoilt(model(X)["scores"].argmax(1), 3)
    assert measured(model, (X, y))[0] == pytest.approx(mean([model(X)["scores"].argmax(1) == y]), **CLOSE)


def test_logits_with_their_probabilities_are_one_answer() -> None:
    model = Head(3, lambda scores: (scores, scores.softmax(1), scores.argmax(1)))
    y = spoilt(model(X)[2], 3)
    number, _ = measured(model, (X, y))
    assert number == pytest.approx(mean([model(X)[2] == y]), **CLOSE)


def test_a_function_of_ones_own_takes_all_outputs_and_nothing_is_asked() -> None:
    model = Several("features", "coarse", as_tuple=True)
    y = model(X)[1].argmax(1)

    def right(outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        return (outputs[1].argmax(1) == targets).float()

    assert measured(model, (X, y), metric=right)[0] == pytest.approx(1.0, **CLOSE)


def mask_model(classes: int = 1) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(3)
    return nn.Conv2d(3, classes, 3, padding=1), torch.randn(40, 3, 8, 8, generator=GENERATOR)


@pytest.mark.parametrize("void", [255, -100])
@pytest.mark.parametrize("kind", [torch.int64, torch.float32])
def test_void_pixels_of_one_logit_do_not_count(void: int, kind: torch.dtype) -> None:
    model, x = mask_model()
    y = spoilt((model(x) > 0).long(), 2)
    y[:, :, :2] = void
    number, prepared = measured(model, (x, y.to(kind)))
    counted = y != void
    assert number == pytest.approx(mean([((model(x) > 0).long() == y)[counted]]), **CLOSE)
    judging = prepared.inspection.understanding.judging
    assert (judging.task, judging.ignore_label) == ("binary", void)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int64, torch.float32])
def test_masks_of_0_and_255_are_asked_and_binary_takes_them(kind: torch.dtype) -> None:
    model, x = mask_model()
    y = spoilt((model(x) > 0).long(), 2)
    said = refused(model, (x, (255 * y).to(kind)))
    assert "--task binary if 255 means yes, --ignore-label 255" in said
    number, prepared = measured(model, (x, (255 * y).to(kind)), task="binary", metric="accuracy,f1")
    assert number == pytest.approx(mean([(model(x) > 0).long() == y]), **CLOSE)
    assert "label 255 means yes" in prepared.inspection.understanding.heading


@pytest.mark.parametrize("no_yes", [(-1, 1), (0, 255), (1, 2)])
def test_two_scores_with_other_codes_are_asked_and_binary_takes_them(no_yes: tuple[int, int]) -> None:
    model, x = mask_model(2)
    y = spoilt(model(x).argmax(1), 2)
    coded = torch.tensor(no_yes)[y]
    assert f"--task binary if {no_yes[1]} means yes" in refused(model, (x, coded))
    number, _ = measured(model, (x, coded), task="binary")
    assert number == pytest.approx(mean([model(x).argmax(1) == y]), **CLOSE)


@pytest.mark.parametrize("metric", ["accuracy", "f1"])
def test_a_metric_of_classes_by_name_does_not_hide_what_is_asked(metric: str) -> None:
    model, x = mask_model()
    assert "--task binary if 255 means yes" in refused(model, (x, 255 * (model(x) > 0).long()), metric=metric)


def test_foreground_of_255_and_many_classes_is_asked() -> None:
    model, x = mask_model(3)
    y = 255 * (model(x).argmax(1) > 0).long()
    assert "--ignore-label 255 if it marks what does not count" in refused(model, (x, y))


@pytest.mark.parametrize("kind", [torch.int64, torch.float32])
@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_labels_of_minus_one_and_one_are_asked_and_both_answers_are_right(
    kind: torch.dtype, shape: tuple[int, ...]
) -> None:
    model = Head(1)
    yes = spoilt((model(X)[:, 0] > 0).long(), 2)
    y = (2 * yes - 1).to(kind).reshape(shape)
    assert "--task binary if 1 means yes, or --task regression" in refused(model, (X, y))
    assert measured(model, (X, y), task="binary")[0] == pytest.approx(
        mean([(model(X)[:, 0] > 0).long() == yes]), **CLOSE
    )
    output, target = model(X).detach().double().flatten(), y.double().flatten()
    right = 1 - ((output - target) ** 2).sum() / ((target - target.mean()) ** 2).sum()
    assert measured(model, (X, y), task="regression")[0] == pytest.approx(float(right), rel=1e-5)


def test_what_means_yes_reaches_the_stages_of_a_study(tmp_path: Path) -> None:
    model = Head(1)
    yes = spoilt((model(X)[:, 0] > 0).long(), 2)
    found = tried(tmp_path, model, (X, 2 * yes - 1), task="binary", metric="accuracy,f1")
    assert found.metric == pytest.approx(mean([(model(X)[:, 0] > 0).long() == yes]), **CLOSE)
    guess = found.file()(X)[0][:, 0] > 0
    hits = float((guess & yes.bool()).sum())
    right = 2 * hits / float(guess.sum() + yes.sum())
    assert found.numbers["F1Score"] == pytest.approx(right, **CLOSE)


def test_losses_that_take_minus_one_and_one_get_them() -> None:
    model = Head(1)
    y = torch.where(model(X) > 0, 1.0, -1.0)
    right = float(functional.soft_margin_loss(model(X).detach(), y))
    for asked in ({}, {"task": "binary"}):
        assert measured(model, (X, y), metric=nn.SoftMarginLoss(), **asked)[0] == pytest.approx(right, **CLOSE)


def test_labels_that_are_not_known_are_asked_and_do_not_count() -> None:
    model = Head(5)
    y = spoilt((model(X) > 0).long(), 2).float()
    y[torch.rand(200, 5, generator=GENERATOR) < 0.2] = -1
    assert "--ignore-label -1 if it marks what is not known" in refused(model, (X, y))
    right = mean([((model(X) > 0).float() == y)[y != -1]])
    assert measured(model, (X, y), ignore_label=-1)[0] == pytest.approx(right, **CLOSE)


@pytest.mark.parametrize("dim", [1, -1])
@pytest.mark.parametrize("kind", [torch.float32, torch.bool])
def test_one_hot_places_are_classes(dim: int, kind: torch.dtype) -> None:
    model, x = mask_model(3)
    net = model if dim == 1 else nn.Sequential(nn.Linear(8, 5))
    scores = net(x).detach()
    y = spoilt(scores.argmax(dim), scores.shape[dim])
    given = functional.one_hot(y, scores.shape[dim]).movedim(-1, dim).to(kind)
    number, prepared = measured(net, (x, given))
    assert number == pytest.approx(mean([scores.argmax(dim) == y]), **CLOSE)
    assert prepared.inspection.understanding.judging.labels == "one-hot"
    loss, _ = measured(net, (x, given), metric=nn.CrossEntropyLoss())
    right = functional.cross_entropy(scores.movedim(dim, 1), given.movedim(dim, 1).float())
    assert loss == pytest.approx(float(right), rel=1e-5)


def test_soft_labels_of_places_are_asked_and_both_answers_are_right() -> None:
    x = torch.randn(60, 7, 4, generator=GENERATOR)
    net = nn.Sequential(nn.Linear(4, 3))
    soft = (2 * net(x) + torch.randn(60, 7, 3, generator=GENERATOR)).softmax(-1).detach()
    assert "--task regression or --task token-classification" in refused(net, (x, soft))
    number, _ = measured(net, (x, soft), task="token-classification")
    assert number == pytest.approx(mean([net(x).argmax(-1) == soft.argmax(-1)]), **CLOSE)


def test_one_hot_rows_in_small_batches_of_several_lengths_are_classes() -> None:
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(3)
            self.table = nn.Embedding(20, 3)

        def forward(self, words: torch.Tensor) -> torch.Tensor:
            return self.table(words).mean(1)

    model, batches, hits = Mean(), [], []
    for index in range(30):
        words = torch.randint(0, 20, (4, 5 + index % 3), generator=GENERATOR)
        y = torch.where(torch.rand(4, generator=GENERATOR) < 0.3, 1, model(words).argmax(1))
        batches.append((words, functional.one_hot(y, 3).float()))
        hits.append(model(words).argmax(1) == y)
    assert measured(model, batches)[0] == pytest.approx(mean(hits), **CLOSE)


def test_a_handful_of_one_hot_rows_is_asked() -> None:
    model, x = Head(3), X[:6]
    y = spoilt(model(x).argmax(1), 3)
    given = functional.one_hot(y, 3).float()
    assert "--task classification or --task multilabel" in refused(model, (x, given))
    number, _ = measured(model, (x, given), task="classification")
    assert number == pytest.approx(mean([model(x).argmax(1) == y]), **CLOSE)


@pytest.mark.parametrize(
    ("form", "word"),
    [(lambda scores: scores.norm(dim=1), "never negative"), (functional.logsigmoid, "never positive")],
)
def test_outputs_that_keep_their_sign_are_no_logits(form: Any, word: str) -> None:
    model = Head(1 if word == "never positive" else 3, form)
    scores = model(X).detach().flatten()
    y = (scores > scores.median()).float()
    assert word in refused(model, (X, y.reshape(model(X).shape)))
    number, _ = measured(model, (X, y), metric="auroc")
    assert number == pytest.approx(1.0, **CLOSE)
    cutoff = float(scores.median())
    number, _ = measured(model, (X, y), postprocess=lambda outputs: (outputs - cutoff).flatten())
    assert number == pytest.approx(1.0, **CLOSE)


def test_logits_of_words_that_lie_between_zero_and_one_are_logits() -> None:
    class Words(nn.Module):
        def __init__(self, last: nn.Module) -> None:
            super().__init__()
            torch.manual_seed(3)
            self.table, self.head, self.last = nn.Embedding(20, 8), nn.Linear(8, 1), last
            with torch.no_grad():
                self.head.weight.mul_(0.2)
                self.head.bias.fill_(0.45)

        def forward(self, words: torch.Tensor) -> torch.Tensor:
            return self.last(self.head(self.table(words).mean(1)))

    words = torch.randint(0, 20, (200, 6), generator=GENERATOR)
    model = Words(nn.Identity())
    y = (model(words) > model(words).median()).long()
    assert measured(model, (words, y))[0] == pytest.approx(mean([(model(words) > 0).long() == y]), **CLOSE)
    model = Words(nn.Sigmoid())
    assert measured(model, (words, y))[0] == pytest.approx(mean([(model(words) > 0.5).long() == y]), **CLOSE)


def test_vectors_of_length_one_are_asked_and_may_be_embeddings() -> None:
    model = Head(32, lambda scores: functional.normalize(scores, dim=1))
    y = torch.randint(0, 10, (200,), generator=GENERATOR)
    assert "--task embedding" in refused(model, (X, y))
    found = looked(model, (X, y), task="embedding").inspection.understanding
    assert (found.judging.task, found.metric) == ("embedding", "agreement")
    number, _ = measured(model, (X, y), task="classification")
    assert number == pytest.approx(mean([model(X).argmax(1) == y]), **CLOSE)


def test_ordered_thresholds_are_no_class_scores() -> None:
    model = Head(4)
    y = (model(X) > 0).long().sum(1).clamp(max=3)
    assert "ordered thresholds" in refused(model, (X, y))

    def as_classes(outputs: torch.Tensor) -> torch.Tensor:
        return (outputs > 0).sum(1)

    right = mean([as_classes(model(X)) == y])
    assert measured(model, (X, y), postprocess=as_classes)[0] == pytest.approx(right, **CLOSE)


def test_quantiles_are_no_class_scores() -> None:
    model = Head(3, lambda scores: scores.exp().cumsum(1))
    y = torch.poisson(torch.full((200,), 0.3), generator=GENERATOR).clamp(max=2)
    assert "quantiles" in refused(model, (X, y))


def test_labels_that_count_from_one_are_told_so() -> None:
    model = Head(3)
    y = torch.arange(200) % 3 + 1
    assert "subtract 1 from labels that count from 1" in refused(model, (X, y))


@pytest.mark.parametrize("asked", [{"batch_dim": "1"}, {"batch_dim": True}])
def test_a_dimension_is_a_whole_number(asked: dict[str, Any]) -> None:
    assert "--batch-dim takes one whole number" in refused(Head(3), (X, torch.arange(200) % 3), **asked)


@pytest.mark.parametrize("label", ["a", [0, 1], 1.5])
def test_an_ignored_label_is_a_whole_number(label: Any) -> None:
    assert "--ignore-label takes one whole number" in refused(Head(3), (X, torch.arange(200) % 3), ignore_label=label)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"metric": ""}, "the metric is empty"),
        ({"metric": nn.CrossEntropyLoss}, r"give an instance, CrossEntropyLoss()"),
        ({"postprocess": 5}, "postprocess must be a function"),
    ],
)
def test_arguments_of_another_kind_get_a_sentence(asked: dict[str, Any], said: str) -> None:
    assert said in refused(Head(3), (X, torch.arange(200) % 3), **asked)


def test_a_list_of_one_output_a_sample_gets_a_sentence() -> None:
    assert "torch.stack(outputs)" in refused(Head(3, list), (X, torch.arange(200) % 3))


def test_scores_of_another_size_than_the_labels_name_the_postprocess() -> None:
    torch.manual_seed(3)
    model = nn.Conv2d(3, 3, 3, padding=1, stride=4)
    x = torch.randn(24, 3, 8, 8, generator=GENERATOR)

    def larger(outputs: torch.Tensor) -> torch.Tensor:
        return functional.interpolate(outputs, size=(8, 8), mode="bilinear")

    y = spoilt(larger(model(x)).argmax(1), 3)
    assert "--postprocess" in refused(model, (x, y))
    number, _ = measured(model, (x, y), postprocess=larger)
    assert number == pytest.approx(mean([larger(model(x)).argmax(1) == y]), **CLOSE)


def test_targets_of_nan_are_the_business_of_ones_own_function() -> None:
    model = Head(3)
    y = model(X).detach() + 0.1 * torch.randn(200, 3, generator=GENERATOR)
    y[70:][torch.rand(130, 3, generator=GENERATOR) < 0.3] = torch.nan

    def error(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        known = ~targets.isnan()
        return ((outputs - targets.nan_to_num()) ** 2 * known).sum(1) / known.sum(1).clamp(min=1)

    assert measured(model, (X, y), metric=(error, "min"))[0] == pytest.approx(mean([error(model(X), y)]), **CLOSE)
    with pytest.raises(DataError, match="NaN"):
        measured(model, (X, y))
