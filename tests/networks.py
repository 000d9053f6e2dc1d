"""Small real networks, and one trained on real images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Block(nn.Module):
    """Two convolutions with BatchNorm, and a way around them."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.skip = (
            nn.Identity()
            if inside == outside and stride == 1
            else nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(inner)) + self.skip(x))


class ResidualNet(nn.Module):
    """A residual network for 8 x 8 images."""

    def __init__(self, width: int = 16, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.blocks = nn.Sequential(Block(width, width, 1), Block(width, 2 * width, 2), Block(2 * width, 4 * width, 2))
        self.head = nn.Linear(4 * width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class Mlp(nn.Module):
    """A small regressor."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x).squeeze(-1)


class Encoder(nn.Module):
    """Attention by torch's own layers, whose fast path calls none of them."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.inner(x.reshape(len(x), -1, 16)).mean(1))


class TwoHeads(nn.Module):
    """Keyword inputs, a dict of outputs."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.image = nn.Conv2d(1, width, 3, padding=1)
        self.table = nn.Linear(4, width)
        self.logits = nn.Linear(width, 3)
        self.score = nn.Linear(width, 1)

    def forward(self, image: torch.Tensor, table: torch.Tensor) -> dict[str, torch.Tensor]:
        mixed = torch.relu(self.image(image).mean((2, 3)) + self.table(table))
        return {"logits": self.logits(mixed), "score": self.score(mixed)}


@dataclass(frozen=True)
class Digits:
    """A trained network and its data."""

    model: Any
    train: DataLoader
    test: DataLoader


def train_digits(epochs: int = 12) -> Digits:
    """Train on the handwritten digits of scikit-learn; about three seconds."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    inputs = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    targets = torch.tensor(labels)
    seen, unseen = train_test_split(range(len(labels)), test_size=1 / 3, random_state=0, stratify=labels)
    train = DataLoader(TensorDataset(inputs[seen], targets[seen]), batch_size=64, shuffle=True)
    test = DataLoader(TensorDataset(inputs[unseen], targets[unseen]), batch_size=128)
    torch.manual_seed(0)
    model = ResidualNet()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=epochs * len(train))
    model.train()
    for _ in range(epochs):
        for x, y in train:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            schedule.step()
    return Digits(model.eval(), train, test)


def regression_data(samples: int = 200) -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(samples, 6, generator=generator)
    return TensorDataset(x, x.sum(1) + 0.1 * torch.randn(samples, generator=generator))
