"""Folders for temporary files that are large."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

PREFIX = "quanttaas-scratch-"
"""Beginning of the names of temporary files and folders that are removed if their process is killed."""
_ABANDONED_SECONDS = 24 * 3600.0
"""Seconds after which they are taken for the leftover of a killed process; longer than any submission or stage."""


def usable(folder: Path | None) -> Path:
    """Return a folder, made if it is missing; the system's folder for temporary files if it cannot be written."""
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            folder = None
    return folder if folder is not None and os.access(folder, os.W_OK) else Path(tempfile.gettempdir())


def remove_abandoned(folder: Path) -> None:
    """Remove what processes that were killed left in a folder, and nothing else."""
    for path in folder.glob(f"{PREFIX}*"):
        with suppress(OSError):
            if path.stat().st_mtime < time.time() - _ABANDONED_SECONDS:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
