"""What the panel expects: the interfaces of ``labextension/src/types.ts``, read from that file."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from tests.server.running import ROOT

_INTERFACE = re.compile(r"export interface (\w+) \{(.*?)\n\}", re.DOTALL)
_FIELD = re.compile(r"^  (\w+): (.+?);$", re.MULTILINE | re.DOTALL)
_NAMED = re.compile(r"(\w+)(\[\])?")


@lru_cache(maxsize=1)
def interfaces() -> dict[str, dict[str, str]]:
    """The fields of all interfaces, with their types as they are written."""
    source = (ROOT / "labextension" / "src" / "types.ts").read_text()
    without_comments = re.sub(r"/\*\*.*?\*/", "", source, flags=re.DOTALL)
    return {name: dict(_FIELD.findall(body)) for name, body in _INTERFACE.findall(without_comments)}


def check(value: Any, interface: str) -> None:
    """Assert that a value has exactly the fields of an interface, and so on inside it; plain types are compared too."""
    fields = interfaces()[interface]
    assert value.keys() == fields.keys(), interface
    for name, kind in fields.items():
        where, item = f"{interface}.{name}", value[name]
        match = _NAMED.fullmatch(kind)
        if match and match[1] in interfaces():
            for part in item if match[2] else [item]:
                check(part, match[1])
        elif kind == "string":
            assert isinstance(item, str), where
        elif kind == "number":
            assert isinstance(item, int | float), where
            assert not isinstance(item, bool), where
        elif kind == "boolean":
            assert isinstance(item, bool), where
        elif kind == "string[]":
            assert all(isinstance(part, str) for part in item), where
        elif kind == "number | null":
            assert item is None or isinstance(item, int | float), where
