"""Cuts of a traced model: plan one, make it, check that the model still works, and exclude groups that break it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from ...bundle.batches import Batch, call
from ...bundle.outputs import flatten_outputs
from . import PruneJob
from .amounts import CutSequence, closest, factors
from .importance import of_groups
from .surgery import Surgery
from .tracing import Trace
from .units import Group, Units
from .verify import Expected, Fault, find_fault, mend

_EVALUATIONS = 24
"""Cuts evaluated by one bisection, at most; chosen, not tuned. 24 halvings resolve any number of levels."""
_NEAR = 0.002
"""Distance from the wanted share of parameters at which the bisection stops; chosen, not tuned."""
_ROUGH = 0.02
"""Distance from the wanted share above which widths are not rounded; chosen, not tuned. Larger rounds more often."""
_SECONDS = 120.0
"""Seconds after which no further groups are excluded and tried again; chosen, not tuned."""
_MENDINGS = 6
"""Corrections of stored sizes tried for one cut; chosen, not tuned. Models need one per module that counts heads."""


class Cutter:
    """Cuts a traced model, and can undo a cut.

    Attributes:
        problem: Reason why the last attempt failed.
    """

    def __init__(self, job: PruneJob, batch: Batch, traced: Trace, units: Units) -> None:
        self.problem = "nothing can be removed"
        self._job, self._batch, self._traced, self._units = job, batch, traced, units
        self._importance: dict[str, list[np.ndarray]] = {}
        self._factors = factors(units.groups, job.ranking, job.spread)
        self._usable = list(range(len(units.groups)))
        self._left: dict[str, str] = {}
        self._surgery = Surgery(job.model)
        self._shapes = self._output_shapes()

    def cut(self, kind: str) -> float:
        """Prune by a kind of importance; groups that cannot be cut are excluded from this and later cuts.

        Returns:
            The share of the parameters that was removed; 0 if no cut works.
        """
        if kind not in self._importance:
            self._importance[kind] = of_groups(kind, self._job, self._units)
        deadline = time.monotonic() + _SECONDS
        while self._usable and time.monotonic() < deadline:
            removed, share = self._planned(kind)
            if share <= 0:
                break
            fault = self._cut(removed)
            if fault is None:
                self._job.report(f"removed {share:.1%} of the parameters by {kind}")
                return share
            self.problem = fault.problem
            hit = [i for i in self._usable if np.isin(self._units.groups[i].units, fault.atoms).any()]
            self._leave(hit or list(self._usable), fault.problem)
        return 0.0

    def undo(self) -> None:
        """Undo the last cut."""
        self._surgery.undo()

    def left_whole(self) -> Iterator[str]:
        """Yield sentences about layers that could not be pruned."""
        for problem, layers in self._left.items():
            yield f"{layers} stayed whole: {problem}"

    def _planned(self, kind: str) -> tuple[np.ndarray, float]:
        """Plan a cut with rounded widths, or with any widths if rounding misses the amount."""
        plans = [self._at_amount(kind, True)]
        if abs(plans[0][1] - self._job.amount) > _ROUGH:
            plans.append(self._at_amount(kind, False))
        return min(plans, key=lambda plan: abs(plan[1] - self._job.amount))

    def _at_amount(self, kind: str, is_rounding: bool) -> tuple[np.ndarray, float]:
        groups = [self._units.groups[i] for i in self._usable]
        importance = [self._importance[kind][i] for i in self._usable]
        factor = [self._factors[i] for i in self._usable]

        cuts = CutSequence(groups, importance, factor, self._job.scope == "global", is_rounding)
        place, share = closest(
            lambda place: self._units.share(cuts.removed(place)),
            self._job.amount,
            0.0,
            float(cuts.length),
            _EVALUATIONS,
            _NEAR,
        )
        return cuts.removed(place), share

    def _cut(self, removed: np.ndarray) -> Fault | None:
        expected = Expected(self._traced, removed)
        first: Fault | None = None
        for only_heads in (False, True):
            self._surgery = Surgery(self._job.model)
            self._surgery.cut(self._units.kept(removed))
            fault = self._mended(expected, only_heads)
            if fault is None:
                return None
            first = first or fault
            self._surgery.undo()
        return first

    def _mended(self, expected: Expected, only_heads: bool) -> Fault | None:
        job = self._job
        fault = find_fault(job.model, job.examples.inputs, self._batch, expected)
        for _ in range(_MENDINGS):
            if fault is None or not mend(job.model, self._surgery, expected, fault, only_heads):
                break
            fault = find_fault(job.model, job.examples.inputs, self._batch, expected)
        if fault is None and self._output_shapes() != self._shapes:
            return Fault(0, "its outputs change their shape", np.zeros(0, np.int64))
        return fault

    def _leave(self, hit: list[int], problem: str) -> None:
        self._usable = [i for i in self._usable if i not in hit]
        groups: list[Group] = [self._units.groups[i] for i in hit]
        layers = list(dict.fromkeys(layer for group in groups for layer in group.layers))
        named = ", ".join(layers[:3]) + (f" and {len(layers) - 3} more" if len(layers) > 3 else "")
        self._left.setdefault(problem, named or "parts of the model")

    def _output_shapes(self) -> list[tuple[int, ...]] | str:
        """Return the shapes of the outputs at a batch size of one, or the name of the error if the model refuses it."""
        import torch

        examples = self._job.examples.head(1)
        try:
            with torch.no_grad():
                outputs, _ = flatten_outputs(call(self._job.model, examples.inputs, examples.batches[0].inputs))
        except Exception as error:
            return f"{type(error).__name__}"
        return [tuple(leaf.shape) for _, leaf in outputs if isinstance(leaf, torch.Tensor)]
