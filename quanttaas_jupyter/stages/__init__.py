"""Kinds of stages: small JSON in, small JSON out; bytes pass through the store.

A stage is run by ``run(kind, context) -> dict``. The result holds ``blobs`` {name: sha} of what it made, ``facts`` for
metrics and later stages, ``warnings`` for the user, and ``choices`` that techniques made.
"""

from __future__ import annotations

import importlib
from typing import Any

from ..core.fingerprint import fingerprint
from .context import Context

__all__ = ["Context", "fingerprint_of", "run"]

_HOMES = {
    "preview": "measuring",
    "sensitivity": "building",
    "prune": "building",
    "screen": "building",
    "recover": "building",
    "export": "building",
    "quantize": "building",
    "evaluate": "measuring",
    "latency": "measuring",
}
"""Module of each kind of stage; its function has the name of the kind."""


def fingerprint_of(kind: str) -> str:
    """Return a hash that changes with the code of a kind of stage, and with the libraries that it uses."""
    return fingerprint(f"{__name__}.{_HOMES[kind]}")


def run(kind: str, context: Context) -> dict[str, Any]:
    """Run one stage, and return its result with the warnings and choices of the stages it builds on."""
    stage = getattr(importlib.import_module(f"{__name__}.{_HOMES[kind]}"), kind)
    made = {"blobs": {}, "facts": {}, "warnings": [], "choices": {}, **stage(context)}
    builds_on = [context.inputs[role] for role in ("pruned", "trained", "source") if role in context.inputs]
    warnings = [*(line for stage in builds_on for line in stage["warnings"]), *made["warnings"]]
    choices = {key: value for stage in (*builds_on, made) for key, value in stage["choices"].items()}
    return {**made, "warnings": list(dict.fromkeys(warnings)), "choices": choices}
