"""Identity of this user: one secret key, and signatures by it over JSON that others may write to a store.

A signature is an HMAC (Krawczyk et al., RFC 2104) with SHA-256, because only this user has to verify it. It covers the
kind and all other fields, so that nothing can be changed or moved to another place.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .config import load_config
from .private_files import private_folder, private_secret

_SIZE = 32
_REMEDY = "set QUANTTAAS_RUNTIME_DIR to a folder of yours"

_keys: dict[tuple[str | None, ...], tuple[str, bytes]] = {}
"""Paths and content of keys, by the environment variables that say where they lie."""


def secret() -> bytes:
    """Return this user's secret key; it never leaves the machine.

    Raises:
        QuantTaaSError: The key is not this user's alone.
    """
    # Asked for each entry of the cache: the configuration is read anew only where the environment names another one.
    place = tuple(os.environ.get(f"QUANTTAAS_{name}") for name in ("RUNTIME_DIR", "CONFIG"))
    path, key = _keys.get(place, ("", b""))
    if not path or not os.path.exists(path):
        folder = private_folder(Path(load_config().runtime_dir), _REMEDY)
        path = str(folder / "signing.key")
        key = private_secret(Path(path), _SIZE, _REMEDY)
        _keys[place] = path, key
    return key


_is_store_relied_on = False


def rely_on_store() -> None:
    """Let all that lies in a store count as this user's, and sign nothing: on a cluster, where this user has no key."""
    global _is_store_relied_on
    _is_store_relied_on = True


def signed(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with a ``signature`` of this user's over the kind and all other fields."""
    if _is_store_relied_on:
        return dict(values)
    return {**values, "signature": _signature(kind, values)}


def is_mine(kind: str, values: Mapping[str, Any]) -> bool:
    """Return whether values are unchanged since this user signed them as this kind."""
    if _is_store_relied_on:
        return True
    found = values.get("signature")
    return isinstance(found, str) and hmac.compare_digest(found.encode(), _signature(kind, values).encode())


def sealed(kind: str, data: bytes) -> bytes:
    """Return bytes behind a signature of this user's over the kind and the bytes."""
    return data if _is_store_relied_on else _seal(kind, data) + data


def opened(kind: str, data: bytes) -> bytes | None:
    """Return the bytes that ``sealed`` signed; None if this user did not seal them as this kind."""
    if _is_store_relied_on:
        return data
    seal, content = data[:_SIZE], data[_SIZE:]
    return content if hmac.compare_digest(seal, _seal(kind, content)) else None


def _seal(kind: str, data: bytes) -> bytes:
    return hmac.new(_key(), kind.encode() + b"\0" + data, hashlib.sha256).digest()


def _key() -> bytes:
    # Another key than that of tickets, which come from the same secret.
    return hashlib.sha256(b"quanttaas records " + secret()).digest()


def _signature(kind: str, values: Mapping[str, Any]) -> str:
    unsigned = {name: value for name, value in values.items() if name != "signature"}
    message = json.dumps([kind, unsigned], sort_keys=True, separators=(",", ":")).encode()
    return hmac.new(_key(), message, hashlib.sha256).hexdigest()
