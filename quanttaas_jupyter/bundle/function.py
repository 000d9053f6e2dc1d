"""Functions of the notebook, pickled for the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..store import blobs
from ..store.base import Store
from .digest import digest
from .local_code import dumps


@dataclass(frozen=True)
class Function:
    """Pickled function: its name, a digest of what it does, and its pickle with the local code it needs."""

    name: str
    digest: str
    data: bytes

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Function:
        """Pickle a callable; exceptions of the pickler are not caught."""
        name = getattr(function, "__name__", type(function).__name__)
        return cls(name, digest(function), dumps(function))

    def stored(self, store: Store) -> dict[str, str]:
        """Store the pickle, and return a reference with ``name``, ``digest`` and ``blob``."""
        return {"name": self.name, "digest": self.digest, "blob": blobs.put_bytes(store, self.data)}
