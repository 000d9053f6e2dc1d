"""What a model's outputs mean, from their values and those of the targets; every right number is computed by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from quanttaas_jupyter.core.errors import DataError
from tests.situations.trying import CLOSE, cut, fitted, looked, mean, refused, tried


def points(count: int = 240, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Points in four dimensions, and which of three classes each is of."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 4, generator=generator)
    scores = x @ torch.randn(4, 3, generator=torch.Generator().manual_seed(9))
    return x, (scores + 0.7 * torch.randn(count, 3, generator=generator)).argmax(1)


def classifier(outputs: int = 3) -> nn.Module:
    torch.manual_seed(1)
    x, y = points(seed=5)
    net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, outputs))
    return fitted(net, lambda batch: nn.functional.cross_entropy(net(batch[0]), batch[1]), cut(x, y))


def logits(x: torch.Tensor, y: torch.Tensor) -> nn.Module:
    """A model with one logit a sample (n, 1), fitted to zeros and ones."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))
    loss = nn.functional.binary_cross_entropy_with_logits
    return fitted(net, lambda batch: loss(net(batch[0]), batch[1].float().reshape(-1, 1)), cut(x, y))


class Says(nn.Module):
    """A classifier that returns class numbers."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x).argmax(1)


def test_class_numbers_from_inside_the_model_are_compared_with_labels(tmp_path: Path) -> None:
    x, y = points()
    model = Says(classifier())
    found = tried(tmp_path, model, (x, y))
    right = mean(model(part) == label for part, label in cut(x, y))
    assert 0.5 < right < 1
    assert found.metric == pytest.approx(right, **CLOSE)
    assert mean([found.file()(x)[0] == y]) == pytest.approx(right, **CLOSE)
    assert found.understanding.judging.scores == "classes"
    assert found.understanding.metric == "accuracy"


def test_whole_numbers_that_are_predicted_by_one_float_are_regression(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(200, 3, generator=generator)
    y = (20 + 40 * x.sum(1) + torch.randn(200, generator=generator)).round().long()
    torch.manual_seed(0)
    layer = nn.Linear(3, 1)
    net = nn.Sequential(layer)
    with torch.no_grad():
        layer.weight.fill_(40.0)
        layer.bias.fill_(21.0)
    found = tried(tmp_path, net, (x, y))
    output, target = net(x).detach().double().flatten(), y.double()
    right = float(1 - ((output - target) ** 2).sum() / ((target - target.mean()) ** 2).sum())
    assert right > 0.9
    assert found.metric == pytest.approx(right, **CLOSE)
    assert (found.understanding.judging.task, found.understanding.metric) == ("regression", "r2")


@pytest.mark.parametrize("values", [(3, 4, 5), (0, 1, 2)])
def test_several_whole_numbers_a_sample_are_regression(tmp_path: Path, values: tuple[int, ...]) -> None:
    x = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    net = nn.Linear(4, 2)
    y = torch.tensor(values)[torch.randint(0, 3, (100, 2), generator=torch.Generator().manual_seed(1))]
    found = tried(tmp_path, net, (x, y))
    output, target = net(x).detach().double(), y.double()
    explained = 1 - ((output - target) ** 2).sum(0) / ((target - target.mean(0)) ** 2).sum(0)
    assert found.metric == pytest.approx(float(explained.mean()), **CLOSE)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.uint8, torch.bool])
def test_one_hot_labels_are_classes(tmp_path: Path, dtype: torch.dtype) -> None:
    x, y = points()
    model = classifier()
    found = tried(tmp_path, model, (x, nn.functional.one_hot(y, 3).to(dtype)))
    right = mean(model(part).argmax(1) == label for part, label in cut(x, y))
    assert found.metric == pytest.approx(right, **CLOSE)
    assert mean([found.file()(x)[0].argmax(1) == y]) == pytest.approx(right, **CLOSE)
    assert found.understanding.judging.labels == "one-hot"
    assert any("one-hot" in note for note in found.understanding.notes)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bool, torch.float64])
@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_one_logit_with_labels_zero_and_one_is_a_binary_classifier(
    tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    x, classes = points()
    y = (classes == 0).to(dtype)
    model = logits(x, y)
    found = tried(tmp_path, model, (x, y.reshape(shape)))
    right = mean((model(part).flatten() > 0) == label.bool() for part, label in cut(x, y))
    assert 0.6 < right < 1
    assert found.metric == pytest.approx(right, **CLOSE)
    assert mean([(found.file()(x)[0].flatten() > 0) == y.bool()]) == pytest.approx(right, **CLOSE)
    assert found.understanding.judging.task == "binary"


def test_one_probability_is_compared_with_one_half(tmp_path: Path) -> None:
    x, classes = points()
    y = (classes == 0).float().reshape(-1, 1)
    model = nn.Sequential(logits(x, y), nn.Sigmoid())
    found = tried(tmp_path, model, (x, y))
    assert found.metric == pytest.approx(mean([(model(x) > 0.5) == y.bool()]), **CLOSE)
    assert found.understanding.judging.scores == "probabilities"


def test_logits_that_happen_to_lie_between_zero_and_one_are_logits(tmp_path: Path) -> None:
    x = torch.linspace(0.05, 0.95, 100).reshape(-1, 1)
    model = nn.Linear(1, 1)
    with torch.no_grad():
        model.weight.fill_(1.0)
        model.bias.fill_(0.0)
    found = tried(tmp_path, model, (x, (x > 0.3).float()))
    assert found.metric == pytest.approx(mean([x > 0.3]), **CLOSE)
    assert any("outputs are logits" in note for note in found.understanding.notes)


@pytest.mark.parametrize("ahead", [True, False])
def test_labels_equal_to_the_inputs_are_copied_or_foretold(tmp_path: Path, ahead: bool) -> None:
    words = (torch.arange(6)[None] + torch.randint(0, 9, (80, 1), generator=torch.Generator().manual_seed(0))) % 9
    words[::5] = words[::5].flip(1)
    table = torch.eye(9).roll(1, 1) if ahead else torch.eye(9)
    net = nn.Embedding.from_pretrained(table + 0.1 * torch.rand(9, 9, generator=torch.Generator().manual_seed(1)))
    found = tried(tmp_path, net, (words, words))
    if ahead:
        losses = nn.functional.cross_entropy(net(words)[:, :-1].double().transpose(1, 2), words[:, 1:])
        assert found.metric == pytest.approx(float(losses.exp()), **CLOSE)
        assert found.understanding.judging.task == "language-model"
    else:
        assert found.metric == pytest.approx(1.0, **CLOSE)
        assert found.understanding.judging.task == "token-classification"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int32, torch.uint8, torch.int16])
@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_class_numbers_of_any_type_and_of_a_column_are_classes(
    tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    x, y = points()
    model = classifier()
    found = tried(tmp_path, model, (x, y.to(dtype).reshape(shape)))
    right = mean([model(x).argmax(1) == y])
    assert found.metric == pytest.approx(right, **CLOSE)
    assert mean([found.file()(x)[0].argmax(1) == y]) == pytest.approx(right, **CLOSE)


def test_soft_labels_are_asked_back_and_both_answers_are_right(tmp_path: Path) -> None:
    x, y = points()
    model = classifier()
    soft = 0.8 * nn.functional.one_hot(y, 3).float() + 0.2 / 3
    said = refused(model, (x, soft))
    assert "--task regression or --task classification" in said
    as_classes = tried(tmp_path / "classes", model, (x, soft), task="classification")
    assert as_classes.metric == pytest.approx(mean([model(x).argmax(1) == y]), **CLOSE)
    as_values = tried(tmp_path / "values", model, (x, soft), task="regression")
    output, target = model(x).detach().double(), soft.double()
    explained = 1 - ((output - target) ** 2).sum(0) / ((target - target.mean(0)) ** 2).sum(0)
    assert as_values.metric == pytest.approx(float(explained.mean()), **CLOSE)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_several_ones_a_row_are_labels_of_their_own(tmp_path: Path, dtype: torch.dtype) -> None:
    x, _ = points()
    torch.manual_seed(0)
    model = nn.Linear(4, 5)
    y = (model(x) + torch.randn(240, 5) > 0).detach().to(dtype)
    found = tried(tmp_path, model, (x, y))
    assert found.metric == pytest.approx(mean([(model(x) > 0) == y.bool()]), **CLOSE)
    assert mean([(found.file()(x)[0] > 0) == y.bool()]) == pytest.approx(found.metric, **CLOSE)
    assert found.understanding.judging.task == "multilabel"


def test_labels_that_first_look_one_hot_and_are_not_are_refused_or_right(tmp_path: Path) -> None:
    """The first samples have a single label each, later ones have several."""
    x, _ = points()
    torch.manual_seed(0)
    model = nn.Linear(4, 5)
    y = nn.functional.one_hot(torch.arange(240) % 5, 5).float()
    y[150:, :2] = 1.0
    with pytest.raises(DataError, match="--task multilabel"):
        tried(tmp_path, model, (x, y))
    found = tried(tmp_path, model, (x, y), task="multilabel")
    assert found.metric == pytest.approx(mean([(model(x) > 0) == y.bool()]), **CLOSE)


def test_values_of_zero_and_one_may_be_said_to_be_regression(tmp_path: Path) -> None:
    x, classes = points()
    y = (classes == 0).float().reshape(-1, 1)
    model = logits(x, y)
    found = tried(tmp_path, model, (x, y), task="regression")
    output = model(x).detach()
    right = float(1 - ((output - y) ** 2).sum() / ((y - y.mean()) ** 2).sum())
    assert found.metric == pytest.approx(right, rel=1e-5)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_labels_of_nan_are_refused(kind: torch.dtype) -> None:
    x, _ = points()
    y = torch.randn(240, 1, dtype=kind)
    y[3] = torch.nan
    assert "NaN" in refused(nn.Linear(4, 1), (x, y))


def test_labels_of_nan_in_a_later_batch_are_refused_before_the_study(tmp_path: Path) -> None:
    x, _ = points()
    y = torch.randn(240, 1)
    y[200] = torch.nan
    with pytest.raises(DataError, match="NaN"):
        tried(tmp_path, nn.Linear(4, 1), (x, y))


@pytest.mark.parametrize(
    ("strange", "said"),
    [(7, r"--ignore-label 7"), (-1, r"--ignore-label -1"), (255, r"--ignore-label 255")],
)
def test_labels_that_become_strange_in_a_later_batch_are_refused_before_the_study(
    tmp_path: Path, strange: int, said: str
) -> None:
    x, y = points()
    y[200] = strange
    model = classifier()
    with pytest.raises(DataError, match=said):
        tried(tmp_path / "first", model, (x, y))
    found = tried(tmp_path / "second", model, (x, y), ignore_label=strange)
    counted = y != strange
    assert found.metric == pytest.approx(mean([model(x).argmax(1)[counted] == y[counted]]), **CLOSE)


def test_binary_labels_that_become_classes_in_a_later_batch_are_refused(tmp_path: Path) -> None:
    x, classes = points()
    y = (classes == 0).float().reshape(-1, 1)
    y[200] = 2.0
    with pytest.raises(DataError, match="--task regression"):
        tried(tmp_path, logits(x, classes == 0), (x, y))


def test_ids_as_floats_that_become_values_later_are_refused(tmp_path: Path) -> None:
    x, y = points()
    floats = y.float()
    floats[200] = 1.5
    with pytest.raises(DataError, match=r"1\.5"):
        tried(tmp_path, classifier(), (x, floats))


def test_classes_beyond_the_output_are_refused_at_submission() -> None:
    x, y = points()
    assert "classes 0 to 2" in refused(classifier(), (x, y + 1))


@pytest.mark.parametrize("strange", [-100, -1])
def test_ignored_labels_do_not_count(tmp_path: Path, strange: int) -> None:
    x, y = points()
    y[::3] = strange
    model = classifier()
    asked: dict[str, Any] = {} if strange == -100 else {"ignore_label": strange}
    found = tried(tmp_path, model, (x, y), **asked)
    counted = y != strange
    assert found.metric == pytest.approx(mean([model(x).argmax(1)[counted] == y[counted]]), **CLOSE)


class Segmenter(nn.Module):
    """A little U-Net: down, up, and a way around."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.down = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU())
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.last = nn.Conv2d(16, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = self.first(x)
        return self.last(torch.cat([wide, self.up(self.down(wide))], 1))


def test_a_unet_with_void_labels_counts_no_void(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(48, 3, 16, 16, generator=generator)
    y = x.argmax(1)
    y[torch.rand(48, 16, 16, generator=generator) < 0.2] = 255
    torch.manual_seed(0)
    net = Segmenter(3)
    loss = nn.functional.cross_entropy
    fitted(net, lambda batch: loss(net(batch[0]), batch[1], ignore_index=255), cut(x, y), 4)
    found = tried(tmp_path, net, (x, y), {"quantize": ["none", "int8"]}, metric="accuracy,miou")
    guess, counted = net(x).argmax(1), y != 255
    right = mean([guess[counted] == y[counted]])
    assert 0.4 < right < 1
    assert found.metric == pytest.approx(right, **CLOSE)
    guess = found.file()(x)[0].argmax(1)
    assert mean([guess[counted] == y[counted]]) == pytest.approx(right, **CLOSE)
    shared = [
        float(((guess == c) & (y == c) & counted).sum() / (((guess == c) | (y == c)) & counted).sum()) for c in range(3)
    ]
    assert found.numbers["mIoU"] == pytest.approx(np.mean(shared), **CLOSE)
    assert any("255" in note for note in found.understanding.notes)
    assert found.of("int8")["metric"] > 0.3


@pytest.mark.parametrize("channel", [True, False])
def test_a_mask_of_zeros_and_ones_is_judged_pixel_by_pixel(tmp_path: Path, channel: bool) -> None:
    x = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    net = nn.Conv2d(3, 1, 3, padding=1)
    y = (net(x) + 0.1 * torch.randn(40, 1, 8, 8) > 0).detach().long()
    given = y if channel else y[:, 0]
    found = tried(tmp_path, net, (x, given))
    assert found.metric == pytest.approx(mean([(net(x) > 0) == y.bool()]), **CLOSE)


def test_a_mask_with_a_channel_of_one_is_read_as_classes(tmp_path: Path) -> None:
    x = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    y = x.argmax(1, keepdim=True)
    torch.manual_seed(0)
    net = nn.Conv2d(3, 3, 3, padding=1)
    found = tried(tmp_path, net, (x, y))
    assert found.metric == pytest.approx(mean([net(x).argmax(1, keepdim=True) == y]), **CLOSE)


def test_sequences_with_classes_last_are_read_so(tmp_path: Path) -> None:
    words = torch.randint(0, 7, (60, 5), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(7, 8), nn.Linear(8, 4))
    y = net(words).argmax(-1)
    y[::4] = (y[::4] + 1) % 4
    found = tried(tmp_path, net, (words, y))
    assert found.metric == pytest.approx(mean([net(words).argmax(-1) == y]), **CLOSE)
    assert found.understanding.judging.class_dim == 2


def test_unfitting_shapes_are_refused_with_the_options_that_help() -> None:
    x, _ = points()
    said = refused(classifier(), (x, torch.randint(0, 3, (240, 7))))
    assert "--output" in said
    assert "--labels" in said


def test_an_unknown_task_is_refused() -> None:
    x, y = points()
    assert "classification" in refused(classifier(), (x, y), task="classify")


def test_a_task_that_does_not_fit_is_refused_with_a_sentence() -> None:
    x, y = points()
    assert "--" in refused(classifier(), (x, y), task="regression")


def test_the_judged_output_may_be_named(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = classifier(), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.b(x), self.a(x)

    x, y = points()
    model = Two()
    assert "--output 0 or --output 1" in refused(model, (x, y))
    first = tried(tmp_path / "first", model, (x, y), output="0")
    assert first.metric == pytest.approx(mean([model(x)[0].argmax(1) == y]), **CLOSE)
    second = tried(tmp_path / "second", model, (x, y), output="1")
    assert second.metric == pytest.approx(mean([model(x)[1].argmax(1) == y]), **CLOSE)
    assert "no such output" in refused(model, (x, y), output="5")


def test_all_classes_of_a_small_first_look_may_be_zero_and_one(tmp_path: Path) -> None:
    """A count whose first values are 0 and 1 is not silently a yes or no."""
    x = torch.rand(200, 1)
    y = torch.cat([torch.arange(100) % 2, torch.arange(100) % 9]).reshape(-1, 1)
    with pytest.raises(DataError, match="--task regression"):
        tried(tmp_path, nn.Linear(1, 1), (x, y))
    assert looked(nn.Linear(1, 1), (x, y), task="regression").inspection.understanding.metric == "r2"
