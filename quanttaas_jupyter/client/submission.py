"""Submission of a prepared study in the background: read the data, split it, upload blobs, submit to the engine."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..bundle import model as models
from ..bundle.batches import Batch, Batches, varying_sizes
from ..bundle.shards import write_batches
from ..bundle.structure import unflatten
from ..compute.clusters import Cluster
from ..core.errors import ClusterError, DataError, ModelError, QuantTaaSError
from ..core.failures import StageError, one_line
from ..core.recipe import Prune
from ..core.records.study import StudyRecord
from ..core.scratch import PREFIX, usable
from ..core.state import StudyState
from ..core.versions import differences, minor, versions
from ..store import Store, blobs
from ..store.base import Progress, Together
from ..study_store import records, stage_cache
from ..techniques import portable_model
from ..techniques.evaluate.tensors import judged_output, raw_targets
from ..views import format as fmt
from .inspection import Inspection, answering
from .inspection.labels import late_markers, refuse_late_markers, refuse_strange_labels
from .inspection.metric_check import refuse_other_ranges, refuse_uneven
from .inspection.running import holds_nan
from .preparation import Prepared

if TYPE_CHECKING:
    import torch

_KINDS = 16
"""Sizes of samples that the model is run on before the study, at most; chosen, not tuned."""
_MARKED = 8
"""Batches with strange labels on which a model may give them, at most; chosen, not tuned."""
CALIBRATION_SAMPLES = 512
"""Calibration samples taken from training data, at most; chosen, not tuned. More make calibration slower."""
_CALIBRATION_SHARE = 0.2
"""Share of ``--data`` taken for calibration if there is no other data; chosen, not tuned. Less is left to evaluate."""


class ReportProgress(Protocol):
    """Progress callback: the present action, and the share of bytes that was sent (0 to 1) once that is known."""

    def __call__(self, message: str, sent: float | None = None) -> None:
        """Report progress."""


def ignore_progress(message: str, sent: float | None = None) -> None:
    """Ignore progress."""


class Submission:
    """Submission of a prepared study in the background; ``state`` reports it until the study is in the store."""

    def __init__(self, prepared: Prepared, store: Store, cluster: Cluster, who: str) -> None:
        self._prepared, self._store, self._cluster = prepared, store, cluster
        self.record = prepared.draft(cluster.name, who)
        self._reported: tuple[str, float | None] = ("reading the data", None)
        self._error: str | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"submit-{prepared.id}")

    def start(self) -> Submission:
        """Start the submission; the process waits for its thread before it exits."""
        self._thread.start()
        return self

    @property
    def is_done(self) -> bool:
        """Whether the study is in the store."""
        return self._done.is_set() and self._error is None

    def state(self, before: StudyState) -> StudyState:
        """Return the state to show before the study is in the store."""
        if self._error is not None:
            return dataclasses.replace(before, status="failed", error=self._error, message=self._error)
        message, sent = self._reported
        return dataclasses.replace(before, status="queued", message=message, sent=sent)

    def _run(self) -> None:
        try:
            side = ThreadPoolExecutor(1, thread_name_prefix="engine")
            engine = side.submit(self._cluster.ensure_engine, self._store.uri)
            side.shutdown(wait=False)
            data_sets, notes = read(self._prepared, self._report, self._store.scratch)
            if not engine.done():
                self._report(f"waiting for an engine on {self._cluster.name}")
            there = engine.result()
            self._cluster.refuse_store(self._store.uri, there)
            is_portable = _has_to_be_portable(self._prepared, there, self._cluster.name)
            self.record = send(self._prepared, self._store, self.record, data_sets, notes, self._report, is_portable)
            sha256 = records.create_study(self._store, self.record)
            self._cluster.submit(self._store, self._prepared.id, sha256)
            self._done.set()
            # From here on, the state of the study itself says what it waits for.
            with contextlib.suppress(QuantTaaSError):
                self._cluster.wait_until_claimed(self._store, self._prepared.id)
        except QuantTaaSError as error:
            self._error = str(error)
        except Exception as error:
            self._error = f"the study could not be submitted: {one_line(error)}"
        finally:
            self._done.set()

    def _report(self, message: str, sent: float | None = None) -> None:
        self._reported = message, sent


def bundle(prepared: Prepared, store: Store, draft: StudyRecord, report: ReportProgress) -> StudyRecord:
    """Read the data and upload all blobs that the store lacks; return the complete record."""
    return send(prepared, store, draft, *read(prepared, report, store.scratch), report)


def read(
    prepared: Prepared, report: ReportProgress, scratch: Path | None = None
) -> tuple[dict[str, Batches], list[str]]:
    """Read the data and split it; return the data sets by their role, and notes on where they come from.

    What does not fit into one shard lies in files below ``scratch`` until it is sent.
    """
    data_sets: dict[str, Batches] = {}
    for key, source in prepared.sources.items():
        label = "--data" if key == "eval" else f"--{key}"

        def progress(samples: int, total: int | None, label: str = label) -> None:
            report(f"reading {label}: {samples}{f' of {total}' if total else ''} samples")

        data_sets[key] = source.read(progress, scratch)
    _refuse_strange_labels(data_sets["eval"], prepared.inspection)
    _refuse_late_markers(prepared, data_sets["eval"])
    _refuse_strange_inputs(prepared, data_sets["eval"])
    _refuse_uneven(prepared, data_sets["eval"])
    notes = [*prepared.notes, *(source.note for source in prepared.sources.values() if source.note)]
    notes += _set_calibration_aside(data_sets, prepared.recipe.seed)
    if prepared.recipe.search == "auto":
        notes += _set_guide_aside(data_sets, prepared.recipe.seed)
    sizes = varying_sizes(data_sets.values())
    data_sets["calibration"] = dataclasses.replace(data_sets["calibration"], sizes=sizes)
    if prepared.example is not None:
        data_sets["calibration"] = _led_by(prepared.example, data_sets["calibration"])
    return data_sets, notes + _timed_batch(data_sets["calibration"], prepared.recipe.latency.batch)


def send(
    prepared: Prepared,
    store: Store,
    draft: StudyRecord,
    data_sets: Mapping[str, Batches],
    notes: list[str],
    report: ReportProgress,
    is_portable: bool = False,
) -> StudyRecord:
    """Upload all blobs that the store lacks, several at a time, and return the complete record."""
    program = _portable(prepared, data_sets, report, store.scratch) if is_portable else None
    what = f"sending the model and {sum(batches.samples for batches in data_sets.values())} samples"
    report(what, 0.0)

    def progress(done: int, total: int) -> None:
        report(f"{what}: {fmt.size(done)} of {fmt.size(total)}", done / total)

    size = program.path.stat().st_size if program else prepared.snapshot.bytes
    together = Together(size + sum(batches.bytes for batches in data_sets.values()), progress)
    # Data sets go one after another, some shards of each at a time: all at once would fill the memory.
    with ThreadPoolExecutor(1, thread_name_prefix="send") as pool:
        written = {key: pool.submit(write_batches, store, batches, together.part) for key, batches in data_sets.items()}
        if program:
            model = {"blob": blobs.give_file(store, program.path, together.part()), "portable": program.signature}
            program.path.unlink(missing_ok=True)
        else:
            model = {"blob": _store_model(store, prepared.snapshot, together.part())}
        references = {key: reference.result() for key, reference in written.items()}
    if is_portable:
        notes = [*notes, f"{portable_model.WHY_NOT}; {portable_model.WHAT_INSTEAD}"]
    recipe = draft.recipe
    if is_portable and prepared.recipe.search == "auto":
        # A search would propose prunings that all fail.
        recipe = {**recipe, "prune": [Prune(amount=0).model_dump(mode="json")]}
    return dataclasses.replace(
        draft,
        recipe=recipe,
        model={**draft.model, **model},
        metric=_stored_metric(store, prepared.inspection),
        postprocess=prepared.postprocess.stored(store) if prepared.postprocess else None,
        recover=prepared.recovery.stored(store) if prepared.recovery else None,
        data=references,
        notes=tuple(notes),
    )


def _stored_metric(store: Store, inspection: Inspection) -> dict[str, Any]:
    """Return the metric's description, with the blob of what travels with it."""
    if inspection.metric_pickle is None:
        return inspection.metric
    return {**inspection.metric, "blob": blobs.put_bytes(store, inspection.metric_pickle)}


def _refuse_strange_labels(evaluation: Batches, inspection: Inspection) -> None:
    """Raise DataError or MetricError where targets that the first look did not see are not what it took them for."""
    judging = inspection.understanding.judging
    if all(metric["kind"] == "callable" for metric in inspection.measure.metrics()):
        # A function of the person's own knows what its targets mean.
        return
    for batch in evaluation.batches if evaluation.has_targets else ():
        targets = unflatten(evaluation.targets, list(batch.targets))
        if judging.task is not None and not isinstance(targets, list):
            found = raw_targets(targets, judging)
            refuse_strange_labels(found, judging)
            if found is not None:
                refuse_other_ranges(inspection.measure, found)


def _refuse_late_markers(prepared: Prepared, evaluation: Batches) -> None:
    """Raise DataError where labels that a model of class numbers never gives come only after the first look."""
    judging, measure = prepared.inspection.understanding.judging, prepared.inspection.measure
    of_own = all(metric["kind"] == "callable" for metric in measure.metrics())
    if of_own or not evaluation.has_targets or (judging.scores, judging.labels) != ("classes", "ids"):
        return
    held: list[tuple[Batch, set[int]]] = []
    for batch in evaluation.batches:
        target = raw_targets(unflatten(evaluation.targets, list(batch.targets)), judging)
        held.append((batch, {int(label) for label in target.unique()} if target is not None else set()))
    markers = late_markers(set().union(*(labels for _, labels in held)), judging)
    if not markers:
        return
    answer = answering(models.load(prepared.snapshot.path), evaluation)
    given: set[int] = set()
    for batch in [batch for batch, labels in held if labels & markers][:_MARKED]:
        given |= {int(label) for label in judged_output(measure.processed(answer(batch)), judging).unique()}
    refuse_late_markers(markers, given)


def _refuse_strange_inputs(prepared: Prepared, evaluation: Batches) -> None:
    """Raise DataError where the model cannot run on batches of other sizes, or inputs of NaN give outputs of NaN."""
    kinds: set[Any] = set()
    model: torch.nn.Module | None = None
    for batch in evaluation.batches:
        # Of a batch that may be cut only the sizes of one sample matter.
        kind = tuple((*leaf.shape[:dim], *leaf.shape[dim + 1 :]) for leaf, dim in evaluation.located_inputs(batch))
        is_new = kind not in kinds and 0 < len(kinds) < _KINDS
        kinds.add(kind)
        if is_new or holds_nan(batch.inputs):
            model = model or models.load(prepared.snapshot.path)
            answering(model, evaluation)(batch)


def _refuse_uneven(prepared: Prepared, evaluation: Batches) -> None:
    """Raise MetricError where a metric needs everything at once, and batches of all the data cannot be joined."""
    if not evaluation.is_uniform():
        model: list[Any] = []

        def answer(batch: Batch) -> Any:
            model[:] = model or [models.load(prepared.snapshot.path)]
            return answering(model[0], evaluation)(batch)

        refuse_uneven(prepared.inspection.measure, answer, evaluation)


def _has_to_be_portable(prepared: Prepared, there: Mapping[str, str], cluster: str) -> bool:
    """Return whether the model must be sent as an exported program, since the cluster has another version of Python.

    Raises:
        ClusterError: Other versions differ, or the study needs pickled code of the notebook.
    """
    here = versions()
    if problems := differences(here, there):
        raise ClusterError(
            f"cluster {cluster!r} does not fit this kernel: {'; '.join(problems)}. Install what it has here, "
            "or use an image with what is here; nothing was sent"
        )
    if minor(here["python"]) == minor(there["python"]):
        return False
    pythons = f"Python is {minor(here['python'])} here and {minor(there['python'])} on cluster {cluster!r}"
    own = {
        "recovery": prepared.recovery,
        "metric": prepared.inspection.metric_pickle,
        "postprocessing": prepared.postprocess,
    }
    if what := next((name for name, travels in own.items() if travels), None):
        raise ClusterError(f"{pythons}, so the notebook's own {what} cannot travel; use the same version on both sides")
    if prepared.recipe.ignore:
        raise ClusterError(f"{pythons}, so the modules under 'ignore' are unknown there; use the same version")
    return True


@dataclass(frozen=True)
class _Program:
    path: Path
    signature: dict[str, Any]


def _portable(prepared: Prepared, data_sets: Mapping[str, Batches], report: ReportProgress, scratch: Path) -> _Program:
    report("exporting the model for another version of Python")
    path = usable(scratch) / f"{PREFIX}program-{prepared.id}.pt2"
    try:
        return _Program(path, portable_model.pack(models.load(prepared.snapshot.path), data_sets["calibration"], path))
    except StageError as error:
        path.unlink(missing_ok=True)
        raise ModelError(f"the model cannot travel to another version of Python: {error}") from None


def _store_model(store: Store, snapshot: models.ModelSnapshot, progress: Progress) -> str:
    """Store a model and return its blob; a pickle of the same model from another kernel is reused."""
    key = hashlib.sha256(f"model {snapshot.digest}".encode()).hexdigest()
    known = stage_cache.find_model(store, key)
    if known is not None:
        store.touch(f"blobs/{known}")
        progress(snapshot.bytes, snapshot.bytes)
        return known
    sha = blobs.give_file(store, snapshot.path, progress)
    stage_cache.keep_model(store, key, sha)
    return sha


def _set_calibration_aside(data_sets: dict[str, Batches], seed: int) -> list[str]:
    """Split off calibration data if none was given, and return a note on where it comes from."""
    if "calibration" in data_sets:
        return []
    if "train" in data_sets:
        samples = data_sets["train"].samples
        _, data_sets["calibration"] = data_sets["train"].split(1.0, CALIBRATION_SAMPLES, seed)
        return [f"calibration: {data_sets['calibration'].samples} of the {samples} samples of --train"]
    whole = data_sets["eval"]
    if whole.samples < 2 or (not whole.is_sliceable() and len(whole.batches) < 2):
        raise DataError("--data holds a single sample; give more, or --calibration beside it")
    data_sets["eval"], data_sets["calibration"] = whole.split(_CALIBRATION_SHARE, 2 * CALIBRATION_SAMPLES, seed)
    return [
        f"calibration: {data_sets['calibration'].samples} of the {whole.samples} samples of --data, "
        "left out of the evaluation; --calibration or --train names other data"
    ]


def _set_guide_aside(data_sets: dict[str, Batches], seed: int) -> list[str]:
    """Split the evaluation data: one half guides the search, the other gives the reported numbers."""
    whole = data_sets["eval"]
    if whole.samples < 4 or (not whole.is_sliceable() and len(whole.batches) < 2):
        raise DataError("search: auto needs --data of at least 4 samples, in at least 2 batches; or use search: grid")
    data_sets["eval"], data_sets["guide"] = whole.split(0.5, whole.samples, seed + 1)
    counts = data_sets["guide"].samples, data_sets["eval"].samples
    return [f"search: guided by {counts[0]} samples of --data, judged on the other {counts[1]}"]


def _timed_batch(calibration: Batches, wanted: int) -> list[str]:
    """Return a note if latency is measured on another batch size, because batches cannot be cut."""
    real = calibration.batches[0].samples
    if calibration.is_sliceable() or real == wanted:
        return []
    return [f"latency: batches of {real} are timed instead of {wanted}, as those of the data cannot be cut or joined"]


def _led_by(example: Batch, calibration: Batches) -> Batches:
    stripped = [Batch(batch.inputs, []) for batch in calibration.batches]
    return dataclasses.replace(calibration, batches=(example, *stripped), targets=None)
