"""Models of sequences: decoder inputs, labels one token ahead, and padding."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...bundle.batches import Batch
from ...bundle.data import Source
from ...bundle.unpacking import ShiftRight, Unpacking, parts_of
from ...core.errors import DataError
from .asked import Asked
from .labels import TORCH_IGNORES
from .unpackings import Signature

if TYPE_CHECKING:
    import torch

_CAUSAL = ("ForCausalLM", "LMHeadModel", "LMHead")
_MASK = "attention_mask"
_DEVIATIONS = 3
"""Standard deviations by which one reading has to be right more often than the other. Chosen, not tuned."""


def is_causal(model: torch.nn.Module) -> bool:
    """Whether a model is a causal language model of ``transformers``."""
    return type(model).__name__.endswith(_CAUSAL)


def has_decoder(model: torch.nn.Module) -> bool:
    """Return whether a model has an encoder and a decoder, as its configuration says."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def decoders(found: Any, model: torch.nn.Module) -> Any:
    """Yield the candidates, with decoder inputs made of the labels if the model has a decoder."""
    config = getattr(model, "config", None)
    decodes = has_decoder(model) and "decoder_input_ids" in Signature.of(model).names
    for candidate in found:
        if is_causal(model) and not candidate.targets and "input_ids" in candidate.inputs:
            yield dataclasses.replace(candidate, labels_of="input_ids")
        elif not (decodes and candidate.targets and candidate.passed == "keywords"):
            yield candidate
        elif "decoder_input_ids" not in candidate.inputs:
            start, pad = getattr(config, "decoder_start_token_id", None), getattr(config, "pad_token_id", None)
            shift = ShiftRight(int(start or 0), int(pad or 0))
            yield dataclasses.replace(candidate, shift=shift)
        else:
            yield candidate


def is_ahead(
    model: torch.nn.Module, parts: Sequence[Batch], output: torch.Tensor, target: Any, asked: Asked
) -> tuple[bool, tuple[str, ...]]:
    """Tell whether scores at a position say the label of the next one; also return what is told.

    Args:
        model: The model.
        parts: Batches of some samples.
        output: Their judged output.
        target: Their targets.
        asked: What the person said.

    Raises:
        DataError: Labels are the inputs' own tokens, and the model is right about neither these nor the next ones.
    """
    import torch

    if not isinstance(target, torch.Tensor) or target.ndim != 2 or target.is_floating_point():
        return is_causal(model), ()
    if has_decoder(model):
        return False, ()
    repeats = all(_are_inputs(part, 0) for part in parts)
    if is_causal(model):
        if not repeats and all(_are_inputs(part, 1) for part in parts):
            return False, ("labels are the inputs one token ahead already and are not shifted again",)
        is_of_transformers = type(model).__module__.startswith("transformers.")
        same, ahead = hits(output, target)
        return repeats or is_of_transformers or ahead >= same, ()
    if not repeats or output.ndim != 3 or output.shape[:2] != target.shape or target.shape[1] < 2:
        return False, ()
    if asked.task is not None:
        return asked.task == "language-model", ()
    same, ahead = hits(output, target)
    if abs(ahead - same) <= _DEVIATIONS * (ahead + same) ** 0.5:
        raise DataError(
            "labels of --data are the inputs' own tokens, and the model is right about neither these nor the next: say "
            "--task language-model if it foretells the next one, or --task token-classification"
        )
    return ahead > same, ()


def hits(output: torch.Tensor, target: torch.Tensor) -> tuple[int, int]:
    """Return how many labels the scores (n, length, classes) say of their own position, and of the next one."""
    if output.ndim != 3 or output.shape[:2] != target.shape:
        return 0, 0
    guess = output.argmax(-1)[:, :-1]
    same, ahead = int((guess == target[:, :-1]).sum()), int((guess == target[:, 1:]).sum())
    if output.shape[1] == output.shape[2]:
        # Classes may lie in dimension 1 as well; language models have them last.
        same = max(same, int((output.argmax(1) == target)[:, :-1].sum()))
    return same, ahead


def _are_inputs(part: Batch, ahead: int) -> bool:
    """Whether the labels that count are the tokens of an input, ``ahead`` positions later."""
    import torch

    target = next(iter(part.targets), None)
    if not isinstance(target, torch.Tensor) or target.ndim != 2 or target.is_floating_point():
        return False
    length = target.shape[1] - ahead
    counted = target[:, :length] >= 0
    return bool(counted.any()) and any(
        leaf.shape == target.shape
        and not leaf.is_floating_point()
        and bool((target[:, :length] == leaf[:, ahead:])[counted].all())
        for leaf in part.inputs
    )


def without_padding(
    model: torch.nn.Module, source: Source, unpacking: Unpacking, asked: Asked
) -> tuple[Unpacking, tuple[str, ...]]:
    """Find whether labels of places that ``attention_mask`` hides are padding; also return what is told.

    Args:
        model: The model.
        source: ``--data``.
        unpacking: How batches are taken apart.
        asked: What the person said.
    """
    import torch

    parts = parts_of(source.first_item) or {}
    if _MASK not in parts or len(unpacking.targets) != 1 or unpacking.labels_of or has_decoder(model):
        return unpacking, ()
    first = source.first()
    batch, labels = first.batches[0], first.batches[0].targets[0]
    mask = batch.inputs[first.names.index(_MASK)] if _MASK in first.names else torch.as_tensor(parts[_MASK])
    if not isinstance(labels, torch.Tensor) or labels.is_floating_point() or labels.ndim < 2:
        return unpacking, ()
    if labels.shape != mask.shape:
        return unpacking, ()
    values = labels[mask == 0].unique().tolist()
    if len(values) > 1:
        return unpacking, (f"labels where {_MASK} is 0 count, as they differ: they are no padding",)
    fill = TORCH_IGNORES if asked.ignore_label is None else int(asked.ignore_label)
    told = f"labels where {_MASK} is 0 are padding and do not count"
    return dataclasses.replace(unpacking, mask=_MASK, fill=fill), (told,) if values not in ([], [fill]) else ()
