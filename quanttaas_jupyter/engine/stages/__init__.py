"""The kinds of stage: small JSON in, small JSON out; all bytes pass through the store.

A stage is ``run(kind, context) -> dict`` with ``blobs`` {name: sha} of what it made, ``facts`` for metrics and
downstream stages, ``warnings`` for the person and ``choices`` that techniques made by themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import building, measuring
from .context import Context

__all__ = ["Context", "run"]

_KINDS: dict[str, Callable[[Context], dict[str, Any]]] = {
    "preview": measuring.preview,
    "sensitivity": building.sensitivity,
    "prune": building.prune,
    "screen": building.screen,
    "recover": building.recover,
    "export": building.export,
    "quantize": building.quantize,
    "evaluate": measuring.evaluate,
    "latency": measuring.latency,
}


def run(kind: str, context: Context) -> dict[str, Any]:
    """Run one stage; warnings and choices of the stages it builds on are carried along."""
    made = {"blobs": {}, "facts": {}, "warnings": [], "choices": {}, **_KINDS[kind](context)}
    builds_on = [context.inputs[role] for role in ("pruned", "trained", "source") if role in context.inputs]
    warnings = [*(line for stage in builds_on for line in stage["warnings"]), *made["warnings"]]
    choices = {key: value for stage in (*builds_on, made) for key, value in stage["choices"].items()}
    return {**made, "warnings": list(dict.fromkeys(warnings)), "choices": choices}
