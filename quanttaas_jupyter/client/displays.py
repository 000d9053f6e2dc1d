"""Registration of a display for studies, so that they also work without a notebook."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..core.state import StudyState
    from .study import Study


class Display(Protocol):
    """Interface of a display of studies."""

    def figure(self, state: StudyState) -> Figure:
        """Draw the still picture of a study."""

    def sensitivity_figure(self, state: StudyState) -> Figure:
        """Draw the layers ranked by the cost of pruning or quantizing each alone."""

    def html(self, state: StudyState) -> str:
        """Return the still view of a study as HTML."""

    def widget(self, study: Study) -> Any:
        """Return the live view of a study as a widget."""

    def show(self, study: Study, namespace: dict[str, Any] | None) -> None:
        """Display the live view and the still view in the current cell."""


_module = ""


def register(module: str) -> None:
    """Register the module whose functions implement ``Display``; it is imported when a study is drawn."""
    global _module
    _module = module


def display() -> Display:
    """Return the registered display."""
    module: Any = importlib.import_module(_module)
    display: Display = module
    return display
