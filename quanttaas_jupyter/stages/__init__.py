"""The kinds of stage: small JSON in, small JSON out; all bytes pass through the store.

A stage is ``run(kind, context) -> dict`` with ``blobs`` {name: sha} of what it made, ``facts`` for metrics and
downstream stages, ``warnings`` for the person and ``choices`` that techniques made by themselves.
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
"""The module of each kind of stage; its function is called as the kind."""


def fingerprint_of(kind: str) -> str:
    """Return a hash that changes when the code of a kind of stage, or a library that it works with, changes."""
    return fingerprint(f"{__name__}.{_HOMES[kind]}")


def run(kind: str, context: Context) -> dict[str, Any]:
    """Run one stage; warnings and choices of the stages it builds on are carried along."""
    stage = getattr(importlib.import_module(f"{__name__}.{_HOMES[kind]}"), kind)
    made = {"blobs": {}, "facts": {}, "warnings": [], "choices": {}, **stage(context)}
    builds_on = [context.inputs[role] for role in ("pruned", "trained", "source") if role in context.inputs]
    warnings = [*(line for stage in builds_on for line in stage["warnings"]), *made["warnings"]]
    choices = {key: value for stage in (*builds_on, made) for key, value in stage["choices"].items()}
    return {**made, "warnings": list(dict.fromkeys(warnings)), "choices": choices}
