"""Why a worker process ended, from its exit code, the last lines of its output and the stack that a crash leaves."""

from __future__ import annotations

import os
import re
import signal
from contextlib import suppress
from pathlib import Path

from ...core.failures import ending
from .base import KilledForMemory, WorkerDied

MOST_OUTPUT = 1_000_000
"""Bytes of output that are kept of a running stage; chosen, not tuned. Its end matters, and more fills disks."""
_TAIL = 32_000
"""Bytes of output that are kept when there are too many; chosen, not tuned."""
_SHOWN = 200
"""Characters of the last line of output in a sentence; chosen, not tuned."""
_CODES = re.compile(r"exit codes of the workers are \{(.*?)\}", re.DOTALL)
_FATAL = "Fatal Python error: "
_FRAME = re.compile(r'  File "(.+)", line (\d+) in (.+)')
_LIBRARIES = re.compile(r"site-packages|dist-packages|/lib/python\d|quanttaas_jupyter|<frozen")


def bound(path: Path) -> None:
    """Cut a file of output down to its end if it has become large; its writer appends, and goes on."""
    with suppress(OSError):
        if path.stat().st_size > MOST_OUTPUT:
            kept = _tail(path)
            with path.open("r+b") as stream:
                stream.truncate(0)
            with path.open("ab") as stream:
                stream.write(b"[...]\n" + kept)


def end_groups(pids: list[int]) -> None:
    """End what workers started and left running; each worker leads a group of processes."""
    for pid in pids:
        with suppress(OSError, AttributeError):
            os.killpg(pid, signal.SIGKILL)


def why_died(error: BaseException, output: Path, is_out_of_memory: bool) -> WorkerDied:
    """Return the error of a stage whose worker ended.

    Args:
        error: What the pool of processes raised; its text holds the exit code.
        output: File with the output of the stage.
        is_out_of_memory: Whether the system killed a process for want of memory meanwhile.
    """
    if is_out_of_memory:
        return KilledForMemory("the system ended its worker process for want of memory")
    codes = [int(code) for code in re.findall(r"\((-?\d+)\)", (_CODES.search(str(error)) or [""])[0])]
    code = next((code for code in codes if code), None)
    told = ending(code) if code is not None else type(error).__name__
    lines = _tail(output).decode("utf-8", "replace").splitlines()
    crash = next((at for at, line in enumerate(lines) if line.startswith(_FATAL)), len(lines))
    where = _frame(lines[crash:])
    said = next((line.strip() for line in reversed(lines[:crash]) if line.strip()), "")
    last = f"; its last output was {said[:_SHOWN]!r}" if said else ""
    return WorkerDied(f"its worker process ended: {told}{where}{last}", _hint(code, where))


def _frame(lines: list[str]) -> str:
    """Return where a crash happened: in the person's own code if it is on the stack."""
    frames = [match for line in lines if (match := _FRAME.fullmatch(line))]
    own = [frame for frame in frames if not _LIBRARIES.search(frame[1])]
    frame = next(iter(own or frames), None)
    return f", in {frame[3]} ({Path(frame[1]).name}, line {frame[2]})" if frame else ""


def _hint(code: int | None, where: str) -> str:
    if code == -signal.SIGKILL:
        return "if memory was short: use fewer slots, or a smaller max_samples"
    if where:
        return "see what that line calls; outside of a study it crashes the same way"
    return "see the log of the engine: %quanttaas logs ID --engine"


def _tail(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - _TAIL))
            return stream.read()
    except OSError:
        return b""
