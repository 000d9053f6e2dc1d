"""TensorRT engines: built from ONNX graphs, ahead of time without a GPU if necessary, and run on a GPU.

``tensorrt``, the full package, is used if it is installed and there is a GPU. Otherwise ``tensorrt_rtx`` is used, whose
builder needs no GPU. Both build strongly typed networks: precisions are those of the graph. An engine's file begins
with its builder and targets, like Ultralytics' ``.engine`` files: the length of a JSON text in four bytes
(little-endian), the text, and TensorRT's plan.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...core.failures import StageError, optional
from . import Notes, Session

DEFAULT_TARGETS = ("SM89",)
"""Architecture of an L4 and of common workstation GPUs, the default without a GPU and without targets."""
TARGETS = ("SM75", "SM80", "SM86", "SM89", "SM120")
_MOST_SAMPLES = 64
"""Largest batch in the optimization profile, unless the data has larger ones; chosen, not tuned."""
_EXTRA = "tensorrt-rtx"


def gpu() -> str:
    """Return the architecture of this machine's GPU, such as SM89, or an empty string."""
    import torch

    if not torch.cuda.is_available():
        return ""
    major, minor = torch.cuda.get_device_capability()
    return f"SM{major}{minor}"


def package() -> Any:
    """Import the builder: ``tensorrt`` if it and a GPU are available, otherwise ``tensorrt_rtx``.

    Raises:
        StageError: Neither can be imported.
    """
    if gpu():
        try:
            return importlib.import_module("tensorrt")
        except ImportError:
            pass
    return optional("tensorrt_rtx", extra=_EXTRA)


def build(
    graph: Path,
    path: Path,
    targets: Sequence[str],
    shapes: dict[str, list[tuple[int, ...]]],
    notes: Notes | None = None,
) -> None:
    """Write the engine of an ONNX graph.

    Args:
        graph: The ONNX file.
        path: Path for the engine.
        targets: GPU architectures; empty for this machine's GPU, or for ``DEFAULT_TARGETS`` without one.
        shapes: Smallest, usual and largest shape of each input, for one optimization profile.
        notes: Stores the timings of kernels, so that later engines for these GPUs are built faster.

    Raises:
        StageError: The parser refuses a node, which is named, or no kernel implements it on a target.
    """
    trt = package()
    log = _log(trt)
    log.lines.clear()
    here = gpu()
    aims = tuple(targets) or ((here,) if here else DEFAULT_TARGETS)
    builder = trt.Builder(log)
    network = builder.create_network(_flags(trt))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(graph)):
        raise _refused(parser)
    config = builder.create_builder_config()
    if (here,) != aims:
        _aim(trt, config, aims)
    if is_sparse := _is_sparse(graph):
        config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        name = network.get_input(index).name
        profile.set_shape(name, *shapes[name])
    config.add_optimization_profile(profile)
    timings = f"tensorrt/{trt.__name__}-{trt.__version__}-{'-'.join(aims)}"
    known = None if notes is None else notes.read(timings)
    # A cache from another driver or GPU is refused; then an empty one is used.
    if not config.set_timing_cache(config.create_timing_cache(known or b""), False):
        config.set_timing_cache(config.create_timing_cache(b""), False)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise StageError(
            f"TensorRT cannot build this model for {', '.join(aims)}: {_first(log.lines)}",
            "name other targets, or another quantization",
        )
    learned = bytes(config.get_timing_cache().serialize())
    if notes is not None and learned != known:
        notes.write(timings, learned)
    made = {"built_by": trt.__name__, "version": trt.__version__, "targets": list(aims), "is_sparse": is_sparse}
    said = json.dumps(made).encode()
    path.write_bytes(len(said).to_bytes(4, "little") + said + bytes(serialized))


def read(path: Path) -> tuple[dict[str, Any], bytes]:
    """Return an engine's builder and targets (``built_by``, ``version``, ``targets``, ``is_sparse``), and its plan."""
    content = path.read_bytes()
    begin = 4 + int.from_bytes(content[:4], "little")
    return json.loads(content[4:begin]), content[begin:]


def open_engine(path: Path, names: Sequence[str]) -> Session:
    """Open a session of an engine on this machine's GPU.

    Raises:
        StageError: There is no GPU, or the engine is for another one or another version.
    """
    (made, plan), here = read(path), gpu()
    aims = " or ".join(made["targets"])
    if not here:
        raise StageError(f"this engine runs on GPUs of {aims}, and this machine has none", "export() it to one")
    if here not in made["targets"]:
        raise StageError(f"this engine is for {aims}, and this GPU is {here}", f"build it with targets: [{here}]")
    trt = optional(made["built_by"], extra="tensorrt" if made["built_by"] == "tensorrt" else _EXTRA)
    if trt.__version__ != made["version"]:
        raise StageError(
            f"this engine is of {made['built_by']} {made['version']}, and {trt.__version__} is installed",
            "install that version, or build the engine again",
        )
    return _OnGpu(trt, plan, names)


class _OnGpu:
    """Session of an engine with its execution context; arrays are copied to the GPU and back."""

    def __init__(self, trt: Any, content: bytes, names: Sequence[str]) -> None:
        self._trt, self._names = trt, names
        self._runtime = trt.Runtime(_log(trt))
        self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise StageError(f"TensorRT cannot read the engine: {_first(_log(trt).lines)}", "build it again")
        self._context = self._engine.create_execution_context()
        self.gpu_memory_bytes = int(self._engine.device_memory_size_v2) + len(content)

    def __call__(self, arrays: Sequence[Any]) -> list[Any]:
        """Return the outputs for input arrays."""
        import torch

        outputs = self._enqueue(self._sent(arrays))
        torch.cuda.current_stream().synchronize()
        return [tensor.cpu().numpy() for tensor in outputs]

    def seconds(self, arrays: Sequence[Any]) -> float:
        """Return the seconds of a call by CUDA events, without the copies to the GPU and back."""
        import torch

        inputs = self._sent(arrays)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        self._enqueue(inputs)
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3

    def _sent(self, arrays: Sequence[Any]) -> dict[str, Any]:
        import torch

        engine, mode = self._engine, self._trt.TensorIOMode.INPUT
        known = {engine.get_tensor_name(i) for i in range(engine.num_io_tensors)}
        wanted = {name for name in known if engine.get_tensor_mode(name) == mode}
        pairs = zip(self._names, arrays, strict=True)
        return {name: torch.from_numpy(array).cuda().contiguous() for name, array in pairs if name in wanted}

    def _enqueue(self, inputs: dict[str, Any]) -> list[Any]:
        import torch

        for name, tensor in inputs.items():
            self._context.set_input_shape(name, tuple(tensor.shape))
            self._context.set_tensor_address(name, tensor.data_ptr())
        outputs = []
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            if name not in inputs and self._engine.get_tensor_mode(name) == self._trt.TensorIOMode.OUTPUT:
                kind = getattr(torch, _TORCH_TYPES[self._engine.get_tensor_dtype(name).name])
                outputs.append(torch.empty(tuple(self._context.get_tensor_shape(name)), dtype=kind, device="cuda"))
                self._context.set_tensor_address(name, outputs[-1].data_ptr())
        if not self._context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise StageError(f"TensorRT cannot run the engine: {_first(_log(self._trt).lines)}")
        return outputs


_TORCH_TYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT32": "int32",
    "INT64": "int64",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
}


@lru_cache(maxsize=2)
def _log(trt: Any) -> Any:
    """Return the logger of this process; TensorRT accepts only one."""

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                self.lines.append(message)

    return Log()


def _flags(trt: Any) -> int:
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def _aim(trt: Any, config: Any, targets: Sequence[str]) -> None:
    if not hasattr(config, "num_compute_capabilities"):
        raise StageError(f"{trt.__name__} builds for the GPU at hand only", "leave out 'targets'")
    unknown = [target for target in targets if not hasattr(trt.ComputeCapability, target)]
    if unknown:
        raise StageError(f"TensorRT-RTX builds for {', '.join(TARGETS)}, not for {unknown[0]}", "name other targets")
    config.num_compute_capabilities = len(targets)
    for index, target in enumerate(targets):
        config.set_compute_capability(getattr(trt.ComputeCapability, target), index)


def _refused(parser: Any) -> StageError:
    error = parser.get_error(0)
    node, kind = error.node_name() or "without a name", error.node_operator()
    return StageError(
        f"TensorRT's parser refuses the {kind} node {node}: {error.desc().strip()[:200]}",
        f"ignore {node}, or use another quantization",
    )


def _first(lines: Sequence[str]) -> str:
    return lines[0].rpartition("] ")[2].strip()[:300] if lines else "it does not say why"


def _is_sparse(graph: Path) -> bool:
    """Return whether two of each four weights are zero in most large matrices and kernels of the graph."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    arrays = [numpy_helper.to_array(item) for item in onnx.load(str(graph)).graph.initializer if len(item.dims) > 1]
    large = [array for array in arrays if array.size >= 1024 and array.dtype.kind in "fi"]
    return sum(bool(np.mean(array == 0) >= 0.5) for array in large) > len(large) / 2


def shapes_of(graph: Path, seen: dict[str, list[tuple[int, ...]]]) -> dict[str, list[tuple[int, ...]]]:
    """Return the smallest, usual and largest shape of each input.

    Batches range from 1 to 64, other dynamic dimensions up to twice the data's largest.

    Args:
        graph: The ONNX file; its fixed dimensions have one size.
        seen: Shapes of the data's batches by input.
    """
    import onnx

    found = {}
    for item in onnx.load(str(graph)).graph.input:
        fixed = [dim.dim_value for dim in item.type.tensor_type.shape.dim]
        columns = list(zip(*seen[item.name], strict=True))
        usual = [1 if dim == 0 else column[0] for dim, column in enumerate(columns)]
        most = [max(_MOST_SAMPLES, *column) if dim == 0 else 2 * max(column) for dim, column in enumerate(columns)]
        ranges = ([1] * len(fixed), usual, most)
        found[item.name] = [tuple(size or free for size, free in zip(fixed, sizes, strict=True)) for sizes in ranges]
    return found
