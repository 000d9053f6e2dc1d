"""OpenVINO: what every runtime promises, and what is its own."""

import ctypes
import gc
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import quanttaas_jupyter as qt
from quanttaas_jupyter.core.failures import StageError
from quanttaas_jupyter.techniques.quantize.saturation import saturates
from quanttaas_jupyter.techniques.runtimes.openvino_file import core, load, module_of
from tests.measured import number
from tests.networks import Digits, ResidualNet
from tests.techniques.quantize.on_onnx import Recurrent, Text
from tests.techniques.runtimes.contract import Contract, Transformer, images, sqnr_db


class SignalStack(ctypes.Structure):
    _fields_: ClassVar = [("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


def signal_stack() -> int | None:
    """Where this thread's signal handlers run, if not on its own stack."""
    found = SignalStack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found)) == 0
    return found.address


def is_mapped(address: int | None) -> bool:
    ranges = [line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines()]
    return address is None or any(int(begin, 16) <= address < int(end, 16) for begin, end in ranges)


class TestOpenVino(Contract):
    runtime, package, extra = "openvino", "openvino", "openvino"
    precisions: ClassVar = {
        "int8": (0.30, 20),
        "int8-weight": (0.30, 30),
        "fp16": (0.55, 55),
        "bf16": (0.55, 35),
    }

    def integer_layers(self, path: Path) -> list[str]:
        compiled = core().compile_model(load(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        found = set()
        for node in compiled.get_runtime_model().get_ordered_ops():
            about = {key: str(value.astype(str)) for key, value in node.get_rt_info().items()}
            if about["layerType"] in ("Convolution", "FullyConnected") and "8" in about["runtimePrecision"]:
                found.add(module_of(node.get_friendly_name()))
        return sorted(found)

    def test_weights_have_seven_bits_where_sums_of_eight_saturate(self, tmp_path: Path) -> None:
        self.build(Transformer(), images(), tmp_path)
        expected = self.run(self.path, images())
        target, made = self.quantize("int8", images())
        assert sqnr_db(self.run(target, images()), expected) > 30
        assert made.choices.get("weight_bits", 8) == (7 if saturates() else 8)

    @pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
    def test_signals_find_the_stack_that_they_are_given(self, tmp_path: Path) -> None:
        for network in (ResidualNet(), Transformer()):
            self.build(network, images(), tmp_path)
            self.quantize("int8", images())
            sessions = [self.place.open(self.path, 1, self.built.signature.input_names) for _ in range(3)]
            while sessions:
                sessions.pop(0)
                gc.collect()
            assert is_mapped(signal_stack())

    def test_int4_makes_a_transformer_smaller_than_int8_does(self, tmp_path: Path) -> None:
        self.build(Transformer(256), images(), tmp_path)
        small, less = (self.quantize(name, images())[0].stat().st_size for name in ("int4-weight", "int8-weight"))
        assert small < 0.65 * less
        self.build(nn.Conv2d(1, 4, 3), images(), tmp_path)
        with pytest.raises(StageError, match="matrix products only"):
            self.quantize("int4-weight", images())

    def test_embeddings_and_numbers_of_tokens(self, tmp_path: Path) -> None:
        x = torch.randint(0, 500, (40, 24), generator=torch.Generator().manual_seed(0))
        self.build(Text(), x, tmp_path)
        layers = self.place.layers(self.path)
        assert (layers.quantizable, layers.quantized) == (10, 0)
        target, _ = self.quantize("int8", x)
        assert "embedding" not in self.place.layers(target).kept
        assert sqnr_db(self.run(target, x), self.run(self.path, x)) > 15

    def test_recurrent_layers_stay_in_float_and_that_is_said(self, tmp_path: Path) -> None:
        x = torch.randn(40, 25, 12)
        model = Recurrent(nn.LSTM, True)
        self.build(model, x, tmp_path)
        np.testing.assert_allclose(self.run(self.path, x[:3]), model(x[:3]).detach().numpy(), atol=1e-4)
        target, done = self.quantize("int8", x)
        assert done.warnings == ("LSTMSequence: float32, NNCF quantizes no recurrent weights",)
        assert len(self.place.layers(target).kept) == 1

    def test_mixed_keeps_layers_in_float_until_the_loss_is_allowed(self, digits: Digits) -> None:
        recipe = {"prune": [0], "quantize": ["none", "mixed", "int8"], "runtime": "openvino"}
        study = qt.compress(digits.model, digits.test, recipe=recipe, train=digits.train, name="mixed").wait(240)
        for trial in study:
            assert trial.status == "finished", trial.error
            assert number(trial, "drop") <= 0.01
            assert number(trial, "export_error") < 1e-3
        assert number(study["mixed"], "size_ratio") < 0.5
        x = next(iter(digits.test))[0][:5]
        assert (study["int8"].load()(x).argmax(1) == digits.model(x).argmax(1)).all()
