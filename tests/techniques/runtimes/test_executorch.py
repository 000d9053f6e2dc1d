"""ExecuTorch: what every runtime promises, and what is its own."""

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np
import pytest
from torch import nn

from quanttaas_jupyter.core.failures import StageError
from tests.techniques.runtimes.contract import Contract, Kept, images


class TestExecuTorch(Contract):
    runtime, package, extra = "executorch", "executorch", "executorch"
    precisions: ClassVar = {"int8": (0.30, 20)}

    def layers_of(self, path: Path) -> Any:
        return self.place.layers(path.with_suffix(".pt2"))

    def integer_layers(self, path: Path) -> list[str]:
        """Types of the delegate's nodes whose weights are int8 and whose input is quantized, read from the file."""
        return [kind for kind, weight, data in xnnpack_layers(path) if "qcint8" in weight and "qint8" in data]

    def test_larger_batches_than_memory_was_planned_for_are_cut(self, kept: Kept) -> None:
        model = self.once("cnn", kept)
        np.testing.assert_allclose(self.run(self.path, images(150)), model(images(150)).detach().numpy(), atol=1e-4)

    def test_dynamic_int8_is_for_linear_layers(self, kept: Kept, tmp_path: Path) -> None:
        self.once("transformer", kept)
        target, done = self.quantize("int8-dynamic", images())
        assert done.warnings == ("float32 in patches",)
        assert self.layers_of(target).integers == 9
        assert [kind for kind, weight, _ in xnnpack_layers(target) if "qcint8" in weight] == ["XNNFullyConnected"] * 9
        self.build(nn.Conv2d(1, 8, 3), images(), tmp_path)
        with pytest.raises(StageError, match="linear layers only"):
            self.quantize("int8-dynamic", images())


def xnnpack_layers(path: Path) -> list[tuple[str, str, str]]:
    """Kind, weight's and input's data type of every layer that XNNPACK computes, from the file itself."""
    from executorch.backends.xnnpack import serialization
    from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader
    from executorch.exir._serialize._flatbuffer import _flatc_decompile
    from executorch.exir._serialize._program import deserialize_pte_binary

    program = deserialize_pte_binary(path.read_bytes()).program
    found = []
    for delegate in program.execution_plan[0].delegates:
        content = program.backend_delegate_data[delegate.processed.index].data
        header = XNNHeader.from_bytes(content[: XNNHeader.EXPECTED_LENGTH])
        with TemporaryDirectory() as folder:
            file = Path(folder) / "graph.bin"
            file.write_bytes(content[header.flatbuffer_offset :][: header.flatbuffer_size])
            _flatc_decompile(folder, str(Path(serialization.__path__[0]) / "schema.fbs"), str(file), ["--raw-binary"])
            graph = json.loads(re.sub(r"(?<=: )(-?)inf\b", r"\1Infinity", file.with_suffix(".json").read_text()))
        values = {}
        for value in graph["xvalues"]:
            inner = value["xvalue_union"]
            inner = inner.get("tensor_value", inner)
            values[inner["id_out"]] = inner["datatype"]
        for node in graph["xnodes"]:
            union = node["xnode_union"]
            if "filter_id" in union:
                data = values[union["input1_id"]]
                found.append((node["xnode_union_type"].lstrip("_"), values[union["filter_id"]], data))
    return found
