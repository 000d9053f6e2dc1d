"""Functions of a person's own whose number would depend on more than the samples: refused before the study."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchmetrics
from torch import nn

from tests.situations.trying import CLOSE, Through, cut, measured, refused


def classes(samples: int = 100, count: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    x = 2 * torch.randn(samples, count)
    return x, (x + torch.randn(samples, count)).argmax(1)


def accuracy(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    return float((outputs.argmax(1) == targets).double().mean())


def of_each_class(outputs: torch.Tensor, targets: torch.Tensor) -> list[float]:
    right = outputs.argmax(1) == targets
    return [float(right[targets == label].double().mean().nan_to_num(0)) for label in range(10)]


class Running:
    """Accuracy of all samples since it was made."""

    def __init__(self) -> None:
        self.right = self.seen = 0

    def __call__(self, outputs: torch.Tensor, targets: torch.Tensor) -> float:
        self.right += int((outputs.argmax(1) == targets).sum())
        self.seen += len(targets)
        return self.right / self.seen


def noisy(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    return accuracy(outputs, targets) + float(torch.rand(()))


def right_answers(outputs: torch.Tensor, targets: torch.Tensor) -> int:
    return int((outputs.argmax(1) == targets).sum())


def in_place(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    return float((outputs.neg_().argmin(1) == targets).double().mean())


@pytest.mark.parametrize(
    ("metric", "sentence"),
    [
        (of_each_class, "gives 10 values for 10 samples and as many for 5: return one number"),
        (Running(), "gives another number when it is called again with the same samples"),
        (noisy, "gives another number when it is called again with the same samples"),
        (right_answers, "grows with the number of samples"),
        (in_place, "changes its arguments in place: let it work on copies"),
    ],
)
def test_a_function_that_looks_at_more_than_its_samples_is_refused(metric: Callable[..., Any], sentence: str) -> None:
    # As many samples a batch as there are classes: one value a class looks like one a sample.
    assert sentence in refused(Through(), cut(*classes(), size=10), metric=(metric, "max"))


def squared(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    return float(((outputs - targets) ** 2).mean())


@pytest.mark.parametrize(
    ("metric", "sentence"),
    [
        (squared, "which broadcast, and 1"),
        (lambda outputs, targets: ((outputs - targets) ** 2).mean(1), "where fewer samples are beside it"),
    ],
)
def test_a_function_that_compares_every_output_with_every_target_is_refused(metric: Any, sentence: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(96, 1)
    y = x[:, 0] + torch.randn(96).sign()
    assert sentence in refused(Through(), cut(x, y), metric=(metric, "min"))
    for fitting in (squared, lambda outputs, targets: (outputs - targets).square().mean(1)):
        assert measured(Through(), cut(x, y[:, None]), metric=(fitting, "min"))[0] == pytest.approx(1, **CLOSE)
    by_column = (lambda outputs, targets: float(((outputs[:, 0] - targets) ** 2).mean()), "min")
    assert measured(Through(), cut(x, y), metric=by_column)[0] == pytest.approx(1, **CLOSE)


def test_a_function_of_one_value_a_sample_or_one_number_is_called() -> None:
    x, y = classes()
    for metric in (accuracy, lambda o, t: o.argmax(1) == t):
        assert measured(Through(), cut(x, y, size=10), metric=(metric, "max"))[0] == pytest.approx(
            accuracy(x, y), **CLOSE
        )


class MeanOfMeans(torchmetrics.Metric):
    """Accuracy as many write it: the mean over the batches."""

    higher_is_better = True

    def __init__(self) -> None:
        super().__init__()
        self.values: list[torch.Tensor]
        self.add_state("values", [], dist_reduce_fx="cat")

    def update(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        self.values.append((outputs.argmax(1) == targets).double().mean())

    def compute(self) -> torch.Tensor:
        return torch.stack(self.values).mean()


class Shares(torchmetrics.Metric):
    """Accuracy that adds up."""

    higher_is_better = True

    def __init__(self) -> None:
        super().__init__()
        self.right: torch.Tensor
        self.seen: torch.Tensor
        self.add_state("right", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("seen", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        self.right += (outputs.argmax(1) == targets).sum()
        self.seen += len(targets)

    def compute(self) -> torch.Tensor:
        return self.right / self.seen


class Counting(torchmetrics.Metric):
    """Accuracy in plain attributes, which nothing resets."""

    higher_is_better = True

    def __init__(self) -> None:
        super().__init__()
        self.right = self.seen = 0

    def update(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        self.right += int((outputs.argmax(1) == targets).sum())
        self.seen += len(targets)

    def compute(self) -> torch.Tensor:
        return torch.tensor(self.right / self.seen)


@pytest.mark.parametrize("metric", [Counting(), 1 - Counting()])
def test_a_metric_without_states_is_refused(metric: Any) -> None:
    assert "keep them with add_state()" in refused(Through(), cut(*classes()), metric=(metric, "max"))


def test_a_metric_of_ones_own_does_not_depend_on_where_batches_end() -> None:
    x, y = classes()
    assert "as a mean of the means of batches is" in refused(Through(), cut(x, y), metric=MeanOfMeans())
    assert measured(Through(), cut(x, y), metric=Shares())[0] == pytest.approx(accuracy(x, y), **CLOSE)


class Focal(nn.CrossEntropyLoss):
    """A loss with a mean of its own, whatever its reduction says."""

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        entropy = nn.functional.cross_entropy(outputs, targets, reduction="none")
        return ((1 - (-entropy).exp()) ** 2 * entropy).mean()


def test_a_loss_that_was_derived_from_one_of_torch_is_called_as_it_is() -> None:
    x, y = classes()
    value, prepared = measured(Through(), cut(x, y), metric=Focal())
    assert value == pytest.approx(float(Focal()(x, y)), **CLOSE)
    assert not prepared.inspection.understanding.higher_is_better


def test_a_loss_of_nan_is_refused_with_what_the_targets_hold() -> None:
    x = torch.randn(64, 1)
    y = x.clone()
    y[3] = torch.nan
    assert refused(Through(), cut(x, y), metric=nn.L1Loss()).startswith("the targets of --data hold NaN")
