"""Digests of objects that are equal in all kernels.

The same class pickles differently in two kernels (file names, line numbers, hash order). These digests cover what the
object *does*: bytecode, constants, referenced globals, configuration and tensors.
"""

from __future__ import annotations

import dataclasses
import dis
import enum
import functools
import hashlib
import importlib.metadata
import sys
import types
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import cloudpickle

from .local_code import is_local_module

if TYPE_CHECKING:
    import torch

_HOOKS = ("_hooks", "_hooks_with_kwargs", "_hooks_always_called")
_IGNORED_MODULE_STATE = frozenset({"training", "_is_full_backward_hook", "_compiled_call_impl"})


def digest(value: Any) -> str:
    """Return the SHA-256 digest (hex) of a module, function, class, container, tensor, array or other object."""
    walker = _Walker()
    walker.add(value)
    return walker.hexdigest()


class _Walker:
    """Canonical walk over an object graph that feeds a hash; an object met again adds only its number."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._seen: dict[int, int] = {}
        self._alive: list[Any] = []

    def hexdigest(self) -> str:
        """Return the digest of all values added so far."""
        return self._hash.hexdigest()

    def add(self, value: Any) -> None:
        """Add a value and all that it refers to."""
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
            self._text(type(value).__name__, repr(value))
            return
        if value is Ellipsis or value is NotImplemented:
            self._text("singleton", repr(value))
            return
        if isinstance(value, (tuple, frozenset, types.CodeType)):
            # The compiler may or may not merge equal constants into one object; the digest must not depend on it.
            self._compound(value)
            return
        if id(value) in self._seen:
            self._text("again", str(self._seen[id(value)]))
            return
        self._seen[id(value)] = len(self._seen)
        self._alive.append(value)
        self._compound(value)

    def _compound(self, value: Any) -> None:
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(value, torch.Tensor):
            self._tensor(value)
        elif torch is not None and isinstance(value, torch.nn.Module):
            self._module(value)
        elif type(value).__module__ == "numpy" and hasattr(value, "tobytes") and hasattr(value, "dtype"):
            self._text("array", f"{value.dtype}{getattr(value, 'shape', ())}")
            self._hash.update(value.tobytes())
        elif isinstance(value, enum.Enum):
            self._text("enum", f"{type(value).__qualname__}.{value.name}")
        elif isinstance(value, (tuple, list)):
            self._text(type(value).__name__, str(len(value)))
            for item in value:
                self.add(item)
        elif isinstance(value, (set, frozenset)):
            self._text("set", ",".join(sorted(digest(item) for item in value)))
        elif isinstance(value, Mapping):
            self._text("mapping", str(len(value)))
            for key, item in value.items():
                self.add(key)
                self.add(item)
        elif isinstance(value, types.CodeType):
            self._code(value)
        elif isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, types.MethodType):
            self.add(value.__func__)
            self.add(value.__self__)
        elif isinstance(value, functools.partial):
            self._text("partial", "")
            self.add((value.func, value.args, value.keywords))
        elif isinstance(value, types.CellType):
            self._cell(value)
        elif isinstance(value, type):
            self._class(value)
        elif isinstance(value, types.ModuleType):
            self._package(value.__name__)
        elif isinstance(value, property):
            self.add((value.fget, value.fset, value.fdel))
        elif isinstance(value, (staticmethod, classmethod)):
            self.add(value.__func__)
        else:
            self._object(value)

    def _tensor(self, value: Any) -> None:
        tensor = value.detach().cpu()
        self._text("tensor", f"{tensor.dtype}{tuple(tensor.shape)}{tensor.layout}")
        if not tensor.is_sparse and tensor.numel():
            import torch

            self._hash.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)

    def _module(self, module: torch.nn.Module) -> None:
        self._text("module", type(module).__qualname__)
        self.add(type(module))
        for key in sorted(vars(module)):
            if key in _IGNORED_MODULE_STATE:
                continue
            self._text("attribute", key)
            value = vars(module)[key]
            # Hooks are keyed by handles, which count up over the life of a kernel.
            self.add(list(value.values()) if key.endswith(_HOOKS) and isinstance(value, dict) else value)

    def _function(self, function: types.FunctionType) -> None:
        self._text("function", function.__qualname__)
        if not is_local_module(function.__module__):
            self._package(function.__module__)
            return
        self.add(function.__code__)
        self.add(function.__defaults__)
        self.add(function.__kwdefaults__)
        self.add(function.__closure__)
        for name in sorted(_names_in(function.__code__)):
            if name in function.__globals__:
                self._text("global", name)
                self.add(function.__globals__[name])

    def _cell(self, cell: types.CellType) -> None:
        try:
            self.add(cell.cell_contents)
        except ValueError:
            self._text("cell", "empty")

    def _code(self, code: types.CodeType) -> None:
        self._hash.update(code.co_code)
        self._text("names", repr((code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)))
        self._text("flags", f"{code.co_argcount},{code.co_kwonlyargcount},{code.co_flags}")
        for constant in code.co_consts:
            self.add(constant)

    def _class(self, cls: type) -> None:
        self._text("class", cls.__qualname__)
        if not is_local_module(cls.__module__):
            self._package(cls.__module__)
            return
        self.add(cls.__bases__)
        for key in sorted(vars(cls)):
            if key not in _CLASS_NOISE:
                self._text("member", key)
                self.add(vars(cls)[key])

    def _package(self, module: str) -> None:
        self._text("package", f"{module} {_version_of(module.partition('.')[0])}")

    def _object(self, value: Any) -> None:
        self._text("object", type(value).__qualname__)
        self.add(type(value))
        if dataclasses.is_dataclass(value) or hasattr(value, "__dict__"):
            self.add({key: vars(value)[key] for key in sorted(getattr(value, "__dict__", {}))})
            return
        slots = [name for name in getattr(type(value), "__slots__", ()) if hasattr(value, name)]
        if slots:
            self.add({name: getattr(value, name) for name in slots})
            return
        try:
            self._hash.update(cloudpickle.dumps(value))
        except Exception:
            # A value that cannot be pickled is reported later, by the pickling of the model, with the member's name.
            self._text("opaque", type(value).__qualname__)

    def _text(self, kind: str, text: str) -> None:
        self._hash.update(f"{kind}:{len(text)}:{text};".encode())


_CLASS_NOISE = frozenset(
    {
        "__dict__",
        "__weakref__",
        "__module__",
        "__firstlineno__",
        "__static_attributes__",
        "__abstractmethods__",
        "__annotations__",
        "__annotate_func__",
        "__annotations_cache__",
        "__doc__",
        "_abc_impl",
        "__slotnames__",
    }
)


def _names_in(code: types.CodeType) -> set[str]:
    names = {
        str(instruction.argval)
        for instruction in dis.get_instructions(code)
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    }
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names_in(constant)
    return names


@functools.lru_cache(maxsize=512)
def _version_of(package: str) -> str:
    names = _distributions().get(package, ())
    return ",".join(sorted(f"{name}={importlib.metadata.version(name)}" for name in names))


_distributions: Callable[[], Mapping[str, list[str]]] = functools.lru_cache(maxsize=1)(
    importlib.metadata.packages_distributions
)
