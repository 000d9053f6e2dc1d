from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quanttaas_jupyter.core.recipe import Goal, Recipe
from quanttaas_jupyter.core.records.stage import Ranking
from quanttaas_jupyter.core.records.trial import Pruning, TrialConfig
from quanttaas_jupyter.planning.search import Observations, Outcome, make_search
from quanttaas_jupyter.planning.search.auto import AutoSearch
from quanttaas_jupyter.planning.search.convergence import has_converged, hypervolume
from quanttaas_jupyter.planning.search.first_trials import first_trials

CONVOLUTIONS = {"convolution": 90, "linear": 10}
RANKINGS: dict[str, Ranking] = {"prune": (("a", 3.0),)}
RECURRENT = {"recurrent": 90, "linear": 10}


def search(**recipe: Any) -> AutoSearch:
    made = make_search(Recipe.parse({"search": "auto", **recipe}))
    assert isinstance(made, AutoSearch)
    return made


def answered(config: TrialConfig, border: float = 0.8, name: str = "") -> Outcome:
    """A world in which pruning costs nothing up to a border, and much beyond it."""
    size = (1 - config.amount) * (0.26 if config.quantize.startswith("int8") else 1.0)
    drop = 0.0 if config.amount <= border else 0.5 * (config.amount - border) + 0.02
    return Outcome(name or str(config), config, drop=drop, size_ratio=size, latency_ratio=1.0)


def run(auto: AutoSearch, most: int, border: float = 0.8, weights: Any = CONVOLUTIONS) -> list[Outcome]:
    outcomes = [answered(config, border, "baseline") for config in auto.start()]
    while len(outcomes) < most:
        fresh = auto.propose(Observations(tuple(outcomes), RANKINGS, weights), slots=2)
        if not fresh:
            break
        outcomes += [answered(config, border) for config in fresh]
    return outcomes


def test_the_baseline_comes_first_and_nothing_else_until_it_is_built() -> None:
    auto = search()
    (baseline,) = auto.start()
    assert baseline.is_baseline
    assert auto.propose(Observations((Outcome("baseline", baseline),)), slots=2) == []


def test_the_border_of_the_goal_is_found_closely_within_sixteen_trials() -> None:
    for border in (0.35, 0.62, 0.87):
        outcomes = run(search(budget={"trials": 16}), 40, border)
        assert len(outcomes) == 16
        best = min(o.size_ratio for o in outcomes if o.drop is not None and o.drop <= 0.01 and o.size_ratio is not None)
        assert best == pytest.approx(0.26 * (1 - border), rel=0.25), border


def test_it_stops_by_itself_when_the_frontier_no_longer_moves() -> None:
    outcomes = run(search(), 200)
    assert 12 <= len(outcomes) < 60


def test_no_configuration_is_proposed_twice() -> None:
    configs = [outcome.config for outcome in run(search(), 60)]
    assert len(configs) == len(set(configs))


def test_what_the_recipe_allows_bounds_the_proposals() -> None:
    outcomes = run(search(quantize=["int8-dynamic"], prune=[0, 0.6]), 20)
    assert {outcome.config.quantize for outcome in outcomes[1:]} == {"int8-dynamic"}
    assert max(outcome.amount for outcome in outcomes) <= 0.6
    unpruned = run(search(prune=[0], quantize=["int8", "fp16"], budget={"trials": 10}), 20)
    assert {outcome.amount for outcome in unpruned} == {0.0}


def test_a_pruning_of_another_kind_that_the_recipe_names_is_tried() -> None:
    outcomes = run(search(prune=[0, 0.9, "2:4"]), 12)
    assert any(o.config.prune and o.config.prune.method == "2:4" for o in outcomes)


def test_the_slots_are_kept_busy_but_nothing_is_proposed_on_top() -> None:
    auto = search()
    done = run(auto, 8)
    pending = [Outcome(str(i), replace(o.config, effort=9.0)) for i, o in enumerate(done[1:4])]
    observations = Observations((*done, *pending), {}, CONVOLUTIONS)
    assert auto.propose(observations, slots=2) == []
    assert len(auto.propose(observations, slots=4)) == 2


def test_a_resumed_search_goes_on_as_if_it_had_never_stopped() -> None:
    first = run(search(seed=3), 14)
    observations = Observations(tuple(first[:10]), RANKINGS, CONVOLUTIONS)
    assert search(seed=3).propose(observations, slots=2) == search(seed=3).propose(observations, slots=2)


def test_models_of_each_kind_start_with_what_makes_them_small() -> None:
    quantizations = ["none", "fp16", "int8", "int8-dynamic", "int8-weight", "int4-weight", "mixed"]
    of_convolutions = first_trials(CONVOLUTIONS, quantizations, 0.97, [], "onnxruntime")
    assert of_convolutions[0].quantize == "int8"
    recurrent = first_trials(RECURRENT, quantizations, 0.97, [Pruning("2:4", 0.5)], "onnxruntime")
    assert [config.quantize for config in recurrent[:2]] == ["int8-dynamic", "int8-weight"]
    assert recurrent[-1].prune == Pruning("2:4", 0.5)
    assert first_trials(CONVOLUTIONS, ["none"], 0.0, [], "torch") == []


def test_a_trial_that_looks_worse_than_one_that_failed_clearly_is_cut() -> None:
    def pruned(amount: float, **values: Any) -> Outcome:
        return Outcome(f"prune{amount}", TrialConfig(Pruning(amount=amount), "int8", "onnxruntime"), **values)

    auto = search()
    missed = pruned(0.9, drop=0.2, size_ratio=0.03, screen=0.4)
    assert "missed the goal" in (auto.why_hopeless(Observations((missed,)), pruned(0.95, screen=0.5)) or "")
    assert auto.why_hopeless(Observations((missed,)), pruned(0.95, screen=0.3)) is None
    assert auto.why_hopeless(Observations((missed,)), pruned(0.8, screen=0.5)) is None
    near = pruned(0.9, drop=0.02, size_ratio=0.03, screen=0.4)
    assert auto.why_hopeless(Observations((near,)), pruned(0.95, screen=0.5)) is None


def broken(config: TrialConfig, quantizations: dict[str, tuple[float, float]]) -> Outcome:
    """A world in which each quantization has a size and a drop of its own, and pruning costs nothing up to a half."""
    size, drop = quantizations[config.quantize]
    lost, ratio = max(0.0, config.amount - 0.5), size * (1 - config.amount)
    return Outcome(str(config), config, drop=drop + lost, size_ratio=ratio, latency_ratio=1.2 * size)


WEAK = {"none": (1.0, 0.0), "int8": (0.26, 0.3), "mixed": (0.31, 0.004), "int8-weight": (0.27, 0.02), "fp16": (0.5, 0)}


def run_in(world: dict[str, tuple[float, float]], most: int, **recipe: Any) -> list[Outcome]:
    auto = search(**recipe)
    outcomes = [broken(config, world) for config in auto.start()]
    while len(outcomes) < most:
        fresh = auto.propose(Observations(tuple(outcomes), {}, CONVOLUTIONS), slots=2)
        if not fresh:
            break
        outcomes += [broken(config, world) for config in fresh]
    return outcomes


def unpruned(outcomes: list[Outcome]) -> list[str]:
    return [o.config.quantize for o in outcomes if o.config.prune is None]


def test_where_int8_breaks_the_model_gentler_quantizations_are_tried_and_the_best_of_them_is_pruned() -> None:
    outcomes = run_in(WEAK, 16)
    assert unpruned(outcomes)[:5] == ["none", "int8", "mixed", "int8-weight", "fp16"]
    after = [o for o in outcomes if o.config.prune][3:]
    assert {o.config.quantize for o in after} >= {"mixed"}
    best = min((o.size_ratio or 1.0, o.name) for o in outcomes if o.drop is not None and o.drop <= 0.01)
    assert best[0] < 0.2


def test_where_nothing_meets_the_goal_what_is_pruned_is_not_quantized() -> None:
    outcomes = run_in({**WEAK, "mixed": (0.3, 0.3), "fp16": (0.5, 0.1)}, 14)
    moved = [o for o in outcomes if o.config.prune][3:]
    assert moved
    assert sum(o.config.quantize == "none" for o in moved) > len(moved) / 2


def test_where_int8_works_nothing_gentler_is_tried() -> None:
    outcomes = run_in({**WEAK, "int8": (0.26, 0.0)}, 14)
    assert {o.config.quantize for o in outcomes[1:]} == {"int8"}


def test_while_gentler_quantizations_run_nothing_is_pruned_on_top_of_a_broken_one() -> None:
    auto = search()
    done = [broken(config, WEAK) for config in auto.start()]
    done += [broken(config, WEAK) for config in auto.propose(Observations(tuple(done), {}, CONVOLUTIONS), 2)]
    fresh = auto.propose(Observations(tuple(done), {}, CONVOLUTIONS), slots=4)
    assert [(c.prune, c.quantize) for c in fresh] == [(None, "mixed"), (None, "int8-weight"), (None, "fp16")]
    running = [Outcome(str(config), config) for config in fresh]
    assert auto.propose(Observations((*done, *running), {}, CONVOLUTIONS), slots=4) == []


def test_for_latency_pruning_without_quantization_is_tried_and_may_carry() -> None:
    # Quantized models of this world are slower than the original.
    world = {**WEAK, "int8": (1.5, 0.0)}
    outcomes = run_in(world, 12, goal={"minimize": "latency"})
    first = [(o.amount, o.config.quantize) for o in outcomes[1:6]]
    assert (0.75, "none") in first
    assert "none" in {o.config.quantize for o in outcomes[6:]}
    assert not [o for o in run_in(WEAK, 5)[1:5] if o.config.quantize == "none"]


def test_what_rounding_broke_tells_nothing_of_the_pruning() -> None:
    def tried(amount: float, quantize: str, **values: Any) -> Outcome:
        prune = Pruning(amount=amount) if amount else None
        return Outcome(f"{amount}-{quantize}", TrialConfig(prune, quantize, "torch"), **values)

    auto = search()
    missed = tried(0.5, "int8", drop=0.3, size_ratio=0.1, screen=0.1)
    worse = tried(0.75, "int8-weight", screen=0.2)
    assert auto.why_hopeless(Observations((tried(0, "int8", drop=0.3), missed)), worse) is None
    assert auto.why_hopeless(Observations((tried(0, "int8", drop=0.0), missed)), worse) is not None
    same = tried(0.75, "int8", screen=0.2)
    assert auto.why_hopeless(Observations((tried(0, "int8", drop=0.3), missed)), same) is not None


@pytest.mark.parametrize(("recover", "trains"), [("none", False), ("batchnorm", False), ("distill", True)])
def test_only_a_search_with_recovery_trains_longer_and_with_quantizers(recover: str, trains: bool) -> None:
    def near(config: TrialConfig) -> Outcome:
        size = (1 - config.amount) * (0.26 if config.quantize == "int8" else 1.0)
        return Outcome(str(config), config, drop=0.008 if config.amount < 0.4 else 0.015, size_ratio=size)

    auto = search(recover=recover, quantize=["none", "int8"])
    outcomes = [near(config) for config in auto.start()]
    for _ in range(8):
        fresh = auto.propose(Observations(tuple(outcomes), {}, CONVOLUTIONS), slots=2)
        outcomes += [near(config) for config in fresh]
    assert any(o.effort != 1 for o in outcomes) == trains
    assert any(o.config.recover for o in outcomes) == trains


@pytest.mark.parametrize("choice", [{"quantize": "mixed"}, {"prune": Pruning(amount=0.5, spread=0.5)}])
def test_a_choice_that_changed_nothing_is_not_tried_again(choice: dict[str, Any]) -> None:
    plain = TrialConfig(Pruning(amount=0.5), "int8", "onnxruntime")
    missed = Outcome("prune50-int8", plain, drop=0.012, size_ratio=0.13)
    again = Outcome("again", replace(plain, **choice), drop=0.012, size_ratio=0.13)
    alone = [answered(replace(plain, prune=None)), answered(TrialConfig.baseline("onnxruntime"))]
    observations = Observations((*alone, missed, again), RANKINGS, CONVOLUTIONS)
    tried = [outcome.config for outcome in observations.outcomes]
    context = search()._move_context(observations, list(observations.outcomes), tried, "onnxruntime")
    before = search()._move_context(observations, list(observations.outcomes)[:3], tried[:3], "onnxruntime")
    assert (before.can_mix, before.can_spread) == (True, True)
    assert (context.can_mix, context.can_spread) == ("quantize" not in choice, "prune" not in choice)


def test_two_amounts_that_leave_nearly_the_same_are_one_trial() -> None:
    outcomes = run(search(prune=[0, 0.6], seed=1), 40, border=0.5)
    assert {o.config.spread for o in outcomes} <= {0.0, 0.25, 0.5, 0.75, 1.0}
    plain = sorted(o.amount for o in outcomes if o.amount and o.config.spread == 0 and o.effort == 1)
    assert plain
    assert all(high - low > 0.015 for low, high in pairwise(plain))


points = st.lists(st.tuples(st.floats(0, 1.2), st.floats(-0.05, 0.2)), max_size=12)


@given(points, st.tuples(st.floats(0, 1.2), st.floats(-0.05, 0.2)))
def test_a_further_point_never_takes_area_away(found: list[tuple[float, float]], more: tuple[float, float]) -> None:
    area = hypervolume(found)
    assert hypervolume([*found, more]) >= area - 1e-12
    assert 0 <= area <= 1.0 * 0.15 + 1e-12


def test_the_area_of_two_points_counts_what_they_share_once() -> None:
    assert hypervolume([(0.5, 0.0)]) == pytest.approx(0.05)
    assert hypervolume([(0.5, 0.0), (0.2, 0.05)]) == pytest.approx(0.5 * 0.1 + 0.3 * 0.05)


@settings(deadline=None)
@given(st.lists(st.floats(0.3, 0.9), min_size=12, max_size=20))
def test_a_search_that_improves_all_the_time_has_not_converged(ratios: list[float]) -> None:
    falling = [0.5 * 0.9**i for i in range(len(ratios))]
    config = TrialConfig(None, "int8", "onnxruntime")
    known = [Outcome(str(i), config, drop=0.0, size_ratio=ratio) for i, ratio in enumerate(falling)]
    assert not has_converged(known, Goal())
    still = [Outcome(str(i), config, drop=0.0, size_ratio=0.5) for i, _ in enumerate(ratios)]
    assert has_converged(still, Goal())
