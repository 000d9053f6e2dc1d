"""First trials of an automatic search, by the kind of model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ...core import catalogue
from ...core.records.trial import Pruning, TrialConfig

_BY_CONVOLUTION = (0.75, 0.9, 0.5)
"""First amounts for convolutional models, the likeliest first; chosen, not tuned: they hold many spare channels."""
_BY_OTHERS = (0.5, 0.75, 0.3)
"""First amounts for other models, the likeliest first; chosen, not tuned. Far-off ones cost the search a few trials."""


def first_trials(
    weights: Mapping[str, int],
    quantizations: Sequence[str],
    most: float,
    named: Iterable[Pruning],
    runtime: str,
    minimize: str = "size",
) -> list[TrialConfig]:
    """Return the first configurations, the likeliest first.

    Args:
        weights: Parameters of the model by kind of layer.
        quantizations: Quantizations that may be proposed.
        most: The largest amount of pruning; 0 for none.
        named: Prunings of other methods in the recipe; each is tried with the likeliest quantization.
        runtime: Runtime of the trials.
        minimize: What the goal minimizes, ``size`` or ``latency``.
    """
    likely = likely_quantizations(weights, quantizations)
    likeliest = likely[0]
    amounts = _BY_CONVOLUTION if _share(weights, "convolution") > 0.5 else _BY_OTHERS
    configs = [TrialConfig(None, name, runtime) for name in likely if name != "none"]
    prunings = [Pruning(amount=amount) for amount in amounts if amount <= most]
    configs += [TrialConfig(prune, likeliest, runtime) for prune in (*prunings, *named)]
    if minimize == "latency" and prunings and likeliest != "none" and "none" in quantizations:
        # Quantization makes many models smaller but slower, so pruning alone may be the fastest.
        configs.append(TrialConfig(prunings[0], "none", runtime))
    return configs


def gentler(allowed: Sequence[str], tried: Sequence[TrialConfig], runtime: str) -> list[TrialConfig]:
    """Return unpruned trials of quantizations that cost less accuracy, for models that the likely ones do not suit."""
    configs = [TrialConfig(None, name, runtime) for name in _fallbacks() if name in allowed]
    return [config for config in configs if config not in tried]


def likely_quantizations(weights: Mapping[str, int], allowed: Sequence[str]) -> list[str]:
    """Return the allowed quantizations that suit the kind of model, the likeliest first, at least one."""
    likely = [name for name in _by_kind(weights) if name in allowed]
    return likely or [name for name in allowed if name != "none"][:2] or ["none"]


def _by_kind(weights: Mapping[str, int]) -> list[str]:
    """Return the quantizations whose techniques say that they suit this kind of model, the likeliest first."""
    kind = _kind_of(weights)
    places = {name: item.starts[kind] for name, item in catalogue.techniques("quantize").items() if kind in item.starts}
    return sorted(places, key=places.__getitem__)


def _kind_of(weights: Mapping[str, int]) -> str:
    """Return the kind of layer that holds most weights; ``recurrent`` already counts from a share of 0.3."""
    if _share(weights, "convolution") > 0.5:
        return "convolution"
    if _share(weights, "recurrent") > 0.3:
        return "recurrent"
    return "linear" if _share(weights, "linear") > 0.5 else "other"


def _fallbacks() -> list[str]:
    places = {name: item.fallback for name, item in catalogue.techniques("quantize").items() if item.fallback}
    return sorted(places, key=places.__getitem__)


def _share(weights: Mapping[str, int], kind: str) -> float:
    return weights.get(kind, 0) / max(1, sum(weights.values()))
