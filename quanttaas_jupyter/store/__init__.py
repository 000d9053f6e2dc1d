"""Stores of bytes in a folder or a bucket; ``open_store`` opens the one that a URI or a folder names."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlparse

import platformdirs

from ..core.config import load_config
from ..core.errors import StoreError
from .base import MissingKey, Store
from .cached import CachedStore
from .gcs import GcsStore
from .local import LocalStore

__all__ = ["MissingKey", "Store", "open_store"]


def open_store(uri: str | Path | None = None) -> Store:
    """Open the store at ``uri``: a folder, a ``file://`` or ``gs://`` URI, or None for the configured default.

    Blobs from a bucket are kept in a folder of this machine; ``QUANTTAAS_CACHE`` names another one.

    Raises:
        StoreError: The kind of store is unknown, or the URI malformed.
    """
    address = str(uri if uri is not None else load_config().store)
    if not address.strip():
        raise StoreError("the name of the store is empty; use a folder, such as ~/studies, or gs://bucket/prefix")
    try:
        return _opened(address)
    except (ValueError, RuntimeError) as error:
        # ValueError: brackets that are no IPv6 address; RuntimeError: the home folder of an unknown user.
        raise StoreError(f"{address!r} is no store: {error}") from None


def _opened(address: str) -> Store:
    scheme = urlparse(address).scheme if re.match(r"[a-z][a-z0-9+]+://", address) else ""
    if scheme == "":
        return LocalStore(Path(address), load_config().store_shared)
    if scheme == "file":
        return LocalStore(Path(unquote(urlparse(address).path)), load_config().store_shared)
    if scheme == "gs":
        return CachedStore(GcsStore(address), _cache_folder())
    raise StoreError(f"unknown kind of store {address!r}; use a folder, such as ~/studies, or gs://bucket/prefix")


def _cache_folder() -> Path:
    named = os.environ.get("QUANTTAAS_CACHE")
    return Path(named).expanduser() if named else Path(platformdirs.user_cache_dir("quanttaas")) / "blobs"
