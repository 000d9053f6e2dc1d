import numpy as np
import pytest
import torch

from quanttaas_jupyter.core.failures import StageError
from quanttaas_jupyter.techniques.evaluate import intervals, latency, metrics, predictions, sqnr
from quanttaas_jupyter.techniques.evaluate.predictions import Predictions

ACCURACY = {"kind": "built-in", "name": "accuracy", "higher_is_better": True}
R2 = {"kind": "built-in", "name": "r2", "higher_is_better": True}


def one_hot(classes: list[int], count: int = 3) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(classes), count).float()


def test_accuracy_counts_right_classes_and_wilson_bounds_it() -> None:
    answers = Predictions(one_hot([0, 1, 2, 0]), torch.tensor([0, 1, 2, 2]))
    whole = metrics.score(ACCURACY, None, answers)
    found = intervals.interval_of(ACCURACY, None, answers, whole, seed=0)
    assert whole.value == 0.75
    # Wilson's interval for 3 of 4, from the formula in Wilson (1927).
    assert (found.low, found.high) == pytest.approx((0.3006, 0.9544), abs=1e-4)


def test_all_right_has_an_interval_below_one() -> None:
    answers = Predictions(one_hot([0] * 100), torch.zeros(100, dtype=torch.long))
    found = intervals.interval_of(ACCURACY, None, answers, metrics.score(ACCURACY, None, answers), seed=0)
    assert found.high == 1.0
    assert 0.95 < found.low < 0.97


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [
        (torch.tensor([[2.0], [-1.0]]), torch.tensor([1, 0])),
        (torch.tensor([0.9, 0.2]), torch.tensor([1, 0])),
        (torch.stack([one_hot([0, 1]).T, one_hot([2, 2]).T]), torch.tensor([[0, 1], [2, -100]])),
    ],
)
def test_accuracy_of_binary_and_of_dense_outputs(outputs: torch.Tensor, targets: torch.Tensor) -> None:
    assert metrics.score(ACCURACY, None, Predictions(outputs, targets)).value == 1.0


def test_a_paired_drop_is_narrower_than_two_independent_intervals() -> None:
    targets = torch.arange(3).repeat(200)
    right = targets.tolist()
    wrong = [(c + 1) % 3 if i < 6 else c for i, c in enumerate(right)]
    reference, outputs = one_hot(right), one_hot(wrong)
    mine = Predictions(outputs, targets, reference)
    baseline = metrics.score(ACCURACY, None, Predictions(reference, targets))
    drop = intervals.drop_of(ACCURACY, None, mine, metrics.score(ACCURACY, None, mine), baseline, seed=0)
    assert drop.value == pytest.approx(0.01)
    assert 0 < drop.low < 0.01 < drop.high < 0.025


def test_no_change_has_a_drop_of_zero_with_an_interval_around_it() -> None:
    targets = torch.arange(3).repeat(50)
    same = one_hot(targets.tolist())
    mine = Predictions(same, targets, same)
    whole = metrics.score(ACCURACY, None, mine)
    drop = intervals.drop_of(ACCURACY, None, mine, whole, whole, seed=0)
    assert drop.value == 0
    assert drop.low < 0 < drop.high


def test_a_metric_without_sample_scores_is_bootstrapped_in_pairs() -> None:
    targets = torch.linspace(0, 1, 300)
    generator = torch.Generator().manual_seed(0)
    reference = targets + 0.1 * torch.randn(300, generator=generator)
    mine = Predictions(reference + 0.01, targets, reference)
    whole = metrics.score(R2, None, mine)
    baseline = metrics.score(R2, None, Predictions(reference, targets))
    interval = intervals.interval_of(R2, None, mine, whole, seed=0)
    drop = intervals.drop_of(R2, None, mine, whole, baseline, seed=0)
    assert interval.low < whole.value < interval.high
    assert drop.low <= drop.value <= drop.high
    assert drop.high - drop.low < interval.high - interval.low


def test_a_callable_may_return_one_score_a_sample_or_one_number() -> None:
    metric = {"kind": "callable", "name": "error", "higher_is_better": False}
    answers = Predictions(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0]))
    assert metrics.score(metric, lambda o, t: (o - t).abs(), answers).per_sample is not None
    assert metrics.score(metric, lambda o, t: float((o - t).abs().mean()), answers).value == 0.5
    with pytest.raises(StageError, match="cannot be computed: ZeroDivisionError"):
        metrics.score(metric, lambda o, t: 1 / 0, answers)


def test_a_metric_where_less_is_better_turns_the_drop_around() -> None:
    metric = {"kind": "callable", "name": "error", "higher_is_better": False}
    targets, reference = torch.zeros(50), torch.full((50,), 0.1)
    mine = Predictions(torch.full((50,), 0.3), targets, reference)

    def error(outputs: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return (outputs - wanted).abs()

    drop = intervals.drop_of(
        metric,
        error,
        mine,
        metrics.score(metric, error, mine),
        metrics.score(metric, error, Predictions(reference, targets)),
        seed=0,
    )
    assert drop.value == pytest.approx(0.2)


def test_torchmetrics_are_told_their_task() -> None:
    metric = {"kind": "torchmetrics", "name": "F1Score", "higher_is_better": True}
    assert metrics.score(metric, None, Predictions(one_hot([0, 1, 2]), torch.tensor([0, 1, 2]))).value == 1.0
    binary = Predictions(torch.tensor([0.9, 0.1]), torch.tensor([1, 0]))
    assert metrics.score(metric, None, binary).value == 1.0


def test_outputs_that_are_not_finite_are_refused() -> None:
    broken = one_hot([0, 1])
    broken[0, 0] = float("nan")
    with pytest.raises(StageError, match="NaN or infinite"):
        metrics.score(ACCURACY, None, Predictions(broken, torch.tensor([0, 1])))


def test_outputs_that_do_not_fit_the_targets_are_refused() -> None:
    with pytest.raises(StageError, match="do not fit targets"):
        metrics.score(ACCURACY, None, Predictions(torch.rand(4, 3), torch.zeros(5, dtype=torch.long)))


def test_signal_to_noise_is_in_decibels() -> None:
    reference = torch.ones(100)
    assert sqnr.sqnr_db(reference + 0.1, reference) == pytest.approx(20, abs=0.01)
    assert sqnr.sqnr_db(10 * reference, reference) == pytest.approx(-19.08, abs=0.01)


def test_signal_to_noise_has_bounds_so_that_techniques_can_compare() -> None:
    reference = torch.ones(100)
    assert sqnr.sqnr_db(reference, reference) == sqnr.LOSSLESS_DB
    assert sqnr.sqnr_db(reference.double() + 1e-9, reference) == sqnr.LOSSLESS_DB
    for broken in (float("nan"), float("inf")):
        assert sqnr.sqnr_db(torch.full((100,), broken), reference) == -sqnr.LOSSLESS_DB


def test_latency_takes_turns_after_ten_warm_ups() -> None:
    calls: list[str] = []
    found = latency.interleaved_latency(
        [latency.timed(lambda arrays, name=name: calls.append(name), []) for name in ("a", "b")]
    )
    assert calls[:20] == ["a", "b"] * 10
    assert calls[20:50] == ["a"] * 10 + ["b"] * 10 + ["a"] * 10
    assert len(found[0]) == len(found[1]) >= 100
    assert len(calls) == 20 + 2 * len(found[0])
    assert (np.array(found) >= 0).all()


def tags(right: torch.Tensor, classes: int) -> torch.Tensor:
    """Scores (n x time x classes) that name the right class everywhere."""
    return torch.nn.functional.one_hot(right, classes).float()


def test_classes_of_a_sequence_are_looked_for_where_they_are_although_time_fits_as_well() -> None:
    targets = torch.randint(0, 5, (60, 5), generator=torch.Generator().manual_seed(0))
    last = Predictions(tags(targets, 5), targets, class_dim=2)
    first = Predictions(tags(targets, 5).transpose(1, 2), targets, class_dim=1)
    assert predictions.class_dims(last.outputs, targets) == [1, 2]
    assert metrics.score(ACCURACY, None, last).value == 1.0
    assert metrics.score(ACCURACY, None, first).value == 1.0
    assert predictions.right_share(last.outputs, targets, 2) > predictions.right_share(last.outputs, targets, 1)
    recall = {"kind": "torchmetrics", "name": "Recall", "higher_is_better": True}
    assert metrics.score(recall, None, last).value == 1.0


def test_agreement_of_a_sequence_counts_places_with_the_same_class() -> None:
    said = torch.randint(0, 4, (50, 7), generator=torch.Generator().manual_seed(0))
    other = said.clone()
    other[:, 0] = (other[:, 0] + 1) % 4
    answers = Predictions(tags(other, 4), None, tags(said, 4), class_dim=2)
    assert np.mean(metrics.agreement(answers)) == pytest.approx(6 / 7)


def test_agreement_of_numbers_is_how_much_of_each_outputs_variation_is_left() -> None:
    generator = torch.Generator().manual_seed(0)
    original = torch.stack([torch.randn(200, generator=generator) + 100, torch.randn(200, generator=generator)], 1)
    garbage = torch.stack([original[:, 0], torch.zeros(200)], 1)
    assert metrics.agreement(Predictions(original, None, original)) == 1.0
    assert metrics.agreement(Predictions(garbage, None, original)) == pytest.approx(0.5, abs=0.02)
    assert metrics.agreement(Predictions(original.flip(0), None, original)) == 0.0


def test_numbers_that_never_vary_have_no_agreement() -> None:
    steady = torch.full((50, 2), 1.7)
    assert metrics.agreement(Predictions(steady + 1, None, steady)) is None
    with pytest.raises(StageError, match="do not vary"):
        metrics.score({"kind": "built-in", "name": "agreement"}, None, Predictions(steady, None, steady))


def test_samples_without_a_label_that_counts_are_left_out() -> None:
    targets = torch.tensor([[0, 1], [-100, -100], [2, -100]])
    right = tags(targets.clamp(min=0), 3)
    wrong = right.clone()
    wrong[1] = wrong[1].flip(-1)
    accuracy = metrics.score(ACCURACY, None, Predictions(right, targets, class_dim=2))
    assert accuracy.value == 1.0
    assert accuracy.per_sample is not None
    assert len(accuracy.per_sample) == 2
    assert np.mean(metrics.agreement(Predictions(wrong, targets, right, class_dim=2))) == 1.0
    with pytest.raises(StageError, match="every label is -100"):
        metrics.score(ACCURACY, None, Predictions(right, torch.full_like(targets, -100), class_dim=2))


def test_masked_scores_do_not_drown_the_noise_of_the_others() -> None:
    reference = torch.ones(100, 3)
    masked = torch.cat([reference, torch.full((100, 1), -1e30)], 1)
    noisy = torch.cat([reference + 0.1, torch.full((100, 1), -65504.0)], 1)
    assert sqnr.sqnr_db(noisy, masked) == pytest.approx(20, abs=0.01)
    assert sqnr.sqnr_db(1.1e9 * reference, 1e9 * reference) == pytest.approx(20, abs=0.01)


def test_a_callable_that_returns_as_many_scores_as_classes_is_told_what_is_wanted() -> None:
    metric = {"kind": "callable", "name": "recalls", "higher_is_better": True}
    answers = Predictions(torch.rand(300, 4), torch.randint(0, 4, (300,)))
    with pytest.raises(StageError, match=r"return one number, or one a sample \(got 4 for 300\)"):
        metrics.score(metric, lambda outputs, targets: torch.rand(4), answers)
    with pytest.raises(StageError, match=r"got 4 for 300"):
        metrics.score(metric, lambda outputs, targets: torch.full((4,), float("nan")), answers)
