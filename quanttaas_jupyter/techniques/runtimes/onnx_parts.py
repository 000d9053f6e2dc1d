"""ONNX models beyond 2 GB: a small graph, and large weights that are read from a file where they are needed.

Protocol buffers end at 2 GB. A larger model is one ZIP archive of ``model.onnx`` and ``model.onnx.data``, both stored
as they are, so that ONNX Runtime maps the weights out of the archive. Unpacked, both are what ONNX calls a model with
external data. In memory, a large weight of a graph names the file that holds it by an absolute path.
"""

from __future__ import annotations

import math
import mmap
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...core.failures import StageError

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
_CHUNK = 16 << 20


def is_packed(path: Path) -> bool:
    """Return whether a file is an archive of a graph and its weights."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist()) == {_GRAPH, _DATA}


def load(path: Path) -> Any:
    """Return the model of a file, packed or not; its large weights stay in the file that holds them."""
    import onnx

    if is_packed(path):
        model, data, start = _opened(path)
    else:
        model, data, start = onnx.load(str(path), load_external_data=False), None, 0
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            location, offset, length = place_of(tensor)
            _put(tensor, str(data or path.resolve().parent / _plain(location)), offset + start, length)
            if length < _INLINE:
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.array(array_of(tensor)), tensor.name))
    return model


def is_large(model: Any) -> bool:
    """Return whether weights of a model lie outside of it."""
    return any(tensor.data_location for tensor in model.graph.initializer)


def array_of(tensor: Any) -> np.ndarray:
    """Return the numbers of a weight; those of a large one are mapped, and may not be changed."""
    from onnx import helper, numpy_helper

    if not tensor.data_location:
        return np.asarray(numpy_helper.to_array(tensor))
    location, offset, length = place_of(tensor)
    kind = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    if kind.itemsize * math.prod(tensor.dims) != length:
        raise StageError(f"weight {tensor.name!r} has {length} bytes, which is not {list(tensor.dims)} of {kind}")
    return np.memmap(location, kind, "r", offset, tuple(tensor.dims))


def place_of(tensor: Any) -> tuple[str, int, int]:
    """Return the file, the offset and the length in bytes of a weight that lies outside of the model."""
    from onnx import helper

    found = {item.key: item.value for item in tensor.external_data}
    kind = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    whole = kind.itemsize * math.prod(tensor.dims)
    return found["location"], int(found.get("offset", 0)), int(found.get("length", whole))


def save(model: Any, target: Path) -> None:
    """Write a model as one file: an ONNX file while it fits into one, else an archive of graph and weights."""
    import onnx

    outside = sum(place_of(tensor)[2] for tensor in model.graph.initializer if tensor.data_location)
    if model.ByteSize() + outside > MOST:
        _pack(model, target)
        return
    for tensor in model.graph.initializer:
        if tensor.data_location:
            tensor.CopyFrom(onnx.numpy_helper.from_array(array_of(tensor), tensor.name))
    onnx.save(model, str(target))


def make_one(path: Path) -> None:
    """Replace a file whose weights lie beside it by one file; other files stay as they are."""
    if not is_packed(path) and is_large(model := load(path)):
        whole = path.with_name(f"whole-{path.name}")
        save(model, whole)
        whole.replace(path)


def source_of(path: Path, options: Any) -> str | bytes:
    """Return what ONNX Runtime opens for a file, and tell its session options where the weights lie."""
    if not is_packed(path):
        return str(path)
    model, data, start = _opened(path)
    for tensor in model.graph.initializer:
        if tensor.data_location:
            _, offset, length = place_of(tensor)
            _put(tensor, data.name, offset + start, length)
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(data.parent))
    return bytes(model.SerializeToString())


def unpack(path: Path, target: Path) -> None:
    """Write a packed model as ``target`` and, beside it, ``target`` with ``.data`` at its end."""
    import onnx

    model, data, start = _opened(path)
    beside = target.with_name(f"{target.name}.data")
    for tensor in model.graph.initializer:
        if tensor.data_location:
            _, offset, length = place_of(tensor)
            _put(tensor, beside.name, offset, length)
    with data.open("rb") as source, beside.open("wb") as copy:
        source.seek(start)
        with zipfile.ZipFile(path) as archive:
            left = archive.getinfo(_DATA).file_size
        while left:
            chunk = source.read(min(left, _CHUNK))
            copy.write(chunk)
            left -= len(chunk)
    onnx.save(model, str(target))


def _opened(path: Path) -> tuple[Any, Path, int]:
    """Return the graph of a packed model, the file that holds its weights, and where they begin in it."""
    import onnx

    file = path.resolve()
    with zipfile.ZipFile(file) as archive, file.open("rb") as stream:
        info = archive.getinfo(_DATA)
        if info.compress_type != zipfile.ZIP_STORED:
            raise StageError(f"{_DATA} is compressed, so that it cannot be mapped")
        stream.seek(info.header_offset + _HEADER - 4)
        name, extra = _FIELD.unpack(stream.read(4))
        model = onnx.ModelProto.FromString(archive.read(_GRAPH))
    start = info.header_offset + _HEADER + name + extra
    for tensor in model.graph.initializer:
        if tensor.data_location:
            _, offset, length = place_of(tensor)
            if offset < 0 or length < 0 or offset + length > info.file_size:
                raise StageError(f"weight {tensor.name!r} lies outside of its file")
    return model, file, start


def _pack(model: Any, target: Path) -> None:
    """Write the archive: the weights first, one after the other, and then the graph that knows their places."""
    held = model.graph.initializer
    large = [tensor for tensor in held if tensor.data_location or len(tensor.raw_data) >= _INLINE]
    info = zipfile.ZipInfo(_DATA)
    ahead = _HEADER + len(_DATA) + _ZIP64_SIZES + _FIELD.size
    padding = -ahead % _PAGE
    info.extra = _FIELD.pack(_PADDING, padding) + bytes(padding)
    with zipfile.ZipFile(target, "w") as archive:
        with archive.open(info, "w", force_zip64=True) as stream:
            places = list(_write(large, stream))
        for tensor, (offset, length) in zip(large, places, strict=True):
            tensor.ClearField("raw_data")
            _put(tensor, _DATA, offset, length)
        if model.ByteSize() > MOST:
            raise StageError("the graph without its large weights is beyond 2 GB")
        archive.writestr(zipfile.ZipInfo(_GRAPH), model.SerializeToString())


def _write(tensors: list[Any], stream: Any) -> Iterator[tuple[int, int]]:
    """Write weights one by one, and yield where each begins and how long it is."""
    at = 0
    for tensor in tensors:
        array = tensor.raw_data if not tensor.data_location else array_of(tensor).reshape(-1).view(np.uint8)
        for start in range(0, len(array), _CHUNK):
            stream.write(array[start : start + _CHUNK])
        yield at, len(array)
        fill = -len(array) % _PAGE
        stream.write(bytes(fill))
        at += len(array) + fill


def _put(tensor: Any, location: str, offset: int, length: int) -> None:
    import onnx

    del tensor.external_data[:]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def _plain(location: str) -> str:
    """Return the name of a file beside the model.

    Raises:
        StageError: It would lie elsewhere.
    """
    if Path(location).name != location:
        raise StageError(f"weights lie in {location!r}, which is not beside the model")
    return location
