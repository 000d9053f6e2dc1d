"""Compaction of ONNX files, before and after quantization.

Exporters write names, shapes and source traces that inference does not need; they are most of a small file. The
baseline is compacted like quantized files, so that quantization is not credited for it.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from itertools import chain, groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ...core.failures import StageError, one_line
from . import onnx_parts
from .onnx_graph import layers_of, module_of, name_layers, names_read_by, scope_of

_FLOAT16 = 10
"""Float16 as a ``TensorProto`` type."""
_DIGITS = string.ascii_letters  # No digits, since quantizers name copies of a tensor by appending digits.
_MODULES = "modules"


def load_prepared(source: Path, folder: Path | None = None) -> Any:
    """Return the prepared graph of an artifact, with a unique name for each node and module names for layers.

    Args:
        source: The artifact.
        folder: Folder for large weights, which the caller reads by ``onnx_parts.array_of``; None for a caller that
            needs all of them in the model, as ONNX's own tools do.

    Raises:
        StageError: ONNX Runtime cannot read or infer the graph, or it is beyond 2 GB for a caller that names no folder.
    """
    model = onnx_parts.load(source)
    if folder is None and onnx_parts.size_of(model) > onnx_parts.MOST:
        raise StageError(
            f"it takes ONNX files up to 2 GB, and this model has {source.stat().st_size / 1e9:.1f} GB",
            "use int8-weight or int4-weight",
        )
    # Preparation drops the metadata that names modules, and adds nodes.
    _name_by_modules(model)
    name_layers(model.graph)
    if folder is None:
        with TemporaryDirectory() as temporary:
            model = _prepared(model, Path(temporary))
            onnx_parts.take_in(model)
    else:
        model = _prepared(model, folder)
    name_layers(model.graph)
    seen: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}_{index}"
        seen.add(node.name)
    return model


def make_lean(source: Path, target: Path) -> None:
    """Write an export without data that inference does not need; the module of each node is kept."""
    try:
        model = load_prepared(source, target.parent)
    except StageError:
        model = onnx_parts.load(source)
        _name_by_modules(model)
    _save(model, target, keep_modules=True)


def save(model: Any, target: Path) -> None:
    """Write a quantized model without data that inference does not need.

    Layers keep one name, the path of their module; inputs and outputs keep theirs. Other names, documentation, zero
    points of symmetric weights and repeated constants are removed, which is a visible share of a small file.
    """
    _save(model, target, keep_modules=False)


def _save(model: Any, target: Path, keep_modules: bool) -> None:
    graph = model.graph
    name_layers(graph)
    # Names inside the bodies of loops and functions may mean tensors outside of them.
    is_flat = not model.functions and not any(a.HasField("g") or a.graphs for n in graph.node for a in n.attribute)
    if is_flat:
        _sort(graph)
    modules = _modules_of(graph) if keep_modules else []
    _drop_names(graph)
    for item in (model, graph):
        item.doc_string = ""
        del item.metadata_props[:]
    del graph.quantization_annotation[:]
    _keep_types(graph)
    _drop_zero_points(graph)
    if is_flat:
        _drop_repeated_constants(graph)
        _shorten_names(graph)
    if any(modules) and not any(";" in module for module in modules):
        runs = [f"{module}*{len(list(nodes))}" for module, nodes in groupby(modules)]
        model.metadata_props.add(key=_MODULES, value=";".join(runs))
    onnx_parts.save(model, target)


def _modules_of(graph: Any) -> list[str]:
    """Return the module of each node that is not a layer; layers, which keep their names, get that of the node before.

    Names of constants do not help here: equal norms share them.
    """
    layers = {layer.node for layer in layers_of(graph)}
    found: list[str] = []
    for node in graph.node:
        is_layer = node.name in layers
        found.append(scope_of(node) if not is_layer else found[-1] if found else "")
    return found


def _name_by_modules(model: Any) -> None:
    """Name the nodes after their modules, as tracing does, from the file's metadata or that of ``torch.export``."""
    noted = next((item.value for item in model.metadata_props if item.key == _MODULES), "")
    runs = [run.rpartition("*") for run in noted.split(";") if run]
    modules = [module for module, _, count in runs for _ in range(int(count))]
    if not modules:
        modules = [module_of(node) if node.metadata_props else "" for node in model.graph.node]
    layers = {layer.node for layer in layers_of(model.graph)}
    for index, (node, module) in enumerate(zip(model.graph.node, modules, strict=True)):
        if module and node.name not in layers:
            # ``scope_of`` removes one "model.".
            scope = f"model.{module}" if module.startswith("model.") else module
            node.name = f"/{scope}/{node.op_type}_{index}"


def _prepared(model: Any, folder: Path) -> Any:
    """Return a model after ONNX Runtime's basic optimizations, with the shapes of its tensors.

    ONNX Runtime's ``quant_pre_process`` does the same, and reads and writes all weights five times. ONNX's own shape
    inference suffices for quantizers; the symbolic one fails more often than it helps.
    """
    import onnx
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    try:
        model = onnx.shape_inference.infer_shapes(_optimized(model, folder))
    except Exception as error:
        raise StageError(f"ONNX Runtime cannot prepare the graph for quantization: {one_line(error)}") from error
    add_pre_process_metadata(model)
    return model


def _optimized(model: Any, folder: Path) -> Any:
    """Return a model with folded constants and batch norms; its large weights are written into the folder."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    # Nothing runs: weights need not be laid out for kernels.
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "optimized.onnx.data")
    ort.InferenceSession(onnx_parts.in_message(model, options), options, providers=["CPUExecutionProvider"])
    return onnx_parts.load(folder / "optimized.onnx")


def _drop_names(graph: Any) -> None:
    layers = {layer.node for layer in layers_of(graph)}
    for node in graph.node:
        node.name = node.name if node.name in layers else ""
        node.doc_string = ""
        del node.metadata_props[:]


def _keep_types(graph: Any) -> None:
    """Keep shapes of float16 tensors only: without them ONNX Runtime 1.32 crashes as it fuses Transpose and MatMul."""
    made = {name for node in graph.node for name in node.output}
    kept = [item for item in graph.value_info if item.type.tensor_type.elem_type == _FLOAT16 and item.name in made]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def _sort(graph: Any) -> None:
    """Sort nodes so that each follows the nodes it reads, as ONNX requires; converters append casts at the end."""
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
    """Remove zero points of 0, the default of DequantizeLinear, except where ONNX Runtime's integer Gemm needs them."""
    from onnx import numpy_helper

    constants = {item.name: item for item in graph.initializer}
    read_by_gemms = {name for node in graph.node if node.op_type == "Gemm" for name in node.input}
    for node in graph.node:
        is_dropped = node.op_type == "DequantizeLinear" and node.output[0] not in read_by_gemms
        if is_dropped and len(node.input) == 3 and node.input[0] in constants:
            point = constants.get(node.input[2])
            if point is not None and not numpy_helper.to_array(point).any():
                del node.input[2]


def _drop_repeated_constants(graph: Any) -> None:
    read = {name for node in graph.node for name in names_read_by(node)} | {output.name for output in graph.output}
    first: dict[bytes, str] = {}
    same: dict[str, str] = {}
    kept = []
    outputs = {output.name for output in graph.output}
    for item in graph.initializer:
        if item.name not in read:
            continue
        name, item.name, item.doc_string = item.name, "", ""
        same[name] = first.setdefault(item.SerializeToString(deterministic=True), name)
        item.name = name
        if same[name] == name or name in outputs:
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
