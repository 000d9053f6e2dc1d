"""Where bytes live. ``open_store`` turns a URI or a folder into a store."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlparse

from ..config import load_config
from ..errors import StoreError
from .base import MissingKey, Store
from .local import LocalStore

__all__ = ["MissingKey", "Store", "open_store"]


def open_store(uri: str | Path | None = None) -> Store:
    """The store at ``uri``: a folder or ``file://`` URI; None for the configured default.

    Raises:
        StoreError: The kind of store is unknown or not built yet.
    """
    address = str(uri if uri is not None else load_config().store)
    scheme = urlparse(address).scheme if re.match(r"[a-z][a-z0-9+]+://", address) else ""
    if scheme == "":
        return LocalStore(Path(address))
    if scheme == "file":
        return LocalStore(Path(unquote(urlparse(address).path)))
    if scheme == "gs":
        raise StoreError(f"stores on Google Cloud Storage are not built yet ({address}); use a folder of this machine")
    raise StoreError(f"unknown kind of store {address!r}; use a folder, such as ~/studies, or a file:// URI")
