"""Moves around the border of what the goal allows: how far can the best quantization be pruned?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...recipe import Goal
from . import Config, Outcome
from .settled import cost_of

_NEAR_MISS = 0.04
_CLOSE = 0.02

Params = dict[str, Any]


def next_move(
    known: Sequence[Outcome],
    tried: Sequence[Config],
    goal: Goal,
    quantizations: Sequence[str],
    most: float,
    space: Mapping[str, Any],
) -> Params | None:
    """Parameters of the next trial, or None where the sampler shall propose.

    The moves take turns: halve the gap between the largest amount that meets the goal and the smallest that does not,
    train a near miss longer, train it with quantizers, let sensitive layers lose less. Every fourth turn, and whenever
    no move is new, is the sampler's.

    Args:
        known: Outcomes measured so far.
        tried: Configurations proposed so far.
        goal: What the best is.
        quantizations: What may be proposed.
        most: The largest amount that may be pruned.
        space: Distributions of the parameters.
    """
    carrier = _carrier(known, goal, quantizations)
    turn = len(tried) % 4
    moves: list[Callable[[], Params | None]] = [
        lambda: _halve_the_gap(known, goal, carrier, most),
        lambda: _train_longer(known, tried, goal),
        lambda: _change_the_kind(known, tried, goal, space),
    ]
    if turn == 3:
        return None
    for move in (*moves[turn:], *moves[:turn]):
        found = move()
        if found is not None and not _is_tried(found, tried):
            return found
    return None


def _carrier(known: Sequence[Outcome], goal: Goal, quantizations: Sequence[str]) -> str:
    """The quantization that carries the search: of the unpruned, the cheapest that meets the goal."""
    unpruned = [
        (outcome.drop > goal.max_drop, cost, outcome.config["quantize"])
        for outcome in known
        if outcome.amount == 0
        and not outcome.is_lost
        and outcome.config["quantize"] != "none"
        and (cost := cost_of(outcome, goal)) is not None
        and outcome.drop is not None
    ]
    return min(unpruned)[2] if unpruned else quantizations[-1]


def _halve_the_gap(known: Sequence[Outcome], goal: Goal, carrier: str, most: float) -> Params | None:
    """Between the largest amount that meets the goal and the next one that does not, by the share that is kept."""
    pruned = [outcome for outcome in known if outcome.config["quantize"] == carrier and outcome.drop is not None]
    allowed = max((o.amount for o in pruned if _meets(o, goal)), default=0.0)
    missed = [o.amount for o in pruned if not _meets(o, goal) and o.amount > allowed]
    lost = [o.amount for o in known if o.is_lost and o.amount > allowed and o.config["quantize"] == carrier]
    beyond = min((*missed, *lost), default=None)
    if beyond is None:
        amount = min(most, 1 - (1 - allowed) / 2)
    elif beyond - allowed <= _CLOSE:
        return None
    else:
        amount = 1 - math.sqrt((1 - allowed) * (1 - beyond))
    efforts = [o.effort for o in pruned if _meets(o, goal) and o.amount == allowed and allowed > 0]
    return _params(amount, carrier, effort=max(efforts, default=1.0))


def _train_longer(known: Sequence[Outcome], tried: Sequence[Config], goal: Goal) -> Params | None:
    for outcome in _near_misses(known, goal):
        params = _params_of(outcome)
        if outcome.amount > 0 and outcome.effort == 1.0 and not _is_tried({**params, "effort": 3.0}, tried):
            return {**params, "effort": 3.0}
    return None


def _change_the_kind(
    known: Sequence[Outcome], tried: Sequence[Config], goal: Goal, space: Mapping[str, Any]
) -> Params | None:
    """The largest near miss again: with quantizers in the training, or with amounts by sensitivity."""
    for outcome in _near_misses(known, goal):
        params = _params_of(outcome)
        for change in ({"recover": "qat"}, {"spread": 0.5}):
            key, value = next(iter(change.items()))
            is_open = value in space[key].choices and params[key] != value and (key != "spread" or outcome.amount > 0)
            if is_open and not _is_tried({**params, **change}, tried):
                return {**params, **change}
    return None


def _near_misses(known: Sequence[Outcome], goal: Goal) -> list[Outcome]:
    """Trials that just miss the goal and would beat what meets it, the cheapest first."""
    costs = [(cost_of(o, goal), o) for o in known if o.drop is not None and not o.is_lost]
    best = min((cost for cost, o in costs if cost is not None and _meets(o, goal)), default=1.0)
    missed = [
        (cost, o.name, o)
        for cost, o in costs
        if cost is not None and cost < best and o.drop is not None and goal.max_drop < o.drop <= _limit(goal)
    ]
    return [outcome for _, _, outcome in sorted(missed, key=lambda item: item[:2])]


def _limit(goal: Goal) -> float:
    return 2 * goal.max_drop + _NEAR_MISS


def _meets(outcome: Outcome, goal: Goal) -> bool:
    return outcome.drop is not None and outcome.drop <= goal.max_drop


def _params(amount: float, quantize: str, effort: float = 1.0) -> Params:
    return {
        "amount": round(amount, 2),
        "spread": 0.0,
        "quantize": quantize,
        "effort": effort,
        "recover": "distill",
    }


def _params_of(outcome: Outcome) -> Params:
    prune = outcome.config["prune"] or {}
    return {
        **_params(outcome.amount, outcome.config["quantize"], outcome.effort),
        "spread": prune.get("spread", 0.0),
        "recover": outcome.config.get("recover", "distill"),
    }


def _is_tried(params: Params, tried: Sequence[Config]) -> bool:
    for config in tried:
        prune = config["prune"] or {}
        mine = (prune.get("amount", 0.0), prune.get("spread", 0.0), config["quantize"], config.get("effort", 1.0))
        is_same = mine == tuple(params[key] for key in ("amount", "spread", "quantize", "effort"))
        if is_same and config.get("recover", "distill") == params["recover"]:
            return True
    return False
