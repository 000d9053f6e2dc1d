"""Which trial next: all combinations (grid), or proposals that follow from what was seen (auto).

A search is a function of what was seen, so a study that is resumed goes on as if it had never stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ...core.recipe import Recipe
from ..plan import Plan, Planner

GOES_ON = "search: auto proposes further trials from what these show, until the budget or the frontier ends it"

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What is known of a trial so far.

    Attributes:
        name: The trial's name.
        config: Its configuration.
        is_lost: It failed or was cut.
        drop: Drop on the guiding half, in the metric's unit; None before it is measured.
        doubt: Standard error of ``drop``.
        size_ratio: Bytes relative to the baseline's.
        slowness: Latency relative to the baseline's; None before it is timed.
        screen: Drop after a short recovery on a part of the data; None where nobody looked.
    """

    name: str
    config: Config
    is_lost: bool = False
    drop: float | None = None
    doubt: float = 0.0
    size_ratio: float | None = None
    slowness: float | None = None
    screen: float | None = None

    @property
    def cautious_drop(self) -> float | None:
        """The drop and half its standard error: many trials look at the guiding half, and the luckiest would win."""
        return None if self.drop is None else self.drop + self.doubt / 2

    @property
    def amount(self) -> float:
        """The share of parameters asked to be removed."""
        prune = self.config["prune"]
        return float(prune["amount"]) if prune else 0.0

    @property
    def effort(self) -> float:
        """How much longer than by default its recovery trained."""
        return float(self.config.get("effort", 1.0))


@dataclass(frozen=True)
class Seen:
    """All that a search may decide by; nothing of it comes from the data that judges.

    Attributes:
        outcomes: Trials in the order they were proposed, baselines first.
        rankings: Sensitivity of layers, under ``prune`` and ``quantize@RUNTIME``, as far as measured.
        weights: Parameters of the model by kind of layer; None before the baseline is built.
    """

    outcomes: Sequence[Outcome]
    rankings: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, int] | None = None


class Search(Protocol):
    """Proposes configurations."""

    is_adaptive: bool

    def start(self) -> list[Config]:
        """What to try first, baselines at the head."""

    def propose(self, seen: Seen, slots: int) -> list[Config]:
        """What to try next, with so many slots to keep busy; nothing when it waits, or when the search is over."""

    def why_hopeless(self, seen: Seen, outcome: Outcome) -> str | None:
        """Why a trial that was screened is not worth its full recovery, or None."""


def first_plan(record: Mapping[str, Any]) -> Plan:
    """What a study begins with, from its ``study.json``; of a grid that is all. Raises RecipeError."""
    planner = Planner(record)
    search = make_search(planner.recipe)
    for config in search.start():
        planner.add(config)
    if search.is_adaptive:
        planner.rank_layers()
    return planner.plan


def make_search(recipe: Recipe) -> Search:
    """The search that a recipe asks for."""
    from .auto import AutoSearch
    from .grid import GridSearch

    return AutoSearch(recipe) if recipe.search == "auto" else GridSearch(recipe)
