"""Which runtime for which device: three networks in all runtimes, measured on this machine.

    python benchmarks/runtimes.py [--out benchmarks/runtimes.md]

Trains the quickstart's network, a wider one and a vision transformer on the handwritten digits of scikit-learn, and
submits each in one study with several runtimes. Prints Markdown. Needs the ``test`` extra.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path

import networks
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import quanttaas_jupyter as qt
from quanttaas_jupyter.core.catalogue import names
from quanttaas_jupyter.core.device import this_device
from quanttaas_jupyter.techniques.quantize import QUANTIZERS
from quanttaas_jupyter.techniques.registry import version_of

RUNTIMES = ("onnxruntime", "openvino", "executorch", "tensorrt")
_HEAD = (
    "| runtime | quantization | bytes | of fp32 | accuracy | points lost (95 %) | latency, ms | layers |",
    "|---|---|---|---|---|---|---|---|",
)
_CHOICE = (
    (
        "Intel processors",
        "`onnxruntime`, `openvino`",
        "near each other in float; which is faster in int8 depends on the model: compare them in one study",
    ),
    (
        "other processors, or one file for many places",
        "`onnxruntime`",
        "runs everywhere, has all quantizations, and the smallest files with `int4-weight` and `int4-awq`",
    ),
    (
        "Android and iOS, boards with ARM",
        "`executorch`",
        "one file for a small C++ runtime; XNNPACK's kernels are made for ARM and were not measured there",
    ),
    (
        "NVIDIA GPUs, known when the file is made",
        "`tensorrt`",
        "engines hold kernels chosen for that GPU, and run on no other",
    ),
    (
        "NVIDIA GPUs of several kinds",
        "`onnxruntime-tensorrt`, `onnxruntime-cuda`",
        "one ONNX file; the former builds its engine at load, where it runs",
    ),
    ("a server that has PyTorch anyway", "`torch`", "loads as a callable, without the model's source"),
)


class Digits(nn.Module):
    """The quickstart's residual network at any width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        widths = [(width, width, 1), (width, 2 * width, 2), (2 * width, 4 * width, 2)]
        self.blocks = nn.Sequential(*(networks.Block(*item) for item in widths))
        self.head = nn.Linear(4 * width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class Transformer(nn.Module):
    """A vision transformer on sixteen 2 x 2 patches."""

    def __init__(self, width: int = 192, depth: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, 2)
        self.position = nn.Parameter(torch.randn(1, 16, width) * 0.02)
        self.layers = nn.Sequential(*(networks.Layer(width, 4) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.layers(tokens)).mean(1))


NETWORKS = {
    "the quickstart's residual CNN": lambda: Digits(32),
    "a residual CNN twice as wide": lambda: Digits(64),
    "a vision transformer": Transformer,
}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    train, test = data()
    lines = [*preface()]
    with tempfile.TemporaryDirectory() as store:
        for name, network in NETWORKS.items():
            torch.manual_seed(0)
            model = taught(network(), train)
            parameters = sum(parameter.numel() for parameter in model.parameters())
            lines += ["", f"### {name[0].upper()}{name[1:]}: {parameters:,} parameters", "", *_HEAD]
            for line in rows(model, train, test, store):
                print(line, flush=True)
                lines.append(line)
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text)


def preface() -> list[str]:
    """What was measured where, and what it tells."""
    packages = ("torch", "onnxruntime", "openvino", "nncf", "executorch", "tensorrt-rtx", "nvidia-modelopt")
    found = ", ".join(f"{name} {version_of(name)}" for name in packages if version_of(name))
    device = this_device()
    return [
        "# Which runtime for which device",
        "",
        "| device | runtime | why |",
        "|---|---|---|",
        *(f"| {where} | {runtime} | {why} |" for where, runtime, why in _CHOICE),
        "",
        "## Measured",
        "",
        f"By `python benchmarks/runtimes.py` on {device.cpu} ({device.cores} cores, {platform.system()}), with",
        f"{found}.",
        "",
        "Latency is the median of single samples on all cores, in turns with the runtime's own baseline; accuracy is",
        "on 599 unseen digits. Engines of TensorRT-RTX are built for SM89 and not run: their accuracy is that of the",
        "same graph in ONNX Runtime, and they hold code beside weights.",
        "",
        "LiteRT is not among them: `litert-torch` 0.10 replaces pydantic and typing_extensions by older releases, and",
        "brings JAX.",
    ]


def data() -> tuple[DataLoader, DataLoader]:
    """Training and unseen digits, 8 x 8 pixels."""
    images, labels = load_digits(return_X_y=True)
    inputs, targets = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16, torch.tensor(labels)
    seen, unseen = train_test_split(range(len(labels)), test_size=1 / 3, random_state=0, stratify=labels)
    return tuple(DataLoader(TensorDataset(inputs[part], targets[part]), 64, shuffle=True) for part in (seen, unseen))


def taught(model: nn.Module, train: DataLoader, epochs: int = 20) -> nn.Module:
    """Train by AdamW with one cycle of the learning rate."""
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=epochs * len(train))
    for _ in range(epochs):
        for x, y in train:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def rows(model: nn.Module, train: DataLoader, test: DataLoader, store: str) -> Iterator[str]:
    """One study that compares the runtimes, one for each with its other quantizations; a row a trial."""
    recipes = [{"prune": [0], "quantize": ["none", "int8"], "runtime": list(RUNTIMES)}]
    for place in (*RUNTIMES, "torch"):
        more = [name for name in names("quantize") if name != "int8" and QUANTIZERS.find((name, place))]
        recipes.append({"prune": [0], "quantize": ["none", *more], "runtime": place})
    told = set()
    for recipe in recipes:
        study = qt.compress(model, data=test, train=train, recipe=recipe, store=store).wait()
        for trial in study:
            place, kind = trial.config["runtime"], trial.config["quantize"]
            if (place, kind) not in told:
                told.add((place, kind))
                yield row(place, kind, trial)


def row(place: str, kind: str, trial: qt.Trial) -> str:
    """A trial in the table."""
    if trial.error:
        return f"| `{place}` | `{kind}` | | | | | | {trial.error} |"
    found = trial.metrics
    drop, low, high = (100 * found[key] for key in ("drop", "drop_low", "drop_high"))
    latency = f"{found['latency_ms']:.3f}" if found["latency_ms"] is not None else "not run"
    lost = "" if kind == "none" else f"{drop:.1f} ({low:.1f} to {high:.1f})"
    layers = f"{found['quantized_layers']} of {found['quantizable_layers']}" if kind != "none" else ""
    return (
        f"| `{place}` | `{kind}` | {found['size_bytes']:,} | {found['size_ratio']:.3f} | {100 * found['metric']:.1f} % "
        f"| {lost} | {latency} | {layers} |"
    )


if __name__ == "__main__":
    main()
