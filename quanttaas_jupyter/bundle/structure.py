"""The shape of inputs and outputs: nested tuples, lists, dicts and dataclasses of tensors, as JSON, apart from leaves.

JSON forms: ``"tensor"``, ``"text"``, ``null``, ``["tuple" | "list", item, ...]``, ``{"dict": {key: item}, "class":
name?}``, ``{"each": item}`` for a list with one item a sample, ``{"argument": item}`` for inputs that a model takes as
one argument.
A mapping or named tuple of another class is rebuilt as that class where the class can be imported and made from
its items; as a plain dict or tuple otherwise.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator, Mapping
from typing import Any

Structure = Any

TENSOR = "tensor"
TEXT = "text"


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


def is_one_argument(structure: Structure) -> bool:
    """Whether a model takes these inputs as one argument, however they are nested."""
    return isinstance(structure, dict) and "argument" in structure


def count_leaves(structure: Structure) -> int:
    """Return the number of leaves that a structure takes."""
    if structure is None:
        return 0
    if isinstance(structure, str):
        return 1
    if isinstance(structure, dict):
        inner = structure.get("each", structure.get("argument"))
        if inner is not None:
            return count_leaves(inner)
        return sum(map(count_leaves, structure.get("fields", structure.get("dict", {}).values())))
    return sum(map(count_leaves, structure[1:]))


def _flatten(value: Any, name: str, leaves: list[tuple[str, Any]]) -> Structure:
    if value is None:
        return None
    if dataclasses.is_dataclass(value) and not isinstance(value, (type, Mapping)):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
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
    if structure == TEXT:
        return bytes(next(leaves).tolist()).decode()
    if isinstance(structure, dict):
        if "argument" in structure:
            return _build(structure["argument"], leaves)
        if "each" in structure:
            columns = [next(leaves) for _ in range(count_leaves(structure["each"]))]
            return [_build(structure["each"], iter(sample)) for sample in zip(*columns, strict=True)]
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
