"""Versions that must match between a kernel and the machines of a cluster."""

from __future__ import annotations

import hashlib
import platform
import socket
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__version__ = "0.1.0"

_BOOT = Path("/proc/sys/kernel/random/boot_id")


def versions() -> dict[str, str]:
    """Return ``python``, ``torch``, ``quanttaas``, ``source`` (digest of this package's code) and ``machine``."""
    return {
        "python": platform.python_version(),
        "torch": _version("torch"),
        "quanttaas": _version("quanttaas-jupyter"),
        "source": source(),
        "machine": machine(),
    }


@lru_cache(maxsize=1)
def source() -> str:
    """Return the SHA-256 digest of this package's Python source."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


@lru_cache(maxsize=1)
def machine() -> str:
    """Return a name of this machine that changes with each reboot."""
    boot = _BOOT.read_text(encoding="utf-8").strip() if _BOOT.exists() else ""
    return f"{socket.gethostname()}:{boot}"


def minor(value: str) -> str:
    """Return the first two parts of a version, such as ``3.11`` of ``3.11.7``."""
    return ".".join(value.split(".")[:2])


def differences(here: Mapping[str, str], there: Mapping[str, str]) -> list[str]:
    """Return one sentence for each version, except Python's, that keeps a kernel's study from running on a cluster.

    Args:
        here: ``versions()`` of the kernel.
        there: The same of the cluster.
    """
    problems = []
    if minor(here["torch"]) != minor(there["torch"]):
        problems.append(f"torch is {here['torch']} here and {there['torch'] or 'missing'} there")
    if here["source"] != there["source"]:
        if here["quanttaas"] == there["quanttaas"]:
            problems.append(f"quanttaas-jupyter is {here['quanttaas']} on both sides, but with another source here")
        else:
            problems.append(f"quanttaas-jupyter is {here['quanttaas']} here and {there['quanttaas']} there")
    return problems


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
