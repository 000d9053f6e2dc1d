"""Tab in a real IPython shell, through the interfaces that kernels and terminals use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import IPython
import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

from quanttaas_jupyter.client import api
from quanttaas_jupyter.client.study import Study
from quanttaas_jupyter.core.catalogue import names
from quanttaas_jupyter.core.config import ClusterConfig, save_cluster
from quanttaas_jupyter.core.errors import NotFound, StoreError
from quanttaas_jupyter.core.recipe import Recipe
from quanttaas_jupyter.notebook import magics
from quanttaas_jupyter.notebook.completion import recipe_matches

TRIALS = ("baseline", "prune50", "prune50-int8", "2:4-int8", "int8@torch", "int8@onnxruntime")


class ListedStudy(Study):
    """A study with no store behind it."""

    def __init__(self, name: str) -> None:
        self.id = name

    @property
    def trials(self) -> list[Any]:
        return [SimpleNamespace(name=name) for name in TRIALS]


class Touchy:
    """An object of the notebook that raises whatever one asks it."""

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise RuntimeError("do not touch")


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    torch = pytest.importorskip("torch")
    loader = torch.utils.data.DataLoader([1, 2])
    infos = [SimpleNamespace(id="7f3a"), SimpleNamespace(id="7b00"), SimpleNamespace(id="c0de")]

    def open(name: str, store: str | None = None) -> Study:
        if name != "7f3a":
            raise NotFound(f"no study {name}")
        return ListedStudy(name)

    monkeypatch.setattr(api, "warm", lambda: None)
    monkeypatch.setattr(api, "studies", lambda store=None: infos[2:] if store == "/elsewhere" else infos)
    monkeypatch.setattr(api, "open", open)
    made = InteractiveShell()
    magics.load(made)
    made.push(
        {
            "model": torch.nn.Linear(2, 2),
            "model_class": torch.nn.Linear,
            "mono": 1,
            "test_loader": loader,
            "test_pair": (torch.zeros(2), torch.zeros(2)),
            "test_batches": [(torch.zeros(2), torch.zeros(2))],
            "test_count": 3,
            "test_names": ["a"],
            "my_metric": lambda outputs, targets: 1.0,
            "my_number": 1,
            "study": ListedStudy("7f3a"),
            "touchy": Touchy(),
        }
    )
    yield made
    magics.unload(made)
    made.history_manager.end_session()


def tab(shell: InteractiveShell, line: str) -> list[str]:
    """What Tab at the end of a line offers, as IPython's older interface answers."""
    return list(shell.complete("", line, len(line))[1])


def tab_in_cell(shell: InteractiveShell, cell: str) -> list[str]:
    """The lines that Tab at the end of a cell can lead to, as JupyterLab asks."""
    with provisionalcompleter():
        found = list(shell.Completer.completions(cell, len(cell)))
    return [(cell[: one.start] + one.text).split("\n")[-1] for one in found]


@pytest.mark.parametrize("magic", ["%quanttaas", "quanttaas"])
class TestLine:
    def test_commands(self, shell: InteractiveShell, magic: str) -> None:
        assert tab(shell, f"{magic} st") == ["studies", "status"]
        assert tab(shell, f"{magic} ") == list(magics.COMMANDS)

    def test_models_and_nothing_else(self, shell: InteractiveShell, magic: str) -> None:
        assert tab(shell, f"{magic} compress mo") == ["model"]

    def test_data(self, shell: InteractiveShell, magic: str) -> None:
        expected = ["test_loader", "test_pair", "test_batches"]
        for option in ("--data", "--calibration", "--train"):
            assert tab(shell, f"{magic} compress model {option} te") == expected

    def test_options_that_are_not_given_yet(self, shell: InteractiveShell, magic: str) -> None:
        assert tab(shell, f"{magic} compress model --da") == ["--data"]
        assert tab(shell, f"{magic} compress model --data test_loader --da") != ["--data"]
        assert "--out" in tab(shell, f"{magic} load 7f3a int8 -")

    def test_options_follow_when_nothing_else_is_expected(self, shell: InteractiveShell, magic: str) -> None:
        assert "--train" in tab(shell, f"{magic} compress model ")

    def test_metrics_of_the_notebook(self, shell: InteractiveShell, magic: str) -> None:
        assert tab(shell, f"{magic} compress model --metric my") == ["my_metric"]

    def test_study_ids_and_variables_that_hold_studies(self, shell: InteractiveShell, magic: str) -> None:
        for command in ("status", "attach", "cancel", "resume", "logs", "load", "export"):
            assert tab(shell, f"{magic} {command} 7") == ["7f3a", "7b00"]
        assert tab(shell, f"{magic} attach stu") == ["study"]

    def test_studies_of_the_store_that_is_named(self, shell: InteractiveShell, magic: str) -> None:
        assert tab(shell, f"{magic} attach --store /elsewhere c") == ["c0de"]

    def test_trials(self, shell: InteractiveShell, magic: str) -> None:
        for study in ("7f3a", "study"):
            assert tab(shell, f"{magic} load {study} pru") == ["prune50", "prune50-int8"]
            assert tab(shell, f"{magic} export {study} prune50-") == ["prune50-int8"]

    def test_trials_with_characters_that_end_a_word_of_python(self, shell: InteractiveShell, magic: str) -> None:
        assert tab(shell, f"{magic} load 7f3a 2:") == ["4-int8"]
        assert tab(shell, f"{magic} load 7f3a int8@t") == ["torch"]

    def test_actions_of_the_cluster(self, shell: InteractiveShell, magic: str) -> None:
        assert tab(shell, f"{magic} cluster st") == ["start", "stop", "status"]
        assert tab(shell, f"{magic} cluster template g") == ["gce", "gke"]

    def test_configured_clusters(self, shell: InteractiveShell, magic: str, home: Path) -> None:
        save_cluster("l4", ClusterConfig(address="http://127.0.0.1:8265"))
        assert tab(shell, f"{magic} compress model --on l") == ["local", "l4"]
        assert tab(shell, f"{magic} cluster stop l") == ["l4"]

    def test_a_blank_inside_quotes_does_not_end_a_word(self, shell: InteractiveShell, magic: str) -> None:
        assert tab(shell, f"{magic} compress --name 'two words' mo") == ["model"]


def test_the_cell_magic_completes_as_compress_does(shell: InteractiveShell) -> None:
    assert tab(shell, "%%quanttaas mo") == ["model"]
    assert tab(shell, "%%quanttaas model --data test_l") == ["test_loader"]
    assert tab(shell, "%%quanttaas model --dr") == ["--dry-run"]


def test_a_line_in_the_middle_of_a_cell_completes(shell: InteractiveShell) -> None:
    assert tab_in_cell(shell, "x = 1\n%quanttaas compress mo")[0] == "%quanttaas compress model"


@pytest.mark.skipif(IPython.version_info < (8, 6), reason="this IPython always adds what Jedi finds")
def test_python_s_own_words_are_kept_out(shell: InteractiveShell) -> None:
    assert tab_in_cell(shell, "%quanttaas ") == [f"%quanttaas {command}" for command in magics.COMMANDS]


def test_hooks_serve_an_older_ipython(shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> None:
    magics.unload(shell)
    monkeypatch.delattr("IPython.core.completer.context_matcher", raising=False)
    magics.load(shell)
    assert tab(shell, "%quanttaas st") == ["studies", "status"]
    assert tab(shell, "quanttaas compress mo") == ["model"]
    assert tab(shell, "%%quanttaas model --data test_l") == ["test_loader"]
    assert tab(shell, "%quanttaas load 7f3a int8@t") == ["torch"]
    assert tab(shell, "quantize: [none, int8-d") == ["int8-dynamic"]
    magics.unload(shell)
    assert "studies" not in tab(shell, "%quanttaas st")
    assert "int8-dynamic" not in tab(shell, "quantize: [none, int8-d")


def test_the_magic_itself_completes(shell: InteractiveShell) -> None:
    assert "%quanttaas" in tab(shell, "%quan")


def test_a_store_that_cannot_be_reached_costs_only_the_suggestions(
    shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def studies(store: str | None = None) -> None:
        raise StoreError("no network")

    monkeypatch.setattr(api, "studies", studies)
    assert tab(shell, "%quanttaas attach stu") == ["study"]
    tab(shell, "%quanttaas attach 7")
    tab(shell, "%quanttaas load 7b00 pru")
    assert capsys.readouterr() == ("", "")


@pytest.mark.skipif(IPython.version_info < (8, 6), reason="this IPython shows completers one line only")
def test_installing_twice_offers_everything_once(shell: InteractiveShell) -> None:
    magics.load(shell)
    assert tab(shell, "%quanttaas compress mo") == ["model"]
    assert tab_in_cell(shell, "%%quanttaas model\nquan") == ["quantize: "]


def test_after_unloading_nothing_of_ours_is_offered(shell: InteractiveShell) -> None:
    magics.unload(shell)
    assert "compress" not in tab(shell, "%quanttaas com")
    assert "quantize: " not in tab_in_cell(shell, "%%quanttaas model\nquan")


@pytest.mark.skipif(IPython.version_info < (8, 6), reason="this IPython shows completers one line only")
class TestRecipeInTheCell:
    def test_keys_and_values(self, shell: InteractiveShell) -> None:
        head = "%%quanttaas model --data test_loader\n"
        assert tab_in_cell(shell, f"{head}") == [f"{key}: " for key in Recipe.model_fields]
        assert tab_in_cell(shell, f"{head}quan") == ["quantize: "]
        assert tab_in_cell(shell, f"{head}prune: [0]\nsearch: a") == ["search: auto"]
        assert tab_in_cell(shell, f"{head}prune:\n  - {{method: 2:") == [
            "  - {method: 2:4",
            "  - {method: 2:4-modelopt",
        ]

    def test_no_other_cell_is_touched(self, shell: InteractiveShell) -> None:
        assert "quantize: " not in tab_in_cell(shell, "x = 1\nquan")
        assert "int8" not in tab_in_cell(shell, "%%writefile recipe.yaml\nquantize: [in")

    def test_blank_lines_above_the_magic_do_not_matter(self, shell: InteractiveShell) -> None:
        assert tab_in_cell(shell, "\n\n%%quanttaas model\nquan") == ["quantize: "]


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("re", ["recover: "]),
        ("quantize: [none, int8-d", ["int8-dynamic"]),
        ("quantize:\n  - int8-", [name for name in names("quantize") if name.startswith("int8-")]),
        ("quantize:\n- f", [name for name in names("quantize") if name.startswith("f")]),
        ("recover: d", ["distill"]),
        ("recover: {method: q", ["qat"]),
        ("recover: {method: distill, ep", ["epochs: "]),
        ("runtime: [torch, op", ["openvino"]),
        ("goal: {minimize: ", ["size", "latency"]),
        ("goal: {minimize: size, max", ["max_drop: "]),
        ("goal:\n  max", ["max_drop: "]),
        ("goal:\n  minimize: l", ["latency"]),
        ("prune: [0.3, {me", ["method: "]),
        ("prune:\n  - me", ["method: "]),
        ("prune:\n  - method: un", ["unstructured"]),
        ("prune:\n  - method: structured\n    am", ["amount: "]),
        ("budget: {", ["trials: ", "minutes: "]),
        ("seed: 1", []),
        ("ignore: [la", []),
        ("nonsense: x", []),
        ("  x", []),
    ],
)
def test_what_may_follow_in_a_recipe(recipe: str, expected: list[str]) -> None:
    lines = recipe.split("\n")
    typed: Any = lines[-1].replace("[", " ").replace("{", " ").split(" ")[-1]
    assert recipe_matches(lines, typed) == expected
