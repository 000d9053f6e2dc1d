"""Meters: they see a batch at a time, forget it, and give a metric with what its interval rests on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from ...bundle.structure import flatten
from ...core.failures import StageError
from .estimates import Estimate, of_blocks, of_jackknife, of_ratio
from .gathered import Gathered
from .tensors import rows_of

BLOCKS = 50
"""Blocks of samples that a metric's state is kept of: Student's t of 49 degrees is within 3 % of the normal's width."""
BLOCKS_OF_LISTS = 20
"""The same where a state is a list of all samples, such as AUROC's: every merged state is computed anew."""
_BLOCKS_OF_CALLS = 10
_FEWEST_BLOCKS, _STATE_BYTES = 10, 256 << 20
"""Blocks that an interval needs, and bytes of states above which there are fewer than usual; chosen, not tuned."""
_FEWEST_IN_CALL = 20
"""Samples a block needs so that a metric which cannot be merged is computed on blocks alone. Chosen, not tuned."""


class Meter(Protocol):
    """Measures one metric over batches."""

    def update(self, outputs: Any, targets: Any, reference: Any) -> None:
        """Take a batch: outputs, targets (None without labels), and outputs of the baseline."""

    def estimate(self) -> Estimate:
        """Return the metric over all batches. Raises StageError where it is not defined on them."""


class RatioMeter:
    """A mean over places: sums of scores and numbers of places in each sample."""

    def __init__(self, sums: Callable[[Any, Any, Any], tuple[Any, Any]], why_empty: str) -> None:
        """Measure by ``sums``, which gives both for every sample of a batch (n); ``why_empty`` says what lacks."""
        self._sums, self._why_empty = sums, why_empty
        self._numerators: list[np.ndarray] = []
        self._weights: list[np.ndarray] = []

    def update(self, outputs: Any, targets: Any, reference: Any) -> None:
        """Take a batch."""
        numerators, weights = self._sums(outputs, targets, reference)
        self._numerators.append(np.asarray(numerators, dtype=float))
        self._weights.append(np.asarray(weights, dtype=float))

    def estimate(self) -> Estimate:
        """Return the ratio of the sums."""
        numerators, weights = np.concatenate(self._numerators), np.concatenate(self._weights)
        if not weights.sum() > 0:
            raise StageError(self._why_empty, "give labels that count")
        return of_ratio(numerators, weights)


class State(Protocol):
    """What a metric keeps of the samples it saw, as TorchMetrics' metrics do."""

    def update(self, *arguments: Any) -> None:
        """Take samples."""

    def compute(self) -> float:
        """Return the metric over all of them. Raises StageError where it is not defined on them."""

    def merge(self, other: Any) -> None:
        """Take what another state saw."""


class BlockMeter:
    """A metric with a state, which is kept of every block of samples."""

    def __init__(
        self,
        make: Callable[[], State],
        feed: Callable[[Any, Any, Any], tuple[Any, ...]],
        samples: int,
        is_cut: bool,
        blocks: int = BLOCKS,
    ) -> None:
        """Measure over ``samples`` samples.

        Args:
            make: Gives an empty state.
            feed: Turns a batch (outputs, targets, reference) into what a state's ``update`` takes, samples first.
            samples: Number of samples in all.
            is_cut: Whether a batch may be shared between blocks.
            blocks: Number of blocks.
        """
        self._make, self._feed, self._is_cut = make, feed, is_cut
        self._samples, self._seen = samples, 0
        self._count = max(1, min(blocks, samples))
        self._states: dict[int, State] = {}

    def update(self, outputs: Any, targets: Any, reference: Any) -> None:
        """Take a batch."""
        self._take(self._feed(outputs, targets, reference))

    def _take(self, arguments: tuple[Any, ...]) -> None:
        if not self._states:
            self._count = self._affordable(arguments)
        size = _rows(arguments)
        for block, rows in self._blocks_of(size):
            if block not in self._states:
                self._states[block] = self._make()
            self._states[block].update(*(rows_of(argument, rows) for argument in arguments))
        self._seen += size

    def _affordable(self, arguments: tuple[Any, ...]) -> int:
        """Return the number of blocks: fewer where the states of pictures or maps would fill the memory."""
        one = self._make()
        size = getattr(one, "size_for", lambda *_: 0)(*arguments)
        return max(1, min(self._count, max(_FEWEST_BLOCKS, _STATE_BYTES // max(1, size))))

    def estimate(self) -> Estimate:
        """Return the metric of all states merged, with each block left out in turn."""
        states = [self._states[block] for block in sorted(self._states)]
        value = self._merged(states).compute()
        if len(states) < 2:
            return of_blocks(value, [value])
        return of_jackknife(value, list(self._without_each(states, value)))

    def _without_each(self, states: list[State], whole: float) -> Iterator[float]:
        heads = [self._make()]
        for state in states[:-1]:
            heads.append(self._merged([heads[-1], state]))
        tail, values = self._make(), []
        for position in reversed(range(len(states))):
            values.append(_computed(self._merged([heads[position], tail]), whole))
            tail = self._merged([states[position], tail])
        yield from reversed(values)

    def _merged(self, states: list[State]) -> State:
        found = self._make()
        for state in states:
            found.merge(state)
        return found

    def _blocks_of(self, size: int) -> Iterator[tuple[int, slice]]:
        if not self._is_cut:
            yield self._block_at(self._seen), slice(0, size)
            return
        start = 0
        while start < size:
            block = self._block_at(self._seen + start)
            # The first sample of the next block, which is where position * count passes (block + 1) * samples.
            end = -(-(block + 1) * self._samples // self._count) - self._seen
            yield block, slice(start, min(max(end, start + 1), size))
            start = min(max(end, start + 1), size)

    def _block_at(self, position: int) -> int:
        return min(position * self._count // max(1, self._samples), self._count - 1)


class UnmergedMeter(BlockMeter):
    """A metric whose states cannot be merged: one state of everything, and one of each of ten blocks."""

    def __init__(
        self, make: Callable[[], State], feed: Callable[[Any, Any, Any], tuple[Any, ...]], samples: int, is_cut: bool
    ) -> None:
        """Measure over ``samples`` samples; see ``BlockMeter``."""
        super().__init__(make, feed, samples, is_cut, _BLOCKS_OF_CALLS)
        self._whole = make()

    def _take(self, arguments: tuple[Any, ...]) -> None:
        super()._take(arguments)
        self._whole.update(*arguments)

    def estimate(self) -> Estimate:
        """Return the metric of everything, with that of each block."""
        value = self._whole.compute()
        values = [_computed(self._states[block], None) for block in sorted(self._states)]
        return of_blocks(value, [found for found in values if found is not None] or [value])


class WholeMeter:
    """A function that needs all outputs and targets at once."""

    def __init__(
        self,
        function: Callable[[Any, Any], float],
        name: str,
        most_bytes: int,
        dims: tuple[int, int] = (0, 0),
        feed: Callable[[Any, Any], tuple[Any, Any]] = lambda outputs, targets: (outputs, targets),
    ) -> None:
        """Measure by ``function``, which takes all outputs and targets, each joined.

        Args:
            function: Gives the metric.
            name: Its name in messages.
            most_bytes: Bytes of outputs and targets beyond which it is refused.
            dims: Dimension of the samples in outputs and in targets.
            feed: Turns outputs and targets of a batch into what is kept of it.
        """
        self._function, self._name, self._dims, self._feed = function, name, dims, feed
        self._most_bytes = most_bytes
        self._gathered = [Gathered(name, dim) for dim in dims]

    def update(self, outputs: Any, targets: Any, reference: Any) -> None:
        """Keep a batch. Raises StageError where all of them are more than may be kept."""
        for gathered, value in zip(self._gathered, self._feed(outputs, targets), strict=True):
            gathered.add(value)
        if sum(gathered.bytes for gathered in self._gathered) > self._most_bytes:
            raise StageError(
                f"metric {self._name!r} needs everything at once, which is more than {_size(self._most_bytes)}",
                "let it return one value a sample, or use a smaller max_samples or a larger max_bytes",
            )

    def estimate(self) -> Estimate:
        """Return the function's value, with its values on (or without) blocks of samples."""
        outputs, targets = (gathered.whole() for gathered in self._gathered)
        value, samples = self._function(outputs, targets), _length(outputs, self._dims[0])
        edges = np.linspace(0, samples, min(_BLOCKS_OF_CALLS, samples) + 1).astype(int)
        blocks = [np.arange(start, end) for start, end in itertools.pairwise(edges)]
        if len(blocks) < 2 or not _can_be_cut((outputs, targets), self._dims, samples):
            return of_blocks(value, [value])
        if samples >= _BLOCKS_OF_CALLS * _FEWEST_IN_CALL:
            values = [found for rows in blocks if (found := self._of(outputs, targets, rows)) is not None]
            return of_blocks(value, values or [value])
        everything = np.arange(samples)
        left_out = [self._of(outputs, targets, np.setdiff1d(everything, rows)) for rows in blocks]
        return of_jackknife(value, [value if found is None else found for found in left_out])

    def _of(self, outputs: Any, targets: Any, rows: np.ndarray) -> float | None:
        try:
            return self._function(_taken(outputs, rows, self._dims[0]), _taken(targets, rows, self._dims[1]))
        except StageError:
            # A block may lack a class or all variance.
            return None


def _size(count: int) -> str:
    return f"{count / 2**30:.3g} GiB"


def _computed(state: State, otherwise: Any) -> Any:
    """Return the metric of a state; samples without a class or any variance say nothing of its spread."""
    try:
        return state.compute()
    except StageError:
        return otherwise


def _rows(arguments: tuple[Any, ...]) -> int:
    """Return the number of samples: outputs may be nested, targets a list with one entry a sample."""
    lists = [len(argument) for argument in arguments if isinstance(argument, list)]
    return lists[0] if lists else _length(arguments[0])


def _length(value: Any, dim: int = 0) -> int:
    if isinstance(value, list):
        return len(value)
    return max((int(leaf.shape[dim]) for _, leaf in flatten(value)[0] if getattr(leaf, "ndim", 0) > dim), default=0)


def _can_be_cut(values: tuple[Any, Any], dims: tuple[int, int], samples: int) -> bool:
    given = [pair for pair in zip(values, dims, strict=True) if pair[0] is not None and not isinstance(pair[0], list)]
    leaves = [(leaf, dim) for value, dim in given for _, leaf in flatten(value)[0]]
    return all(getattr(leaf, "ndim", 0) > dim and leaf.shape[dim] == samples for leaf, dim in leaves)


def _taken(value: Any, rows: np.ndarray, dim: int) -> Any:
    from torch.utils._pytree import tree_map

    if isinstance(value, list):
        return [value[row] for row in rows]
    index = (*(slice(None),) * dim, rows)
    return tree_map(lambda leaf: leaf[index], value)
