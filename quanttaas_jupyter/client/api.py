"""Functions of the package, ``compress``, ``open``, ``studies`` and ``plan``, for scripts and notebooks."""

from __future__ import annotations

import contextlib
import html
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, TimeoutError
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..compute.clusters import Cluster, open_cluster, store_for
from ..core.config import load_config
from ..core.errors import NotFound, StoreError
from ..core.recipe import Recipe
from ..store import Store, open_store
from ..study_store import records
from ..study_store.summaries import UNREADABLE
from .inspection import Asked
from .preparation import prepare
from .study import Study, whoami
from .submission import Submission, bundle, ignore_progress

if TYPE_CHECKING:
    import torch

LOCAL = "local"

_PATIENCE = 10.0
"""Seconds to wait for the stores of clusters when studies are listed; chosen, not tuned."""

RecipeLike = Recipe | Mapping[str, Any] | str | Path | None


def compress(
    model: torch.nn.Module,
    data: Any = None,
    recipe: RecipeLike = None,
    calibration: Any = None,
    train: Any = None,
    metric: Any = None,
    example_inputs: Any = None,
    cluster: str | None = None,
    store: str | Path | None = None,
    name: str | None = None,
    task: str | None = None,
    labels: str | int | Sequence[str | int] | None = None,
    output: str | int | None = None,
    batch_dim: int | None = None,
    ignore_label: int | None = None,
    postprocess: Callable[[Any], Any] | None = None,
) -> Study:
    """Submit a model with its data and return at once; the study runs in the background.

    Args:
        model: A ``torch.nn.Module``; it is copied before this returns, and not changed.
        data: Evaluation data: a DataLoader, Dataset, iterable of ``(inputs, targets)``, or tuple of tensors or arrays.
        recipe: What to try: YAML, a mapping, a path, a Recipe, or None for the default.
        calibration: Sets ranges and ranks layers; by default a part of ``train``, or else of ``data``.
        train: Trains recoveries; by default ``calibration``.
        metric: A name, a callable, or ``(callable, "max" | "min")``; by default accuracy or R2, by the targets.
        example_inputs: One batch of inputs to trace the model with; by default the first of calibration.
        cluster: A cluster of the configuration, or "local"; None for the configured default.
        store: A folder or ``gs://BUCKET/PREFIX``; None for the cluster's store, or else the default.
        name: Name of the study in lists.
        task: What the model does, such as ``"regression"``; found out from outputs and targets by default.
        labels: Keys or positions of the targets in a batch; found out by default.
        output: Name or position of the output that is judged; ``logits``, or the one that fits the targets by default.
        batch_dim: Dimension of the samples in the inputs; found out by running the model by default.
        ignore_label: Label that counts nowhere; -100, or 255 where it lies beyond the classes by default.
        postprocess: Turns the model's outputs into what the metric takes; it runs outside of the file.

    Raises:
        QuantTaaSError: An argument is wrong; one sentence says what was expected and what to do.
    """
    asked = _asked(metric, task, labels, output, batch_dim, ignore_label, postprocess)
    target, where = _place(cluster, store)
    if target.name == LOCAL:
        # Before the checks, so that its workers import libraries at the same time.
        target.ensure_engine(where.uri)
    prepared = prepare(model, data, recipe, calibration, train, asked, example_inputs, name, where.scratch)
    if target.name == LOCAL:
        from ..techniques.availability import refuse_missing

        refuse_missing(prepared.recipe)
    submission = Submission(prepared, where, target, whoami()).start()
    return Study(where, prepared.id, submission.record, submission)


def open(study: str, store: str | Path | None = None) -> Study:
    """Open a study by its id, or by the URI of its folder (``.../studies/ID``), from any kernel.

    Without a store, an id is looked up in the default store, and then in those of the configured clusters. The study's
    state is read once, so that its ``repr`` tells it.

    Raises:
        NotFound: There is no such study.
    """
    match = re.fullmatch(r"(.+)/studies/([^/]+)/?", study)
    name = records.checked_id(match.group(2) if match else study)
    first, *others = _stores(match.group(1) if match else store)
    try:
        return _opened(first, name)
    except NotFound:
        for other in others:
            with contextlib.suppress(NotFound, StoreError):
                return _opened(other, name)
        raise


def _opened(store: Store, study_id: str) -> Study:
    study = Study(store, study_id, records.read_study(store, study_id))
    study.look()
    return study


def studies(store: str | Path | None = None) -> StudyList:
    """Return all studies of a store, newest first; only their summaries are read.

    Without a store, the studies of the default store and of those of configured clusters are returned. A cluster's
    store that does not answer within ten seconds is left out, and the list says so.
    """
    first, *others = _stores(store)
    pool = ThreadPoolExecutor(8, thread_name_prefix="studies")
    waiting = {other.uri: pool.submit(records.list_summaries, other) for other in others}
    pool.shutdown(wait=False)
    summaries, silent = records.list_summaries(first), []
    until = time.monotonic() + _PATIENCE
    for uri, answer in waiting.items():
        try:
            summaries += answer.result(max(0.0, until - time.monotonic()))
        except (StoreError, TimeoutError):
            silent.append(uri)
    fields = StudyInfo.__dataclass_fields__
    readable = [item for item in summaries if item.status != UNREADABLE]
    infos = [StudyInfo(**{key: getattr(item, key) for key in fields}) for item in readable]
    broken = [item.reason for item in summaries if item.status == UNREADABLE]
    return StudyList(sorted(infos, key=lambda info: -info.created), silent, broken)


def _stores(store: str | Path | None) -> list[Store]:
    """Return the named store, or else the default store and those of the configured clusters, each once."""
    if store is not None:
        return [open_store(store)]
    config = load_config()
    named = [config.store, *(cluster.store for cluster in config.clusters.values() if cluster.store)]
    return list({opened.uri: opened for opened in map(open_store, dict.fromkeys(named))}.values())


def plan(
    model: torch.nn.Module,
    data: Any = None,
    recipe: RecipeLike = None,
    calibration: Any = None,
    train: Any = None,
    metric: Any = None,
    example_inputs: Any = None,
    cluster: str | None = None,
    store: str | Path | None = None,
    name: str | None = None,
    task: str | None = None,
    labels: str | int | Sequence[str | int] | None = None,
    output: str | int | None = None,
    batch_dim: int | None = None,
    ignore_label: int | None = None,
    postprocess: Callable[[Any], Any] | None = None,
) -> PlanView:
    """Return what ``compress`` with these arguments would do: trials, stages, and how many of them are cached."""
    from ..planning.search import GOES_ON, first_plan
    from ..study_store import stage_cache

    asked = _asked(metric, task, labels, output, batch_dim, ignore_label, postprocess)
    target, where = _place(cluster, store)
    prepared = prepare(model, data, recipe, calibration, train, asked, example_inputs, name, where.scratch)
    record = bundle(prepared, where, prepared.draft(target.name, whoami()), ignore_progress)
    made = first_plan(record)
    cached = {key for key in made.stages if stage_cache.find(where, key) is not None}
    return PlanView(
        trials=tuple(
            (trial.name, not {stage.key for key in trial.targets for stage in made.chain(key)} - cached)
            for trial in made.trials.values()
        ),
        stages=len(made.stages),
        cached=len(cached),
        understanding=str(prepared.inspection.understanding.heading),
        notes=(*record.notes, *((GOES_ON,) if prepared.recipe.search == "auto" else ())),
    )


def warm() -> None:
    """Start the engine of this machine if studies run here by default, so that the first one finds started workers."""
    if load_config().cluster in (None, LOCAL):
        open_cluster(LOCAL).ensure_engine("")


@dataclass(frozen=True)
class PlanView:
    """Trials and stages that a study would run."""

    trials: tuple[tuple[str, bool], ...]
    stages: int
    cached: int
    notes: tuple[str, ...] = ()
    understanding: str = ""

    def __str__(self) -> str:
        head = f"{len(self.trials)} trials, {self.stages} stages, {self.cached} of them cached"
        lines = [f"  {name}{'  (cached)' if is_cached else ''}" for name, is_cached in self.trials]
        return "\n".join([*filter(None, [self.understanding]), head, *lines, *self.notes])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


@dataclass(frozen=True)
class StudyInfo:
    """One line of a list of studies; ``created`` is in seconds since the epoch."""

    id: str
    name: str
    status: str
    created: float
    done: int
    total: int
    failed: int
    best: str


class StudyList(Sequence[StudyInfo]):
    """List of studies, newest first."""

    def __init__(self, infos: Sequence[StudyInfo], silent: Sequence[str] = (), broken: Sequence[str] = ()) -> None:
        """Keep a list of studies.

        Args:
            infos: The studies, newest first.
            silent: URIs of stores that did not answer.
            broken: Sentences about studies that cannot be read.
        """
        self._infos = tuple(infos)
        self._notes = [*(f"{uri} did not answer; its studies are not in this list" for uri in silent), *broken]

    def __getitem__(self, index: Any) -> Any:
        return self._infos[index]

    def __len__(self) -> int:
        return len(self._infos)

    def __repr__(self) -> str:
        if not self._infos:
            return "\n".join(["no study yet; %%quanttaas submits the first one", *self._notes])
        rows = [_HEADER, *(_row(info) for info in self._infos)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, *self._notes])

    def _repr_html_(self) -> str:
        if not self._infos:
            return f"<p>{html.escape(repr(self))}</p>"
        head = "".join(f"<th style='text-align:left'>{cell}</th>" for cell in _HEADER)
        body = "".join(
            "<tr>" + "".join(f"<td style='text-align:left'>{html.escape(cell)}</td>" for cell in _row(info)) + "</tr>"
            for info in self._infos
        )
        notes = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in self._notes)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{notes}"


_HEADER = ("id", "name", "status", "trials", "created", "best")


def _row(info: StudyInfo) -> tuple[str, ...]:
    trials = f"{info.done} of {info.total}" + (f", {info.failed} failed" if info.failed else "")
    created = datetime.fromtimestamp(info.created).strftime("%Y-%m-%d %H:%M")
    return info.id, info.name, info.status, trials, created, info.best


def _asked(
    metric: Any,
    task: str | None,
    labels: str | int | Sequence[str | int] | None,
    output: str | int | None,
    batch_dim: int | None,
    ignore_label: int | None,
    postprocess: Callable[[Any], Any] | None,
) -> Asked:
    if isinstance(labels, (str, int)):
        labels = [part.strip() for part in str(labels).split(",")]
    names = None if labels is None else [str(label) for label in labels]
    named = None if output is None else str(output)
    return Asked(metric, task, names, named, batch_dim, ignore_label, postprocess)


def _place(cluster: str | None, store: str | Path | None) -> tuple[Cluster, Store]:
    """Return the cluster and the store of a study.

    Raises:
        QuantTaaSError: The cluster cannot reach the store.
    """
    target = open_cluster(cluster)
    where = open_store(store_for(target, store))
    target.refuse_store(where.uri)
    return target, where
