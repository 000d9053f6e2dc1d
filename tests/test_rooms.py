"""The rooms of the package: arrows run one way, and the map in CONTRIBUTING.md is what the imports are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from quanttaas_jupyter.core.fingerprint import imports_of

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "quanttaas_jupyter"


def modules() -> list[str]:
    found = []
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return found


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else "the package itself"


def arrows() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {room_of(module): set() for module in modules()}
    for module in modules():
        own, room = imports_of(module).own | typing_imports(module), room_of(module)
        found[room] |= {room_of(other) for other in own} - {room}
    return found


def typing_imports(module: str) -> set[str]:
    """Imports for type checkers alone: they make no result stale, but they are arrows."""
    path = PACKAGE.joinpath(*module.split(".")[1:])
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            found |= {".".join([*base, name]) for name in names}
    return {name for name in found if PACKAGE.joinpath(name.split(".")[1]).exists()}


def drawn() -> dict[str, set[str]]:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    lines = re.findall(r"^(\w+) +-> (.*)$", text, re.MULTILINE)
    return {room: {name for name in re.findall(r"\w+", rooms) if name != "nothing"} for room, rooms in lines}


def test_the_map_in_contributing_is_what_the_imports_are() -> None:
    real = arrows()
    del real["the package itself"]
    assert drawn() == real


def test_no_room_reaches_itself_through_others() -> None:
    real = arrows()
    settled: set[str] = set()
    while free := {room for room, others in real.items() if room not in settled and others <= settled}:
        settled |= free
    assert settled == set(real)


def test_only_the_front_ends_know_jupyter() -> None:
    jupyter = {"IPython", "ipywidgets", "bqplot", "jupyter_server", "tornado", "ipykernel"}
    knowing = {room_of(module) for module in modules() if imports_of(module).libraries & jupyter}
    assert knowing <= {"notebook", "server"}


def test_no_front_end_imports_the_engine() -> None:
    assert "engine" not in set().union(*arrows().values())
