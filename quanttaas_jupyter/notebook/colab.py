"""Widgets on Google Colab, which loads third-party widgets only when told to."""

from __future__ import annotations

import sys
from typing import Any

_url: str | None = None


def on_colab() -> bool:
    """Whether this kernel runs on Google Colab."""
    return "google.colab" in sys.modules


def enable_custom_widget_manager() -> None:
    """Let Colab show bqplot: called once before the first widget; does nothing elsewhere."""
    global _url
    if not on_colab() or _url is not None:
        return
    from google.colab import output

    output.enable_custom_widget_manager()
    _url = _manager_url()


def bundle_metadata() -> dict[str, Any]:
    """The metadata that a widget's output needs on Colab to be drawn again; empty elsewhere."""
    if not _url:
        return {}
    return {"application/vnd.jupyter.widget-view+json": {"colab": {"custom_widget_manager": {"url": _url}}}}


def _manager_url() -> str:
    # Colab keeps the address in a private module and offers no call that returns it.
    from google.colab.output import _widgets

    manager = getattr(_widgets, "_installed_url", None)
    return str(manager) if manager else ""
