"""One study in several runtimes: each has its baseline, what cannot run is marked, one chart tells them apart."""

from pathlib import Path

import pytest
import torch
from torch import nn

from quanttaas_jupyter.core.state import StudyState
from quanttaas_jupyter.views import legend, scene
from tests.engine.inline import drive
from tests.measured import number
from tests.networks import Digits
from tests.techniques.runtimes.contract import Transformer

RUNTIMES = ["onnxruntime", "openvino", "executorch", "tensorrt"]


def compared(folder: Path, model: nn.Module, digits: Digits) -> StudyState:
    recipe = {"prune": [0], "quantize": ["none", "int8"], "runtime": RUNTIMES, "latency": {"threads": 1}}
    return drive(folder / "together", model, digits.test, recipe, train=digits.train)[0]


def taught(digits: Digits) -> nn.Module:
    """A small vision transformer that knows the digits."""
    torch.manual_seed(0)
    model = Transformer(48, depth=1)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(12):
        for x, y in digits.train:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("network", ["cnn", "transformer"])
def test_every_runtime_builds_and_those_that_can_run_here_are_measured(
    tmp_path: Path, digits: Digits, network: str
) -> None:
    state = compared(tmp_path, digits.model if network == "cnn" else taught(digits), digits)
    assert set(state.trials) == {f"{name}@{runtime}" for name in ("baseline", "int8") for runtime in RUNTIMES}
    for name, trial in state.trials.items():
        assert trial.status == "finished", (name, trial.error)
        runs_here = not name.endswith("tensorrt") or torch.cuda.is_available()
        assert (trial.metrics["latency_ms"] is not None) == runs_here, name
        assert any("built, not run: there is no NVIDIA GPU" in line for line in trial.warnings) != runs_here, name
        assert number(trial, "drop") <= 0.01, name
        assert number(trial, "export_error") < 1e-3, name
        # The code in an engine outweighs the weights of networks as small as these.
        grew = "int8 made the file larger" in trial.warnings
        assert trial.is_baseline or grew or number(trial, "size_ratio") < 1, name
        assert not grew or name.endswith("tensorrt")
        values = [trial.metrics[key] for key in ("metric", "drop", "size_bytes", "size_ratio", "latency_ms", "seconds")]
        print(name, *values, trial.metrics["quantized_layers"], trial.warnings)
    view = scene.compose(state)
    shapes = {name: {p.marker for p in view.points if p.name.endswith(f"@{name}")} for name in RUNTIMES}
    assert all(len(found) == 1 for found in shapes.values())
    assert len(set.union(*shapes.values())) == len(RUNTIMES)
    assert [key.words for key in legend.shapes(state)] == RUNTIMES
