"""Adaptive search towards the goal.

Each trial is an Optuna trial, by ask and tell (Akiba et al., "Optuna: A Next-generation Hyperparameter Optimization
Framework", KDD 2019), with two objectives, size or latency and the drop, and ``max_drop`` as the constraint. First come
trials that suit the kind of model. Then moves around the border of what the goal allows (``moves``) are enqueued, and
in between the sampler makes its own proposals (a tree-structured Parzen estimator; Bergstra et al., NeurIPS 2011).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ...core import catalogue
from ...core.recipe import Recipe
from ...core.records.trial import Pruning, TrialConfig
from ...techniques.availability import available_quantizations
from ...techniques.quantize import QUANTIZERS
from . import Observations, Outcome
from .convergence import cost_of, has_converged
from .first_trials import first_trials, gentler, likely_quantizations
from .moves import EFFORTS, MoveContext, base_quantization_of, is_alone, is_same_size, meets, next_move

_MOST_TRIALS = 80
"""Trials of a runtime without a budget; chosen, not tuned: a guard, as a search mostly converges earlier."""
_OWN_EVERY = 5
"""Each fifth trial is the sampler's own proposal; chosen, not tuned. More often explores more, converges later."""
_BELOW = 0.8
"""Factor for the largest amount that meets the goal, below which the sampler proposes nothing; chosen, not tuned."""
_MOST_SPREAD = 1.0
"""Largest ``spread`` that the sampler proposes; chosen, not tuned. 1 is a factor of ten per 20 dB of sensitivity."""
_ATTEMPTS = 5
"""Proposals of the sampler that are asked for until one is new; chosen, not tuned."""
_CLEARLY = 3.0
"""A trial has missed the goal clearly beyond this factor of ``max_drop``; chosen, not tuned. Smaller cuts more."""
_MARGIN = 0.02
"""Added to it in the metric's unit, for goals near zero; chosen, not tuned. Smaller cuts more."""


class AutoSearch:
    """Adaptive search that proposes trials until the frontier converges or the budget ends."""

    is_adaptive = True

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._goal = recipe.goal
        self._method = recipe.recover.method if recipe.recover else "distill"
        self._amounts = [prune.amount for prune in recipe.prune if prune.method == "structured"]
        self._quantizations = {
            runtime: _within_reach(available_quantizations(recipe.quantize, runtime), runtime) or ["none"]
            for runtime in recipe.runtime
        }

    def start(self) -> list[TrialConfig]:
        """Return the baselines: the search needs their results to know the kind of model."""
        return [TrialConfig.baseline(runtime) for runtime in self._recipe.runtime]

    def propose(self, observations: Observations, slots: int) -> list[TrialConfig]:
        """Return as many configurations as keep the slots busy until the pending trials are known."""
        if observations.weights is None:
            return []
        proposed: list[TrialConfig] = []
        for runtime in self._recipe.runtime:
            mine = [outcome for outcome in observations.outcomes if outcome.config.runtime == runtime]
            room = self._room(mine, slots)
            fresh = self._starters(observations, mine, runtime)
            is_open = self._is_base_undecided(mine, fresh)
            while len(fresh) < room and not is_open and not self._is_over(mine, [*fresh, *proposed]):
                config = self._ask(observations, mine, fresh, runtime)
                if config is None:
                    break
                fresh.append(config)
            proposed += fresh
        return proposed[: self._left(observations)]

    def why_hopeless(self, observations: Observations, outcome: Outcome) -> str | None:
        """Return why a screened trial is not worth its full recovery, or None.

        The reason is another trial with a milder pruning that was better in its screen and still missed the goal
        clearly.
        """
        if outcome.screen is None:
            return None
        limit = _CLEARLY * self._goal.max_drop + _MARGIN
        for other in observations.outcomes:
            if other.screen is None or other.drop is None or other.drop <= limit:
                continue
            if not self._lost_by_pruning(observations, outcome, other):
                continue
            if other.amount <= outcome.amount and other.screen <= outcome.screen and other.effort >= outcome.effort:
                return (
                    f"cut after a first look: it lost {outcome.screen:.3g} there, "
                    f"{other.name} lost {other.screen:.3g} and missed the goal in the end ({other.drop:.3g})"
                )
        return None

    def _lost_by_pruning(self, observations: Observations, outcome: Outcome, other: Outcome) -> bool:
        """Return whether the drop of another trial, ``other``, is evidence against ``outcome``.

        It is not if the quantization of ``other`` breaks even the unpruned model.
        """
        mine, theirs = ((o.config.quantize, o.config.runtime) for o in (outcome, other))
        if mine == theirs or theirs[0] == "none":
            return True
        alone = [o for o in observations.outcomes if is_alone(o)]
        return any(meets(o, self._goal) for o in alone if (o.config.quantize, o.config.runtime) == theirs)

    def _left(self, observations: Observations) -> int:
        most = self._recipe.budget.trials or _MOST_TRIALS
        return max(0, most - len(observations.outcomes))

    def _room(self, mine: list[Outcome], slots: int) -> int:
        return slots + 1 - sum(not self._is_known(outcome) for outcome in mine)

    def _is_known(self, outcome: Outcome) -> bool:
        is_timed = outcome.latency_ratio is not None or self._goal.minimize == "size"
        return outcome.is_lost or (outcome.drop is not None and outcome.size_ratio is not None and is_timed)

    def _is_over(self, mine: list[Outcome], fresh: list[TrialConfig]) -> bool:
        if not self._recipe.budget.trials and len(mine) + len(fresh) >= _MOST_TRIALS:
            return True
        return has_converged([outcome for outcome in mine if self._is_known(outcome)], self._goal)

    def _starters(self, observations: Observations, mine: list[Outcome], runtime: str) -> list[TrialConfig]:
        assert observations.weights is not None
        tried = [outcome.config for outcome in mine]
        prunings = [prune.pruning for prune in self._recipe.prune]
        named = [prune for prune in prunings if prune and prune.method != "structured"]
        first = first_trials(
            observations.weights,
            self._quantizations[runtime],
            max(self._amounts, default=0.0),
            named,
            runtime,
            self._goal.minimize,
        )
        if self._no_quantization_meets_goal(mine):
            first += gentler(self._quantizations[runtime], tried, runtime)
        return [config for config in first if config not in tried]

    def _no_quantization_meets_goal(self, mine: list[Outcome]) -> bool:
        """Return whether all quantizations that were tried without pruning are known and miss the goal."""
        alone = [outcome for outcome in mine if is_alone(outcome) and outcome.config.quantize != "none"]
        return bool(alone) and all(self._is_known(o) and not meets(o, self._goal) for o in alone)

    def _is_base_undecided(self, mine: list[Outcome], fresh: list[TrialConfig]) -> bool:
        """Return whether all known quantizations miss the goal while others still run, so that pruning should wait."""
        alone = [outcome for outcome in mine if is_alone(outcome) and outcome.config.quantize != "none"]
        known = [outcome for outcome in alone if self._is_known(outcome)]
        is_more = len(known) < len(alone) or any(config.prune is None for config in fresh)
        return bool(known) and is_more and not any(meets(outcome, self._goal) for outcome in known)

    def _base_quantization(self, mine: list[Outcome], runtime: str, likely: list[str]) -> str:
        """Return the quantization that prunings are combined with, or the likeliest one before any is known.

        If no quantization meets the goal, models are only pruned: pruning cannot repair a broken quantization.
        """
        allowed = self._quantizations[runtime]
        known = [o for o in mine if self._is_known(o) and o.config.quantize in allowed]
        rest = "none" if "none" in allowed and self._no_quantization_meets_goal(mine) else likely[0]
        return base_quantization_of(known, self._goal, rest)

    def _ask(
        self, observations: Observations, mine: list[Outcome], fresh: list[TrialConfig], runtime: str
    ) -> TrialConfig | None:
        """Return the next configuration, or None if only tried ones come up."""
        tried = [*(outcome.config for outcome in mine), *fresh]
        context = self._move_context(observations, mine, tried, runtime)
        is_own = len(tried) % _OWN_EVERY == 0 and (context.allowed > 0 or context.most == 0)
        move = None if is_own else next_move(context, len(tried))
        used = [config.quantize for config in tried if not config.is_baseline]
        used += [move.quantize] if move else []
        space = self._space(observations, mine, used, runtime)
        study = self._study(mine, space)
        own = {**space, "amount": self._amounts_of_interest(context)}
        spaces = [own] * _ATTEMPTS
        if move is not None:
            study.enqueue_trial(_params(move))
            spaces = [space | _space_of_moves(), *spaces]
        for choices in spaces:
            config = _config(study.ask(choices).params, runtime)
            if not _is_told(config, tried) and config.quantize in self._quantizations[runtime]:
                return config
        return None

    def _move_context(
        self, observations: Observations, mine: list[Outcome], tried: list[TrialConfig], runtime: str
    ) -> MoveContext:
        known = [outcome for outcome in mine if self._is_known(outcome)]
        likely = likely_quantizations(observations.weights or {}, self._quantizations[runtime])
        return MoveContext(
            known=known,
            tried=tried,
            goal=self._goal,
            runtime=runtime,
            base_quantization=self._base_quantization(mine, runtime, likely),
            most=max(self._amounts, default=0.0),
            can_spread=self._can_spread(observations, known),
            can_mix="mixed" in self._quantizations[runtime] and not _is_idle(known, _without_mixed),
            can_train=self._method in ("distill", "qat"),
            can_train_quantized=self._method != "qat",
        )

    def _can_spread(self, observations: Observations, mine: list[Outcome]) -> bool:
        return "prune" in observations.rankings and not _is_idle(mine, _without_spread)

    def _space(self, observations: Observations, mine: list[Outcome], used: list[str], runtime: str) -> dict[str, Any]:
        """Return the space of the sampler's own proposals; longer trainings are left to the moves."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution

        likely = likely_quantizations(observations.weights or {}, self._quantizations[runtime])
        return {
            "amount": FloatDistribution(0.0, max(self._amounts, default=0.0), step=0.01),
            "spread": FloatDistribution(0.0, _MOST_SPREAD if self._can_spread(observations, mine) else 0.0, step=0.25),
            "quantize": CategoricalDistribution(list(dict.fromkeys([*likely, *used]))),
        }

    def _amounts_of_interest(self, context: MoveContext) -> Any:
        """Return the amounts for the sampler: milder ones than about the largest allowed cannot move the frontier."""
        from optuna.distributions import FloatDistribution

        most = max(self._amounts, default=0.0)
        return FloatDistribution(min(most, round(_BELOW * context.allowed, 2)), most, step=0.01)

    def _study(self, mine: list[Outcome], space: dict[str, Any]) -> Any:
        """Return an Optuna study that knows all outcomes of a runtime."""
        import optuna
        from optuna.distributions import FloatDistribution

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        logging.getLogger("optuna").setLevel(logging.WARNING)
        sampler = optuna.samplers.TPESampler(
            seed=self._recipe.seed + len(mine),
            n_startup_trials=6,
            constant_liar=True,
        )
        study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
        space = space | _space_of_moves() | {"spread": FloatDistribution(0.0, _MOST_SPREAD, step=0.25)}
        for outcome in mine:
            if outcome.config.is_baseline:
                continue
            study.enqueue_trial(_params(outcome.config))
            trial = study.ask(space)
            if not self._is_known(outcome):
                continue
            if outcome.is_lost:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
                continue
            cost = cost_of(outcome, self._goal)
            assert outcome.cautious_drop is not None
            assert cost is not None
            trial.set_constraint("max_drop", outcome.cautious_drop - self._goal.max_drop)
            study.tell(trial, [cost, outcome.cautious_drop])
        return study


def _space_of_moves() -> dict[str, Any]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    return {
        "effort": FloatDistribution(EFFORTS[0], EFFORTS[-1]),
        "recover": CategoricalDistribution(("distill", "qat")),
    }


def _config(params: Mapping[str, Any], runtime: str) -> TrialConfig:
    """Return the configuration of an Optuna trial's parameters, without those that have no effect."""
    amount, quantize = round(params["amount"], 2), params["quantize"]
    prune = Pruning(amount=amount, spread=params["spread"]) if amount > 0 else None
    recover = "qat" if params.get("recover") == "qat" and catalogue.rounding_of(quantize) else ""
    effort = params.get("effort", 1.0) if prune or recover else 1.0
    return TrialConfig(prune, quantize, runtime, recover, effort)


def _is_told(config: TrialConfig, tried: list[TrialConfig]) -> bool:
    """Return whether a tried configuration differs from this one only by a little of the amount."""

    def rest(one: TrialConfig) -> TrialConfig:
        return replace(one, prune=replace(one.prune, amount=0.0)) if one.prune else one

    return any(rest(config) == rest(other) and is_same_size(config.amount, other.amount) for other in tried)


def _is_idle(known: list[Outcome], without: Callable[[TrialConfig], TrialConfig]) -> bool:
    """Return whether a choice had no effect where it was tried: size and drop are those ``without`` it."""
    results = [(outcome.config, (outcome.size_ratio, outcome.drop)) for outcome in known if outcome.drop is not None]
    return any(
        result == other and plain == without(config)
        for config, result in results
        if config != without(config)
        for plain, other in results
    )


def _within_reach(quantizations: list[str], runtime: str) -> list[str]:
    """Return the quantizations whose packages are installed here."""
    entries = {name: QUANTIZERS.find((name, runtime)) for name in quantizations}
    return [name for name, entry in entries.items() if not entry or not entry.is_missing_packages()]


def _without_mixed(config: TrialConfig) -> TrialConfig:
    return replace(config, quantize="int8") if config.quantize == "mixed" else config


def _without_spread(config: TrialConfig) -> TrialConfig:
    return replace(config, prune=replace(config.prune, spread=0.0)) if config.prune else config


def _params(config: TrialConfig) -> dict[str, Any]:
    """Return a configuration as parameters of an Optuna trial, in which only structured pruning has an amount."""
    is_structured = config.prune is not None and config.prune.method == "structured"
    return {
        "amount": config.amount if is_structured else 0.0,
        "spread": config.spread,
        "quantize": config.quantize,
        "effort": config.effort,
        "recover": config.recover or "distill",
    }
