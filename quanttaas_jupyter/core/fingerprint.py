"""Fingerprints of code: hashes of the source and library versions that a result depends on.

A cached result is stale when the code that made it, or a library that this code uses, has changed. The code that
counts follows from the import statements, also those inside functions; no list is maintained by hand.

A cached result is stale when the code that made it, or a library that this code uses, has changed. Which code that is
follows from the imports, those inside functions included; no list is kept by hand.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_PACKAGE = __name__.partition(".")[0]
_ROOT = Path(__file__).resolve().parents[1]
_PARSING = threading.Lock()
_IMPORTING_CALLS = ("import_module", "optional")
"""Functions that import the module that their first argument names."""


@dataclass(frozen=True)
class Imports:
    """Imports of one module.

    Attributes:
        own: Names of modules of this package, and of the importing module's package where that is another.
        libraries: Names of top-level modules of other packages, the standard library's left out.
    """

    own: frozenset[str]
    libraries: frozenset[str]


@lru_cache(maxsize=512)
def fingerprint(module: str, root: Path = _ROOT) -> str:
    """Return a hash of a module's source, the source of all modules it imports, and the versions of their libraries.

    Args:
        module: Dotted name of a module of this package, or of another that plugs a technique in.
        root: Folder of this package.
    """
    reached = sorted(reachable(module, root))
    libraries = sorted({name for each in reached for name in imports_of(each, root).libraries})
    material = [f"{each}={_source_digest(_file_of(each, root))}" for each in reached]
    material += [f"{name}={version_of_module(name)}" for name in libraries]
    return hashlib.sha256("\n".join(material).encode()).hexdigest()


@lru_cache(maxsize=512)
def reachable(module: str, root: Path = _ROOT) -> frozenset[str]:
    """Return the names of a module and of all modules of its package and of this one that it reaches by imports."""
    reached = {module}
    waiting = [module]
    while waiting:
        new = imports_of(waiting.pop(), root).own - reached
        reached |= new
        waiting += new
    return frozenset(reached)


@lru_cache(maxsize=512)
def imports_of(module: str, root: Path = _ROOT) -> Imports:
    """Return the imports of a module; imports under ``TYPE_CHECKING`` do not count."""
    file = _file_of(module, root)
    own: set[str] = set()
    libraries: set[str] = set()
    home = module.partition(".")[0]
    for name in _imported_names(_tree_of(file), _package_of(module, file)):
        top = name.partition(".")[0]
        if top in (_PACKAGE, home):
            own.add(_longest_module(name, root))
        elif top not in sys.stdlib_module_names:
            libraries.add(top)
    return Imports(frozenset(own - {_PACKAGE, home, module}), frozenset(libraries))


def _tree_of(file: Path) -> ast.AST:
    # CPython 3.11 counts the depth of its tree builder once for a process: it raises SystemError where another thread,
    # or a finalizer of the garbage collector, parses in between.
    with _PARSING:
        try:
            return ast.parse(file.read_bytes())
        except SystemError:
            return ast.parse(file.read_bytes())


@lru_cache(maxsize=256)
def version_of(distribution: str) -> str:
    """Return the installed version of a distribution, or an empty string if it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def version_of_module(name: str) -> str:
    """Return the version of the distribution that provides a top-level module, or an empty string."""
    # Most are called alike; looking through all distributions takes a tenth of a second.
    return version_of(name) or ",".join(sorted({version_of(found) for found in _providers().get(name, ())}))


@lru_cache(maxsize=1)
def _providers() -> dict[str, list[str]]:
    return dict(importlib.metadata.packages_distributions())


def _imported_names(tree: ast.AST, package: str) -> Iterator[str]:
    """Yield absolute dotted names; ``from a import b`` yields ``a.b``, where ``b`` may be a module or an attribute."""
    for node in _running_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            prefix = ".".join(filter(None, (base, node.module)))
            yield from (f"{prefix}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and (name := _named_by_call(node)):
            yield name


def _running_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)


def _named_by_call(node: ast.Call) -> str:
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    first = node.args[0] if node.args else None
    is_name = called in _IMPORTING_CALLS and isinstance(first, ast.Constant) and isinstance(first.value, str)
    return str(first.value) if is_name and isinstance(first, ast.Constant) else ""


def _package_of(module: str, file: Path) -> str:
    return module if file.name == "__init__.py" else module.rpartition(".")[0]


def _longest_module(name: str, root: Path) -> str:
    while "." in name and not _file_of(name, root).is_file():
        name = name.rpartition(".")[0]
    return name


def _file_of(module: str, root: Path) -> Path:
    top, *rest = module.split(".")
    path = (root if top == _PACKAGE else _home_of(top)).joinpath(*rest)
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _home_of(package: str) -> Path:
    """Return the folder of another package, or the path of a module that stands alone, without its ending."""
    spec = importlib.util.find_spec(package) if package not in sys.builtin_module_names else None
    if spec is not None and spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    if spec is None or spec.origin is None:
        raise ValueError(
            f"no source file of {package!r} was found: put the technique into a module that workers import"
        )
    return Path(spec.origin).with_suffix("")


@lru_cache(maxsize=512)
def _source_digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
