"""Distribution of a wanted amount, a share of the model's parameters, over the groups of units."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from .units import Group

_LEVELS = 256
"""Steps from no pruning to full pruning of a group; chosen, not tuned. More come closer to the wanted amount."""
_LEAST_FACTOR, _MOST_FACTOR = 0.25, 4.0
"""Bounds of a group's factor; chosen, not tuned. Wider ones let one sensitive layer keep nearly all its units."""


def closest(
    share_at: Callable[[float], float], amount: float, low: float, high: float, evaluations: int, near: float = 0.0
) -> tuple[float, float]:
    """Find by bisection the point where a monotone step function comes closest to an amount.

    Args:
        share_at: The function; it never decreases.
        amount: The wanted value.
        low: Lower end of the interval.
        high: Upper end of the interval.
        evaluations: Largest number of evaluations, at least 2.
        near: Distance from the amount at which the search stops.

    Returns:
        The evaluated point whose value is closest to the amount, and that value; both ends are evaluated.
    """
    visited = [(low, share_at(low)), (high, share_at(high))]
    while len(visited) < evaluations and min(abs(share - amount) for _, share in visited) > near:
        middle = (low + high) / 2
        share = share_at(middle)
        visited.append((middle, share))
        low, high = (middle, high) if share < amount else (low, middle)
    return min(visited, key=lambda point: abs(point[1] - amount))


def factors(groups: Sequence[Group], ranking: Sequence[tuple[str, float]], spread: float) -> list[float]:
    """Return a factor for the importance of each group's units, from the sensitivity of its layers.

    A group whose layers damage the outputs more than the median layer gets a factor above one, and loses fewer units.
    With ``spread`` 1, an SQNR 20 dB below the median would be a factor of ten; factors are limited to the range from
    1/4 to 4.
    """
    if not ranking or spread <= 0:
        return [1.0] * len(groups)
    decibels = dict(ranking)
    median = float(np.median(list(decibels.values())))
    chosen = []
    for group in groups:
        own = min((decibels[name] for name in group.layers if name in decibels), default=median)
        chosen.append(min(_MOST_FACTOR, max(_LEAST_FACTOR, 10 ** (-(own - median) / 20 * spread))))
    return chosen


class CutSequence:
    """Sequence of cuts from none to full, in which each cut removes the units of the one before and a few more.

    Args:
        groups: Groups of removable units.
        importance: Importance of each group's units, one on average.
        factor: Factor for each group's importance; a group with a large one loses a smaller share.
        is_global: Whether to compare units over all groups of a kind (Fang et al., "Isomorphic Pruning", ECCV 2024).
        is_rounding: Whether to leave widths that are multiples of 4 or 8.
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
        """Return the atoms that are removed at a place in [0, ``length``].

        Between two levels of pruning the groups take the step one after another, so that even a few large groups come
        close to any amount.
        """
        level, advanced = divmod(int(place), len(self._groups))
        before, after = self._counts(level / _LEVELS), self._counts(min(1.0, (level + 1) / _LEVELS))
        atoms = [
            self._orders[i][: self._groups[i].rounded(after[i] if i < advanced else before[i], self._is_rounding)]
            for i in range(len(self._groups))
        ]
        return np.concatenate(atoms)

    def _counts(self, ratio: float) -> list[int]:
        """Return how many units of each group are removed when about ``ratio`` of all are."""
        counts = [0] * len(self._groups)
        for members, owners in self._scopes:
            quota = sum(len(self._groups[i].units) * (1 - (1 - ratio) ** (1 / self._factor[i])) for i in members)
            owned = np.bincount(owners[: math.floor(quota + 0.5)], minlength=len(counts))
            for i in members:
                counts[i] = int(owned[i])
        return counts
