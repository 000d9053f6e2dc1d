"""Bad input: each mistake is one clear sentence, before anything is sent."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import quanttaas_jupyter as qt
from quanttaas_jupyter.compute.clusters import local_engine
from quanttaas_jupyter.core.errors import DataError, MetricError, ModelError, NotFound, RecipeError
from tests.networks import Mlp, ResidualNet, regression_data

IMAGES = (torch.randn(40, 1, 8, 8), torch.arange(40) % 10)


@pytest.fixture(autouse=True)
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused must be refused without an engine."""
    monkeypatch.setattr(local_engine, "start", lambda: None)


class Broken(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((1, 2, 3), keepdim=True)[:, :, 0, 0].expand(-1, 10) * float("nan")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"model": 3}, ModelError, "must be a torch.nn.Module"),
        ({"model": ResidualNet}, ModelError, "give an instance"),
        ({"data": None}, DataError, "no evaluation data"),
        ({"data": []}, DataError, "--data is empty"),
        ({"data": (IMAGES[0][:0], IMAGES[1][:0])}, DataError, "--data is empty"),
        ({"data": (torch.randn(9, 3), torch.zeros(9))}, DataError, r"do not fit the model.*\(8, 3\)"),
        ({"data": (IMAGES[0],)}, MetricError, "no labels"),
        ({"data": (IMAGES[0],), "metric": "accuracy"}, MetricError, "needs labels"),
        ({"metric": "acuracy"}, MetricError, "did you mean 'accuracy'"),
        ({"metric": lambda outputs, targets: 1 / 0}, MetricError, "ZeroDivisionError"),
        ({"data": (IMAGES[0], torch.randint(0, 2, (40, 3)))}, DataError, "do not fit integer targets"),
        ({"model": Broken()}, ModelError, "NaN on the first samples"),
        ({"recipe": {"quantise": ["int8"]}}, RecipeError, "did you mean 'quantize'"),
        ({"recipe": "prune: [0, 0.5"}, RecipeError, "not valid YAML at line"),
        ({"recipe": {"prune": [50]}}, RecipeError, "for 50 % write 0.5"),
        ({"recipe": {"prune": [float("nan")]}}, RecipeError, r"in \[0, 1\)"),
        ({"recipe": {"prune": []}}, RecipeError, "the list is empty"),
        ({"recipe": {"runtime": "openvino", "quantize": "fp8"}}, RecipeError, "not built yet"),
        ({"recipe": {"ignore": ["blocks.7"]}}, RecipeError, "no module or class 'blocks.7'; did you mean"),
        ({"recipe": Path("no/such/recipe.yaml")}, RecipeError, "cannot be read"),
        ({"example_inputs": (IMAGES[0][:2], IMAGES[0][:2])}, DataError, "example_inputs are nested unlike"),
        ({"cluster": "gpu"}, qt.QuantTaaSError, "no cluster .gpu.; there are local"),
        ({"name": " "}, qt.QuantTaaSError, "1 to 80 characters"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    given = {"model": ResidualNet(), "data": IMAGES, **arguments}
    with pytest.raises(error, match=words) as caught:
        qt.compress(**given)
    assert isinstance(caught.value, qt.QuantTaaSError)
    assert "\n" not in str(caught.value)


def test_a_store_that_cannot_be_written_fails_the_study_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    study = qt.compress(ResidualNet(), IMAGES, store=tmp_path / "file" / "store")
    with pytest.raises(qt.QuantTaaSError, match="cannot write to the store"):
        study.wait(60)
    assert study.status == "failed"


@pytest.mark.parametrize("study", ["../secrets", "a/b", "x" * 90])
def test_ids_of_another_form_are_refused(study: str) -> None:
    with pytest.raises(qt.QuantTaaSError, match="no valid id"):
        qt.open(study)


def test_an_unknown_study_is_not_found_and_that_is_a_key_error() -> None:
    with pytest.raises(NotFound, match="no study abcd1234") as caught:
        qt.open("abcd1234")
    assert isinstance(caught.value, KeyError)
    assert len(qt.studies()) == 0
    assert "no study yet" in repr(qt.studies())


def test_a_model_in_train_mode_may_be_trained_on_at_once() -> None:
    model = ResidualNet().train()
    before = torch.get_rng_state()
    qt.compress(model, IMAGES)
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)
    model(IMAGES[0]).sum().backward()


def test_a_plan_tells_trials_and_stages_without_running() -> None:
    from quanttaas_jupyter.client.api import plan

    view = plan(Mlp(), regression_data(), recipe={"prune": [0, 0.5], "quantize": ["none", "int8"]})
    assert [name for name, _ in view.trials] == ["baseline", "int8", "prune50", "prune50-int8"]
    assert view.cached == 0
    assert str(view).splitlines()[:2] == ["regression · r2", "4 trials, 15 stages, 0 of them cached"]
    assert "left out of the evaluation" in str(view)
