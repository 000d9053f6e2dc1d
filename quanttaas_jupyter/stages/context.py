"""What a stage works with."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bundle import batches as data
from ..bundle import local_code
from ..bundle import model as models
from ..core.errors import StoreError
from ..store import blobs
from ..store.base import Store
from ..techniques import portable_model as portable
from ..techniques.runtimes import RUNTIMES, Notes, Runtime, Session


@dataclass(frozen=True)
class _NotesInStore:
    """Under ``notes/``. What gets lost, to another writer or a store out of reach, is learned again."""

    store: Store

    def read(self, name: str) -> bytes | None:
        with suppress(StoreError):
            return self.store.read_if_there(f"notes/{name}")
        return None

    def write(self, name: str, data: bytes) -> None:
        with suppress(StoreError):
            self.store.replace(f"notes/{name}", data)


@dataclass(frozen=True)
class Context:
    """What a stage works with.

    Attributes:
        store: Where bytes are.
        settings: The stage's own settings.
        inputs: Results of the stages it builds on, by role.
        threads: Threads it may use.
        report: Called with a line for the log.
    """

    store: Store
    settings: dict[str, Any]
    inputs: dict[str, dict[str, Any]]
    threads: int
    report: Callable[[str], None]

    @property
    def runtime(self) -> Runtime:
        """The runtime the stage builds for or measures in."""
        found = RUNTIMES.get(self.settings["runtime"])
        return found.aimed_at(self.settings["targets"], self.notes) if "targets" in self.settings else found

    @property
    def notes(self) -> Notes:
        """What runtimes learned in earlier builds of any study."""
        return _NotesInStore(self.store)

    def model(self, role: str = "model") -> Any:
        """The module made by the stage in this role, or the person's own."""
        made = self.inputs.get(role)
        if made:
            return models.loads(blobs.get_bytes(self.store, made["blobs"]["model"]))
        own = self.settings["model"]
        content = blobs.get_bytes(self.store, own["blob"])
        return portable.load(content, own["portable"]) if "portable" in own else models.loads(content)

    def data(self, name: str) -> data.Batches:
        """A data set of the study, one of those that the planner gave this stage."""
        return data.read(self.store, self.settings["data"][name])

    def function(self, name: str) -> Any:
        """A callable of the notebook, ``metric`` or ``function``; None where there is none."""
        blob = self.settings.get(name, {}).get("blob")
        return local_code.loads(blobs.get_bytes(self.store, blob)) if blob else None

    def file(self, role: str, graph: bool = False) -> AbstractContextManager[Path]:
        """The artifact made by the stage in this role as a file; with ``graph`` its graph, where it has one."""
        made = self.inputs[role]["blobs"]
        return blobs.blob_file(self.store, made.get("graph", made["artifact"]) if graph else made["artifact"])

    @contextmanager
    def opened(self, role: str, threads: int | None = None) -> Iterator[Session]:
        """A session of the artifact made by the stage in this role, or of its graph where it cannot run here."""
        is_graph = bool(self.runtime.why_not_run())
        names = self.inputs[role]["about"]["input_names"]
        with self.file(role, graph=is_graph) as path:
            open_ = self.runtime.open_graph if is_graph else self.runtime.open
            yield open_(path, threads or self.threads, names)

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """A scratch folder."""
        with tempfile.TemporaryDirectory(prefix="quanttaas-") as name:
            yield Path(name)
