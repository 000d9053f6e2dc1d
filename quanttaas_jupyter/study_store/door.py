"""The one door for what others may have written: every JSON of a store passes it before anything else sees it.

It bounds size and depth, refuses numbers and texts that cannot be shown, checks the form, and says when a newer version
wrote the content. Whose content it is follows from the key it was found under, never from the content.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ..core.errors import Unreadable
from .schema import Shape

FORMAT = 1
"""Newest format of stored JSON that this version reads."""
DEEPEST = 64
"""Levels of nesting; chosen, not tuned. The structures of a model's inputs are the deepest of ours, below 20."""
SMALL = 64 << 10
"""Most bytes of a lease or a ticket, which take some hundreds; chosen, not tuned."""
LARGE = 32 << 20
"""Most bytes of any other JSON, equal to ``store.base.MOST_BYTES``; a study of 5,000 trials begins with 1 MB."""


@dataclass(frozen=True)
class Kind:
    """Kind of stored JSON: its name in sentences, its form, and the most bytes it may have."""

    name: str
    shape: Shape
    most: int = LARGE


def parsed(data: bytes, kind: Kind) -> dict[str, Any]:
    """Return stored JSON whose form was checked.

    Raises:
        Unreadable: It is too large, too deep, malformed, or made by a newer version.
    """
    values = _loaded(data, kind)
    if not isinstance(values, dict):
        raise Unreadable(f"its {kind.name} is no JSON object")
    written = values.get("format", FORMAT)
    if isinstance(written, int) and not isinstance(written, bool) and written > FORMAT:
        raise Unreadable(
            f"its {kind.name} was made by a newer version (format {written}, this version reads {FORMAT}); "
            "pip install -U quanttaas-jupyter"
        )
    try:
        kind.shape(values, "")
    except Unreadable as error:
        raise Unreadable(f"its {kind.name} is malformed: {error}") from None
    return values


def belongs(values: dict[str, Any], field: str, key: object, kind: Kind) -> None:
    """Check that content names the key that it was found under.

    Raises:
        Unreadable: It names another one.
    """
    if values.get(field) != key:
        raise Unreadable(f"its {kind.name} is that of another one: {field} is {_shown(values.get(field))}")


def _loaded(data: bytes, kind: Kind) -> Any:
    if len(data) > kind.most:
        raise Unreadable(f"its {kind.name} is larger than {kind.most} bytes")
    try:
        content = data.decode("utf-8")
        values = _DECODER.decode(content)
        # Most content has fewer brackets than levels are allowed, so that nothing has to be counted.
        if content.count("[") + content.count("{") > DEEPEST:
            _refuse_depth(values)
        if "\\u" in content:
            # Halves of a pair of surrogates are no text: no view, file or answer could take them.
            json.dumps(values, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise Unreadable(f"its {kind.name} is nested too deeply") from None
    except ValueError as error:
        reason = str(error) if isinstance(error, Unreadable) else "it is no JSON"
        raise Unreadable(f"its {kind.name} cannot be read: {reason}") from None
    return values


def _refuse_constant(name: str) -> Any:
    raise Unreadable(f"{name} is no number")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _refuse_depth(values: Any) -> None:
    level = [values]
    for _ in range(DEEPEST):
        level = [
            inner
            for item in level
            for inner in (item.values() if isinstance(item, dict) else item)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise Unreadable(f"it is nested more than {DEEPEST} levels deep")


def _shown(value: object) -> str:
    return f"{str(value)[:80]!r}"
