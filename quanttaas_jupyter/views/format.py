"""Formats of numbers, names and configurations, shared by all views."""

from __future__ import annotations

import builtins
import keyword
import math
import re
import time
from collections.abc import Callable, Collection, Sequence

from ..core import catalogue
from ..core.records.trial import TrialConfig

MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"

SAME = 0.02
"""Relative difference within which sizes and latencies count as the same; chosen, not tuned."""


def color(config: TrialConfig) -> str:
    """Return the colour of a configuration, which is that of its quantization."""
    return color_of(config.quantize)


def color_of(quantization: str) -> str:
    """Return the colour of a quantization."""
    known = catalogue.find("quantize", quantization)
    return known.color if known else catalogue.UNKNOWN_COLOR


def marker_of(prune_method: str) -> str:
    """Return the marker of a pruning method; "" stands for models that are not pruned."""
    known = catalogue.find("prune", prune_method)
    return known.marker if known else catalogue.UNKNOWN_MARKER if prune_method else "circle"


def method(config: TrialConfig) -> str:
    """Return the pruning method of a configuration, or an empty string if it does not prune."""
    prune = config.prune
    return prune.method if prune and (prune.amount or catalogue.follows_pattern(prune.method)) else ""


def marker(config: TrialConfig, runtimes: Sequence[str] = ()) -> str:
    """Return the marker of a configuration: of its runtime if several are compared, otherwise of its pruning method."""
    return marker_among(runtimes, config.runtime) if len(runtimes) > 1 else marker_of(method(config))


def marker_among(runtimes: Sequence[str], runtime: str) -> str:
    """Return the marker of a runtime where several are compared."""
    return dict(zip(runtimes, catalogue.MARKERS, strict=False)).get(runtime, catalogue.UNKNOWN_MARKER)


def configuration(config: TrialConfig) -> str:
    """Return a configuration in words, such as ``structured 50 % · int8 · onnxruntime``."""
    name = method(config)
    if not name:
        pruned = "not pruned"
    elif catalogue.follows_pattern(name):
        pruned = f"{name} pruned"
    else:
        pruned = f"{name} {100 * config.amount:.4g} %"
    words = [pruned, precision(config.quantize), *_training(config), config.runtime]
    return " · ".join(part for part in words if part)


def precision(quantize: str) -> str:
    """Return a quantization in words."""
    return "not quantized" if quantize in ("none", "") else quantize


def _training(config: TrialConfig) -> list[str]:
    """Return the words for choices of a search other than amount and quantization."""
    words = ["by sensitivity"] if config.spread else []
    words += ["trained with quantizers"] if config.recover == "qat" else []
    words += [f"trained {config.effort:g}x as long"] if config.effort != 1 else []
    return words


def size(count: float | None, trim: bool = False) -> str:
    """Return bytes in decimal units with three digits, ``180 KB`` for 180,000; ``trim`` drops trailing zeros."""
    if count is None:
        return DASH
    value, units = float(count), ["B", "KB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{_digits(value, trim or units[0] == 'B')} {units[0]}"


def latency(milliseconds: float | None, trim: bool = False) -> str:
    """Return a latency with two or three digits, such as ``21 µs`` or ``0.21 ms``; ``trim`` drops trailing zeros."""
    if milliseconds is None:
        return DASH
    if milliseconds >= 999.5:
        return f"{_digits(milliseconds / 1000, trim)} s"
    if 0 < milliseconds < 0.1:
        return f"{_digits(milliseconds * 1000, trim)} µs"
    return f"{_digits(milliseconds, trim)} ms"


def pending(samples: float | None, of_samples: float | None) -> str:
    """Return what a trial with numbers waits for: the rest of the samples, or its latency."""
    return f"{count(samples)} of {count(of_samples)} samples so far" if of_samples else "latency pending"


def count(number: float | None) -> str:
    """Return a count with up to three digits, such as ``597``, ``0.31 M`` or ``1.2 G``."""
    if number is None:
        return DASH
    for limit, unit in ((1e9, "G"), (1e5, "M")):
        if number >= limit:
            return f"{_digits(number / (1e9 if unit == 'G' else 1e6))} {unit}"
    return f"{number:,.0f}"


def smaller(size_ratio: float | None) -> str:
    """Return a size relative to the baseline's, such as ``6.9x smaller``; an empty string if unknown."""
    return _times(None if not size_ratio else 1 / size_ratio, "smaller", "larger", "same size")


def faster(speedup: float | None) -> str:
    """Return a speedup over the baseline, such as ``2.4x faster``; an empty string if unknown."""
    return _times(speedup or None, "faster", "slower", "same speed")


def value(number: float | None, percent: bool, low: float | None = None, high: float | None = None) -> str:
    """Return a metric, such as ``98.9 %`` or ``0.913``, with as many digits as its interval justifies."""
    if number is None:
        return DASH
    places = _places(percent, low, high)
    return f"{_signed(100 * number, places)} %" if percent else _signed(number, places)


def interval(low: float | None, high: float | None, percent: bool) -> str:
    """Return an interval of a metric, such as ``97.6–99.5``; an empty string if unknown."""
    if low is None or high is None:
        return ""
    scale, places = (100 if percent else 1), _places(percent, low, high)
    return f"{_signed(scale * low, places)}{DASH}{_signed(scale * high, places)}"


def drop(number: float | None, percent: bool, low: float | None = None, high: float | None = None) -> str:
    """Return a drop, such as ``+0.1 pt``; positive is worse."""
    if number is None:
        return DASH
    places = _places(percent, low, high)
    return f"{_signed(100 * number, places, True)} pt" if percent else _signed(number, places, True)


def drop_interval(low: float | None, high: float | None, percent: bool) -> str:
    """Return an interval of a drop, such as ``−0.4 to +0.6``; an empty string if unknown."""
    if low is None or high is None:
        return ""
    scale, places = (100 if percent else 1), _places(percent, low, high)
    return f"{_signed(scale * low, places, True)} to {_signed(scale * high, places, True)}"


def allowance(max_drop: float, percent: bool) -> str:
    """Return the allowed drop: ``1 point``, ``0.5 points``, or ``0.02`` in the metric's own unit."""
    if not percent:
        return f"{max_drop:.4g}"
    points = f"{100 * max_drop:.4g}"
    return f"{points} point" if points == "1" else f"{points} points"


def duration(seconds: float | None) -> str:
    """Return a duration, such as ``40 s``, ``3 min`` or ``1 h 20 min``."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def ago(seconds: float) -> str:
    """Return how long ago something was, such as ``4 min ago`` or ``3 days ago``; it changes once a minute at most."""
    if seconds < 60:
        return "just now"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min ago"
    if seconds < 24 * 3600:
        return f"{seconds // 3600:.0f} h ago"
    days = int(seconds // (24 * 3600))
    return "yesterday" if days == 1 else f"{days} days ago"


def time_left(seconds: float | None) -> str:
    """Return a rounded estimate, such as ``about 40 s left``; an empty string if unknown."""
    if seconds is None:
        return ""
    if seconds < 5:
        return "a few seconds left"
    return f"about {duration(5 * math.ceil(seconds / 5) if seconds < 60 else seconds)} left"


def share(fraction: float, places: int = 0) -> str:
    """Return a share in percent with ``places`` decimal places: ``12 %`` or ``12.3 %`` for 0.123."""
    return f"{100 * fraction:.{places}f} %"


def decibels(number: float) -> str:
    """Return a ratio in decibels with a typographic minus sign, such as ``−3.2 dB``."""
    return f"{_signed(number, 1)} dB"


def difference(number: float) -> str:
    """Return a difference between outputs with two digits: ``1.2e-06``."""
    return f"{number:.2g}"


def money(amount: float) -> str:
    """Return an amount in dollars and cents; smaller amounts read ``less than $0.01``."""
    return f"${amount:,.2f}" if amount >= 0.01 or amount == 0 else "less than $0.01"


def clock(seconds: float) -> str:
    """Return the local time of day for seconds since the epoch, such as ``12:04:31``."""
    return time.strftime("%H:%M:%S", time.localtime(seconds))


def better(higher_is_better: bool) -> str:
    """Return which direction is better in a chart of size or latency against the metric."""
    return "better: up, left" if higher_is_better else "better: down, left"


def variable(trial: str, taken: Collection[str] = ()) -> str:
    """Return an unused Python name for a trial's model: ``prune50_int8``, then ``prune50_int8_2``."""
    name = re.sub(r"\W+", "_", trial, flags=re.ASCII).strip("_").lower() or "model"
    if not name[0].isalpha():
        name = f"model_{name}"
    return _free(name, lambda number: f"{name}_{number}", taken)


def filename(study_name: str, trial: str, suffix: str, taken: Collection[str] = ()) -> str:
    """Return an unused file name for a trial's artifact that is valid on all file systems."""
    stem = re.sub(r"[^\w.]+", "-", f"{study_name}-{trial}", flags=re.ASCII).strip("-.") or "model"
    return _free(f"{stem}{suffix}", lambda number: f"{stem}-{number}{suffix}", taken)


def _free(name: str, numbered: Callable[[int], str], taken: Collection[str]) -> str:
    number, candidate = 1, name
    while candidate in taken or keyword.iskeyword(candidate) or hasattr(builtins, candidate):
        number += 1
        candidate = numbered(number)
    return candidate


def _digits(number: float, trim: bool = False) -> str:
    if number >= 99.5 or number == 0:
        return f"{number:.0f}"
    text = f"{number:.1f}" if number >= 9.995 else f"{number:.2f}" if number >= 0.0995 else f"{number:.2g}"
    return text.rstrip("0").rstrip(".") if trim and "." in text and "e" not in text else text


def _times(ratio: float | None, more: str, less: str, same: str) -> str:
    if ratio is None or not math.isfinite(ratio):
        return ""
    if 1 - SAME < ratio < 1 + SAME:
        return same
    factor, word = (ratio, more) if ratio > 1 else (1 / ratio, less)
    digits = f"{factor:.0f}" if factor >= 99.5 else f"{factor:.2f}" if factor < 1.1 else f"{factor:.1f}"
    return f"{digits}x {word}"


def _places(percent: bool, low: float | None, high: float | None) -> int:
    narrow = low is not None and high is not None and 0 < high - low < 0.005
    return (1 if percent else 3) + narrow


def _signed(number: float, places: int, plus: bool = False) -> str:
    text = f"{abs(number):.{places}f}"
    if float(text) == 0:
        return text
    return f"{MINUS if number < 0 else '+' if plus else ''}{text}"
