"""How much of each group goes, so that the wanted share of the model's parameters does."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from .units import Group

_LEVELS = 256
_LEAST_FACTOR, _MOST_FACTOR = 0.25, 4.0


def closest(
    share_at: Callable[[float], float], amount: float, low: float, high: float, evaluations: int, near: float = 0.0
) -> tuple[float, float]:
    """Find by bisection where a monotone step function comes closest to an amount.

    Args:
        share_at: The function; it never falls.
        amount: The value wanted of it.
        low: Where to look from.
        high: Where to look to.
        evaluations: How often it may be asked, at least twice.
        near: How close is close enough.

    Returns:
        The visited point whose value is closest to the amount, and that value; both ends are visited.
    """
    visited = [(low, share_at(low)), (high, share_at(high))]
    while len(visited) < evaluations and min(abs(share - amount) for _, share in visited) > near:
        middle = (low + high) / 2
        share = share_at(middle)
        visited.append((middle, share))
        low, high = (middle, high) if share < amount else (low, middle)
    return min(visited, key=lambda point: abs(point[1] - amount))


def factors(groups: Sequence[Group], ranking: Sequence[tuple[str, float]], spread: float) -> list[float]:
    """How much dearer than others the units of each group are, from the sensitivity of its layers.

    A group whose layers damage the outputs more than the median layer does, gets a factor above one; 20 dB more than
    the median are a factor of ten where ``spread`` is 1, but never more than four.
    """
    if not ranking or spread <= 0:
        return [1.0] * len(groups)
    decibels = dict(ranking)
    median = float(np.median(list(decibels.values())))
    found = []
    for group in groups:
        own = min((decibels[name] for name in group.layers if name in decibels), default=median)
        found.append(min(_MOST_FACTOR, max(_LEAST_FACTOR, 10 ** (-(own - median) / 20 * spread))))
    return found


class Path:
    """A way from all units to few, on which each point removes what the points before it do, and a little more.

    Args:
        groups: What can go.
        importance: Of each group's units; about one on average.
        factor: How much dearer each group is; dear groups lose a smaller share.
        is_global: Compare units over all groups of one kind (Fang et al., "Isomorphic Pruning", ECCV 2024).
        is_rounding: Leave widths that runtimes like.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        importance: Sequence[np.ndarray],
        factor: Sequence[float],
        is_global: bool,
        is_rounding: bool,
    ) -> None:
        self.length = _LEVELS * len(groups)
        self._groups, self._factor, self._is_rounding = groups, factor, is_rounding
        self._orders = [group.units[np.argsort(i, kind="stable")] for group, i in zip(groups, importance, strict=True)]
        self._scopes: list[tuple[list[int], np.ndarray]] = []
        kinds: dict[str, list[int]] = defaultdict(list)
        for index, group in enumerate(groups):
            kinds[group.kind if is_global else str(index)].append(index)
        for members in kinds.values():
            scores = np.concatenate([importance[i] * factor[i] for i in members])
            owners = np.concatenate([np.full(len(groups[i].units), i) for i in members])
            self._scopes.append((members, owners[np.argsort(scores, kind="stable")]))

    def removed(self, place: float) -> np.ndarray:
        """The atoms that go at a place in [0, ``length``].

        Between two levels of pruning the groups take the step one after the other, so that even a few large groups
        come close to any amount.
        """
        level, advanced = divmod(int(place), len(self._groups))
        before, after = self._counts(level / _LEVELS), self._counts(min(1.0, (level + 1) / _LEVELS))
        found = [
            self._orders[i][: self._groups[i].rounded(after[i] if i < advanced else before[i], self._is_rounding)]
            for i in range(len(self._groups))
        ]
        return np.concatenate(found)

    def _counts(self, ratio: float) -> list[int]:
        """Units to remove of each group when about ``ratio`` of all go."""
        counts = [0] * len(self._groups)
        for members, owners in self._scopes:
            quota = sum(len(self._groups[i].units) * (1 - (1 - ratio) ** (1 / self._factor[i])) for i in members)
            found = np.bincount(owners[: math.floor(quota + 0.5)], minlength=len(counts))
            for i in members:
                counts[i] = int(found[i])
        return counts
