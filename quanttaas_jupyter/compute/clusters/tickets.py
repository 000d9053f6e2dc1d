"""Signed tickets, so that other users of a shared store cannot make an engine run code that its user never submitted.

Each user has a key pair. Tickets in a store's queue are signed with the private key, which never leaves the user's
machine. The engine that the user starts on a cluster knows the public key and claims only what it verifies (Ed25519;
Bernstein et al., "High-speed high-security signatures", 2011). A ticket names the SHA-256 of ``study.json``.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from typing import Any

from ...core import identity
from ...core.errors import MissingDependency

LIFETIME = 7 * 24 * 3600.0
"""Seconds for which a ticket counts; chosen, not tuned. A client that follows its study writes a new one after that."""
_AHEAD = 3600.0
"""Seconds that the clock of the machine that signed may be ahead; chosen, not tuned."""


def stamp() -> dict[str, Any]:
    """Return what makes a ticket the only one of its kind: the time, and a random ``nonce``."""
    return {"time": time.time(), "nonce": secrets.token_hex(16)}


def is_expired(ticket: dict[str, Any]) -> bool:
    """Return whether a ticket is too old, from the future, or says no time."""
    age = time.time() - float(ticket.get("time", 0.0))
    return not -_AHEAD < age < LIFETIME


def mark(ticket: dict[str, Any]) -> str:
    """Return a name of a signed ticket, under which an engine notes that it was served."""
    return hashlib.sha256(str(ticket["signature"]).encode()).hexdigest()


def public_key() -> str:
    """Return this user's public key in hexadecimal digits; the key pair is generated on first use."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return str(_private_key().public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex())


def sign(ticket: dict[str, Any]) -> dict[str, Any]:
    """Return the ticket with ``key`` and ``signature`` added."""
    signed = {**ticket, "key": public_key()}
    return {**signed, "signature": _private_key().sign(_message(signed)).hex()}


def is_signed_by(ticket: dict[str, Any], key: str) -> bool:
    """Return whether a ticket is unchanged since it was signed with the private key that belongs to ``key``."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if ticket.get("key") != key:
        return False
    unsigned = {name: value for name, value in ticket.items() if name != "signature"}
    try:
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))
        public.verify(bytes.fromhex(str(ticket.get("signature"))), _message(unsigned))
    except (InvalidSignature, ValueError):
        return False
    return True


def _message(ticket: dict[str, Any]) -> bytes:
    return json.dumps(ticket, sort_keys=True, separators=(",", ":")).encode()


def _private_key() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError:
        raise MissingDependency(
            "clusters need the package cryptography: pip install 'quanttaas-jupyter[ray]'"
        ) from None
    return Ed25519PrivateKey.from_private_bytes(identity.secret())
