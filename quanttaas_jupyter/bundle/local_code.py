"""Pickling of code that is not installed: notebook cells, and Python files next to the notebook."""

from __future__ import annotations

import contextlib
import copyreg
import importlib
import io
import pickle
import site
import sys
import sysconfig
import types
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import cloudpickle

_PACKAGES = frozenset({"site-packages", "dist-packages"})
"""What folders of installed packages are called."""


def is_local_module(name: str | None) -> bool:
    """Return whether a module is pickled by value: notebook cells, and files outside the installed packages."""
    if name is None or name == "__main__":
        return True
    if name.partition(".")[0] == "quanttaas_jupyter":
        return False
    module = sys.modules.get(name)
    if module is None:
        return False
    file = getattr(module, "__file__", None)
    return file is not None and not _is_installed(file)


@contextlib.contextmanager
def pickled_by_value() -> Iterator[None]:
    """Make cloudpickle include the code of local modules within this context."""
    local = [
        module
        for name, module in list(sys.modules.items())
        if name != "__main__" and getattr(module, "__name__", None) == name and is_local_module(name)
    ]
    already = cloudpickle.list_registry_pickle_by_value()
    added = [module for module in local if module.__name__ not in already]
    for module in added:
        cloudpickle.register_pickle_by_value(module)
    _import_odd_modules()
    try:
        yield
    finally:
        for module in added:
            cloudpickle.unregister_pickle_by_value(module)


def _import_odd_modules() -> None:
    """Pickle modules with a class of their own, such as ``torch.classes``, by name like all others.

    cloudpickle pickles all that a name in the code may refer to: for code that uses ``torch`` and ``self.classes`` it
    includes the module ``torch.classes``.
    """
    for name, module in list(sys.modules.items()):
        odd = isinstance(module, types.ModuleType) and type(module) is not types.ModuleType
        if odd and name.partition(".")[0] == "torch":
            copyreg.pickle(type(module), _by_name)


def _by_name(module: types.ModuleType) -> tuple[Any, tuple[str]]:
    name = next(name for name, known in sys.modules.items() if known is module)
    return importlib.import_module, (name,)


def dumps(value: Any) -> bytes:
    """Pickle a value together with the local code it needs."""
    with pickled_by_value():
        return bytes(cloudpickle.dumps(value))


def loads(data: bytes) -> Any:
    """Unpickle what ``dumps`` returned; this runs code, so only use it on data that this user submitted."""
    return pickle.load(io.BytesIO(data))


@cache
def _is_installed(file: str) -> bool:
    path = Path(file).resolve()
    # Packages of another environment on the path are installed too.
    is_package = not _PACKAGES.isdisjoint(path.parts)
    return is_package or any(path.is_relative_to(folder) for folder in _installed_folders())


@lru_cache(maxsize=1)
def _installed_folders() -> tuple[Path, ...]:
    paths = sysconfig.get_paths()
    folders = {paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders.update(site.getsitepackages() if hasattr(site, "getsitepackages") else [])
    folders.add(site.getusersitepackages())
    folders.add(str(Path(sys.base_prefix) / "lib"))
    return tuple(Path(folder).resolve() for folder in folders)
