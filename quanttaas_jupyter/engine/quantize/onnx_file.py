"""ONNX files before and after quantization: prepared for a quantizer, then made as small as they can be."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..failures import StageError
from ..runtimes.onnx_graph import layers_of, name_layers

_FLOAT16 = 10
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def load_prepared(source: Path) -> Any:
    """The prepared graph of an artifact, each node with a name of its own, layers with their module's.

    Raises:
        StageError: ONNX Runtime cannot read or infer the graph.
    """
    import onnx

    model = onnx.load(str(source))
    # Preparing forgets the metadata that names modules, and makes nodes of its own.
    name_layers(model.graph)
    model = _prepared(model)
    name_layers(model.graph)
    seen: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}_{index}"
        seen.add(node.name)
    return model


def split_gemms(model: Any) -> None:
    """Turn each Gemm into a MatMul of the same name and an Add: dynamic and 4-bit quantizers know no other."""
    import numpy as np
    from onnx import helper, numpy_helper

    graph = model.graph
    constants = {item.name: item for item in graph.initializer}
    nodes = []
    for node in graph.node:
        options = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        plain = not options.get("transA") and options.get("alpha", 1.0) == options.get("beta", 1.0) == 1.0
        if node.op_type != "Gemm" or not plain or node.input[1] not in constants:
            nodes.append(node)
            continue
        weight, output = node.input[1], node.output[0]
        if options.get("transB"):
            turned = np.ascontiguousarray(numpy_helper.to_array(constants[weight]).T)
            weight = f"{weight}/turned.{node.name}"
            graph.initializer.append(numpy_helper.from_array(turned, weight))
        has_bias = len(node.input) == 3 and node.input[2]
        product = f"{output}/product" if has_bias else output
        nodes.append(helper.make_node("MatMul", [node.input[0], weight], [product], node.name))
        if has_bias:
            nodes.append(helper.make_node("Add", [product, node.input[2]], [output], f"{node.name}/bias"))
    read = {name for node in nodes for name in node.input} | {item.name for item in graph.output}
    kept_constants = [item for item in graph.initializer if item.name in read]
    for repeated, items in ((graph.node, nodes), (graph.initializer, kept_constants)):
        del repeated[:]
        repeated.extend(items)


def save(model: Any, target: Path) -> None:
    """Write a quantized model without what serves no inference.

    Layers keep one name, the path of their module; inputs and outputs keep theirs. Other names, documentation, zero
    points of symmetric weights and repeated constants go: a share of a small file that shows.
    """
    import onnx

    name_layers(model.graph)
    _drop_names(model.graph)
    for item in (model, model.graph):
        item.doc_string = ""
        del item.metadata_props[:]
    del model.graph.quantization_annotation[:]
    _keep_types(model.graph)
    _drop_zero_points(model.graph)
    # Names inside the bodies of loops and functions may mean tensors outside of them.
    if not model.functions and not any(a.HasField("g") or a.graphs for n in model.graph.node for a in n.attribute):
        _sort(model.graph)
        _drop_repeated_constants(model.graph)
        _shorten_names(model.graph)
    onnx.save(model, str(target))


def _prepared(model: Any) -> Any:
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with TemporaryDirectory() as folder:
        source, target = (str(Path(folder) / name) for name in ("source.onnx", "prepared.onnx"))
        onnx.save(model, source)
        try:
            # ONNX's own inference gives all that quantizers read; the symbolic one fails more often than it helps.
            quant_pre_process(source, target, skip_symbolic_shape=True)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise StageError(f"ONNX Runtime cannot prepare the graph for quantization: {reason}") from error
        return onnx.load(target)


def _drop_names(graph: Any) -> None:
    layers = {layer.node for layer in layers_of(graph)}
    for node in graph.node:
        node.name = node.name if node.name in layers else ""
        node.doc_string = ""
        del node.metadata_props[:]


def _keep_types(graph: Any) -> None:
    """Keep the shapes of float16 tensors: ONNX Runtime 1.32 dies without them where it fuses Transpose with MatMul."""
    made = {name for node in graph.node for name in node.output}
    kept = [item for item in graph.value_info if item.type.tensor_type.elem_type == _FLOAT16 and item.name in made]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def _sort(graph: Any) -> None:
    """Makers before readers, as ONNX wants it; converters append their casts at the end."""
    nodes = list(graph.node)
    makers = {output: index for index, node in enumerate(nodes) for output in node.output if output}
    reads = [[makers[name] for name in node.input if name in makers] for node in nodes]
    order: dict[int, None] = {}
    waiting = list(reversed(range(len(nodes))))
    while waiting:
        index = waiting[-1]
        missing = [maker for maker in reads[index] if maker not in order]
        if missing and index not in order:
            waiting += missing
        else:
            order[waiting.pop()] = None
    del graph.node[:]
    graph.node.extend(nodes[index] for index in order)


def _drop_zero_points(graph: Any) -> None:
    """Zero is what DequantizeLinear takes without a zero point."""
    from onnx import numpy_helper

    constants = {item.name: item for item in graph.initializer}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and len(node.input) == 3 and node.input[0] in constants:
            point = constants.get(node.input[2])
            if point is not None and not numpy_helper.to_array(point).any():
                del node.input[2]


def _drop_repeated_constants(graph: Any) -> None:
    read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    first: dict[bytes, str] = {}
    same: dict[str, str] = {}
    kept = []
    for item in graph.initializer:
        name, item.name, item.doc_string = item.name, "", ""
        same[name] = first.setdefault(item.SerializeToString(deterministic=True), name)
        item.name = name
        if name in read and (same[name] == name or name in {output.name for output in graph.output}):
            kept.append(item)
    _rename(graph, same)
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _shorten_names(graph: Any) -> None:
    public = {item.name for item in chain(graph.input, graph.output)}
    names = dict.fromkeys(chain((item.name for item in graph.initializer), *(node.output for node in graph.node)))
    wanted = [name for name in names if name and name not in public]
    taken, short, count = public, {}, 0
    for name in wanted:
        while (found := _number(count)) in taken:
            count += 1
        short[name] = found
        count += 1
    for item in chain(graph.initializer, graph.value_info):
        item.name = short.get(item.name, item.name)
    _rename(graph, short)


def _rename(graph: Any, names: Mapping[str, str]) -> None:
    for node in graph.node:
        for tensors in (node.input, node.output):
            for position, name in enumerate(tensors):
                tensors[position] = names.get(name, name)


def _number(value: int) -> str:
    digits = _DIGITS[value % len(_DIGITS)]
    return digits if value < len(_DIGITS) else _number(value // len(_DIGITS) - 1) + digits
