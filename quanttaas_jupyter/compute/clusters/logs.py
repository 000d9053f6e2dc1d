"""Logs and folders of engines of this machine: bounded, and swept."""

from __future__ import annotations

import os
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path

_LARGEST = 10_000_000
"""Bytes of a log above which the next engine begins a new one; chosen, not tuned. One older log is kept."""
_TAIL = 8_000
"""Bytes read from the end of a log; chosen, not tuned."""
_OLD_SECONDS = 30 * 24 * 3600.0
"""Seconds after which the folder of an engine of another environment or version is removed; chosen, not tuned."""
_FOLDER = re.compile(r"[0-9a-f]{16}")


def rotate(path: Path) -> None:
    """Set a large log aside, in place of the one that was set aside before."""
    with suppress(OSError):
        if path.stat().st_size > _LARGEST:
            os.replace(path, path.with_name(f"{path.name}.1"))


def last_line(path: Path) -> str:
    """Return the last line of a log that is not empty, shortened."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - _TAIL))
            lines = stream.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")


def remove_old_folders(present: Path) -> None:
    """Remove the folders beside an engine's own in which no engine has run for a month."""
    for folder in present.parent.iterdir():
        with suppress(OSError):
            is_other = folder != present and _FOLDER.fullmatch(folder.name) and not folder.is_symlink()
            if is_other and time.time() - _last_used(folder) > _OLD_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def _last_used(folder: Path) -> float:
    return max((item.stat().st_mtime for item in folder.iterdir()), default=folder.stat().st_mtime)
