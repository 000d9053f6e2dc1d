"""The still output: what a saved notebook keeps."""

from __future__ import annotations

import base64
import dataclasses
import itertools
import threading
from html.parser import HTMLParser
from typing import Any

import pytest
from IPython.display import DisplayHandle

from quanttaas_jupyter.core.catalogue import MARKERS
from quanttaas_jupyter.core.state import StudyState, apply
from quanttaas_jupyter.notebook import card, still_view
from quanttaas_jupyter.notebook import display as notebook_display
from quanttaas_jupyter.views import scene
from tests.notebook.fakes import ROWS, START, FakeStudy, Script, artifact, empty, folded, metrics

EVIL = '<img src=x onerror="alert(1)">&\'$x^$'


class Reader(HTMLParser):
    """Collects tags, attributes and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words).replace("\xa0", " ").replace("\u2060", "")


def poisoned() -> StudyState:
    script = Script().start(metric={"name": EVIL, "higher_is_better": True, "percent": True})
    script.trial(ROWS[0]).add(
        "trial_finished", trial=EVIL, config={}, metrics=metrics(ROWS[2]), artifact=None, warnings=[EVIL]
    )
    script.add("trial_failed", trial="int8", error={"reason": EVIL, "hint": EVIL})
    return dataclasses.replace(folded(script), name=EVIL)


def test_the_summary_names_the_best_trial(whole: StudyState) -> None:
    assert still_view.summary(whole) == "best at -1 point: prune70-int8, 10.7x smaller, 4.9x faster, uncertain"


def test_the_summary_follows_the_goal(whole: StudyState) -> None:
    strict = dataclasses.replace(whole, goal={"minimize": "latency", "max_drop": 0.002})
    assert still_view.summary(strict) == "best at -0.2 points: prune50-int8, 6.9x smaller, 3.4x faster, uncertain"


def test_a_study_where_nothing_helps_says_so() -> None:
    state = folded(Script().start().trial(ROWS[0]))
    assert still_view.summary(state) == "nothing beats the baseline at -1 point so far"


def test_a_study_with_no_trial_says_what_it_waits_for() -> None:
    assert still_view.summary(empty()) == "waiting for an engine"


def test_the_page_is_one_closed_line_until_opened(whole: StudyState) -> None:
    page = Reader(still_view.html(whole))
    assert page.tags[0] == ("details", {})
    assert page.tags[1][0] == "summary"
    assert still_view.summary(whole) in page.words[0]


def test_the_page_holds_every_trial_with_its_numbers(whole: StudyState) -> None:
    text = Reader(still_view.html(whole)).text
    for trial in whole.trials:
        assert trial in text
    for words in ("98.9 % (97.7–99.5)", "180 KB", "6.9x smaller", "0.15 ms", "3.4x faster", "+0.1 pt"):
        assert words in text


def test_a_failed_trial_shows_its_reason_and_what_to_try(whole: StudyState) -> None:
    for output in (Reader(still_view.html(whole)).text, still_view.text(whole)):
        assert "failed: it touches MatMul only, and this model has none; try: int8" in output


def test_the_page_carries_no_markup_of_others() -> None:
    page = Reader(still_view.html(poisoned()))
    assert {tag for tag, _ in page.tags} <= {
        "details", "summary", "p", "img", "table", "thead", "tbody", "tr", "th", "td", "b",
    }  # fmt: skip
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
    assert EVIL in page.text


def test_the_picture_survives_a_sanitizer_as_a_data_uri(whole: StudyState) -> None:
    (image,) = (attributes for tag, attributes in Reader(still_view.html(whole)).tags if tag == "img")
    kind, _, data = (image["src"] or "").partition(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(data).startswith(b"\x89PNG")
    assert "accuracy against file size" in (image["alt"] or "")


def test_a_saved_notebook_has_three_forms(whole: StudyState) -> None:
    bundle = still_view.mimebundle(whole)
    assert set(bundle) == {"text/html", "image/png", "text/plain"}
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert bundle["text/plain"].startswith("resnet-digits (7f3a, finished): best at -1 point")


def test_the_figure_is_transparent_and_says_what_better_means(whole: StudyState) -> None:
    figure = still_view.figure(whole)
    (axes,) = figure.axes
    assert figure.patch.get_alpha() == 0
    assert axes.get_title(loc="right") == "better: up, left"
    assert axes.get_title(loc="left") == "accuracy, %"


def test_a_metric_where_less_is_better_turns_the_chart_around() -> None:
    loss = {"name": "loss", "higher_is_better": False, "percent": False}
    state = folded(Script().start(metric=loss).trial(ROWS[0]))
    drawn = scene.compose(state)
    assert drawn.better == "better: down, left"
    assert drawn.goal == pytest.approx(0.99 + 0.01)


def test_every_state_can_be_drawn(whole: StudyState, half: StudyState) -> None:
    lone = folded(Script().start())
    bare = folded(Script().start(goal={}, metric={}).trial(ROWS[0]))
    nothing = dataclasses.replace(half, trials={})
    for state in (empty(), lone, bare, nothing, half, whole, poisoned()):
        assert still_view.png(state).startswith(b"\x89PNG")
        assert still_view.text(state)


def test_missing_numbers_are_left_out_not_invented() -> None:
    script = (
        Script().start().add("trial_finished", trial="int8", metrics={"metric": 0.9, "size_bytes": None}, artifact=None)
    )
    state = folded(script)
    assert scene.compose(state).points == ()
    line = next(line for line in still_view.text(state).splitlines() if line.startswith("int8 "))
    assert "90.0 %" in line
    assert "ms" not in line


def test_the_scene_places_trials_on_a_logarithmic_axis(whole: StudyState) -> None:
    points = {point.name: point for point in scene.compose(whole, "size", log=True).points}
    assert points["prune50-int8"].x == pytest.approx(5.2553, abs=1e-4)
    assert points["prune50-int8"].y == pytest.approx(98.9)
    linear = {point.name: point for point in scene.compose(whole, "latency", log=False).points}
    assert linear["prune50-int8"].x == pytest.approx(0.149)


def test_the_scene_marks_trials_whose_interval_crosses_the_goal(whole: StudyState) -> None:
    uncertain = {point.name for point in scene.compose(whole).points if point.uncertain}
    assert uncertain == {"prune70", "prune70-fp16", "prune70-int8"}


def test_the_frontier_climbs_from_small_to_large(whole: StudyState) -> None:
    drawn = scene.compose(whole)
    names = {(point.x, point.y): point.name for point in drawn.points}
    assert [names[place] for place in drawn.frontier] == [
        "prune70-int8", "prune50-int8", "prune30-fp16",
    ]  # fmt: skip


def test_the_frontier_is_a_staircase() -> None:
    assert scene.steps([(1, 5), (2, 7)], right=4) == ([1, 2, 2, 4], [5, 5, 7, 7])
    assert scene.steps([], right=4) == ([], [])


def test_the_eager_preview_is_shown_on_the_size_axis_alone(half: StudyState) -> None:
    assert scene.compose(half, "size").preview is not None
    assert scene.compose(half, "latency").preview is None


def test_ticks_stay_apart_and_inside(whole: StudyState) -> None:
    drawn = scene.compose(whole)
    left, right = drawn.view.x
    places = sorted(drawn.x_ticks)
    assert all(left <= place <= right for place in places)
    assert min(b - a for a, b in itertools.pairwise(places)) >= 0.115 * (right - left)
    assert next(iter(drawn.x_ticks.values())) == "100 KB"


@pytest.mark.parametrize("size", [1.0, 7e2, 1.3e5, 4e9])
def test_one_point_alone_has_ticks_around_it(size: float) -> None:
    row = list(ROWS[0])
    row[8] = size
    state = folded(Script().start().trial(row))
    state = dataclasses.replace(state, preview={})
    for log in (True, False):
        drawn = scene.compose(state, log=log)
        assert drawn.view.holds(drawn.points[0])
        assert drawn.x_ticks


class Screen:
    """Stands in for the notebook's front end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shown: list[dict[str, Any]] = []
        self.updates: list[dict[str, Any]] = []
        self.arrived = threading.Event()
        monkeypatch.setattr(still_view, "display", lambda bundle, **options: self.shown.append({**options, **bundle}))
        monkeypatch.setattr(DisplayHandle, "update", self._update)

    def _update(self, bundle: dict[str, Any], **options: Any) -> None:
        self.updates.append(bundle)
        self.arrived.set()


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    return Screen(monkeypatch)


def test_the_still_view_is_displayed_once_under_its_id(screen: Screen, half: StudyState) -> None:
    view = still_view.StillView(half)
    (first,) = screen.shown
    assert first["display_id"] == view.display_id
    assert first["raw"] is True
    assert "text/html" in first


def test_the_still_view_shows_the_end_at_once(screen: Screen, half: StudyState, whole: StudyState) -> None:
    still_view.StillView(half).update(whole)
    (update,) = screen.updates
    assert "finished" in update["text/plain"]


def test_where_widgets_fail_the_still_view_follows_the_study_and_one_line_says_why(
    screen: Screen,
    half: StudyState,
    whole: StudyState,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the front end has no bqplot")

    study = FakeStudy(half)
    monkeypatch.setattr(notebook_display, "StudyView", broken)
    notebook_display.show(study)  # type: ignore[arg-type]
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "no live view in this notebook (the front end has no bqplot): the picture below follows the study instead"
    ]
    study.show(whole)
    assert "finished" in screen.updates[-1]["text/plain"]


def test_the_still_view_is_not_redrawn_for_the_log(screen: Screen, half: StudyState) -> None:
    view = still_view.StillView(half)
    view._last = -1e9
    line = {"seq": half.seq + 1, "time": START, "type": "progress", "label": "a", "message": "b"}
    view.update(apply(half, line))
    assert screen.updates == []


def test_quick_changes_are_drawn_together_and_none_is_lost(
    screen: Screen, half: StudyState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(still_view, "SECONDS_BETWEEN_UPDATES", 2.0)
    view, state = still_view.StillView(half), half
    for row in ROWS[8:11]:
        event = {"seq": state.seq + 1, "time": START, "type": "trial_finished", "trial": row[0]}
        state = apply(state, {**event, "metrics": metrics(row), "artifact": artifact(row)})
        view.update(state)
    assert screen.updates == []
    assert screen.arrived.wait(30)
    assert len(screen.updates) == 1
    assert "372 KB" not in screen.updates[0]["text/plain"].partition("prune70-fp16")[0].partition("prune50-int8")[0]
    assert all(words in screen.updates[0]["text/plain"] for words in ("180 KB", "372 KB", "190 KB"))


@pytest.mark.parametrize("shape", MARKERS)
def test_every_marker_can_be_drawn(shape: str) -> None:
    assert still_view._MARKERS[shape] in still_view._MARKER_SIZE
    assert shape in card._SHAPES
