"""Techniques that compress or run a model: one file per technique, found by its place in a folder."""

from __future__ import annotations

import importlib
import pkgutil
from functools import lru_cache

ROOMS = ("prune", "recover", "quantize", "runtimes")


@lru_cache(maxsize=1)
def load() -> None:
    """Import all techniques, so that they register themselves; heavy libraries are imported when one runs."""
    for room in ROOMS:
        package = importlib.import_module(f"{__name__}.{room}")
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
