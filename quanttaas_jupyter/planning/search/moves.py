"""Moves of the adaptive search around the border of the goal: how far can the best quantization be pruned?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from ...core import catalogue
from ...core.recipe import Goal
from ...core.records.trial import Pruning, TrialConfig
from . import Outcome
from .convergence import cost_of

_CLOSE = 0.02
"""Gap between a good and a bad amount that is not halved again; chosen, not tuned. Smaller costs more trials."""
_STEP = 0.75
"""Ratio of kept shares above which a step of the ladder needs no trial; chosen, not tuned. Larger adds trials."""
_LEARNS = 0.4
"""Exponent: training r times as long divides a drop by r to this power; a guess, not fitted. Larger trains more."""
_SAME_SIZE = 0.035
"""Relative difference of kept shares below which amounts count as tried; chosen, not tuned. Smaller repeats more."""

EFFORTS = (1.0, 3.0, 6.0)
"""Lengths of a recovery relative to the default; chosen, not tuned."""

_Move = Callable[["MoveContext"], TrialConfig | None]


@dataclass(frozen=True)
class MoveContext:
    """Facts that moves are based on.

    Attributes:
        known: Outcomes evaluated so far.
        tried: Configurations proposed so far.
        goal: The goal of the study.
        runtime: The runtime of the trials.
        base_quantization: The quantization that prunings are combined with.
        most: The largest amount of pruning.
        can_spread: Whether the sensitivity of layers to pruning is known.
        can_mix: Whether sensitive layers may stay in higher precision.
        can_train: Whether pruned models are trained, so that longer training makes a difference.
        can_train_quantized: Whether training with quantizers differs from the training of all trials.
    """

    known: Sequence[Outcome]
    tried: Sequence[TrialConfig]
    goal: Goal
    runtime: str
    base_quantization: str
    most: float
    can_spread: bool
    can_mix: bool
    can_train: bool = True
    can_train_quantized: bool = True

    @property
    def on_base(self) -> list[Outcome]:
        """Evaluated outcomes with the base quantization."""
        return [o for o in self.known if o.config.quantize == self.base_quantization and o.drop is not None]

    def meets(self, outcome: Outcome) -> bool:
        """Return whether an outcome meets the goal, by its cautious drop."""
        return meets(outcome, self.goal)

    def rounding_hurts(self, quantization: str) -> bool:
        """Return whether a quantization alone uses up more than half of the allowed drop."""
        drops = [o.cautious_drop for o in self.known if o.config.quantize == quantization and o.amount == 0]
        return min((drop for drop in drops if drop is not None), default=0.0) > self.goal.max_drop / 2

    @property
    def allowed(self) -> float:
        """The largest amount that meets the goal."""
        return max((o.amount for o in self.on_base if self.meets(o)), default=0.0)

    @property
    def near_misses(self) -> list[Outcome]:
        """Cheaper trials than the best whose drop is at most about twice the allowed one, the cheapest first."""
        costs = [(cost_of(o, self.goal), o) for o in self.known if o.drop is not None and not o.is_lost]
        best = min((cost for cost, o in costs if cost is not None and self.meets(o)), default=1.0)
        limit = 2 * self.goal.max_drop
        missed = [
            (cost, o.name, o)
            for cost, o in costs
            if cost is not None
            and cost < best
            and (o.cautious_drop or 0.0) <= limit + o.standard_error
            and not self.meets(o)
        ]
        return [outcome for _, _, outcome in sorted(missed, key=lambda item: item[:2])]


def base_quantization_of(known: Sequence[Outcome], goal: Goal, otherwise: str) -> str:
    """Return the quantization that prunings are combined with: the cheapest unpruned one that meets the goal.

    If the goal is latency, no quantization is a candidate too: it makes no file smaller, but others may be slower.
    """
    costs = [
        (1.0 if outcome.config.is_baseline else cost_of(outcome, goal), outcome.config.quantize)
        for outcome in known
        if is_alone(outcome)
        and not outcome.is_lost
        and (outcome.config.quantize != "none" or goal.minimize == "latency")
        and meets(outcome, goal)
    ]
    return min(((cost, name) for cost, name in costs if cost is not None), default=(0.0, otherwise))[1]


def is_alone(outcome: Outcome) -> bool:
    """Return whether an outcome shows a quantization without pruning and without training for it."""
    return outcome.config.prune is None and not outcome.config.recover


def meets(outcome: Outcome, goal: Goal) -> bool:
    """Return whether an outcome meets the goal, by its cautious drop."""
    drop = outcome.cautious_drop
    return not outcome.is_lost and drop is not None and drop <= goal.max_drop


def next_move(context: MoveContext, turn: int) -> TrialConfig | None:
    """Return the configuration of the next trial, or None if no move is new.

    The moves take turns: halve the gap between the largest amount that meets the goal and the smallest that does not;
    fill the widest gap below it, since an amount that meets the goal on the guiding half may miss it on the other;
    train a near miss longer; train it with quantizers, or let its sensitive layers lose less.
    """
    moves: list[_Move] = [_halve_the_gap, _train_longer, _fill_the_ladder, _change_the_kind]
    first = turn % len(moves)
    for move in (*moves[first:], *moves[:first]):
        config = move(context)
        if config is not None and not _is_tried(config, context.tried):
            return config
    return None


def _halve_the_gap(context: MoveContext) -> TrialConfig | None:
    """Return an amount between the largest that meets the goal and the next that does not, by the share that is kept.

    Trials that still run are assumed to meet the goal, so that a free slot does not go back to milder amounts.
    """
    allowed = context.allowed
    beyond = min(
        (o.amount for o in context.known if o.amount > allowed and (o.is_lost or o in context.on_base)), default=None
    )
    pending = [amount for amount in _amounts(context) if amount > allowed and (beyond is None or amount < beyond)]
    low = max((allowed, *pending))
    if beyond is None:
        return _on_base(context, min(context.most, 1 - (1 - low) / 2))
    if beyond - low <= _CLOSE:
        return None
    middle = _middle(low, beyond)
    if any(outcome.amount > middle for outcome, _ in _to_train_longer(context)):
        # Training this near miss longer would gain more than a milder amount.
        return None
    return _on_base(context, middle, _effort_at(context, allowed))


def _fill_the_ladder(context: MoveContext) -> TrialConfig | None:
    """Return the middle of the widest step, by the share that is kept, between amounts up to the largest allowed."""
    steps = [
        (math.log((1 - low) / (1 - high)), low, high)
        for low, high in pairwise(sorted({0.5, *(a for a in _amounts(context) if 0.5 <= a <= context.allowed)}))
    ]
    if not steps or max(steps)[0] < -math.log(_STEP):
        return None
    _, low, high = max(steps)
    return _on_base(context, _middle(low, high), _effort_at(context, context.allowed))


def _train_longer(context: MoveContext) -> TrialConfig | None:
    """Return the cheapest near miss that longer training likely brings to the goal, or else the cheapest near miss."""
    longer = _to_train_longer(context)
    likely = [config for outcome, config in longer if _likely_drop(outcome, config.effort) <= context.goal.max_drop]
    return next(iter(likely), longer[0][1] if longer else None)


def _to_train_longer(context: MoveContext) -> list[tuple[Outcome, TrialConfig]]:
    """Return the near misses whose next longer training was not tried, the cheapest first."""
    if not context.can_train:
        return []
    longer_trainings = []
    for outcome in context.near_misses:
        longer = next((effort for effort in EFFORTS if effort > outcome.effort), None)
        if outcome.amount > 0 and longer is not None:
            config = replace(_as_structured(outcome.config), effort=longer)
            if not _is_tried(config, context.tried):
                longer_trainings.append((outcome, config))
    return longer_trainings


def _likely_drop(outcome: Outcome, effort: float) -> float:
    """Return the expected drop after longer training: about a third less for three times the length."""
    return (outcome.cautious_drop or 0.0) * math.pow(outcome.effort / effort, _LEARNS)


def _change_the_kind(context: MoveContext) -> TrialConfig | None:
    """Return a near miss with a change: amounts by sensitivity, mixed precision, or training with quantizers."""
    can_qat = context.can_train and context.can_train_quantized
    for outcome in context.near_misses:
        config, quantization = _as_structured(outcome.config), outcome.config.quantize
        hurts = context.rounding_hurts(quantization)
        changed = []
        if config.prune and (outcome.effort > 1 or not context.can_train) and context.can_spread:
            changed.append(replace(config, prune=replace(config.prune, spread=0.5)))
        if hurts and quantization == "int8" and context.can_mix:
            changed.append(replace(config, quantize="mixed"))
        if hurts and can_qat and catalogue.rounding_of(quantization):
            changed.append(replace(config, recover="qat"))
        if fresh := next((one for one in changed if not _is_tried(one, context.tried)), None):
            return fresh
    return None


def _effort_at(context: MoveContext, amount: float) -> float:
    """Return the shortest training with which an amount met the goal."""
    return min((o.effort for o in context.on_base if context.meets(o) and o.amount == amount > 0), default=1.0)


def _amounts(context: MoveContext) -> list[float]:
    """Return all amounts proposed with the base quantization."""
    return [c.amount for c in context.tried if c.prune and c.quantize == context.base_quantization]


def _middle(low: float, high: float) -> float:
    return 1 - math.sqrt((1 - low) * (1 - high))


def _on_base(context: MoveContext, amount: float, effort: float = 1.0) -> TrialConfig:
    """Return a trial that prunes by an amount, rounded to percent, on the base quantization."""
    amount = round(amount, 2)
    prune = Pruning(amount=amount) if amount else None
    return TrialConfig(prune, context.base_quantization, context.runtime, effort=effort)


def _as_structured(config: TrialConfig) -> TrialConfig:
    """Return the configuration with structured pruning by its amount in percent: moves know no other method."""
    prune = Pruning(amount=round(config.amount, 2), spread=config.spread) if config.amount else None
    return replace(config, prune=prune)


def _is_tried(config: TrialConfig, tried: Sequence[TrialConfig]) -> bool:
    """Return whether a tried configuration differs from this one at most a little in the amount, or in the method."""
    return any(_choices(config) == _choices(other) and is_same_size(config.amount, other.amount) for other in tried)


def _choices(config: TrialConfig) -> tuple[float, str, float, str]:
    return config.spread, config.quantize, config.effort, config.recover


def is_same_size(amount: float, other: float) -> bool:
    """Return whether two amounts leave models of so similar a size that a second trial would bring nothing new."""
    if not amount or not other:
        return amount == other
    return abs(math.log((1 - amount) / (1 - other))) < _SAME_SIZE
