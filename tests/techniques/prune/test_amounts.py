import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quanttaas_jupyter.techniques.prune.amounts import CutSequence, closest, factors
from quanttaas_jupyter.techniques.prune.units import Group

AMOUNTS = st.floats(0.01, 0.99)


@given(steps=st.lists(st.floats(0, 1), min_size=1, max_size=20), amount=AMOUNTS, evaluations=st.integers(2, 30))
def test_bisection_of_any_monotone_steps_gives_the_closest_point_it_visited(
    steps: list[float], amount: float, evaluations: int
) -> None:
    heights = sorted(steps)
    visited: list[float] = []

    def share_at(place: float) -> float:
        visited.append(heights[min(int(place * len(heights)), len(heights) - 1)])
        return visited[-1]

    _, share = closest(share_at, amount, 0.0, 1.0, evaluations)
    assert len(visited) <= evaluations
    assert abs(share - amount) == min(abs(height - amount) for height in visited)
    assert abs(share - amount) <= min(abs(heights[0] - amount), abs(heights[-1] - amount))


@given(amount=AMOUNTS)
def test_bisection_of_a_line_comes_as_near_as_asked(amount: float) -> None:
    place, share = closest(lambda place: place, amount, 0.0, 1.0, 24, near=0.002)
    assert place == share == pytest.approx(amount, abs=0.002)


def group(first: int, size: int, name: str = "", kind: str = "same") -> Group:
    return Group(np.arange(first, first + size), (name,) if name else (), kind)


@given(
    sizes=st.lists(st.integers(2, 80), min_size=1, max_size=6),
    is_global=st.booleans(),
    is_rounding=st.booleans(),
    seed=st.integers(0, 9),
)
def test_a_sequence_of_cuts_only_ever_removes_more_and_empties_no_group(
    sizes: list[int], is_global: bool, is_rounding: bool, seed: int
) -> None:
    starts = np.cumsum([1, *sizes[:-1]]).tolist()
    groups = [group(start, size) for start, size in zip(starts, sizes, strict=True)]
    importance = [np.random.default_rng(seed).random(size) for size in sizes]
    cuts = CutSequence(groups, importance, [1.0] * len(groups), is_global, is_rounding)
    before: set[int] = set()
    for place in np.linspace(0, cuts.length, 40):
        removed = set(cuts.removed(place).tolist())
        assert before <= removed
        before = removed
    assert all(set(one.units.tolist()) - before for one in groups)


def test_sensitive_layers_lose_less_the_more_it_is_spread() -> None:
    groups = [group(1, 40, "tender"), group(41, 40, "middle"), group(81, 40, "tough")]
    ranking = [("tender", 5.0), ("middle", 15.0), ("tough", 25.0)]
    importance = [np.arange(40) + 1.0] * 3

    def lost(spread: float) -> list[int]:
        cuts = CutSequence(groups, importance, factors(groups, ranking, spread), True, False)
        removed = cuts.removed(cuts.length / 2)
        return [int(np.isin(one.units, removed).sum()) for one in groups]

    assert len(set(lost(0.0))) == 1
    mild, strong = lost(0.3), lost(1.0)
    assert mild[0] < mild[1] < mild[2]
    assert strong[0] < mild[0]
    assert strong[2] > mild[2]
