"""ONNX models as graphs whose large weights stay in files, and archives for models beyond 2 GB.

In memory, a large weight of a graph names the file that holds it by an absolute path, and is mapped when it is read: a
graph is changed without its weights. Protocol buffers end at 2 GB. A larger model is one ZIP archive of ``model.onnx``
and ``model.onnx.data``, both stored as they are, so that ONNX Runtime maps the weights out of the archive. Unpacked,
both are what ONNX calls a model with external data.
"""

from __future__ import annotations

import math
import mmap
import struct
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...core.failures import StageError
from . import onnx_wire

MOST = 2_000_000_000
"""Bytes of a model in one message: less than the 2 GiB that protocol buffers read, with room for the graph."""
SUFFIX = ".onnx.zip"

_INLINE = 1 << 20
"""Bytes of a weight from which on it stays in its file; chosen, not tuned. Small ones are read with the graph."""
_GRAPH, _DATA = "model.onnx", "model.onnx.data"
_PAGE = mmap.ALLOCATIONGRANULARITY
"""Weights begin at multiples of it, so that they can be mapped."""
_HEADER, _ZIP64_SIZES, _FIELD = 30, 20, struct.Struct("<HH")
"""Bytes of a ZIP entry's header, of its field with sizes beyond 4 GB, and the head of a further field."""
_PADDING = 0xD935
"""Kind of field that only aligns, as Android's ``zipalign`` writes it."""


def is_packed(path: Path) -> bool:
    """Return whether a file is an archive of a graph and its weights."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist()) == {_GRAPH, _DATA}


def load(path: Path) -> Any:
    """Return the model of a file, packed or not; its large weights stay in the file that holds them.

    Raises:
        StageError: It is no ONNX file, or its weights lie elsewhere.
    """
    file = path.resolve()
    if is_packed(file):
        return _load_packed(file)
    try:
        model, large = onnx_wire.read(file, _INLINE)
    except ValueError as error:
        raise StageError(f"{path.name} is no ONNX file: {error}") from None
    for tensor, offset, length in large:
        _put(tensor, str(file), offset, length)
    for tensor in model.graph.initializer:
        location, offset, length = place_of(tensor) if tensor.data_location else ("", 0, 0)
        if location and location != str(file):
            _put(tensor, str(file.parent / _beside(location)), offset, length)
    return _with_small_ones(model)


def is_outside(tensor: Any) -> bool:
    """Return whether the numbers of a weight lie in a file."""
    return bool(tensor.data_location)


def array_of(tensor: Any) -> np.ndarray:
    """Return the numbers of a weight; those of a large one are mapped, and may not be changed."""
    from onnx import helper, numpy_helper

    if not is_outside(tensor):
        return np.asarray(numpy_helper.to_array(tensor))
    location, offset, length = place_of(tensor)
    kind = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    if kind.itemsize * math.prod(tensor.dims) != length:
        raise StageError(f"weight {tensor.name!r} has {length} bytes, which is not {list(tensor.dims)} of {kind}")
    mapped = np.memmap(location, kind, "r", offset, tuple(tensor.dims))
    # Libraries in C++ read arrays by words.
    return mapped if mapped.flags.aligned else np.array(mapped)


def place_of(tensor: Any) -> tuple[str, int, int]:
    """Return the file, the offset and the length in bytes of a weight that lies in a file."""
    from onnx import helper

    found = {item.key: item.value for item in tensor.external_data}
    kind = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    whole = kind.itemsize * math.prod(tensor.dims)
    return found["location"], int(found.get("offset", 0)), int(found.get("length", whole))


def size_of(model: Any) -> int:
    """Return the bytes of a model with its weights."""
    outside = sum(place_of(tensor)[2] for tensor in model.graph.initializer if is_outside(tensor))
    return int(model.ByteSize()) + outside


def take_in(model: Any) -> None:
    """Read all weights into the model, for those who change it by ONNX's own tools."""
    from onnx import numpy_helper

    for tensor in model.graph.initializer:
        if is_outside(tensor):
            tensor.CopyFrom(numpy_helper.from_array(np.array(array_of(tensor)), tensor.name))


def save(model: Any, target: Path) -> None:
    """Write a model as one file: an ONNX file while it fits into one, else an archive of graph and weights.

    Weights are copied from where they lie: memory holds none of those that are in files.
    """
    import onnx

    large = [tensor for tensor in model.graph.initializer if is_outside(tensor) or len(tensor.raw_data) >= _INLINE]
    if size_of(model) > MOST:
        _pack(model, target)
    elif large:
        onnx_wire.write(_without_weights(model), [_weight(tensor) for tensor in model.graph.initializer], target)
    else:
        onnx.save(model, str(target))


def make_one(path: Path) -> None:
    """Replace a file whose weights lie beside it by one file; other files stay as they are."""
    model = load(path)
    if any(is_outside(tensor) and place_of(tensor)[0] != str(path.resolve()) for tensor in model.graph.initializer):
        whole = path.with_name(f"whole-{path.name}")
        save(model, whole)
        whole.replace(path)


def source_of(path: Path, options: Any) -> str | bytes:
    """Return what ONNX Runtime opens for a file, and tell its session options where the weights lie."""
    return in_message(load(path), options) if is_packed(path) else str(path)


def in_message(model: Any, options: Any) -> bytes:
    """Return a model as the bytes that ONNX Runtime opens, and tell its session options where the weights lie.

    They lie in one folder.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    folders = set()
    for tensor in copy.graph.initializer:
        if is_outside(tensor):
            location, offset, length = place_of(tensor)
            folders.add(Path(location).parent)
            _put(tensor, Path(location).name, offset, length)
    if folders:
        (folder,) = folders
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    return bytes(copy.SerializeToString())


def unpack(path: Path, target: Path) -> None:
    """Write a packed model as ``target`` and, beside it, ``target`` with ``.data`` at its end."""
    import onnx

    model, start, length = _opened(path)
    beside = target.with_name(f"{target.name}.data")
    for tensor in model.graph.initializer:
        if is_outside(tensor):
            _put(tensor, beside.name, *place_of(tensor)[1:])
    with beside.open("wb") as stream:
        onnx_wire.write_in_parts(np.memmap(path, np.uint8, "r", start, (length,)), stream)
    onnx.save(model, str(target))


def _load_packed(file: Path) -> Any:
    model, start, whole = _opened(file)
    for tensor in model.graph.initializer:
        if is_outside(tensor):
            _, offset, length = place_of(tensor)
            if offset < 0 or length < 0 or offset + length > whole:
                raise StageError(f"weight {tensor.name!r} lies outside of its file")
            _put(tensor, str(file), offset + start, length)
    return _with_small_ones(model)


def _opened(file: Path) -> tuple[Any, int, int]:
    """Return the graph of a packed model, and where its weights begin in the file and how long they are."""
    import onnx

    with zipfile.ZipFile(file) as archive, file.open("rb") as stream:
        info = archive.getinfo(_DATA)
        if info.compress_type != zipfile.ZIP_STORED:
            raise StageError(f"{_DATA} is compressed, so that it cannot be mapped")
        stream.seek(info.header_offset + _HEADER - _FIELD.size)
        name, extra = _FIELD.unpack(stream.read(_FIELD.size))
        return (
            onnx.ModelProto.FromString(archive.read(_GRAPH)),
            info.header_offset + _HEADER + name + extra,
            info.file_size,
        )


def _with_small_ones(model: Any) -> Any:
    """Read small weights that lie in a file into the model."""
    from onnx import numpy_helper

    for tensor in model.graph.initializer:
        if is_outside(tensor) and place_of(tensor)[2] < _INLINE:
            tensor.CopyFrom(numpy_helper.from_array(np.array(array_of(tensor)), tensor.name))
    return model


def _pack(model: Any, target: Path) -> None:
    """Write the archive: the weights first, one after the other, and then the graph that knows their places."""
    graph = _without_weights(model)
    info = zipfile.ZipInfo(_DATA)
    ahead = _HEADER + len(_DATA) + _ZIP64_SIZES + _FIELD.size
    padding = -ahead % _PAGE
    info.extra = _FIELD.pack(_PADDING, padding) + bytes(padding)
    with zipfile.ZipFile(target, "w") as archive:
        with archive.open(info, "w", force_zip64=True) as stream:
            at = 0
            for tensor in model.graph.initializer:
                head, length, copy = _weight(tensor)
                if length < _INLINE:
                    graph.graph.initializer.append(tensor)
                    continue
                copy(stream)
                stream.write(bytes(-length % _PAGE))
                _put(head, _DATA, at, length)
                graph.graph.initializer.append(head)
                at += length - length % -_PAGE
        if graph.ByteSize() > MOST:
            raise StageError("the graph without its large weights is beyond 2 GB")
        archive.writestr(zipfile.ZipInfo(_GRAPH), graph.SerializeToString())


def _without_weights(model: Any) -> Any:
    """Return a copy of a model without initializers."""
    copy = onnx_wire.without(model, "graph")
    copy.graph.CopyFrom(onnx_wire.without(model.graph, "initializer"))
    return copy


def _weight(tensor: Any) -> onnx_wire.Weight:
    """Return a weight as ``onnx_wire.write`` takes it; of those without raw data all is in the head."""
    head = onnx_wire.without(tensor, "raw_data", "external_data", "data_location")
    data = array_of(tensor).reshape(-1).view(np.uint8) if is_outside(tensor) else tensor.raw_data
    return head, len(data), partial(onnx_wire.write_in_parts, data)


def _put(tensor: Any, location: str, offset: int, length: int) -> None:
    import onnx

    del tensor.external_data[:]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def _beside(location: str) -> str:
    """Return the name of a file beside the model.

    Raises:
        StageError: It would lie elsewhere.
    """
    if Path(location).name != location:
        raise StageError(f"weights lie in {location!r}, which is not beside the model")
    return location
