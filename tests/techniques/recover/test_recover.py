import copy
from typing import Any

import pytest
import torch

from quanttaas_jupyter.bundle.data import open_source
from quanttaas_jupyter.core.catalogue import Rounding
from quanttaas_jupyter.core.failures import StageError
from quanttaas_jupyter.techniques.prune import PruneJob
from quanttaas_jupyter.techniques.prune.structured import prune
from quanttaas_jupyter.techniques.recover import RecoverJob, batchnorm, custom, distill, qat
from quanttaas_jupyter.techniques.recover.training import default_epochs, fast_layout
from tests.networks import Digits, Mlp, regression_data


def recovery(model: torch.nn.Module, teacher: torch.nn.Module, data: object, **changes: object) -> RecoverJob:
    lines: list[str] = []
    batches = open_source(data, "--train", 10_000, 0).read()
    values = {"class_dim": 1, "epochs": 4, "lr": None, "seed": 0, "report": lines.append, **changes}
    return RecoverJob(model=model, teacher=teacher, data=batches, **values)  # type: ignore[arg-type]


def accuracy(model: torch.nn.Module, digits: Digits) -> float:
    x, y = digits.test.dataset.tensors  # type: ignore[attr-defined]
    with torch.no_grad():
        return float((model(x).argmax(1) == y).float().mean())


def pruned(digits: Digits, amount: float) -> torch.nn.Module:
    examples = open_source(digits.train, "--train", 64, 0).read()
    return prune(PruneJob(copy.deepcopy(digits.model), amount, examples, (), lambda line: None)).model


def test_distillation_brings_a_pruned_classifier_back_without_labels(digits: Digits) -> None:
    model = pruned(digits, 0.5)
    before = accuracy(model, digits)
    unlabelled = (digits.train.dataset.tensors[0],)  # type: ignore[attr-defined]
    summary = distill.recover(recovery(model, digits.model, unlabelled, epochs=8))
    after = accuracy(model, digits)
    assert before < 0.9
    assert after > accuracy(digits.model, digits) - 0.03
    assert summary["losses"][-1] < summary["losses"][0]


def test_every_epoch_is_reported_with_its_loss(digits: Digits) -> None:
    lines: list[str] = []
    job = recovery(pruned(digits, 0.3), digits.model, digits.train, epochs=3, report=lines.append)
    distill.recover(job)
    assert [line.partition(", loss")[0] for line in lines] == [f"distilling, epoch {n} of 3" for n in (1, 2, 3)]


def test_the_teacher_is_not_changed(digits: Digits) -> None:
    before = copy.deepcopy(digits.model.state_dict())
    distill.recover(recovery(pruned(digits, 0.3), digits.model, digits.train, epochs=1))
    after = digits.model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_regressor_learns_from_the_teachers_numbers() -> None:
    torch.manual_seed(0)
    teacher, student = Mlp().eval(), Mlp().eval()
    summary = distill.recover(recovery(student, teacher, regression_data(), class_dim=None, epochs=20))
    assert summary["losses"][-1] < 0.5 * summary["losses"][0]


def test_a_loss_that_is_not_finite_is_an_error_with_advice(digits: Digits) -> None:
    model = pruned(digits, 0.3)
    with torch.no_grad():
        model.get_parameter("head.weight").fill_(float("inf"))
    with pytest.raises(StageError, match="smaller lr"):
        distill.recover(recovery(model, digits.model, digits.train, epochs=1))


def test_batchnorm_statistics_become_those_of_the_data(digits: Digits) -> None:
    model = copy.deepcopy(digits.model)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.add_(3)
    assert accuracy(model, digits) < 0.9
    summary = batchnorm.recover(recovery(model, digits.model, digits.train))
    assert summary["batchnorm_layers"] == 9
    assert accuracy(model, digits) > 0.95


def test_training_with_quantizers_makes_a_coarse_rounding_cost_less(digits: Digits) -> None:
    def rounded(model: torch.nn.Module) -> torch.nn.Module:
        copied = copy.deepcopy(model)
        weight = copied.get_parameter("head.weight")
        with torch.no_grad():
            weight.copy_(qat.round_blocks(weight))
        return copied

    torch.manual_seed(0)
    model = copy.deepcopy(digits.model)
    # A few large weights make the grid of each block coarse.
    with torch.no_grad():
        model.head.weight[:, ::32] += 3.5
    before = accuracy(rounded(model), digits)
    job = recovery(model, digits.model, digits.train, precision="int4-weight", rounding=Rounding("int4"), epochs=6)
    summary = qat.recover(job)
    assert summary["rounded_weights"] == 1
    assert summary["losses"][-1] < summary["losses"][0]
    assert accuracy(rounded(model), digits) > before + 0.1
    assert not torch.equal(rounded(model).get_parameter("head.weight"), model.head.weight)


def test_training_with_quantizers_leaves_an_ordinary_model(digits: Digits) -> None:
    model = copy.deepcopy(digits.model)
    before = copy.deepcopy(model.state_dict())
    options = {"precision": "int8", "rounding": Rounding("int8", inputs=True), "ignore": (model.head,)}
    qat.recover(recovery(model, digits.model, digits.train, epochs=1, **options))
    assert not any(module._forward_pre_hooks for module in model.modules())
    after = model.state_dict()
    assert list(after) == list(before)
    statistics = [key for key in after if "running_" in key]
    assert statistics
    assert all(torch.equal(before[key], after[key]) for key in statistics)
    assert len(torch.unique(after["stem.0.weight"][0])) > 8


@pytest.mark.parametrize("axis", [0, 1, None])
def test_rounding_is_symmetric_and_at_most_half_a_step_off(axis: int | None) -> None:
    weight = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))
    found = qat.round_symmetric(weight, axis)
    scale = weight.abs().amax(1 - axis, keepdim=True) / 127 if axis is not None else weight.abs().max() / 127
    assert bool(((found - weight).abs() <= scale / 2 + 1e-7).all())
    assert torch.allclose(qat.round_symmetric(-weight, axis), -found)


def test_a_function_of_the_notebook_recovers_with_batches_as_they_were_given(digits: Digits) -> None:
    seen = []

    def mine(model: torch.nn.Module, teacher: torch.nn.Module, batches: list) -> float:
        seen.append((model.training, teacher.training, len(batches), batches[0][0].shape[1:], batches[0][1].dtype))
        with torch.no_grad():
            model.get_parameter("head.bias").add_(1.0)
        return 0.5

    model = copy.deepcopy(digits.model)
    summary = custom.recover(recovery(model, digits.model, digits.train, function=mine))
    assert seen == [(True, False, 19, (1, 8, 8), torch.int64)]
    assert torch.allclose(model.head.bias, digits.model.head.bias + 1.0)
    assert summary == {"loss": 0.5}
    assert not model.training


def test_a_function_that_fails_says_so_in_one_sentence(digits: Digits) -> None:
    def broken(model: torch.nn.Module, teacher: torch.nn.Module, batches: list) -> None:
        raise RuntimeError("no such layer\nand more")

    with pytest.raises(StageError, match="the recovery of the notebook failed: RuntimeError: no such layer"):
        custom.recover(recovery(copy.deepcopy(digits.model), digits.model, digits.train, function=broken))


def test_few_samples_are_passed_often_and_many_seldom() -> None:
    assert default_epochs(500, 1.0) == 40
    assert default_epochs(10_000, 1.0) == 12
    assert default_epochs(50_000, 1.0) == 2
    assert default_epochs(50_000, 3.0) == 7


class Viewing(torch.nn.Module):
    """Takes a view of its activations, which only memory in the usual order allows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(2, 4, 3, padding=1)
        self.head = torch.nn.Linear(4 * 64, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(x).view(x.shape[0], -1))


def test_convolutions_train_with_channels_last_and_come_back_in_the_usual_order(digits: Digits) -> None:
    model = pruned(digits, 0.3)
    job = recovery(model, copy.deepcopy(digits.model), digits.train, epochs=1)
    assert fast_layout(job.model, job.teacher, job.data.head(2)) is torch.channels_last
    distill.recover(job)
    assert all(p.is_contiguous() for module in (job.model, job.teacher) for p in module.parameters())


def test_a_model_that_views_its_activations_trains_in_the_usual_order() -> None:
    torch.manual_seed(0)
    teacher, student = Viewing().eval(), Viewing().eval()
    job = recovery(student, teacher, (torch.randn(64, 2, 8, 8),), epochs=10)
    assert fast_layout(student, teacher, job.data.head(2)) is torch.contiguous_format
    summary = distill.recover(job)
    assert summary["losses"][-1] < summary["losses"][0]


class Tagger(torch.nn.Module):
    """Scores for four classes at each of six places; classes last, or in dimension 1."""

    def __init__(self, class_dim: int) -> None:
        super().__init__()
        self.inner, self.scores, self.class_dim = torch.nn.Linear(3, 16), torch.nn.Linear(16, 4), class_dim

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.scores(torch.relu(self.inner(x)))
        return found if self.class_dim == 2 else found.transpose(1, 2)


def test_a_sequence_is_taught_the_same_wherever_its_classes_lie() -> None:
    losses = []
    for class_dim in (1, 2):
        torch.manual_seed(0)
        teacher, student = Tagger(class_dim).eval(), Tagger(class_dim).eval()
        data = (torch.randn(96, 6, 3, generator=torch.Generator().manual_seed(0)),)
        losses.append(distill.recover(recovery(student, teacher, data, class_dim=class_dim))["losses"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def warned(model: torch.nn.Sequential, data: object, how: object) -> tuple[list[str], dict]:
    sentences: list[str] = []
    teacher = copy.deepcopy(model).eval()
    last: Any = model[-1]
    with torch.no_grad():
        last.weight.mul_(0.5)
    job = recovery(model, teacher, data, epochs=2, warn=sentences.append)
    return sentences, how.recover(job)  # type: ignore[attr-defined]


def statistics(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([value.flatten().float() for name, value in model.state_dict().items() if "running_" in name])


SINGLES = [(torch.randn(1, 4, 6 + n % 5) + 3, torch.tensor([n % 3])) for n in range(20)]


@pytest.mark.parametrize("how", [batchnorm, distill])
def test_batches_of_one_sample_with_many_places_are_enough_for_batchnorm(how: object) -> None:
    model = torch.nn.Sequential(
        torch.nn.Conv1d(4, 8, 3, padding=1),
        torch.nn.BatchNorm1d(8),
        torch.nn.AdaptiveAvgPool1d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 3),
    ).eval()
    with torch.no_grad():
        seen = torch.cat([model[0](x).transpose(1, 2).reshape(-1, 8) for x, _ in SINGLES])
    sentences, _ = warned(model, SINGLES, how)
    assert sentences == []
    found = statistics(model)
    assert torch.isfinite(found).all()
    if how is batchnorm:
        assert torch.allclose(found[:8], seen.mean(0), atol=0.2)
    assert not torch.allclose(found[:8], torch.zeros(8), atol=1e-3)


@pytest.mark.parametrize("how", [batchnorm, distill])
def test_batches_of_one_value_a_channel_leave_batchnorm_as_it_was_and_say_so(how: object) -> None:
    norm, last = torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 3)
    first = (torch.nn.AdaptiveAvgPool1d(1), torch.nn.Flatten(), torch.nn.Linear(4, 8))
    model = torch.nn.Sequential(*first, norm, last).eval()
    assert norm.running_mean is not None
    norm.running_mean.fill_(2.5)
    before, head = statistics(model), 0.5 * last.weight.detach()
    sentences, _ = warned(model, SINGLES, how)
    assert torch.equal(statistics(model), before)
    assert sentences
    assert all("more than one value a channel" in sentence for sentence in sentences)
    assert torch.equal(head, last.weight) == (how is batchnorm)


def test_batches_of_one_sample_teach_a_model_without_batchnorm() -> None:
    torch.manual_seed(0)
    teacher = torch.nn.Sequential(torch.nn.AdaptiveAvgPool1d(2), torch.nn.Flatten(), torch.nn.Linear(8, 3)).eval()
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        student.get_parameter("2.weight").mul_(0.5)
    summary = distill.recover(recovery(student, teacher, SINGLES, epochs=10))
    assert summary["losses"][-1] < summary["losses"][0]


class Auxiliary(torch.nn.Module):
    """A second head that answers in training mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm = torch.nn.Linear(6, 16), torch.nn.BatchNorm1d(16)
        self.head, self.second = torch.nn.Linear(16, 3), torch.nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> object:
        inner = torch.relu(self.norm(self.inner(x)))
        return (self.head(inner), self.second(inner)) if self.training else self.head(inner)


def test_a_model_with_heads_for_training_only_is_taught_in_eval_mode() -> None:
    torch.manual_seed(0)
    teacher, student = Auxiliary().eval(), Auxiliary().eval()
    sentences: list[str] = []
    data = (torch.randn(128, 6, generator=torch.Generator().manual_seed(0)),)
    summary = distill.recover(recovery(student, teacher, data, epochs=15, warn=sentences.append))
    assert summary["losses"][-1] < 0.5 * summary["losses"][0]
    assert len(sentences) == 1
    assert "trained in eval mode" in sentences[0]


class Flagged(torch.nn.Module):
    """Class scores beside a number that is the same for all samples."""

    def __init__(self, is_flagged: bool) -> None:
        super().__init__()
        self.inner, self.head = torch.nn.Linear(8, 24), torch.nn.Linear(24, 4)
        self.temperature, self.is_flagged = torch.nn.Parameter(torch.tensor([1.7])), is_flagged

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        scores = {"logits": self.head(torch.relu(self.inner(x)))}
        return {**scores, "temperature": self.temperature.expand(len(x), 1)} if self.is_flagged else scores


def test_an_output_that_never_varies_does_not_keep_the_others_from_being_learned() -> None:
    data = (3 * torch.randn(128, 8, generator=torch.Generator().manual_seed(0)),)
    distances = []
    for is_flagged in (False, True):
        torch.manual_seed(0)
        teacher, student = Flagged(is_flagged).eval(), Flagged(is_flagged).eval()
        distill.recover(recovery(student, teacher, data, epochs=15))
        with torch.no_grad():
            distances.append(float((student(data[0])["logits"] - teacher(data[0])["logits"]).square().mean()))
    assert distances[1] < 1.5 * distances[0]


def test_a_module_that_a_function_returns_is_the_one_that_goes_on(digits: Digits) -> None:
    def copies(model: torch.nn.Module, teacher: torch.nn.Module, batches: list) -> torch.nn.Module:
        trained = copy.deepcopy(model)
        with torch.no_grad():
            trained.get_parameter("head.bias").add_(1.0)
        return trained

    model = copy.deepcopy(digits.model)
    assert custom.recover(recovery(model, digits.model, digits.train, function=copies)) == {}
    assert torch.allclose(model.head.bias, digits.model.head.bias + 1.0)
    assert not model.training

    def replaces(model: torch.nn.Module, teacher: torch.nn.Module, batches: list) -> torch.nn.Module:
        return torch.nn.Flatten()

    custom.recover(recovery(model, digits.model, digits.train, function=replaces))
    assert model(torch.zeros(2, 3, 4)).shape == (2, 12)


def test_what_is_neither_a_module_nor_a_number_is_refused_with_what_may_be_returned(digits: Digits) -> None:
    def history(model: torch.nn.Module, teacher: torch.nn.Module, batches: list) -> list:
        return [0.5, 0.4]

    def loss(model: torch.nn.Module, teacher: torch.nn.Module, batches: list) -> torch.Tensor:
        return torch.tensor(0.25)

    model = copy.deepcopy(digits.model)
    with pytest.raises(StageError, match="returned a list; return the trained module, a number"):
        custom.recover(recovery(model, digits.model, digits.train, function=history))
    assert custom.recover(recovery(model, digits.model, digits.train, function=loss)) == {"loss": 0.25}
