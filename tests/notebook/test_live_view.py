"""The live view, seen from the kernel: a function of the study's state and of the selection."""

from __future__ import annotations

import dataclasses
import sys
import types
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
import pytest

from quanttaas_jupyter.core.recipe import Recipe
from quanttaas_jupyter.core.records.trial import TrialConfig
from quanttaas_jupyter.core.state import StudyState, apply, fold
from quanttaas_jupyter.notebook import card, colab
from quanttaas_jupyter.notebook.live_view import StudyView
from quanttaas_jupyter.views.scene import compose
from tests.notebook.fakes import ROWS, FakeStudy, Refusal, Script, artifact, empty, folded, metrics


def view_of(state: StudyState, namespace: dict[str, Any] | None = None) -> StudyView:
    return StudyView(FakeStudy(state), {} if namespace is None else namespace)


def visible(widget: ipywidgets.Widget) -> bool:
    return widget.layout.display != "none"


def words(view: StudyView) -> str:
    """All that a reader can see as text."""

    def collect(widget: ipywidgets.Widget) -> list[str]:
        if not visible(widget):
            return []
        if isinstance(widget, ipywidgets.Box):
            return [text for child in widget.children for text in collect(child)]
        return (
            [getattr(widget, "value", "")]
            if isinstance(widget, ipywidgets.HTML)
            else [widget.description]
            if isinstance(widget, ipywidgets.Button)
            else []
        )

    return "\n".join(collect(view))


def marks(view: StudyView) -> dict[str, tuple[float, float]]:
    """The trials on the chart, by name."""
    found = {}
    for key, mark in view._chart._marks.items():
        for name, x, y in zip(view._chart._names.get(key, []), mark.x, mark.y, strict=True):
            found[name] = (float(x), float(y))
    return found


def click(view: StudyView, trial: str) -> None:
    """What the browser sends for a click on a point."""
    for key, names in view._chart._names.items():
        if trial in names:
            view._chart._marks[key].selected = np.array([names.index(trial)], dtype=np.uint32)
            return
    raise AssertionError(f"{trial} is not on the chart")


def more(state: StudyState, *rows: Any) -> StudyState:
    for row in rows:
        event = {"seq": state.seq + 1, "time": 1.79e9, "type": "trial_finished", "trial": row[0]}
        state = apply(state, {**event, "metrics": metrics(row), "artifact": artifact(row)})
    return state


def test_a_measured_trial_becomes_a_point(half: StudyState) -> None:
    shown = marks(view_of(half))
    assert set(shown) == {row[0] for row in ROWS[:8]}
    assert shown["int8"][1] == pytest.approx(98.8)


def test_points_arrive_while_the_study_runs(half: StudyState) -> None:
    study = FakeStudy(half)
    view = StudyView(study, {})
    study.show(more(half, ROWS[8]))
    assert "prune50-int8" in marks(view)


def test_a_known_point_keeps_its_place_in_its_mark_so_that_only_new_ones_fade_in(whole: StudyState) -> None:
    late = {name: trial for name, trial in whole.trials.items() if name != "prune30-int8"}
    study = FakeStudy(dataclasses.replace(whole, trials=late))
    view = StudyView(study, {})
    before = list(view._chart._names["square", False])
    study.show(whole)
    assert view._chart._names["square", False] == [*before, "prune30-int8"]


def test_shape_says_the_pruning_and_colour_the_quantization(whole: StudyState) -> None:
    chart = view_of(whole)._chart
    assert "unstructured80" in chart._names["diamond", False]
    index = chart._names["diamond", False].index("unstructured80-int8")
    assert chart._marks["diamond", False].colors[index] == "#E69F00"
    assert {mark.default_size for key, mark in chart._marks.items() if key[0] == "circle"} == {80}


def test_an_uncertain_trial_has_its_own_outline_and_the_legend_says_why(whole: StudyState) -> None:
    view = view_of(whole)
    assert "prune70-int8" in view._chart._names["square", True]
    style = view._style.value
    width = view._chart._marks["square", True].stroke_width
    assert f'[style*="stroke-width: {width}"] {{ stroke-dasharray' in style
    assert "uncertain: interval crosses the goal" in view._legend.value


def test_intervals_are_drawn_of_the_frontier_and_of_what_is_selected(half: StudyState) -> None:
    view = view_of(half)
    scene = compose(half)
    others = [point for point in scene.points if point.name not in scene.best and point.low is not None]
    assert scene.best
    assert others
    bars = view._chart._bars
    assert len(bars.x) == sum(point.name in scene.best for point in scene.points)
    view.select(others[0].name)
    assert len(bars.x) == len(scene.best) + 1
    assert [others[0].low, others[0].high] in bars.y.tolist()


def test_the_eager_preview_is_hollow_and_named(half: StudyState) -> None:
    view = view_of(folded(Script().start()))
    assert view._chart._preview.fill is False
    assert len(view._chart._preview.x) == 1
    assert view._chart._preview_label.visible
    assert "eager PyTorch" in view._legend.value
    assert not view_of(half)._chart._preview_label.visible


def test_a_chart_with_nothing_on_it_invents_no_scale(half: StudyState) -> None:
    study = FakeStudy(empty())
    view = StudyView(study, {})
    assert not view._chart._x_axis.visible
    assert not view._chart._y_axis.visible
    assert not visible(view._controls)
    study.show(half)
    assert view._chart._x_axis.visible
    assert visible(view._controls)


def test_clicking_a_point_shows_its_card(half: StudyState) -> None:
    view = view_of(half)
    click(view, "prune30-int8")
    text = words(view)
    for part in ("prune30-int8", "98.9 %", "(97.7–99.5)", "597", "228 KB", "5.4x smaller", "2.6x faster"):
        assert part in text
    for part in ("int8 in 9 of 10 layers", "left in high precision: <code>head.fc</code>"):
        assert part in text
    assert 'aria-live="polite"' in view._details.value


def test_the_trial_selector_and_the_chart_share_one_selection(half: StudyState) -> None:
    view = view_of(half)
    view._trials.value = "prune50"
    assert list(view._chart._marks["square", False].selected) == [view._chart._names["square", False].index("prune50")]
    click(view, "int8")
    assert view._trials.value == "int8"
    assert view._chart._marks["square", False].selected is None
    view._close.click()
    assert view._trials.value == ""
    assert not visible(view._details)


def test_clicking_the_background_closes_the_card(half: StudyState) -> None:
    view = view_of(half)
    click(view, "int8")
    view._chart._marks["circle", False].selected = None
    assert view._selected is None


def test_a_selected_trial_stays_selected_while_others_arrive(half: StudyState) -> None:
    study = FakeStudy(half)
    view = StudyView(study, {})
    click(view, "prune50")
    study.show(more(half, *ROWS[8:]))
    assert view._trials.value == "prune50"
    assert "prune50" in view._card_title.value


def test_axes_stand_still_under_a_selected_point(half: StudyState) -> None:
    study = FakeStudy(half)
    view = StudyView(study, {})
    click(view, "int8")
    before = view._chart._x.min, view._chart._x.max, view._chart._y.min, view._chart._y.max
    study.show(more(half, ROWS[11], ROWS[13]))
    assert (view._chart._x.min, view._chart._x.max, view._chart._y.min, view._chart._y.max) == before
    assert "1 outside the view" in view._caption.value
    view._close.click()
    assert view._chart._x.min < before[0]
    assert "outside" not in view._caption.value


def test_selecting_a_trial_outside_the_view_brings_it_in(half: StudyState) -> None:
    study = FakeStudy(half)
    view = StudyView(study, {})
    click(view, "int8")
    study.show(more(half, ROWS[11]))
    view._trials.value = "prune70-int8"
    assert view._chart._x.min < marks(view)["prune70-int8"][0] < view._chart._x.max


def test_the_axis_switches_between_size_and_latency(whole: StudyState) -> None:
    view = view_of(whole)
    view._log.value = False
    assert marks(view)["int8"][0] == 322_000
    view._axis.value = "latency"
    assert marks(view)["int8"][0] == pytest.approx(0.241)
    view._log.value = True
    assert marks(view)["int8"][0] == pytest.approx(np.log10(0.241))
    assert "0.2 ms" in view._chart._x_axis.tick_labels.values()


def test_tick_labels_are_found_by_the_number_as_javascript_writes_it(whole: StudyState) -> None:
    axis = view_of(whole)._chart._x_axis
    assert axis.tick_labels["5.301029995663981"] == "200 KB"
    assert axis.tick_labels["5"] == "100 KB"


def test_hovering_a_point_tells_its_facts(half: StudyState) -> None:
    chart = view_of(half)._chart
    index = chart._names["square", False].index("prune30-int8")
    lines = str(chart._marks["square", False].names[index]).splitlines()
    assert lines[0] == "prune30-int8"
    assert "228 KB, 5.4x smaller" in lines
    assert "0.20 ms, 2.6x faster" in lines


def test_while_model_and_data_are_sent_the_bar_shows_how_much_of_them() -> None:
    view = view_of(dataclasses.replace(empty(), message="sending: 120 of 480 MB", sent=0.25))
    shown = words(view)
    assert 'style="width:25.0%"' in shown
    assert 'aria-valuenow="25"' in shown
    assert "25 % sent" in shown
    assert "Sending: 120 of 480 MB" in shown


def test_progress_says_what_is_done_what_runs_what_failed_and_how_long(half: StudyState) -> None:
    bar = view_of(half)._progress.value
    for part in ("8 of 15 trials", "2 running", "1 failed", "left", 'role="progressbar"', 'aria-valuenow="60"'):
        assert part in bar


def test_the_log_line_is_the_newest(half: StudyState) -> None:
    assert "prune70: distilling: epoch 4 of 15, loss 0.021" in view_of(half)._log_line.value


def test_a_failed_trial_shows_its_reason_in_a_closed_fold(half: StudyState) -> None:
    fold_ = view_of(half)._failures.value
    assert fold_.startswith('<details class="qt-failed"><summary>1 failed')
    assert "It touches MatMul only, and this model has none" in fold_
    assert "Try: int8" in fold_


def test_a_trial_cut_early_shows_why_beside_those_that_failed(half: StudyState) -> None:
    error = {"reason": "cut after a first look", "hint": ""}
    event = {"seq": half.seq + 1, "time": 0.0, "type": "trial_cut", "trial": "prune85-int8", "error": error}
    view = view_of(apply(half, event))
    assert "<summary>1 cut early" in view._failures.value
    assert "Cut after a first look" in view._failures.value
    assert "1 cut early" in view._progress.value


def test_a_failed_trial_has_a_card_with_its_reason_and_no_buttons(half: StudyState) -> None:
    view = view_of(half)
    view._trials.value = "int4-weight"
    assert "It touches MatMul only" in view._details.value
    assert not visible(view._buttons)


def test_the_best_trial_is_one_click_away(whole: StudyState) -> None:
    view = view_of(whole)
    assert "Best at -1 point: prune70-int8" in view._hint.value
    view._best.click()
    assert view._selected == "prune70-int8"
    assert "Uncertain: it may lose more than 1 point" in view._details.value


def test_load_assigns_a_variable_and_names_it(half: StudyState) -> None:
    namespace: dict[str, Any] = {"prune50": "precious"}
    view = view_of(half, namespace)
    view.select("prune50")
    view._load.click()
    assert namespace["prune50"] == "precious"
    assert namespace["prune50_2"](3) == (3,)
    assert "prune50_2(inputs)" in view._message.value


def test_loading_twice_makes_one_variable(half: StudyState) -> None:
    namespace: dict[str, Any] = {}
    view = view_of(half, namespace)
    view.select("int8")
    view._load.click()
    view._load.click()
    assert list(namespace) == ["int8"]
    assert "already here: int8" in view._message.value


def test_save_writes_into_the_working_directory_and_overwrites_nothing(half: StudyState, here: Path) -> None:
    view = view_of(half)
    view.select("int8")
    view._save.click()
    view._save.click()
    assert sorted(path.name for path in here.iterdir()) == [
        "resnet-digits-int8-2.onnx",
        "resnet-digits-int8.onnx",
    ]
    assert "resnet-digits-int8-2.onnx" in view._message.value


@pytest.mark.parametrize("error", [Refusal("it needs <b>trusted=True</b>"), OSError("disk <b>full")])
@pytest.mark.parametrize("button", ["_load", "_save"])
def test_an_error_is_a_sentence_in_the_card_never_an_exception(
    half: StudyState, here: Path, error: Exception, button: str
) -> None:
    study = FakeStudy(half)
    view = StudyView(study, {})
    study.error = error
    view.select("int8")
    getattr(view, button).click()
    assert "qt-bad" in view._message.value
    assert "&lt;b&gt;" in view._message.value
    assert "<b>" not in view._message.value


def test_a_message_goes_with_its_card(half: StudyState) -> None:
    view = view_of(half)
    view.select("int8")
    view._load.click()
    view.select("fp16")
    assert view._message.value == ""


def test_copy_recipe_holds_the_one_trial(half: StudyState) -> None:
    view = view_of(half)
    view.select("prune30-int8")
    assert '<pre tabindex="0">prune: [0.3]\nquantize: [int8]\n</pre>' in view._recipe.value


def test_a_narrowed_recipe_parses_and_keeps_the_rest(half: StudyState) -> None:
    asked = Recipe.parse({"recover": "distill", "search": "auto", "budget": {"trials": 9}, "seed": 7})
    narrowed = card.narrowed(asked, half.trials["prune30-int8"])
    assert narrowed is not None
    narrow = Recipe.parse(narrowed.to_yaml())
    assert [part.amount for part in narrow.prune] == [0.3]
    assert narrow.quantize == ("int8",)
    assert narrow.search == "grid"
    assert narrow.budget.trials is None
    assert narrow.seed == 7
    assert narrow.recover is not None


@pytest.mark.parametrize(
    ("status", "cancel", "resume"),
    [
        ("queued", True, False),
        ("running", True, False),
        ("finished", False, False),
        ("cancelled", False, True),
        ("failed", False, True),
        ("interrupted", False, True),
    ],
)
def test_each_status_offers_what_can_be_done(half: StudyState, status: str, cancel: bool, resume: bool) -> None:
    view = view_of(dataclasses.replace(half, status=status))
    assert (visible(view._cancel), visible(view._resume)) == (cancel, resume)


def test_cancel_reaches_the_study_and_cannot_be_pressed_twice(half: StudyState) -> None:
    study = FakeStudy(half)
    view = StudyView(study, {})
    view._cancel.click()
    assert study.calls == ["cancel"]
    assert view._cancel.disabled


def test_a_cancel_that_fails_can_be_tried_again(half: StudyState) -> None:
    study = FakeStudy(half)
    view = StudyView(study, {})
    study.error = Refusal("the store cannot be reached")
    view._cancel.click()
    assert not view._cancel.disabled
    assert "the store cannot be reached" in view._message.value


def test_resume_follows_the_study_anew(half: StudyState) -> None:
    study = FakeStudy(dataclasses.replace(half, status="interrupted"))
    view = StudyView(study, {})
    view._resume.click()
    assert study.calls == ["resume"]
    assert study.followers[0].stopped
    assert len(study.followers) == 2


def test_a_finished_study_recommends_in_bold(whole: StudyState) -> None:
    text = view_of(whole)._headline.value
    assert "<b>Prune70-int8 is 10.7x smaller" in text


def test_every_trouble_is_said_on_top(half: StudyState) -> None:
    failed = fold([{"seq": half.seq + 1, "time": 1.0, "type": "failed", "reason": "out of memory"}], half)
    assert "Out of memory" in view_of(failed)._headline.value
    assert "Interrupted" in view_of(dataclasses.replace(half, status="interrupted"))._headline.value
    lost = view_of(dataclasses.replace(half, unreachable_since=1.79e9))._headline.value
    assert "last seen" in lost
    assert "trying again" in lost
    assert "Waiting for an engine" in view_of(empty())._headline.value
    assert view_of(half)._headline.value == ""
    waiting = view_of(dataclasses.replace(half, waiting="a GPU node", waiting_since=1.79e9))._headline.value
    assert "Waiting for a GPU node since" in waiting


def test_nothing_a_person_typed_becomes_markup(half: StudyState) -> None:
    evil = "<script>alert(1)</script>"
    script = Script().start(metric={"name": evil, "higher_is_better": True, "percent": True}, notes=[evil])
    script.trial(ROWS[0]).add(
        "trial_finished",
        trial=evil,
        config={"quantize": evil, "runtime": evil, "prune": {"method": evil, "amount": 0.5}},
        metrics=metrics(ROWS[2]),
        artifact={"blob": "x", "size": 1, "filename": evil, "kept": [evil]},
        warnings=[evil],
    )
    script.add("progress", stage="s", label=evil, message=evil)
    script.add("trial_failed", trial="int8", error={"reason": evil, "hint": evil})
    for state in (folded(script), folded(script.add("failed", reason=evil))):
        state = dataclasses.replace(state, name=evil, message=evil, recommendation=evil, cluster=evil)
        study = FakeStudy(state)
        study.recipe = Recipe.parse({"ignore": [evil]})
        view = StudyView(study, {})
        for trial in (None, "int8"):
            view.select(trial)
            assert "<script" not in words(view)
            assert "&lt;script&gt;" in words(view)
        study.recipe = Recipe.parse({"quantize": ["none"]})
        assert "<script" not in card.details(state, state.trials[evil])


def test_a_trial_the_recipe_cannot_name_still_has_a_card(half: StudyState) -> None:
    config = TrialConfig.of({"quantize": "new", "prune": {"method": "new"}})
    odd = dataclasses.replace(half.trials["int8"], name="odd", config=config)
    view = view_of(dataclasses.replace(half, trials={**half.trials, "odd": odd}))
    view.select("odd")
    assert "odd" in view._card_title.value


def test_drawing_the_same_state_again_sends_nothing(half: StudyState) -> None:
    view = view_of(half)
    sent: list[str] = []
    for widget in [view._progress, view._legend, view._trials, *view._chart.figure.marks, *view._chart.figure.axes]:
        widget.observe(lambda change: sent.append(change["name"]))
    view.draw(dataclasses.replace(half))
    assert sent == []


def test_closing_the_view_stops_following(half: StudyState) -> None:
    study = FakeStudy(half)
    StudyView(study, {}).close()
    assert study.followers[0].stopped


def test_the_widget_manager_is_enabled_once_on_colab(half: StudyState, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    output = types.ModuleType("google.colab.output")
    inner = types.ModuleType("google.colab.output._widgets")
    output.enable_custom_widget_manager = lambda: calls.append(1)  # type: ignore[attr-defined]
    inner._installed_url = "https://example.org/manager.js"  # type: ignore[attr-defined]
    output._widgets = inner  # type: ignore[attr-defined]
    package = types.ModuleType("google.colab")
    package.output = output  # type: ignore[attr-defined]
    for name, module in (
        ("google.colab", package),
        ("google.colab.output", output),
        ("google.colab.output._widgets", inner),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(colab, "_url", None)
    view = view_of(half)
    colab.enable_custom_widget_manager()
    assert calls == [1]
    if not ipywidgets.__version__.startswith("7."):
        _, metadata = view._repr_mimebundle_()
        assert metadata["application/vnd.jupyter.widget-view+json"]["colab"] == {
            "custom_widget_manager": {"url": "https://example.org/manager.js"}
        }


def test_elsewhere_colab_is_left_alone() -> None:
    colab.enable_custom_widget_manager()
    assert colab.bundle_metadata() == {}
