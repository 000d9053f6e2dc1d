"""Study and Trial: handles of the user on a study in a store.

A Study reads only the store. It can be opened in any kernel, while the study runs or years later.
"""

from __future__ import annotations

import dataclasses
import getpass
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..compute.clusters import is_configured, open_cluster
from ..core.errors import NotFound, NotTrusted, QuantTaaSError, StoreError, StudyIsBusy, did_you_mean
from ..core.failures import StageError, one_line
from ..core.file_names import plain_name
from ..core.frontier import best_trial, pareto
from ..core.recipe import Recipe
from ..core.records.artifact import Artifact
from ..core.records.study import StudyRecord
from ..core.state import StudyState, TrialState
from ..core.understanding import Understanding
from ..store import MissingKey, Store, blobs
from ..study_store import records
from ..study_store.lease import break_silent
from .displays import display
from .submission import Submission
from .watching import Follower, Watcher

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

_CLAIM_SECONDS = 3.0
"""Seconds in the queue after which an engine is started for the study; chosen, not tuned. Engines claim within one."""


class Trial:
    """One configuration of a study, with its metrics and its artifact."""

    def __init__(self, study: Study, state: TrialState) -> None:
        self._study, self._state = study, state

    @property
    def name(self) -> str:
        """Name, such as ``prune50-int8``."""
        return self._state.name

    @property
    def config(self) -> dict[str, Any]:
        """Configuration: ``prune`` ({method, amount} or None), ``quantize`` and ``runtime``."""
        return self._state.config.stored()

    @property
    def status(self) -> str:
        """Status: waiting, measured (without latency yet), finished, failed, cut (stopped early) or cancelled."""
        return self._state.status

    @property
    def metrics(self) -> dict[str, float | int | None]:
        """Metrics by name; empty before the trial is evaluated."""
        return dict(self._state.metrics)

    @property
    def error(self) -> str | None:
        """Reason why the trial failed and what to try, or None."""
        error = self._state.error
        return "; ".join(filter(None, (error["reason"], error.get("hint", "")))) if error else None

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences to know before trusting the trial."""
        return self._state.warnings

    @property
    def artifact(self) -> dict[str, Any] | None:
        """Artifact: ``blob`` (SHA-256), ``size`` in bytes and ``filename``; None before it is built."""
        artifact = self._state.artifact
        return {"blob": artifact.blob, "size": artifact.size, "filename": artifact.filename} if artifact else None

    def load(self, threads: int | None = None, trusted: bool = False) -> Callable[..., Any]:
        """Return the compressed model as a callable that takes and returns torch tensors like the original.

        Args:
            threads: Threads of the runtime; None for all physical cores.
            trusted: Whether to load a ``.pt2`` file that may hold code, which would run here.

        Raises:
            NotTrusted: The file is not proved to be a plain graph and its weights.
            QuantTaaSError: The trial has no artifact, its blob was deleted, or it cannot run on this machine.
        """
        from ..core.device import physical_cores
        from ..techniques.runtimes import RUNTIMES
        from ..techniques.runtimes.export_check import as_built
        from .loaded_model import LoadedModel

        artifact = self._artifact()
        runtime, signature = RUNTIMES.get(artifact.runtime), artifact.signature
        try:
            with self._file(artifact) as path:
                if not trusted and (why := runtime.why_code(path)):
                    raise NotTrusted(
                        f"loading trial {self.name} may run code of the person who wrote its file: {why}. "
                        "If you trust it: load(trusted=True)"
                    )
                session = as_built(runtime.open(path, threads or physical_cores(), signature.input_names), signature)
        except StageError as error:
            raise QuantTaaSError(f"trial {self.name} cannot be loaded: {error}") from error
        return LoadedModel(session, signature, f"{self.name} of study {self._study.id}")

    def export(self, path: str | Path, overwrite: bool = False) -> Path:
        """Write the artifact to ``path``: a file, or a folder for a file with the trial's name.

        An ONNX model beyond 2 GB becomes two files, the graph and beside it its weights.

        Args:
            path: A file, which is overwritten, or a folder.
            overwrite: Whether to overwrite a file in a folder.

        Returns:
            The path of the file.

        Raises:
            QuantTaaSError: The trial has no artifact, its blob was deleted, or the file cannot be written, or is in the
                folder already.
        """
        from ..techniques.runtimes import RUNTIMES

        artifact = self._artifact()
        runtime, target = RUNTIMES.get(artifact.runtime), Path(path).expanduser()
        if target.is_dir():
            # The name stands in the store, where others may have written it.
            name = runtime.exported_name(artifact.filename)
            target = target / plain_name(name, f"{artifact.blob[:12]}.bin")
            if not overwrite and (target.exists() or target.is_symlink()):
                raise StoreError(f"{target} exists already; export(folder, overwrite=True) replaces it, or name a file")
        with self._file(artifact) as source:
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                if target.is_symlink() and target.parent.is_dir() and overwrite:
                    target.unlink()
                runtime.export(source, target)
            except OSError as error:
                raise StoreError(f"cannot write {target}: {error.strerror or error}") from None
        return target

    def _artifact(self) -> Artifact:
        if self._state.artifact is None:
            reason = self.error or f"it is {self.status}"
            raise QuantTaaSError(f"trial {self.name} has no file: {reason}")
        return self._state.artifact

    def _file(self, artifact: Artifact) -> Any:
        try:
            return blobs.blob_file(self._study._store, artifact.blob)
        except MissingKey:
            raise NotFound(
                f"the file of trial {self.name} was deleted from the store; resume() of the study makes it again"
            ) from None

    def __repr__(self) -> str:
        from ..views.text import trial_line

        return trial_line(self._state, self._study._known())


class Study:
    """A study in a store.

    ``study["prune50-int8"]`` is a trial, ``study.trials`` are all of them, the baseline first.
    """

    def __init__(self, store: Store, study_id: str, record: StudyRecord, submission: Submission | None = None) -> None:
        """Read a study; use ``quanttaas_jupyter.open`` or ``compress`` to get one."""
        self._store, self.id = store, study_id
        self._submission = submission
        self._record = record
        self._state = records.initial_state(record)
        self._reading = threading.Lock()
        self._read_at = 0.0
        self._queued_since = time.monotonic()
        self._ensuring_engine, self._engine_error = threading.Lock(), ""
        self._watcher = Watcher(self.id, self._watched)

    @property
    def name(self) -> str:
        """Name of the study; the model's class by default."""
        return self._state.name

    @property
    def store(self) -> str:
        """URI of the store."""
        return self._store.uri

    @property
    def understanding(self) -> Understanding | None:
        """What the study understood of its model and data; None for studies of versions that did not look."""
        return self._record.understanding

    @property
    def recipe(self) -> Recipe:
        """The study's recipe."""
        return Recipe.parse(self._record.recipe)

    @property
    def status(self) -> str:
        """Status: queued, running, finished, cancelled, failed or interrupted."""
        return self.state.status

    @property
    def who(self) -> str:
        """User who submitted the study."""
        return self._record.who

    @property
    def state(self) -> StudyState:
        """State of the study, read from the store at each access.

        An access reads the lease, the queue entry and the events since the last access; in a bucket these are three
        requests or more. If the store cannot be reached, it is the last known state with ``unreachable_since``. It
        never starts an engine; ``wait``, ``follow``, ``show`` and ``resume`` do.
        """
        with self._reading:
            self._update()
        return self._known()

    def look(self) -> StudyState:
        """Return the ``state``, read from the store."""
        return self.state

    @property
    def trials(self) -> list[Trial]:
        """All trials, the baseline first."""
        return [Trial(self, trial) for trial in self.state.trials.values()]

    def __getitem__(self, name: str) -> Trial:
        trials = self.state.trials
        if name not in trials:
            hint = did_you_mean(name, list(trials), f"there are {', '.join(trials) or 'none yet'}")
            raise NotFound(f"study {self.id} has no trial {name!r}; {hint}")
        return Trial(self, trials[name])

    def __iter__(self) -> Iterator[Trial]:
        return iter(self.trials)

    def __len__(self) -> int:
        return len(self.state.trials)

    def wait(self, timeout: float | None = None) -> Study:
        """Wait until the study has ended, with a progress bar; Ctrl-C stops the waiting, not the study.

        Args:
            timeout: Seconds to wait at most; None for no limit.

        Returns:
            The study itself.

        Raises:
            StudyFailed: The study failed, was cancelled or was interrupted.
            WaitTimeout: The time is over, and the study still runs.
        """
        from .waiting import wait

        wait(self, timeout)
        return self

    def frame(self) -> pandas.DataFrame:
        """Return a data frame with one row per trial: name, status, configuration and metrics."""
        import pandas

        rows = []
        for trial in self.state.trials.values():
            config = trial.config
            rows.append(
                {
                    "trial": trial.name,
                    "status": trial.status,
                    "prune": config.amount,
                    "method": config.prune.method if config.prune else None,
                    "quantize": config.quantize,
                    "runtime": config.runtime,
                    **trial.metrics,
                    "error": trial.error["reason"] if trial.error else None,
                }
            )
        return pandas.DataFrame(rows)

    def frontier(self, x: str = "size", y: str = "metric") -> list[Trial]:
        """Return the Pareto-optimal trials, sorted by ``x``: ``size``, ``latency``, or a metric to minimize."""
        state = self.state
        higher = bool(state.metric.get("higher_is_better", True))
        return [Trial(self, trial) for trial in pareto(state.trials.values(), x, y, higher)]

    def best(self, max_drop: float | None = None, minimize: str | None = None) -> Trial | None:
        """Return the smallest or fastest trial whose drop is at most ``max_drop`` (in the metric's unit), or None.

        Arguments that are None are taken from the recipe's goal.

        Raises:
            QuantTaaSError: ``minimize`` is neither ``size`` nor ``latency``.
        """
        if minimize not in (None, "size", "latency"):
            raise QuantTaaSError(f"minimize is 'size' or 'latency', not {minimize!r}")
        best = best_trial(self.state, max_drop, minimize)
        return Trial(self, best) if best else None

    def figure(self) -> Figure:
        """Return the still picture of the study."""
        return display().figure(self.state)

    def sensitivity(self) -> Figure:
        """Return a bar chart of the layers ranked by the damage that pruning or quantizing each alone does.

        The numbers are in ``study.state.sensitivity``: layer and SQNR of the outputs in dB, worst first.

        Raises:
            QuantTaaSError: The study ranked no layers.
        """
        state = self.state
        if not state.sensitivity:
            raise QuantTaaSError(
                f"study {self.id} has ranked no layers yet; 'search: auto', quantize: mixed and a prune 'spread' do"
            )
        return display().sensitivity_figure(state)

    def widget(self) -> Any:
        """Return the live view of the study."""
        return display().widget(self)

    def show(self, namespace: dict[str, Any] | None = None) -> None:
        """Display the live view, and a still view that remains readable without a kernel.

        Args:
            namespace: Variables for the models of "Load into notebook"; the notebook's by default.
        """
        display().show(self, namespace)

    def cancel(self) -> None:
        """Ask the engine to stop the study; finished trials stay."""
        if not self.state.has_ended:
            records.ask_to_cancel(self._store, self.id)

    def resume(self, trusted: bool = False, force: bool = False) -> Study:
        """Let an engine continue a study that was interrupted, cancelled or failed; finished stages are not run again.

        For a finished study, only what was deleted from the store is made again.

        Args:
            trusted: Whether to run a study that another user submitted: its model's code runs on this machine.
            force: Whether to take a running study from an engine that does not answer; this may take most of a minute.

        Raises:
            NotTrusted: Another user submitted the study.
            StudyIsBusy: The study is running or queued.
        """
        data = records.read_study_bytes(self._store, self.id)
        if not trusted and (why := self._why_foreign(data)):
            raise NotTrusted(f"{why}; resuming runs its code here. If you trust it: study.resume(trusted=True)")
        if force and not break_silent(self._store, self.id):
            raise StudyIsBusy(f"the engine of study {self.id} answers; cancel the study first")
        status, cluster = self.status, open_cluster(self._state.cluster)
        # A study that is queued with another user's ticket, or for a machine that is gone, may wait forever.
        if status == "running" or (status == "queued" and cluster.is_mine(self._store, self.id)):
            raise StudyIsBusy(f"study {self.id} is {status} already")
        cluster.ensure_engine(self._store.uri)
        cluster.submit(self._store, self.id, hashlib.sha256(data).hexdigest(), is_resume=True)
        self._watcher.wake()
        return self

    def _why_foreign(self, data: bytes) -> str:
        """Return why a ``study.json`` is not one that this user submitted; an empty string if it is."""
        if self._record.who != whoami():
            return f"study {self.id} was submitted by {self._record.who or 'somebody unknown'}"
        if not records.is_signed_by_me(data):
            return (
                f"study {self.id} says that {self._record.who} submitted it, but this user's key did not sign it (it "
                "was changed, or comes from another machine or an earlier version)"
            )
        return ""

    def engine_log(self) -> str:
        """Return the log lines of the engine about this study: one JSON object per line, as far as they are kept.

        Raises:
            ClusterError: The study's cluster is not configured here, or cannot be reached.
        """
        lines = open_cluster(self._state.cluster).engine_log(self._store.uri).splitlines()
        return "\n".join(line for line in lines if f'"study": "{self.id}"' in line)

    def follow(self, callback: Callable[[StudyState], None]) -> Follower:
        """Call ``callback`` with the present state, and after each change, from a thread, until ``stop`` is called."""
        return self._watcher.follow(callback)

    def _known(self) -> StudyState:
        """Return the state as far as it is in memory, without reading the store or waiting for a reader."""
        submission, state = self._submission, self._state
        if submission is not None and not submission.is_done:
            return submission.state(state)
        if state.status == "queued" and self._engine_error:
            return dataclasses.replace(state, message=self._engine_error)
        return state

    def _watched(self) -> StudyState:
        """Return the state for a view that follows the study, and start an engine if none claims it."""
        with self._reading:
            self._update()
            if self._submission is None and self._state.unreachable_since is None:
                self._ensure_engine_while_queued()
        return self._known()

    def _update(self) -> None:
        """Read the store, unless the study is still being sent."""
        if self._submission is not None:
            if not self._submission.is_done:
                return
            self._record = self._submission.record
            self._state = records.initial_state(self._record)
            self._submission = None
        try:
            self._state = self._read()
            self._read_at = time.time()
        except StoreError:
            since = self._state.unreachable_since or self._read_at or time.time()
            self._state = dataclasses.replace(self._state, unreachable_since=since)

    def _read(self) -> StudyState:
        # A study that ends after its events were read, and before its lease is, looks interrupted: then the rest of its
        # events is read.
        known = dataclasses.replace(self._state, unreachable_since=None)
        folded, trouble = records.fold_events(self._store, self.id, _without_lease(known))
        present = records.resolve_status(self._store, folded)
        if present.seq == 0 and self._store.size(f"studies/{self.id}/study.json") is None:
            gone = "the study was deleted from the store"
            return dataclasses.replace(present, status="failed", error=gone, message=gone)
        if present.status == "interrupted":
            folded, trouble = records.fold_events(self._store, self.id, folded)
            present = records.resolve_status(self._store, folded)
        if trouble:
            return dataclasses.replace(present, status="failed", error=trouble, message=trouble)
        return present

    def _ensure_engine_while_queued(self) -> None:
        """Start an engine for a queued study that no engine claims, because the engine of its submission has ended."""
        now = time.monotonic()
        if self._state.status != "queued":
            self._queued_since = now
        elif now - self._queued_since > _CLAIM_SECONDS and not self._ensuring_engine.locked():
            self._queued_since = now
            threading.Thread(target=self._ensure_engine, name=f"ensure-engine-{self.id}", daemon=True).start()

    def _ensure_engine(self) -> None:
        """Start the engine; this runs in a thread, since a cluster may take long to answer."""
        with self._ensuring_engine:
            try:
                # A reader of another user's study need not have its cluster in the configuration.
                if is_configured(self._state.cluster):
                    open_cluster(self._state.cluster).ensure_engine_for(self._store, self.id)
                self._engine_error = ""
            except QuantTaaSError as error:
                self._engine_error = str(error)
            except Exception as error:
                self._engine_error = f"no engine could be started: {one_line(error)}"

    def __repr__(self) -> str:
        # What is known in memory: a debugger or a log must not read a bucket.
        from ..views.text import study_text

        is_sending = self._submission is not None and not self._submission.is_done
        return study_text(self._known(), time.time() if is_sending else self._read_at or None)

    def _repr_html_(self) -> str:
        return display().html(self.state)


def whoami() -> str:
    """Return this user's name on this machine."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def _without_lease(state: StudyState) -> StudyState:
    """Return the state as the events alone give it; ``resolve_status`` then applies lease and queue again."""
    if state.status == "interrupted":
        return dataclasses.replace(state, status="running", message="")
    return state
