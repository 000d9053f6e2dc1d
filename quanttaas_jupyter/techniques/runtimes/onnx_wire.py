"""ONNX files read and written without their large weights, which stay where they lie.

An ONNX file is a protocol buffer; see https://protobuf.dev/programming-guides/encoding. Only the way to the weights is
walked here: the model's graph, its initializers, and the raw data of each.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

_GRAPH, _INITIALIZER, _RAW = 7, 5, 9
"""Numbers of the fields ``ModelProto.graph``, ``GraphProto.initializer`` and ``TensorProto.raw_data``."""
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
"""Kinds of fields: a number, eight bytes, a length with so many bytes, four bytes."""
_CHUNK = 16 << 20
"""Bytes written at once; chosen, not tuned."""

Weight = tuple[Any, int, Callable[[IO[bytes]], None]]
"""Tensor without its numbers, their length in bytes, and a function that writes them."""


def read(path: Path, least: int) -> tuple[Any, list[tuple[Any, int, int]]]:
    """Read a model without its large weights.

    Args:
        path: The file.
        least: Bytes from which on a weight counts as large.

    Returns:
        The model, and its initializers without numbers, each with the offset and the length of those in the file.

    Raises:
        ValueError: The file is no protocol buffer.
    """
    import onnx
    from google.protobuf.message import DecodeError

    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        model_parts, graph_parts, tensors = [], [], []
        for number, begin, start, end in _fields(data, 0, len(data)):
            if number != _GRAPH:
                model_parts.append(data[begin:end])
                continue
            for inner, inner_begin, inner_start, inner_end in _fields(data, start, end):
                if inner == _INITIALIZER:
                    tensors.append(_tensor(data, inner_start, inner_end, least))
                else:
                    graph_parts.append(data[inner_begin:inner_end])
        try:
            model = onnx.ModelProto.FromString(b"".join(model_parts))
            model.graph.MergeFromString(b"".join(graph_parts))
        except DecodeError as error:
            raise ValueError(str(error)) from None
    model.graph.initializer.extend(tensor for tensor, _, _ in tensors)
    held = zip(model.graph.initializer, tensors, strict=True)
    return model, [(tensor, offset, length) for tensor, (_, offset, length) in held if length]


def write(model: Any, weights: Sequence[Weight], path: Path) -> None:
    """Write a model.

    Args:
        model: The model without initializers.
        weights: Its initializers.
        path: The file.
    """
    graph = model.graph.SerializeToString()
    heads = [(tensor.SerializeToString(), length, copy) for tensor, length, copy in weights]
    # Of a tensor whose numbers are in another field, raw data of no bytes would be read instead of them.
    tensors = [(head, _field(_RAW, length) if length else b"", length, copy) for head, length, copy in heads]
    sizes = [len(head) + len(raw) + length for head, raw, length, _ in tensors]
    marks = [_field(_INITIALIZER, size) for size in sizes]
    whole = len(graph) + sum(sizes) + sum(map(len, marks))
    rest = without(model, "graph")
    with path.open("wb") as stream:
        stream.write(rest.SerializeToString() + _field(_GRAPH, whole) + graph)
        for mark, (head, raw, _, copy) in zip(marks, tensors, strict=True):
            stream.write(mark + head + raw)
            copy(stream)


def without(message: Any, *names: str) -> Any:
    """Return a copy of a message without some of its fields, which are not copied on the way."""
    copy = type(message)()
    for field, value in message.ListFields():
        if field.name in names:
            continue
        if hasattr(value, "CopyFrom"):
            getattr(copy, field.name).CopyFrom(value)
        elif hasattr(value, "extend"):
            getattr(copy, field.name).extend(value)
        else:
            setattr(copy, field.name, value)
    return copy


def write_in_parts(data: Any, stream: IO[bytes]) -> None:
    """Write bytes or an array of them, a part at a time: what is mapped is not held in memory."""
    for start in range(0, len(data), _CHUNK):
        stream.write(data[start : start + _CHUNK])


def _tensor(data: mmap.mmap, start: int, end: int, least: int) -> tuple[Any, int, int]:
    """Return a tensor without large raw data, and the offset and length of that; 0 and 0 if it is small."""
    import onnx

    parts, place = [], (0, 0)
    for number, begin, value, after in _fields(data, start, end):
        if number == _RAW and after - value >= least:
            place = value, after - value
        else:
            parts.append(data[begin:after])
    return onnx.TensorProto.FromString(b"".join(parts)), *place


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield each field of a message: its number, and where it begins, where its value begins, and where it ends."""
    while at < end:
        begin = at
        tag, at = _varint(data, at, end)
        kind = tag & 7
        if kind == _BYTES:
            length, at = _varint(data, at, end)
            start, at = at, at + length
        elif kind == _VARINT:
            start = at
            _, at = _varint(data, at, end)
        elif kind in (_EIGHT, _FOUR):
            start, at = at, at + (8 if kind == _EIGHT else 4)
        else:
            raise ValueError(f"field of kind {kind}")
        if at > end:
            raise ValueError("a field ends beyond its message")
        yield tag >> 3, begin, start, at


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """Return a number of varying length, and where it ends."""
    value = shift = 0
    while at < end and shift < 64:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError("a number has no end")


def _field(number: int, length: int) -> bytes:
    """Return the head of a field with so many bytes."""
    made, left = bytearray([number << 3 | _BYTES]), length
    while left > 0x7F:
        made.append(left & 0x7F | 0x80)
        left >>= 7
    made.append(left)
    return bytes(made)
