"""A technique is one file: taken out, nothing knows its name; put in again from another package, all do."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator

import pytest

from quanttaas_jupyter.core import catalogue
from quanttaas_jupyter.core.errors import RecipeError
from quanttaas_jupyter.core.fingerprint import reachable
from quanttaas_jupyter.core.recipe import Recipe
from quanttaas_jupyter.core.records.trial import TrialConfig
from quanttaas_jupyter.notebook.completion import recipe_matches
from quanttaas_jupyter.planning.plan import Planner
from quanttaas_jupyter.planning.search.first_trials import likely_quantizations
from quanttaas_jupyter.server.form_choices import options
from quanttaas_jupyter.techniques.quantize import QUANTIZERS, Quantized
from quanttaas_jupyter.views import format as fmt
from tests.planning.test_plan import record

PLUGIN, NAME, RUNTIME = "tests.techniques.plugin.smoothquant", "int8-smoothquant", "onnxruntime-cuda"
LINEAR = {"linear": 100}


@pytest.fixture
def without() -> Iterator[None]:
    """The package as if the technique had never been written."""
    technique = catalogue.techniques("quantize")[NAME]
    keys = [key for key in QUANTIZERS.keys() if key[0] == NAME]  # noqa: SIM118
    entries = {key: QUANTIZERS.unregister(key) for key in keys}
    yield
    if QUANTIZERS.find((NAME, RUNTIME)) is not None:
        QUANTIZERS.unregister((NAME, RUNTIME))
    sys.modules.pop(PLUGIN, None)
    for key, entry in entries.items():
        QUANTIZERS.register(key, technique, entry.needs, entry.extra)(entry.value)


def offered() -> dict[str, str]:
    return {item["name"]: item["help"] for item in options("local")["quantizations"]}


def proposed() -> list[str]:
    return likely_quantizations(LINEAR, catalogue.names("quantize"))


def test_a_technique_that_was_taken_out_is_known_nowhere(without: None) -> None:
    with pytest.raises(RecipeError, match="unknown quantization 'int8-smoothquant'"):
        Recipe.parse({"quantize": [NAME]})
    assert NAME not in offered()
    assert NAME not in recipe_matches(["quantize: [int8-s"], "int8-s")
    assert NAME not in proposed()
    assert NAME not in Recipe.parse(None).quantize
    assert fmt.color_of(NAME) == catalogue.UNKNOWN_COLOR


def test_a_technique_of_another_package_is_known_everywhere_once_its_module_is_imported(without: None) -> None:
    importlib.import_module(PLUGIN)
    recipe = {"quantize": [NAME], "runtime": RUNTIME}
    assert Recipe.parse(recipe).quantize == (NAME,)
    assert offered()[NAME] == "a new name, from another package"
    assert NAME in recipe_matches(["quantize: [int8-s"], "int8-s")
    assert proposed()[:2] == ["int8", NAME]
    assert NAME in Recipe.parse(None).quantize
    assert fmt.color_of(NAME) == "#FFC14D"
    planner = Planner(record(recipe))
    planner.add(TrialConfig.baseline(RUNTIME))
    trial = planner.add(TrialConfig(None, NAME, RUNTIME))
    assert trial.name == NAME
    assert planner.plan.stages[trial.build].kind == "quantize"


def test_the_key_of_a_technique_of_another_package_follows_from_its_imports_too(without: None) -> None:
    importlib.import_module(PLUGIN)
    assert {PLUGIN, "quanttaas_jupyter.techniques.quantize.modelopt_scales"} <= reachable(PLUGIN)


def test_a_name_is_described_once() -> None:
    with pytest.raises(ValueError, match="'int8' is described twice"):
        catalogue.describe("quantize", "int8", catalogue.Technique(help="something else", makes_integers=True))


def test_a_quantization_says_whether_it_makes_integers() -> None:
    with pytest.raises(ValueError, match="quantize 'own': say makes_integers=True or makes_integers=False"):
        QUANTIZERS.register(("own", RUNTIME), catalogue.Technique(help="something"))(lambda job: Quantized())
    assert QUANTIZERS.find(("own", RUNTIME)) is None


def test_training_with_float8_is_for_modelopt() -> None:
    with pytest.raises(ValueError, match="only ModelOpt's quantizers train with fp8"):
        catalogue.Rounding("fp8")


def test_every_technique_says_what_it_does_in_one_line() -> None:
    for kind in catalogue.KINDS:
        for name, technique in catalogue.techniques(kind).items():
            assert technique.help, name
            assert "\n" not in technique.help
            assert len(technique.help) <= 100
