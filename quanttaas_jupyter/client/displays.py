"""How studies are displayed: the front end registers itself, so that studies work where none is."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..core.state import StudyState
    from .study import Study


class Display(Protocol):
    """Draws studies."""

    def figure(self, state: StudyState) -> Figure:
        """Draw the still picture."""

    def sensitivity_figure(self, state: StudyState) -> Figure:
        """Draw the layers ranked by what pruning or quantizing each alone costs."""

    def html(self, state: StudyState) -> str:
        """Return the still view as HTML."""

    def widget(self, study: Study) -> Any:
        """Return the live view, a widget."""

    def show(self, study: Study, namespace: dict[str, Any] | None) -> None:
        """Display the live view and the still one in the current cell."""


_module = ""


def register(module: str) -> None:
    """Name the module whose functions are the ``Display``; it is imported when something is drawn."""
    global _module
    _module = module


def display() -> Display:
    """Return the registered display."""
    found: Any = importlib.import_module(_module)
    display: Display = found
    return display
