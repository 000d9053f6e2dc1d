"""Units that can be removed, in groups that are compared with each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .tracing import Axis, Trace

if TYPE_CHECKING:
    import torch

_SHARE_KEPT = 0.1
"""Share of a group's units that always stays; chosen, not tuned. A smaller one lets layers nearly vanish."""
_ROUND_TO = ((64, 8), (16, 4))
"""(least width, multiple) of rounded widths; chosen, not tuned: vector units work on 4 or 8 channels at once."""


@dataclass(frozen=True)
class Group:
    """Units that lie in the same dimensions of the same parameters, such as the channels of a layer.

    Attributes:
        units: Atoms of the units.
        layers: Paths of the modules whose outputs they are.
        kind: Structure of the group; groups of one kind have comparable importance.
    """

    units: np.ndarray
    layers: tuple[str, ...]
    kind: str

    def removable(self) -> int:
        """Return how many units may be removed: a tenth of them stays, and at least one."""
        return min(len(self.units) - 1, int(len(self.units) * (1 - _SHARE_KEPT)))

    def rounded(self, count: int, is_rounding: bool) -> int:
        """Return the nearest number of units to remove; with rounding, a multiple of 4 or 8 units stays."""
        size = len(self.units)
        multiple = next((multiple for width, multiple in _ROUND_TO if size >= width), 1) if is_rounding else 1
        if multiple == 1:
            return min(count, self.removable())
        kept = max(multiple, int((size - count) / multiple + 0.5) * multiple)
        return max(0, min(size - kept, self.removable() // multiple * multiple))


class Units:
    """Units of a traced model, in groups."""

    def __init__(self, model: torch.nn.Module, trace: Trace) -> None:
        self.couplings = trace.couplings
        self.axes = trace.axes()
        self.sizes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        self.total = sum(int(np.prod(shape)) for shape in self.sizes.values())
        self.groups = _grouped(model, self.axes)

    def atoms(self) -> int:
        """Return one more than the largest atom."""
        return 1 + max((int(axis.label.max()) for axis in self.axes if axis.label is not None), default=0)

    def kept(self, removed: Sequence[int] | np.ndarray) -> dict[tuple[str, int], np.ndarray]:
        """Return the indices that stay, by tensor and dimension, for dimensions that lose some."""
        alive = np.ones(self.atoms(), bool)
        alive[np.asarray(removed, np.int64)] = False
        kept = {}
        for axis in self.axes:
            stays = surviving(axis.label, alive)
            if not stays.all():
                kept[axis.name, axis.dim] = np.flatnonzero(stays)
        return kept

    def share(self, removed: Sequence[int] | np.ndarray) -> float:
        """Return the share of the model's parameters that is removed with these units."""
        kept = self.kept(removed)
        left = 0
        for name, shape in self.sizes.items():
            left += int(np.prod([len(kept.get((name, dim), range(size))) for dim, size in enumerate(shape)]))
        return 1 - left / self.total if self.total else 0.0


def surviving(label: Any, alive: np.ndarray) -> np.ndarray:
    """Return a mask of the indices of a dimension that stay: those whose atoms all stay."""
    return np.asarray(alive[label].all(axis=1))


def _grouped(model: torch.nn.Module, axes: list[Axis]) -> list[Group]:
    owners = dict(model.named_modules())
    parameters = dict(model.named_parameters())
    places: dict[int, set[tuple[int, int]]] = defaultdict(set)
    for index, axis in enumerate(axes):
        assert axis.label is not None
        for column in range(axis.label.shape[1]):
            for atom in np.unique(axis.label[:, column]).tolist():
                if atom:
                    places[atom].add((index, column))
    grouped: dict[frozenset[tuple[int, int]], list[int]] = defaultdict(list)
    for atom in sorted(places):
        grouped[frozenset(places[atom])].append(atom)
    groups = []
    for where, atoms in grouped.items():
        own = [(axes[index], column) for index, column in sorted(where)]
        if len(atoms) < 2 or not any(axis.name in parameters for axis, _ in own):
            continue
        kinds = sorted(
            f"{type(owners[axis.name.rpartition('.')[0]]).__name__}.{axis.name.rpartition('.')[2]}.{axis.dim}.{column}"
            for axis, column in own
        )
        layers = dict.fromkeys(
            axis.name.rpartition(".")[0] for axis, _ in own if axis.dim == 0 and len(_shape(parameters, axis)) > 1
        )
        groups.append(Group(np.array(atoms, np.int64), tuple(layers), "|".join(kinds)))
    return groups


def _shape(parameters: Mapping[str, torch.Tensor], axis: Axis) -> tuple[int, ...]:
    return tuple(parameters[axis.name].shape) if axis.name in parameters else ()
