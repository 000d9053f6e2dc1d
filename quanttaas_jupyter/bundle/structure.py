"""Structures of inputs and outputs: how tuples, lists and dicts of tensors are nested, as JSON without the tensors.

JSON forms: ``"tensor"``, ``null``, ``["tuple" | "list", item, ...]``, ``{"dict": {key: item}, "class": name?}``. A
mapping or named tuple of another class is rebuilt as that class if it can be imported and made from its items, and as a
plain dict or tuple otherwise.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

Structure = Any

TENSOR = "tensor"


def flatten(value: Any, name: str = "") -> tuple[list[tuple[str, Any]], Structure]:
    """Split a nested value into named leaves and its structure.

    Returns:
        Leaves as (dotted name, leaf) in order, and the JSON structure. Each value that is neither None nor a tuple,
        list or mapping is a leaf.
    """
    leaves: list[tuple[str, Any]] = []
    return leaves, _flatten(value, name, leaves)


def unflatten(structure: Structure, leaves: list[Any]) -> Any:
    """Rebuild a nested value from its structure and its leaves."""
    return _build(structure, iter(leaves))


def _flatten(value: Any, name: str, leaves: list[tuple[str, Any]]) -> Structure:
    if value is None:
        return None
    if isinstance(value, Mapping):
        items = {str(key): _flatten(item, _join(name, key), leaves) for key, item in value.items()}
        plain = type(value) is dict
        return {"dict": items} if plain else {"dict": items, "class": _class_name(value)}
    if isinstance(value, (tuple, list)):
        parts = [_flatten(item, _join(name, index), leaves) for index, item in enumerate(value)]
        if hasattr(value, "_fields"):
            return {"fields": parts, "class": _class_name(value)}
        return ["tuple" if isinstance(value, tuple) else "list", *parts]
    leaves.append((name, value))
    return TENSOR


def _join(name: str, part: Any) -> str:
    return f"{name}.{part}" if name else str(part)


def _build(structure: Structure, leaves: Iterator[Any]) -> Any:
    if structure is None:
        return None
    if structure == TENSOR:
        return next(leaves)
    if isinstance(structure, dict):
        if "fields" in structure:
            parts = [_build(item, leaves) for item in structure["fields"]]
            cls = _importable(structure["class"])
            return cls(*parts) if cls and hasattr(cls, "_fields") else tuple(parts)
        items = {key: _build(item, leaves) for key, item in structure["dict"].items()}
        cls = _importable(structure.get("class"))
        if cls and issubclass(cls, Mapping):
            make: Any = cls
            return make(**items) if all(key.isidentifier() for key in items) else make(items)
        return items
    parts = [_build(item, leaves) for item in structure[1:]]
    return tuple(parts) if structure[0] == "tuple" else parts


def _class_name(value: Any) -> str:
    return f"{type(value).__module__}:{type(value).__qualname__}"


def _importable(name: str | None) -> type | None:
    # Reading a study must not run another person's code: only classes of these well-known packages are imported.
    module, _, qualname = (name or "").partition(":")
    if module.partition(".")[0] not in ("collections", "torch", "transformers") or "." in qualname:
        return None
    try:
        cls = getattr(importlib.import_module(module), qualname)
    except (ImportError, AttributeError):
        return None
    return cls if isinstance(cls, type) else None
