"""Studies of small models, and what their files say when a plain loop runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch

from quanttaas_jupyter.bundle.structure import unflatten
from quanttaas_jupyter.client.inspection import Asked, answering
from quanttaas_jupyter.client.preparation import Prepared, prepare
from quanttaas_jupyter.client.submission import read
from quanttaas_jupyter.core.errors import QuantTaaSError
from quanttaas_jupyter.core.records.study import StudyRecord
from quanttaas_jupyter.core.state import StudyState
from quanttaas_jupyter.core.understanding import Understanding
from quanttaas_jupyter.techniques.evaluate.judge import Judge
from tests.engine.inline import drive

RECIPE = {"prune": [0], "quantize": ["none"]}
CLOSE: dict[str, Any] = {"rel": 1e-6, "abs": 1e-6}


class Through(torch.nn.Module):
    """Gives its inputs as outputs, perhaps changed, so that a test writes the outputs down."""

    def __init__(self, change: Callable[[Any], Any] | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self._change = change

    def forward(self, x: torch.Tensor) -> Any:
        scaled = self.weight * x
        return scaled if self._change is None else self._change(scaled)


@dataclass(frozen=True)
class Tried:
    """A study that ended."""

    root: Path
    state: StudyState
    record: StudyRecord

    @property
    def understanding(self) -> Understanding:
        assert self.record.understanding is not None
        return self.record.understanding

    @property
    def numbers(self) -> Any:
        """The numbers of the baseline."""
        return self.of("baseline")

    def of(self, name: str) -> Any:
        trial = self.state.trials[name]
        assert trial.status == "finished", (trial.error, self.state.error)
        return trial.metrics

    @property
    def metric(self) -> float:
        return float(self.numbers["metric"])

    def file(self, name: str = "baseline") -> Callable[..., list[torch.Tensor]]:
        """The exported file, run by ONNX Runtime alone; takes arrays in the order of the file's inputs, or by name."""
        artifact = self.state.trials[name].artifact
        assert artifact is not None
        session = ort.InferenceSession(str(self.root / "blobs" / artifact.blob), providers=["CPUExecutionProvider"])
        names = [given.name for given in session.get_inputs()]

        def run(*arrays: Any, **named: Any) -> list[torch.Tensor]:
            feed = dict(zip(names, arrays, strict=False)) | {key: named[key] for key in named if key in names}
            return [torch.from_numpy(a) for a in session.run(None, {k: np.asarray(v) for k, v in feed.items()})]

        return run


def tried(root: Path, model: Any, data: Any, recipe: Any = None, **asked: Any) -> Tried:
    """Run a study of the baseline, judged on all of ``data``."""
    asked.setdefault("calibration", data)
    state, record, _ = drive(root, model.eval(), data, {**RECIPE, **(recipe or {})}, **asked)
    assert state.status == "finished", (state.error, state.trials)
    return Tried(root, state, record)


def looked(model: Any, data: Any, recipe: Any = None, **asked: Any) -> Prepared:
    """Prepare a study, and go no further."""
    given = Asked(**{key: asked.pop(key) for key in list(asked) if key in Asked.__dataclass_fields__})
    options = {"calibration": None, "train": None, "asked": given, "example_inputs": None, "name": None, **asked}
    model = model.eval() if isinstance(model, torch.nn.Module) else model
    return prepare(model, data, {**RECIPE, **(recipe or {})}, **options)


def measured(model: Any, data: Any, recipe: Any = None, **asked: Any) -> tuple[float, Prepared]:
    """What the look understands, measured on the model itself over all data as it is read: no file is made."""
    prepared = looked(model, data, {"max_samples": 100_000, **(recipe or {})}, calibration=data, **asked)
    whole = read(prepared, lambda *_: None)[0]["eval"]
    judge = Judge(prepared.inspection.measure, whole.samples, is_compared=False)
    answer = answering(model, whole)
    for batch in whole.batches:
        targets = unflatten(whole.targets, list(batch.targets)) if whole.has_targets else None
        judge.update(answer(batch), targets)
    return float(judge.measurements()["metric"]), prepared


def refused(model: Any, data: Any, **asked: Any) -> str:
    """What the product says at submission, where it refuses."""
    with pytest.raises(QuantTaaSError) as caught:
        looked(model, data, **asked)
    said = str(caught.value)
    assert len(said) < 500
    assert "\n" not in said
    return said


def fitted(
    model: Any, step: Callable[[Any], torch.Tensor], batches: Sequence[Any], epochs: int = 30, rate: float = 0.01
) -> Any:
    """Train a model on batches; ``step`` returns the loss of one."""
    optimizer = torch.optim.Adam(model.parameters(), rate)
    model.train()
    for _ in range(epochs):
        for batch in batches:
            optimizer.zero_grad()
            step(batch).backward()
            optimizer.step()
    return model.eval()


def cut(*tensors: torch.Tensor, size: int = 16) -> list[tuple[torch.Tensor, ...]]:
    """Batches of tensors whose samples are in dimension 0."""
    return list(zip(*(tensor.split(size) for tensor in tensors), strict=True))


def mean(values: Iterable[Any]) -> float:
    """Mean of all numbers in some tensors."""
    return float(torch.cat([torch.as_tensor(value).double().flatten() for value in values]).mean())
