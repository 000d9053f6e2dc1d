"""Verification that the bytes of a blob are what its name says, once for each file and process."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CHUNK = 1 << 20
"""Bytes hashed at once; chosen, not tuned."""

_Mark = tuple[int, int, int, int]

_known: dict[_Mark, str] = {}
"""Digests of files that this process has verified, by device, inode, size and time of modification."""


def digest_of(path: Path) -> str:
    """Return the SHA-256 digest of a file."""
    sha = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            sha.update(chunk)
    return sha.hexdigest()


def is_verified(path: Path, sha: str) -> bool:
    """Return whether a file has a digest; a file that is unchanged since it was verified is not read again."""
    mark = _mark(path)
    if _known.get(mark) == sha:
        return True
    found = digest_of(path)
    # A file that changed while it was read has no digest to remember.
    if found == sha and _mark(path) == mark:
        _known[mark] = sha
    return found == sha


def remember(path: Path, sha: str) -> None:
    """Remember a file whose digest was just computed."""
    _known[_mark(path)] = sha


def can_change(path: Path) -> bool:
    """Return whether another user could exchange a file or its content between its verification and its use."""
    return any(_is_writable_by_others(item) for item in (path, path.parent))


@contextmanager
def private_copy(path: Path) -> Iterator[Path]:
    """Copy a file into a folder that only this user can enter, and yield the copy."""
    with tempfile.TemporaryDirectory(prefix="quanttaas-") as folder:
        copy = Path(folder) / path.name
        shutil.copyfile(path, copy, follow_symlinks=False)
        yield copy


def _is_writable_by_others(path: Path) -> bool:
    if not hasattr(os, "getuid"):
        return False
    found = path.stat()
    return found.st_uid not in (0, os.getuid()) or bool(found.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def _mark(path: Path) -> _Mark:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
