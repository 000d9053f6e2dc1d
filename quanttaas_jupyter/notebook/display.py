"""What a cell shows: the live view, and beside it a still one that needs no kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from IPython.display import display

from .live_view import StudyView
from .sensitivity import sensitivity_figure
from .still_view import StillView, figure, html

__all__ = ["figure", "html", "sensitivity_figure", "show", "widget"]

if TYPE_CHECKING:
    from ..client.study import Study


def widget(study: Study) -> StudyView:
    """Return the live view."""
    return StudyView(study)


def show(study: Study, namespace: dict[str, Any] | None = None) -> None:
    """Display both views in the current cell; they follow the study from a thread.

    A widget saved without its kernel shows an error even where HTML stands beside it in the same output, so the still
    view is an output of its own.
    """
    display(StudyView(study, namespace))
    study.follow(StillView(study.state).update)
