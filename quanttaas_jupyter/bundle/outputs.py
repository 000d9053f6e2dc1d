"""What of a model's outputs is kept: tensors. Caches, hidden states and plain objects leave the exported file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from .structure import Structure, flatten

LEFT_OUT = frozenset(
    {
        "past_key_values",
        "hidden_states",
        "attentions",
        "cross_attentions",
        "encoder_last_hidden_state",
        "encoder_hidden_states",
        "encoder_attentions",
        "decoder_hidden_states",
        "decoder_attentions",
        "mems",
        "router_logits",
        "rope_deltas",
    }
)
"""Names of outputs in ``transformers`` that serve generation or inspection and are judged by no metric."""


def kept_outputs(outputs: Any) -> tuple[Any, tuple[str, ...]]:
    """Return outputs with None in place of what is left out, and the names of what was.

    Where nothing else would remain, named outputs such as ``hidden_states`` are kept.
    """
    names: list[str] = []
    kept = _kept(outputs, "", names, LEFT_OUT)
    if not flatten(kept)[0]:
        names = []
        kept = _kept(outputs, "", names, frozenset())
    return kept, tuple(names)


def flatten_outputs(outputs: Any) -> tuple[list[tuple[str, Any]], Structure]:
    """Return the tensors among a model's outputs by dotted name, and their structure; see ``flatten``."""
    return flatten(kept_outputs(outputs)[0])


def _kept(value: Any, name: str, left_out: list[str], skipped: frozenset[str]) -> Any:
    import torch

    if value is None or isinstance(value, torch.Tensor):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, (type, Mapping)):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return _rebuilt(value, {key: _field(item, name, key, left_out, skipped) for key, item in value.items()})
    if isinstance(value, (tuple, list)):
        items = [_kept(item, f"{name}.{index}".lstrip("."), left_out, skipped) for index, item in enumerate(value)]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    left_out.append(name or type(value).__name__)
    return None


def _field(item: Any, name: str, key: Any, left_out: list[str], skipped: frozenset[str]) -> Any:
    path = f"{name}.{key}".lstrip(".")
    if key in skipped and item is not None:
        left_out.append(path)
        return None
    return _kept(item, path, left_out, skipped)


def _rebuilt(original: Mapping[Any, Any], items: dict[Any, Any]) -> Any:
    """Return a mapping of the same class, so that ``outputs.logits`` works; a dict if it cannot be made."""
    if type(original) is dict:
        return items
    make: Any = type(original)
    try:
        return make(**items)
    except TypeError:
        return items


def main_output(outputs: Any, name: str = "") -> Any:
    """Return the tensor under a dotted name, else ``logits`` where there are some, else the first; None without any."""
    named = dict(flatten_outputs(outputs)[0])
    if name in named:
        return named[name]
    return named.get("logits", next(iter(named.values()), None))
