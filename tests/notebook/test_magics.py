"""The magics in a real IPython shell; only what would reach an engine is replaced."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbclient
import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell

from quanttaas_jupyter.client import api
from quanttaas_jupyter.client.study import Study
from quanttaas_jupyter.core.config import ClusterConfig, load_config, save_cluster
from quanttaas_jupyter.core.errors import ModelError, NotFound, StudyFailed
from quanttaas_jupyter.core.state import LogLine, StudyState
from quanttaas_jupyter.notebook import magics

REAL_COMPRESS = api.compress


class FakeTrial:
    def __init__(self, name: str) -> None:
        self.name, self.model = name, object()

    def load(self) -> object:
        return self.model

    def export(self, path: str) -> Path:
        return Path(path).absolute()


class FakeStudy(Study):
    """A study with no store behind it, which notes what is asked of it."""

    def __init__(self, name: str = "7f3a", status: str = "running") -> None:
        self.id = name
        self.calls: list[str] = []
        log = (LogLine(0.0, "prune50: pruning"), LogLine(61.0, "int8: calibrating"))
        self.now = StudyState(id=name, status=status, log=log)
        self.known = {name: FakeTrial(name) for name in ("baseline", "prune50-int8")}

    @property
    def state(self) -> StudyState:
        return self.now

    def __getitem__(self, name: str) -> Any:
        if name not in self.known:
            raise NotFound(f"study {self.id} has no trial {name!r}")
        return self.known[name]

    def show(self, namespace: dict[str, Any] | None = None) -> None:
        self.calls.append("show")

    def cancel(self) -> None:
        self.calls.append("cancel")

    def resume(self, trusted: bool = False, force: bool = False) -> FakeStudy:
        self.calls.append("resume")
        return self

    def wait(self, timeout: float | None = None) -> FakeStudy:
        self.calls.append("wait")
        return self

    def __repr__(self) -> str:
        return f"Study {self.id}"

    def _repr_html_(self) -> str:
        return f"<b>{self.id}</b>"


class Kitchen:
    """A shell with the magics, the requests that reached the api, and the study it answers with."""

    def __init__(self, shell: InteractiveShell, capture: pytest.CaptureFixture[str]) -> None:
        self.shell, self._capture = shell, capture
        self.study = FakeStudy()
        self.requests: list[dict[str, Any]] = []

    def run(self, cell: str) -> str:
        """Run a cell that must succeed; what it printed."""
        result, text = self._run(cell)
        assert result.success, text
        return text

    def fail(self, cell: str) -> str:
        """Run a cell that must fail; the sentence it showed, which must be all it showed."""
        result, text = self._run(cell)
        assert not result.success
        assert "Traceback" not in text
        assert text.startswith("\x1b[31m"), text
        assert text.rstrip().endswith("\x1b[0m"), text
        assert len(text.strip().splitlines()) == 1, text
        return text

    def _run(self, cell: str) -> tuple[Any, str]:
        self._capture.readouterr()
        result = self.shell.run_cell(cell, store_history=True)
        output = self._capture.readouterr()
        return result, output.out + output.err


@pytest.fixture
def kitchen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Kitchen]:
    shell = InteractiveShell()
    made = Kitchen(shell, capsys)

    def compress(**request: Any) -> FakeStudy:
        made.requests.append(request)
        return made.study

    def open(name: str, store: str | None = None) -> FakeStudy:
        if name != made.study.id:
            raise NotFound(f"no study {name!r}")
        return made.study

    monkeypatch.setattr(api, "warm", lambda: None)
    monkeypatch.setattr(api, "compress", compress)
    monkeypatch.setattr(api, "open", open)
    magics.load(shell)
    shell.push({"model": "a model", "test_loader": "test data", "loaders": {"train": "train data", "my test": "t"}})
    yield made
    magics.unload(shell)
    shell.history_manager.end_session()


NOTHING_SAID = dict.fromkeys(("task", "labels", "output", "batch_dim", "ignore_label", "postprocess"))


class TestTheCell:
    def test_it_passes_variables_and_recipe_on_and_shows_the_study(self, kitchen: Kitchen) -> None:
        kitchen.run(
            '%%quanttaas model --data test_loader --train loaders["train"] --name digits --on local -o study\n'
            "prune: [0, 0.5]"
        )
        assert kitchen.requests == [
            {
                "model": "a model",
                "data": "test data",
                "recipe": "prune: [0, 0.5]\n",
                "calibration": None,
                "train": "train data",
                "metric": None,
                "cluster": "local",
                "store": None,
                "name": "digits",
                **NOTHING_SAID,
            }
        ]
        assert kitchen.shell.user_ns["study"] is kitchen.study
        assert kitchen.study.calls == ["show"]

    def test_without_a_variable_the_study_is_the_underscore(self, kitchen: Kitchen) -> None:
        assert kitchen.run("%%quanttaas model\nprune: 0.5") == ""
        assert kitchen.shell.user_ns["_"] is kitchen.study

    def test_a_body_of_blanks_means_the_default_recipe(self, kitchen: Kitchen) -> None:
        kitchen.run("%%quanttaas model\n   \n")
        assert kitchen.requests[0]["recipe"] is None

    def test_it_accepts_the_word_compress_too(self, kitchen: Kitchen) -> None:
        kitchen.run("%%quanttaas compress model\nprune: 0.5")
        assert kitchen.requests[0]["model"] == "a model"

    def test_it_waits_when_asked_to(self, kitchen: Kitchen) -> None:
        kitchen.study = FakeStudy(status="finished")
        kitchen.run("%%quanttaas model --wait\nprune: 0.5")
        assert kitchen.study.calls == ["show", "wait"]

    def test_stopping_the_wait_keeps_the_study_and_fails_the_cell(self, kitchen: Kitchen) -> None:
        text = kitchen.fail("%%quanttaas model --wait -o study\nprune: 0.5")
        assert "study 7f3a goes on; %quanttaas attach 7f3a" in text
        assert kitchen.shell.user_ns["study"] is kitchen.study

    def test_a_study_that_fails_while_waited_for_fails_the_cell(
        self, kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def wait(self: FakeStudy, timeout: float | None = None) -> None:
            raise StudyFailed("study 7f3a failed: out of memory")

        monkeypatch.setattr(FakeStudy, "wait", wait)
        assert "StudyFailed: study 7f3a failed: out of memory" in kitchen.fail("%%quanttaas model --wait\nprune: 0.5")

    def test_a_dry_run_prints_the_plan_and_starts_nothing(
        self, kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[dict[str, Any]] = []

        def plan(**request: Any) -> api.PlanView:
            asked.append(request)
            return api.PlanView(trials=(("baseline", True), ("int8", False)), stages=7, cached=3)

        monkeypatch.setattr(api, "plan", plan)
        text = kitchen.run("%%quanttaas model --data test_loader --dry-run --wait\nquantize: [none, int8]")
        assert "2 trials, 7 stages, 3 of them cached" in text
        assert asked[0]["data"] == "test data"
        assert kitchen.requests == []

    def test_a_line_command_with_a_body_is_explained(self, kitchen: Kitchen) -> None:
        assert "write %quanttaas studies, with one %" in kitchen.fail("%%quanttaas studies\nx: 1")

    def test_a_cell_without_a_model_is_explained(self, kitchen: Kitchen) -> None:
        assert "name the model" in kitchen.fail("%%quanttaas\nprune: 0.5")


class TestNames:
    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ("test_loader", "test data"),
            ('loaders["train"]', "train data"),
            ('loaders["my test"]', "t"),
            ("config.data", "inner"),
            ("config.parts[-1]", 2),
            ("(test_loader, model)", ("test data", "a model")),
            ("test_loader,model", ("test data", "a model")),
        ],
    )
    def test_a_name_with_attributes_and_indices_is_looked_up(
        self, kitchen: Kitchen, given: str, expected: object
    ) -> None:
        kitchen.shell.push({"config": SimpleNamespace(data="inner", parts=[1, 2])})
        kitchen.run(f"%quanttaas compress model --data {given}")
        assert kitchen.requests[0]["data"] == expected

    @pytest.mark.parametrize("given", ["make()", "[x for x in loaders]", "loaders[model]", "model+model", "lambda:0"])
    def test_an_expression_that_runs_code_is_refused(self, kitchen: Kitchen, given: str) -> None:
        assert "put anything longer into a variable first" in kitchen.fail(f"%quanttaas compress {given}")

    def test_what_is_no_expression_is_refused(self, kitchen: Kitchen) -> None:
        assert "is not a variable" in kitchen.fail("%quanttaas compress model --data a$b")

    def test_a_mistyped_name_gets_the_nearest_suggestion(self, kitchen: Kitchen) -> None:
        assert "no such variable 'modle'; did you mean 'model'?" in kitchen.fail("%%quanttaas modle\nprune: 0.5")

    def test_an_unlike_name_gets_the_advice_to_define_it(self, kitchen: Kitchen) -> None:
        assert "no such variable 'xyz'; run the cell" in kitchen.fail("%quanttaas compress xyz")

    @pytest.mark.parametrize("given", ['loaders["tset"]', "model.data", "model[99]"])
    def test_what_a_variable_lacks_is_said(self, kitchen: Kitchen, given: str) -> None:
        assert "does not exist: " in kitchen.fail(f"%quanttaas compress model --data {given}")

    def test_a_callable_of_the_notebook_wins_over_the_name_of_a_metric(self, kitchen: Kitchen) -> None:
        def f1(outputs: Any, targets: Any) -> float:
            return 1.0

        kitchen.shell.push({"f1": f1, "pair": (f1, "max"), "accuracy": 0.93, "Recall": dict})
        for given, expected in [
            ("f1", f1),
            ("pair", (f1, "max")),
            ("(f1, 'min')", (f1, "min")),
            ("accuracy", "accuracy"),
            ("Recall", "Recall"),
            ("agreement", "agreement"),
        ]:
            kitchen.run(f"%quanttaas compress model --metric {given}")
            assert kitchen.requests[-1]["metric"] == expected

    def test_quotes_keep_blanks_together(self, kitchen: Kitchen) -> None:
        kitchen.run("%quanttaas compress model --name 'two words' --store \"gs://bucket/my studies\"")
        assert kitchen.requests[0]["name"] == "two words"
        assert kitchen.requests[0]["store"] == "gs://bucket/my studies"

    def test_an_open_quote_is_said(self, kitchen: Kitchen) -> None:
        assert "no closing quotation" in kitchen.fail("%quanttaas compress model --name 'two")

    @pytest.mark.parametrize("name", ["3x", "a-b", "class", "a.b"])
    def test_the_result_goes_into_a_proper_variable_or_nowhere(self, kitchen: Kitchen, name: str) -> None:
        assert "a variable's name" in kitchen.fail(f"%quanttaas compress model -o {name}")
        assert kitchen.requests == []


class TestLineCommands:
    def test_studies_returns_the_list(self, kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[str | None] = []
        info = api.StudyInfo("7f3a", "digits", "finished", 1.79e9, 12, 12, 0, "6.9x smaller")

        def studies(store: str | None = None) -> api.StudyList:
            asked.append(store)
            return api.StudyList([info])

        monkeypatch.setattr(api, "studies", studies)
        assert "6.9x smaller" in kitchen.run("%quanttaas studies --store /tmp/there")
        assert kitchen.shell.user_ns["_"][0] is info
        assert asked == ["/tmp/there"]

    def test_status_without_an_id_is_about_the_newest(self, kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch) -> None:
        infos = [SimpleNamespace(id="old", created=1.0), SimpleNamespace(id="7f3a", created=2.0)]
        monkeypatch.setattr(api, "studies", lambda store=None: infos)
        assert "Study 7f3a" in kitchen.run("%quanttaas status")

    def test_status_says_when_there_is_no_study(self, kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(api, "studies", lambda store=None: [])
        assert "no study yet" in kitchen.fail("%quanttaas status")

    def test_attach_shows_a_study_and_keeps_it(self, kitchen: Kitchen) -> None:
        kitchen.run("%quanttaas attach 7f3a -o again")
        assert kitchen.study.calls == ["show"]
        assert kitchen.shell.user_ns["again"] is kitchen.study

    def test_a_study_goes_by_the_name_of_its_variable_too(self, kitchen: Kitchen) -> None:
        other = FakeStudy("c0de")
        kitchen.shell.push({"mine": other})
        kitchen.run("%quanttaas cancel mine")
        assert other.calls == ["cancel"]

    def test_cancel_stops_a_running_study_only(self, kitchen: Kitchen) -> None:
        assert "Cancelling study 7f3a" in kitchen.run("%quanttaas cancel 7f3a")
        assert kitchen.study.calls == ["cancel"]
        kitchen.study = FakeStudy(status="finished")
        assert "has ended already: finished" in kitchen.run("%quanttaas cancel 7f3a")
        assert kitchen.study.calls == []

    def test_resume_says_how_to_see_it(self, kitchen: Kitchen) -> None:
        assert "%quanttaas attach 7f3a shows it" in kitchen.run("%quanttaas resume 7f3a")
        assert kitchen.study.calls == ["resume"]

    def test_logs_prints_lines_with_their_times(self, kitchen: Kitchen) -> None:
        first, second = kitchen.run("%quanttaas logs 7f3a").splitlines()
        assert first.endswith(":00  prune50: pruning")
        assert second.endswith(":01  int8: calibrating")

    def test_logs_of_a_study_that_has_not_begun_says_so(self, kitchen: Kitchen) -> None:
        kitchen.study.now = StudyState(id="7f3a")
        assert kitchen.run("%quanttaas logs 7f3a") == "Nothing logged yet.\n"

    def test_load_assigns_and_says_the_name(self, kitchen: Kitchen) -> None:
        assert "as prune50_int8(inputs)" in kitchen.run("%quanttaas load 7f3a prune50-int8")
        assert kitchen.shell.user_ns["prune50_int8"] is kitchen.study.known["prune50-int8"].model
        kitchen.run("%quanttaas load 7f3a prune50-int8 -o small")
        assert kitchen.shell.user_ns["small"] is kitchen.study.known["prune50-int8"].model

    def test_load_never_overwrites_what_it_did_not_make(self, kitchen: Kitchen) -> None:
        kitchen.shell.push({"baseline": "precious"})
        assert "as baseline_2(inputs)" in kitchen.run("%quanttaas load 7f3a baseline")
        assert "as baseline_2(inputs)" in kitchen.run("%quanttaas load 7f3a baseline")
        assert kitchen.shell.user_ns["baseline"] == "precious"

    def test_export_says_where_the_file_is(self, kitchen: Kitchen) -> None:
        text = kitchen.run("%quanttaas export 7f3a prune50-int8 out/model.onnx")
        assert text.strip() == f"Wrote {Path('out/model.onnx').absolute()}"

    def test_an_unknown_study_or_trial_is_one_sentence(self, kitchen: Kitchen) -> None:
        assert "NotFound: no study 'beef'" in kitchen.fail("%quanttaas attach beef")
        assert "has no trial 'prune90'" in kitchen.fail("%quanttaas load 7f3a prune90")

    def test_panel_says_where_it_is_and_what_serves_without_it(self, kitchen: Kitchen) -> None:
        assert "%quanttaas studies" in kitchen.run("%quanttaas panel")

    def test_the_status_of_clusters_begins_with_this_machine_and_names_what_is_out_of_reach(
        self, kitchen: Kitchen, home: Path
    ) -> None:
        assert kitchen.run("%quanttaas cluster").splitlines()[1].startswith("local")
        save_cluster("far", ClusterConfig(address="http://127.0.0.1:9"))
        text = kitchen.run("%quanttaas cluster status")
        assert "far      out of reach" in text
        assert "cannot be reached at http://127.0.0.1:9; if it lies behind a tunnel" in text

    def test_connecting_takes_an_address_of_a_jobs_api_only(self, kitchen: Kitchen) -> None:
        assert "no address of a Jobs API" in kitchen.fail("%quanttaas cluster connect l4 ray://head:10001")
        assert "connect takes [NAME] ADDRESS" in kitchen.fail("%quanttaas cluster connect")
        assert "cannot be reached" in kitchen.fail("%quanttaas cluster connect l4 http://127.0.0.1:9")
        assert load_config().clusters == {}

    def test_a_template_is_printed_or_written(self, kitchen: Kitchen, tmp_path: Path) -> None:
        line = "%quanttaas cluster template gce --project my-project --zone us-central1-a --bucket gs://my-bucket"
        assert "my-project" in kitchen.run(line)
        assert "Wrote" in kitchen.run(f"{line} --gpu T4 --max-workers 8 --out {tmp_path / 'c.yaml'}")
        assert "nvidia-tesla-t4" in (tmp_path / "c.yaml").read_text()
        assert "no cluster template" in kitchen.fail("%quanttaas cluster template aws")

    def test_stopping_what_does_not_run_says_so(self, kitchen: Kitchen) -> None:
        assert "No Ray cluster of ours" in kitchen.run("%quanttaas cluster stop")
        assert "no cluster 'far' is configured" in kitchen.fail("%quanttaas cluster stop far")

    def test_an_unknown_cluster_is_refused_by_the_api(self, kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(api, "compress", REAL_COMPRESS)
        assert "no cluster 'gcp-l4'" in kitchen.fail("%quanttaas compress model --on gcp-l4")


class TestMistakes:
    def test_an_unknown_command_suggests_the_nearest(self, kitchen: Kitchen) -> None:
        assert "unknown command 'stduies'; did you mean 'studies'?" in kitchen.fail("%quanttaas stduies")

    def test_a_command_like_no_other_gets_the_list(self, kitchen: Kitchen) -> None:
        assert "commands are compress, studies, status" in kitchen.fail("%quanttaas qqq")

    def test_a_variable_in_place_of_a_command_is_explained(self, kitchen: Kitchen) -> None:
        assert "write %quanttaas compress model" in kitchen.fail("%quanttaas model --data test_loader")

    def test_an_unknown_option_suggests_the_nearest(self, kitchen: Kitchen) -> None:
        assert "'--dta'; did you mean '--data'?" in kitchen.fail("%quanttaas compress model --dta test_loader")

    def test_a_missing_argument_points_at_the_help(self, kitchen: Kitchen) -> None:
        text = kitchen.fail("%quanttaas load 7f3a")
        assert "TRIAL" in text
        assert "see %quanttaas load -h" in text

    def test_an_error_of_the_api_is_one_sentence(self, kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch) -> None:
        def compress(**_: Any) -> None:
            raise ModelError("model is a str, not a torch.nn.Module")

        monkeypatch.setattr(api, "compress", compress)
        assert "ModelError: model is a str, not a torch.nn.Module" in kitchen.fail("%quanttaas compress model")

    def test_a_fault_of_ours_keeps_its_traceback(self, kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch) -> None:
        def compress(**_: Any) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(api, "compress", compress)
        result, text = kitchen._run("%quanttaas compress model")
        assert not result.success
        assert "Traceback" in text

    @pytest.mark.slow
    def test_a_mistake_stops_a_notebook_and_stays_in_it_as_an_error(self) -> None:
        setup = (
            "from quanttaas_jupyter.client import api; api.warm = lambda: None\n"
            "from quanttaas_jupyter.notebook import magics; magics.load(get_ipython())"
        )
        cells = [nbformat.v4.new_code_cell(text) for text in (setup, "%%quanttaas modle\nprune: 0.5", "went_on = True")]
        notebook = nbformat.v4.new_notebook(cells=cells)
        with pytest.raises(nbclient.exceptions.CellExecutionError, match="no such variable 'modle'"):
            nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
        [error] = notebook.cells[1].outputs
        assert error.output_type == "error"
        assert error.traceback == [
            "\x1b[31mMagicError: no such variable 'modle'; run the cell that defines it first\x1b[0m"
        ]
        assert notebook.cells[2].execution_count is None


class TestHelp:
    @pytest.mark.parametrize("line", ["%quanttaas", "%quanttaas -h", "%quanttaas help", "%quanttaas?", "%%quanttaas?"])
    def test_it_shows_examples_every_command_and_every_option(self, kitchen: Kitchen, line: str) -> None:
        text = kitchen.run(line)
        assert "%%quanttaas model --data test_loader" in text
        for command in magics.COMMANDS:
            assert f"\n    {command} " in text
        for option in ("--data", "--calibration", "--train", "--metric", "--on", "--store", "--name", "--out"):
            assert option in text
        assert "--wait" in text
        assert "--dry-run" in text

    def test_every_command_has_help_with_a_summary(self, kitchen: Kitchen) -> None:
        for command, method in magics.COMMANDS.items():
            text = kitchen.run(f"%quanttaas {command} -h")
            assert f"%quanttaas {command}" in text
            assert str(method.summary).split(";")[0][:40] in text  # type: ignore[attr-defined]


class TestLoading:
    def test_it_warms_the_engine_and_a_failure_to_warm_is_silent(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        warmed = threading.Event()

        def warm() -> None:
            warmed.set()
            raise OSError("no room")

        monkeypatch.setattr(api, "warm", warm)
        shell = InteractiveShell()
        magics.load(shell)
        assert warmed.wait(10)
        for thread in threading.enumerate():
            if thread.name == "quanttaas-warm":
                thread.join(10)
        assert capsys.readouterr().err == ""

    def test_unloading_takes_the_magics_away(self, kitchen: Kitchen) -> None:
        magics.unload(kitchen.shell)
        assert kitchen.shell.find_line_magic("quanttaas") is None
        assert kitchen.shell.find_cell_magic("quanttaas") is None
