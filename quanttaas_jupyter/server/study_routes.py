"""Routes of studies: list, page, events, artifacts, and actions."""

from __future__ import annotations

import contextlib
import time
from functools import partial
from importlib.util import find_spec
from typing import Any, BinaryIO, Literal

from pydantic import BaseModel, Field
from tornado.escape import json_encode
from tornado.iostream import StreamClosedError

from ..client.study import Study
from ..compute.clusters import local_engine, open_cluster
from ..core import magic_line
from ..core.errors import MissingDependency, NotFound, NotTrusted, QuantTaaSError
from ..store import MissingKey, Store, blobs
from ..study_store import deletion, records
from ..views import format as fmt
from ..views.study_heading import capital
from .handler import Handler, Refused, protected
from .study_list import actions, line
from .study_page import file_name, page

_CHUNK = 1 << 20
"""Bytes of an artifact sent at once; chosen, not tuned."""
_EVENTS_AT_ONCE = 500
"""Events in one response; chosen, not tuned. More make a response slower."""

ID = r"studies/([^/]+)"


class _Where(BaseModel):
    store: str = ""


class _PageQuery(_Where):
    axis: Literal["size", "latency"] = "size"
    log: bool = True


class _EventsQuery(_Where):
    after: int = Field(default=0, ge=0)


class _CellQuery(_Where):
    trial: str = Field(default="", max_length=500)


class _Resume(BaseModel):
    trusted: bool = False


class StudiesHandler(Handler):
    """Route of the list of studies."""

    @protected
    async def get(self) -> None:
        """Return the studies of all stores, newest first."""
        listed = await self.reader.lists()
        now = time.time()
        self.finish({"studies": [line(uri, item, now) for uri, item in listed.summaries], "silent": listed.silent})


class StudyHandler(Handler):
    """Route of one study."""

    @protected
    async def get(self, study_id: str) -> None:
        """Return all data that the study's page draws."""
        asked = self.query(_PageQuery)
        opened = await self.reader.open(study_id, asked.store)
        what = f"page {asked.axis} {asked.log}"
        self.finish(await self.reader.ask(opened, what, partial(_page, opened, asked)))

    @protected
    async def delete(self, study_id: str) -> None:
        """Delete the study, and return the bytes freed."""
        freed, words = await self.reader.delete(study_id, self.query(_Where).store)
        self.finish({"bytes": freed, "words": words})


class EventsHandler(Handler):
    """Route of a study's events."""

    @protected
    async def get(self, study_id: str) -> None:
        """Return the events after number ``after``, up to a limit, and the number of the last one."""
        asked = self.query(_EventsQuery)
        opened = await self.reader.open(study_id, asked.store)
        store = self.reader.policy.store(opened.store)
        read = partial(records.read_events, store, study_id, asked.after, _EVENTS_AT_ONCE)
        events = await self.reader.ask(opened, f"events {asked.after}", lambda: list(read()))
        self.finish({"events": events, "seq": events[-1]["seq"] if events else asked.after})


class SizeHandler(Handler):
    """Route of the size of a study."""

    @protected
    async def get(self, study_id: str) -> None:
        """Return the bytes of the study's folder and of its blobs, and what a deletion would leave."""
        size = await self.reader.size(await self.reader.open(study_id, self.query(_Where).store))
        self.finish({"bytes": size.folder + size.blobs, "words": _words(size)})


class CellHandler(Handler):
    """Route of the cells that stand for what a notebook does with a study."""

    @protected
    async def get(self, study_id: str) -> None:
        """Return the cell that shows the study in the notebook, or with a trial the one that loads its model."""
        asked = self.query(_CellQuery)
        store = self.reader.policy.store(asked.store).uri if asked.store else ""
        words = [records.checked_id(study_id), *([asked.trial] if asked.trial else [])]
        self.finish({"cell": magic_line.line("load" if asked.trial else "attach", *words, store=store)})


class CancelHandler(Handler):
    """Route that cancels a study."""

    @protected
    async def post(self, study_id: str) -> None:
        """Ask the engine to stop the study; finished trials stay."""
        opened = await self.reader.open(study_id, self.query(_Where).store)
        state = await self.reader.ask(opened, "look", opened.look)
        if not actions(state.status)["cancel"]:
            raise Refused(f"study {study_id} is {state.status} already; there is nothing to cancel")
        store = self.reader.policy.store(opened.store)
        await self.reader.act(opened, partial(_cancel, store, study_id, state.status, state.cluster))
        self.set_status(204)


class ResumeHandler(Handler):
    """Route that resumes a study."""

    @protected
    async def post(self, study_id: str) -> None:
        """Let an engine continue the study; one by another user needs explicit trust."""
        is_trusted = self.body(_Resume).trusted
        opened = await self.reader.open(study_id, self.query(_Where).store)
        state = await self.reader.ask(opened, "look", opened.look)
        command = magic_line.line("resume", study_id, store=self.query(_Where).store)
        self.reader.policy.cluster(state.cluster)
        if state.cluster == local_engine.CLUSTER and (why := cannot_run()):
            raise Refused(f"{why} Resume study {study_id} from a notebook.", command)
        try:
            await self.reader.act(opened, partial(opened.resume, trusted=is_trusted))
        except NotTrusted as error:
            why = capital(str(error).partition(";")[0])
            raise Refused(
                f"{why}; resuming it runs that person's code as you. Resume it only if you trust it.",
                needs_trust=True,
            ) from None
        except MissingDependency as error:
            raise Refused(str(error), command) from None
        self.set_status(204)


class ArtifactHandler(Handler):
    """Route of a trial's artifact."""

    @protected
    async def get(self, study_id: str, trial_name: str) -> None:
        """Send the artifact in pieces, as a download."""
        opened = await self.reader.open(study_id, self.query(_Where).store)
        state = await self.reader.ask(opened, "look", opened.look)
        trial = state.trials.get(trial_name)
        if trial is None or not trial.artifact:
            raise NotFound(f"study {study_id} has no file of a trial {trial_name!r}")
        store, workers = self.reader.policy.store(opened.store), self.reader.workers
        with contextlib.ExitStack() as stack:
            try:
                file = blobs.blob_file(store, trial.artifact.blob)
                path = await workers.run(store.uri, lambda: stack.enter_context(file))
            except MissingKey:
                raise NotFound(
                    f"the file of trial {trial_name} was deleted; resuming the study makes it again"
                ) from None
            stream = stack.enter_context(path.open("rb"))
            self.set_attachment_header(file_name(state, trial))
            self.set_header("Content-Length", str(path.stat().st_size))
            await self._send(stream, store.uri)

    async def _send(self, stream: BinaryIO, place: str) -> None:
        self.set_header("Content-Type", "application/octet-stream")
        # The user may close the page during the download.
        with contextlib.suppress(StreamClosedError):
            while chunk := await self.reader.workers.run(place, lambda: stream.read(_CHUNK)):
                self.write(chunk)
                await self.flush()
            self.finish(set_content_type="application/octet-stream")


def cannot_run() -> str:
    """Return why the server's environment cannot run an engine, or an empty string if it can."""
    # Found without an import: torch takes seconds and hundreds of megabytes.
    return "" if find_spec("torch") else "PyTorch is not installed where the Jupyter server runs."


def _cancel(store: Store, study_id: str, status: str, cluster: str) -> None:
    records.ask_to_cancel(store, study_id)
    if status == "queued" and not (cluster == local_engine.CLUSTER and cannot_run()):
        # The study's engine may have ended, and only a running one sees the cancel mark.
        with contextlib.suppress(QuantTaaSError):
            open_cluster(cluster).ensure_engine_for(store, study_id)


def _page(study: Study, asked: _PageQuery) -> str:
    return json_encode(page(study.store, study.look(), asked.axis, asked.log))


def _words(size: deletion.StudySize) -> str:
    return (
        f"It keeps {fmt.size(size.folder + size.blobs)}: {fmt.size(size.folder)} of records, "
        f"{fmt.size(size.blobs)} of model, data and files. What other studies share stays, "
        "and so does what is younger than a day."
    )


ROUTES: tuple[tuple[str, type[Any]], ...] = (
    (r"studies", StudiesHandler),
    (ID, StudyHandler),
    (f"{ID}/events", EventsHandler),
    (f"{ID}/weight", SizeHandler),
    (f"{ID}/cell", CellHandler),
    (f"{ID}/cancel", CancelHandler),
    (f"{ID}/resume", ResumeHandler),
    (f"{ID}/artifacts/([^/]+)", ArtifactHandler),
)
