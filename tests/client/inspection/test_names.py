"""Every name of TorchMetrics works on the tasks it is for, or says in one sentence what to give instead."""

import pytest
import torch

from quanttaas_jupyter.bundle.batches import Batch, Batches
from quanttaas_jupyter.client.inspection import metric_catalogue as catalogue
from quanttaas_jupyter.client.inspection import metric_names as names_of
from quanttaas_jupyter.client.inspection.metric_check import tried
from quanttaas_jupyter.core.errors import QuantTaaSError
from quanttaas_jupyter.core.understanding import Judging
from quanttaas_jupyter.techniques.evaluate.judge import Measure

SAMPLES = 64
GENERATOR = torch.Generator().manual_seed(0)
NO_NUMBER = {"ConfusionMatrix", "PrecisionRecallCurve", "ROC", "StatScores"}
"""Their results are tables or curves."""


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(SAMPLES, *shape, generator=GENERATOR)


def classes(count: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, count, (SAMPLES, *shape), generator=GENERATOR)


LABELS, PIXELS, YES, TAGS, TOKENS = classes(3), classes(3, 4, 4), classes(2), classes(2, 3), classes(8, 6)
VOID = classes(3, 4, 4)
VOID[:, :1] = 255
COLUMNS = draw(3).abs() + 0.1
NUMBERS, PICTURES, SOUNDS = (
    draw().abs(),
    torch.rand(SAMPLES, 3, 48, 48, generator=GENERATOR),
    draw(800),
)
SCORES = {"class_dim": 1, "classes": 3, "scores": "logits", "labels": "ids"}
TASKS = {
    "classification": (draw(3), LABELS, Judging("classification", **SCORES)),  # type: ignore[arg-type]
    "segmentation": (draw(3, 4, 4), PIXELS, Judging("segmentation", **SCORES)),  # type: ignore[arg-type]
    "void": (draw(3, 4, 4), VOID, Judging("segmentation", ignore_label=255, **SCORES)),  # type: ignore[arg-type]
    "two scores": (draw(2), YES, Judging("classification", **{**SCORES, "classes": 2})),  # type: ignore[arg-type]
    "columns": (COLUMNS + 0.1 * draw(3).abs(), COLUMNS, Judging("regression")),
    "binary": (draw() + YES, YES, Judging("binary", classes=2, scores="logits", labels="ids")),
    "multilabel": (draw(3) + TAGS, TAGS, Judging("multilabel", classes=3, scores="logits", labels="ids")),
    "numbers": (NUMBERS + 0.1, NUMBERS, Judging("regression")),
    "pictures": ((PICTURES + 0.05 * draw(3, 48, 48)).clamp(0, 1), PICTURES, Judging("regression")),
    "sounds": (SOUNDS + 0.1 * draw(800), SOUNDS, Judging("regression")),
    "words": (
        draw(6, 8),
        TOKENS,
        Judging("language-model", class_dim=2, classes=8, scores="logits", labels="ids", is_shifted=True),
    ),
}


def works(name: str, task: str) -> bool:
    """Whether a metric is described and computed; a refusal is one of our errors."""
    outputs, targets, judging = TASKS[task]
    batches = Batches((Batch([torch.zeros(SAMPLES, 1)], [targets]),), ("x",), "tensor", "tensor")
    try:
        found = names_of.named(name, judging, targets, outputs)
        return bool(tried(Measure(found, None, judging), outputs, batches))
    except QuantTaaSError:
        return False


@pytest.mark.slow
def test_names_of_torchmetrics_work_or_are_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    names = sorted({catalogue.torchmetrics_name(name) for name in catalogue.known_classes()})
    found = {name: [task for task in TASKS if works(name, task)] for name in names}
    assert sum(bool(tasks) for tasks in found.values()) >= 100
    assert not [name for name in NO_NUMBER if found[name]]
    for name in ("Accuracy", "F1Score", "AUROC", "JaccardIndex"):
        assert {"classification", "binary", "multilabel", "segmentation"} <= set(found[name])
        assert not {"numbers", "pictures", "sounds"} & set(found[name])
    assert "numbers" in found["PearsonCorrCoef"]
    assert "pictures" in found["PeakSignalNoiseRatio"]
    assert "sounds" in found["ScaleInvariantSignalNoiseRatio"]
    assert found["Perplexity"]
    assert not found["WordErrorRate"]
    assert not found["MeanMetric"]
    of_samples = ("classification", "binary", "two scores")
    assert all(task in of_samples for name in ("RandScore", "CramersV", "TheilsU") for task in found[name])
    for name in ("DiceScore", "MeanIoU", "GeneralizedDiceScore", "EER", "LogAUC"):
        assert {"segmentation", "void"} <= set(found[name])
    for name in ("MeanSquaredError", "PearsonCorrCoef", "LogCoshError", "NormalizedRootMeanSquaredError"):
        assert {"numbers", "columns"} <= set(found[name])


def test_less_distortion_of_spectra_is_better_whatever_torchmetrics_says() -> None:
    outputs, targets, judging = TASKS["pictures"]
    assert not names_of.named("SpectralDistortionIndex", judging, targets, outputs)["higher_is_better"]


@pytest.mark.parametrize(
    ("name", "task", "sentence"),
    [
        ("accuracy", "numbers", "compares classes, but the task is regression"),
        ("f1", "numbers", "compares classes, but the task is regression"),
        ("r2", "binary", "compares values, but the task is binary"),
        ("BinaryF1Score", "classification", "is one of another task"),
        ("CharErrorRate", "sounds", "compares strings: give --postprocess"),
        ("MeanMetric", "numbers", "takes value instead of predictions and targets"),
        ("RetrievalMAP", "binary", "takes preds, target, indexes"),
        ("BERTScore", "words", "compares strings"),
        ("ConfusionMatrix", "classification", "gives a table or a curve, not one number"),
        ("BootStrapper", "numbers", "wraps other metrics; give the metric itself"),
        ("QualityWithNoReference", "pictures", "takes preds, dicts of pictures instead of"),
        ("CRPS", "numbers", "unknown metric 'CRPS'"),
        ("ContinuousRankedProbabilityScore", "numbers", "takes several predictions a target instead"),
        ("CohenKappa", "multilabel", "CohenKappa has no form for the task multilabel"),
        ("MeanIoU", "multilabel", "compares one class a place, but the task is multilabel"),
        ("SignalNoiseRatio", "numbers", r"compares sounds \(samples, time\), but targets have shape \(64,\)"),
        ("ssim", "columns", r"compares pictures .* but targets have shape \(64, 3\)"),
        ("RandScore", "numbers", "compares classes, but the task is regression"),
        ("perplexity", "numbers", "compares classes, but the task is regression"),
        ("perplexity", "binary", "compares classes, but the task is binary"),
        ("psnr", "sounds", r"needs the range of the pictures.*PeakSignalNoiseRatio\(data_range=\.\.\.\)"),
    ],
)
def test_a_name_of_another_task_says_so(name: str, task: str, sentence: str) -> None:
    outputs, targets, judging = TASKS[task]
    with pytest.raises(QuantTaaSError, match=sentence):
        names_of.named(name, judging, targets, outputs)
