"""Names of files that stand in a store, and leave it: by export, download and templates."""

from __future__ import annotations

import re

_SIGNS = re.compile(r"[^\w.-]+")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
_LONGEST = 120
"""Characters of a name; chosen, not tuned. File systems take 255 bytes, and a letter has up to four."""


def plain_name(name: str, otherwise: str) -> str:
    """Return the last part of a name with simple signs alone, which never leaves its folder.

    Args:
        name: A name that anybody may have written.
        otherwise: What to return if nothing of it is left.
    """
    last = re.split(r"[/\\]", name)[-1]
    plain = _SIGNS.sub("-", last).strip(".-")[-_LONGEST:].lstrip(".-")
    return otherwise if not plain or _RESERVED.match(plain) else plain
