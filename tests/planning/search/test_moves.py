from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quanttaas_jupyter.core import catalogue
from quanttaas_jupyter.core.catalogue import Rounding, Technique
from quanttaas_jupyter.core.recipe import Goal
from quanttaas_jupyter.core.records.trial import Pruning, TrialConfig
from quanttaas_jupyter.planning.search import Outcome
from quanttaas_jupyter.planning.search.moves import MoveContext, _change_the_kind, base_quantization_of, next_move

GOAL, RUNTIME = Goal(max_drop=0.01), "onnxruntime"


def outcome(amount: float, drop: float | None, quantize: str = "int8", **changes: Any) -> Outcome:
    extra = {key: changes.pop(key) for key in ("effort", "recover") if key in changes}
    config = TrialConfig(Pruning(amount=amount) if amount else None, quantize, RUNTIME, **extra)
    size = (1 - amount) * (0.25 if quantize.startswith("int8") else 1.0)
    values = {"drop": drop, "size_ratio": None if drop is None else size, **changes}
    return Outcome(f"{amount:g}-{quantize}", config, **values)


def context(*known: Outcome, tried: tuple[Outcome, ...] = (), most: float = 0.97, can_mix: bool = True) -> MoveContext:
    configs = [item.config for item in (*known, *tried)]
    base = base_quantization_of(known, GOAL, "int8")
    return MoveContext(known, configs, GOAL, RUNTIME, base, most, can_spread=True, can_mix=can_mix)


def test_the_base_quantization_is_the_cheapest_unpruned_quantization_that_meets_the_goal() -> None:
    cheap_but_bad = outcome(0, 0.2, "int4-weight", size_ratio=0.15)
    assert base_quantization_of([outcome(0, 0.0, "fp16"), outcome(0, 0.005), cheap_but_bad], GOAL, "none") == "int8"
    assert base_quantization_of([], GOAL, "int8-dynamic") == "int8-dynamic"


def test_what_misses_the_goal_carries_nothing() -> None:
    assert base_quantization_of([outcome(0, 0.2)], GOAL, "none") == "none"
    assert base_quantization_of([outcome(0, 0.2), outcome(0, 0.0, "fp16")], GOAL, "none") == "fp16"
    trained = outcome(0, 0.0, recover="qat")
    assert base_quantization_of([outcome(0, 0.2), trained], GOAL, "none") == "none"


def test_for_latency_no_quantization_carries_where_others_are_slower() -> None:
    fast, small = Goal(minimize="latency"), Goal()
    known = [outcome(0, 0, "none", latency_ratio=1.0, size_ratio=1.0), outcome(0, 0, latency_ratio=1.4)]
    assert base_quantization_of(known, fast, "int8") == "none"
    assert base_quantization_of(known, small, "int8") == "int8"
    assert base_quantization_of([known[0], outcome(0, 0, latency_ratio=0.5)], fast, "none") == "int8"


def test_the_gap_between_what_meets_the_goal_and_what_does_not_is_halved() -> None:
    move = next_move(context(outcome(0, 0), outcome(0.5, 0.0), outcome(0.9, 0.5)), turn=0)
    assert move is not None
    assert move.amount == pytest.approx(1 - (0.5 * 0.1) ** 0.5, abs=0.01)
    assert move.quantize == "int8"


def test_of_what_still_runs_the_best_is_hoped() -> None:
    running = outcome(0.7, None)
    move = next_move(context(outcome(0, 0), outcome(0.5, 0.0), outcome(0.9, 0.5), tried=(running,)), turn=0)
    assert move is not None
    assert move.amount == pytest.approx(1 - (0.3 * 0.1) ** 0.5, abs=0.01)


def test_while_everything_meets_the_goal_half_of_the_rest_goes_up_to_the_largest_amount() -> None:
    move = next_move(context(outcome(0, 0), outcome(0.9, 0.0)), turn=0)
    assert move is not None
    assert move.amount == pytest.approx(0.95)
    at_most = next_move(context(outcome(0, 0), outcome(0.6, 0.0), most=0.7), turn=0)
    assert at_most is not None
    assert at_most.amount == pytest.approx(0.7)


def test_a_near_miss_is_trained_longer_and_longer() -> None:
    missed = outcome(0.8, 0.02)
    move = next_move(context(outcome(0, 0), outcome(0.5, 0.0), missed), turn=1)
    assert move is not None
    assert (move.amount, move.effort) == (0.8, 3.0)
    again = next_move(context(outcome(0, 0), outcome(0.5, 0.0), missed, outcome(0.8, 0.02, effort=3.0)), turn=1)
    assert again is not None
    assert (again.amount, again.effort) == (0.8, 6.0)


def test_the_near_miss_that_longer_training_likely_saves_goes_before_cheaper_ones() -> None:
    known = outcome(0, 0), outcome(0.75, 0.014), outcome(0.84, 0.0199)
    move = next_move(context(*known), turn=1)
    assert move is not None
    assert (move.amount, move.effort) == (0.75, 3.0)


def test_near_misses_train_longer_before_milder_amounts_are_tried() -> None:
    missed = outcome(0.5, 0.0101), outcome(0.75, 0.014)
    moves = [next_move(context(outcome(0, 0), *missed), turn) for turn in range(4)]
    assert all(move is not None and move.amount >= 0.5 for move in moves)


def kinds_tried(*known: Outcome) -> list[tuple[float, str, str]]:
    """What is done to near misses until nothing is left to do."""
    seen, found = list(known), []
    while (move := _change_the_kind(context(*seen))) is not None:
        found.append((move.spread, move.quantize, move.recover))
        seen.append(Outcome("tried", move, is_lost=True))
    return found


def test_a_near_miss_that_trained_longer_is_tried_with_amounts_by_sensitivity() -> None:
    missed = outcome(0.8, 0.015)
    assert kinds_tried(outcome(0, 0), outcome(0.78, 0.0), missed) == []
    longer = outcome(0.8, 0.015, effort=3.0)
    assert kinds_tried(outcome(0, 0), outcome(0.78, 0.0), longer) == [(0.5, "int8", "")]


def test_where_rounding_alone_hurts_layers_are_kept_and_quantizers_trained_with() -> None:
    found = kinds_tried(outcome(0, 0.008), outcome(0.78, 0.008), outcome(0.8, 0.015, effort=3.0))
    assert found == [(0.5, "int8", ""), (0.0, "mixed", ""), (0.0, "int8", "qat")]


def test_where_nothing_is_trained_no_move_trains() -> None:
    known = outcome(0, 0.008), outcome(0.5, 0.008), outcome(0.8, 0.015)
    ground_ = replace(context(*known), can_train=False)
    moves = [next_move(ground_, turn) for turn in range(4)]
    assert all(move is None or (move.effort, move.recover) == (1.0, "") for move in moves)
    always = replace(context(*known), can_train_quantized=False, can_mix=False, can_spread=False)
    assert _change_the_kind(always) is None


@pytest.mark.parametrize("is_trainable", [True, False])
def test_quantizers_are_trained_with_only_if_the_technique_says_that_they_can_be(is_trainable: bool) -> None:
    rounding = Rounding("int8") if is_trainable else None
    catalogue.describe("quantize", "int8-own", Technique(help="one", makes_integers=True, rounding=rounding))
    try:
        known = (outcome(0, 0.008, "int8-own"), outcome(0.8, 0.012, "int8-own", effort=3.0))
        found = kinds_tried(outcome(0.5, 0.0, "int8-own"), *known)
    finally:
        catalogue.forget("quantize", "int8-own")
    assert ((0.0, "int8-own", "qat") in found) == is_trainable


def test_what_misses_the_goal_by_far_is_left_alone() -> None:
    assert kinds_tried(outcome(0, 0), outcome(0.78, 0.0), outcome(0.9, 0.05)) == []


def test_luck_on_the_guiding_half_does_not_meet_the_goal() -> None:
    lucky = outcome(0.8, 0.009, standard_error=0.01)
    assert not context(lucky).meets(lucky)
    sure = outcome(0.8, 0.009, standard_error=0.001)
    assert context(sure).meets(sure)


amounts = st.sampled_from([0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95])
outcomes = st.builds(
    outcome,
    amount=amounts,
    drop=st.one_of(st.none(), st.floats(-0.02, 0.5)),
    quantize=st.sampled_from(["int8", "int8-dynamic", "fp16"]),
    effort=st.sampled_from([1.0, 3.0]),
)


@given(st.lists(outcomes, max_size=12), st.integers(0, 7))
def test_a_move_is_new_and_within_bounds_whatever_was_seen(found: list[Outcome], turn: int) -> None:
    known = [item for item in found if item.drop is not None]
    move = next_move(context(*known, tried=tuple(found)), turn)
    if move is None:
        return
    assert 0 <= move.amount <= 0.97
    assert move not in [item.config for item in found]
