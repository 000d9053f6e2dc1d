"""Structured pruning: whole channels, units and heads are removed, so that the model is smaller and faster everywhere.

One run of the model shows which indices of which parameters can only be removed together (``tracing``). The least
important ones are removed (``importance``, ``amounts``). The pruned model is run again and must do the same operations
on tensors of exactly the predicted sizes (``verify``). Groups that fail are excluded, and the cut is tried again.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...bundle.batches import Batch, call
from ...bundle.outputs import flatten_outputs
from ...bundle.structure import unflatten
from ...core.catalogue import Technique
from ...core.failures import StageError
from ..evaluate.sqnr import LOSSLESS_DB, sqnr_db
from . import PRUNERS, RANKERS, Pruned, PruneJob, Ranking
from .cutting import Cutter
from .importance import applicable, of_groups
from .surgery import runs_leave_nothing
from .tracing import Trace, trace
from .units import Units, surviving

_FAR = 0.05
"""Distance between the wanted and the removed share of parameters above which a warning is given; chosen, not tuned."""
_JUDGED_ON = 64
"""Samples on which ``importance: auto`` compares the outputs; chosen, not tuned."""
_RANKED_ON = 128
"""Samples on which the sensitivity of layers is measured; chosen, not tuned. More cost time in proportion."""
_RANKED_GROUPS = 96
"""Groups that are ranked, the largest first; chosen, not tuned, to bound the time on deep networks."""

_WAY_OUT = "name fewer layers in 'ignore', or try unstructured pruning"


@PRUNERS.register(
    "structured",
    Technique(
        help="whole channels go: smaller files and faster everywhere",
        order=1,
        marker="square",
    ),
)
def prune(job: PruneJob) -> Pruned:
    """Remove the least important units until the wanted share of the model's parameters is gone.

    ``importance: auto`` prunes by each kind that applies, and keeps the one whose outputs right after pruning are
    closest to the original's on calibration samples.

    Raises:
        StageError: Nothing can be removed, or the importance does not apply.
    """
    with runs_leave_nothing(job.model):
        return _pruned(job)


def _pruned(job: PruneJob) -> Pruned:
    batch = _two_samples(job)
    traced = _traced(job, batch)
    units = Units(job.model, traced)
    if not units.groups:
        raise StageError(f"the model has no channels or units that can be removed{_because(traced)}", _WAY_OUT)
    kinds = applicable(job.model, units) if job.importance == "auto" else (job.importance,)
    cutter = Cutter(job, batch, traced, units)
    kind = _best(job, cutter, kinds) if len(kinds) > 1 else kinds[0]
    share = cutter.cut(kind)
    if not share:
        raise StageError(f"the model cannot be pruned by channels: {cutter.problem}", _WAY_OUT)
    warnings = list(cutter.left_whole())
    if abs(share - job.amount) > _FAR:
        reached = f"the architecture lets {share:.0%} of the parameters go where {job.amount:.0%} was asked"
        warnings.insert(0, reached + _because(traced))
    return Pruned(job.model.eval(), tuple(warnings), {"importance": kind})


@RANKERS.register("structured")
def rank(job: PruneJob) -> Ranking:
    """Rank layers by sensitivity: mask the least important half of a layer's units, with all coupled ones, and compare.

    Returns:
        Layers with the SQNR in dB of the outputs, at most 120, worst first. Coupled layers share a value.
    """
    batch = _two_samples(job)
    units = Units(job.model, _traced(job, batch))
    kind = "magnitude" if job.importance == "auto" else job.importance
    scores = of_groups(kind, job, units) if units.groups else []
    sample = job.examples.head(_RANKED_ON).rebatched(_RANKED_ON).batches[0]
    reference = _outputs(job, sample)
    pairs = sorted(zip(units.groups, scores, strict=True), key=lambda pair: -units.share(pair[0].units[:-1]))
    sensitivity: dict[str, float] = {}
    for group, score in pairs[:_RANKED_GROUPS]:
        least = group.units[np.argsort(score, kind="stable")[: len(group.units) // 2]]
        decibels = _masked_db(job, units, least, sample, reference)
        for layer in group.layers:
            sensitivity[layer] = min(decibels, sensitivity.get(layer, LOSSLESS_DB))
    return sorted(sensitivity.items(), key=lambda item: item[1])


def _two_samples(job: PruneJob) -> Batch:
    """Return a batch of at least two samples, because the batch dimension must not be of size one like others."""
    import torch

    batch = job.examples.head(2).batches[0]
    if batch.samples > 1 or not job.examples.is_sliceable():
        return batch
    return Batch([torch.cat([leaf, leaf]) for leaf in batch.inputs], [])


def _traced(job: PruneJob, batch: Batch) -> Trace:
    ignored = {id(module) for kept in job.ignore for module in kept.modules()}
    return trace(job.model, job.examples.inputs, batch, ignored)


def _best(job: PruneJob, cutter: Cutter, kinds: tuple[str, ...]) -> str:
    sample = job.examples.head(_JUDGED_ON).rebatched(_JUDGED_ON).batches[0]
    reference = _outputs(job, sample)
    decibels = {}
    for kind in kinds:
        if cutter.cut(kind):
            decibels[kind] = sqnr_db(_outputs(job, sample), reference)
            job.report(f"importance {kind}: outputs at {decibels[kind]:.1f} dB right after pruning")
        cutter.undo()
    return max(decibels, key=lambda kind: decibels[kind], default=kinds[0])


def _masked_db(job: PruneJob, units: Units, removed: np.ndarray, sample: Batch, reference: Any) -> float:
    import torch

    parameters = dict(job.model.named_parameters())
    alive = np.ones(units.atoms(), bool)
    alive[removed] = False
    backup: dict[str, Any] = {}
    with torch.no_grad():
        for axis in units.axes:
            gone = np.flatnonzero(~surviving(axis.label, alive))
            if axis.name in parameters and len(gone):
                backup.setdefault(axis.name, parameters[axis.name].clone())
                parameters[axis.name].index_fill_(axis.dim, torch.from_numpy(gone), 0.0)
        try:
            return sqnr_db(_outputs(job, sample), reference)
        finally:
            for name, values in backup.items():
                parameters[name].copy_(values)


def _outputs(job: PruneJob, sample: Batch) -> Any:
    import torch

    with torch.no_grad():
        leaves, structure = flatten_outputs(call(job.model, job.examples.inputs, sample.inputs))
    return unflatten(structure, [leaf for _, leaf in leaves])


def _because(traced: Trace) -> str:
    names = sorted(traced.fixed_by)
    return f"; operations that nothing is known of hold parts of it: {', '.join(names[:4])}" if names else ""
