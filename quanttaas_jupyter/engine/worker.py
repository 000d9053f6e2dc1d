"""Code of a worker process, which runs one stage at a time."""

from __future__ import annotations

import dataclasses
import faulthandler
import os
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..compute.executors.local import output_of
from ..core import identity
from ..core.errors import DamagedBlob, StoreError
from ..core.failures import explain
from ..core.memory import Peak
from ..core.records.stage import StageResult
from ..store import open_store
from ..study_store import stage_cache
from . import output

STARTED = "\x02"
"""First line that a stage reports, when it has left the queue."""

_WATCH_SECONDS = 1.0
"""Seconds between two checks that the engine lives; chosen, not tuned. A longer one leaves orphans for longer."""


def begin(parent: int) -> None:
    """Prepare a worker of this machine's engine, which ends when the engine does, however that ended."""
    output.lead_a_group()
    # Into the output of the stage that runs then.
    faulthandler.enable()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    prepare()


def prepare_on_cluster() -> None:
    """Prepare a worker on a machine of a cluster."""
    identity.rely_on_store()
    prepare()


def prepare() -> None:
    """Import the libraries that all stages need."""
    import onnxruntime  # noqa: F401
    import torch

    from .. import stages  # noqa: F401

    torch.set_num_interop_threads(1)


def run_with_file(job: dict[str, Any], threads: int, progress: str) -> dict[str, Any]:
    """Run a stage as ``run`` does, and append the lines for the log to the file ``progress``."""
    place = Path(progress)
    with place.open("a", encoding="utf-8", buffering=1) as stream, output.captured(output_of(place)):
        try:
            return run(job, threads, lambda line: print(line, file=stream))
        finally:
            output.end_leftovers()


def run(job: dict[str, Any], threads: int, report: Callable[[str], None]) -> dict[str, Any]:
    """Run a stage, and cache its result.

    Args:
        job: ``kind``, ``settings``, ``inputs`` (stored results of stages by role), ``store`` (its URI) and ``key``.
        threads: Threads the stage may use.
        report: Called with lines for the log.

    Returns:
        The stored result, or ``{"error": {"reason", "hint", "traceback"}}``, with ``is_passing`` if the store could not
        be reached.
    """
    import torch

    from .. import stages

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    began, begun = time.time(), time.perf_counter()
    try:
        report(STARTED)
        context = stages.Context(
            store=open_store(job["store"]),
            settings=job["settings"],
            inputs={role: StageResult.of(stored) for role, stored in job["inputs"].items()},
            threads=threads,
            report=report,
        )
        with Peak() as memory:
            made = stages.run(job["kind"], context)
        seconds = time.perf_counter() - begun
        result = dataclasses.replace(made, began=began, seconds=seconds, peak_bytes=memory.bytes)
        # Cached before it is reported, so that later requests find it.
        stage_cache.keep(context.store, job["key"], result)
    except DamagedBlob as error:
        return {"error": explain(error)}
    except StoreError as error:
        return {"error": explain(error), "is_passing": True}
    except Exception as error:
        return {"error": {**explain(error), "traceback": traceback.format_exc(limit=20)}}
    return result.stored()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    output.end_group()
