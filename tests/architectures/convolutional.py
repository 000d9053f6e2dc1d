"""Convolutional networks, a few thousand parameters each."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def unit(inside: int, outside: int, size: int = 3, stride: int = 1, **more: Any) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU."""
    padding = more.pop("padding", size // 2)
    convolution = nn.Conv2d(inside, outside, size, stride, padding, bias=False, **more)
    return nn.Sequential(convolution, nn.BatchNorm2d(outside), nn.ReLU())


def pooled(width: int, classes: int = 10) -> list[nn.Module]:
    """Global pooling and a classifier."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)]


def plain() -> nn.Module:
    return nn.Sequential(unit(3, 16), nn.MaxPool2d(2), unit(16, 32), unit(32, 32), *pooled(32))


def flattened() -> nn.Module:
    layers = [unit(3, 8), nn.MaxPool2d(4), unit(8, 16), nn.Flatten(), nn.Linear(256, 32), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(32, 10))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.outer = unit(3, 16), unit(16, 16), nn.Conv2d(16, 16, 3, padding=1)
        self.down, self.skip = unit(16, 32, stride=2), nn.Conv2d(16, 32, 1, 2)
        self.head = nn.Sequential(*pooled(32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.outer(self.inner(x)))
        return self.head(self.down(x) + self.skip(x))


class Bottleneck(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.path = nn.Sequential(unit(width, inner, 1), unit(inner, inner), nn.Conv2d(inner, width, 1, bias=False))
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(self.path(x)) + x)


def Bottlenecks() -> nn.Module:
    return nn.Sequential(unit(3, 32), Bottleneck(32, 16), nn.MaxPool2d(2), Bottleneck(32, 16), *pooled(32))


class PreActivation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(16) for _ in range(3)])
        self.layers = nn.ModuleList([nn.Conv2d(16, 16, 3, padding=1) for _ in range(3)])
        self.head = nn.Sequential(*pooled(16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = x + layer(torch.relu(norm(x)))
        return self.head(x)


def grouped() -> nn.Module:
    return nn.Sequential(unit(3, 16), unit(16, 32, groups=4), unit(32, 32, 1), unit(32, 32, groups=8), *pooled(32))


def depthwise() -> nn.Module:
    deep = [unit(16, 16, groups=16), unit(16, 32, 1), unit(32, 64, groups=32), unit(64, 32, 1)]
    return nn.Sequential(unit(3, 16), *deep, *pooled(32))


def dilated() -> nn.Module:
    return nn.Sequential(
        unit(3, 16), unit(16, 24, dilation=2, padding=2), unit(24, 32, dilation=4, padding=4), *pooled(32)
    )


def autoencoder() -> nn.Module:
    up = [
        nn.ConvTranspose2d(32, 16, 2, 2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 16, 4, 2, 1, groups=16),
    ]
    return nn.Sequential(unit(3, 16, stride=2), unit(16, 32, stride=2), *up, nn.ReLU(), nn.Conv2d(16, 3, 1))


def one_dimensional() -> nn.Module:
    first = [nn.Conv1d(4, 16, 5, padding=2), nn.BatchNorm1d(16), nn.ReLU(), nn.MaxPool1d(2)]
    second = [nn.Conv1d(16, 32, 3), nn.BatchNorm1d(32), nn.ReLU(), nn.AdaptiveAvgPool1d(1)]
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(32, 10))


def three_dimensional() -> nn.Module:
    first = [nn.Conv3d(1, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(), nn.MaxPool3d(2)]
    second = [nn.Conv3d(8, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d(1)]
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(16, 10))


def normed(norm: type[nn.Module], *arguments: int) -> nn.Module:
    layers: list[nn.Module] = []
    for inside, outside in ((3, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(inside, outside, 3, padding=1), norm(*arguments, outside), nn.ReLU()]
    return nn.Sequential(*layers, *pooled(32))


def group_norm() -> nn.Module:
    return normed(nn.GroupNorm, 4)


def instance_norm() -> nn.Module:
    layers: list[nn.Module] = []
    for inside, outside in ((3, 16), (16, 32)):
        layers += [nn.Conv2d(inside, outside, 3, padding=1), nn.InstanceNorm2d(outside, affine=True), nn.ReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(4), nn.Flatten(), nn.Linear(512, 10))


class LayerNormed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 4, 4), nn.LayerNorm(16)
        self.mix, self.wide, self.narrow = (
            nn.Conv2d(16, 16, 3, padding=1, groups=16),
            nn.Linear(16, 64),
            nn.Linear(64, 16),
        )
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.norm(self.mix(x).permute(0, 2, 3, 1))
        y = self.narrow(nn.functional.gelu(self.wide(y)))
        return self.head((x + y.permute(0, 3, 1, 2)).mean((2, 3)))


def activated(name: str) -> nn.Module:
    make = {"prelu": nn.PReLU, "gelu": nn.GELU, "silu": nn.SiLU, "hardswish": nn.Hardswish}[name]
    layers: list[nn.Module] = []
    for inside, outside in ((3, 16), (16, 32), (32, 32)):
        convolution = nn.Conv2d(inside, outside, 3, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(outside), nn.PReLU(outside) if name == "prelu" else make()]
    return nn.Sequential(*layers, *pooled(32))


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(unit(3, 16), unit(16, 32))
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(32, 8, 1), nn.ReLU(), nn.Conv2d(8, 32, 1), nn.Sigmoid()
        )
        self.tail = nn.Sequential(unit(32, 32), *pooled(32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x)
        return self.tail(x * self.gate(x))


class Shuffle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.groups = 4
        self.first, self.second = unit(3, 64), unit(64, 64, 1, groups=4)
        self.third = nn.Sequential(unit(64, 64, groups=64), unit(64, 64, 1, groups=4))
        self.head = nn.Sequential(*pooled(64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(self.first(x))
        batch, channels, height, width = x.shape
        x = x.view(batch, self.groups, channels // self.groups, height, width).transpose(1, 2)
        return self.head(self.third(x.reshape(batch, channels, height, width)))


class Split(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch, self.tail = unit(3, 32), unit(16, 16), unit(32, 32)
        self.head = nn.Sequential(*pooled(32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept, changed = self.stem(x).chunk(2, dim=1)
        return self.head(self.tail(torch.cat([kept, self.branch(changed)], 1)))


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = unit(3, 16)
        self.paths = nn.ModuleList([unit(16, 8, 1), unit(16, 16, 3), unit(16, 8, 5)])
        self.pool = nn.Sequential(nn.AvgPool2d(3, 1, 1), unit(16, 8, 1))
        self.tail = nn.Sequential(unit(40, 32), *pooled(32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.tail(torch.cat([*(path(x) for path in self.paths), self.pool(x)], 1))


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([unit(3 + 12 * i, 12) for i in range(4)])
        self.tail = nn.Sequential(unit(51, 24, 1), *pooled(24))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.tail(x)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.middle = unit(3, 8), unit(8, 16, stride=2), unit(16, 32, stride=2)
        self.up1, self.up2 = nn.ConvTranspose2d(32, 16, 2, 2), nn.Conv2d(16, 8, 1)
        self.merge1, self.merge2, self.out = unit(32, 16), unit(16, 8), nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.down1(x)
        second = self.down2(first)
        y = self.merge1(torch.cat([second, self.up1(self.middle(second))], 1))
        y = nn.functional.interpolate(self.up2(y), scale_factor=2.0, mode="nearest")
        return self.out(self.merge2(torch.cat([first, y], 1)))


def super_resolution() -> nn.Module:
    return nn.Sequential(
        unit(3, 16), unit(16, 32), nn.PixelShuffle(2), unit(8, 16), nn.Conv2d(16, 12, 1), nn.PixelShuffle(2)
    )


class Pyramid(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bottom, self.top = unit(3, 16), unit(16, 32, stride=2)
        self.lateral1, self.lateral2 = nn.Conv2d(16, 16, 1), nn.Conv2d(32, 16, 1)
        self.smooth, self.out = unit(16, 16), nn.Conv2d(16, 4, 1)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        bottom = self.bottom(x)
        top = self.lateral2(self.top(bottom))
        mixed = self.lateral1(bottom) + nn.functional.interpolate(top, size=bottom.shape[2:], mode="nearest")
        return [self.out(self.smooth(mixed)), self.out(top)]


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = unit(3, 16)
        self.branches = nn.ModuleList([nn.Conv2d(16, 24, size, padding=size // 2) for size in (1, 3)])
        self.norm, self.tail = nn.BatchNorm2d(24), nn.Sequential(unit(24, 32), *pooled(32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.tail(torch.relu(self.norm(sum(branch(x) for branch in self.branches))))


class SpatialAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.gate = nn.Sequential(unit(3, 16), unit(16, 32)), nn.Conv2d(2, 1, 7, padding=3)
        self.tail = nn.Sequential(unit(32, 32), *pooled(32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x)
        seen = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return self.tail(x * torch.sigmoid(self.gate(seen)))


class Reused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.layer = unit(3, 16), nn.Conv2d(16, 16, 3, padding=1)
        self.tail, self.activation = nn.Sequential(unit(16, 32), *pooled(32)), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for _ in range(2):
            x = self.activation(self.layer(x))
        return self.tail(x)


class WeightNormed(nn.Module):
    """A convolution whose weight is a direction and a length; PyTorch's own parametrizations cannot be pickled."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.direction = nn.Parameter(torch.randn(outside, inside, 3, 3))
        self.length, self.bias = nn.Parameter(torch.rand(outside, 1, 1, 1) + 0.5), nn.Parameter(torch.zeros(outside))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        direction = self.direction / self.direction.square().sum((1, 2, 3), keepdim=True).sqrt()
        return nn.functional.conv2d(x, self.length * direction, self.bias, padding=1)


def weight_normed() -> nn.Module:
    layers: list[nn.Module] = []
    for inside, outside in ((3, 16), (16, 32), (32, 32)):
        layers += [WeightNormed(inside, outside), nn.ReLU()]
    return nn.Sequential(*layers, *pooled(32))


class Scaled(nn.Module):
    mean: torch.Tensor
    filters: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.randn(1, 3, 1, 1))
        self.register_buffer("filters", torch.randn(32, 1, 3, 3) / 3)
        self.body, self.tail = unit(3, 32), nn.Sequential(unit(32, 32), *pooled(32))
        self.scale, self.shift = nn.Parameter(torch.rand(1, 32, 1, 1) + 0.5), nn.Parameter(torch.randn(32, 1, 1) * 0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x - self.mean) * self.scale + self.shift
        return self.tail(nn.functional.conv2d(x, self.filters, padding=1, groups=x.shape[1]))


class SeveralOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(unit(3, 16), unit(16, 32))
        self.scores, self.boxes = nn.Conv2d(32, 5, 1), nn.Conv2d(32, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.body(x)
        return {"scores": self.scores(x), "boxes": torch.sigmoid(self.boxes(x))}


class DictInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(unit(3, 16), unit(16, 32))
        self.table, self.head = nn.Linear(10, 32), nn.Linear(64, 10)

    def forward(self, image: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        return self.head(torch.cat([self.image(image).mean((2, 3)), torch.relu(self.table(table))], 1))


class WaveNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv1d(4, 16, 1), nn.Conv1d(16, 4, 1)
        self.gates = nn.ModuleList([nn.Conv1d(16, 32, 3, padding=d, dilation=d) for d in (1, 2, 4)])
        self.skips = nn.ModuleList([nn.Conv1d(16, 16, 1) for _ in range(3)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        total = torch.zeros_like(x)
        for gate, skip in zip(self.gates, self.skips, strict=True):
            value, control = gate(x).chunk(2, 1)
            y = skip(torch.tanh(value) * torch.sigmoid(control))
            x, total = x + y, total + y
        return self.head(torch.relu(total))
