import copy

import pytest
import torch

from quanttaas_jupyter.bundle.data import open_source
from quanttaas_jupyter.engine.failures import StageError
from quanttaas_jupyter.engine.prune import PruneJob
from quanttaas_jupyter.engine.prune.structured import prune
from quanttaas_jupyter.engine.recover import RecoverJob, batchnorm, custom, distill, qat
from quanttaas_jupyter.engine.recover.training import default_epochs, fast_layout
from tests.networks import Digits, Mlp, regression_data


def recovery(model: torch.nn.Module, teacher: torch.nn.Module, data: object, **changes: object) -> RecoverJob:
    lines: list[str] = []
    batches = open_source(data, "--train", 10_000, 0).read()
    values = {"is_classifier": True, "epochs": 4, "lr": None, "seed": 0, "report": lines.append, **changes}
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
    facts = distill.recover(recovery(model, digits.model, unlabelled, epochs=8))
    after = accuracy(model, digits)
    assert before < 0.9
    assert after > accuracy(digits.model, digits) - 0.03
    assert facts["losses"][-1] < facts["losses"][0]


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
    facts = distill.recover(recovery(student, teacher, regression_data(), is_classifier=False, epochs=20))
    assert facts["losses"][-1] < 0.5 * facts["losses"][0]


def test_a_loss_that_is_not_finite_is_an_error_with_advice(digits: Digits) -> None:
    model = pruned(digits, 0.3)
    with torch.no_grad():
        model.head.weight.fill_(float("inf"))
    with pytest.raises(StageError, match="smaller lr"):
        distill.recover(recovery(model, digits.model, digits.train, epochs=1))


def test_batchnorm_statistics_become_those_of_the_data(digits: Digits) -> None:
    model = copy.deepcopy(digits.model)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.add_(3)
    assert accuracy(model, digits) < 0.9
    facts = batchnorm.recover(recovery(model, digits.model, digits.train))
    assert facts["batchnorm_layers"] == 9
    assert accuracy(model, digits) > 0.95


def test_training_with_quantizers_makes_a_coarse_rounding_cost_less(digits: Digits) -> None:
    def rounded(model: torch.nn.Module) -> torch.nn.Module:
        copied = copy.deepcopy(model)
        with torch.no_grad():
            copied.head.weight.copy_(qat.round_blocks(copied.head.weight))
        return copied

    torch.manual_seed(0)
    model = copy.deepcopy(digits.model)
    # A few large weights make the grid of each block coarse.
    with torch.no_grad():
        model.head.weight[:, ::32] += 3.5
    before = accuracy(rounded(model), digits)
    job = recovery(model, digits.model, digits.train, precision="int4-weight", epochs=6)
    facts = qat.recover(job)
    assert facts["rounded_weights"] == 1
    assert facts["losses"][-1] < facts["losses"][0]
    assert accuracy(rounded(model), digits) > before + 0.1
    assert not torch.equal(rounded(model).head.weight, model.head.weight)


def test_training_with_quantizers_leaves_an_ordinary_model(digits: Digits) -> None:
    model = copy.deepcopy(digits.model)
    before = copy.deepcopy(model.state_dict())
    qat.recover(recovery(model, digits.model, digits.train, precision="int8", epochs=1, ignore=(model.head,)))
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
            model.head.bias.add_(1.0)
        return 0.5

    model = copy.deepcopy(digits.model)
    facts = custom.recover(recovery(model, digits.model, digits.train, function=mine))
    assert seen == [(True, False, 19, (1, 8, 8), torch.int64)]
    assert torch.allclose(model.head.bias, digits.model.head.bias + 1.0)
    assert facts == {"loss": 0.5}
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
    facts = distill.recover(job)
    assert facts["losses"][-1] < facts["losses"][0]
