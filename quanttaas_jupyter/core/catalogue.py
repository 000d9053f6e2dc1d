"""Catalogue of techniques: the descriptions that recipe, form, completion, charts, search and documentation read.

A technique describes itself where it is registered (``techniques.registry``). Those of this package are loaded on the
first look; one of another package counts from the moment its module is imported.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

Kind = Literal["prune", "recover", "quantize", "runtime"]

KINDS: tuple[Kind, ...] = ("prune", "recover", "quantize", "runtime")
UNKNOWN_COLOR = "#808080"
UNKNOWN_MARKER = "cross"
MARKERS = ("circle", "square", "diamond", "triangle-up", "triangle-down", UNKNOWN_MARKER)
"""Markers that every view can draw; charts that compare runtimes assign them in this order."""
LAST = 100
"""Default ``order`` of a technique; a plain choice, larger than that of any technique in this package."""


@dataclass(frozen=True)
class Rounding:
    """Rounding of a quantization, as ``recover: qat`` imitates it in training.

    Attributes:
        weights: ``int8`` with one scale per output channel, ``int4`` with one per 32 inputs and of matrices only, or
            ``fp8`` (E4M3).
        inputs: Whether the inputs of convolutions and linear layers are rounded to eight bits too.
        by_modelopt: Whether ModelOpt's quantizers round; they alone know float8.
    """

    weights: Literal["int8", "int4", "fp8"]
    inputs: bool = False
    by_modelopt: bool = False

    def __post_init__(self) -> None:
        """Refuse what nothing trains with."""
        if self.weights == "fp8" and not self.by_modelopt:
            raise ValueError("only ModelOpt's quantizers train with fp8: say by_modelopt=True")


@dataclass(frozen=True)
class Technique:
    """Description of one technique.

    Attributes:
        help: One line for forms and documentation: its effect and its purpose.
        name: Name in recipes; filled in from the key it is registered under.
        order: Place in lists; smaller comes first.
        layers: Kinds of layers that it makes smaller: ``convolution``, ``linear``, ``recurrent``, ``embedding``.
        color: Colour of points in charts, as ``#rrggbb``; quantizations have one.
        marker: Marker of points in charts, one of ``MARKERS``; pruning methods have one.
        has_amounts: Whether a pruning method takes amounts; one that follows a pattern has a fixed one.
        is_listed: Whether recipes may name it; the notebook's own functions have no name to list.
        is_proposed: Whether ``search: auto`` may propose a quantization that the recipe does not name.
        starts: Place among the first trials of ``search: auto`` for models whose weights are mostly in one kind of
            layer: ``convolution``, ``recurrent``, ``linear``, or ``other``. 1 comes first.
        fallback: Place among the quantizations that ``search: auto`` tries if no first trial meets the goal; 0: never.
        makes_integers: Whether a quantization stores weights as integers; a file without one is then refused, as the
            quantization did nothing. Every quantization says so; other kinds leave it None.
        rounding: How ``recover: qat`` rounds while it trains for a quantization; None if it cannot.
    """

    help: str
    name: str = ""
    order: int = LAST
    layers: tuple[str, ...] = ("convolution", "linear", "recurrent", "embedding")
    color: str = ""
    marker: str = ""
    has_amounts: bool = True
    is_listed: bool = True
    is_proposed: bool = True
    starts: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    fallback: int = 0
    makes_integers: bool | None = None
    rounding: Rounding | None = None

    @property
    def is_trainable(self) -> bool:
        """Whether ``recover: qat`` knows how the quantization rounds."""
        return self.rounding is not None


_DESCRIBED: dict[Kind, dict[str, Technique]] = {kind: {} for kind in KINDS}


def describe(kind: Kind, name: str, technique: Technique) -> None:
    """Add the description of a technique to the catalogue.

    Raises:
        ValueError: The name already has another description, the marker is not in ``MARKERS``, or a quantization does
            not say whether it makes integers.
    """
    if kind == "quantize" and technique.makes_integers is None:
        raise ValueError(f"quantize {name!r}: say makes_integers=True or makes_integers=False")
    if technique.marker and technique.marker not in MARKERS:
        raise ValueError(f"{kind} {name!r}: marker {technique.marker!r} is none of {', '.join(MARKERS)}")
    known = _DESCRIBED[kind].setdefault(name, named := replace(technique, name=name))
    if known != named:
        raise ValueError(f"{kind} {name!r} is described twice; describe it where it is registered first")


def forget(kind: Kind, name: str) -> None:
    """Remove a technique from the catalogue."""
    del _DESCRIBED[kind][name]


def techniques(kind: Kind) -> dict[str, Technique]:
    """Return all techniques of a kind by name, sorted by their ``order``."""
    # Found by name: techniques are plug-ins, which know this module and which nothing here knows.
    importlib.import_module(f"{__name__.partition('.')[0]}.techniques").load()
    return dict(sorted(_DESCRIBED[kind].items(), key=lambda item: (item[1].order, item[0])))


def names(kind: Kind) -> tuple[str, ...]:
    """Return the names that recipes may use for a kind of technique, sorted by their ``order``."""
    return tuple(name for name, technique in techniques(kind).items() if technique.is_listed)


def find(kind: Kind, name: str) -> Technique | None:
    """Return the description of a technique, or None if the catalogue has no such name."""
    return techniques(kind).get(name)


def rounding_of(quantization: str) -> Rounding | None:
    """Return how ``recover: qat`` rounds while it trains for a quantization; None if it cannot."""
    known = find("quantize", quantization)
    return known.rounding if known else None


def follows_pattern(method: Any) -> bool:
    """Return whether a value names a pruning method that zeroes weights by a pattern, which fixes its amount."""
    known = find("prune", method) if isinstance(method, str) else None
    return known is not None and not known.has_amounts
