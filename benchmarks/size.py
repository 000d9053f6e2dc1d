"""Work of real size: how much memory each kind takes, and how soon its first point stands.

    python -m benchmarks.size [ROW ...] [--store URI] [--out docs/size.md]

Each row is a study in a process of its own, which stands for the notebook's kernel, with a store and an engine of its
own. Memory is what the system cannot take back: pages of no file, and shared ones without a name. Pages of mapped
files, such as libraries and shards of data, are not counted. It is sampled five times a second, and the largest value
counts. Needs the ``test`` extra, and Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

GB = 1e9
_EVERY = 0.2
"""Seconds between two samples of memory."""


class Residual18(nn.Module):
    """A ResNet-18 for ImageNet's size, of ``transformers``."""

    def __init__(self) -> None:
        from transformers import ResNetConfig, ResNetForImageClassification

        super().__init__()
        shape = {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"}
        self.net = ResNetForImageClassification(ResNetConfig(**shape, num_labels=10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.net(x).logits
        return logits


class UNet(nn.Module):
    """A U-Net of four levels; ``outputs`` channels at every pixel."""

    def __init__(self, outputs: int = 21, width: int = 32) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(4)]
        self.down = nn.ModuleList(
            _double(inside, outside) for inside, outside in zip([3, *widths], widths, strict=False)
        )
        self.up = nn.ModuleList(_double(3 * w, w) for w in reversed(widths[:-1]))
        self.head = nn.Conv2d(width, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else nn.functional.max_pool2d(x, 2))
            kept.append(x)
        for block, beside in zip(self.up, reversed(kept[:-1]), strict=True):
            x = block(torch.cat([nn.functional.interpolate(x, scale_factor=2.0), beside], 1))
        scores: torch.Tensor = self.head(x)
        return scores


def _double(inside: int, outside: int) -> nn.Module:
    first, second = nn.Conv2d(inside, outside, 3, padding=1), nn.Conv2d(outside, outside, 3, padding=1)
    return nn.Sequential(first, nn.BatchNorm2d(outside), nn.ReLU(), second, nn.BatchNorm2d(outside), nn.ReLU())


class Drawn(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Pictures that are drawn when they are read, as those in files are decoded."""

    def __init__(self, count: int, shape: tuple[int, ...], target: Callable[[torch.Generator], torch.Tensor]) -> None:
        self.count, self.shape, self.target = count, shape, target

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(index)
        return torch.randn(self.shape, generator=generator), self.target(generator)


def label(generator: torch.Generator) -> torch.Tensor:
    return torch.randint(0, 10, (), generator=generator)


def mask(generator: torch.Generator) -> torch.Tensor:
    return torch.randint(0, 21, (512, 512), generator=generator)


def depth(generator: torch.Generator) -> torch.Tensor:
    return torch.rand(1, 1024, 1024, generator=generator)


def resnet(count: int) -> dict[str, Any]:
    if count <= 2000:
        pictures = torch.randn(count, 3, 224, 224)
        data: Any = TensorDataset(pictures, torch.randint(0, 10, (count,)))
    else:
        data = Drawn(count, (3, 224, 224), label)
    recipe = {"prune": [0], "quantize": ["none", "int8"], "max_samples": count, "max_bytes": 16 << 30}
    return {"model": Residual18(), "data": DataLoader(data, batch_size=64), "recipe": recipe}


def unet() -> dict[str, Any]:
    data = DataLoader(Drawn(150, (3, 512, 512), mask), batch_size=8)
    return {"model": UNet(), "data": data, "recipe": {"prune": [0], "quantize": ["none", "int8"]}, "metric": "miou"}


def heights() -> dict[str, Any]:
    data = DataLoader(Drawn(60, (3, 1024, 1024), depth), batch_size=4)
    return {"model": UNet(1, 16), "data": data, "recipe": {"prune": [0], "quantize": ["none", "fp16"]}, "metric": "mae"}


def gpt2() -> dict[str, Any]:
    from transformers import GPT2Config, GPT2LMHeadModel

    tokens = torch.randint(0, 50257, (200, 512), generator=torch.Generator().manual_seed(0))
    rows: Any = [{"input_ids": row, "labels": row} for row in tokens]
    data = DataLoader(rows, batch_size=8)
    recipe = {"prune": [0], "quantize": ["none", "int8-dynamic", "int4-weight"]}
    return {"model": GPT2LMHeadModel(GPT2Config()).eval(), "data": data, "recipe": recipe, "metric": "perplexity"}


def llama() -> dict[str, Any]:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**shape, num_key_value_heads=4, vocab_size=32000)).eval()
    tokens = torch.randint(0, 32000, (8, 64))
    rows: Any = [{"input_ids": row, "labels": row} for row in tokens]
    data = DataLoader(rows, batch_size=1)
    recipe = {"prune": [0], "quantize": ["none", "int4-weight", "int8-weight"]}
    return {"model": model, "data": data, "recipe": recipe, "metric": "perplexity"}


def layers() -> dict[str, Any]:
    model = nn.Sequential(*(nn.Linear(4096, 4096) for _ in range(15)))
    data = (torch.randn(64, 4096), torch.randn(64, 4096))
    return {"model": model, "data": data, "recipe": {"prune": [0], "quantize": ["none"], "search": "grid"}}


ROWS: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    "resnet-2000": ("ResNet-18, 2,000 pictures of 3 x 224 x 224 in memory (1.2 GB)", lambda: resnet(2000)),
    "resnet-20000": ("ResNet-18, 20,000 pictures of 3 x 224 x 224 (12 GB)", lambda: resnet(20_000)),
    "unet": ("U-Net, 150 pictures of 3 x 512 x 512, 21 classes, mIoU", unet),
    "heights": ("U-Net, 60 height maps of 1 MP", heights),
    "gpt2": ("GPT-2 (124 M), 200 sequences of 512 tokens, perplexity", gpt2),
    "llama": ("decoder of 1.1 B parameters (4.4 GB)", llama),
    "layers": ("15 linear layers of 4096 x 4096 (1.0 GB)", layers),
}


PLAIN = ("layers",)
"""Rows that are compared with an export by torch alone and a session of ONNX Runtime."""


class Memory:
    """Samples the memory of this process and of all processes of the engine; ``peaks`` in bytes."""

    def __init__(self, engine: str) -> None:
        self.before = _memory(psutil.Process())
        self.peaks = {"kernel": 0, "largest": 0, "together": 0}
        self._engine, self._is_over = engine, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._known: dict[int, bool] = {}

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.wait(_EVERY):
            mine, others = _memory(psutil.Process()), [_memory(process) for process in self._others()]
            found = {"kernel": mine, "largest": max(others, default=0), "together": mine + sum(others)}
            self.peaks = {name: max(self.peaks[name], value) for name, value in found.items()}

    def _others(self) -> Iterator[psutil.Process]:
        mine = {child.pid for child in psutil.Process().children(recursive=True)}
        for process in psutil.process_iter():
            if process.pid != os.getpid() and (process.pid in mine or self._is_engine(process)):
                yield process

    def _is_engine(self, process: psutil.Process) -> bool:
        if process.pid not in self._known:
            try:
                self._known[process.pid] = process.environ().get("QUANTTAAS_RUNTIME_DIR") == self._engine
            except psutil.Error:
                return False
        return self._known[process.pid]


def _memory(process: psutil.Process) -> int:
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    except OSError:
        return 0
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "RssShmem:"))]
    return sum(kilobytes) * 1024


def study(name: str) -> None:
    """Run one row in this process, and print what it took as JSON."""
    import quanttaas_jupyter as qt

    made = ROWS[name][1]()
    begun = time.perf_counter()
    first: dict[str, float] = {}
    with Memory(os.environ["QUANTTAAS_RUNTIME_DIR"]) as memory:
        study_ = qt.compress(made.pop("model"), **made)
        returned = time.perf_counter() - begun
        while not study_.state.has_ended:
            state = study_.state
            if state.preview:
                first.setdefault("preview", time.perf_counter() - begun)
            if any(trial.metrics for trial in state.trials.values()):
                first.setdefault("file", time.perf_counter() - begun)
            time.sleep(0.2)
    state = study_.state
    print(
        json.dumps(
            {
                **memory.peaks,
                "kernel": memory.peaks["kernel"] - memory.before,
                "returned": returned,
                "first": first.get("preview"),
                "file": first.get("file"),
                "seconds": time.perf_counter() - begun,
                "status": state.status,
                "trials": {t.name: t.metrics.get("metric") or str(t.error) for t in state.trials.values()},
                "error": state.error,
            }
        )
    )


def plainly(name: str) -> None:
    """Export a row's model by torch alone and open the file in ONNX Runtime, and print the seconds."""
    import onnxruntime

    made = ROWS[name][1]()
    inputs = made["data"][0][:2]
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=os.environ.get("QUANTTAAS_BENCH_DIR")) as folder:
        path = str(Path(folder) / "model.onnx")
        torch.onnx.export(
            made["model"].eval(), (inputs,), path, dynamic_axes={"x": {0: "n"}}, input_names=["x"], dynamo=False
        )
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        session.run(None, {"x": inputs.numpy()})
    print(json.dumps({"seconds": time.perf_counter() - begun}))


def measured(name: str, store: str | None) -> dict[str, Any]:
    """Run one row in a fresh process with an engine of its own."""
    with tempfile.TemporaryDirectory(prefix="quanttaas-size-", dir=os.environ.get("QUANTTAAS_BENCH_DIR")) as folder:
        home = Path(folder)
        places = {"STORE": store or str(home / "store"), "RUNTIME_DIR": str(home / "run"), "CONFIG": str(home / "none")}
        environment = os.environ | {f"QUANTTAAS_{key}": value for key, value in places.items()}
        done = _run("--study", name, environment)
        for path in (home / "run").glob("*/engine.json"):
            psutil.Process(json.loads(path.read_text())["pid"]).terminate()
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1:]}
    found = dict(json.loads(done.stdout.splitlines()[-1]))
    if name in PLAIN:
        found["plain"] = json.loads(_run("--plain", name, dict(os.environ)).stdout.splitlines()[-1])["seconds"]
    return found


def _run(option: str, name: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.size", option, name]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def main() -> None:
    """Print one line a row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", choices=[*ROWS, []])
    parser.add_argument("--store")
    parser.add_argument("--study", help=argparse.SUPPRESS)
    parser.add_argument("--plain", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.study or arguments.plain:
        study(arguments.study) if arguments.study else plainly(arguments.plain)
        return
    print("| work | kernel grew by | largest other | all together | cell returned | first point | first file | study |")
    print("|---|---|---|---|---|---|---|---|")
    for name in arguments.rows or ROWS:
        found = measured(name, arguments.store)
        if found.get("status") != "finished":
            print(f"| {ROWS[name][0]} | {json.dumps(found)} |")
            continue
        memory = [f"{found[key] / GB:.2f} GB" for key in ("kernel", "largest", "together")]
        seconds = [f"{found[key]:.0f} s" if found[key] else "" for key in ("returned", "first", "file", "seconds")]
        print(f"| {ROWS[name][0]} | {' | '.join([*memory, *seconds])} |", flush=True)
        print(json.dumps(found["trials"]), file=sys.stderr)
        if "plain" in found:
            ratio = found["seconds"] / found["plain"]
            print(
                f"Export by torch alone and a session: {found['plain']:.0f} s; the study took {ratio:.1f} times that."
            )


if __name__ == "__main__":
    main()
