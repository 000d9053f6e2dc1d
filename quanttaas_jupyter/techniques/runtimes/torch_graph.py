"""Exported PyTorch programs (``.pt2``): safe reading, inspection, changes, and compact writing."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.failures import StageError
from . import Layers

if TYPE_CHECKING:
    import torch

_WEIGHTS = {
    **{f"aten.conv{n}d.{kind}": 1 for n in (1, 2, 3) for kind in ("default", "padding")},
    **{f"aten.conv_transpose{n}d.{'default' if n == 1 else 'input'}": 1 for n in (1, 2, 3)},
    "aten.linear.default": 1,
    "aten.embedding.default": 0,
    "aten._int_mm.default": 1,
    "aten.lstm.input": 2,
    "aten.gru.input": 2,
    "aten.rnn_tanh.input": 2,
    "aten.rnn_relu.input": 2,
}
_TRACES = ("stack_trace", "nn_module_stack", "torch_fn", "source_fn_stack", "from_node", "custom")


@dataclass(frozen=True)
class Layer:
    """Call with weights.

    Attributes:
        node: The call in the graph.
        module: Dotted path of the module that holds the weights.
        weights: The ``get_attr`` nodes of the weights, without biases and scales.
        is_quantized: Whether all weights have fewer than four bytes per number.
        is_integer: Whether all weights are integers.
    """

    node: torch.fx.Node
    module: str
    weights: tuple[torch.fx.Node, ...]
    is_quantized: bool
    is_integer: bool


def load(path: Path) -> torch.fx.GraphModule:
    """Read a program as a ``GraphModule``.

    Raises:
        StageError: The file holds pickled objects, which could run code.
    """
    import torch

    _refuse_pickles(path)
    return torch.export.load(path).module()


def save(
    module: torch.nn.Module, inputs: Sequence[torch.Tensor], dynamic: Sequence[dict[int, Any]], path: Path
) -> None:
    """Export a module, and write it without source traces and sample inputs."""
    import torch

    with torch.no_grad():
        # A view would be stored with the whole batch that it was cut from.
        arguments = tuple(leaf.clone() for leaf in inputs)
        program = torch.export.export(module, arguments, dynamic_shapes=_shapes_of(module, dynamic))
    for node in program.graph_module.graph.nodes:
        for key in _TRACES:
            node.meta.pop(key, None)
    program._example_inputs = None
    torch.export.save(program, path)


def rewrite(
    path: Path, target: Path, inputs: Sequence[torch.Tensor], change: Callable[[torch.fx.GraphModule], None]
) -> None:
    """Load a program, change its graph, and write it with the same dynamic dimensions."""
    import torch

    module = load(path)
    entries = [node for node in module.graph.nodes if node.op == "placeholder"]
    dynamic = [
        {dim: torch.export.Dim.AUTO for dim, size in enumerate(node.meta["val"].shape) if not isinstance(size, int)}
        for node in entries
    ]
    change(module)
    module.graph.eliminate_dead_code()
    _drop_unread(module)
    module.recompile()
    save(module, inputs, dynamic, target)


def layers_of(module: torch.fx.GraphModule) -> list[Layer]:
    """Return all calls with weights, in order."""
    layers = []
    for node in module.graph.nodes:
        position = _WEIGHTS.get(str(node.target)) if node.op == "call_function" else None
        if position is None:
            continue
        operand = node.args[position]
        sources = [_source(item) for item in (operand if isinstance(operand, (list, tuple)) else [operand])]
        weights = tuple(item for item in sources if item is not None and tensor_of(module, item).ndim > 1)
        if weights:
            tensors = [tensor_of(module, item) for item in weights]
            narrow = all(tensor.element_size() < 4 for tensor in tensors)
            integers = not any(tensor.is_floating_point() for tensor in tensors)
            layers.append(Layer(node, _module_of(weights[0]), weights, narrow, integers))
    return layers


def summarize(path: Path) -> Layers:
    """Count the layers of a file, and list those that are not quantized."""
    layers = layers_of(load(path))
    kept = tuple(layer.module for layer in layers if not layer.is_quantized)
    return Layers(len(layers), len(layers) - len(kept), kept, sum(layer.is_integer for layer in layers))


def tensor_of(module: torch.nn.Module, node: torch.fx.Node) -> torch.Tensor:
    """Return the tensor that a ``get_attr`` node reads."""
    parent, _, name = str(node.target).rpartition(".")
    tensor: torch.Tensor = getattr(module.get_submodule(parent), name)
    return tensor


def add_tensor(module: torch.fx.GraphModule, beside: torch.fx.Node, suffix: str, tensor: torch.Tensor) -> torch.fx.Node:
    """Register a tensor in the module of the one that ``beside`` reads, and return the ``get_attr`` node for it."""
    parent, _, name = str(beside.target).rpartition(".")
    module.get_submodule(parent).register_buffer(f"{name}_{suffix}", tensor)
    with module.graph.inserting_before(beside):
        return module.graph.get_attr(f"{parent}.{name}_{suffix}".lstrip("."))


def fold(module: torch.fx.GraphModule) -> None:
    """Compute nodes that depend on no input once, so that weights are widened at load and not at each call."""
    import torch

    known: dict[Any, Any] = {}
    for node in list(module.graph.nodes):
        if node.op == "get_attr" and isinstance(tensor := _attribute(module, node.target), torch.Tensor):
            known[node] = tensor
        elif node.op == "call_function" and node.all_input_nodes and known.keys() >= set(node.all_input_nodes):
            arguments = torch.fx.map_arg((node.args, node.kwargs), lambda item: known[item])
            value = node.target(*arguments[0], **arguments[1])
            if isinstance(value, torch.Tensor):
                known[node] = value
                module.register_buffer(f"folded_{node.name}", value)
                with module.graph.inserting_before(node):
                    constant = module.graph.get_attr(f"folded_{node.name}")
                known[constant] = value
                node.replace_all_uses_with(constant)
    module.graph.eliminate_dead_code()
    _drop_unread(module)
    module.recompile()


def is_ignored(module: str, ignore: Iterable[str]) -> bool:
    """Return whether a module is an ignored one or inside of it; an empty name ignores the whole model."""
    return any(not name or module == name or module.startswith(f"{name}.") for name in ignore)


def _shapes_of(module: torch.nn.Module, dynamic: Sequence[dict[int, Any]]) -> Any:
    import torch

    # A loaded program has named inputs; a flat module has all of them in one tuple.
    return tuple(dynamic) if isinstance(module, torch.fx.GraphModule) else (tuple(dynamic),)


def _source(node: Any) -> torch.fx.Node | None:
    """Return the ``get_attr`` node that a weight comes from, looking through casts, scales and views."""
    while getattr(node, "op", "") == "call_function" and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return node if getattr(node, "op", "") == "get_attr" else None


def _module_of(node: torch.fx.Node) -> str:
    return str(node.target).rpartition(".")[0].removeprefix("model.")


def _attribute(module: Any, target: str) -> Any:
    for name in target.split("."):
        module = getattr(module, name, None)
    return module


def _drop_unread(module: torch.fx.GraphModule) -> None:
    read = {node.target for node in module.graph.nodes if node.op == "get_attr"}
    found = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    for name, _ in found:
        if name not in read:
            parent, _, leaf = name.rpartition(".")
            delattr(module.get_submodule(parent), leaf)


def _refuse_pickles(path: Path) -> None:
    """Check that a file holds only tensors, because ``torch.export.load`` unpickles its content.

    Raises:
        StageError: The file holds pickled objects.
    """
    import torch

    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            refused = False
            if name.endswith("_config.json"):
                refused = any(item["use_pickle"] for item in json.loads(archive.read(name))["config"].values())
            elif name.endswith(".pt") and (content := archive.read(name)):
                try:
                    torch.load(io.BytesIO(content), weights_only=True)
                except Exception:
                    refused = True
            if refused:
                raise StageError("the file holds pickled objects, which could run code when read", "build it again")
