import pytest
import torch

from quanttaas_jupyter.bundle import metric as metrics
from quanttaas_jupyter.bundle.data import open_source
from quanttaas_jupyter.core.errors import MetricError

INTEGERS = open_source((torch.zeros(4, 2), torch.tensor([0, 1, 0, 1])), "--data", 10, 0).first()
FLOATS = open_source((torch.zeros(4, 2), torch.rand(4)), "--data", 10, 0).first()
NOTHING = open_source((torch.zeros(4, 2),), "--data", 10, 0).first()


def test_the_default_follows_the_targets() -> None:
    assert metrics.reference(None, INTEGERS)[0]["name"] == "accuracy"
    assert metrics.reference(None, FLOATS)[0]["name"] == "r2"


def test_no_labels_and_no_metric_is_refused_with_the_way_out() -> None:
    with pytest.raises(MetricError, match="agreement"):
        metrics.reference(None, NOTHING)
    with pytest.raises(MetricError, match="needs labels"):
        metrics.reference("accuracy", NOTHING)
    assert metrics.reference("agreement", NOTHING)[0]["name"] == "agreement"


@pytest.mark.parametrize(
    ("name", "cls", "higher"),
    [
        ("F1Score", "F1Score", True),
        ("f1_score", "F1Score", True),
        ("mse", "MeanSquaredError", False),
        ("mean-absolute-error", "MeanAbsoluteError", False),
    ],
)
def test_names_of_torchmetrics_resolve_in_any_spelling(name: str, cls: str, higher: bool) -> None:
    found, pickled = metrics.reference(name, INTEGERS)
    assert (found["name"], found["higher_is_better"], pickled) == (cls, higher, None)


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(MetricError, match="did you mean 'accuracy'"):
        metrics.reference("acuracy", INTEGERS)


def test_a_callable_with_a_direction() -> None:
    found, pickled = metrics.reference((lambda outputs, targets: 0.0, "min"), INTEGERS)
    assert not found["higher_is_better"]
    assert pickled
    with pytest.raises(MetricError, match=r"\(callable, 'max'\) or"):
        metrics.reference((max, "up"), INTEGERS)


def test_the_same_callable_has_the_same_digest() -> None:
    def build() -> object:
        return lambda outputs, targets: (outputs - targets).abs()

    assert metrics.reference(build(), FLOATS)[0]["digest"] == metrics.reference(build(), FLOATS)[0]["digest"]
