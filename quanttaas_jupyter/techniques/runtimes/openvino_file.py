"""OpenVINO models as one file: reading, writing and inspection.

The file is a ZIP archive of ``model.xml``, the graph, and ``model.bin``, the weights. The graph is text and compressed.
The weights are not, so that a saving by compression is not taken for one by quantization.
"""

from __future__ import annotations

import threading
import zipfile
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ...core.failures import StageError, one_line, optional
from . import Layers, Session

_LOCK = threading.Lock()
_BIAS_SUFFIX = "/WithoutBiases"
# Inputs that may be weights, by type of node.
_WEIGHTED = {
    "Convolution": (1,),
    "GroupConvolution": (1,),
    "ConvolutionBackpropData": (1,),
    "GroupConvolutionBackpropData": (1,),
    "MatMul": (0, 1),
    "Gather": (0,),
    "LSTMSequence": (4, 5),
    "GRUSequence": (3, 4),
    "RNNSequence": (3, 4),
}
_SHAPING = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Split", "Concat")
_WIDENING = ("Convert", "Multiply", "Subtract", "FakeQuantize", *_SHAPING)
_INTEGERS = ("i8", "u8", "i4", "u4")
_NARROW = (*_INTEGERS, "f16", "bf16")
_FLOATS = ("f32", "f64")
_LARGEST = 65504.0
"""Largest finite number in float16."""


@dataclass(frozen=True)
class Layer:
    """Node with weights; ``module`` is the dotted path of the module it comes from, or the node's name."""

    node: str
    kind: str
    module: str
    is_quantized: bool
    is_integer: bool


def openvino() -> Any:
    """Import OpenVINO.

    Raises:
        StageError: The package is missing.
    """
    return optional("openvino", extra="openvino")


def core() -> Any:
    """Return this process's only OpenVINO core.

    Raises:
        StageError: The package is missing.
    """
    with _LOCK:
        return _core(openvino())


@lru_cache(maxsize=1)
def _core(package: Any) -> Any:
    """Create the core once, and keep it as long as the process lives.

    Each core of OpenVINO 2026.4 sets a signal stack for the thread if the processor has AMX. When the second of two
    cores is deleted, it restores the stack of the first, which is freed by then: the next signal would kill the
    process.
    """
    return package.Core()


_MOST_GRAPH = 256 << 20
"""Most bytes of a graph; chosen, not tuned. That of a large language model takes some tens of megabytes."""


def save(model: Any, path: Path) -> None:
    """Write a model as one file."""
    with TemporaryDirectory() as folder:
        graph = Path(folder) / "model.xml"
        openvino().save_model(model, str(graph), compress_to_fp16=False)
        with zipfile.ZipFile(path, "w") as archive:
            for file, method in ((graph, zipfile.ZIP_DEFLATED), (graph.with_suffix(".bin"), zipfile.ZIP_STORED)):
                archive.write(file, file.name, method)


def load(path: Path) -> Any:
    """Read a model from its file.

    Raises:
        StageError: The file is none that ``save`` wrote.
    """
    return core().read_model(*parts(path))


def parts(path: Path) -> tuple[bytes, bytes]:
    """Return graph and weights of a file, whose sizes are bounded by what ``save`` writes.

    Raises:
        StageError: The file is no archive of the two, or one that would become much larger.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            graph, weights = archive.getinfo("model.xml"), archive.getinfo("model.bin")
            if weights.compress_type != zipfile.ZIP_STORED or graph.file_size > _MOST_GRAPH:
                raise StageError("the file would become much larger when it is read", "build it again")
            return archive.read(graph), archive.read(weights)
    except (zipfile.BadZipFile, KeyError, NotImplementedError, RuntimeError) as error:
        raise StageError(f"the file is no OpenVINO model: {one_line(error)}", "build it again") from None


def session_of(compiled: Any, names: Sequence[str]) -> Session:
    """Return a session of a compiled model that takes the inputs ``names`` in order."""
    import numpy as np

    request = compiled.create_infer_request()

    def run(arrays: Sequence[Any]) -> list[Any]:
        results = request.infer(feed_of(compiled, names, arrays))
        return [np.array(results[output]) for output in compiled.outputs]

    return run


def feed_of(model: Any, names: Sequence[str], arrays: Sequence[Any]) -> dict[str, Any]:
    """Return arrays by the names of a model's inputs; inputs that the model never reads are dropped."""
    wanted = {name for item in model.inputs for name in item.get_names()}
    return {name: array for name, array in zip(names, arrays, strict=True) if name in wanted}


def layers_of(model: Any) -> list[Layer]:
    """Return all nodes with weights, in order."""
    layers = []
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        places = _WEIGHTED.get(kind, ())
        sources = [source for i in places if (source := _constant(node.input_value(i))) is not None]
        types = [found_type for source in sources if (found_type := _kind_of(source, kind == "Gather"))]
        if types:
            name = node.get_friendly_name()
            narrow, integer = all(t in _NARROW for t in types), all(t in _INTEGERS for t in types)
            layers.append(Layer(name, kind, module_of(name), narrow, integer))
    return layers


def summarize(path: Path) -> Layers:
    """Count the layers of a file, and list those that are not quantized."""
    layers = layers_of(load(path))
    kept = tuple(layer.module for layer in layers if not layer.is_quantized)
    return Layers(len(layers), len(layers) - len(kept), kept, sum(layer.is_integer for layer in layers))


def module_of(name: str) -> str:
    """Return the module path in a layer's name; other nodes have names without meaning."""
    return name.removesuffix(_BIAS_SUFFIX).partition("#")[0]


def ignored_nodes(model: Any, ignore: Iterable[str]) -> list[str]:
    """Return the names of the layers of ignored modules and their submodules; "" is the whole model."""
    names = tuple(ignore)
    return [
        layer.node
        for layer in layers_of(model)
        if any(not name or layer.module == name or layer.module.startswith(f"{name}.") for name in names)
    ]


def store_as(model: Any, kind: str, kept: Collection[str]) -> None:
    """Store the float32 weights of all layers but ``kept`` as ``float16`` or ``bfloat16``, widened where read.

    Weights that float16 cannot hold stay unchanged.
    """
    import numpy as np

    ov = openvino()
    opset = ov.opset13
    narrow = {"float16": ov.Type.f16, "bfloat16": ov.Type.bf16}[kind]
    stored: dict[str, Any] = {}
    for node in model.get_ordered_ops():
        if node.get_friendly_name() in kept:
            continue
        for place in _WEIGHTED.get(node.get_type_name(), ()):
            source = _constant(node.input_value(place))
            if source is None or _kind_of(source, node.get_type_name() == "Gather") != "f32":
                continue
            if kind == "float16" and np.abs(source.data).max(initial=0) > _LARGEST:
                continue
            name = source.get_friendly_name()
            if name not in stored:
                stored[name] = opset.convert(opset.constant(source.data, narrow), "f32")
            for reader in source.output(0).get_target_inputs():
                reader.replace_source_output(stored[name].output(0))


def _constant(output: Any) -> Any:
    """Return the constant behind an operand, looking through nodes that widen or reshape it, or None."""
    node = output.get_node()
    while node.get_type_name() in _WIDENING:
        node = node.input_value(0).get_node()
    return node if node.get_type_name() == "Constant" else None


def _kind_of(node: Any, is_table: bool) -> str:
    """Return the element type of a constant weight; an empty string for shapes, indices and scales."""
    kind = node.get_element_type().get_type_name()
    shape = list(node.get_output_shape(0))
    least = 2 if is_table else 1
    is_weight = kind in (*_NARROW, *_FLOATS) and len(shape) > 1 and sum(size > 1 for size in shape) >= least
    return kind if is_weight else ""
