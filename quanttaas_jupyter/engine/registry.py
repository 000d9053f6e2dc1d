"""Techniques by name: a module in the package registers what it can do, nothing else needs to know of it."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import pkgutil
import sys
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_EXTRAS = {
    "executorch": ("executorch",),
    "modelopt": ("nvidia-modelopt",),
    "openvino": ("openvino", "nncf"),
    "tensorrt-rtx": ("tensorrt-rtx|tensorrt",),
}
"""Distributions of our extras that techniques need; one of several where they are parted by a bar."""


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One registered technique: what it is, and what its results depend on."""

    value: T
    module: str
    packages: tuple[str, ...]
    helpers: tuple[str, ...]
    needs: tuple[str, ...]
    extra: str = ""

    def missing(self) -> bool:
        """Whether a package of its extra is not installed here."""
        return any(not any(map(version_of, name.split("|"))) for name in _EXTRAS.get(self.extra, ()))

    def fingerprint(self) -> str:
        """Changes when the technique's source or a package it works with changes."""
        versions = [f"{name}={version_of(name)}" for name in self.packages]
        return "|".join([*map(source_digest, (self.module, *self.helpers)), *versions])


class Registry(Generic[T]):
    """The techniques of one package; its modules are imported (they are light) on the first look."""

    def __init__(self, package: str) -> None:
        self._package = package
        self._entries: dict[Hashable, Entry[T]] = {}
        self._loaded = False

    def register(
        self,
        key: Hashable,
        packages: tuple[str, ...] = (),
        helpers: tuple[str, ...] = (),
        needs: tuple[str, ...] = (),
        extra: str = "",
    ) -> Callable[[T], T]:
        """Decorate the technique ``key``.

        Args:
            key: Its name, or for quantizations (quantization, runtime).
            packages: Distributions that its results depend on.
            helpers: Modules of ours that its results depend on, beside its own.
            needs: What of the study it decides by, beside its data: ``calibrator``, ``ranking`` or ``goal``; or
                ``module``, the PyTorch module behind an artifact; or ``processor``, how exact its int8 sums are; for
                runtimes ``gpu`` where it gains by one, and ``targets``.
            extra: The extra of ours that brings what it cannot do without.
        """

        def keep(value: T) -> T:
            module = getattr(value, "__module__", type(value).__module__)
            self._entries[key] = Entry(value, module, packages, helpers, needs, extra)
            return value

        return keep

    def find(self, key: Hashable) -> Entry[T] | None:
        """The technique, or None where none is built."""
        return self._all().get(key)

    def get(self, key: Hashable) -> T:
        """The technique itself. Raises KeyError."""
        return self._all()[key].value

    def keys(self) -> list[Any]:
        """What is built."""
        return list(self._all())

    def _all(self) -> dict[Hashable, Entry[T]]:
        if not self._loaded:
            package = importlib.import_module(self._package)
            for module in pkgutil.iter_modules(package.__path__, f"{self._package}."):
                importlib.import_module(module.name)
            self._loaded = True
        return self._entries


@lru_cache(maxsize=256)
def source_digest(module: str) -> str:
    """SHA-256 of a module's source file."""
    file = getattr(sys.modules.get(module) or importlib.import_module(module), "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else module


@lru_cache(maxsize=256)
def version_of(package: str) -> str:
    """The installed version of a distribution, or an empty string."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
