"""Context of a stage: store, settings, and the results of the stages it builds on."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundle import local_code
from ..bundle import model as models
from ..bundle.batches import Batches
from ..bundle.shards import read_batches
from ..core import identity
from ..core.errors import StoreError, Unreadable
from ..core.records.stage import Ranking, StageResult
from ..core.scratch import PREFIX, usable
from ..core.understanding import Judging
from ..store import blobs
from ..store.base import Store
from ..techniques import portable_model
from ..techniques.evaluate.judge import Measure
from ..techniques.runtimes import RUNTIMES, Notes, Runtime, Session
from ..techniques.runtimes.export_check import as_built

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class _NotesInStore:
    """Notes under ``notes/`` in the store; a lost note only costs time, since the runtime measures again."""

    store: Store

    def read(self, name: str) -> bytes | None:
        """Return the data of a note, or None if it does not exist or the store cannot be reached."""
        with suppress(StoreError, Unreadable):
            data = self.store.read_if_there(f"notes/{name}")
            # Native code reads it: another user's note is none.
            return None if data is None else identity.opened(f"note {name}", data)
        return None

    def write(self, name: str, data: bytes) -> None:
        """Write a note; an unreachable store is ignored."""
        with suppress(StoreError):
            self.store.replace(f"notes/{name}", identity.sealed(f"note {name}", data))


@dataclass(frozen=True)
class Context:
    """Arguments of a stage.

    Attributes:
        store: The store of the study.
        settings: The stage's own settings.
        inputs: Results of the stages it builds on, by role.
        threads: Threads it may use.
        report: Called with lines for the log.
    """

    store: Store
    settings: dict[str, Any]
    inputs: Mapping[str, StageResult]
    threads: int
    report: Callable[[str], None]

    @property
    def runtime(self) -> Runtime:
        """The runtime that the stage builds for or evaluates in."""
        runtime_ = RUNTIMES.get(self.settings["runtime"])
        return runtime_.aimed_at(self.settings["targets"], self.notes) if "targets" in self.settings else runtime_

    @property
    def notes(self) -> Notes:
        """Measurements that runtimes kept from earlier builds of any study."""
        return _NotesInStore(self.store)

    def model(self, role: str = "model") -> torch.nn.Module:
        """Return the module that the stage in this role made, or the user's model."""
        if made := self.inputs.get(role):
            with blobs.blob_file(self.store, made.blobs["model"]) as path:
                return models.load(path)
        own = self.settings["model"]
        with blobs.blob_file(self.store, own["blob"]) as path:
            return portable_model.load(path, own["portable"]) if "portable" in own else models.load(path)

    @property
    def ranking(self) -> Ranking:
        """Ranking of layers that the stage builds on; empty if it builds on none."""
        return self.inputs["ranking"].ranking or () if "ranking" in self.inputs else ()

    def data(self, name: str) -> Batches:
        """Return one of the data sets that the planner assigned to this stage."""
        return read_batches(self.store, self.settings["data"][name])

    @property
    def judging(self) -> Judging:
        """How outputs are compared with targets."""
        return Judging.of(self.settings["judging"])

    @property
    def measure(self) -> Measure:
        """What to measure."""
        settings = self.settings
        functions = self.function("metric"), self.function("postprocess")
        return Measure(
            settings["metric"], functions[0], self.judging, functions[1], settings["seed"], settings["max_bytes"]
        )

    def function(self, name: str) -> Any:
        """Load a callable of the notebook, such as ``metric`` or ``function``; None if there is none."""
        blob = self.settings.get(name, {}).get("blob")
        return local_code.loads(blobs.get_bytes(self.store, blob)) if blob else None

    def file(self, role: str, graph: bool = False) -> AbstractContextManager[Path]:
        """Return a context manager that yields the artifact of the stage in this role, or with ``graph`` its graph."""
        made = self.inputs[role].blobs
        return blobs.blob_file(self.store, made.get("graph", made["artifact"]) if graph else made["artifact"])

    @contextmanager
    def opened(self, role: str, threads: int | None = None) -> Iterator[Session]:
        """Open a session of the artifact of the stage in this role, or of its graph if it cannot run here."""
        is_graph = bool(self.runtime.why_not_run())
        signature = self.inputs[role].signature
        with self.file(role, graph=is_graph) as path:
            open_ = self.runtime.open_graph if is_graph else self.runtime.open
            yield as_built(open_(path, threads or self.threads, signature.input_names), signature)

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """Create a temporary folder, and remove it afterwards."""
        # In the store's own folder for such files, so that what is made there need not be copied into it.
        with tempfile.TemporaryDirectory(prefix=PREFIX, dir=usable(self.store.scratch)) as name:
            yield Path(name)
