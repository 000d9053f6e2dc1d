"""Kinds of stages: small records in, a small record out; bytes pass through the store."""

from __future__ import annotations

import dataclasses
import importlib

from ..core.fingerprint import fingerprint
from ..core.records.stage import StageResult
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


def run(kind: str, context: Context) -> StageResult:
    """Run one stage, and return its result with the warnings and choices of the stages it builds on."""
    made: StageResult = getattr(importlib.import_module(f"{__name__}.{_HOMES[kind]}"), kind)(context)
    builds_on = [context.inputs[role] for role in ("pruned", "trained", "source") if role in context.inputs]
    warnings = dict.fromkeys(line for result in (*builds_on, made) for line in result.warnings)
    choices = {key: value for result in (*builds_on, made) for key, value in result.choices.items()}
    return dataclasses.replace(made, warnings=tuple(warnings), choices=choices)
