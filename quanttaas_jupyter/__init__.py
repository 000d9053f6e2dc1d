"""Quantization and pruning as a service, inside the notebook.

>>> import quanttaas_jupyter as qt >>> study = qt.compress(model, data=test_loader, train=train_loader) # doctest: +SKIP
>>> study.wait().best(max_drop=0.01).load() # doctest: +SKIP

Importing the package imports neither torch nor any view; its names are resolved on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .client import displays

if TYPE_CHECKING:
    from .client.api import compress, open, studies
    from .client.study import Study, Trial
    from .core.errors import QuantTaaSError
    from .core.recipe import Recipe
    from .core.versions import __version__ as __version__

__all__ = [
    "QuantTaaSError",
    "Recipe",
    "Study",
    "Trial",
    "compress",
    "load_ipython_extension",
    "open",
    "studies",
    "unload_ipython_extension",
]

_HOMES = {
    "__version__": "core.versions",
    "compress": "client.api",
    "open": "client.api",
    "studies": "client.api",
    "QuantTaaSError": "core.errors",
    "Recipe": "core.recipe",
    "Study": "client.study",
    "Trial": "client.study",
}


displays.register(f"{__name__}.notebook.display")


def load_ipython_extension(shell: Any) -> None:
    """Register the magics for ``%load_ext quanttaas_jupyter``, and start the engine in the background."""
    from .notebook.magics import load

    load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """Remove the magics for ``%unload_ext quanttaas_jupyter``."""
    from .notebook.magics import unload

    unload(shell)


def _jupyter_labextension_paths() -> list[dict[str, str]]:
    """Return the folder in which JupyterLab finds the side panel during development."""
    return [{"src": "labextension", "dest": "quanttaas-jupyter"}]


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    """Return the module in which Jupyter Server finds the routes of the side panel."""
    return [{"module": __name__}]


def _load_jupyter_server_extension(app: Any) -> None:
    """Add the routes of the side panel to a server."""
    from .server.extension import load

    load(app)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
