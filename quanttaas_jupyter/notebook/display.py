"""Display of a study in a cell: the live view, and a still view that needs no kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from IPython.display import display

from ..core.failures import first_line
from .live_view import StudyView
from .sensitivity import sensitivity_figure
from .still_view import StillView, figure, html

__all__ = ["figure", "html", "sensitivity_figure", "show", "widget"]

if TYPE_CHECKING:
    from ..client.study import Study


def widget(study: Study) -> StudyView:
    """Return the live view of a study."""
    return StudyView(study)


def show(study: Study, namespace: dict[str, Any] | None = None) -> None:
    """Display both views in the current cell; a thread updates them.

    A widget saved without its kernel shows an error, even if the same output also has HTML. So the still view is a
    separate output. Where widgets fail, it stands alone: the study goes on whatever a front end can show.
    """
    try:
        display(StudyView(study, namespace))
    except Exception as error:
        print(f"no live view in this notebook ({first_line(error)}): the picture below follows the study instead")
    study.follow(StillView(study.state).update)
