"""Widgets on Google Colab, which loads third-party widgets only on request."""

from __future__ import annotations

import sys
from typing import Any

_url: str | None = None


def on_colab() -> bool:
    """Return whether this kernel runs on Google Colab."""
    return "google.colab" in sys.modules


def enable_custom_widget_manager() -> None:
    """Make Colab load bqplot, once before the first widget; do nothing elsewhere."""
    global _url
    if not on_colab() or _url is not None:
        return
    from google.colab import output

    output.enable_custom_widget_manager()
    _url = _manager_url()


def bundle_metadata() -> dict[str, Any]:
    """Return the metadata that Colab needs to draw a saved widget again; an empty dict elsewhere."""
    if not _url:
        return {}
    return {"application/vnd.jupyter.widget-view+json": {"colab": {"custom_widget_manager": {"url": _url}}}}


def _manager_url() -> str:
    # Colab has the address in a private module only.
    from google.colab.output import _widgets

    manager = getattr(_widgets, "_installed_url", None)
    return str(manager) if manager else ""
