"""Labels one token ahead, padding, and what a call leaves on a model; every right number is computed by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.situations.trying import CLOSE, cut, mean, measured, refused

WORDS = 11
TOKENS = torch.randint(1, WORDS, (64, 9), generator=torch.Generator().manual_seed(0))


class Reader(nn.Module):
    """A small network over tokens, with one score a word at every position."""

    def __init__(self, outputs: int = WORDS) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.table, self.rnn = nn.Embedding(WORDS, 16), nn.GRU(16, 16, batch_first=True)
        self.head = nn.Linear(16, outputs)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return 4 * self.head(self.rnn(self.table(input_ids))[0])


class TinyLMHeadModel(Reader):
    """Named as causal language models of transformers are."""


class Masked(nn.Module):
    """Takes a mask, and does nothing with it."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.reader = Reader(outputs)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.reader(input_ids)


def perplexity(scores: torch.Tensor, labels: torch.Tensor) -> float:
    return float(functional.cross_entropy(scores.detach().double().transpose(1, 2), labels).exp())


def test_labels_one_token_ahead_are_not_shifted_again() -> None:
    model = TinyLMHeadModel()
    x, y = TOKENS[:, :-1].contiguous(), TOKENS[:, 1:].contiguous()
    number, prepared = measured(model, (x, y))
    assert number == pytest.approx(perplexity(model(x), y), **CLOSE)
    assert any("not shifted again" in note for note in prepared.inspection.understanding.notes)
    assert "one token ahead" not in prepared.inspection.understanding.heading


def test_labels_equal_to_the_inputs_are_shifted_and_the_heading_says_so() -> None:
    model = TinyLMHeadModel()
    number, prepared = measured(model, (TOKENS, TOKENS))
    assert number == pytest.approx(perplexity(model(TOKENS)[:, :-1], TOKENS[:, 1:]), **CLOSE)
    assert "one token ahead" in prepared.inspection.understanding.heading


def test_a_model_that_knows_neither_its_tokens_nor_the_next_ones_is_asked_about() -> None:
    model = Reader()
    assert "--task language-model if it foretells" in refused(model, (TOKENS, TOKENS))
    right = perplexity(model(TOKENS)[:, :-1], TOKENS[:, 1:])
    assert measured(model, (TOKENS, TOKENS), task="language-model")[0] == pytest.approx(right, **CLOSE)
    same = mean([model(TOKENS).argmax(-1) == TOKENS])
    assert measured(model, (TOKENS, TOKENS), task="token-classification")[0] == pytest.approx(same, **CLOSE)


@pytest.mark.parametrize("takes_mask", [True, False])
@pytest.mark.parametrize("ignored", [None, 0])
def test_labels_of_padding_do_not_count(takes_mask: bool, ignored: int | None) -> None:
    model: nn.Module = Masked(4) if takes_mask else Reader(4)
    words = TOKENS.clone()
    for row, length in enumerate(3 + torch.arange(64) % 6):
        words[row, int(length) :] = 0
    mask = (words != 0).long()
    labels = torch.randint(0 if ignored is None else 1, 4, words.shape, generator=torch.Generator().manual_seed(1))
    labels[mask == 0] = 0
    parts = [{"input_ids": a, "attention_mask": b, "labels": c} for a, b, c in cut(words, mask, labels)]
    scores = model(words, mask) if takes_mask else model(words)
    number, prepared = measured(model, parts, ignore_label=ignored)
    assert number == pytest.approx(mean([(scores.argmax(-1) == labels)[mask == 1]]), **CLOSE)
    if ignored is None:
        assert any("are padding and do not count" in note for note in prepared.inspection.understanding.notes)


def test_labels_under_a_mask_that_differ_are_no_padding() -> None:
    model = Masked(4)
    mask = (torch.rand(64, 9, generator=torch.Generator().manual_seed(4)) < 0.7).long()
    labels = torch.randint(0, 4, (64, 9), generator=torch.Generator().manual_seed(1))
    parts = [{"input_ids": a, "attention_mask": b, "labels": c} for a, b, c in cut(TOKENS, mask, labels)]
    number, prepared = measured(model, parts)
    assert number == pytest.approx(mean([model(TOKENS, mask).argmax(-1) == labels]), **CLOSE)
    assert any("they are no padding" in note for note in prepared.inspection.understanding.notes)


def test_a_model_that_was_asked_for_hidden_states_is_copied_and_left_as_it_was() -> None:
    transformers = pytest.importorskip("transformers")
    config: dict[str, Any] = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**config, intermediate_size=16)).eval()
    model(input_ids=TOKENS, output_hidden_states=True)
    hooks = [len(module._forward_hooks) for module in model.modules()]
    assert sum(hooks) or int(transformers.__version__.partition(".")[0]) < 5
    labels = model(input_ids=TOKENS).logits.argmax(1)
    labels[:16] = 1 - labels[:16]
    number, _ = measured(model, [{"input_ids": a, "labels": b} for a, b in cut(TOKENS, labels)])
    assert number == pytest.approx(0.75, **CLOSE)
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    assert len(model(input_ids=TOKENS, output_hidden_states=True).hidden_states) == 2
