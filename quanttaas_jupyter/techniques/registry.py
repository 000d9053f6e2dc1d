"""Techniques by name: a module registers what it can do and describes it, nothing else needs to know of it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ..core import catalogue
from ..core.catalogue import Kind, Technique
from ..core.fingerprint import fingerprint, version_of
from . import load

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
    """One registered technique: what it is, and what its results depend on.

    Attributes:
        value: The technique itself.
        module: Dotted name of the module that holds it.
        needs: What of the study it decides by, beside its data.
        extra: The extra of ours that brings what it cannot do without.
    """

    value: T
    module: str
    needs: tuple[str, ...]
    extra: str = ""

    def is_missing_packages(self) -> bool:
        """Return whether a package of its extra is not installed here."""
        return any(not any(map(version_of, name.split("|"))) for name in _EXTRAS.get(self.extra, ()))

    def fingerprint(self) -> str:
        """Return a hash that changes when code or libraries that the technique's results depend on change."""
        return fingerprint(self.module)


class Registry(Generic[T]):
    """The techniques of one kind; their modules are imported (they are light) on the first look."""

    def __init__(self, kind: Kind | None) -> None:
        """Make an empty registry; of ``kind`` None for what recipes never name."""
        self._kind = kind
        self._entries: dict[Hashable, Entry[T]] = {}

    def register(
        self, key: Hashable, about: Technique | None = None, needs: tuple[str, ...] = (), extra: str = ""
    ) -> Callable[[T], T]:
        """Return a decorator that registers a technique.

        Args:
            key: Its name, or for quantizations (quantization, runtime).
            about: What it says of itself. Of a name that is registered several times, once is enough.
            needs: What of the study it decides by, beside its data: ``calibrator``, ``ranking`` or ``goal``; or
                ``module``, the PyTorch module behind an artifact; or ``processor``, how exact its int8 sums are; for
                runtimes ``gpu`` where it gains by one, and ``targets``.
            extra: The extra of ours that brings what it cannot do without.
        """

        def keep(value: T) -> T:
            module = getattr(value, "__module__", type(value).__module__)
            self._entries[key] = Entry(value, module, needs, extra)
            if about and self._kind:
                catalogue.describe(self._kind, _name_of(key), about)
            return value

        return keep

    def unregister(self, key: Hashable) -> Entry[T]:
        """Remove a technique, and its description when it was the last of its name."""
        entry = self._all().pop(key)
        if self._kind and not any(_name_of(other) == _name_of(key) for other in self._entries):
            catalogue.forget(self._kind, _name_of(key))
        return entry

    def find(self, key: Hashable) -> Entry[T] | None:
        """Return the entry of a technique, or None where none is built."""
        return self._all().get(key)

    def get(self, key: Hashable) -> T:
        """Return the technique itself. Raises KeyError."""
        return self._all()[key].value

    def keys(self) -> list[Any]:
        """Return the keys of all techniques."""
        return list(self._all())

    def _all(self) -> dict[Hashable, Entry[T]]:
        load()
        return self._entries


def _name_of(key: Hashable) -> str:
    return str(key[0] if isinstance(key, tuple) else key)
