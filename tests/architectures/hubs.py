"""Architectures of the ``transformers`` library in tiny, with random weights."""

from __future__ import annotations

import torch
import transformers as hf
from torch import nn


class Logits(nn.Module):
    """A model that gives its logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: torch.Tensor, **kwargs: torch.Tensor) -> torch.Tensor:
        return self.model(*args, **kwargs).logits


def resnet() -> nn.Module:
    config = hf.ResNetConfig(embedding_size=16, hidden_sizes=[16, 32, 48], depths=[1, 1, 1], layer_type="basic")
    return Logits(hf.ResNetForImageClassification(config))


def convnext() -> nn.Module:
    config = hf.ConvNextConfig(hidden_sizes=[16, 24], depths=[1, 2], num_stages=2, layer_scale_init_value=0.5)
    return Logits(hf.ConvNextForImageClassification(config))


def regnet() -> nn.Module:
    config = hf.RegNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 2], groups_width=8)
    return Logits(hf.RegNetForImageClassification(config))


def mobilenet() -> nn.Module:
    config = hf.MobileNetV2Config(image_size=32, depth_multiplier=0.25, depth_divisible_by=8, finegrained_output=False)
    return Logits(hf.MobileNetV2ForImageClassification(config))


def efficientnet() -> nn.Module:
    config = hf.EfficientNetConfig(
        image_size=32,
        width_coefficient=0.05,
        depth_coefficient=1.0,
        hidden_dim=64,
        in_channels=[160, 320, 480],
        out_channels=[320, 480, 800],
        kernel_sizes=[3, 3, 5],
        strides=[1, 2, 2],
        num_block_repeats=[1, 1, 2],
        expand_ratios=[1, 4, 4],
        depthwise_padding=[],
    )
    return Logits(hf.EfficientNetForImageClassification(config))


_ATTENTION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}


def vit() -> nn.Module:
    return Logits(hf.ViTForImageClassification(hf.ViTConfig(image_size=32, patch_size=8, **_ATTENTION)))


def deit() -> nn.Module:
    return Logits(hf.DeiTForImageClassification(hf.DeiTConfig(image_size=32, patch_size=8, **_ATTENTION)))


def swin() -> nn.Module:
    config = hf.SwinConfig(image_size=32, patch_size=2, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4)
    return Logits(hf.SwinForImageClassification(config))


def segformer() -> nn.Module:
    config = hf.SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[16, 32],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[4, 4],
        decoder_hidden_size=32,
    )
    return Logits(hf.SegformerForSemanticSegmentation(config))


_TEXT = {"vocab_size": 60, "max_position_embeddings": 24}


def bert() -> nn.Module:
    return Logits(hf.BertForSequenceClassification(hf.BertConfig(**_TEXT, **_ATTENTION)))


def distilbert() -> nn.Module:
    config = hf.DistilBertConfig(dim=32, n_layers=2, n_heads=4, hidden_dim=128, **_TEXT)
    return Logits(hf.DistilBertForSequenceClassification(config))


def gpt2() -> nn.Module:
    config = hf.GPT2Config(
        vocab_size=60, n_positions=24, n_embd=32, n_layer=2, n_head=4, use_cache=False, bos_token_id=1, eos_token_id=2
    )
    return Logits(hf.GPT2LMHeadModel(config))


def whisper() -> nn.Module:
    config = hf.WhisperConfig(
        vocab_size=60,
        num_mel_bins=16,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        max_source_positions=20,
        max_target_positions=12,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        use_cache=False,
    )
    return Logits(hf.WhisperForConditionalGeneration(config))


def wav2vec2() -> nn.Module:
    config = hf.Wav2Vec2Config(
        vocab_size=20,
        conv_dim=(16, 16),
        conv_stride=(5, 2),
        conv_kernel=(10, 3),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        **_ATTENTION,
    )
    model = hf.Wav2Vec2ForCTC(config)
    # PyTorch pickles no parametrized module, so the weight norm is folded as for deployment.
    torch.nn.utils.parametrize.remove_parametrizations(model.wav2vec2.encoder.pos_conv_embed.conv, "weight")
    return Logits(model)
