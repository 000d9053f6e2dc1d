"""Perceptrons, recurrent networks and attention, a few thousand parameters each."""

from __future__ import annotations

import torch
from torch import nn


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(24, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def mlp_batchnorm() -> nn.Module:
    first = [nn.Linear(24, 64), nn.BatchNorm1d(64), nn.ReLU()]
    return nn.Sequential(*first, nn.Linear(64, 32), nn.BatchNorm1d(32), nn.Tanh(), nn.Linear(32, 10))


class ResidualMlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(24, 32), nn.Linear(32, 10)
        self.norms = nn.ModuleList([nn.LayerNorm(32) for _ in range(2)])
        self.wide = nn.ModuleList([nn.Linear(32, 64) for _ in range(2)])
        self.narrow = nn.ModuleList([nn.Linear(64, 32) for _ in range(2)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for norm, wide, narrow in zip(self.norms, self.wide, self.narrow, strict=True):
            x = x + narrow(nn.functional.gelu(wide(norm(x))))
        return self.head(x)


def gated_mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(24, 64), nn.GLU(), nn.Linear(32, 64), nn.GLU(), nn.Linear(32, 10))


class Bilinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(24, 32), nn.Linear(16, 32)
        self.head = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 5))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.left(x)) * torch.relu(self.right(y)))


class Recurrent(nn.Module):
    def __init__(self, kind: str, layers: int = 1, is_bidirectional: bool = False) -> None:
        super().__init__()
        make = {"LSTM": nn.LSTM, "GRU": nn.GRU}[kind]
        self.layer = make(12, 24, layers, batch_first=True, bidirectional=is_bidirectional)
        self.head = nn.Linear(48 if is_bidirectional else 24, 9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(x)[0].mean(1))


class LastStates(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.LSTM(12, 24, batch_first=True, bidirectional=True), nn.Linear(48, 9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, (hidden, _) = self.layer(x)
        return self.head(torch.cat([hidden[-2], hidden[-1]], 1))


class ConvLstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Sequential(nn.Conv1d(12, 24, 3, padding=1), nn.BatchNorm1d(24), nn.ReLU())
        self.layer, self.head = nn.LSTM(24, 24, batch_first=True), nn.Linear(24, 9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(self.front(x.transpose(1, 2)).transpose(1, 2))[0][:, -1])


class TextLstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.layer = nn.Embedding(60, 16), nn.GRU(16, 24, batch_first=True, bidirectional=True)
        self.norm, self.head = nn.LayerNorm(48), nn.Linear(48, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.layer(self.words(x))[0].amax(1)))


class TiedLstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.layer = nn.Embedding(60, 24), nn.LSTM(24, 48, batch_first=True)
        self.narrow, self.out = nn.Linear(48, 24), nn.Linear(24, 60)
        self.out.weight = self.words.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.narrow(self.layer(self.words(x))[0]))


class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(60, 32, mode="mean")
        self.head = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.words(x))


class TextCnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(60, 16)
        self.layers = nn.ModuleList([nn.Conv1d(16, 16, size) for size in (2, 3, 4)])
        self.head = nn.Linear(48, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.words(x).transpose(1, 2)
        return self.head(torch.cat([torch.relu(layer(x)).amax(2) for layer in self.layers], 1))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.attention = nn.Linear(12, 32), nn.MultiheadAttention(32, 4, batch_first=True)
        self.norm = nn.LayerNorm(32)
        self.head = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 9))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = self.norm(x + self.attention(x, x, x, need_weights=False)[0])
        return self.head(x.mean(1))


class encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 128, batch_first=True, activation="gelu", norm_first=True)
        self.stem, self.layers = nn.Linear(12, 32), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.places, self.head = nn.Parameter(torch.randn(1, 20, 32) * 0.1), nn.Linear(32, 9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(self.stem(x) + self.places).mean(1))


class TiedTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(60, 32), nn.Embedding(16, 32)
        self.layer = nn.TransformerEncoderLayer(32, 2, 128, batch_first=True)
        self.out = nn.Linear(32, 60, bias=False)
        self.out.weight = self.words.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        length = x.shape[1]
        unseen = torch.ones(length, length, device=x.device).triu(1).bool()
        hidden = self.words(x) + self.places(torch.arange(length, device=x.device))
        return self.out(self.layer(hidden, src_mask=unseen))


class OwnAttention(nn.Module):
    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.stem, self.head = nn.Linear(12, width), nn.Linear(width, 9)
        self.queries, self.keys, self.values, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        batch, length, _ = x.shape
        y = self.norm(x)
        shape = (batch, length, self.heads, self.width // self.heads)
        queries, keys, values = (
            layer(y).view(shape).transpose(1, 2) for layer in (self.queries, self.keys, self.values)
        )
        scores = queries @ keys.transpose(-2, -1) / 8**0.5
        mixed = (scores.softmax(-1) @ values).transpose(1, 2).reshape(batch, length, self.width)
        return self.head((x + self.out(mixed)).mean(1))


class FusedAttention(nn.Module):
    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, width // heads
        self.stem, self.all, self.out = nn.Linear(12, width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow, self.head = nn.Linear(width, 64), nn.Linear(64, width), nn.Linear(width, 9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        batch, length, _ = x.shape
        packed = self.all(x).reshape(batch, length, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        queries, keys, values = packed.unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(queries, keys, values)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return self.head((x + self.narrow(nn.functional.silu(self.wide(x)))).mean(1))


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(12, 32), nn.Linear(32, 9)
        self.tokens = nn.Sequential(nn.Linear(20, 40), nn.GELU(), nn.Linear(40, 20))
        self.channels = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
        self.norm = nn.LayerNorm(32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.tokens(self.norm(x).transpose(1, 2)).transpose(1, 2)
        return self.head((x + self.channels(x)).mean(1))


class LstmAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(12, 16, batch_first=True, bidirectional=True)
        self.attention = nn.MultiheadAttention(32, 2, batch_first=True)
        self.head = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 9))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden, _ = self.layer(x)
        mixed, _ = self.attention(hidden, hidden, hidden)
        return self.head((hidden + mixed).mean(1))
