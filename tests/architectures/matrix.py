"""Every technique on every architecture: a number that was measured, a stated reason, or a failure."""

from __future__ import annotations

import contextlib
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime.quantization  # noqa: F401  (here, so that not every process imports it anew)
import torch

from quanttaas_jupyter.bundle import model as models
from quanttaas_jupyter.bundle.batches import Batches, call
from quanttaas_jupyter.bundle.structure import flatten
from quanttaas_jupyter.techniques.prune import PRUNERS, PruneJob
from quanttaas_jupyter.techniques.quantize import QUANTIZERS, QuantizeJob
from quanttaas_jupyter.techniques.runtimes import RUNTIMES
from tests.architectures.zoo import ZOO, Architecture

TECHNIQUES = ("export", "prune 0.3", "fp16", "int8")
AMOUNT, NEAR = 0.3, 0.05
LEAST_DB = {"fp16": 30.0, "int8": 15.0}
_SIZES = (3, 8)

OK, FAILS = "ok", "fails"


@dataclass(frozen=True)
class Cell:
    """One technique on one architecture.

    Attributes:
        architecture: Its name.
        technique: One of ``TECHNIQUES``, or another quantization on ONNX Runtime.
        status: ``ok`` or ``fails``.
        found: What was measured, or the reason.
        seconds: How long it took.
    """

    architecture: str
    technique: str
    status: str
    found: str
    seconds: float = 0.0


@cache
def cells_of(architecture: Architecture, techniques: tuple[str, ...] = TECHNIQUES) -> tuple[Cell, ...]:
    """Techniques on one architecture, in a process of its own: a crash of a library is a failure of its cell."""
    found: list[Cell] = []
    while len(found) < len(techniques):
        receiver, sender = multiprocessing.get_context("fork").Pipe(duplex=False)
        worker = multiprocessing.get_context("fork").Process(
            target=_work, args=(architecture, techniques[len(found) :], sender)
        )
        worker.start()
        sender.close()
        with contextlib.suppress(EOFError):
            while len(found) < len(techniques):
                found.append(receiver.recv())
        worker.join()
        if len(found) < len(techniques):
            found.append(
                Cell(architecture.name, techniques[len(found)], FAILS, f"process ended with {worker.exitcode}")
            )
    return tuple(found)


def _work(architecture: Architecture, techniques: Sequence[str], sender: Any) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        bench = _Bench(architecture, Path(folder))
        for technique in techniques:
            sender.send(_cell(architecture, technique, bench.run))


def all_cells() -> list[Cell]:
    """The whole matrix."""
    return [cell for architecture in ZOO for cell in cells_of(architecture)]


def _cell(architecture: Architecture, technique: str, run: Callable[[str], str]) -> Cell:
    begun = time.perf_counter()
    try:
        status, found = OK, run(technique)
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        status, found = FAILS, f"{type(error).__name__}: {lines[0]}"
    return Cell(architecture.name, technique, status, found, time.perf_counter() - begun)


class _Bench:
    """One architecture, its data, and its exported file."""

    def __init__(self, architecture: Architecture, folder: Path) -> None:
        self._architecture, self._folder = architecture, folder
        self._runtime = RUNTIMES.get("onnxruntime")
        self._names: tuple[str, ...] = ()

    def run(self, technique: str) -> str:
        """What was measured. Raises whatever goes wrong."""
        if technique == "export":
            return f"{self._exported(self._architecture.model(), self._folder / 'model.onnx'):.0e}"
        if technique.startswith("prune"):
            return self._pruned()
        return f"{self._quantized(technique):.0f} dB"

    def _pruned(self) -> str:
        model = self._architecture.model()
        before = _parameters(model)
        job = PruneJob(model, AMOUNT, self._architecture.data(seed=1), (), lambda line: None)
        models.save(PRUNERS.get("structured")(job).model, self._folder / "pruned")
        pruned = models.load(self._folder / "pruned")
        share = 1 - _parameters(pruned) / before
        assert abs(share - AMOUNT) <= NEAR, f"{share:.2f} of the parameters went where {AMOUNT} was asked"
        self._exported(pruned, self._folder / "pruned.onnx")
        return f"{share:.2f}"

    def _exported(self, model: torch.nn.Module, path: Path) -> float:
        built = self._runtime.build(model, self._architecture.data(seed=1), path, lambda line: None)
        self._names = built.signature.input_names
        session = self._runtime.open(path, 1, self._names)
        worst = 0.0
        for size in _SIZES:
            data = self._architecture.data(size, seed=size)
            for mine, theirs in zip(_run(session, data), _answers(model, data), strict=True):
                assert mine.shape == theirs.shape, f"{mine.shape} where the module gives {theirs.shape}"
                error = float(np.abs(mine - theirs).max() / (np.abs(theirs).max() + 1e-6))
                assert error < 1e-3, f"outputs differ by {error:.1e} of the largest at batch size {size}"
                worst = max(worst, error)
        return worst

    def _quantized(self, quantization: str) -> float:
        model, source, target = self._architecture.model(), self._folder / "model.onnx", self._folder / "small.onnx"
        if not source.exists():
            self._exported(model, source)
        calibration = self._architecture.data(seed=1)
        names = self._names
        QUANTIZERS.get((quantization, "onnxruntime"))(
            QuantizeJob(source, target, calibration, names, (), lambda line: None)
        )
        assert self._runtime.layers(target).quantized > 0, "no layer was quantized"
        data = self._architecture.data(16, seed=2)
        decibels = _sqnr_db(_run(self._runtime.open(target, 1, names), data), _answers(model, data))
        least = LEAST_DB.get(quantization, LEAST_DB["int8"])
        assert decibels >= least, f"{decibels:.1f} dB where {least:.0f} are wanted"
        return decibels


def _run(session: Callable[[Sequence[Any]], list[Any]], data: Batches) -> list[np.ndarray]:
    return session([leaf.numpy() for leaf in data.batches[0].inputs])


def _answers(model: torch.nn.Module, data: Batches) -> list[np.ndarray]:
    with torch.no_grad():
        leaves, _ = flatten(call(model, data.inputs, data.batches[0].inputs))
    return [leaf.numpy() for _, leaf in leaves]


def _sqnr_db(found: list[np.ndarray], reference: list[np.ndarray]) -> float:
    noise = sum(float(((a.astype(float) - b) ** 2).sum()) for a, b in zip(found, reference, strict=True))
    signal = sum(float((b.astype(float) ** 2).sum()) for b in reference)
    return float(10 * np.log10(signal / max(noise, 1e-12 * signal)))


def _parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
