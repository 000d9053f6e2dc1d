"""A notebook's kernel that submits work whose data or outputs are larger than what any process may hold.

Run as ``python -m tests.end_to_end.sized NAME``; prints the peaks of memory as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

import quanttaas_jupyter as qt
from benchmarks.size import Drawn, Memory, UNet, label, mask


class Pictures(nn.Module):
    """A quick classifier of large pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 7, stride=8), nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))


class Words(nn.Module):
    """A language model that is all vocabulary: 103 MB of scores for 512 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(50_257, 16), nn.Linear(16, 50_257)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.words(x))


def pictures() -> dict[str, Any]:
    """800 pictures: 480 MB."""
    data = DataLoader(Drawn(800, (3, 224, 224), label), batch_size=64)
    return {"model": Pictures(), "data": data, "recipe": {"quantize": ["none", "int8"]}}


def masks() -> dict[str, Any]:
    """25 pictures whose scores of 21 classes take 550 MB."""
    data = DataLoader(Drawn(25, (3, 512, 512), mask), batch_size=8)
    return {"model": UNet(21, 2), "data": data, "recipe": {"quantize": ["none", "fp16"]}, "metric": "miou"}


def words() -> dict[str, Any]:
    """10 texts whose scores take 1 GB."""
    texts = torch.randint(0, 50_257, (10, 513), generator=torch.Generator().manual_seed(0))
    batches = [(text[None, :-1], text[None, 1:]) for text in texts]
    return {"model": Words(), "data": batches, "recipe": {"quantize": ["none", "int8-weight"]}, "metric": "perplexity"}


WORK = {"pictures": pictures, "masks": masks, "words": words}


def main(name: str) -> None:
    made = WORK[name]()
    made["recipe"] |= {"prune": [0], "latency": {"threads": 1}}
    # What a kernel imports at the first study is not the study's.
    import onnxruntime  # noqa: F401
    import torchmetrics  # noqa: F401

    with Memory(os.environ["QUANTTAAS_RUNTIME_DIR"]) as memory:
        study = qt.compress(made.pop("model"), **made)
        while not study.state.has_ended:
            time.sleep(0.1)
    kernel = memory.peaks["kernel"] - memory.before
    trials = {trial.name: [trial.status, trial.metrics.get("samples")] for trial in study}
    print(json.dumps({**memory.peaks, "kernel": kernel, "trials": trials, "error": study.state.error}))


if __name__ == "__main__":
    main(sys.argv[1])
