"""What trainings do with a GPU; needs one."""

from __future__ import annotations

import copy

import pytest
import torch

from quanttaas_jupyter.techniques.recover import distill
from tests.networks import Digits
from tests.techniques.recover.test_recover import accuracy, pruned, recovery

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


def test_a_training_uses_the_gpu_and_the_model_comes_back_to_the_cpu(digits: Digits) -> None:
    torch.cuda.reset_peak_memory_stats()
    model, teacher = pruned(digits, 0.5), copy.deepcopy(digits.model)
    distill.recover(recovery(model, teacher, digits.train, epochs=8))
    assert torch.cuda.max_memory_allocated() > 0
    assert {p.device.type for module in (model, teacher) for p in module.parameters()} == {"cpu"}
    assert accuracy(model, digits) > accuracy(digits.model, digits) - 0.03
