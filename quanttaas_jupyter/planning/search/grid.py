"""Grid search: all combinations of the recipe's prunings and quantizations, in each runtime."""

from __future__ import annotations

from ...core.recipe import Recipe
from ...core.records.trial import TrialConfig
from ...techniques.availability import available_quantizations
from . import Observations, Outcome


class GridSearch:
    """Search that knows all trials from the start; a quantization is tried in the runtimes that support it."""

    is_adaptive = False

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe

    def start(self) -> list[TrialConfig]:
        """Return the baselines and each pruning with each quantization; a budget of trials shortens the list."""
        recipe = self._recipe
        baselines = [TrialConfig.baseline(runtime) for runtime in recipe.runtime]
        configs = [*baselines]
        for runtime in recipe.runtime:
            for prune in recipe.prune:
                for quantization in available_quantizations(recipe.quantize, runtime):
                    config = TrialConfig(prune.pruning, quantization, runtime)
                    if config not in configs:
                        configs.append(config)
        return configs[: max(recipe.budget.trials, len(baselines))] if recipe.budget.trials else configs

    def propose(self, observations: Observations, slots: int) -> list[TrialConfig]:
        """Return no further configurations."""
        return []

    def why_hopeless(self, observations: Observations, outcome: Outcome) -> str | None:
        """Return None: each combination that was asked for is carried out."""
        return None
