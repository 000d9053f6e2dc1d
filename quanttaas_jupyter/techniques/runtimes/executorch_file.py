"""ExecuTorch programs (``.pte``): lowering of an exported graph to XNNPACK, and sessions."""

from __future__ import annotations

import re
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...core.failures import StageError, one_line, optional
from . import Session

MOST_SAMPLES = 64
"""Samples that memory is planned for; a session splits larger batches. Chosen, not tuned: more take more memory."""
_open: weakref.WeakSet[Any] = weakref.WeakSet()
"""Programs that are open in this process."""
_OPERATOR = re.compile(r"\b(?:aten|quantized_decomposed|torchvision)(?:::|\.)[\w.]+")


def package() -> Any:
    """Import ExecuTorch's lowering.

    Raises:
        StageError: The package is missing.
    """
    return optional("executorch.exir", extra="executorch")


def lower(program: Any, path: Path, is_dynamic: bool = False) -> None:
    """Write a program that delegates to XNNPACK what it can compute, and the rest to portable kernels.

    Args:
        program: A ``torch.export.ExportedProgram``.
        path: Path for the file.
        is_dynamic: Whether activations are quantized with ranges found at run time.

    Raises:
        StageError: An operator has no kernel; the message names it.
    """
    exir = package()
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import (
        XnnpackDynamicallyQuantizedPartitioner,
        XnnpackPartitioner,
    )

    # The dynamic partitioner finds nothing in other programs, but would take a third of the lowering time.
    partitioners = [*([XnnpackDynamicallyQuantizedPartitioner()] if is_dynamic else []), XnnpackPartitioner()]
    options = exir.EdgeCompileConfig(_check_ir_validity=False)
    try:
        lowered = exir.to_edge_transform_and_lower(program, partitioner=partitioners, compile_config=options)
        made = lowered.to_executorch()
    except Exception as error:
        operator = _OPERATOR.search(str(error))
        reason = f"it has no operator {operator.group()}" if operator else one_line(error)
        raise StageError(
            f"ExecuTorch cannot express this model: {reason}", "replace that operation in forward()"
        ) from error
    _refuse_unknown(made.executorch_program)
    path.write_bytes(made.buffer)


def open_program(path: Path, threads: int, count: int) -> Session:
    """Open a session of a program with ``count`` inputs.

    It runs on ``threads`` threads, or on as many as the programs that are already open in this process.

    Raises:
        StageError: The runtime refuses the file.
    """
    optional("executorch.runtime", extra="executorch")
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

    if not _open and portable_lib._threadpool_get_thread_count() != threads:
        # A process has one pool of threads, and programs that are open hang or crash when it is exchanged.
        portable_lib._unsafe_reset_threadpool(threads)
    # Load from memory, since the file may be removed while the program is in use.
    content = path.read_bytes()
    try:
        program = Runtime.get().load_program(content)
        method = program.load_method("forward")
    except RuntimeError as error:
        raise StageError(f"ExecuTorch cannot load the file: {error}", "build it again") from error
    assert method is not None
    _open.add(method)
    return _Program(content, program, method, count)


class _Program:
    """Session that runs one method of a program; it keeps the bytes alive that the program reads."""

    def __init__(self, content: bytes, program: Any, method: Any, count: int) -> None:
        self._content, self._program, self._method = content, program, method
        self._most = [method.metadata.input_tensor_meta(index).sizes()[:1] for index in range(count)]

    def __call__(self, arrays: Sequence[Any]) -> list[Any]:
        """Return the outputs for input arrays; larger batches than memory was planned for are split."""
        rows = {len(array) if array.ndim else 0 for array in arrays}
        size = min((sizes[0] for sizes in self._most if sizes), default=0)
        if len(rows) != 1 or not 0 < size < max(rows):
            return self._whole(arrays)
        parts = [self._whole([a[start : start + size] for a in arrays]) for start in range(0, max(rows), size)]
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    def __del__(self) -> None:
        # Method and program may read the bytes during their deletion without owning them, so the bytes go last.
        self._method = self._program = None

    def _whole(self, arrays: Sequence[Any]) -> list[Any]:
        import torch

        outputs = self._method.execute([torch.from_numpy(np.ascontiguousarray(array)) for array in arrays])
        # The program reuses the memory of its outputs.
        return [np.array(leaf) for leaf in outputs]


def _refuse_unknown(program: Any) -> None:
    """Check that the runtime has a kernel for each operator; loading would fail with only an error number.

    Raises:
        StageError: An operator has no kernel.
    """
    from executorch.runtime import Runtime

    known = Runtime.get().operator_registry.operator_names
    for operator in program.execution_plan[0].operators:
        name = f"{operator.name}.{operator.overload}" if operator.overload else operator.name
        if name not in known:
            raise StageError(f"ExecuTorch's runtime has no operator {name}", "replace that operation in forward()")
