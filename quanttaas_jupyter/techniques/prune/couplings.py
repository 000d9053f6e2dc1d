"""Couplings of tensor indices that can only be removed together: union-find over atoms, with products for reshapes.

An *atom* stands for a unit that can be removed, such as a channel. A dimension of a tensor carries a *label*: an
integer array of shape (size, columns) whose row i names the atoms that index i needs. The index stays while all of them
stay. Most rows name one atom; if heads and their widths were merged into one dimension, a row names a head and a place.
Atom 0 can never be removed, and a dimension without removable indices has the label None.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Label = np.ndarray | None
Labels = list[Label]

_LARGEST_PRODUCT = 200_000
"""Indices of a dimension above which products of atoms are not formed; chosen, not tuned, to bound time and memory."""


class Couplings:
    """All couplings known so far; they grow while a model is traced."""

    def __init__(self) -> None:
        self._parents = np.zeros(1024, np.int64)
        self._is_product = np.zeros(1024, bool)
        self._count = 1
        self._products: dict[int, tuple[int, ...]] = {}

    def fresh(self, size: int) -> np.ndarray:
        """Return a label for a dimension of ``size`` indices that can be removed independently."""
        start, self._count = self._count, self._count + size
        while self._count > len(self._parents):
            self._parents = np.concatenate([self._parents, np.zeros_like(self._parents)])
            self._is_product = np.concatenate([self._is_product, np.zeros_like(self._is_product)])
        self._parents[start : self._count] = np.arange(start, self._count)
        return np.arange(start, self._count, dtype=np.int64)[:, None]

    def resolve(self, label: Label) -> Label:
        """Return the label in terms of root atoms, or None if none of its indices can be removed."""
        if label is None:
            return None
        roots = self._roots(label)
        if self._is_product[roots].any():
            rows = [self._expanded(row) for row in roots.tolist()]
            widest = max(map(len, rows), default=0)
            roots = np.array([row + [0] * (widest - len(row)) for row in rows], np.int64).reshape(len(rows), widest)
        return roots if roots.any() else None

    def freeze(self, label: Label) -> None:
        """Mark all indices of a dimension as not removable."""
        resolved = self.resolve(label)
        if resolved is not None:
            self._parents[resolved.ravel()] = 0

    def unify(self, first: Label, second: Label) -> Label:
        """Couple two dimensions of the same size, so that both lose the same indices, and return their label."""
        first, second = self.resolve(first), self.resolve(second)
        if first is None or second is None:
            self.freeze(second if first is None else first)
            return None
        if first.shape == second.shape and (first == second).all():
            return first
        if first.shape[1] == second.shape[1] == 1:
            for one, other in zip(first[:, 0].tolist(), second[:, 0].tolist(), strict=True):
                self._union(one, other)
        elif len(first) > _LARGEST_PRODUCT:
            self.freeze(first)
            self.freeze(second)
        else:
            for row, other_row in zip(first.tolist(), second.tolist(), strict=True):
                self._unify_rows(row, other_row)
        return self.resolve(first)

    def tie(self, label: Label, sections: int) -> None:
        """Couple equal sections of a dimension, so that all lose the same places and stay equal in size."""
        if label is not None and sections > 1:
            size = len(label) // sections
            for section in range(1, sections):
                self.unify(label[:size], label[section * size : (section + 1) * size])

    def reshape(self, labels: Labels, before: Sequence[int], after: Sequence[int]) -> Labels:
        """Return the labels of a tensor after a row-major reshape from sizes ``before`` to sizes ``after``."""
        if 0 in before:
            for label in labels:
                self.freeze(label)
            return [None] * len(after)
        reshaped: Labels = [None] * len(after)
        sources = [i for i, size in enumerate(before) if size != 1]
        targets = [j for j, size in enumerate(after) if size != 1]
        while sources and targets:
            mine, theirs = [sources.pop(0)], [targets.pop(0)]
            while (held := math.prod(before[i] for i in mine)) != (wanted := math.prod(after[j] for j in theirs)):
                if held < wanted:
                    mine.append(sources.pop(0))
                else:
                    theirs.append(targets.pop(0))
            merged = self._merge([labels[i] for i in mine], [before[i] for i in mine])
            for j, label in zip(theirs, self._split(merged, [after[j] for j in theirs]), strict=True):
                reshaped[j] = label
        return reshaped

    def _merge(self, labels: Labels, sizes: list[int]) -> Label:
        if len(labels) == 1:
            return labels[0]
        total = math.prod(sizes)
        columns = []
        outer = 1
        for label, size in zip(labels, sizes, strict=True):
            resolved = self.resolve(label)
            if resolved is not None:
                inner = total // (outer * size)
                columns.append(np.tile(np.repeat(resolved, inner, axis=0), (outer, 1)))
            outer *= size
        return np.concatenate(columns, axis=1) if columns else None

    def _split(self, label: Label, sizes: list[int]) -> Labels:
        resolved = self.resolve(label)
        if resolved is None or len(sizes) == 1:
            return [resolved, *[None] * (len(sizes) - 1)]
        by_last = resolved.reshape(-1, sizes[-1], resolved.shape[1])
        if (by_last == by_last[:, :1]).all():
            return [*self._split(by_last[:, 0], sizes[:-1]), None]
        outer, inner = sizes[0], math.prod(sizes[1:])
        grid = resolved.reshape(outer, inner, resolved.shape[1])
        left, right = [], []
        for column in np.moveaxis(grid, 2, 0):
            if (column == column[:, :1]).all():
                left.append(column[:, 0])
            elif (column == column[:1]).all():
                right.append(column[0])
            elif column.all() and len(np.unique(column)) == column.size <= _LARGEST_PRODUCT:
                rows, places = self.fresh(outer)[:, 0], self.fresh(inner)[:, 0]
                for (i, j), atom in np.ndenumerate(column):
                    self._replace(int(atom), (int(rows[i]), int(places[j])))
                left.append(rows)
                right.append(places)
            else:
                self.freeze(column)
        first = np.stack(left, 1) if left else None
        return [self.resolve(first), *self._split(np.stack(right, 1) if right else None, sizes[1:])]

    def _replace(self, atom: int, product: tuple[int, ...]) -> None:
        self._products[atom] = product
        self._is_product[atom] = True

    def _roots(self, atoms: np.ndarray) -> np.ndarray:
        while True:
            parents: np.ndarray = self._parents[atoms]
            if (parents == atoms).all():
                return parents
            self._parents[atoms] = self._parents[parents]
            atoms = parents

    def _expanded(self, row: list[int]) -> list[int]:
        blockers: list[int] = []
        for atom in row:
            root = atom
            while self._parents[root] != root:
                root = int(self._parents[root])
            parts = self._expanded(list(self._products[root])) if root in self._products else [root]
            blockers += [part for part in parts if part and part not in blockers]
        return blockers

    def _union(self, one: int, other: int) -> None:
        ones, others = self._expanded([one]), self._expanded([other])
        if len(ones) <= 1 and len(others) <= 1:
            low, high = sorted((ones[0] if ones else 0, others[0] if others else 0))
            self._parents[high] = low
        else:
            self._unify_rows(ones, others)

    def _unify_rows(self, row: list[int], other_row: list[int]) -> None:
        mine, theirs = self._expanded(row), self._expanded(other_row)
        only_mine, only_theirs = [a for a in mine if a not in theirs], [a for a in theirs if a not in mine]
        if len(only_mine) == len(only_theirs):
            for one, other in zip(only_mine, only_theirs, strict=True):
                self._union(one, other)
        elif len(mine) == len(only_mine) == 1 and len(theirs) > 1:
            self._replace(mine[0], tuple(theirs))
        elif len(theirs) == len(only_theirs) == 1 and len(mine) > 1:
            self._replace(theirs[0], tuple(mine))
        else:
            self.freeze(np.array([[*only_mine, *only_theirs]], np.int64))
