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
    if not hasattr(os, "getuid"):
        return False
    folder = path.parent.stat()
    if _is_own(folder) and not folder.st_mode & (stat.S_IXGRP | stat.S_IXOTH):
        # Nobody else can enter the folder, whatever the file itself says.
        return False
    writable = stat.S_IWGRP | stat.S_IWOTH
    return any(not _is_own(found) or found.st_mode & writable for found in (path.stat(), folder))


@contextmanager
def private_copy(path: Path) -> Iterator[Path]:
    """Copy a file into a folder that only this user can enter, and yield the copy."""
    with tempfile.TemporaryDirectory(prefix="quanttaas-") as folder:
        copy = Path(folder) / path.name
        shutil.copyfile(path, copy, follow_symlinks=False)
        yield copy


def _is_own(found: os.stat_result) -> bool:
    # What the administrator owns is as trustworthy as the machine.
    return found.st_uid in (0, os.getuid())


def _mark(path: Path) -> _Mark:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
