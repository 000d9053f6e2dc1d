"""Shapes of stored JSON, built from small checks.

A shape is called with a value and the place where it stands, such as ``trials.0.name``; it raises Unreadable with one
sentence if the value has another form, and returns nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ..core.errors import Unreadable

Shape = Callable[[Any, str], None]

LONGEST = 20_000
"""Characters of a text; chosen, not tuned. The longest of ours is a sentence with the names of many layers."""
_SHOWN = 80
"""Characters of a field's name that an error shows; chosen, not tuned."""
_LARGEST = 2.0**63
"""Bound of numbers, beyond what 64 bits hold; sizes, times and metrics are far below."""
_LAST_MOMENT = 250_000_000_000.0
"""Seconds since the epoch near the end of the year 9891; Python's dates end with the year 9999."""


def text(value: Any, where: str) -> None:
    """Accept a text."""
    if not isinstance(value, str):
        raise _other("a text", value, where)
    if len(value) > LONGEST:
        raise Unreadable(f"{where} is longer than {LONGEST} characters")


def number(value: Any, where: str) -> None:
    """Accept a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _other("a number", value, where)
    # Comparisons alone: a whole number may be too large to be converted.
    if value != value or not -_LARGEST <= value <= _LARGEST:
        raise Unreadable(f"{where} is beyond the numbers that can be used")


def count(value: Any, where: str) -> None:
    """Accept a whole number of at least 0."""
    number(value, where)
    if not isinstance(value, int) or value < 0:
        raise Unreadable(f"{where} is no count")


def size(value: Any, where: str) -> None:
    """Accept a number of at least 0."""
    number(value, where)
    if value < 0:
        raise Unreadable(f"{where} is below 0")


def moment(value: Any, where: str) -> None:
    """Accept seconds since the epoch that a date can show."""
    number(value, where)
    if not 0 <= value <= _LAST_MOMENT:
        raise Unreadable(f"{where} is no time")


def flag(value: Any, where: str) -> None:
    """Accept true or false."""
    if not isinstance(value, bool):
        raise _other("true or false", value, where)


def anything(value: Any, where: str) -> None:
    """Accept any JSON; ``parsed`` has bounded its depth."""


def plain(value: Any, where: str) -> None:
    """Accept any JSON whose numbers and texts are usable."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
        elif isinstance(item, str):
            text(item, where)
        elif item is not None and not isinstance(item, bool):
            number(item, where)


def word(pattern: str, what: str) -> Shape:
    """Return the shape of a text that matches a pattern."""
    known = re.compile(pattern)

    def check(value: Any, where: str) -> None:
        text(value, where)
        if not known.fullmatch(value):
            raise Unreadable(f"{where} is no {what}")

    return check


def one_of(*values: str) -> Shape:
    """Return the shape of a text that is one of several."""

    def check(value: Any, where: str) -> None:
        text(value, where)
        if value not in values:
            raise Unreadable(f"{where} is none of {', '.join(values)}")

    return check


def optional(shape: Shape) -> Shape:
    """Return the shape of a value that may be null."""

    def check(value: Any, where: str) -> None:
        if value is not None:
            shape(value, where)

    return check


def each(shape: Shape) -> Shape:
    """Return the shape of a list whose items have a shape."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, list):
            raise _other("a list", value, where)
        for position, item in enumerate(value):
            try:
                shape(item, "")
            except Unreadable:
                # Where it is, is found out only for the error: most of what is read has none.
                shape(item, _below(where, str(position)))

    return check


def row(*shapes: Shape) -> Shape:
    """Return the shape of a list of a fixed length."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, list) or len(value) != len(shapes):
            raise _other(f"a list of {len(shapes)}", value, where)
        for position, (shape, item) in enumerate(zip(shapes, value, strict=True)):
            try:
                shape(item, "")
            except Unreadable:
                shape(item, _below(where, str(position)))

    return check


def mapping(values: Shape) -> Shape:
    """Return the shape of an object with any keys, whose values have a shape."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise _other("an object", value, where)
        for key, item in value.items():
            try:
                values(item, "")
            except Unreadable:
                values(item, _below(where, key))

    return check


def record(required: dict[str, Shape] | None = None, optional: dict[str, Shape] | None = None) -> Shape:
    """Return the shape of an object with fields; others are ignored, as a newer version may write more."""
    needed, known = list((required or {}).items()), list((optional or {}).items())

    def check(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise _other("an object", value, where)
        for name, shape in needed:
            if name not in value:
                raise Unreadable(f"{_below(where, name)} is missing")
            try:
                shape(value[name], "")
            except Unreadable:
                shape(value[name], _below(where, name))
        for name, shape in known:
            if name in value:
                try:
                    shape(value[name], "")
                except Unreadable:
                    shape(value[name], _below(where, name))

    return check


def _below(where: str, name: str) -> str:
    # A field's name may be another person's text: it stays on the sentence's line, and is no longer than a line.
    shown = name if name.isprintable() else ascii(name)
    if len(shown) > _SHOWN:
        shown = f"{shown[:_SHOWN]}..."
    return f"{where}.{shown}" if where else shown


def _other(wanted: str, value: Any, where: str) -> Unreadable:
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return Unreadable(f"{where or 'the content'} is {kinds.get(type(value), 'a number')} instead of {wanted}")
