"""Searches, which choose the next trials: all combinations (grid), or proposals based on outcomes (auto).

A search is a function of the outcomes so far, so that a resumed study continues as if it had never stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ...core.recipe import Recipe
from ...core.records.stage import Ranking
from ...core.records.study import StudyRecord
from ...core.records.trial import TrialConfig
from ..plan import Plan, Planner

GOES_ON = "search: auto proposes further trials from what these show, until the budget or the frontier ends it"


@dataclass(frozen=True)
class Outcome:
    """Known results of a trial.

    Attributes:
        name: The trial's name.
        config: Its configuration.
        is_lost: Whether it failed or was cut.
        drop: Drop on the guiding half, in the metric's unit; None before it is evaluated.
        standard_error: Standard error of ``drop``.
        size_ratio: Size relative to the baseline's.
        latency_ratio: Latency relative to the baseline's; None before it is measured.
        screen: Drop after the short recovery of the screen; None if it was not screened.
    """

    name: str
    config: TrialConfig
    is_lost: bool = False
    drop: float | None = None
    standard_error: float = 0.0
    size_ratio: float | None = None
    latency_ratio: float | None = None
    screen: float | None = None

    @property
    def cautious_drop(self) -> float | None:
        """The drop plus half its standard error, so that the luckiest trial on the guiding half does not win."""
        return None if self.drop is None else self.drop + self.standard_error / 2

    @property
    def amount(self) -> float:
        """The share of parameters to remove."""
        return self.config.amount

    @property
    def effort(self) -> float:
        """Length of its recovery, relative to the default."""
        return self.config.effort


@dataclass(frozen=True)
class Observations:
    """Everything that a search may base decisions on; none of it comes from the data that judges trials.

    Attributes:
        outcomes: Trials in the order of their proposal, baselines first.
        rankings: Sensitivity of layers, under ``prune`` and ``quantize@RUNTIME``, as far as known.
        weights: Parameters of the model by kind of layer; None before the baseline is built.
    """

    outcomes: Sequence[Outcome]
    rankings: Mapping[str, Ranking] = field(default_factory=dict)
    weights: Mapping[str, int] | None = None


class Search(Protocol):
    """Interface of a search."""

    is_adaptive: bool

    def start(self) -> list[TrialConfig]:
        """Return the first configurations, baselines at the head."""

    def propose(self, observations: Observations, slots: int) -> list[TrialConfig]:
        """Return the next configurations for this number of slots; an empty list while it waits, or when it is over."""

    def why_hopeless(self, observations: Observations, outcome: Outcome) -> str | None:
        """Return why a screened trial is not worth its full recovery, or None."""


def first_plan(record: StudyRecord) -> Plan:
    """Return the plan that a study starts with; for a grid it is complete.

    Raises:
        RecipeError: No technique implements a value of the recipe.
    """
    planner = Planner(record)
    search = make_search(planner.recipe)
    for config in search.start():
        planner.add(config)
    if search.is_adaptive:
        planner.rank_layers()
    return planner.plan


def make_search(recipe: Recipe) -> Search:
    """Return the search that a recipe asks for."""
    from .auto import AutoSearch
    from .grid import GridSearch

    return AutoSearch(recipe) if recipe.search == "auto" else GridSearch(recipe)
