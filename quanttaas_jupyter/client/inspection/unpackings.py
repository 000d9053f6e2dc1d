"""Candidates for how a batch is taken apart, from the signature of ``forward`` and the names in the batch."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...bundle.unpacking import LABEL_NAMES, OTHER_LABEL_NAMES, Part, Unpacking, part_at, parts_of
from ...core.errors import DataError

if TYPE_CHECKING:
    import torch

_INPUT_NAMES = (
    "image",
    "images",
    "pixel_values",
    "x",
    "input",
    "inputs",
    "input_values",
    "input_features",
    "features",
    "data",
    "audio",
    "waveform",
    "sequence",
    "input_ids",
)


@dataclass(frozen=True)
class Signature:
    """What ``forward`` takes.

    Attributes:
        names: Names of its parameters.
        required: How many positional ones have no default.
        most: How many positional ones there are; None for any number.
        is_open: Whether it takes any keyword.
    """

    names: tuple[str, ...]
    required: int
    most: int | None
    is_open: bool

    @classmethod
    def of(cls, model: torch.nn.Module) -> Signature:
        """Read the signature of a module's ``forward``."""
        parameters = list(inspect.signature(model.forward).parameters.values())
        kinds = inspect.Parameter
        positional = [p for p in parameters if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)]
        return cls(
            names=tuple(p.name for p in parameters if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)),
            required=sum(p.default is kinds.empty for p in positional),
            most=None if any(p.kind is kinds.VAR_POSITIONAL for p in parameters) else len(positional),
            is_open=any(p.kind is kinds.VAR_KEYWORD for p in parameters),
        )


def candidates(item: Any, signature: Signature, labels: Sequence[str] | None) -> Iterator[Unpacking]:
    """Yield ways to take a batch apart, the likeliest first.

    Args:
        item: A batch as the data gives it.
        signature: What ``forward`` takes.
        labels: Keys or positions of the targets as a person named them; None to find out.

    Raises:
        DataError: It cannot be told, or a named part does not exist.
    """
    parts = parts_of(item)
    if not parts:
        yield Unpacking()
    elif isinstance(next(iter(parts)), str):
        yield from _of_mapping(parts, signature, _named(parts, labels))
    else:
        yield from _of_sequence(parts, signature, _named(parts, labels))


def _named(parts: Mapping[Part, Any], labels: Sequence[str] | None) -> tuple[Part, ...] | None:
    if labels is None:
        return None
    found: list[Part] = []
    for label in labels:
        part: Part = int(label) if str(label).lstrip("-").isdigit() and label not in parts else label
        if isinstance(part, int) and part < 0:
            part += len(parts)
        inside = [f"{name}.{label}" for name, value in parts.items() if isinstance(value, Mapping) and label in value]
        if part not in parts and len(inside) == 1:
            part = inside[0]
        if part_at(parts, part) is None and part not in parts:
            raise DataError(
                f"--labels {label}: a batch of --data has no such part; it has {', '.join(map(str, parts))}"
            )
        found.append(part)
    return tuple(found)


def _of_mapping(parts: Mapping[Part, Any], signature: Signature, named: tuple[Part, ...] | None) -> Iterator[Unpacking]:
    keys = list(parts)
    labels = named if named is not None else tuple(key for key in keys if key in LABEL_NAMES)
    accepted = tuple(key for key in keys if key in signature.names and key not in labels)
    rest = tuple(key for key in keys if key not in accepted and key not in labels)
    if accepted and len(accepted) >= min(signature.required, len(keys)):
        yield Unpacking(accepted, _targets(labels, rest, named), "keywords")
    if signature.is_open and not accepted:
        yield Unpacking(tuple(key for key in keys if key not in labels), labels, "keywords")
    takes_one = signature.required == 1 or (signature.required == 0 and signature.most != 0)
    if takes_one and not accepted:
        inputs: list[Part] = [key for key in rest if key in _INPUT_NAMES] or (list(rest) if len(rest) == 1 else [])
        if len(inputs) == 1:
            left = tuple(key for key in rest if key not in inputs)
            yield Unpacking((inputs[0],), _targets(labels, left, named), "argument")
        yield Unpacking(rest, labels, "mapping")
        yield Unpacking(tuple(keys), (), "mapping")
    if not accepted:
        raise DataError(
            f"forward takes {', '.join(signature.names) or 'no named input'}, but a batch of --data has the keys "
            f"{', '.join(map(str, keys))}; name keys as forward does, or give (inputs, targets) batches"
        )


def _targets(labels: tuple[Part, ...], rest: tuple[Part, ...], named: tuple[Part, ...] | None) -> tuple[Part, ...]:
    """Labels by name; else what remains where its name or its being alone says so."""
    if labels or named is not None:
        return labels
    known = tuple(key for key in rest if key in OTHER_LABEL_NAMES)
    if len(known) == 1 or (not known and len(rest) == 1):
        return known or rest
    if len(rest) > 1:
        raise DataError(
            f"a batch of --data has {', '.join(map(str, rest))} beside the inputs: say which one is the target, with "
            f"--labels {rest[0]} (labels={rest[0]!r} in Python)"
        )
    return ()


def _of_sequence(
    parts: Mapping[Part, Any], signature: Signature, named: tuple[Part, ...] | None
) -> Iterator[Unpacking]:
    count, positions = len(parts), tuple(parts)
    if named is not None:
        heads = {str(part).partition(".")[0] for part in named}
        inputs = tuple(part for part in positions if str(part) not in heads)
        wanted = len(inputs) if signature.most is None else min(len(inputs), max(signature.required, 1))
        yield _positional(inputs[: max(wanted, 1)], named, parts)
        yield _positional(inputs, named, parts)
        yield Unpacking(inputs[:1], named, "argument")
        return
    if count == 1:
        yield _positional(positions, (), parts)
        yield Unpacking(positions, (), "argument")
        return
    if count == 2:
        yield _positional((0,), (1,), parts)
        yield Unpacking((0,), (1,), "argument")
        yield Unpacking(positions, (), "positions")
        return
    least, most = max(signature.required, 1), count - 1 if signature.most is None else min(signature.most, count - 1)
    if least == count - 1 or (most == count - 1 and _look_like_inputs(parts, signature, least)):
        yield _positional(positions[:-1], positions[-1:], parts)
    if signature.required >= count:
        yield Unpacking(positions, (), "positions")
    rest = positions[min(least, count - 2) :]
    raise DataError(
        f"a batch of --data has {count} parts and forward needs {signature.required}: say which part is the target, "
        f"with --labels {rest[0]} or --labels {rest[-1]} (labels={rest[0]} in Python; parts count from 0)"
    )


def _positional(inputs: tuple[Part, ...], targets: tuple[Part, ...], parts: Mapping[Part, Any]) -> Unpacking:
    return Unpacking(inputs, targets, "spread" if len(inputs) == 1 else "positions")


def _look_like_inputs(parts: Mapping[Part, Any], signature: Signature, least: int) -> bool:
    """Whether optional parameters that the parts would fill are masks or lengths that fit the first input."""
    first = getattr(parts[0], "shape", None)
    for position in range(least, len(parts) - 1):
        name, value = signature.names[position], parts[position]
        shape = getattr(value, "shape", None)
        if first is None or shape is None or not shape:
            return False
        fits_mask = ("mask" in name or name.endswith("_ids")) and tuple(shape) == tuple(first)
        fits_lengths = "len" in name and tuple(shape) == tuple(first[:1])
        if not (fits_mask or fits_lengths):
            return False
    return True
