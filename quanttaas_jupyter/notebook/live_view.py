"""Live view of a study: chart, card, progress and log as Jupyter widgets."""

from __future__ import annotations

import threading
from collections.abc import Callable, MutableMapping
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

import ipywidgets

from ..core.errors import QuantTaaSError
from ..core.failures import one_line
from ..core.frontier import recommended_trial
from ..core.recipe import Recipe
from ..core.state import StudyState, TrialState
from ..views import format as fmt
from ..views.scene import View, compose
from . import card, colab
from .chart import Chart

_RESUMABLE = ("interrupted", "cancelled", "failed")
_STOPPABLE = ("queued", "running")

# An empty string, because a dropdown shows nothing for the value None.
_NO_TRIAL = ("select a trial", "")


class TrialLike(Protocol):
    """Interface of a trial for the view."""

    def load(self) -> Any:
        """Return the model of the trial."""

    def export(self, path: Path) -> Path:
        """Write the artifact, and return its path."""


class Follower(Protocol):
    """Subscription to a study's states."""

    def stop(self) -> None:
        """End the subscription."""


class StudyLike(Protocol):
    """Interface of a study for the view."""

    @property
    def state(self) -> StudyState:
        """State of the study."""

    @property
    def recipe(self) -> Recipe:
        """Recipe of the study."""

    def __getitem__(self, trial: str) -> TrialLike:
        """Return a trial by its name."""

    def cancel(self) -> Any:
        """Stop the study."""

    def resume(self) -> Any:
        """Continue the study."""

    def follow(self, callback: Callable[[StudyState], None]) -> Follower:
        """Call ``callback`` from a thread whenever the state has changed."""


class StudyView(ipywidgets.VBox):
    """Live view of a study, drawn from its state, the selection and the axis.

    Args:
        study: The study.
        namespace: Variables for the models of "Load into notebook"; the running IPython's by default.
    """

    def __init__(self, study: StudyLike, namespace: MutableMapping[str, Any] | None = None) -> None:
        colab.enable_custom_widget_manager()
        self._study = study
        self._namespace = _notebook() if namespace is None else namespace
        self._state = study.state
        self._selected: str | None = None
        self._frozen: View | None = None
        self._loaded: dict[str, tuple[str, Any]] = {}
        # The follower's thread draws, the kernel's thread handles clicks.
        self._lock = threading.RLock()
        self._drawing = False
        self._chart = Chart(self.select)
        self._build()
        super().__init__([self._style, self._head, self._headline, self._progress, self._body, self._foot])
        self.add_class("quanttaas")
        self.draw(self._state)
        self._follower = study.follow(self.draw)

    def draw(self, state: StudyState) -> None:
        """Show a state; may be called from any thread."""
        with self._lock:
            self._state, self._drawing = state, True
            try:
                self._draw()
            finally:
                self._drawing = False

    def select(self, trial: str | None) -> None:
        """Show the card of a trial; None closes it."""
        with self._lock:
            if trial == self._selected and trial is not None:
                return
            self._selected = trial
            self._say("")
            self.draw(self._state)

    def close(self) -> None:
        """Stop following the study, and close the widgets."""
        self._follower.stop()
        self._chart.close()
        super().close()

    def _repr_mimebundle_(self, **options: Any) -> Any:
        # A widget of ipywidgets 7 publishes itself, and Colab's own hook adds the metadata then.
        bundle = getattr(super(), "_repr_mimebundle_", None)
        data = bundle(**options) if bundle else None
        metadata = colab.bundle_metadata()
        return (data, metadata) if data and metadata else data

    def _build(self) -> None:
        style = resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8")
        self._style = ipywidgets.HTML(f"<style>{style}</style>", layout={"display": "none"})
        self._title, self._headline, self._progress = _html("qt-title"), _html("qt-headline"), _html()
        self._cancel = _button("Cancel", "Stop this study; what is measured stays", self._on_cancel)
        self._resume = _button("Resume", "Go on from here; nothing measured is lost", self._on_resume)
        self._head = _row("qt-head", [self._title, self._cancel, self._resume])
        self._caption, self._legend, self._hint = _html("qt-caption"), _html(), _html("qt-hint")
        self._axis = ipywidgets.ToggleButtons(
            options=[("file size", "size"), ("latency", "latency")],
            tooltips=["Bytes of the file", "Milliseconds for one batch"],
        )
        self._axis.add_class("qt-axis")
        self._log = ipywidgets.Checkbox(value=True, description="log", indent=False)
        self._log.add_class("qt-check")
        self._trials = ipywidgets.Dropdown(options=[_NO_TRIAL])
        self._trials.add_class("qt-trials")
        across = ipywidgets.HTML("across")
        self._controls = _row("qt-controls", [across, self._axis, self._log, self._trials])
        chart = ipywidgets.VBox([self._caption, self._chart.figure, self._controls, self._legend])
        chart.add_class("qt-chart")
        self._card = self._build_card()
        self._body = _row("qt-body", [chart, self._card])
        self._log_line, self._failures, self._notes = _html(), _html(), _html()
        self._foot = ipywidgets.VBox([self._log_line, self._failures, self._notes])
        self._foot.add_class("qt-foot")
        self._axis.observe(self._on_axis, "value")
        self._log.observe(self._on_axis, "value")
        self._trials.observe(self._on_trial, "value")

    def _build_card(self) -> ipywidgets.VBox:
        self._card_title, self._details = _html("qt-card-title"), _html("qt-facts")
        self._close = _button("×", "Close the card", lambda: self.select(None))
        self._close.add_class("qt-close")
        self._load = _button("Load into notebook", "Put this model into a variable", self._on_load)
        self._save = _button("Save file", "Write the file into the working directory", self._on_save)
        self._best = _button("Show it", "Select the best trial so far", self._on_best)
        self._recipe, self._message = _html("qt-recipe-box"), _html("qt-message-box")
        self._buttons = _row("qt-buttons", [self._load, self._save, self._recipe])
        self._card_head = _row("qt-card-head", [self._card_title, self._close])
        box = ipywidgets.VBox([self._card_head, self._details, self._buttons, self._hint, self._best, self._message])
        box.add_class("qt-card")
        return box

    def _draw(self) -> None:
        state = self._state
        _put(self._title, card.heading(state))
        _put(self._headline, card.headline(state))
        _put(self._progress, card.progress(state))
        _show(self._cancel, state.status in _STOPPABLE)
        _show(self._resume, state.status in _RESUMABLE)
        if state.status not in _STOPPABLE:
            self._cancel.disabled = False
        if state.status not in _RESUMABLE:
            self._resume.disabled = False
        self._draw_chart()
        self._draw_selector()
        self._draw_card()
        _put(self._legend, card.legend(state))
        _put(self._log_line, card.log_line(state))
        _put(self._failures, card.failures(state))
        _put(self._notes, card.notes(state))

    def _draw_chart(self) -> None:
        axis, log = self._axis.value, self._log.value
        scene = compose(self._state, axis, log, self._frozen)
        point = next((point for point in scene.points if point.name == self._selected), None)
        if point is None or not scene.view.holds(point):
            scene = compose(self._state, axis, log)
        # While a point is selected, new points do not move the axes.
        self._frozen = None if point is None else scene.view
        self._chart.draw(scene, self._selected)
        _put(self._caption, "" if scene.is_empty else card.caption(scene))
        _show(self._controls, bool(self._state.trials))

    def _draw_selector(self) -> None:
        options = [_NO_TRIAL, *((_option(trial), trial.name) for trial in self._state.trials.values())]
        if list(self._trials.options) != options:
            self._trials.options = options
        selected = self._selected if self._selected in self._state.trials else _NO_TRIAL[1]
        if self._trials.value != selected:
            self._trials.value = selected

    def _draw_card(self) -> None:
        trial = self._trial()
        for part in (self._card_head, self._details):
            _show(part, trial is not None)
        _show(self._buttons, trial is not None and trial.artifact is not None)
        _show(self._hint, trial is None)
        _show(self._best, trial is None and recommended_trial(self._state) is not None)
        if trial is None:
            _put(self._hint, card.hint(self._state))
            return
        _put(self._card_title, card.title(self._state, trial))
        _put(self._details, card.details(self._state, trial))
        recipe = card.narrowed(self._study.recipe, trial)
        _put(self._recipe, card.recipe_block(recipe.to_yaml()) if recipe else "")

    def _trial(self) -> TrialState | None:
        return self._state.trials.get(self._selected) if self._selected is not None else None

    def _on_axis(self, change: Any) -> None:
        with self._lock:
            self._frozen = None
            self.draw(self._state)

    def _on_trial(self, change: Any) -> None:
        if not self._drawing:
            self.select(change["new"] or None)

    def _on_best(self) -> None:
        best = recommended_trial(self._state)
        if best is not None:
            self.select(best.name)

    def _on_cancel(self) -> None:
        self._cancel.disabled = True
        if not self._try(self._study.cancel, "Cancelling: stages that run now end first."):
            self._cancel.disabled = False

    def _on_resume(self) -> None:
        self._resume.disabled = True
        if not self._try(self._study.resume, "Resuming."):
            self._resume.disabled = False
            return
        # A follower ends some time after its study has.
        self._follower.stop()
        self._follower = self._study.follow(self.draw)

    def _on_load(self) -> None:
        trial = self._trial()
        if trial is None:
            return
        if self._namespace is None:
            self._say(f'There is no notebook here; use study["{trial.name}"].load().', bad=True)
            return
        known = self._loaded.get(trial.name)
        if known is not None and self._namespace.get(known[0]) is known[1]:
            self._say(f"It is already here: {known[0]}.")
            return
        self._say("Loading.")
        self._try(lambda: self._assign(trial.name))

    def _assign(self, trial: str) -> str:
        assert self._namespace is not None
        model = self._study[trial].load()
        variable = fmt.variable(trial, self._namespace)
        self._namespace[variable] = model
        self._loaded[trial] = (variable, model)
        return f"Loaded: call it as {variable}(inputs)."

    def _on_save(self) -> None:
        trial = self._trial()
        if trial is not None:
            self._say("Saving.")
            self._try(lambda: self._export(trial))

    def _export(self, trial: TrialState) -> str:
        suffix = Path(trial.artifact.filename).suffix if trial.artifact else ""
        here = Path.cwd()
        taken = {path.name for path in here.iterdir()}
        name = fmt.filename(self._state.name or "study", trial.name, suffix, taken)
        return f"Saved {self._study[trial.name].export(here / name)}"

    def _try(self, action: Callable[[], Any], done: str = "") -> bool:
        try:
            answer = action()
        except QuantTaaSError as error:
            self._say(str(error), bad=True)
        except Exception as error:
            # Jupyter hides a traceback from a widget's callback in a log pane.
            self._say(one_line(error), bad=True)
        else:
            self._say(done or str(answer))
            return True
        return False

    def _say(self, text: str, bad: bool = False) -> None:
        _put(self._message, card.message(text, bad))


def _notebook() -> MutableMapping[str, Any] | None:
    from IPython import get_ipython

    shell = get_ipython()
    return None if shell is None else shell.user_ns


def _option(trial: TrialState) -> str:
    return trial.name if trial.metrics.get("metric") is not None else f"{trial.name} ({trial.status})"


def _html(*classes: str) -> ipywidgets.HTML:
    widget = ipywidgets.HTML()
    for name in classes:
        widget.add_class(name)
    return widget


def _row(name: str, children: list[ipywidgets.Widget]) -> ipywidgets.HBox:
    box = ipywidgets.HBox(children)
    box.add_class(name)
    return box


def _button(words: str, tooltip: str, action: Callable[[], None]) -> ipywidgets.Button:
    button = ipywidgets.Button(description=words, tooltip=tooltip)
    button.add_class("qt-button")
    button.on_click(lambda _: action())
    return button


def _put(widget: ipywidgets.HTML, value: str) -> None:
    if widget.value != value:
        widget.value = value
    _show(widget, bool(value))


def _show(widget: ipywidgets.Widget, visible: bool) -> None:
    display = None if visible else "none"
    if widget.layout.display != display:
        widget.layout.display = display
