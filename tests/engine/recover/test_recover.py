import copy

import pytest
import torch

from quanttaas_jupyter.bundle.data import open_source
from quanttaas_jupyter.engine.failures import StageError
from quanttaas_jupyter.engine.prune import PruneJob
from quanttaas_jupyter.engine.prune.structured import prune
from quanttaas_jupyter.engine.recover import RecoverJob, batchnorm, distill
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
