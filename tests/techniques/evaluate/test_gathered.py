"""Values of all batches as one, in memory or in a mapped file."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from quanttaas_jupyter.core.failures import StageError
from quanttaas_jupyter.core.understanding import Judging
from quanttaas_jupyter.techniques.evaluate import gathered
from quanttaas_jupyter.techniques.evaluate.gathered import Gathered
from quanttaas_jupyter.techniques.evaluate.judge import Judge, Measure


@pytest.fixture(params=[10**9, 50, 1], ids=["in memory", "from the second batch on", "from the first batch on"])
def most(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(gathered, "_IN_MEMORY", request.param)
    return int(request.param)


def joined_of(values: list[Any], dim: int = 0) -> Any:
    found = Gathered("error", dim)
    for value in values:
        found.add(value)
    return found.whole()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool])
def test_rows_come_out_as_they_went_in_however_many_a_sample_has(most: int, dtype: torch.dtype) -> None:
    batches = [torch.arange(rows * 3).reshape(rows, 3).to(dtype) for rows in (4, 7, 1)]
    found = joined_of([{"a": batch, "b": [batch[:, 0], batch]} for batch in batches])
    assert torch.equal(found["a"], torch.cat(batches))
    assert torch.equal(found["b"][0], torch.cat(batches)[:, 0])
    assert torch.equal(found["b"][1], torch.cat(batches))


def test_batches_whose_rows_differ_in_length_are_refused(most: int) -> None:
    with pytest.raises(StageError, match="lengths of batches differ"):
        joined_of([torch.zeros(2, 20), torch.zeros(2, 21)])


def test_samples_in_a_later_dimension_are_joined_there(most: int) -> None:
    parts = [torch.rand(3, samples) for samples in (5, 20)]
    assert torch.equal(joined_of(parts, 1), torch.cat(parts, 1))


def test_a_function_that_needs_everything_is_not_called_before_the_end() -> None:
    metric = {"kind": "callable", "name": "error", "higher_is_better": False}
    whole = Measure(metric, lambda outputs, targets: float((outputs - targets).mean()), Judging("regression"))
    each = Measure({**metric, "per_sample": True}, lambda outputs, targets: outputs - targets, Judging("regression"))
    assert not Judge(whole, 10, is_compared=False).can_tell_early
    assert Judge(each, 10, is_compared=False).can_tell_early
