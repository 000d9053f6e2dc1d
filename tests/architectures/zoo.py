"""Small architectures with random weights, one for every construct that compression stumbles over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from quanttaas_jupyter.bundle.batches import Batch, Batches, call
from quanttaas_jupyter.bundle.structure import flatten
from quanttaas_jupyter.techniques.prune.surgery import runs_leave_nothing
from tests.architectures import convolutional, hubs, sequential

SAMPLES = 32


@dataclass(frozen=True)
class Architecture:
    """A model to be, and the inputs that it takes.

    Attributes:
        name: What the table calls it.
        build: Makes the module.
        inputs: Makes its inputs for a number of samples: a tensor, a tuple of them, or a dict by keyword.
    """

    name: str
    build: Callable[[], torch.nn.Module]
    inputs: Callable[[int], Any]

    def model(self) -> torch.nn.Module:
        """The module in eval mode, always the same, its BatchNorm statistics those of its data."""
        torch.manual_seed(0)
        model = self.build().train()
        for module in model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.affine:
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
                torch.nn.init.normal_(module.bias, 0, 0.1)
                module.momentum = 0.5
        if any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in model.modules()):
            with torch.no_grad(), runs_leave_nothing(model):
                for _ in range(8):
                    batch = self.data(16)
                    call(model, batch.inputs, batch.batches[0].inputs)
        return model.eval()

    def data(self, samples: int = SAMPLES, seed: int | None = None) -> Batches:
        """Inputs without targets, in one batch."""
        if seed is not None:
            torch.manual_seed(seed)
        leaves, structure = flatten(self.inputs(samples))
        names = tuple(name or "input" for name, _ in leaves)
        return Batches((Batch([leaf for _, leaf in leaves], []),), names, structure, None)


def _images(channels: int = 3, size: int = 16) -> Callable[[int], torch.Tensor]:
    return lambda n: torch.randn(n, channels, size, size)


def _tokens(length: int = 12, words: int = 60) -> Callable[[int], torch.Tensor]:
    return lambda n: torch.randint(1, words, (n, length))


def _rows(width: int = 24) -> Callable[[int], torch.Tensor]:
    return lambda n: torch.randn(n, width)


def _series(width: int = 12, length: int = 20) -> Callable[[int], torch.Tensor]:
    return lambda n: torch.randn(n, length, width)


def _image_and_table(n: int) -> dict[str, torch.Tensor]:
    return {"image": torch.randn(n, 3, 16, 16), "table": torch.randn(n, 10)}


def _masked_tokens(n: int) -> dict[str, torch.Tensor]:
    mask = torch.ones(n, 12, dtype=torch.long)
    mask[::2, 9:] = 0
    return {"input_ids": torch.randint(1, 60, (n, 12)), "attention_mask": mask}


def _audio_and_tokens(n: int) -> dict[str, torch.Tensor]:
    return {"input_features": torch.randn(n, 16, 40), "decoder_input_ids": torch.randint(1, 60, (n, 6))}


c, s, h = convolutional, sequential, hubs

ZOO: tuple[Architecture, ...] = (
    Architecture("MLP", s.mlp, _rows()),
    Architecture("MLP with BatchNorm", s.mlp_batchnorm, _rows()),
    Architecture("MLP with LayerNorm, residual", s.ResidualMlp, _rows()),
    Architecture("gated MLP (GLU)", s.gated_mlp, _rows()),
    Architecture("bilinear, two inputs", s.Bilinear, lambda n: (torch.randn(n, 24), torch.randn(n, 16))),
    Architecture("plain CNN", c.plain, _images()),
    Architecture("CNN flattened into Linear", c.flattened, _images()),
    Architecture("residual CNN", c.Residual, _images()),
    Architecture("bottleneck CNN", c.Bottlenecks, _images()),
    Architecture("pre-activation CNN", c.PreActivation, _images()),
    Architecture("grouped convolution", c.grouped, _images()),
    Architecture("depthwise separable", c.depthwise, _images()),
    Architecture("dilated convolution", c.dilated, _images()),
    Architecture("transposed convolution", c.autoencoder, _images()),
    Architecture("1-D CNN", c.one_dimensional, lambda n: torch.randn(n, 4, 64)),
    Architecture("3-D CNN", c.three_dimensional, lambda n: torch.randn(n, 1, 8, 8, 8)),
    Architecture("GroupNorm CNN", c.group_norm, _images()),
    Architecture("InstanceNorm CNN", c.instance_norm, _images()),
    Architecture("LayerNorm CNN", c.LayerNormed, _images()),
    Architecture("PReLU CNN", lambda: c.activated("prelu"), _images()),
    Architecture("GELU CNN", lambda: c.activated("gelu"), _images()),
    Architecture("SiLU CNN", lambda: c.activated("silu"), _images()),
    Architecture("hard-swish CNN", lambda: c.activated("hardswish"), _images()),
    Architecture("squeeze and excite", c.SqueezeExcite, _images()),
    Architecture("channel shuffle", c.Shuffle, _images()),
    Architecture("channel split", c.Split, _images()),
    Architecture("inception", c.Inception, _images()),
    Architecture("dense concatenation", c.Dense, _images()),
    Architecture("U-Net", c.UNet, _images()),
    Architecture("pixel shuffle", c.super_resolution, _images()),
    Architecture("feature pyramid", c.Pyramid, _images()),
    Architecture("parallel branches, summed", c.Branches, _images()),
    Architecture("spatial attention (CBAM)", c.SpatialAttention, _images()),
    Architecture("reused module", c.Reused, _images()),
    Architecture("weight-normed convolution", c.weight_normed, _images()),
    Architecture("buffers and free parameters", c.Scaled, _images()),
    Architecture("several outputs", c.SeveralOutputs, _images()),
    Architecture("dict inputs", c.DictInputs, _image_and_table),
    Architecture("WaveNet-style", c.WaveNet, lambda n: torch.randn(n, 4, 64)),
    Architecture("LSTM", lambda: s.Recurrent("LSTM"), _series()),
    Architecture("BiLSTM, two layers", lambda: s.Recurrent("LSTM", layers=2, is_bidirectional=True), _series()),
    Architecture("BiLSTM on its last states", s.LastStates, _series()),
    Architecture("GRU", lambda: s.Recurrent("GRU"), _series()),
    Architecture("BiGRU", lambda: s.Recurrent("GRU", is_bidirectional=True), _series()),
    Architecture("convolution, then LSTM", s.ConvLstm, _series()),
    Architecture("embedding, then LSTM", s.TextLstm, _tokens()),
    Architecture("LSTM language model, tied", s.TiedLstm, _tokens()),
    Architecture("EmbeddingBag", s.Bag, _tokens()),
    Architecture("text CNN", s.TextCnn, _tokens()),
    Architecture("MultiheadAttention", s.Attention, _series()),
    Architecture("TransformerEncoder", s.encoder, _series()),
    Architecture("Transformer language model, tied", s.TiedTransformer, _tokens()),
    Architecture("attention with its own heads", s.OwnAttention, _series()),
    Architecture("attention, packed and fused", s.FusedAttention, _series()),
    Architecture("MLP-Mixer", s.Mixer, _series()),
    Architecture("BiLSTM with attention", s.LstmAttention, _series()),
    Architecture("ResNet (transformers)", h.resnet, _images(size=32)),
    Architecture("ConvNeXt (transformers)", h.convnext, _images(size=32)),
    Architecture("RegNet (transformers)", h.regnet, _images(size=32)),
    Architecture("MobileNetV2 (transformers)", h.mobilenet, _images(size=32)),
    Architecture("EfficientNet (transformers)", h.efficientnet, _images(size=32)),
    Architecture("ViT (transformers)", h.vit, _images(size=32)),
    Architecture("DeiT (transformers)", h.deit, _images(size=32)),
    Architecture("Swin (transformers)", h.swin, _images(size=32)),
    Architecture("SegFormer (transformers)", h.segformer, _images(size=32)),
    Architecture("BERT (transformers)", h.bert, _masked_tokens),
    Architecture("DistilBERT (transformers)", h.distilbert, _masked_tokens),
    Architecture("GPT-2 (transformers)", h.gpt2, _tokens()),
    Architecture("Whisper (transformers)", h.whisper, _audio_and_tokens),
    Architecture("wav2vec2 (transformers)", h.wav2vec2, lambda n: torch.randn(n, 800)),
)
