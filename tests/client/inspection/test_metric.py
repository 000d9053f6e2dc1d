import pytest
import torch
import torchmetrics
from torchmetrics import MetricCollection

from quanttaas_jupyter.client.inspection import metric as metrics
from quanttaas_jupyter.core.errors import MetricError
from quanttaas_jupyter.core.understanding import Judging

CLASSES = Judging("classification", class_dim=1, classes=3, scores="logits", labels="ids", ignore_label=-100)
VALUES = Judging("regression")
LABELS = torch.tensor([0, 1, 2, 1])
SCORES = torch.rand(4, 3)


def describe(metric: object, judging: Judging = CLASSES, targets: object = LABELS) -> dict[str, object]:
    return metrics.described(metric, judging, targets, SCORES)[0]


@pytest.mark.parametrize(
    ("task", "name"),
    [("classification", "accuracy"), ("regression", "r2"), ("segmentation", "accuracy"), ("multilabel", "accuracy")],
)
def test_the_default_follows_the_task(task: str, name: str) -> None:
    labels = "values" if task == "regression" else "ids"
    assert describe(None, Judging(task, class_dim=1, labels=labels))["name"] == name  # type: ignore[arg-type]


def test_the_default_of_a_language_model_is_perplexity_where_less_is_better() -> None:
    found = describe(None, Judging("language-model", class_dim=2))
    assert (found["name"], found["higher_is_better"]) == ("perplexity", False)


def test_no_labels_and_no_metric_is_refused_with_the_way_out() -> None:
    with pytest.raises(MetricError, match="agreement"):
        describe(None, CLASSES, None)
    with pytest.raises(MetricError, match="needs labels"):
        describe("accuracy", CLASSES, None)
    assert describe("agreement", CLASSES, None)["name"] == "agreement"


@pytest.mark.parametrize(
    ("name", "judging", "shown", "higher"),
    [
        ("F1Score", CLASSES, "F1Score", True),
        ("f1_score", CLASSES, "F1Score", True),
        ("miou", CLASSES, "mIoU", True),
        ("auroc", CLASSES, "AUROC", True),
        ("mse", VALUES, "MeanSquaredError", False),
        ("mean-absolute-error", VALUES, "MeanAbsoluteError", False),
    ],
)
def test_names_of_torchmetrics_resolve_in_any_spelling(name: str, judging: Judging, shown: str, higher: bool) -> None:
    found, travels = metrics.described(name, judging, LABELS, SCORES)
    assert (found["name"], found["higher_is_better"], travels) == (shown, higher, None)


def test_classes_and_ignored_labels_follow_from_the_task() -> None:
    found = describe("f1")
    assert found["class"] == "torchmetrics.classification.MulticlassF1Score"
    assert found["options"] == {"num_classes": 3, "ignore_index": -100, "average": "micro"}


def test_a_metric_that_needs_more_is_asked_for_as_an_instance() -> None:
    with pytest.raises(MetricError, match=r"needs beta.*metric=torchmetrics\S*FBetaScore\(beta=\.\.\.\)"):
        describe("FBetaScore")


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(MetricError, match="did you mean 'accuracy'"):
        describe("acuracy")


def test_an_instance_keeps_its_own_direction() -> None:
    found, travels = metrics.described(torchmetrics.MeanSquaredError(), VALUES, torch.rand(4), torch.rand(4))
    assert (found["kind"], found["higher_is_better"]) == ("instance", False)
    assert list(travels) == [found["name"]]


def test_of_a_collection_the_first_leads_and_the_others_are_reported() -> None:
    found = describe(
        MetricCollection([
            torchmetrics.Accuracy(task="multiclass", num_classes=3),
            torchmetrics.F1Score(task="multiclass", num_classes=3),
        ])
    )  # fmt: skip
    assert found["name"] == "MulticlassAccuracy"
    assert [other["name"] for other in found["others"]] == ["MulticlassF1Score"]  # type: ignore[attr-defined]


def test_several_names_are_several_metrics() -> None:
    found = describe("f1, accuracy")
    assert [found["name"], found["others"][0]["name"]] == ["F1Score", "accuracy"]  # type: ignore[index]


def test_less_of_a_loss_is_better() -> None:
    found = describe(torch.nn.CrossEntropyLoss())
    assert (found["kind"], found["name"], found["higher_is_better"]) == ("loss", "CrossEntropyLoss", False)
    with pytest.raises(MetricError, match="reduction='mean'"):
        describe(torch.nn.CrossEntropyLoss(reduction="sum"))


def test_functions_and_scorers_of_scikit_learn_have_the_direction_of_their_names() -> None:
    from sklearn import metrics as sklearn_metrics

    assert describe(sklearn_metrics.balanced_accuracy_score)["higher_is_better"]
    assert not describe(sklearn_metrics.mean_absolute_error, VALUES, torch.rand(4))["higher_is_better"]
    loss = describe(sklearn_metrics.get_scorer("neg_log_loss"))
    assert (loss["name"], loss["higher_is_better"], loss["takes"]) == ("log_loss", False, "scores")
    with pytest.raises(MetricError, match="whether more is better"):
        describe(sklearn_metrics.confusion_matrix)


def test_a_callable_with_a_direction() -> None:
    found, travels = metrics.described((lambda outputs, targets: 0.0, "min"), CLASSES, LABELS, SCORES)
    assert not found["higher_is_better"]
    assert travels is not None
    with pytest.raises(MetricError, match=r"\(metric, 'max'\) or"):
        describe((max, "up"))


def test_the_same_callable_has_the_same_digest() -> None:
    def build() -> object:
        return lambda outputs, targets: (outputs - targets).abs()

    assert describe(build(), VALUES)["digest"] == describe(build(), VALUES)["digest"]
