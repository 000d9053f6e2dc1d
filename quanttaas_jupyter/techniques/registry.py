"""Registry of techniques: a module registers its technique and its description under a name; no list is maintained."""

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
"""Distributions that each extra of this package installs; of those separated by a bar, one suffices."""


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One registered technique, and the facts that its results depend on.

    Attributes:
        value: The technique itself.
        module: Dotted name of the module that holds it.
        needs: Inputs of the study that it uses besides its data; see ``Registry.register``.
        extra: The extra of this package that installs the libraries it cannot do without.
    """

    value: T
    module: str
    needs: tuple[str, ...]
    extra: str = ""

    def is_missing_packages(self) -> bool:
        """Return whether a package of the technique's extra is not installed here."""
        return any(not any(map(version_of, name.split("|"))) for name in _EXTRAS.get(self.extra, ()))

    def fingerprint(self) -> str:
        """Return a hash that changes with the code and the library versions that the technique's results depend on."""
        return fingerprint(self.module)


class Registry(Generic[T]):
    """Registry of the techniques of one kind; their modules, which are light, are imported on the first access."""

    def __init__(self, kind: Kind | None) -> None:
        """Create an empty registry; ``kind`` is None for techniques that recipes never name."""
        self._kind = kind
        self._entries: dict[Hashable, Entry[T]] = {}

    def register(
        self, key: Hashable, technique: Technique | None = None, needs: tuple[str, ...] = (), extra: str = ""
    ) -> Callable[[T], T]:
        """Return a decorator that registers a technique.

        Args:
            key: Its name, or for quantizations (quantization, runtime).
            technique: Its description. A name that is registered several times needs only one.
            needs: Inputs of the study that it uses besides its data. ``calibrator``, ``ranking`` and ``goal`` are those
                of the recipe; ``module`` is the PyTorch module behind an artifact; ``processor`` tells whether int8
                sums are exact; ``keep`` says that it honours a number of layers that stay in higher precision, and
                without it a trial that asks for some is refused. Runtimes may need ``gpu``, if one speeds them up, and
                ``targets``.
            extra: The extra of this package that installs the libraries it cannot do without.
        """

        def keep(value: T) -> T:
            module = getattr(value, "__module__", type(value).__module__)
            if technique and self._kind:
                catalogue.describe(self._kind, _name_of(key), technique)
            self._entries[key] = Entry(value, module, needs, extra)
            return value

        return keep

    def unregister(self, key: Hashable) -> Entry[T]:
        """Remove and return a technique, and remove its description with the last technique of its name."""
        entry = self._all().pop(key)
        if self._kind and not any(_name_of(other) == _name_of(key) for other in self._entries):
            catalogue.forget(self._kind, _name_of(key))
        return entry

    def find(self, key: Hashable) -> Entry[T] | None:
        """Return the entry of a technique, or None if there is none."""
        return self._all().get(key)

    def get(self, key: Hashable) -> T:
        """Return the technique itself.

        Raises:
            KeyError: No technique has this key.
        """
        return self._all()[key].value

    def keys(self) -> list[Any]:
        """Return the keys of all techniques."""
        return list(self._all())

    def _all(self) -> dict[Hashable, Entry[T]]:
        load()
        return self._entries


def _name_of(key: Hashable) -> str:
    return str(key[0] if isinstance(key, tuple) else key)
