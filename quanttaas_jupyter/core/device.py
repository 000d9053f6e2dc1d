"""Description of the hardware that a stage runs on: two equal descriptions mean comparable measurements."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True)
class Device:
    """Kind of hardware: measurements made on two devices of the same kind may be compared.

    Attributes:
        machine: Architecture of the processor, such as ``x86_64``, and whether its int8 sums may saturate.
        cpu: Name of the processor.
        cores: Physical cores.
        gpu: Name of the GPU and its driver; empty without a GPU.
    """

    machine: str
    cpu: str
    cores: int
    gpu: str = ""

    def dump(self) -> dict[str, Any]:
        """Return the fields as a JSON-serializable dict."""
        return asdict(self)


@lru_cache(maxsize=1)
def this_device() -> Device:
    """Return the description of the machine that this process runs on."""
    return Device(_architecture(), _cpu_name(), physical_cores(), _gpu_name())


def physical_cores() -> int:
    """Return the number of physical cores of this machine, at least one."""
    return psutil.cpu_count(logical=False) or psutil.cpu_count() or 1


def _architecture() -> str:
    """Return the processor's architecture; x86 without VNNI is marked, since its int8 arithmetic may saturate."""
    name, flags = platform.machine(), _linux_cpu_field("flags")
    return f"{name} without VNNI" if name == "x86_64" and flags and "vnni" not in flags else name


def _cpu_name() -> str:
    """Return the processor's name, as precisely as the operating system reports it."""
    return _linux_cpu_field("model name") or platform.processor() or platform.machine()


def _linux_cpu_field(field: str) -> str:
    """Return a field of the first processor in ``/proc/cpuinfo``; an empty string on other systems."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")
    except OSError:
        return ""


def _gpu_name() -> str:
    """Return names and driver version of the NVIDIA GPUs, or an empty string.

    Read from the driver's files in ``/proc``, because importing a framework takes seconds.
    """
    try:
        driver = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").splitlines()[0]
        names = [
            line.partition(":")[2].strip()
            for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
            for line in path.read_text(encoding="utf-8").splitlines()
            if line.startswith("Model:")
        ]
    except (OSError, IndexError):
        return ""
    return ", ".join([*sorted(set(names)), driver.split("  ")[1] if "  " in driver else driver])
