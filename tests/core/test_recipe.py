"""Recipes: what is accepted, what is refused, and with which sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quanttaas_jupyter.core import catalogue
from quanttaas_jupyter.core.errors import RecipeError
from quanttaas_jupyter.core.recipe import (
    IMPORTANCES,
    Budget,
    Goal,
    Latency,
    Prune,
    Recipe,
    Recover,
)

EXAMPLE = """
prune:    [0, 0.3, 0.5]
quantize: [none, fp16, int8]
goal:     {minimize: size, max_drop: 0.01}
"""


PATTERNS = [name for name, method in catalogue.techniques("prune").items() if not method.has_amounts]


def refusal(source: Any) -> str:
    """The sentence that refuses a recipe, which must read as one."""
    with pytest.raises(RecipeError) as caught:
        Recipe.parse(source)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 400
    for noise in ("Traceback", "pydantic", "errors.pydantic.dev", "Value error", "type=", "input_value"):
        assert noise not in sentence
    return sentence


class TestReading:
    def test_the_example_of_the_design(self) -> None:
        recipe = Recipe.parse(EXAMPLE)
        assert recipe.prune == (Prune(amount=0), Prune(amount=0.3), Prune(amount=0.5))
        assert recipe.quantize == ("none", "fp16", "int8")
        assert recipe.goal == Goal(minimize="size", max_drop=0.01)

    def test_nothing_means_the_default(self) -> None:
        empty: dict[str, Any] = {}
        for nothing in (None, "", "  \n", "# only a comment", empty):
            assert Recipe.parse(nothing) == Recipe()

    def test_a_recipe_is_itself(self) -> None:
        recipe = Recipe.parse(EXAMPLE)
        assert Recipe.parse(recipe) is recipe

    def test_yaml_mapping_and_file_mean_the_same(self, tmp_path: Path) -> None:
        path = tmp_path / "recipe.yaml"
        path.write_text(EXAMPLE, encoding="utf-8")
        mapping = {
            "prune": [0, 0.3, 0.5],
            "quantize": ["none", "fp16", "int8"],
            "goal": {"minimize": "size", "max_drop": 0.01},
        }
        assert Recipe.parse(EXAMPLE) == Recipe.parse(mapping) == Recipe.parse(path)

    def test_a_single_value_needs_no_brackets(self) -> None:
        recipe = Recipe.parse("{prune: 0.5, quantize: int8, runtime: torch, ignore: head}")
        assert recipe.prune == (Prune(amount=0.5),)
        assert recipe.quantize == ("int8",)
        assert recipe.runtime == ("torch",)
        assert recipe.ignore == ("head",)

    def test_a_single_pruning_with_a_method_needs_no_brackets(self) -> None:
        expected = (Prune(method="2:4", amount=0.5),)
        assert Recipe.parse("prune: {method: '2:4', amount: 0.5}").prune == expected

    @pytest.mark.parametrize("text", ["'2:4'", "2:4"])
    def test_yaml_may_leave_the_quotes_of_two_to_four_out(self, text: str) -> None:
        recipe = Recipe.parse(f"prune: [{{method: {text}, amount: 0.5}}]")
        assert recipe.prune == (Prune(method="2:4", amount=0.5),)

    @pytest.mark.parametrize("method", PATTERNS)
    def test_patterns_need_no_amount(self, method: str) -> None:
        assert Recipe.parse(f"prune: [{method}]").prune == (Prune(method=method, amount=0.5),)

    def test_what_is_named_twice_is_tried_once(self) -> None:
        recipe = Recipe.parse("{prune: [0.5, 0.50, 0], quantize: [int8, none, int8], runtime: [torch, torch]}")
        assert recipe.prune == (Prune(amount=0.5), Prune(amount=0))
        assert recipe.quantize == ("int8", "none")
        assert recipe.runtime == ("torch",)

    def test_a_null_quantization_is_none(self) -> None:
        assert Recipe.parse("quantize: [~, null, int8]").quantize == ("none", "int8")

    def test_a_null_pruning_is_refused_not_guessed(self) -> None:
        assert "None is not a number" in refusal({"prune": [None]})

    def test_recovery_by_name_or_with_settings(self) -> None:
        assert Recipe.parse("recover: distill").recover == Recover(method="distill")
        expected = Recover(method="distill", epochs=3, lr=0.001)
        # YAML 1.1 would take 1e-3 for a word.
        assert Recipe.parse("recover: {method: distill, epochs: 3, lr: 1e-3}").recover == expected

    def test_a_recipe_cannot_be_changed(self) -> None:
        with pytest.raises(Exception, match="frozen"):
            Recipe().seed = 1


class TestRefusing:
    @pytest.mark.parametrize(
        ("recipe", "parts"),
        [
            ("prunee: 0.5", ["unknown key 'prunee' in the recipe", "did you mean 'prune'?"]),
            ("xyzzy: 1", ["unknown key 'xyzzy'", "known keys are prune, recover, quantize"]),
            ("1: 2", ["unknown key 1"]),
            ("quantize: [int9]", ["quantize", "unknown quantization 'int9'", "did you mean 'int8'?"]),
            ("quantize: [zzz]", ["known are none, fp16, bf16"]),
            ("runtime: onnxruntim", ["unknown runtime", "did you mean 'onnxruntime'?"]),
            ("recover: distil", ["unknown recover method 'distil'", "did you mean 'distill'?"]),
            ("search: gird", ["search", "'grid'", "'gird'"]),
            ("goal: {max_dorp: 1}", ["unknown key 'max_dorp' in goal", "did you mean 'max_drop'?"]),
            ("goal: {qqq: 1}", ["known keys are minimize, max_drop"]),
            ("goal: {minimize: speed}", ["goal.minimize", "'size'", "'latency'", "'speed'"]),
            ("latency: {bacth: 1}", ["unknown key 'bacth' in latency", "did you mean 'batch'?"]),
            ("budget: {minute: 1}", ["unknown key 'minute' in budget", "did you mean 'minutes'?"]),
            ("recover: {method: qat, epoch: 1}", ["unknown key 'epoch' in recover", "did you mean 'epochs'?"]),
            ("prune: [{amout: 0.5}]", ["amout", "amount"]),
            ("prune: [{amount: 0.5, mehtod: structured}]", ["'mehtod'", "did you mean 'method'?"]),
            ("prune: [{method: unstructred, amount: 0.5}]", ["did you mean 'unstructured'?"]),
            ("prune: [{method: structured}]", ["prune.0.amount"]),
            ("recover: {epochs: 3}", ["recover.method"]),
        ],
    )
    def test_typos_and_gaps(self, recipe: str, parts: list[str]) -> None:
        sentence = refusal(recipe)
        for part in parts:
            assert part in sentence

    @pytest.mark.parametrize("amount", [1, 1.0, -0.1, 1.5, 30, 100, 1e308, 10**400])
    def test_amounts_outside_zero_to_one(self, amount: float) -> None:
        assert "in [0, 1)" in refusal({"prune": [amount]})

    def test_a_percentage_is_translated(self) -> None:
        assert "for 30 % write 0.3" in refusal("prune: [30]")

    @pytest.mark.parametrize("amount", [float("nan"), float("inf"), float("-inf")])
    def test_amounts_that_are_no_numbers(self, amount: float) -> None:
        assert "in [0, 1)" in refusal({"prune": amount})
        assert "in [0, 1)" in refusal({"prune": [{"amount": amount}]})

    @pytest.mark.parametrize("amount", [True, False, None, "0.5", "half", [0.5], object(), b"1"])
    def test_amounts_of_a_wrong_type(self, amount: Any) -> None:
        assert "is not a number" in refusal({"prune": [amount]})

    @pytest.mark.parametrize("key", ["prune", "quantize", "runtime"])
    def test_empty_lists(self, key: str) -> None:
        assert f"{key}: the list is empty" in refusal({key: []})

    @pytest.mark.parametrize(
        "text",
        [
            "prune: [0, 0.5",
            "prune: 0.5\n quantize: int8",
            "{a",
            "\t- x",
            "a: b: c",
            "prune: *missing",
            "x: !!python/object:os.system {}",
            "x: !unknown y",
            "a: 1\n---\nb: 2",
            "prune: \x00",
            "? [a]\n: b",
            "? {a: b}\n: c",
            "{[1, 2]: 3}",
            "seed: 2026-99-99",
            "[" * 5000,
        ],
    )
    def test_broken_yaml(self, text: str) -> None:
        sentence = refusal(text)
        assert "YAML" in sentence or "unknown key" in sentence

    def test_broken_yaml_says_the_line(self) -> None:
        assert "line 2, column" in refusal("prune: 0.5\nquantize: a: b\n")

    @pytest.mark.parametrize("source", ["just words", "[1, 2]", "3", "true", [1], 3, b"prune: 0.5", object()])
    def test_what_is_no_mapping(self, source: Any) -> None:
        assert "a recipe is a mapping such as" in refusal(source)

    def test_a_file_that_cannot_be_read(self, tmp_path: Path) -> None:
        assert "cannot be read" in refusal(tmp_path / "missing.yaml")
        assert "cannot be read" in refusal(tmp_path)

    def test_a_file_that_is_no_text(self, tmp_path: Path) -> None:
        path = tmp_path / "recipe.yaml"
        path.write_bytes(b"prune: \xff\xfe")
        assert "cannot be read" in refusal(path)

    @pytest.mark.parametrize(
        "recipe",
        [
            {"seed": -1},
            {"seed": 2**31},
            {"seed": True},
            {"seed": None},
            {"seed": "7"},
            {"max_samples": 0},
            {"max_samples": 1.5},
            {"max_samples": True},
            {"goal": None},
            {"goal": "size"},
            {"goal": {"max_drop": -0.1}},
            {"goal": {"max_drop": float("nan")}},
            {"goal": {"max_drop": float("inf")}},
            {"goal": {"max_drop": True}},
            {"goal": {"max_drop": "1 %"}},
            {"goal": {"minimize": None}},
            {"latency": {"batch": 0}},
            {"latency": {"batch": True}},
            {"latency": {"threads": 0}},
            {"latency": 3},
            {"budget": {"trials": 0}},
            {"budget": {"minutes": 0}},
            {"budget": {"minutes": float("nan")}},
            {"recover": 3},
            {"recover": True},
            {"recover": {"method": "distill", "epochs": 0}},
            {"recover": {"method": "distill", "epochs": True}},
            {"recover": {"method": "distill", "lr": 0}},
            {"recover": {"method": "distill", "lr": float("nan")}},
            {"recover": {"method": "distill", "lr": float("inf")}},
            {"recover": {"method": None}},
            {"quantize": [8]},
            {"quantize": [True]},
            {"quantize": [["int8"]]},
            {"quantize": {"int8": 1}},
            {"runtime": None},
            {"runtime": [None]},
            {"ignore": None},
            {"ignore": [None]},
            {"ignore": 3},
            {"ignore": [True]},
            {"prune": {}},
            {"prune": None},
            {"search": None},
            {"search": True},
            {"prune": [{3: 4}]},
            {3: 4},
            {None: 1},
        ],
        ids=repr,
    )
    def test_wrong_values_and_types(self, recipe: Any) -> None:
        key = next(iter(recipe))
        assert str(key) in refusal(recipe)

    def test_the_sentence_stays_short_whatever_was_given(self) -> None:
        refusal({"seed": "x" * 10_000})
        refusal({"prune": ["x" * 10_000]})
        refusal({"quantize": ["x\n" * 10_000]})
        refusal({"x\n" * 10_000: 1})
        refusal({"goal": {"y\n" * 10_000: 1}})


amounts = st.floats(0, 1, exclude_max=True, allow_nan=False)
prunings = st.one_of(
    st.builds(Prune, method=st.sampled_from(("structured", "unstructured")), amount=amounts),
    st.builds(
        Prune,
        amount=amounts,
        importance=st.sampled_from(IMPORTANCES),
        scope=st.sampled_from(("global", "layer")),
        spread=st.floats(0, 2),
    ),
    st.builds(Prune, method=st.sampled_from(PATTERNS), amount=st.just(0.5)),
)
positive = st.floats(1e-9, 1e9, allow_nan=False)
names = st.text(min_size=1, max_size=20)
recipes = st.builds(
    Recipe,
    prune=st.lists(prunings, min_size=1, max_size=5),
    recover=st.none()
    | st.builds(
        Recover,
        method=st.sampled_from(catalogue.names("recover")),
        epochs=st.none() | st.integers(1, 1000),
        lr=st.none() | positive,
    ),
    quantize=st.lists(st.sampled_from(catalogue.names("quantize")), min_size=1, max_size=5),
    runtime=st.lists(st.sampled_from(catalogue.names("runtime")), min_size=1, max_size=3),
    goal=st.builds(Goal, minimize=st.sampled_from(["size", "latency"]), max_drop=st.floats(0, 1e6, allow_nan=False)),
    search=st.sampled_from(["grid", "auto"]),
    latency=st.builds(Latency, batch=st.integers(1, 512), threads=st.none() | st.integers(1, 256)),
    budget=st.builds(Budget, trials=st.none() | st.integers(1, 9999), minutes=st.none() | positive),
    ignore=st.lists(names, max_size=4),
    max_samples=st.integers(1, 10**9),
    seed=st.integers(0, 2**31 - 1),
)

# What YAML can hold, and what a person may put into a mapping.
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5) | st.integers() | st.none(), inner, max_size=3)
    ),
    max_leaves=6,
)
keys = st.sampled_from(list(Recipe.model_fields))


@given(recipes)
def test_a_recipe_survives_the_way_through_yaml(recipe: Recipe) -> None:
    assert Recipe.parse(recipe.to_yaml()) == recipe


@given(recipes)
def test_a_recipe_survives_the_way_through_json(recipe: Recipe) -> None:
    assert Recipe.parse(recipe.model_dump(mode="json")) == recipe


@given(st.dictionaries(keys | st.text(max_size=8), anything, max_size=3))
def test_any_mapping_is_a_recipe_or_one_sentence(mapping: dict[str, Any]) -> None:
    try:
        recipe = Recipe.parse(mapping)
    except RecipeError:
        refusal(mapping)
    else:
        assert Recipe.parse(recipe.to_yaml()) == recipe


@given(keys, st.sampled_from(["method", "amount", "epochs", "lr", "minimize", "max_drop", "batch", "trials"]), anything)
def test_any_value_in_a_part_is_a_recipe_or_one_sentence(key: str, inner: str, value: Any) -> None:
    for mapping in ({key: {inner: value}}, {key: [{inner: value}]}):
        try:
            Recipe.parse(mapping)
        except RecipeError:
            refusal(mapping)


@given(st.text(max_size=60) | st.text(alphabet="prune: [0.5]{}-\n'\"&*!|>%@#,?~", max_size=40))
def test_any_text_is_a_recipe_or_one_sentence(text: str) -> None:
    try:
        Recipe.parse(text)
    except RecipeError:
        refusal(text)


def test_the_default_is_an_empty_yaml() -> None:
    assert Recipe().to_yaml() == ""


def test_yaml_of_a_recipe_reads_as_people_write_it() -> None:
    recipe = Recipe.parse("{prune: [0, {method: unstructured, amount: 0.8}], recover: distill, budget: {trials: 5}}")
    assert recipe.to_yaml() == (
        "prune:\n- 0.0\n- {method: unstructured, amount: 0.8}\nrecover: {method: distill}\n"
        "quantize: [none, fp16, int8]\nbudget: {trials: 5}\n"
    )


@pytest.mark.parametrize(
    ("given", "search"),
    [
        (None, "auto"),
        ({"goal": {"max_drop": 0.02}}, "auto"),
        ({"prune": [0.5]}, "grid"),
        ({"quantize": "int8"}, "grid"),
        ({"search": "grid"}, "grid"),
        ({"search": "auto", "quantize": ["int8", "mixed"]}, "auto"),
    ],
)
def test_who_names_no_combination_gets_a_search(given: Any, search: str) -> None:
    assert Recipe.parse(given).search == search


def test_two_of_four_needs_no_amount_and_takes_no_other() -> None:
    assert Recipe.parse("prune: [2:4]").prune == (Prune(method="2:4", amount=0.5),)
    assert "its amount is 0.5" in refusal("prune: {method: 2:4, amount: 0.3}")


def test_options_of_structured_pruning_are_refused_elsewhere() -> None:
    assert "spread belongs to structured pruning" in refusal(
        {"prune": {"method": "unstructured", "amount": 0.5, "spread": 1.0}}
    )
    assert "unknown importance 'tailor'; did you mean 'taylor'?" in refusal(
        {"prune": {"amount": 0.5, "importance": "tailor"}}
    )


def test_a_function_of_the_notebook_may_recover() -> None:
    def mine(model: Any, teacher: Any, batches: Any) -> None: ...

    recover = Recipe.parse({"recover": mine}).recover
    assert recover is not None
    assert (recover.method, recover.name) == ("callable", "mine")
    assert "give a function" in refusal("recover: callable")
