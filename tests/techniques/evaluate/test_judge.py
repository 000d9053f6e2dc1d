"""Numbers of the judge equal those computed by hand, whatever the batches."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quanttaas_jupyter.core.failures import StageError
from quanttaas_jupyter.core.understanding import Judging
from quanttaas_jupyter.techniques.evaluate.judge import Judge, Measure, drop_between
from quanttaas_jupyter.techniques.evaluate.sqnr import sqnr_db
from quanttaas_jupyter.techniques.evaluate.tensors import class_dims

CLASSES = Judging("classification", class_dim=1, classes=3, scores="logits", labels="ids", ignore_label=-100)
SEQUENCES = Judging("token-classification", class_dim=2, classes=3, scores="logits", labels="ids", ignore_label=-100)
BINARY = Judging("binary", classes=2, scores="logits", labels="ids")
VALUES = Judging("regression")
ACCURACY = {"kind": "built-in", "name": "accuracy", "higher_is_better": True}
R2 = {"kind": "built-in", "name": "r2", "higher_is_better": True}
AGREEMENT = {"kind": "built-in", "name": "agreement", "higher_is_better": True}


def one_hot(classes: Any, count: int = 3) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.as_tensor(classes), count).float()


def judged(
    metric: dict[str, Any],
    judging: Judging,
    outputs: Any,
    targets: Any,
    reference: Any = None,
    function: Any = None,
    sizes: Any = 64,
) -> dict[str, Any]:
    """Judge tensors in batches of a size."""
    judge = Judge(Measure(metric, function, judging), len(outputs), is_compared=reference is not None)
    for start in range(0, len(outputs), sizes):
        rows = slice(start, start + sizes)
        mine = None if targets is None else targets[rows]
        judge.update(outputs[rows], mine, None if reference is None else reference[rows])
    return judge.measurements()


def test_accuracy_counts_right_classes_and_wilson_bounds_it() -> None:
    found = judged(ACCURACY, CLASSES, one_hot([0, 1, 2, 0]), torch.tensor([0, 1, 2, 2]))
    assert found["metric"] == 0.75
    # Wilson's interval for 3 of 4, from the formula in Wilson (1927).
    assert (found["metric_low"], found["metric_high"]) == pytest.approx((0.3006, 0.9544), abs=1e-4)


def test_all_right_has_an_interval_below_one() -> None:
    found = judged(ACCURACY, CLASSES, one_hot([0] * 100), torch.zeros(100, dtype=torch.long))
    assert found["metric_high"] == 1.0
    assert 0.95 < found["metric_low"] < 0.97


@pytest.mark.parametrize(
    ("judging", "outputs", "targets"),
    [
        (BINARY, torch.tensor([[2.0], [-1.0]]), torch.tensor([1, 0])),
        (Judging("binary", scores="probabilities", labels="ids"), torch.tensor([0.9, 0.2]), torch.tensor([1.0, 0.0])),
        (CLASSES, torch.stack([one_hot([0, 1]).T, one_hot([2, 2]).T]), torch.tensor([[0, 1], [2, -100]])),
        (Judging("classification", scores="classes", labels="ids"), torch.tensor([2, 1]), torch.tensor([2, 1])),
        (
            Judging("classification", class_dim=1, scores="logits", labels="one-hot"),
            one_hot([2, 1]),
            one_hot([2, 1]).long(),
        ),
    ],
)
def test_accuracy_of_binary_dense_and_hard_outputs(judging: Judging, outputs: Any, targets: Any) -> None:
    assert judged(ACCURACY, judging, outputs, targets)["metric"] == 1.0


@settings(max_examples=40, deadline=None)
@given(
    samples=st.integers(2, 90),
    places=st.integers(1, 6),
    size=st.integers(1, 40),
    seed=st.integers(0, 99),
    class_dim=st.sampled_from([1, 2]),
)
def test_accuracy_over_places_is_the_loop_of_hand_for_any_batches(
    samples: int, places: int, size: int, seed: int, class_dim: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(samples, places, 4, generator=generator)
    targets = torch.randint(0, 4, (samples, places), generator=generator)
    targets[torch.rand(samples, places, generator=generator) < 0.3] = -100
    targets[0, 0] = 1
    counted = targets != -100
    expected = float((scores.argmax(-1) == targets)[counted].double().mean())
    outputs = scores if class_dim == 2 else scores.transpose(1, 2)
    judging = Judging("token-classification", class_dim=class_dim, classes=4, ignore_label=-100, labels="ids")
    assert judged(ACCURACY, judging, outputs, targets, sizes=size)["metric"] == pytest.approx(expected, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(samples=st.integers(3, 120), size=st.integers(1, 40), columns=st.integers(1, 3), seed=st.integers(0, 99))
def test_r2_is_that_of_scikit_learn_for_any_batches(samples: int, size: int, columns: int, seed: int) -> None:
    from sklearn.metrics import r2_score

    generator = torch.Generator().manual_seed(seed)
    targets = torch.randn(samples, columns, generator=generator) * 3 + 50
    outputs = targets + torch.randn(samples, columns, generator=generator)
    found = judged(R2, VALUES, outputs, targets, sizes=size)
    assert found["metric"] == pytest.approx(r2_score(targets.double(), outputs.double()), abs=1e-6)
    assert found["metric_low"] <= found["metric"] <= found["metric_high"]


def test_perplexity_shifts_labels_and_leaves_padding_out() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, tokens = torch.randn(20, 7, 11, generator=generator), torch.randint(0, 11, (20, 7), generator=generator)
    tokens[:, 5:] = -100
    judging = Judging("language-model", class_dim=2, scores="logits", labels="ids", ignore_label=-100, is_shifted=True)
    found = judged(
        {"kind": "built-in", "name": "perplexity", "higher_is_better": False}, judging, logits, tokens, sizes=6
    )
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, 11), tokens[:, 1:].reshape(-1))
    assert found["metric"] == pytest.approx(float(loss.exp()), rel=1e-5)


@pytest.mark.parametrize(
    "loss", [torch.nn.CrossEntropyLoss(), torch.nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 3.0]))]
)
def test_a_loss_is_its_own_mean_over_all_samples(loss: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    scores, targets = torch.randn(50, 3, generator=generator), torch.randint(0, 3, (50,), generator=generator)
    metric = {"kind": "loss", "name": "loss", "higher_is_better": False}
    found = judged(metric, CLASSES, scores, targets, function=loss, sizes=7)
    assert found["metric"] == pytest.approx(float(loss(scores, targets)), rel=1e-6)


@pytest.mark.parametrize("name", ["MulticlassF1Score", "MulticlassAUROC", "MulticlassJaccardIndex"])
def test_states_of_torchmetrics_merge_to_the_metric_of_everything(name: str) -> None:
    import torchmetrics.classification as tasks

    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(0, 3, (200,), generator=generator)
    scores = torch.randn(200, 3, generator=generator) + 2 * one_hot(targets)
    metric = {
        "kind": "torchmetrics",
        "name": name,
        "class": f"torchmetrics.classification.{name}",
        "options": {"num_classes": 3},
        "takes": "scores",
        "higher_is_better": True,
    }
    found = judged(metric, CLASSES, scores, targets, sizes=13)
    whole = getattr(tasks, name)(num_classes=3)(scores.softmax(1), targets)
    assert found["metric"] == pytest.approx(float(whole), abs=1e-6)
    assert found["metric_low"] < found["metric"] < found["metric_high"]


def test_a_metric_whose_states_do_not_merge_is_measured_on_everything() -> None:
    from torchmetrics import PearsonCorrCoef

    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(300, generator=generator)
    outputs = targets + torch.randn(300, generator=generator)
    metric = {"kind": "instance", "name": "pearson", "takes": "aligned", "higher_is_better": True}
    found = judged(metric, VALUES, outputs, targets, function={"pearson": PearsonCorrCoef()}, sizes=50)
    assert found["metric"] == pytest.approx(float(torch.corrcoef(torch.stack([outputs, targets]))[0, 1]), abs=1e-5)
    assert found["metric_low"] < found["metric"] < found["metric_high"]


def test_several_metrics_stand_beside_the_one_that_leads() -> None:
    targets = torch.arange(3).repeat(20)
    found = judged({**ACCURACY, "others": [{**R2, "name": "agreement"}]}, CLASSES, one_hot(targets), targets)
    assert found["others"] == {"agreement": 1.0}


def test_a_paired_drop_is_narrower_than_two_independent_intervals() -> None:
    targets = torch.arange(3).repeat(200)
    right = targets.tolist()
    wrong = [(c + 1) % 3 if i < 6 else c for i, c in enumerate(right)]
    found = judged(ACCURACY, CLASSES, one_hot(wrong), targets, one_hot(right))
    assert found["drop"] == pytest.approx(0.01)
    assert 0 < found["drop_low"] < 0.01 < found["drop_high"] < 0.025


def test_no_change_has_a_drop_of_zero_with_an_interval_around_it() -> None:
    targets = torch.arange(3).repeat(50)
    found = judged(ACCURACY, CLASSES, one_hot(targets), targets, one_hot(targets))
    assert found["drop"] == 0
    assert found["drop_low"] < 0 < found["drop_high"]


def test_drops_of_a_metric_that_is_no_mean_are_paired_block_by_block() -> None:
    targets = torch.linspace(0, 1, 300)
    reference = targets + 0.1 * torch.randn(300, generator=torch.Generator().manual_seed(0))
    found = judged(R2, VALUES, reference + 0.01, targets, reference)
    assert found["metric_low"] < found["metric"] < found["metric_high"]
    assert found["drop_low"] <= found["drop"] <= found["drop_high"]
    assert found["drop_high"] - found["drop_low"] < found["metric_high"] - found["metric_low"]


@pytest.mark.parametrize("samples", [40, 400])
def test_a_callable_may_return_one_score_a_sample_or_one_number(samples: int) -> None:
    metric = {"kind": "callable", "name": "error", "higher_is_better": False}
    generator = torch.Generator().manual_seed(0)
    outputs, targets = torch.rand(samples, generator=generator), torch.rand(samples, generator=generator)
    expected, calls = float((outputs - targets).abs().mean()), []

    def one(o: torch.Tensor, t: torch.Tensor) -> float:
        calls.append(len(o))
        return float((o - t).abs().mean())

    each = judged({**metric, "per_sample": True}, VALUES, outputs, targets, function=lambda o, t: (o - t).abs())
    whole = judged(metric, VALUES, outputs, targets, function=one)
    assert each["metric"] == pytest.approx(expected, abs=1e-6)
    assert whole["metric"] == pytest.approx(expected, abs=1e-6)
    assert whole["metric_low"] < expected < whole["metric_high"]
    assert len(calls) == 11
    if samples == 400:
        # One pass over everything, and one over its blocks.
        assert sum(calls) == 2 * samples


def test_a_function_that_needs_everything_is_bounded_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    metric = {"kind": "callable", "name": "error", "higher_is_better": False}
    measure = Measure(metric, lambda outputs, targets: float((outputs - targets).mean()), VALUES, most_bytes=1000)
    with pytest.raises(StageError, match="needs everything at once.*one value a sample"):
        Judge(measure, 400, is_compared=False).update(torch.rand(400), torch.rand(400))


def test_what_a_function_needs_at_once_lies_in_a_mapped_file_where_it_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quanttaas_jupyter.techniques.evaluate.gathered._IN_MEMORY", 100)
    seen = []

    def function(outputs: Any, targets: Any) -> float:
        seen.append((outputs.clone(), targets.clone()))
        return float((outputs - targets).mean())

    measure = Measure({"kind": "callable", "name": "error", "higher_is_better": False}, function, VALUES)
    judge, outputs, targets = Judge(measure, 10, is_compared=False), torch.rand(10, 9), torch.rand(10, 9)
    for rows in (slice(0, 4), slice(4, 8), slice(8, 10)):
        judge.update(outputs[rows], targets[rows])
    assert judge.measurements()["metric"] == pytest.approx(float((outputs - targets).mean()))
    assert torch.equal(seen[0][0], outputs)
    assert torch.equal(seen[0][1], targets)
    with pytest.raises(StageError, match="lengths of batches differ"):
        judge.update(torch.rand(2, 8), targets[:2])


def test_a_callable_that_fails_is_told_with_its_error() -> None:
    metric = {"kind": "callable", "name": "error", "higher_is_better": False, "per_sample": True}
    with pytest.raises(StageError, match="cannot be computed: ZeroDivisionError"):
        judged(metric, VALUES, torch.rand(4), torch.rand(4), function=lambda o, t: 1 / 0)


def test_a_metric_where_less_is_better_turns_the_drop_around() -> None:
    metric = {"kind": "callable", "name": "error", "higher_is_better": False, "per_sample": True}
    targets, reference = torch.zeros(50), torch.full((50,), 0.1)
    found = judged(metric, VALUES, torch.full((50,), 0.3), targets, reference, lambda o, t: (o - t).abs())
    assert found["drop"] == pytest.approx(0.2)


def test_outputs_that_are_not_finite_are_refused() -> None:
    broken = one_hot([0, 1])
    broken[0, 0] = float("nan")
    with pytest.raises(StageError, match="NaN or infinite"):
        judged(ACCURACY, CLASSES, broken, torch.tensor([0, 1]))


def test_outputs_that_do_not_fit_the_targets_are_refused() -> None:
    with pytest.raises(StageError, match="do not fit targets"):
        judged(ACCURACY, CLASSES, torch.rand(4, 3), torch.zeros(4, 2, dtype=torch.long))


def test_classes_of_a_sequence_may_lie_where_time_fits_as_well() -> None:
    targets = torch.randint(0, 5, (60, 5), generator=torch.Generator().manual_seed(0))
    assert class_dims(one_hot(targets, 5), targets) == [1, 2]
    assert judged(ACCURACY, SEQUENCES, one_hot(targets, 5), targets)["metric"] == 1.0
    assert judged(ACCURACY, CLASSES, one_hot(targets, 5).transpose(1, 2), targets)["metric"] == 1.0


def test_batches_of_several_lengths_are_judged_without_padding() -> None:
    judge = Judge(Measure(ACCURACY, None, SEQUENCES), 4, is_compared=False)
    for length, wrong in ((3, 0), (5, 2)):
        targets = torch.zeros(2, length, dtype=torch.long)
        said = targets.clone()
        said[0, :wrong] = 1
        judge.update(one_hot(said), targets)
    assert judge.measurements()["metric"] == pytest.approx(14 / 16)


def test_agreement_of_a_sequence_counts_places_with_the_same_class() -> None:
    said = torch.randint(0, 3, (50, 7), generator=torch.Generator().manual_seed(0))
    other = said.clone()
    other[:, 0] = (other[:, 0] + 1) % 3
    found = judged(AGREEMENT, SEQUENCES, one_hot(other), None, one_hot(said))
    assert found["agreement"] == pytest.approx(6 / 7)


def test_agreement_of_numbers_is_how_much_of_each_outputs_variation_is_left() -> None:
    generator = torch.Generator().manual_seed(0)
    original = torch.stack([torch.randn(200, generator=generator) + 100, torch.randn(200, generator=generator)], 1)
    garbage = torch.stack([original[:, 0], torch.zeros(200)], 1)

    def agreement(outputs: torch.Tensor) -> float:
        return float(judged(AGREEMENT, VALUES, outputs, None, original)["agreement"])

    assert agreement(original) == 1.0
    assert agreement(garbage) == pytest.approx(0.5, abs=0.02)
    assert agreement(original.flip(0)) == 0.0


def test_numbers_that_never_vary_have_no_agreement() -> None:
    steady = torch.full((50, 2), 1.7)
    assert judged(R2, VALUES, torch.rand(50, 2), torch.rand(50, 2), steady)["agreement"] is None
    with pytest.raises(StageError, match="do not vary"):
        judged(AGREEMENT, VALUES, steady, None, steady)


def test_samples_without_a_label_that_counts_are_left_out() -> None:
    targets = torch.tensor([[0, 1], [-100, -100], [2, -100]])
    right = one_hot(targets.clamp(min=0))
    wrong = right.clone()
    wrong[1] = wrong[1].flip(-1)
    found = judged(ACCURACY, SEQUENCES, wrong, targets, right)
    assert (found["metric"], found["agreement"]) == (1.0, 1.0)
    with pytest.raises(StageError, match="nothing can be counted"):
        judged(ACCURACY, SEQUENCES, right, torch.full_like(targets, -100))


def test_samples_without_a_label_that_counts_do_not_widen_the_interval() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(0, 3, (100, 7), generator=generator)
    scores = one_hot(targets) + torch.randn(100, 7, 3, generator=generator)
    alone = judged(ACCURACY, SEQUENCES, scores, targets)
    ignored = torch.full_like(targets, -100)
    beside = judged(ACCURACY, SEQUENCES, torch.cat([scores, scores]), torch.cat([targets, ignored]))
    assert beside["samples"] == alone["samples"] == 100
    for key in ("metric", "metric_low", "metric_high"):
        assert beside[key] == pytest.approx(alone[key], abs=1e-9)


def test_an_interval_of_shares_ends_at_zero_and_one() -> None:
    judge = Judge(Measure(ACCURACY, None, SEQUENCES), 8, is_compared=False)
    for length, wrong in ((12, 0), (12, 0), (3, 0), (2, 2)):
        targets = torch.zeros(2, length, dtype=torch.long)
        said = targets.clone()
        said[0, :wrong] = 1
        judge.update(one_hot(said), targets)
    found = judge.measurements()
    assert 0 <= found["metric_low"] < found["metric"] < found["metric_high"] <= 1


@pytest.mark.parametrize("scores", ["logits", "probabilities"])
@pytest.mark.parametrize("size", [3, 64])
def test_a_language_model_is_compared_token_by_token(scores: Any, size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    mine, theirs = (torch.randn(20, 7, 11, generator=generator) for _ in range(2))
    tokens = torch.randint(0, 11, (20, 7), generator=generator)
    tokens[::2, 4:] = -100
    judging = Judging("language-model", class_dim=2, scores=scores, labels="ids", ignore_label=-100, is_shifted=True)
    perplexity = {"kind": "built-in", "name": "perplexity", "higher_is_better": False}
    given = [value.softmax(-1) if scores == "probabilities" else value for value in (mine, theirs)]
    found = judged(perplexity, judging, given[0], tokens, given[1], sizes=size)
    counts = tokens[:, 1:] != -100
    logs = [value[:, :-1].double().log_softmax(-1)[counts] for value in (mine, theirs)]
    right = torch.nn.functional.kl_div(logs[0], logs[1], reduction="batchmean", log_target=True)
    assert found["others"]["kl"] == pytest.approx(float(right), rel=1e-5)
    assert judged(perplexity, judging, given[0], tokens)["others"]["kl"] == 0.0
    assert "others" not in judged(ACCURACY, SEQUENCES, mine[..., :3], tokens.clamp(max=2), theirs[..., :3])


def test_a_masked_token_does_not_differ() -> None:
    judging = Judging("language-model", class_dim=2, scores="logits", labels="ids", ignore_label=-100)
    tokens = torch.zeros(4, 5, dtype=torch.long)
    scores = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0))
    scores[..., 3] = -1e30
    perplexity = {"kind": "built-in", "name": "perplexity", "higher_is_better": False}
    assert judged(perplexity, judging, scores, tokens, scores)["others"]["kl"] == 0.0


def test_samples_in_another_dimension_are_judged_alike() -> None:
    targets = torch.randint(0, 3, (50, 7), generator=torch.Generator().manual_seed(0))
    scores = torch.randn(50, 7, 3, generator=torch.Generator().manual_seed(1))
    plain = judged(ACCURACY, SEQUENCES, scores, targets)
    timed = Judging(
        "token-classification", output_dim=1, target_dim=1, class_dim=2, classes=3, labels="ids", ignore_label=-100
    )
    judge = Judge(Measure(ACCURACY, None, timed), 50, is_compared=False)
    judge.update(scores.transpose(0, 1), targets.T)
    assert judge.measurements()["metric"] == plain["metric"]


def test_what_stands_between_output_and_metric_is_applied_on_both_sides() -> None:
    targets = torch.arange(3).repeat(10)
    measure = Measure(ACCURACY, None, CLASSES, postprocess=lambda outputs: outputs["scores"])
    batch = ({"scores": one_hot(targets)}, targets, {"scores": one_hot(targets)})
    assert drop_between(measure, [batch], 30) == 0.0


def test_signal_to_noise_is_in_decibels() -> None:
    reference = torch.ones(100)
    assert sqnr_db(reference + 0.1, reference) == pytest.approx(20, abs=0.01)
    assert sqnr_db(reference, reference) == 120


def test_masked_scores_do_not_drown_the_noise_of_the_others() -> None:
    reference = torch.ones(100, 3)
    masked = torch.cat([reference, torch.full((100, 1), -1e30)], 1)
    noisy = torch.cat([reference + 0.1, torch.full((100, 1), -65504.0)], 1)
    assert sqnr_db(noisy, masked) == pytest.approx(20, abs=0.01)
    assert sqnr_db(1.1e9 * reference, 1e9 * reference) == pytest.approx(20, abs=0.01)
