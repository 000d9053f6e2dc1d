"""The form of a recipe: what it offers, the cell that it stands for, what is wrong with it, what it would do."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quanttaas_jupyter.core import catalogue
from quanttaas_jupyter.core.recipe import Recipe
from quanttaas_jupyter.core.records.trial import Pruning
from quanttaas_jupyter.core.variable_names import parse
from quanttaas_jupyter.notebook import magics
from quanttaas_jupyter.server import form_choices
from quanttaas_jupyter.server.access_policy import AccessPolicy
from quanttaas_jupyter.server.dry_run import plan
from quanttaas_jupyter.server.recipe_form import Form, check
from quanttaas_jupyter.server.settings import QuantTaaS
from tests.server import contract
from tests.server.conftest import House

POLICY = AccessPolicy(QuantTaaS())


def form(**values: Any) -> Form:
    return Form(**{"model": "model", "data": "test_loader", **values})


def cell(**values: Any) -> str:
    checked = check(form(**values), POLICY)
    assert checked["problems"] == []
    return str(checked["cell"])


def problems(**values: Any) -> dict[str, str]:
    return {item["field"]: item["text"] for item in check(form(**values), POLICY)["problems"]}


def read(text: str) -> tuple[Any, Recipe]:
    """What the magic makes of a cell: the arguments, and the recipe."""
    first, _, body = text.partition("\n")
    words = magics._split(first.lstrip("%").removeprefix("quanttaas").strip())
    if first.startswith("%%"):
        return magics._parse("compress", words), Recipe.parse(body)
    assert words[0] == "compress"
    return magics._parse("compress", words[1:]), Recipe()


def test_the_service_says_what_there_is_and_what_a_form_starts_with(house: House) -> None:
    service = house.client.get("service").json
    contract.check(service, "Service")
    assert service["clusters"] == [{"name": "local", "title": "this machine"}, {"name": "far", "title": "far"}]
    assert service["stores"] == [house.store.uri, house.far.uri]
    assert service["can_run"]
    started = {**service["form"]["start"], "model": "model", "data": "test_loader"}
    checked = house.client.post("recipe/validate", started).json
    contract.check(checked, "Checked")
    assert checked["ok"]
    assert checked["cell"] == (
        "%%quanttaas model --data test_loader -o study\nprune:    [0, 0.3, 0.5]\nquantize: [none, fp16, int8]"
    )
    planned = house.client.post("recipe/plan", started).json
    contract.check(planned, "Planned")
    assert planned["words"] == f"9 trials, {planned['stages']} stages"


def test_every_choice_has_a_line_of_help_and_is_accepted() -> None:
    offered = form_choices.options("local")
    for kind in ("quantizations", "methods", "runtimes", "searches", "recoveries", "minimize"):
        assert offered[kind]
        assert all(item["help"] for item in offered[kind])
    names = {kind: [item["name"] for item in offered[kind]] for kind in offered if kind not in ("metrics", "start")}
    for name in names["quantizations"]:
        assert any(problems(quantize=[name], runtime=[runtime]) == {} for runtime in names["runtimes"]), name
    for field, kind in (("method", "methods"), ("search", "searches"), ("recover", "recoveries")):
        for name in names[kind]:
            assert problems(**{field: name}) == {}
    for name in names["runtimes"]:
        assert problems(runtime=[name], quantize=["none"]) == {}
    assert set(names["quantizations"]) == set(catalogue.names("quantize"))


def test_only_what_differs_from_the_default_is_written() -> None:
    text = cell(
        train="train_loader",
        calibration="loaders['my set']",
        metric="f1_score",
        method="2:4",
        quantize=["none", "int8"],
        recover="qat",
        minimize="latency",
        max_drop=0.02,
        name="second try",
        out="",
    )
    assert text.splitlines() == [
        "%%quanttaas model --data test_loader --calibration loaders['my set'] --train train_loader "
        '--metric f1_score --name "second try"',
        "prune:    [0, '2:4']",
        "quantize: [none, int8]",
        "recover:  qat",
        "goal:     {minimize: latency, max_drop: 0.02}",
    ]
    args, recipe = read(text)
    assert args.calibration == "loaders['my set']"
    assert args.name == "second try"
    assert [prune.pruning for prune in recipe.prune] == [None, Pruning("2:4", 0.5)]
    assert recipe.goal.max_drop == 0.02


def test_what_a_person_says_of_task_and_batches_reaches_the_magic() -> None:
    said = {
        "task": "segmentation",
        "labels": "mask, 2",
        "output": "logits",
        "batch_dim": 1,
        "ignore_label": -100,
        "postprocess": "tools.largest",
    }
    args, _ = read(cell(**said))
    assert {key: getattr(args, key) for key in said} == {**said, "labels": "mask,2"}
    args, _ = read(cell(batch_dim=0, output="0"))
    assert (args.batch_dim, args.output) == (0, "0")


def test_a_search_without_anything_to_say_is_a_line_as_a_cell_must_have_a_body() -> None:
    assert cell(search="auto") == "%quanttaas compress model --data test_loader -o study"
    text = cell(search="auto", max_drop=0.05)
    assert text.splitlines()[1:] == ["search: auto", "goal:   {max_drop: 0.05}"]
    assert read(text)[1].search == "auto"


def test_a_configured_cluster_and_store_are_options(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in house.environment().items():
        monkeypatch.setenv(name, value)
    far = house.far.uri
    assert "--on" not in cell(cluster="local")
    assert "--on far" in cell(cluster="far").splitlines()[0]
    assert "--store" not in cell(cluster="far", store=far)
    assert f"--store {far}" in cell(cluster="local", store=far)
    assert "it may use" in problems(cluster="near")["cluster"]
    assert "it may use" in problems(store="/etc")["store"]


def test_a_store_that_a_cluster_cannot_reach_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.yaml").write_text("clusters: {l4: {address: 'http://10.0.0.1:8265'}}")
    monkeypatch.setenv("QUANTTAAS_CONFIG", str(tmp_path / "config.yaml"))
    assert "cannot reach" in problems(cluster="l4")["store"]


def test_every_wrong_field_is_told_at_once() -> None:
    found = problems(
        model="make()",
        data="",
        train="a b",
        amounts=[0.3, 30],
        quantize=["int"],
        runtime=["tensorflow"],
        recover="hope",
        minimize="cost",
        max_drop=-1,
        search="all",
        cluster="moon",
        store="/elsewhere",
        name='a"b',
        out="1st",
    )
    assert found.keys() == {
        *("model", "data", "train", "amounts", "quantize", "runtime", "recover", "minimize", "max_drop", "search"),
        *("cluster", "store", "name", "out"),
    }
    assert "for 30 % write 0.3" in found["amounts"]
    assert "did you mean 'int8'" in found["quantize"]
    assert "unknown runtime 'tensorflow'" in found["runtime"]


@pytest.mark.parametrize(
    ("values", "field", "says"),
    [
        ({"amounts": []}, "amounts", "the list is empty"),
        ({"amounts": [float("nan")]}, "amounts", "in [0, 1)"),
        ({"method": "random"}, "method", "unknown prune method"),
        ({"quantize": ["fp8"]}, "quantize", "not built yet for onnxruntime"),
        ({"runtime": ["torch"], "quantize": ["mixed"]}, "quantize", "not built yet for torch"),
        ({"max_drop": None}, "max_drop", "give how much"),
        ({"max_drop": float("inf")}, "max_drop", "finite"),
        ({"data": "loaders['a$b']"}, "data", "signs"),
        ({"data": "x" * 400 + "("}, "data", "not a variable"),
        ({"name": "-x"}, "name", "simple signs"),
        ({"name": "{secret}"}, "name", "simple signs"),
        ({"name": "a\nb"}, "name", "simple signs"),
        ({"out": "class"}, "out", "variable"),
        ({"output": "logits --store /etc"}, "output", "the name of an output"),
        ({"postprocess": "make()"}, "postprocess", "is more than a variable"),
    ],
)
def test_a_wrong_field_is_told_in_one_sentence(values: dict[str, Any], field: str, says: str) -> None:
    found = problems(**values)
    assert list(found) == [field]
    assert says in found[field]


@settings(max_examples=60, deadline=None)
@given(
    name=st.text(max_size=30),
    data=st.sampled_from(
        ["x", "loaders[0]", 'sets["my test"]', "(a, b)", "a,b", "config.data", "x[-1]", "x['a']['b']"]
    ),
    amounts=st.lists(st.floats(0, 0.99), min_size=1, max_size=4),
    max_drop=st.floats(0, 1),
)
def test_the_magic_reads_back_what_the_form_said(name: str, data: str, amounts: list[float], max_drop: float) -> None:
    asked = form(name=name, data=data, amounts=amounts, max_drop=max_drop)
    checked = check(asked, POLICY)
    if not checked["ok"]:
        assert {item["field"] for item in checked["problems"]} == {"name"}
        return
    args, recipe = read(checked["cell"])
    assert (args.name or "") == name.strip()
    assert ast.dump(parse(args.data)) == ast.dump(parse(data))
    assert [prune.amount for prune in recipe.prune] == list(dict.fromkeys(round(amount, 6) for amount in amounts))
    assert recipe.goal.max_drop == max_drop
    assert args.out == "study"


def test_a_plan_needs_neither_model_nor_data_and_says_that_a_search_goes_on() -> None:
    grid = plan(Form(amounts=[0.0, 0.5], quantize=["none", "int8"], train="t"))
    assert grid["trials"] == ["baseline", "int8", "prune50", "prune50-int8"]
    assert grid["notes"] == []
    auto = plan(Form(search="auto"))
    assert auto["trials"] == ["baseline"]
    assert "proposes further trials" in auto["notes"][0]
    assert auto["words"].endswith("to begin with")


def test_a_wrong_recipe_has_no_plan(house: House) -> None:
    answer = house.client.post("recipe/plan", {"quantize": ["int"]})
    assert answer.status == 400
    assert "unknown quantization 'int'" in answer.json["message"]


def test_nothing_of_the_server_imports_torch() -> None:
    code = (
        "import sys; import quanttaas_jupyter.server.extension\n"
        "from quanttaas_jupyter.server import dry_run, form_choices\n"
        "from quanttaas_jupyter.server.recipe_form import Form; form_choices.options('local'); dry_run.plan(Form());"
        "dry_run.plan(Form(search='auto')); print(' '.join(sys.modules))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "IPython", "onnxruntime", "ray", "matplotlib", "pandas"} & set(loaded)
