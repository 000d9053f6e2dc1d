"""Models of transformers at their default configuration, with the batches that its Trainer makes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from tests.situations.trying import CLOSE, cut, mean, refused, tried

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
IGNORED = -100
CACHES = {"past_key_values", "cache"}
"""Names of a decoder's cache in several versions."""


def texts(lengths: Any = (9,) * 6, size: int = 8, vocabulary: int = 50, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """Batches of tokens whose rows end in padding."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for length in lengths:
        tokens = torch.randint(3, vocabulary, (size, length), generator=generator)
        ends = torch.randint(length // 2, length + 1, (size, 1), generator=generator)
        ends[0] = length
        mask = (torch.arange(length)[None] < ends).long()
        found.append({"input_ids": tokens * mask, "attention_mask": mask})
    return found


def without_labels(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value for key, value in batch.items() if "label" not in key and "positions" not in key}


def some_right(guess: torch.Tensor, classes: int, seed: int = 3) -> torch.Tensor:
    """Labels of which a model gets about two thirds right."""
    generator = torch.Generator().manual_seed(seed)
    other = (guess + 1) % classes
    return torch.where(torch.rand(guess.shape, generator=generator) < 2 / 3, guess, other)


def perplexity(logits: torch.Tensor, labels: torch.Tensor) -> tuple[float, int]:
    """Sum of the cross-entropy of each counted token, and how many there are."""
    counted = labels != IGNORED
    logs = logits.double().log_softmax(-1)
    picked = logs.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)[counted]
    return float(-picked.sum()), int(counted.sum())


def perplexity_of(pairs: Any) -> float:
    sums = [perplexity(*pair) for pair in pairs]
    return math.exp(sum(total for total, _ in sums) / sum(count for _, count in sums))


def file_inputs(batch: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {key: value.numpy() for key, value in batch.items()}


@torch.no_grad()
def test_sequence_classification(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = hf.BertForSequenceClassification(
        hf.BertConfig(vocab_size=50, max_position_embeddings=16, num_labels=3, **SMALL)
    ).eval()
    batches = texts((9, 7, 9, 9, 5))
    for batch in batches:
        batch["labels"] = some_right(model(**batch).logits.argmax(-1), 3)
        batch["token_type_ids"] = torch.zeros_like(batch["input_ids"])
    found = tried(tmp_path, model, batches)
    right = mean(model(**without_labels(b)).logits.argmax(-1) == b["labels"] for b in batches)
    assert 0.4 < right < 1
    assert found.metric == pytest.approx(right, **CLOSE)
    file = found.file()
    assert mean(file(**file_inputs(b))[0].argmax(-1) == b["labels"] for b in batches) == pytest.approx(right, **CLOSE)
    assert found.understanding.targets == ("labels",)
    assert "labels" not in found.understanding.inputs


@torch.no_grad()
def test_token_classification(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = hf.BertForTokenClassification(
        hf.BertConfig(vocab_size=50, max_position_embeddings=16, num_labels=5, **SMALL)
    ).eval()
    batches = texts((9, 7, 9))
    for batch in batches:
        labels = some_right(model(**batch).logits.argmax(-1), 5)
        batch["labels"] = labels.masked_fill(batch["attention_mask"] == 0, IGNORED)
    found = tried(tmp_path, model, batches)
    right = mean((model(**without_labels(b)).logits.argmax(-1) == b["labels"])[b["labels"] != IGNORED] for b in batches)
    assert found.metric == pytest.approx(right, **CLOSE)
    assert found.understanding.judging.task == "token-classification"


@torch.no_grad()
def test_question_answering(tmp_path: Path) -> None:
    """Two targets, both of which forward takes too: a metric that takes them, or one that is named."""
    torch.manual_seed(0)
    model = hf.BertForQuestionAnswering(hf.BertConfig(vocab_size=50, max_position_embeddings=16, **SMALL)).eval()
    batches = texts((9, 9, 9, 7))
    for batch in batches:
        outputs = model(**batch)
        batch["start_positions"] = some_right(outputs.start_logits.argmax(-1), 7)
        batch["end_positions"] = some_right(outputs.end_logits.argmax(-1), 7, 4)

    def exact(outputs: Any, targets: Any) -> torch.Tensor:
        start = outputs["start_logits"].argmax(-1) == targets["start_positions"]
        return start & (outputs["end_logits"].argmax(-1) == targets["end_positions"])

    found = tried(tmp_path / "both", model, batches, metric=exact)
    right = mean(exact(model(**without_labels(b)), b) for b in batches)
    assert 0.2 < right < 1
    assert found.metric == pytest.approx(right, **CLOSE)
    assert found.understanding.targets == ("start_positions", "end_positions")
    assert set(found.understanding.inputs) == {"input_ids", "attention_mask"}
    assert "--labels" in refused(model, batches)
    one = tried(tmp_path / "one", model, batches, labels=("end_positions",), output="end_logits")
    right = mean(model(**without_labels(b)).end_logits.argmax(-1) == b["end_positions"] for b in batches)
    assert one.metric == pytest.approx(right, **CLOSE)


def gpt2() -> Any:
    torch.manual_seed(0)
    return hf.GPT2LMHeadModel(
        hf.GPT2Config(vocab_size=50, n_positions=16, n_embd=32, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2)
    ).eval()


def llama() -> Any:
    torch.manual_seed(0)
    return hf.LlamaForCausalLM(
        hf.LlamaConfig(vocab_size=50, max_position_embeddings=32, num_key_value_heads=1, **SMALL)
    ).eval()


@pytest.mark.parametrize("make", [gpt2, llama])
@pytest.mark.parametrize("labelled", [True, False])
@torch.no_grad()
def test_causal_language_models_are_judged_one_token_ahead(tmp_path: Path, make: Any, labelled: bool) -> None:
    model = make()
    assert model.config.use_cache
    batches = texts((9, 7, 9))
    labels = [batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORED) for batch in batches]
    if labelled:
        batches = [{**batch, "labels": given} for batch, given in zip(batches, labels, strict=True)]
    found = tried(tmp_path, model, batches)
    logits = [model(**without_labels(batch)).logits[:, :-1] for batch in batches]
    right = perplexity_of((mine, given[:, 1:]) for mine, given in zip(logits, labels, strict=True))
    assert found.metric == pytest.approx(right, rel=1e-4)
    file = found.file()
    answers = [file(**file_inputs(without_labels(b)))[0][:, :-1] for b in batches]
    exact = perplexity_of((mine, given[:, 1:]) for mine, given in zip(answers, labels, strict=True))
    assert found.metric == pytest.approx(exact, **CLOSE)
    assert found.understanding.metric == "perplexity"
    assert not found.understanding.higher_is_better
    assert set(found.understanding.left_out) <= CACHES
    assert found.understanding.left_out


@torch.no_grad()
def test_the_loss_that_the_model_itself_gives_is_the_logarithm(tmp_path: Path) -> None:
    model = gpt2()
    (batch,) = texts((9,))
    batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORED)
    found = tried(tmp_path, model, [batch])
    assert math.log(found.metric) == pytest.approx(float(model(**batch).loss), rel=1e-4)


@torch.no_grad()
def test_next_token_accuracy_by_name(tmp_path: Path) -> None:
    model = gpt2()
    batches = texts((9, 9))
    found = tried(tmp_path, model, batches, metric="accuracy,perplexity")
    shares = []
    for batch in batches:
        counted = batch["attention_mask"][:, 1:] == 1
        guess = model(**batch).logits[:, :-1].argmax(-1)
        shares.append((guess == batch["input_ids"][:, 1:])[counted])
    assert found.metric == pytest.approx(mean(shares), **CLOSE)
    assert found.numbers["perplexity"] > 1


@torch.no_grad()
def test_t5_gets_its_decoder_inputs_from_the_labels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = hf.T5ForConditionalGeneration(
        hf.T5Config(vocab_size=50, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=2, decoder_start_token_id=0)
    ).eval()
    assert model.config.use_cache
    batches = texts((9, 9))
    for seed, batch in enumerate(batches):
        labels = torch.randint(3, 50, (8, 6), generator=torch.Generator().manual_seed(seed))
        labels[::2, 4:] = IGNORED
        batch["labels"] = labels
    found = tried(tmp_path, model, batches)
    outputs = [model(**batch) for batch in batches]
    right = perplexity_of((mine.logits, b["labels"]) for mine, b in zip(outputs, batches, strict=True))
    assert found.metric == pytest.approx(right, rel=1e-4)
    assert found.understanding.metric == "perplexity"
    assert CACHES & set(found.understanding.left_out)


@torch.no_grad()
def test_whisper_gets_its_decoder_inputs_from_the_labels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = hf.WhisperConfig(
        vocab_size=50,
        num_mel_bins=8,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_source_positions=16,
        max_target_positions=12,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    model = hf.WhisperForConditionalGeneration(config).eval()
    generator = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(2):
        labels = torch.randint(3, 50, (4, 6), generator=generator)
        labels[1, 4:] = IGNORED
        batches.append({"input_features": torch.randn(4, 8, 32, generator=generator), "labels": labels})
    found = tried(tmp_path, model, batches)
    outputs = [model(**batch) for batch in batches]
    right = perplexity_of((mine.logits, b["labels"]) for mine, b in zip(outputs, batches, strict=True))
    assert found.metric == pytest.approx(right, rel=1e-4)


@torch.no_grad()
def test_masked_language_models_are_judged_where_they_are_masked(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = hf.BertForMaskedLM(hf.BertConfig(vocab_size=50, max_position_embeddings=16, **SMALL)).eval()
    batches = texts((9, 9))
    for seed, batch in enumerate(batches):
        masked = torch.rand(batch["input_ids"].shape, generator=torch.Generator().manual_seed(seed)) < 0.3
        batch["labels"] = batch["input_ids"].masked_fill(~masked, IGNORED)
        batch["input_ids"] = batch["input_ids"].masked_fill(masked, 1)
    found = tried(tmp_path, model, batches, metric="accuracy")
    right = mean((model(**without_labels(b)).logits.argmax(-1) == b["labels"])[b["labels"] != IGNORED] for b in batches)
    assert found.metric == pytest.approx(right, **CLOSE)
    assert not found.understanding.judging.is_shifted


@torch.no_grad()
def test_a_pictures_classifier_with_pixel_values(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = hf.ViTForImageClassification(
        hf.ViTConfig(image_size=16, patch_size=8, num_channels=3, num_labels=4, **SMALL)
    ).eval()
    x = torch.rand(24, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    labels = some_right(model(x).logits.argmax(-1), 4)
    batches = [{"pixel_values": part, "labels": label} for part, label in cut(x, labels)]
    found = tried(tmp_path, model, batches)
    assert found.metric == pytest.approx(mean([model(x).logits.argmax(-1) == labels]), **CLOSE)


def detr() -> Any:
    torch.manual_seed(0)
    vision = hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], out_features=["stage2"])
    return hf.DetrForObjectDetection(
        hf.DetrConfig(
            use_timm_backbone=False,
            use_pretrained_backbone=False,
            backbone=None,
            backbone_config=vision,
            d_model=32,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            num_queries=5,
            num_labels=2,
        )
    ).eval()


def boxes_of(outputs: Any) -> list[dict[str, torch.Tensor]]:
    """Boxes (x0, y0, x1, y1) of each picture's queries."""
    chances = outputs["logits"].softmax(-1)[..., :-1].max(-1)
    x, y, width, height = outputs["pred_boxes"].unbind(-1)
    corners = torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], -1)
    return [
        {"boxes": b, "scores": s, "labels": label}
        for b, s, label in zip(corners, chances.values, chances.indices, strict=True)
    ]


def overlap(found: list[dict[str, torch.Tensor]], targets: list[dict[str, torch.Tensor]]) -> list[float]:
    """Mean of the best overlap of each picture's boxes with those found."""
    values = []
    for mine, theirs in zip(found, targets, strict=True):
        x, y, width, height = theirs["boxes"].unbind(-1)
        wanted = torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], -1)
        low = torch.maximum(mine["boxes"][:, None, :2], wanted[None, :, :2])
        high = torch.minimum(mine["boxes"][:, None, 2:], wanted[None, :, 2:])
        shared = (high - low).clamp(min=0).prod(-1)
        areas = [(box[:, 2:] - box[:, :2]).prod(-1) for box in (mine["boxes"], wanted)]
        values.append(float((shared / (areas[0][:, None] + areas[1][None] - shared)).max(0).values.mean()))
    return values


@pytest.mark.slow
@torch.no_grad()
def test_detr_with_a_metric_of_boxes(tmp_path: Path) -> None:
    model = detr()
    generator = torch.Generator().manual_seed(0)
    batches: list[dict[str, Any]] = []
    for _ in range(3):
        count = [int(n) for n in torch.randint(1, 4, (4,), generator=generator)]
        targets = [
            {
                "boxes": 0.2 + 0.5 * torch.rand(n, 4, generator=generator),
                "class_labels": torch.randint(0, 2, (n,), generator=generator),
            }
            for n in count
        ]
        batches.append({"pixel_values": torch.rand(4, 3, 32, 32, generator=generator), "labels": targets})
    found = tried(tmp_path, model, batches, metric=overlap, postprocess=boxes_of)
    right = mean(overlap(boxes_of(model(pixel_values=b["pixel_values"])), b["labels"]) for b in batches)
    assert 0.05 < right < 1
    assert found.metric == pytest.approx(right, rel=1e-4)
    assert found.understanding.targets == ("labels",)
