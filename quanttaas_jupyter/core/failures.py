"""Errors of stages, and their translation into a reason and a hint that a user can act on."""

from __future__ import annotations

import importlib
import re
import signal
from typing import Any

from .errors import DamagedBlob

_LINE_LENGTH = 300
"""Characters of an exception's message that a sentence quotes; chosen, not tuned."""
_OUT_OF_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "CUDA out of memory", "bad allocation")
_SIGNALS = {
    "SIGSEGV": "a crash in native code",
    "SIGBUS": "a crash in native code, or a file that vanished or a disk that is full",
    "SIGILL": "an instruction that this processor lacks",
    "SIGFPE": "a division by zero in native code",
    "SIGABRT": "native code gave up",
    "SIGKILL": "by the system or a person",
    "SIGTERM": "told to end",
    "SIGXCPU": "out of allowed processor time",
    "SIGXFSZ": "a file grew beyond the allowed size",
}


class StageError(Exception):
    """A technique cannot do what was asked: ``reason`` says why, ``hint`` what to try."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason, hint)
        self.reason, self.hint = reason, hint

    def __str__(self) -> str:
        return f"{self.reason}; {self.hint}" if self.hint else self.reason


def optional(module: str, extra: str) -> Any:
    """Import a module that only an optional extra of this package installs.

    Raises:
        StageError: The module cannot be imported; the hint is the pip command.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        hint = f"pip install 'quanttaas-jupyter[{extra}]'"
        raise StageError(f"{module.partition('.')[0]} cannot be imported where this runs: {error}", hint) from error


def explain(error: BaseException) -> dict[str, str]:
    """Return an exception as ``reason`` and ``hint``, both without a traceback."""
    if _is_out_of_memory(error) or _is_out_of_memory(error.__cause__):
        return {"reason": "out of memory", "hint": "use fewer slots or a smaller max_samples"}
    if isinstance(error, StageError):
        return {"reason": error.reason, "hint": error.hint}
    if isinstance(error, DamagedBlob):
        return {"reason": str(error), "hint": ""}
    if isinstance(error, TimeoutError):
        return {"reason": str(error) or "the stage took too long", "hint": ""}
    return {"reason": one_line(error), "hint": ""}


def ending(code: int) -> str:
    """Return how a process ended, such as ``killed by SIGSEGV, a crash in native code``, from its exit code."""
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    meaning = _SIGNALS.get(name, "")
    return f"killed by {name}{f', {meaning}' if meaning else ''}"


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or its class if it has no message."""
    return _lines(error)[0]


def last_line(error: BaseException) -> str:
    """Return the last line of an exception's message, which counts if it holds the traceback of another process."""
    return _lines(error)[-1]


def one_line(error: BaseException) -> str:
    """Return an exception as ``ValueError: message``, with the first line of its message."""
    name, line = type(error).__name__, first_line(error)
    return line if line == name else f"{name}: {line}"


def _lines(error: BaseException) -> list[str]:
    # Exporters write colours into their messages.
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    lines = [line.strip()[:_LINE_LENGTH] for line in text.splitlines() if line.strip()]
    return lines or [type(error).__name__]


def _is_out_of_memory(error: BaseException | None) -> bool:
    # torch has no class of its own for what its allocator on CPUs raises.
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in _OUT_OF_MEMORY)
