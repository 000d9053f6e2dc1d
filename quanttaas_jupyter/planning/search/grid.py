"""All combinations of the recipe's prunings and quantizations, in each runtime."""

from __future__ import annotations

from ...core.recipe import Recipe
from ...techniques.availability import built_quantizations
from ..plan import baseline_config
from . import Config, Outcome, Seen


class GridSearch:
    """Knows all its trials from the start; a quantization is tried in the runtimes that take it."""

    is_adaptive = False

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe

    def start(self) -> list[Config]:
        """Baselines, then every pruning with every quantization; a budget of trials cuts the list."""
        recipe = self._recipe
        baselines: list[Config] = [baseline_config(runtime) for runtime in recipe.runtime]
        found = [*baselines]
        for runtime in recipe.runtime:
            for prune in recipe.prune:
                for quantization in built_quantizations(recipe.quantize, runtime):
                    amount = prune.model_dump() if prune.amount else None
                    config = {"prune": amount, "quantize": quantization, "runtime": runtime}
                    if config not in found:
                        found.append(config)
        return found[: max(recipe.budget.trials, len(baselines))] if recipe.budget.trials else found

    def propose(self, seen: Seen, slots: int) -> list[Config]:
        """Nothing: all is known from the start."""
        return []

    def why_hopeless(self, seen: Seen, outcome: Outcome) -> str | None:
        """Never: who asked for a combination gets it."""
        return None
